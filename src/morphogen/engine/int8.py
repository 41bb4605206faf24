"""Matrices of 8-bit whole numbers on stock torch: the products are taken in whole numbers by the processor's own routines.

y = W x. Rows of W are rounded to 8 bits after a Hadamard turn of blocks of columns, which spreads outliers so that less is lost
(Ashkboos et al. 2024, QuaRot, arXiv 2404.00456; here the turn is undone by turning x alike, so nothing else need know).
x becomes two planes of 7 bits, the second for what the first left: nearly 14 bits, at almost no cost where reading W is what
takes time.
"""
from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from morphogen.engine.int4 import Grid

M = TypeVar("M", bound=nn.Module)
ROWS = 2048
SHORTLIST = 128


@functools.cache
def hadamard(n: int) -> Tensor:
    """(n, n) orthogonal and symmetric matrix of +-1 / sqrt(n), n a power of two (Sylvester)."""
    h = torch.ones(1, 1)
    while len(h) < n:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return h / n**0.5


def block_of(width: int) -> int:
    """The largest power of two up to 64 that divides a width; 1 for none of use."""
    return next((b for b in (64, 32, 16) if width % b == 0), 1)


def rounded(w: Tensor | Grid, turn: bool = False, fine: bool = False) -> tuple[Tensor, Tensor]:
    """(int8 (N, K), scale (N,)) of a matrix: symmetric, the largest of a row becomes 127. `turn`: of the turned matrix.

    `fine`: (2 N, K), N rows more for what the first left, their scale 254 times smaller: together nearly 16 bits.
    Worked a few rows at a time: beside a large matrix there is never another one of floats.
    """
    n = len(w)
    q, scale = torch.empty(n * (1 + fine), w.shape[1], dtype=torch.int8), torch.empty(n * (1 + fine))
    for i in range(0, n, ROWS):
        part = turned(w[i:i + ROWS]) if turn else w[i:i + ROWS].float()
        step = (part.abs().amax(1) / 127).clamp_(min=1e-12)
        first = (part / step[:, None]).round_()
        scale[i:i + len(part)], q[i:i + len(part)] = step, first.to(torch.int8)
        if fine:
            scale[n + i:n + i + len(part)] = step / 254
            q[n + i:n + i + len(part)] = ((part / step[:, None] - first) * 254).round_().to(torch.int8)
    return q, scale


def loss(w: Tensor | Grid, q: Tensor, scale: Tensor) -> float:
    """How much rounding changed a matrix: root mean square, relative. q is of the turned one, coarse or fine."""
    wrong = whole = 0.0
    n = len(w)
    for i in range(0, n, ROWS):
        part = turned(w[i:i + ROWS])
        made = q[i:i + len(part)].float() * scale[i:i + len(part), None]
        if len(q) > n:
            made += q[n + i:n + i + len(part)].float() * scale[n + i:n + i + len(part), None]
        wrong += float((part - made).square().sum())
        whole += float(part.square().sum())
    return (wrong / max(whole, 1e-30)) ** 0.5


def turned(w: Tensor | Grid) -> Tensor:
    """W with blocks of columns turned; turning x alike leaves W x as it was."""
    b = block_of(w.shape[1])
    return w.float() if b == 1 else (w.float().reshape(len(w), -1, b) @ hadamard(b)).view(w.shape)


class Int8(nn.Module):
    """(N, K) -> (N, rows): x W' + b with W in 8 bits, or nearly 16. `parts`: what `rounded` gave for matrices to be stacked."""

    def __init__(self, parts: Sequence[tuple[Tensor, Tensor]], bias: Tensor | None, fine: bool = False) -> None:
        super().__init__()
        ends = [len(q) // 2 if fine else len(q) for q, _ in parts]  # first planes of all parts come before second planes
        q = torch.cat([q[:n] for (q, _), n in zip(parts, ends)] + [q[n:] for (q, _), n in zip(parts, ends)])
        scale = torch.cat([s[:n] for (_, s), n in zip(parts, ends)] + [s[n:] for (_, s), n in zip(parts, ends)])
        self.rows = len(q) // 2 if fine else 0
        self.block, self.biased = block_of(q.shape[1]), bias is not None
        self.register_buffer("turn", hadamard(self.block).clone())
        self.register_buffer("bias", torch.zeros(1) if bias is None else bias.float())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch means to replace this type some day; `available` says no then
            make = torch._make_per_channel_quantized_tensor  # pyright: ignore[reportPrivateImportUsage]
            made = make(q, scale.double(), torch.zeros(len(q), dtype=torch.int64), 0)
            self.packed = torch.ops.quantized.linear_prepack(made, None)

    def forward(self, x: Tensor) -> Tensor:
        if self.block > 1:
            x = (x.reshape(-1, self.block) @ self.turn).view(x.shape)  # type: ignore[operator]
        n = x.shape[0]
        size = torch.linalg.vector_norm(x, float("inf"), [-1], True).clamp_(min=1e-20)
        # 63 and not 127: the routines add two products in 16 bits
        first = x * (63.0 / size)
        second = (first - first.round()).mul_(126.0)
        y = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(torch.cat([first, second]), 1.0, 64, self.packed)
        y = torch.add(y[:n], y[n:], alpha=1 / 126.0)
        if self.rows > 0:
            y = y[:, : self.rows] + y[:, self.rows:]
        y = y * (size / 63.0)
        return y + self.bias if self.biased else y  # type: ignore[operator]


class Float(nn.Module):
    """The same call for a matrix that stays in float32."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.biased = bias is not None
        self.register_buffer("weight", weight.float())
        self.register_buffer("bias", torch.zeros(1) if bias is None else bias.float())

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight.t()  # type: ignore[operator]
        return y + self.bias if self.biased else y  # type: ignore[operator]


class Table(nn.Module):
    """Rows (V, D) of 8 bits, scale (V, G): one for each D / G columns. As the file has them, or rounded."""

    def __init__(self, w: Tensor | Grid) -> None:
        super().__init__()
        self.exact = isinstance(w, Grid) and w.offset is None
        q, scale = (w.codes, w.scale) if isinstance(w, Grid) and self.exact else rounded(w)
        self.register_buffer("q", q)
        self.register_buffer("scale", scale.view(len(q), -1))

    def forward(self, ids: Tensor) -> Tensor:
        scale = self.scale[ids]  # type: ignore[index]
        rows = self.q[ids].float().unflatten(-1, [scale.shape[-1], -1])  # type: ignore[index]
        return (rows * scale.unsqueeze(-1)).flatten(-2)


class Head(nn.Module):
    """Logits by a matrix in 8 bits; those of the likeliest tokens once more from rows that are exact, which costs next to nothing."""

    def __init__(self, matrix: nn.Module, rows: Table) -> None:
        super().__init__()
        self.matrix, self.rows, self.most = matrix, rows, min(SHORTLIST, len(rows.q))  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        y = self.matrix(x)
        best = y.topk(self.most).indices
        return y.scatter_(1, best, torch.bmm(self.rows(best), x.unsqueeze(-1)).squeeze(-1))


def scripted(module: M) -> M:
    """The module run without Python between its operations, which take less time than Python does at one row; itself where that fails."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.jit.freeze(torch.jit.script(module.eval()))  # type: ignore[return-value]
    except (RuntimeError, AttributeError, NotImplementedError):
        return module


@functools.cache
def available() -> bool:
    """Whether this build and processor have the routine and it computes what it should; tried once on a small matrix."""
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        return False
    try:
        torch.backends.quantized.engine = "fbgemm"
        w, x = torch.linspace(-1, 1, 64 * 96).sin().view(96, 64), torch.linspace(-3, 5, 3 * 64).cos().view(3, 64)
        with torch.inference_mode():
            error = (Int8([rounded(w, turn=True)], None)(x) - x @ w.t()).norm() / (x @ w.t()).norm()
        return bool(error < 0.02)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
