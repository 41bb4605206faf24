"""Markdown of a model to lines of styled text.

Rich's own renderer leaves out HTML, hides addresses behind links and pads code with spaces. A model's words must all be seen, code
must be copied as it is, and what stands above must never change by what is said later: so lines are made here, block by block.
"""
from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode
from rich import box
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

TEXT_WIDTH = 100  # longer lines of prose are hard to read
CHUNK = 40  # lines of code coloured at once: a frame's cost does not grow with the block
STYLES = {"strong": "bold", "em": "italic", "s": "strike"}
HEADINGS = {"h1": "bold underline bright_magenta", "h2": "bold bright_magenta", "h3": "bold magenta"}

# Escape sequences steer a terminal; marks of writing direction can make text read as what it is not.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_ESCAPED = "()[]"  # \( \) \[ \] are formulas far more often than escaped brackets


def clean(text: str) -> str:
    """The text with every character that could steer or deceive a terminal shown as U+FFFD; returns are dropped."""
    return _CONTROL.sub("\ufffd", text.replace("\r", "").replace("\u2028", "\n").replace("\u2029", "\n"))


@dataclass(frozen=True)
class Block:
    """A top-level block: the source line it begins at, its lines on screen, and how many of these stay as they are whatever follows.

    Of a list also the source line of its last item (from `start`) and its number.
    """

    start: int
    lines: list[Text]
    stable: int = 0
    fence: bool = False
    item: int = 0
    number: int | None = None


def _escape(state: Any, silent: bool) -> bool:
    from markdown_it.rules_inline import escape

    if state.src[state.pos : state.pos + 1] == "\\" and state.src[state.pos + 1 : state.pos + 2] in tuple(_ESCAPED):
        if not silent:
            state.pending += state.src[state.pos : state.pos + 2]
        state.pos += 2
        return True
    return escape(state, silent)


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    parser.disable("reference")  # a definition at the end would change what was printed long ago
    parser.inline.ruler.at("escape", _escape)
    return parser


class Renderer:
    """Lines of a Markdown text for a console of a given width."""

    def __init__(self, console: Console, width: int | None = None) -> None:
        self.console = console
        self.width = max(8, width or console.width - 1)  # a full last column makes some terminals begin a row

    def blocks(self, source: str, number: int | None = None) -> list[Block]:
        """Top-level blocks in order; `source` must have gone through `clean`. A list at its beginning counts on from `number`."""
        tree = SyntaxTreeNode(_parser().parse(source))
        return [self._top(node, number if i == 0 else None) for i, node in enumerate(tree.children)]

    def lines(self, source: str) -> list[Text]:
        """The whole text, blocks set apart by an empty line."""
        return join([block.lines for block in self.blocks(clean(source))])

    def _top(self, node: SyntaxTreeNode, number: int | None) -> Block:
        start = node.map[0] if node.map else 0
        if node.type in ("bullet_list", "ordered_list"):
            first = _first(node) if number is None else number
            items = self._items(node, self.width, first)
            last = node.children[-1]
            return Block(start, [line for item in items for line in item], sum(len(item) for item in items[:-1]),
                         item=(last.map[0] if last.map else start) - start, number=None if first is None else first + len(items) - 1)
        lines = self._block(node, self.width)
        return Block(start, lines, len(lines) - 1, fence=True) if node.type == "fence" else Block(start, lines)  # but the closing rule

    def _block(self, node: SyntaxTreeNode, width: int) -> list[Text]:
        width = max(8, width)
        match node.type:
            case "paragraph" | "inline":
                return self._wrapped(self._inline(node), min(width, TEXT_WIDTH))
            case "heading":
                text = self._inline(node)
                text.stylize_before(HEADINGS.get(node.tag, "bold"))
                return self._wrapped(text, min(width, TEXT_WIDTH))
            case "fence" | "code_block":
                return self._code(node, width)
            case "blockquote":
                return prefixed(self._many(node.children, width - 2), Text("│ ", "bright_black"))
            case "bullet_list" | "ordered_list":
                return [line for item in self._items(node, width, _first(node)) for line in item]
            case "table":
                return self._table(node, width)
            case "hr":
                return [Text("─" * min(width, 40), "bright_black")]
            case _:
                return [plain(line) for line in clean(node.content or "").rstrip("\n").split("\n")]

    def _many(self, nodes: Sequence[SyntaxTreeNode], width: int, *, tight: bool = False) -> list[Text]:
        """Blocks one under the other; in items of a list nothing stands between a paragraph and the list it announces."""
        out: list[Text] = []
        for i, node in enumerate(nodes):
            if i and not (tight and node.type.endswith("_list")):
                out.append(Text())
            out += self._block(node, width)
        return out

    def _items(self, node: SyntaxTreeNode, width: int, number: int | None) -> list[list[Text]]:
        items = []
        for i, item in enumerate(node.children):
            mark = Text(" • " if number is None else f"{number + i:>2}. ", "cyan")
            lines = self._many(item.children, width - mark.cell_len, tight=True) or [Text()]
            items.append(prefixed(lines, Text(" " * mark.cell_len), first=mark))
        return items

    def _inline(self, node: SyntaxTreeNode) -> Text:
        text = Text()
        for child in node.children:
            self._add(text, child, "")
        return text

    def _add(self, text: Text, node: SyntaxTreeNode, style: str) -> None:
        kind = node.type
        if kind == "inline":
            for child in node.children:
                self._add(text, child, style)
        elif kind in ("softbreak", "hardbreak"):
            text.append("\n")  # models do not wrap paragraphs: a new line is meant
        elif kind == "code_inline":
            text.append(clean(node.content), f"{style} bright_cyan".strip())
        elif kind == "html_inline":
            tag = clean(node.content)
            text.append("\n" if re.fullmatch(r"<br\s*/?>", tag, re.IGNORECASE) else tag, style)
        elif kind in STYLES:
            for child in node.children:
                self._add(text, child, f"{style} {STYLES[kind]}".strip())
        elif kind in ("link", "image"):
            self._link(text, node, style)
        else:
            text.append(clean(node.content).replace("\t", "    "), style)

    def _link(self, text: Text, node: SyntaxTreeNode, style: str) -> None:
        """The words, then the address in the open: nobody should follow what he cannot see."""
        href = clean(_parser().normalizeLinkText(str(node.attrs.get("href" if node.type == "link" else "src", ""))))
        before = len(text.plain)
        if node.type == "image":
            text.append("[image: ", style)
        for child in node.children:
            self._add(text, child, f"{style} underline".strip())
        if node.type == "image":
            text.append("]", style)
        if href and text.plain[before:] not in (href, href.removeprefix("mailto:")):
            text.append(f" ({href})", "bright_black")

    def _wrapped(self, text: Text, width: int) -> list[Text]:
        text.overflow = "fold"
        out = []
        for line in text.split("\n", allow_blank=True):
            out += list(line.wrap(self.console, width, overflow="fold")) or [Text()]
        return out

    def _code(self, node: SyntaxTreeNode, width: int) -> list[Text]:
        words = clean(node.info or "").split()
        name = re.sub(r"[^\w+#.-]", "", words[0])[:24] if words else ""
        rows = clean(node.content).split("\n")
        if rows and not rows[-1]:
            rows.pop()
        length = min(width, 60)
        head = f"── {name} " if name else ""
        top = Text(head + "─" * max(0, length - Text(head).cell_len), "bright_black")
        return [top, *coloured(rows, name), Text("─" * length, "bright_black")]

    def _table(self, node: SyntaxTreeNode, width: int) -> list[Text]:
        rows = [row for part in node.children for row in part.children]
        table = Table(box=box.ROUNDED, border_style="bright_black", header_style="bold", show_lines=False)
        for cell in rows[0].children:
            align = str(cell.attrs.get("style", "")).removeprefix("text-align:")
            table.add_column(self._inline(cell), justify=align if align in ("left", "right", "center") else "default",  # type: ignore[arg-type]
                             overflow="fold")
        for row in rows[1:]:
            table.add_row(*[self._inline(cell) for cell in row.children])
        options = self.console.options.update(width=width, height=None)
        made = []
        for segments in self.console.render_lines(table, options, pad=False):
            line = Text.assemble(*[(s.text, s.style or "") for s in segments])
            line.rstrip()
            made.append(line)
        while made and not made[-1].plain:
            made.pop()
        return made


def _first(node: SyntaxTreeNode) -> int | None:
    return int(node.attrs.get("start", 1)) if node.type == "ordered_list" else None


def plain(line: str, style: str = "") -> Text:
    """A line that is never wrapped by us: the terminal does it, and copying gives one line again."""
    return Text(line.replace("\t", "    "), style, no_wrap=True)


def join(blocks: Sequence[list[Text]]) -> list[Text]:
    """Blocks set apart by an empty line each."""
    out: list[Text] = []
    for i, lines in enumerate(blocks):
        out += ([Text()] if i else []) + lines
    return out


def prefixed(lines: list[Text], rest: Text, *, first: Text | None = None) -> list[Text]:
    """Every line behind a mark; `first` before the first one."""
    out = []
    for i, line in enumerate(lines):
        made = Text.assemble(first if first is not None and i == 0 else rest, line)
        made.no_wrap = line.no_wrap
        out.append(made)
    return out


def coloured(rows: list[str], language: str) -> list[Text]:
    """Lines of code, coloured in chunks that see the chunk before them."""
    out: list[Text] = []
    for begin in range(0, len(rows), CHUNK):
        context = rows[max(0, begin - CHUNK) : begin]
        lines = _highlight("\n".join(context + rows[begin : begin + CHUNK]), language)
        out += [line.copy() for line in lines[len(context) :]]
    return out


@lru_cache(maxsize=64)
def _highlight(code: str, language: str) -> tuple[Text, ...]:
    rows = code.split("\n")
    if language and language not in ("text", "txt", "plain", "plaintext"):
        try:
            text = Syntax("", language, theme="ansi_dark", background_color="default", tab_size=4).highlight(code)
        except Exception:  # a lexer of pygments that stumbles must not take the answer away
            text = Text(code)
        made = list(text.split("\n", allow_blank=True))
        made = made[: len(rows)] if all(not t.plain for t in made[len(rows) :]) else made
        if [t.plain for t in made] == rows:
            for line in made:
                line.expand_tabs(4)
                line.no_wrap, line.end = True, "\n"
            return tuple(made)
    return tuple(plain(row) for row in rows)
