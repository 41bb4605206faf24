"""A language model in hand: text in, text, numbers and vectors out. The same for a run, a Hugging Face folder and a GGUF file."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from morphogen.engine.cache import Run
from morphogen.engine.heap import returning
from morphogen.engine.loop import CHUNK, Engine, Sequence_
from morphogen.errors import DataError, UsageError
from morphogen.language import encoder, seq2seq
from morphogen.language.drawing import Answer, Drawing, Piece, Writer, constraints, drawing_of
from morphogen.language.source import Source, open_source
from morphogen.sampling import draws

BYTES_A_TOKEN = 8  # a prompt with more bytes than this for each position of the context cannot fit
LARGE = 50_000_000  # parameters from which 8-bit weights pay on a processor
SLOTS = 8


class LanguageModel:
    """`weights`: float32 (exact), int8 (drawing reads 8-bit matrices), or auto: int8 where the file is quantised already or large.

    Numbers (`logits`, `score`, `embed`) always come from float32. Both copies are made when first needed. Thread-safe: one
    call at a time draws, and streams take turns with it step by step.
    """

    def __init__(self, source: Source, *, weights: str = "auto") -> None:
        if weights not in ("auto", "float32", "int8"):
            raise UsageError(f"unknown weights '{weights}'", remedy="choose auto, float32 or int8")
        self.source, self.weights = source, weights
        self.tokenizer, self.template = source.tokenizer, source.template
        self.name, self.context, self.role = source.name, source.context, source.role
        self._exact: nn.Module | None = None
        self._drawing: nn.Module | None = None
        self._fit: bool | None = None
        self._lock = threading.RLock()
        self.adapters: dict[str, Path] = {}  # name -> where it was read from

    # ---------------------------------------------------------------- text and ids
    def encode(self, text: str) -> list[int]:
        """Ids as the model reads a text: with what its own files put around it. Special tokens in the text do not count."""
        return self.tokenizer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens left out."""
        return self.tokenizer.text(ids)

    # ---------------------------------------------------------------- nets
    @property
    def net(self) -> nn.Module:
        """The net in float32."""
        with self._lock:
            if self._exact is None:
                self._exact = self._drawing if self._drawing is not None and not self._packs() else self.source.net().eval()
            return self._exact

    def _packs(self) -> bool:
        from morphogen.engine.packed import packable

        if self.adapters or self.role != "decoder":
            return False
        if self.weights != "auto":
            return self.weights == "int8"
        foreign = self.source.foreign
        if foreign is None or not (self.source.quantised or sum(int(np.prod(s)) for s in foreign.shapes.values()) >= LARGE):
            return False
        if self._fit is None:
            self._fit = packable(foreign.empty())
        return self._fit

    @property
    def drawing_net(self) -> nn.Module:
        """The net that draws: packed where that was asked for or pays."""
        with self._lock:
            if self._drawing is None:
                self._drawing = self._packed() if self._packs() else self.net
            return self._drawing

    def warm(self) -> None:
        """Make now what the first answer would wait for."""
        if self.role == "decoder":
            _ = self.drawing_net
        if self.template is not None:
            self.template.check()

    def _packed(self) -> nn.Module:
        from morphogen.engine.packed import pack, packable

        foreign, net = self.source.foreign, self.net if self.source.foreign is None else self.source.foreign.empty()
        if not packable(net):
            return self.net
        with returning():
            return pack(net, net.state_dict().items() if foreign is None else foreign.pieces(net))  # type: ignore[arg-type]

    # ---------------------------------------------------------------- numbers
    @torch.inference_mode()
    def logits(self, ids: Sequence[int], source: Sequence[int] | None = None) -> np.ndarray:
        """(L, V) float32 logits: row i is about the token after ids[: i + 1] (an encoder: about token i itself).

        `source`: what an encoder-decoder reads. Raises UsageError for ids outside the vocabulary or past the context.
        """
        x = self._checked(ids)
        self._needs_head()
        if self.role == "seq2seq":
            if source is None:
                raise UsageError("an encoder-decoder needs the source's ids", remedy="give logits(ids, source=model.encode(text))")
            cond = self.net.read(self._checked(source))  # type: ignore[operator]
            return self.net(x, cond=cond)[0].float().numpy()
        return self.net(x)[0].float().numpy()

    def _needs_head(self) -> None:
        foreign = self.source.foreign
        if self.role == "encoder" and foreign is not None and not foreign.architecture.head:
            raise UsageError("the model has no head for tokens", where=self.source.path, remedy="it is for embed and rank")

    def _checked(self, ids: Sequence[int]) -> Tensor:
        ids = [int(i) for i in ids]
        vocab = self._vocab()
        if not ids:
            raise UsageError("there are no ids", remedy="give at least one")
        bad = next((i for i in ids if not 0 <= i < vocab), None)
        if bad is not None:
            raise UsageError(f"id {bad} is not below {vocab:,}", remedy="use ids of this model's tokenizer")
        if len(ids) > self.context:
            raise UsageError(f"{len(ids):,} ids, the model has {self.context:,} positions", remedy="shorten the text")
        return torch.tensor([ids])

    def _vocab(self) -> int:
        return self.source.foreign.vocab if self.source.foreign else self.tokenizer.size

    @torch.inference_mode()
    def score(self, text: str) -> float:
        """Nats per token: the mean of -log p of each token given those before (an encoder: given all others)."""
        if self.role == "encoder":
            self._needs_head()
            return encoder.score(self.net, self.tokenizer, self._checked(self.encode(text))[0].tolist())
        if self.role == "seq2seq":
            raise UsageError("an encoder-decoder has no probability of a text alone", remedy="use a decoder")
        ids = [*self.source.start, *self.encode(text)]
        if len(ids) < 2:
            raise UsageError("the text is too short to score", remedy="give at least two tokens")
        x = self._checked(ids)
        engine, total = Engine(self.net, limit=self.context), 0.0
        size = CHUNK if len(ids) <= engine.near else len(ids)  # logits of a whole long text would take gigabytes
        for first in range(0, len(ids) - 1, size):
            part, next_ones = ids[first : first + size], x[0, first + 1 : first + size + 1, None]
            logits = engine.forward(part, [Run(0, len(part), 0, first)], [*range(len(next_ones))])
            total -= float(torch.log_softmax(logits.double(), -1).gather(1, next_ones).sum())
        return total / (len(ids) - 1)

    def embed(self, texts: Sequence[str], *, batch: int = 32) -> np.ndarray:
        """(N, D) float32 vectors of texts; sentence encoders pool and scale as their own files say, others take the mean.

        A text longer than the context loses its tail.
        """
        if isinstance(texts, str):
            raise UsageError("embed wants a list of texts", remedy="write embed([text])")
        return encoder.embed(self, texts, batch)

    def rank(self, query: str, texts: Sequence[str]) -> list[tuple[int, float]]:
        """(index, cosine to the query) of texts, the nearest first."""
        vectors = self.embed([query, *texts])
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        scores = vectors[1:] @ vectors[0]
        return [(int(i), float(scores[i])) for i in np.argsort(-scores, kind="stable")]

    # ---------------------------------------------------------------- drawing
    def generate(self, prompt: str, **options: Any) -> str:
        """The text that follows a prompt. Options are the fields of `Drawing`. An encoder fills its masks in the prompt."""
        return self.answers([prompt], **options)[0][0].text

    def chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        """The answer to a conversation: messages of {"role", "content"}."""
        drawing = self._wishes(options)
        return self._answers([self.prompt_of(messages)], drawing, self._draft(options))[0][0].text

    def prompt_of(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """The ids of a conversation under the model's chat template. Raises UsageError for a model without one."""
        if self.template is None:
            raise UsageError("the model has no chat template", where=self.source.path, remedy="use generate, or a model tuned for chat")
        return self.template.encode(self.tokenizer, messages)

    def answers(
        self, prompts: Sequence[str | Sequence[int]], *, slots: int = 0, first: int = 0, **options: Any
    ) -> list[list[Answer]]:
        """`n` answers to each prompt (text, or ids), several sequences at a time. Answer i of prompt j has the key of j * n + i.

        `first`: the number of the first prompt, where these are a part of more. `slots`: sequences under way at once; each
        gives the same text whatever that number is, up to rounding in the net.
        """
        if isinstance(prompts, str) or slots < 0:
            raise UsageError("answers wants a list of prompts, and slots from 1 on", remedy="write answers([text])")
        drawing = self._wishes(options)
        return self._answers([self._ids(p) for p in prompts], drawing, self._draft(options), (slots, first))

    def _answers(
        self, prompts: Sequence[list[int]], drawing: Drawing, draft: Any = None, where: tuple[int, int] = (0, 0)
    ) -> list[list[Answer]]:
        slots, first = where
        if self.role != "decoder":
            if drawing.beams > 1 or drawing.best_of:
                raise UsageError(f"beams and best_of are for decoders, the model is of role {self.role}", remedy="leave them out")
            return [[self._other(ids, drawing, (first + j) * drawing.n + i) for i in range(drawing.n)] for j, ids in enumerate(prompts)]
        if drawing.beams > 1:
            from morphogen.language.beam import beam_search

            with self._lock:
                return [beam_search(self, self._fits(ids), drawing) for ids in prompts]
        each = max(drawing.n, drawing.best_of)
        keys = draws.seeded(drawing.seed, len(prompts) * each, first=first * each)
        make = constraints(self.tokenizer, drawing)
        jobs = [
            self._job(ids, drawing, keys[j * each + i : j * each + i + 1], make(), draft)
            for j, ids in enumerate(prompts)
            for i in range(each)
        ]
        with self._lock:
            slots = slots or min(SLOTS, len(jobs))
            engine = self._engine(slots)
            for _ in engine.run([s for s, _ in jobs]):
                pass
        done = [self._finish(s, w) for s, w in jobs]
        out = []
        for j in range(len(prompts)):
            mine = list(zip(done[j * each : j * each + each], (w for _, w in jobs[j * each : j * each + each])))
            mine.sort(key=lambda pair: -pair[1].total / max(1, len(pair[1].ids)) if drawing.best_of else 0.0)
            out.append([answer for answer, _ in mine[: drawing.n]])
        return out

    def stream(self, prompt: str | Sequence[int], **options: Any) -> Iterator[Piece]:
        """The answer piece by piece, as it is written; closing the iterator cancels it."""
        drawing = self._wishes(options)
        return self._stream(self._ids(prompt), drawing, self._draft(options))

    def stream_chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> Iterator[Piece]:
        """`chat`, piece by piece."""
        drawing = self._wishes(options)
        return self._stream(self.prompt_of(messages), drawing, self._draft(options))

    def _stream(self, ids: list[int], drawing: Drawing, draft: Any) -> Iterator[Piece]:
        if drawing.n != 1 or drawing.best_of or drawing.beams > 1:
            raise UsageError("a stream has one answer", remedy="use generate for n, best_of and beams")
        if self.role != "decoder":
            answer = self._other(ids, drawing, 0)
            yield Piece(answer.text, answer.ids, True, answer.reason, answer.stats)
            return
        key = draws.seeded(drawing.seed, 1)
        job, writer = self._job(ids, drawing, key, constraints(self.tokenizer, drawing)(), draft)
        new: list[int] = []
        with closing(self._engine(1).run([job])) as running:
            while not job.finished:
                with self._lock:  # for a step: who reads slowly, or in another thread, keeps nobody waiting
                    _, new = next(running)
                if not job.finished:
                    reading: dict[str, float] = {"prompt_tokens": len(ids), "prefilled": job.read} if not new else {}
                    yield Piece(writer.taken(), new, stats=reading)
        answer = self._finish(job, writer)
        yield Piece(writer.taken(), new, True, answer.reason, answer.stats)

    # ---------------------------------------------------------------- pieces of drawing
    def _wishes(self, options: dict[str, Any]) -> Drawing:
        given = {k: v for k, v in options.items() if k not in ("draft", "slots")}
        drawing = drawing_of(given, self.source.defaults)
        if drawing.adapter is not None and drawing.adapter not in self.adapters:
            raise UsageError(f"no adapter '{drawing.adapter}' is loaded", remedy=f"there are {', '.join(self.adapters) or 'none'}")
        return drawing

    def _draft(self, options: dict[str, Any]) -> LanguageModel | None:
        draft = options.get("draft")
        alike = isinstance(draft, LanguageModel) and draft.role == "decoder" and draft.tokenizer.content() == self.tokenizer.content()
        if draft is not None and not alike:
            raise UsageError("a draft model is a decoder with the same tokenizer", remedy="give a smaller model of the same kind")
        return draft

    def _ids(self, prompt: str | Sequence[int]) -> list[int]:
        if not isinstance(prompt, str):
            return [*self._checked(prompt)[0].tolist()]
        if len(prompt.encode("utf-8", "replace")) > BYTES_A_TOKEN * self.context:
            raise DataError(f"a prompt of {len(prompt):,} characters cannot fit {self.context:,} positions", remedy="shorten it")
        if self.role == "encoder":
            return encoder.with_masks(self.tokenizer, prompt)
        ids = [*self.source.start, *self.encode(prompt)]
        if not ids:  # nothing said: a text's beginning
            ids = [self.tokenizer.bos if self.tokenizer.bos is not None else (self.tokenizer.eos or (0,))[0]]
        return ids

    def _fits(self, ids: list[int]) -> list[int]:
        if len(ids) >= self.context:
            raise DataError(f"the prompt has {len(ids):,} tokens, the model {self.context:,} positions", remedy="shorten it")
        return ids

    def _job(self, ids: list[int], drawing: Drawing, key: Tensor, constraint: Any, draft: LanguageModel | None) -> tuple[Sequence_, Writer]:
        drawing = dataclasses.replace(drawing, max_tokens=min(drawing.max_tokens, self.context - len(self._fits(ids))))
        writer = Writer(self.tokenizer, drawing, key, ids, constraint)
        guess: Callable[[list[int], int], list[int]] | None = None
        if draft is not None:
            from morphogen.engine.speculate import Drafter

            guess = Drafter(Engine(draft.drawing_net, limit=draft.context), drawing.choice(), key, self.tokenizer.size)
        lookup = drawing.lookup if drawing.lookup is not None else drawing.temperature == 0
        return Sequence_(ids, writer.choose, writer.done, drawing.max_tokens, drawing.adapter, guess, lookup), writer

    def _engine(self, slots: int) -> Engine:
        from morphogen.adapt.lora import adapters_of

        with self._lock:  # `here`: numbers are computed in other threads meanwhile, and never with an adapter
            adapting = adapters_of(self.net).here if self.adapters else None
            return Engine(self.drawing_net, slots=slots, limit=self.context, adapting=adapting)

    def _finish(self, s: Sequence_, writer: Writer) -> Answer:
        writer.flush()
        stats: dict[str, float] = {"prompt_tokens": len(s.prompt), "tokens": s.new}
        if s.prompt_seconds:
            stats["prefill_tok_s"] = len(s.prompt) / s.prompt_seconds
        if s.seconds and s.new > 1:
            stats["decode_tok_s"] = (s.new - 1) / s.seconds
        stats["prefill_seconds"] = s.prompt_seconds
        return writer.answer(s.reason or "cancelled", stats)

    def _other(self, ids: list[int], drawing: Drawing, i: int) -> Answer:
        key = draws.seeded(drawing.seed, 1, first=i)
        with self._lock:
            if self.role == "encoder":
                self._needs_head()
                return encoder.fill(self.net, self.tokenizer, self._checked(ids)[0].tolist(), drawing, key)
            return seq2seq.write(self, self._fits(ids), drawing, key)

    # ---------------------------------------------------------------- middles
    def infill(self, before: str, after: str, **options: Any) -> str:
        """What stands between two texts, for models whose tokenizer knows how to be asked (fill in the middle, Bavarian et al. 2022)."""
        marks = fim_marks(self.tokenizer.special)
        if marks is None:
            raise UsageError(
                "the model's tokenizer has no tokens for the middle", remedy="use a code model, or an encoder with its mask token"
            )
        prefix, suffix, middle = marks
        ids = [*self.source.start, prefix, *self.tokenizer.ids(before), suffix, *self.tokenizer.ids(after), middle]
        return self._answers([ids], dataclasses.replace(self._wishes(options), n=1), self._draft(options))[0][0].text

    # ---------------------------------------------------------------- adapters
    def load_adapter(self, folder: Path | str, name: str = "") -> str:
        """Put a PEFT adapter beside the weights; drawing takes `adapter=name`. Returns the name. Drawing is in float32 then."""
        from morphogen.language.adapters import load_adapter

        with self._lock:
            return load_adapter(self, Path(folder), name)


FIM = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("<PRE>", "<SUF>", "<MID>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
)


def fim_marks(special: Mapping[str, int]) -> tuple[int, int, int] | None:
    """Ids of the tokens before a beginning, before an end, and before the middle asked for."""
    for names in FIM:
        if all(n in special for n in names):
            return special[names[0]], special[names[1]], special[names[2]]
    return None


def load(path: Path | str, *, weights: str = "auto", adapter: Path | str | None = None) -> LanguageModel:
    """A language model from a run folder, a Hugging Face folder or a GGUF file. Raises FormatError in one line for anything else."""
    model = LanguageModel(open_source(path), weights=weights)
    if adapter is not None:
        model.load_adapter(adapter)
    return model
