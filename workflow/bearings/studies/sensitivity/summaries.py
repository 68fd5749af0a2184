"""Summary statistics of sensitivity curves and SAE ladders (protocol section 4.7), all over the last axis.

Pure functions of arrays [..., k], so that one call serves the measured values and every resample of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from scipy import stats

# SAEs up to which the permutation distribution of a rank correlation is enumerated.
MOST_SAES = 14
LEVEL = 0.05


def ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, NaN where b is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(b == 0, np.nan, a / b)


def log_ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """ln(a / b), NaN where either is not positive."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((a > 0) & (b > 0), np.log(a / b), np.nan)


def area(curve: np.ndarray, lengths: Sequence[float]) -> np.ndarray:
    """Mean height of a curve [..., k]: the trapezoids over {0} and the lengths [k], divided by the last length.

    At length 0 nothing is perturbed, so the curve starts at 0.
    """
    x = np.concatenate([[0.0], np.asarray(lengths, np.float64)])
    y = np.concatenate([np.zeros((*np.shape(curve)[:-1], 1)), curve], axis=-1)
    return (np.diff(x) * (y[..., 1:] + y[..., :-1]) / 2).sum(-1) / x[-1]


def threshold(curve: np.ndarray, lengths: Sequence[float], level: float) -> np.ndarray:
    """First length at which a curve [..., k] is at least `level`, interpolated log-log between lengths [k].

    Infinity where the curve does not get there; minus infinity where it is there at the first length, so that the
    threshold lies below; NaN where the length before has no logarithm.
    """
    curve, x = np.atleast_2d(curve), np.asarray(lengths, np.float64)
    there = curve >= level
    first = np.argmax(there, axis=-1)
    after = np.take_along_axis(curve, first[..., None], -1)[..., 0]
    before = np.take_along_axis(curve, np.maximum(first - 1, 0)[..., None], -1)[..., 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (np.log(level) - np.log(before)) / (np.log(after) - np.log(before))
        start, end = np.log(x[np.maximum(first - 1, 0)]), np.log(x[first])
        found = np.where(before > 0, np.exp(start + share * (end - start)), np.nan)
    found = np.where(first == 0, -np.inf, found)
    found = np.where(there.any(-1), found, np.inf)
    return np.where(np.isnan(curve).any(-1), np.nan, found)


def monotone(curve: np.ndarray) -> np.ndarray:
    """Share of the steps of a curve [..., k] that go up."""
    return (np.diff(curve, axis=-1) > 0).mean(-1)


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Rank correlation over the last axis; ties share ranks; NaN where one side does not vary."""
    a, b = (stats.rankdata(v, axis=-1) for v in np.broadcast_arrays(x, y))
    a, b = (v - v.mean(-1, keepdims=True) for v in (a, b))
    found = ratio((a * b).sum(-1), np.sqrt((a * a).sum(-1) * (b * b).sum(-1)))
    lacking = np.isnan(x).any(-1) | np.isnan(y).any(-1)
    return np.where(lacking, np.nan, found)


def permutation_p(x: Sequence[float], y: Sequence[float]) -> float:
    """Exact one-sided p of a rank correlation as low as this one or lower, over all orders of `y`; ties as they are.

    Raises:
        ValueError: more than `MOST_SAES` values, which are too many to enumerate.
    """
    a, b = ((2 * stats.rankdata(v)).astype(int) for v in (x, y))
    ways = _sums(tuple(a.tolist()), tuple(b.tolist()))
    return float(ways[: int(a @ b) + 1].sum() / ways.sum())


@cache
def critical(n: int, level: float = LEVEL) -> float:
    """One-sided critical value of a negative rank correlation of `n` untied pairs: the highest rho with p <= level.

    NaN where even the perfect order is likelier than that (n < 4 at 5 %).
    """
    ranks = tuple(range(2, 2 * n + 2, 2))
    ways = _sums(ranks, ranks)
    p = np.cumsum(ways) / ways.sum()
    low = [s for s in np.flatnonzero(ways) if p[s] <= level]
    if not low:
        return float("nan")
    # Sums of products of doubled ranks, as correlations; all but the division is exact, as it is in `spearman`, so
    # that a correlation at the critical value equals it.
    return float((max(low) / 4 - n * ((n + 1) / 2) ** 2) / (n * (n * n - 1) / 12))


@cache
def _sums(a: tuple[int, ...], b: tuple[int, ...]) -> np.ndarray:
    """Number of orders of `b` for which sum a_i b_order(i) is s, at index s: by dynamic programming over subsets."""
    n = len(a)
    if n > MOST_SAES:
        raise ValueError(f"{n} values; an exact p is enumerated for at most {MOST_SAES}")
    most = int(np.sort(a) @ np.sort(b))
    ways: dict[int, np.ndarray] = {0: np.eye(1, most + 1)[0]}
    for value in a:
        grown: dict[int, np.ndarray] = {}
        for used, counts in ways.items():
            for j in range(n):
                if not used >> j & 1:
                    added = grown.setdefault(used | 1 << j, np.zeros(most + 1))
                    step = value * b[j]
                    added[step:] += counts[: most + 1 - step]
        ways = grown
    return ways[(1 << n) - 1]


def matched(l0_a: np.ndarray, k_a: np.ndarray, l0_b: np.ndarray, k_b: np.ndarray) -> np.ndarray:
    """Mean of ln(K_a / K_b) over the common range of ln L0 of two ladders [..., m] and [..., m'].

    Each ladder is interpolated linearly in ln K against ln L0, inside its own range only; the mean is exact for such
    lines. NaN where the ranges do not overlap, or where something has no logarithm.
    """
    sides = []
    for l0, k in ((l0_a, k_a), (l0_b, k_b)):
        with np.errstate(invalid="ignore", divide="ignore"):
            x, y = np.log(np.atleast_2d(l0)), np.log(np.atleast_2d(k))
        order = np.argsort(x, axis=-1, kind="stable")
        sides += [np.take_along_axis(v, order, -1) for v in (x, y)]
    found = np.array([_matched(*rows) for rows in zip(*sides, strict=True)])
    return found.reshape(np.shape(l0_a)[:-1])


def _matched(xa: np.ndarray, ya: np.ndarray, xb: np.ndarray, yb: np.ndarray) -> float:
    low, high = max(xa[0], xb[0]), min(xa[-1], xb[-1])
    known = all(np.isfinite(v).all() for v in (xa, ya, xb, yb))
    if not (known and low < high):
        return float("nan")
    knots = np.unique(np.clip(np.concatenate([xa, xb]), low, high))
    gap = np.interp(knots, xa, ya) - np.interp(knots, xb, yb)
    return float((np.diff(knots) * (gap[1:] + gap[:-1]) / 2).sum() / (high - low))


def levels(l0: np.ndarray, apart: float = 1.1) -> np.ndarray:
    """Number of distinct levels in L0 [..., m]: each at least `apart` times the level counted before; 0 is none."""
    ordered = np.sort(l0, axis=-1)
    count, last = np.zeros(ordered.shape[:-1]), np.zeros(ordered.shape[:-1])
    for value in np.moveaxis(ordered, -1, 0):
        new = (value > 0) & (value >= apart * last)
        count, last = count + new, np.where(new, value, last)
    return count


def entropy(tokens: np.ndarray) -> float:
    """Entropy of the unigram distribution of token ids [n], nats."""
    _, counts = np.unique(tokens, return_counts=True)
    p = counts / counts.sum()
    return float(-(p * np.log(p)).sum())


def participation(factor: np.ndarray) -> float:
    """Participation ratio (tr S)^2 / tr(S^2) of S = factor @ factor.T, as a share of its d dimensions."""
    factor = np.asarray(factor, np.float64)
    covariance = factor @ factor.T
    return float(np.trace(covariance) ** 2 / (covariance**2).sum() / len(covariance))
