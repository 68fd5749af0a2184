"""Do coupling coefficients predict slopes (protocol 2.3)? Fits from sums of scores by block of running text.

That slopes come near C and r^2 near cos^2 is geometry wherever activations have no preferred direction, and so is
no evidence of learning; what breaks it is a pair of scores that do not belong together (`shuffled`, whose C stays
what it was), and what learning adds is a C far from 0 at the heads of the largest attribution.

Corrected measures read the head's own residual, without the first position of each window; `published` ones follow
the authors: norms swapped, the residual of an earlier layer, all positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from bearings.evidence.stats import Estimate, estimate
from bearings.studies.obsprop.measure_patching import TOP, Head, Measures, Options, missing, named, plain

SUMS = ["n", "sx", "sy", "sxx", "sxy", "syy"]
UNITS = {
    "slope": "slope",
    "intercept": "intercept",
    "r2": "r^2",
    "error": "slope - C",
    "r2_error": "r^2 - cos^2",
}
PUBLISHED: tuple[Head, ...] = ((17, 14), (15, 13), (13, 11))
OURS = {"pair": "subj_obj", "mode": "scale", "site": "own", "first": False}
# Name of a reading -> how it differs from ours.
READINGS = {
    "normed": {"mode": "ignore", "site": "normed"},
    "mistaken": {"site": "mistaken"},
    "random": {"pair": "subj_random"},
    "shuffled": {"pair": "subj_shuffled"},
}
THEIRS = {"mode": "scale_swapped", "site": "mistaken", "first": True}


def coupling(table: pd.DataFrame, ranks: Sequence[Head], options: Options) -> Measures:
    """`coupling.*`; `ranks` are the heads by attribution, largest first."""
    out: Measures = {}
    for k in range(TOP):
        head = ranks[k] if k < len(ranks) else None
        out |= _fits(f"coupling.top{k + 1}", chosen(table, head), options)
        for name in READINGS if k == 0 else ("normed", "mistaken"):
            rows = chosen(table, head, **READINGS[name])
            out |= _fits(f"coupling.{name}.top{k + 1}", rows, options)
    for a, b in PUBLISHED:
        out |= _fits(f"coupling.published.{a}.{b}", chosen(table, (a, b), **THEIRS), options)
        without = chosen(table, (a, b), **{**THEIRS, "first": False})
        out |= _fits(f"coupling.published.no_first.{a}.{b}", without, options)
        out |= _fits(f"coupling.corrected.{a}.{b}", chosen(table, (a, b)), options)
    for variant in ("published", "corrected"):
        out[f"coupling.{variant}.max_error"] = _largest(out, variant)
    paths = table[(table["pair"] == "paths") & table["first"]]
    out |= _fits("coupling.paths", paths, options)
    out |= _all("coupling.all", table, {}, options)
    return out | _all("coupling.all.normed", table, READINGS["normed"], options)


def _largest(out: Measures, variant: str) -> Estimate:
    """The largest |slope - C| of the published heads."""
    errors = [out[f"coupling.{variant}.{a}.{b}.error"].value for a, b in PUBLISHED]
    if None in errors:
        return Estimate.missing("this model lacks heads of the paper's", 0, "|slope - C|")
    return plain(max(map(abs, errors)), len(errors), "|slope - C|")


def chosen(table: pd.DataFrame, head: Head | None = None, **how: object) -> pd.DataFrame:
    """Rows of one way to read scores, of one head or of all; none where there is no head."""
    for column, value in {**OURS, **how}.items():
        table = table[table[column] == value]
    if head is None:
        return table.iloc[:0]
    return table[(table["layer"] == head[0]) & (table["head"] == head[1])]


def fit(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Slope, intercept and r^2 of y on x [...] from sums [..., 6]."""
    n, sx, sy, sxx, sxy, syy = np.moveaxis(sums, -1, 0)
    vx, vy, c = sxx - sx * sx / n, syy - sy * sy / n, sxy - sx * sy / n
    slope = c / vx
    return {"slope": slope, "intercept": (sy - slope * sx) / n, "r2": c * c / (vx * vy)}


def _fits(name: str, rows: pd.DataFrame, options: Options) -> Measures:
    """The line of one pair of scores and what was predicted of it; blocks of text are resampled, n = tokens."""
    names = [f"{name}.{x}" for x in ("predicted", "cos", "cos2", *UNITS)]
    if rows.empty:
        return missing(names, "no such head, or no scores of it")
    c, cos = (float(rows[x].iloc[0]) for x in ("predicted", "cos"))
    out = {names[0]: plain(c, 1, "coupling coefficient"), names[1]: plain(cos, 1, "cosine")}
    out[names[2]] = plain(cos**2, 1, "cosine squared")
    where = named((int(rows["layer"].iloc[0]), int(rows["head"].iloc[0])))
    statistics: dict[str, Callable[[dict[str, np.ndarray]], np.ndarray]] = {
        "slope": lambda f: f["slope"],
        "intercept": lambda f: f["intercept"],
        "r2": lambda f: f["r2"],
        "error": lambda f: f["slope"] - c,
        "r2_error": lambda f: f["r2"] - cos**2,
    }
    for key, of in statistics.items():
        found = _over_blocks(rows, of, options)
        out[f"{name}.{key}"] = replace(found, unit=UNITS[key], reason=found.reason or where)
    return out


def _over_blocks(
    rows: pd.DataFrame, of: Callable[[dict[str, np.ndarray]], np.ndarray], options: Options
) -> Estimate:
    rows = rows.sort_values("window")
    found = estimate(lambda x, axis=-1: of(fit(x.sum(axis))), rows[SUMS].to_numpy(float), **options)
    return replace(found, n=int(rows["n"].sum()))


def _all(name: str, table: pd.DataFrame, how: dict[str, object], options: Options) -> Measures:
    """Over all heads: do C and cos^2 follow slopes and r^2, how far is C from the slope, and how far is the slope of
    one half of the text from the other's, which is what the covariance form of C predicts it by?"""
    names = ("corr_slope", "corr_r2", "mean_abs_error", "covariance_error")
    for column, value in {**OURS, **how}.items():
        table = table[table[column] == value]
    heads = table[["layer", "head"]].drop_duplicates()
    if len(heads) < 3:
        return missing([f"{name}.{x}" for x in names], f"scores of {len(heads)} heads: too few")
    table = table.sort_values(["layer", "head", "window"])
    wide = table.pivot_table(index=["half", "window"], columns=["layer", "head"], values=SUMS, aggfunc="sum")
    sums = np.stack([wide[s].fillna(0.0).to_numpy(float) for s in SUMS], -1)
    first = table.groupby(["layer", "head"])[["predicted", "cos"]].first()
    c, cos2 = first["predicted"].to_numpy(float), first["cos"].to_numpy(float) ** 2
    blocks, width = sums.shape[0], len(first)

    def over(of: Callable[[dict[str, np.ndarray]], np.ndarray], unit: str) -> Estimate:
        def statistic(x: np.ndarray, axis: int = -1) -> np.ndarray:
            total = x.sum(axis)
            return of(fit(total.reshape(*total.shape[:-1], width, len(SUMS))))

        found = estimate(statistic, sums.reshape(blocks, -1), unit=unit, **options)
        # Noise makes a mean of absolute values larger, so that all resamples may lie above the value.
        low = None if found.low is None else min(found.low, found.value)
        return replace(found, low=low, n=width)

    return {
        f"{name}.corr_slope": over(lambda f: _corr(f["slope"], c), "Pearson over heads"),
        f"{name}.corr_r2": over(lambda f: _corr(f["r2"], cos2), "Pearson over heads"),
        f"{name}.mean_abs_error": over(
            lambda f: np.abs(f["slope"] - c).mean(-1), "mean |slope - C| over heads"
        ),
        f"{name}.covariance_error": _halves(wide.index.get_level_values("half"), sums),
    }


def _halves(half: pd.Index, sums: np.ndarray) -> Estimate:
    """Mean over heads of |slope of one half of the blocks - slope of the other|; both halves are used whole."""
    unit = "mean |slope - slope of the other half| over heads"
    parts = [sums[np.asarray(half == h)].sum(0) for h in (0, 1)]
    if min(p[:, 0].min() for p in parts) == 0:
        return Estimate.missing("the text fills one block only", 0, unit)
    a, b = (fit(p)["slope"] for p in parts)
    return plain(np.abs(a - b).mean(), len(a), unit)


def _corr(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = (v - v.mean(-1, keepdims=True) for v in (x, y))
    return (x * y).sum(-1) / np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
