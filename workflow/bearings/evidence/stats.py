"""Estimates with intervals: bootstrap, Wilson, exact and permutation tests, in float64, fixed by a seed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

Statistic = Callable[..., np.ndarray]

# Numbers held at once by the vectorised bootstrap: 32 MB of float64.
BATCH_NUMBERS = 4_000_000


@dataclass(frozen=True)
class Estimate:
    """A measured number with its interval, from `n` rows; `reason` says what is missing or unusual."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    unit: str = ""
    reason: str = ""

    @classmethod
    def missing(cls, reason: str, n: int = 0, unit: str = "") -> Estimate:
        """What could not be measured, and why."""
        return cls(None, None, None, int(n), unit, reason)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Test:
    """Outcome of a test: its statistic, two-sided p value and number of pairs."""

    statistic: float | None
    p: float | None
    n: int
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def estimate(
    statistic: Statistic,
    *columns: Sequence[float] | np.ndarray,
    seed: int,
    level: float = 0.95,
    resamples: int = 2000,
    clusters: Sequence[Any] | np.ndarray | None = None,
    unit: str = "",
) -> Estimate:
    """A statistic of paired columns with its percentile bootstrap interval, whole rows resampled together.

    Args:
        statistic: `statistic(*columns, axis)`, reducing `axis` of every column, as numpy's functions do.
        columns: arrays [n] or [n, k] over the same rows.
        clusters: [n] labels; rows of a cluster are drawn together, as many clusters as there are.

    Where an interval has no basis (one row, one cluster, a statistic undefined on most resamples) it is
    missing and `reason` says so; where it has no width because nothing varies, `reason` says that.

    Raises:
        ValueError: columns of different lengths, or NaN in them.
    """
    data = [_column(c) for c in columns]
    n = len(data[0]) if data else 0
    if any(len(c) != n for c in data) or (clusters is not None and len(clusters) != n):
        raise ValueError(f"columns of different lengths: {[len(c) for c in data]}")
    if n == 0:
        return Estimate.missing("no rows", 0, unit)
    with np.errstate(all="ignore"):
        value = float(statistic(*(_last(c) for c in data), axis=-1))
    if not math.isfinite(value):
        return Estimate.missing("the statistic is undefined on these rows", n, unit)
    groups = _groups(clusters, n)
    if len(groups) < 2:
        return Estimate(
            value, None, None, n, unit, f"one {'row' if clusters is None else 'cluster'}: no interval"
        )

    width = sum(c.size for c in data)
    drawn = _bootstrap(statistic, data, groups, seed, resamples, max(1, BATCH_NUMBERS // max(1, width)))
    finite = drawn[np.isfinite(drawn)]
    lost = resamples - len(finite)
    if lost > resamples // 2:
        return Estimate(
            value, None, None, n, unit, f"undefined on {lost} of {resamples} resamples: no interval"
        )
    tail = (1 - level) / 2
    low, high = (float(x) for x in np.quantile(finite, [tail, 1 - tail]))
    reason = f"undefined on {lost} of {resamples} resamples" if lost else ""
    if finite.min() == finite.max():
        reason = f"all resamples of {n} rows agree: the interval has no width"
    return Estimate(value, low, high, n, unit, reason)


def _bootstrap(
    statistic: Statistic,
    data: list[np.ndarray],
    groups: list[np.ndarray],
    seed: int,
    resamples: int,
    batch: int,
) -> np.ndarray:
    """[resamples] values of the statistic; scipy draws which groups."""
    sizes = {len(g) for g in groups}
    table = np.stack(groups) if len(sizes) == 1 else None

    def on(which: np.ndarray, axis: int = -1) -> np.ndarray:
        if table is not None:
            rows = table[which].reshape(*which.shape[:-1], -1)
            return statistic(*(_last(c[rows], rows.ndim) for c in data), axis=-1)
        flat = which.reshape(-1, which.shape[-1])
        drawn = (np.concatenate([groups[g] for g in one]) for one in flat)
        values = [statistic(*(_last(c[rows]) for c in data), axis=-1) for rows in drawn]
        return np.asarray(values, dtype=np.float64).reshape(which.shape[:-1])

    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = stats.bootstrap(
            (np.arange(len(groups)),),
            on,
            n_resamples=resamples,
            batch=batch,
            vectorized=True,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
    return np.asarray(result.bootstrap_distribution, dtype=np.float64)


def _column(values: Any) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim not in (1, 2):
        raise ValueError(f"a column is [n] or [n, k], got {list(array.shape)}")
    if np.isnan(array).any():
        raise ValueError("a column holds NaN; leave out the rows that were not measured, and count them")
    return array


def _last(array: np.ndarray, rows: int = 1) -> np.ndarray:
    """Move the row axis last: [..., n] stays, [..., n, k] becomes [..., k, n]."""
    return array if array.ndim == rows else np.moveaxis(array, rows - 1, -1)


def _groups(clusters: Any, n: int) -> list[np.ndarray]:
    if clusters is None:
        return list(np.arange(n)[:, None])
    _, labels = np.unique(np.asarray(clusters), return_inverse=True)
    return [np.flatnonzero(labels == k) for k in range(labels.max() + 1)]


def difference(
    direction: np.ndarray | Sequence[np.ndarray],
    random: np.ndarray | Sequence[np.ndarray],
    *,
    seed: int,
    statistic: Statistic = np.mean,
    clusters: Any = None,
    unit: str = "",
    **options: Any,
) -> Estimate:
    """Effect of a direction minus that of random directions on the same rows: s(direction) - mean s(random).

    Args:
        direction: [n] outcomes, or a tuple of such columns for a statistic of several.
        random: [n] or [n, draws] outcomes, or a tuple of such; the statistic's mean over draws counts.

    The interval is over rows, for the draws that were made.
    """
    ours = direction if isinstance(direction, tuple) else (direction,)
    theirs = random if isinstance(random, tuple) else (random,)
    k = len(ours)

    def contrast(*columns: np.ndarray, axis: int = -1) -> np.ndarray:
        effect = np.asarray(statistic(*columns[:k], axis=-1))
        base = np.asarray(statistic(*columns[k:], axis=-1))
        return effect - (base.mean(axis=-1) if base.ndim > effect.ndim else base)

    return estimate(contrast, *ours, *theirs, seed=seed, clusters=clusters, unit=unit, **options)


def proportion(successes: int, n: int, level: float = 0.95, unit: str = "", scale: float = 1.0) -> Estimate:
    """A share with its Wilson interval, times `scale` (100 for per cent).

    Raises:
        ValueError: not 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}")
    if n == 0:
        return Estimate.missing("no rows", 0, unit)
    interval = stats.binomtest(int(successes), int(n)).proportion_ci(level, method="wilson")
    value = successes / n
    # In exact arithmetic the Wilson interval holds the share; rounding may leave it out by one last bit.
    low, high = min(float(interval.low), value), max(float(interval.high), value)
    return Estimate(value * scale, low * scale, high * scale, int(n), unit)


def spearman(
    x: Any, y: Any, seed: int, level: float = 0.95, resamples: int = 2000, unit: str = ""
) -> Estimate:
    """Rank correlation of paired values (ties share ranks) with its bootstrap interval over pairs."""

    def rho(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        a, b = (stats.rankdata(v, axis=-1) for v in (a, b))
        a, b = (v - v.mean(axis=-1, keepdims=True) for v in (a, b))
        with np.errstate(all="ignore"):
            return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))

    return estimate(rho, x, y, seed=seed, level=level, resamples=resamples, unit=unit)


def mcnemar(a: Any, b: Any) -> Test:
    """Exact McNemar test of paired yes/no outcomes; the statistic is the share of `a` in discordant pairs."""
    a, b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"outcomes must be paired [n], got {list(a.shape)} and {list(b.shape)}")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    discordant = only_a + only_b
    if discordant == 0:
        return Test(None, 1.0 if len(a) else None, len(a), "no pair differs" if len(a) else "no rows")
    return Test(only_a / discordant, float(stats.binomtest(only_a, discordant).pvalue), len(a))


def paired_permutation(a: Any, b: Any, seed: int, resamples: int = 9999) -> Test:
    """Two-sided test of the mean paired difference, exchanging a and b within rows (exact for few rows)."""
    a, b = _column(a), _column(b)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"outcomes must be paired [n], got {list(a.shape)} and {list(b.shape)}")
    if len(a) < 2:
        return Test(float((a - b).mean()) if len(a) else None, None, len(a), "fewer than two pairs")

    def mean_difference(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.mean(x - y, axis=axis)

    result = stats.permutation_test(
        (a, b),
        mean_difference,
        permutation_type="samples",
        n_resamples=resamples,
        batch=max(1, BATCH_NUMBERS // len(a)),
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return Test(float(result.statistic), float(result.pvalue), len(a))
