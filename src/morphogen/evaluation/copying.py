"""Did it learn, or did it copy? Held-out items say how close honest new items come to the training items."""
from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from morphogen.contracts import Identifies, Raw
from morphogen.evaluation.evidence import HELD, MODEL, Evidence, featurise
from morphogen.evaluation.metric import Interval, Metric, bootstrap, measured, share
from morphogen.evaluation.neighbours import nearest

MOST_TRAIN = 10  # times `limit` training rows are searched
LETTERS = 4_000_000  # characters of training text that are searched


class Pair(NamedTuple):
    """A generated item beside its nearest training item; `distance` counts in held-out median distances."""

    generated: int
    train: int
    distance: float


class Nearness(NamedTuple):
    """Distances of generated and held-out items to their nearest training items, and which those are."""

    generated: np.ndarray
    heldout: np.ndarray
    rivals: dict[str, np.ndarray]
    index: np.ndarray
    searched: int


def fingerprint(raw: Raw, codec: Any = None) -> str:
    """Equal for equal raw items: pixels, text, or cells whatever their order; what the codec calls `identity` where it does."""
    if isinstance(codec, Identifies):
        raw = codec.identity(raw)
    if isinstance(raw, np.ndarray):
        data = f"{raw.shape}{raw.dtype}".encode() + np.ascontiguousarray(raw).tobytes()
    elif isinstance(raw, str):
        data = raw.strip().encode("utf-8", "surrogatepass")
    else:
        data = json.dumps(raw, sort_keys=True, default=_plain).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _plain(value: Any) -> Any:
    # numpy prints long arrays with dots, so that different ones would look equal, and its numbers in quotes
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


def nearness(evidence: Evidence) -> tuple[Nearness, np.ndarray]:
    """Nearest training distances in the metric space, and the training indices that were searched."""
    order = evidence.rng("copying").permutation(len(evidence.train))[: evidence.limit * MOST_TRAIN]
    searched = evidence.scaler(featurise(evidence.codec, [evidence.train[i].raw for i in order]))
    own, index = nearest(evidence.points(MODEL), searched)
    held, _ = nearest(evidence.points(HELD), searched)
    rivals = {name: nearest(evidence.points(name), searched)[0] for name in evidence.baselines}
    return Nearness(own, held, rivals, index, len(order)), order


def copying(evidence: Evidence) -> list[Metric]:
    """Distance ratio, share of suspiciously close items, exact duplicates, and copied runs for texts."""
    return judge(evidence, nearness(evidence)[0])


def judge(evidence: Evidence, near: Nearness) -> list[Metric]:
    """The metrics of `copying` from distances already taken."""
    out, held = [], near.heldout
    what: dict[str, Any] = {"n": len(near.generated), "feature": evidence.scaler.name,
                            "split": "generated to training, beside held-out to training"}
    for name, q in (("nearest distance", 50), ("nearest distance, closest 5%", 5)):
        if float(np.percentile(held, q)) <= 0 or len(held) < 20:
            continue

        def ratio(a: np.ndarray, b: np.ndarray, q: int = q) -> float:
            below = float(np.percentile(b, q))
            return float(np.percentile(a, q)) / below if below > 0 else math.nan

        own = bootstrap(ratio, near.generated, held, seed=evidence.seed, paired=False)
        others = {k: bootstrap(ratio, d, held, seed=evidence.seed, paired=False) for k, d in near.rivals.items() if len(d)}
        line = (f"generated items lie {own.value:.2f} times as far from their nearest training item as real new ones do"
                + (" (the closest twentieth of each)." if q == 5 else "; well below 1 means copying."))
        out.append(measured(name, own, floor=Interval(1.0), others=others, better="near", target=1.0, line=line, **what))
    if len(held) >= 20:
        mark = float(np.percentile(held, 1))
        own = share(near.generated < mark)
        line = f"{own.value:.1%} of generated items are closer to a training item than 99% of real new ones are (1% is honest)."
        others = {k: share(d < mark) for k, d in near.rivals.items()}
        out.append(measured("too close", own, floor=share(held < mark), others=others, better="lower", line=line, **what))
    return [*out, _duplicates(evidence), *_runs(evidence)]


def _duplicates(evidence: Evidence) -> Metric:
    seen = {fingerprint(item.raw, evidence.codec) for item in evidence.train}  # all of them: a copy must not hide in a sample
    hits = {name: np.array([fingerprint(r, evidence.codec) in seen for r in evidence.raws(name)])
            for name in (MODEL, HELD, *evidence.baselines)}
    own, floor = share(hits[MODEL]), share(hits[HELD])
    others = {name: share(hits[name]) for name in evidence.baselines}
    line = (f"{int(hits[MODEL].sum()):,} of {len(hits[MODEL]):,} generated items equal a training item exactly; "
            f"of held-out items {int(hits[HELD].sum()):,} of {len(hits[HELD]):,}. So {1 - own.value:.1%} are new.")
    return measured("exact copies", own, floor=floor, others=others, n=len(hits[MODEL]), split="generated in training, beside held-out",
                    feature=f"all {len(evidence.train):,} training items", better="lower", line=line)


def pairs(evidence: Evidence, near: Nearness, order: np.ndarray, k: int = 8) -> list[Pair]:
    """The k generated items closest to training items, indices into `generated` and `train`, closest first."""
    unit = float(np.median(near.heldout)) or 1.0
    rows, out, used = evidence.rows(MODEL), [], set()
    for i in np.argsort(near.generated, kind="stable"):
        partner = int(order[near.index[i]])
        if partner in used:  # one training item copied often should not fill the page
            continue
        used.add(partner)
        out.append(Pair(int(rows[i]), partner, float(near.generated[i]) / unit))
        if len(out) == k:
            break
    return out


# ---------------------------------------------------------------- copied runs of text
def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


_BASE = np.uint64(0x9E3779B97F4A7C15 | 1)


class Windows:
    """Hashes of all windows of a length, from prefix hashes modulo 2^64 of well-mixed characters (Karp and Rabin 1987)."""

    def __init__(self, texts: Sequence[str]) -> None:
        joined = [np.frombuffer(t.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64) for t in texts]
        self.lengths = np.array([len(j) for j in joined], dtype=np.int64)
        flat = np.concatenate([*joined, np.zeros(0, np.uint64)])
        # h[i] = Σ_{j<i} c_j B^j, so a window's hash is (h[i+L] - h[i]) B^-i: compare after dividing by B^i
        inverse = pow(int(_BASE), -1, 1 << 64)
        self.power = _powers(_BASE, len(flat))
        self.undo = _powers(np.uint64(inverse), len(flat) + 1)
        self.prefix = np.concatenate([np.zeros(1, np.uint64), np.cumsum(_mix(flat + np.uint64(1)) * self.power, dtype=np.uint64)])
        self.ends = np.repeat(np.cumsum(self.lengths), self.lengths)  # the end of the text each position is in

    def of(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Hashes of windows that lie within one text, and their start positions."""
        start = np.flatnonzero(np.arange(len(self.ends)) + length <= self.ends)
        return (self.prefix[start + length] - self.prefix[start]) * self.undo[start], start


def _powers(base: np.uint64, n: int) -> np.ndarray:
    return np.cumprod(np.concatenate([np.ones(1, np.uint64), np.full(max(0, n - 1), base, np.uint64)]), dtype=np.uint64)[:n]


def longest_runs(texts: dict[str, Sequence[str]], source: Sequence[str], most: int = 2000) -> dict[str, np.ndarray]:
    """For each text the length in characters of its longest run that occurs in `source`, to a step of about a fifth."""
    inside = Windows(source)
    sides = {name: Windows(each) for name, each in texts.items()}
    best = {name: np.zeros(len(each), dtype=np.int64) for name, each in texts.items()}
    length, live = 4, dict.fromkeys(texts, True)
    while length <= most and any(live.values()):
        known = np.sort(inside.of(length)[0])
        for name, side in sides.items():
            hashes, start = side.of(length)
            at = np.searchsorted(known, hashes)
            hit = start[(at < len(known)) & (known[np.minimum(at, len(known) - 1)] == hashes)] if len(known) else start[:0]
            which = np.unique(np.searchsorted(np.cumsum(side.lengths), hit, "right"))
            best[name][which] = length
            live[name] = len(which) > 0
        length += max(1, length // 5)
    return best


def _runs(evidence: Evidence) -> list[Metric]:
    if not isinstance(evidence.train[0].raw, str):
        return []
    source, letters = [], 0
    for i in evidence.rng("runs").permutation(len(evidence.train)):
        if letters >= LETTERS:
            break
        text = evidence.train[i].raw[: LETTERS - letters]
        source.append(text)
        letters += len(text)
    names = (MODEL, HELD, *evidence.baselines)
    # the longest run grows with length: compare the same number of characters of each
    size = int(min(np.median([len(t) for t in evidence.raws(name)]) for name in (MODEL, HELD)))
    runs = longest_runs({name: [t[: max(1, size)] for t in evidence.raws(name)[:1000]] for name in names}, source)
    q95 = {name: bootstrap(lambda r: float(np.percentile(r, 95)), r, seed=evidence.seed) for name, r in runs.items() if len(r)}
    own, floor = q95.pop(MODEL), q95.pop(HELD)
    line = (f"one generated text in twenty repeats {own.value:.0f} characters or more of a training text word for word "
            f"(held-out: {floor.value:.0f}; longest {int(runs[MODEL].max())} against {int(runs[HELD].max())}).")
    return [measured("copied run", own, floor=floor, others=q95, n=len(runs[MODEL]), split="generated in training, beside held-out",
                     feature=f"{letters:,} characters of training text", better="lower", line=line)]
