"""Outcome rows become scores: M1 to M4 (protocol 2) with bootstrap intervals, and the tests of Tables 7 and 8.

A table of hits has one row per answered test prompt or edit, with `seed` (of the split), `relation`, `subject` and
`hit`. Scores are means over split seeds; relations, or subjects within them, are what is resampled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from bearings.evidence.stats import Estimate, Test, estimate

Options = Mapping[str, Any]
# One edit of one split seed; published edits are drawn with duplicates, told apart by `copy`.
KEYS = ["seed", "relation", "prompt", "target", "copy"]


def ratio(hits: np.ndarray, counts: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean over split seeds of hits / counts, of columns [..., seeds, n]; a seed without counts is left out."""
    total = counts.sum(axis=axis)
    there = total > 0
    each = np.where(there, hits.sum(axis=axis) / np.where(there, total, 1), 0.0)
    return each.sum(-1) / there.sum(-1)


def shares(rows: pd.DataFrame) -> pd.DataFrame:
    """acc_r or caus_r: relation x split seed -> share of hits, NaN where a relation has no row in a seed."""
    return rows.groupby(["relation", "seed"])["hit"].mean().unstack("seed").sort_index()


def macro(rows: pd.DataFrame, options: Options, unit: str) -> Estimate:
    """M1 or M3: mean over relations, then over split seeds; interval over relations, n = relations."""
    table = shares(rows)
    return estimate(ratio, table.fillna(0.0), table.notna(), unit=unit, **options)


def micro(rows: pd.DataFrame, options: Options, unit: str) -> Estimate:
    """M2 or M4: hits over rows, then mean over split seeds; interval over (relation, subject), n = distinct rows."""
    cells = rows.groupby(["relation", "subject", "seed"])["hit"].agg(["sum", "count"]).astype(float)
    wide = cells.unstack("seed").fillna(0.0).sort_index()
    found = estimate(ratio, wide["sum"], wide["count"], unit=unit, **options)
    return replace(found, n=len(rows[KEYS[1:]].drop_duplicates()))


def by_seed(rows: pd.DataFrame, kind: str) -> pd.Series:
    """The macro or micro score of every split seed."""
    return shares(rows).mean() if kind == "macro" else rows.groupby("seed")["hit"].mean()


def spread(rows: pd.DataFrame, kind: str, unit: str) -> Estimate:
    """Standard deviation (n - 1) over split seeds of the per-seed score: the paper's plus-minus."""
    scores = by_seed(rows, kind)
    if len(scores) < 2:
        return Estimate.missing("one split seed: no spread", len(scores), unit)
    return Estimate(float(scores.std(ddof=1)), None, None, len(scores), unit)


def paired(a: pd.DataFrame, b: pd.DataFrame) -> pd.Series:
    """Relation -> mean over split seeds of share(a) - share(b), where both methods have rows."""
    return (shares(a) - shares(b)).mean(axis=1).dropna()


def matched(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """The same prompts, or edits, under two methods: keys with `hit_a` and `hit_b`."""
    return a[[*KEYS, "subject", "hit"]].merge(b[[*KEYS, "hit"]], on=KEYS, suffixes=("_a", "_b"))


def two_proportion_z(p1: float, p2: float, n: int) -> Test:
    """The paper's test of Tables 7 and 8: pooled z of two proportions of n rows each, two-sided.

    z = (p1 - p2) / sqrt(p(1 - p) 2/n) with p = (p1 + p2)/2. It takes the methods as independent, which they are not.
    """
    pooled = (p1 + p2) / 2
    if n == 0 or pooled in (0.0, 1.0):
        return Test(None, None, n, "no rows" if n == 0 else "both proportions are at the same end")
    z = (p1 - p2) / math.sqrt(pooled * (1 - pooled) * 2 / n)
    return Test(z, float(2 * stats.norm.sf(abs(z))), n)


def curves(tables: Sequence[pd.DataFrame]) -> np.ndarray:
    """[relations, tables] shares, mean over split seeds, of the relations that all of the tables have."""
    means = [shares(rows).mean(axis=1) for rows in tables]
    return pd.concat(means, axis=1, join="inner").sort_index().to_numpy(float)


def best(x: Sequence[float], curve: np.ndarray, options: Options, unit: str, scale: float = 1.0) -> Estimate:
    """The x (times `scale`) at which the mean over relations of `curve` [relations, len(x)] is largest.

    Ties go to the first x; the interval is over relations, n their number.
    """
    at = np.asarray(x, float) * scale

    def peak(c: np.ndarray, axis: int = -1) -> np.ndarray:
        # Means that differ by rounding alone are ties.
        return at[np.argmax(np.round(c.mean(axis=axis), 12), axis=-1)]

    return estimate(peak, curve, unit=unit, **options)


def rank_correlation(x: Sequence[float], curve: np.ndarray, options: Options) -> Estimate:
    """Spearman of x with the mean over relations of `curve` [relations, n]; interval over relations."""
    own = stats.rankdata(x)
    own = own - own.mean()

    def rho(c: np.ndarray, axis: int = -1) -> np.ndarray:
        ranks = stats.rankdata(np.round(c.mean(axis=axis), 12), axis=-1)
        ranks = ranks - ranks.mean(-1, keepdims=True)
        return (ranks * own).sum(-1) / np.sqrt((ranks * ranks).sum(-1) * (own * own).sum())

    return replace(estimate(rho, curve, unit="Spearman", **options), n=len(x))
