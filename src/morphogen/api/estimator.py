"""Synthesizer: the verbs as a scikit-learn estimator. Imported on first use; nothing else in the package needs it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, check_random_state

from morphogen.api.drawing import Drawn, Wish, sampling_of
from morphogen.api.train import train
from morphogen.errors import UsageError


class Synthesizer(BaseEstimator):
    """Learn how data are structured, then make more of it, in scikit-learn's words: `fit`, `sample`, `score_samples`.

    `X` is what `morphogen.train` takes: an array (N, D) or (N, H, W[, C]) uint8, a data frame, a pyarrow table, lists of rows,
    texts or pictures, a path. What is drawn has the form of X. Everything fitted lives in memory; `path` keeps the run folder,
    for every other verb.

    Parameters: `family`, `minutes`, `steps`, `cond`, `options` and `device` as in `morphogen.train`; `random_state` an
    int, a RandomState or None. Fitted: `model_`, `n_features_in_` and `feature_names_in_` where X is a table.
    """

    def __init__(
        self, family: str | None = None, *, minutes: float | None = None, steps: int | None = None,
        cond: Sequence[str] = (), options: dict[str, Any] | None = None, path: str | Path | None = None,
        device: str = "auto", random_state: Any = None,
    ) -> None:
        self.family, self.minutes, self.steps = family, minutes, steps
        self.cond, self.options, self.path, self.device, self.random_state = cond, options, path, device, random_state

    def fit(self, X: Any, y: Any = None) -> Synthesizer:
        """Learn from X; y is ignored, as scikit-learn's own densities do: what is to be asked for stands in X.

        Raises DataError, UsageError, ResourceError.
        """
        data = self._checked(X)
        self._like = _form(data)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        with tempfile.TemporaryDirectory() as scratch:
            run = train(
                data, self.path or Path(scratch) / "run", family=self.family, minutes=self.minutes, steps=self.steps,
                seed=seed, cond=self.cond, options=self.options, device=self.device,
            )
            self.model_ = run.model()
        return self

    def sample(self, n_samples: int = 1, random_state: Any = None, *, cond: dict[str, Any] | None = None) -> Any:
        """`n_samples` items in the form of X. `cond`: values asked of all, such as {"species": "Adelie"}.

        The same seed gives the same items. Raises NotFittedError before `fit`.
        """
        check_is_fitted(self, "model_")
        if isinstance(n_samples, bool) or not isinstance(n_samples, int | np.integer) or n_samples < 1:
            raise UsageError(f"n_samples = {n_samples!r}", remedy="give a whole number from 1")
        state = self.random_state if random_state is None else random_state
        seed = int(check_random_state(state).randint(2**31 - 1))
        drawn = Drawn(self.model_, Wish(seed, int(n_samples), dict(cond or {})), sampling_of(self.model_, {}))
        return _shaped(list(drawn), self._like)

    def score_samples(self, X: Any) -> np.ndarray:
        """(N,) log-likelihood of each item in nats. Raises UsageError for families that have none, NotFittedError before `fit`."""
        from morphogen.sampling import draws

        check_is_fitted(self, "model_")
        items = list(self.model_.codec.read(_listing(self._checked(X, reset=False))))
        found = self.model_.log_prob([item.raw for item in items], draws.seeded(0, 1).expand(len(items)))
        if found is None:
            name = type(self.model_.family).__name__.lower()
            raise UsageError(f"{name} gives no likelihood of these data", remedy="choose cart or autoregressive")
        return np.asarray(found.total, np.float64)

    def score(self, X: Any, y: Any = None) -> float:
        """Mean of `score_samples`: what a grid search makes as large as it can."""
        return float(self.score_samples(X).mean())

    def _checked(self, X: Any, reset: bool = True) -> Any:
        """Numbers are checked as scikit-learn checks them, with the errors it promises; anything else is left to the codecs."""
        if not _numbers(X):
            return X
        from sklearn.utils.validation import validate_data

        return validate_data(self, X, reset=reset, dtype=None if hasattr(X, "columns") else "numeric", ensure_all_finite="allow-nan",
                             ensure_min_samples=2 if reset else 1, skip_check_array=hasattr(X, "columns"))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.target_tags.required = False
        return tags


def _numbers(X: Any) -> bool:
    """Whether X is a table in scikit-learn's sense: a frame, an array of numbers that is no pictures, a list of lists, or sparse."""
    if hasattr(X, "iloc") or type(X).__module__.startswith("scipy.sparse"):
        return True
    if isinstance(X, list | tuple):
        return bool(X) and isinstance(X[0], list | tuple | int | float)
    return hasattr(X, "__array__") and not hasattr(X, "getexif") and (np.ndim(X) < 3 or np.asarray(X).dtype != np.uint8)


def _form(X: Any) -> tuple[str, Any]:
    """What samples should come back as, and what is needed for it."""
    if hasattr(X, "iloc"):
        return "frame", list(X.columns)
    if isinstance(X, np.ndarray):
        return ("pictures", X.ndim) if X.ndim > 2 else ("array", X.dtype)
    return "list", None


def _shaped(raws: Sequence[Any], form: tuple[str, Any]) -> Any:
    kind, about = form
    if kind == "frame":
        import pandas

        return pandas.DataFrame([{name: row.get(str(name)) for name in about} for row in raws], columns=about)
    if kind == "array":
        return np.array([[np.nan if v is None else v for v in row.values()] for row in raws], about if about.kind == "f" else None)
    return np.stack([raw[..., 0] if about == 3 else raw for raw in raws]) if kind == "pictures" else list(raws)


def _listing(X: Any) -> Any:
    from morphogen.codecs.sources import scan

    return scan(X)
