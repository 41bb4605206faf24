"""A language model that says what it was told to, slowly: `python tests/cli/scripted.py` chats with it."""
from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

STORY = """# Growth by rules

A *morphogen* is a **substance** whose concentration tells a cell what to become; see [Turing 1952](https://doi.org/10.1098/rstb.1952.0012).
A second line of the same paragraph, long enough to be wrapped at the width of any screen that a person may reasonably use today.

1. First, `diffusion` spreads it.
2. Then **decay** limits it:
   - fast near the source
   - slow far away, which is why the profile has a long, long tail that needs a second row here
3. The gradient is $c(x) = c_0 e^{-x/\\lambda}$ or \\(x\\).

```python
def gradient(x: float, c0: float = 1.0, decay: float = 0.3) -> float:
    \"\"\"The steady state.\"\"\"
    return c0 * math.exp(-x / decay)  # falls by 1/e every `decay` millimetres, wherever one begins to measure

for x in range(3):
    print(gradient(x))
```

| organism | morphogen | λ (µm) |
|:---------|:---------:|-------:|
| fly      | Bicoid    |    100 |
| fly      | Dpp       |     20 |
| 魚 zebrafish | Fgf8   |    200 |

> What I cannot create, I do not understand.

That is all 🌱 — <b>nothing</b> is left out."""


@dataclass
class Piece:
    text: str
    ids: list[int]
    done: bool = False
    reason: str = ""
    stats: dict[str, Any] = field(default_factory=dict)


class Template:
    def encode(self, tokenizer: Any, messages: list[dict[str, str]], **_: Any) -> list[int]:
        return [0] * sum(len(words(m["content"])) + 3 for m in messages)


def words(text: str) -> list[str]:
    return re.findall(r"\s*\S{1,6}|\s+$", text)


class Scripted:
    """Says `answers` in turn; `seen` keeps what it was asked, `closed` how often it was cancelled."""

    def __init__(self, *answers: str, context: int = 2048, delay: float = 0.0, wait: float = 0.0) -> None:
        self.answers, self.context, self.delay, self.wait = list(answers) or [STORY], context, delay, wait
        self.name, self.template, self.tokenizer = "scripted-1", Template(), object()
        self.seen: list[tuple[list[dict[str, str]], dict[str, Any]]] = []
        self.closed = 0

    def warm(self) -> None:
        """A script needs no warming."""

    def stream_chat(self, messages: list[dict[str, str]], *, max_tokens: int, seed: int, **options: Any) -> Iterator[Piece]:
        self.seen.append((messages, {"max_tokens": max_tokens, "seed": seed} | options))
        answer = self.answers[(len(self.seen) - 1) % len(self.answers)]
        if answer.startswith("!"):
            raise RuntimeError(answer[1:])
        prompt = len(self.template.encode(None, messages))
        try:
            for i in range(10 if self.wait else 0):
                time.sleep(self.wait / 10)
                yield Piece("", [], stats={"prompt_tokens": prompt, "prefilled": prompt * (i + 1) // 10})
            n = 0
            for n, word in enumerate(words(answer)[:max_tokens], 1):
                time.sleep(self.delay)
                yield Piece(word, [n])
            reason = "length" if n == max_tokens else "stop"
            rates = {"prefill_tok_s": 900.0, "decode_tok_s": 1 / (self.delay or 1e-3)}
            yield Piece("", [], True, reason, {"prompt_tokens": prompt, "tokens": n} | rates)
        except GeneratorExit:
            self.closed += 1
            raise


def main(arguments: list[str]) -> int:
    import morphogen.cli.chat as verb

    delay, wait, context = [float(a) for a in arguments[:3]] or [0.02, 1.5, 2048]
    verb._load = lambda path: Scripted(STORY, delay=delay, wait=wait, context=int(context))
    from morphogen.cli import main as command

    command(["chat", __file__, *arguments[3:]])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
