"""Held-out rows become learning curves (protocol 2.7): how many labelled rows a baseline needs to match two prompts.

Like for like, a resplit's value is r |r| of score and logit difference (r^2 with its sign, so that a direction which
points the wrong way does not count: trap T20), or the area under the ROC curve for code. As published it is r^2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from bearings.evidence.stats import Estimate, estimate
from bearings.studies.obsprop.measure_readout import auc, r, r2

Options = Mapping[str, Any]
TASKS = ("pronoun", "party", "code")
BASELINES = {"regression": "regression", "mean_diff": "mean_diff", "leace": "leace"}
# Resplits draw from the same rows, so their spread says how much hangs on the draw, not on the names there are.
OVER_SPLITS = "over resplits of the same rows"


def measure(frame: pd.DataFrame, options: Options) -> dict[str, Estimate]:
    """Measures `lowdata.*` of the `lowdata` table.

    Args:
        options: `seed` and `resamples` of the bootstrap: over resplits like for like, over clusters as published.
    """
    out: dict[str, Estimate] = {}
    for (task, variant), rows in frame.groupby(["task", "variant"], sort=True):
        if variant == "published":
            found = published(task, rows, options)
            out |= {f"lowdata.{task}.published.{name}": e for name, e in found.items()}
        else:
            table = by_split(task, rows)
            inside = f"lowdata.{task}.{variant}"
            out |= {f"{inside}.{name}": e for name, e in levels(task, table, options).items()}
            # Contrasts of the main variant go without its name.
            inside = f"lowdata.{task}" if variant == "like" else inside
            out |= {f"{inside}.{name}": e for name, e in contrasts(task, table, options).items()}
    for task in TASKS:
        if f"lowdata.{task}.matched_at" not in out:
            out[f"lowdata.{task}.matched_at"] = Estimate.missing(
                "no resplits of this task", 0, "training rows"
            )
    return out


def unit_of(task: str) -> str:
    return f"{'AUC' if task == 'code' else 'r |r|'}, {OVER_SPLITS}"


def value(task: str, score: np.ndarray, label: np.ndarray, output: np.ndarray) -> float:
    """r |r|, or AUC for code, of the test rows of one resplit.

    A constant score says nothing: 0, or 0.5. NaN where the answers are constant.
    """
    if task == "code":
        return float(auc(score, label))
    if np.ptp(output) == 0 or len(output) < 2:
        return float("nan")
    if np.ptp(score) == 0:
        return 0.0
    found = float(r(score, output))
    return found * abs(found)


def by_split(task: str, rows: pd.DataFrame) -> pd.DataFrame:
    """(method, n_train) x split -> value; NaN where a resplit has none."""
    keys = ["method", "n_train", "split"]
    found = {
        key: value(task, *(mine[c].to_numpy(float) for c in ("score", "label", "output")))
        for key, mine in rows.groupby(keys, sort=True)
    }
    return pd.Series(found).rename_axis(keys).unstack("split")


def levels(task: str, table: pd.DataFrame, options: Options) -> dict[str, Estimate]:
    """Mean over resplits of every method and training size; of the random vectors also the 95 % quantile."""
    out = {
        f"{method}.n{n}": estimate(np.mean, row.dropna(), unit=unit_of(task), **options)
        for (method, n), row in table.iterrows()
    }
    random = _of(table, "random")
    if random is not None:
        q95 = float(np.quantile(random.dropna(), 0.95)) if random.notna().any() else None
        out["random.q95"] = (
            Estimate.missing("no value", 0, unit_of(task))
            if q95 is None
            else Estimate(
                q95, None, None, int(random.notna().sum()), unit_of(task), "a quantile: no interval"
            )
        )
    return out


def contrasts(task: str, table: pd.DataFrame, options: Options) -> dict[str, Estimate]:
    """ObsProp less each baseline on the same test rows, by training size; where regression reaches ObsProp."""
    fixed, out = _of(table, "obsprop"), {}
    if fixed is None:
        return out
    for short, method in BASELINES.items():
        for n, row in table.xs(method, level="method").iterrows() if method in table.index else ():
            out[f"obsprop_minus_{short}.n{n}"] = _mean(fixed - row, task, options)
    for n, row in (
        table.xs("obsprop_chosen", level="method").iterrows() if "obsprop_chosen" in table.index else ()
    ):
        if ("regression", n) in table.index:
            out[f"obsprop_chosen_minus_regression.n{n}"] = _mean(
                row - table.loc["regression", n], task, options
            )
    out["matched_at"] = matched_at(table, options)
    return out


def matched_at(table: pd.DataFrame, options: Options) -> Estimate:
    """The smallest training size at which regression's mean over resplits is at least ObsProp's."""
    fixed, unit = _of(table, "obsprop"), "training rows"
    if fixed is None or "regression" not in table.index:
        return Estimate.missing("no regression, or no feature, to compare", 0, unit)
    curve = table.xs("regression", level="method")
    sizes = curve.index.to_numpy(float)
    gaps = (curve - fixed).dropna(axis=1).to_numpy(float).T
    if not len(gaps):
        return Estimate.missing("no resplit has every size", 0, unit)

    def first(g: np.ndarray, axis: int = -1) -> np.ndarray:
        # Means that differ by rounding alone are equal.
        reached = g.mean(-1) >= -1e-12
        return np.where(reached.any(-1), sizes[reached.argmax(-1)], np.nan)

    if np.isnan(first(gaps.T)):
        return Estimate.missing(
            f"regression does not reach ObsProp with {int(sizes[-1])} rows", len(gaps), unit
        )
    return estimate(first, gaps, unit=unit, **options)


def published(task: str, rows: pd.DataFrame, options: Options) -> dict[str, Estimate]:
    """ObsProp on every row, its own prompts and the training rows among them; baselines on the test rows.

    Regression on training and test rows together is there for the party, as the authors also show it.
    """
    out = {}
    for (method, n), mine in rows.groupby(["method", "n_train"], sort=True):
        test = mine[mine["part"] == "test"]
        kinds = {method: mine if method == "obsprop" else test}
        if (task, method) == ("party", "regression"):
            kinds["regression_all"] = mine
        for name, kept in kinds.items():
            out |= {f"{name}.n{n}{suffix}": e for suffix, e in _scored(task, kept, options).items()}
    return out


def _scored(task: str, rows: pd.DataFrame, options: Options) -> dict[str, Estimate]:
    kinds = (
        {"": (auc, "label", "AUC")}
        if task == "code"
        else {"": (r2, "output", "r2"), ".r": (r, "output", "r")}
    )
    return {
        suffix: estimate(f, rows["score"], rows[target], clusters=rows["cluster"], unit=unit, **options)
        for suffix, (f, target, unit) in kinds.items()
    }


def _of(table: pd.DataFrame, method: str) -> pd.Series | None:
    """Values by split of a method that has one training size."""
    return table.xs(method, level="method").iloc[0] if method in table.index else None


def _mean(values: pd.Series, task: str, options: Options) -> Estimate:
    return estimate(np.mean, values.dropna(), unit=f"difference of {unit_of(task)}", **options)
