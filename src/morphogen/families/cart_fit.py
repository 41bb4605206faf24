"""Growing the trees of `cart` with scikit-learn, and flattening them into plain tensors."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

GRID = 401  # quantiles of a column that place the windows of `Cart._log_leaf`
MOST = 20_000_000  # nodes x classes a classification tree may hold
Column = tuple[str, str, int, int]


def empty(columns: Sequence[Column]) -> dict[str, Tensor]:
    """The buffers before fitting: every tree is one leaf holding one zero."""
    f = len(columns)
    one = torch.zeros(f, 1)
    node = torch.zeros(f, dtype=torch.int64)
    return {
        "feature": node.clone(), "threshold": node.double(), "left": node - 1, "right": node - 1, "start": node.clone(), "count": node + 1,
        "root": torch.arange(f), "value": one, "low": one.clone(), "high": one.clone(), "sorted": one.clone(),
        "grid": torch.zeros(f, GRID), "code": torch.zeros(1), "code_at": torch.zeros(f, f, dtype=torch.int64),
    }


def grow(table: np.ndarray, columns: Sequence[Column], min_leaf: int, smoothing: float) -> dict[str, Tensor]:
    """All buffers from (N, F) training values.

    Nodes of all trees lie one after another (`root` points at each first one, leaves have left = -1). A leaf owns
    `value[j, start : start + count]`, ascending, and the cells [low, high] its draws are spread over.
    """
    n, f = table.shape
    out: dict[str, list[np.ndarray]] = {k: [] for k in ("feature", "threshold", "left", "right", "start", "count", "value", "low", "high")}
    codes, code_at, roots, offset = [np.zeros(1, np.float32)], np.zeros((f, f), np.int64), [], 0
    for j in range(f):
        features = np.zeros((n, j), np.float32)
        for k in range(j):
            features[:, k] = table[:, k]
            if columns[k][3]:
                code = order_words(table[:, k].astype(np.int64), columns[k][3], table[:, j], columns[j][3])
                code_at[j, k] = sum(map(len, codes))
                codes.append(code)
                features[:, k] = code[table[:, k].astype(np.int64)]
        tree = _one_tree(features, table[:, j], columns[j][3], min_leaf)
        roots.append(offset)
        for name in ("left", "right"):
            out[name].append(np.where(tree[name] >= 0, tree[name] + offset, -1))
        out["feature"].append(np.maximum(tree["feature"], 0))
        out["threshold"].append(tree["threshold"])
        offset += len(tree["left"])
        _fill_leaves(out, tree, table[:, j].astype(np.float32), columns[j][3], smoothing)
    whole = np.sort(table.astype(np.float32), axis=0).T
    grid = whole[:, np.linspace(0, n - 1, GRID).round().astype(int)]
    flat: dict[str, Any] = {k: np.stack(v) if k in ("value", "low", "high") else np.concatenate(v) for k, v in out.items()}
    flat |= {"root": np.array(roots), "code": np.concatenate(codes), "code_at": code_at, "sorted": whole, "grid": grid}
    floats = {"value", "low", "high", "sorted", "grid", "code"}
    return {k: torch.from_numpy(np.ascontiguousarray(v)).to(
        torch.float32 if k in floats else torch.float64 if k == "threshold" else torch.int64) for k, v in flat.items()}


def order_words(words: np.ndarray, vocab: int, target: np.ndarray, classes: int) -> np.ndarray:
    """(vocab,) float32: the place of each word on a line, so that one threshold splits words into two useful groups.

    By the mean target for numbers (optimal: Fisher 1958, Breiman et al. 1984); for words by the first principal component of
    the class shares (Coppersmith, Hong, Hosking 1999). A word never seen lies in the middle.
    """
    count = np.bincount(words, minlength=vocab).astype(np.float64)
    seen = count > 0
    if classes and classes * vocab <= 4_000_000:
        joint = np.zeros((vocab, classes))
        np.add.at(joint, (words, target.astype(np.int64)), 1.0)
        shares = joint / np.maximum(count, 1)[:, None]
        centred = (shares - joint.sum(0) / count.sum()) * np.sqrt(count)[:, None]
        axis = np.linalg.svd(centred, full_matrices=False)[2][0]
        score = shares @ (axis * np.sign(axis[np.abs(axis).argmax()] or 1.0))
    else:
        ranks = _ranks(target)
        score = np.bincount(words, weights=ranks, minlength=vocab) / np.maximum(count, 1)
    place = np.full(vocab, (seen.sum() - 1) / 2, np.float32)
    place[np.flatnonzero(seen)[np.argsort(score[seen], kind="stable")]] = np.arange(seen.sum(), dtype=np.float32)
    return place


def _ranks(values: np.ndarray) -> np.ndarray:
    """Mid-ranks in 0..1: a tree on ranks is not led by a few far values."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return ((np.cumsum(counts) - counts / 2) / len(values))[inverse]


def _one_tree(features: np.ndarray, target: np.ndarray, classes: int, min_leaf: int) -> dict[str, np.ndarray]:
    """left, right (-1 at leaves), feature, threshold of each node, and the leaf of each row."""
    if not features.shape[1] or len(target) < 2 * min_leaf or len(np.unique(target)) == 1:
        nothing = np.full(1, -1)
        return {"left": nothing, "right": nothing, "feature": nothing, "threshold": np.zeros(1), "leaf": np.zeros(len(target), np.int64)}
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    if classes:
        present = len(np.unique(target))
        most = MOST // present
        limit = most if 2 * len(target) // min_leaf > most else None
        model: Any = DecisionTreeClassifier(min_samples_leaf=min_leaf, max_leaf_nodes=limit, random_state=0)
        model.fit(features, target.astype(np.int64))
    else:
        model = DecisionTreeRegressor(min_samples_leaf=min_leaf, random_state=0).fit(features, _ranks(target))
    tree = model.tree_
    return {"left": tree.children_left, "right": tree.children_right, "feature": tree.feature, "threshold": tree.threshold,
            "leaf": model.apply(features)}


def _fill_leaves(out: dict[str, list[np.ndarray]], tree: dict[str, np.ndarray], target: np.ndarray, classes: int, smoothing: float) -> None:
    """Sort the target by (leaf, value) and give every value the cell its draws may fall into."""
    order = np.lexsort((target, tree["leaf"]))
    value, leaf = target[order], tree["leaf"][order]
    nodes = len(tree["left"])
    count = np.bincount(leaf, minlength=nodes)
    out["start"].append(np.cumsum(count) - count)
    out["count"].append(np.maximum(count, 1))
    low = high = value
    if not classes and smoothing > 0 and len(value) > 1:
        same = leaf[1:] == leaf[:-1]
        gap = np.where(same, value[1:] - value[:-1], 0.0) * (smoothing / 2)
        before, after = np.concatenate([[0.0], gap]), np.concatenate([gap, [0.0]])
        first, last = np.concatenate([[True], ~same]), np.concatenate([~same, [True]])
        # the outermost values reach as far out as in, or the leaf would lose spread
        before, after = np.where(first, after, before), np.where(last, before, after)
        # a value next to a wide hole must not smear over it: both sides move at most as far as the nearer neighbour, doubled
        nearer = np.minimum(np.where(before > 0, before, np.inf), np.where(after > 0, after, np.inf))
        before, after = np.minimum(before, 2 * nearer), np.minimum(after, 2 * nearer)
        point = _mass_points(value)
        low = np.maximum(np.where(point, value, value - before), value.min())
        high = np.minimum(np.where(point, value, value + after), value.max())
    for name, v in (("value", value), ("low", low), ("high", high)):
        out[name].append(np.asarray(v, np.float32))


def _mass_points(values: np.ndarray) -> np.ndarray:
    """Which rows hold a value that repeats: at least 0.5 % of the column, or any value of a discrete column."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    discrete = len(counts) < 200 and len(values) >= 2 * len(counts)
    return discrete | ((counts >= 3) & (counts >= 0.005 * len(values)))[inverse]
