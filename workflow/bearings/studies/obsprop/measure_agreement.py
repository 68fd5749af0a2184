"""Are the heads with the largest norms those with the largest attributions (protocol 2.2)?

Norms are fixed by the weights; name pairs are resampled. No correlation was ever published, only the largest heads.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import stats

from bearings.evidence.stats import Estimate, estimate
from bearings.studies.obsprop.common import NAME_TASKS, TASKS
from bearings.studies.obsprop.measure_patching import Measures, Options, effects, missing, named, plain

SHUFFLES = 1000


def agreement(table: pd.DataFrame, weights: pd.DataFrame, options: Options) -> Measures:
    """`patch.agreement.<task>.*` and `patch.exception.<task>` of every task about names."""
    out: Measures = {}
    for task in NAME_TASKS:
        wide, observable = effects(table, task), TASKS[task]
        out |= _agreement(f"patch.agreement.{task}", wide, weights, observable, options)
        out[f"patch.exception.{task}"] = _exception(wide, weights, observable, options)
    return out


def norms(weights: pd.DataFrame, observable: str, quantity: str) -> pd.Series:
    """A quantity of every head, by (layer, head)."""
    rows = weights[
        (weights["quantity"] == quantity) & (weights["observable"] == observable) & (weights["layer"] >= 0)
    ]
    return rows.set_index(["layer", "head"])["value"].sort_index()


def _agreement(
    head: str, wide: pd.DataFrame, weights: pd.DataFrame, observable: str, options: Options
) -> Measures:
    """Do heads with large norms have large attributions? Norms are fixed, name pairs are resampled."""
    kinds = ("pearson", "spearman")
    names = [
        f"{head}.{k}{tail}" for k in kinds for tail in ("", ".shuffled", ".shuffled.q95", ".above_shuffled")
    ]
    names += [f"{head}.{x}" for x in ("overlap3", "overlap5", "overlap4_3")]
    norm = norms(weights, observable, "norm_ln_corrected")
    heads = [h for h in norm.index if h in wide]
    if len(heads) < 6:
        return missing(names, f"{len(heads)} heads have a norm and an attribution: too few")
    attr, norm = wide[heads].to_numpy(float), norm.loc[heads].to_numpy(float)
    out: Measures = {}
    for kind in kinds:
        out |= _correlated(f"{head}.{kind}", attr, norm, kind, options)
    for k in (3, 5):
        out[f"{head}.overlap{k}"] = _overlap(attr, norm, k, k, options)
    # As published: three of the four heads of the largest norms are those of the three largest attributions.
    theirs = norms(weights, observable, "norm_ln_published").loc[heads].to_numpy(float)
    out[f"{head}.overlap4_3"] = _overlap(attr, theirs, 4, 3, options)
    return out


def _correlated(name: str, attr: np.ndarray, norm: np.ndarray, kind: str, options: Options) -> Measures:
    def of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if kind == "spearman":
            a, b = stats.rankdata(a, axis=-1), stats.rankdata(b, axis=-1)
        a, b = (x - x.mean(-1, keepdims=True) for x in (a, b))
        return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))

    found = estimate(
        lambda x, axis=-1: of(np.abs(x.mean(axis)), norm), attr, unit=f"{kind} over heads", **options
    )
    found = replace(found, n=len(norm))
    rng = np.random.default_rng([options["seed"], 21])
    mixed = rng.permuted(np.tile(norm, (SHUFFLES, 1)), axis=1)
    draws = of(np.abs(attr.mean(0)), mixed)
    if found.value is None:
        return {f"{name}{x}": found for x in ("", ".shuffled", ".shuffled.q95", ".above_shuffled")}
    q95 = float(np.quantile(draws, 0.95))
    return {
        name: found,
        f"{name}.shuffled": estimate(np.mean, draws, unit=found.unit, **options),
        f"{name}.shuffled.q95": plain(q95, SHUFFLES, found.unit),
        f"{name}.above_shuffled": _less(found, q95),
    }


def _less(found: Estimate, number: float) -> Estimate:
    """An estimate minus a fixed number."""
    low, high = (None if x is None else x - number for x in (found.low, found.high))
    return replace(found, value=found.value - number, low=low, high=high)


def _overlap(attr: np.ndarray, norm: np.ndarray, by_norm: int, by_attr: int, options: Options) -> Estimate:
    """How many of the `by_attr` heads of largest |mean attribution| are among the `by_norm` of largest norm."""
    large = np.zeros(len(norm), bool)
    large[np.argsort(-norm, kind="stable")[:by_norm]] = True

    def shared(x: np.ndarray, axis: int = -1) -> np.ndarray:
        order = np.argsort(-np.abs(x.mean(axis)), axis=-1, kind="stable")
        return large[order[..., :by_attr]].sum(-1).astype(float)

    return estimate(shared, attr, unit=f"of {by_attr} heads", **options)


def _exception(wide: pd.DataFrame, weights: pd.DataFrame, observable: str, options: Options) -> Estimate:
    """Rank by attribution of the head with the largest norm (published: the largest norm, a small attribution)."""
    unit, norm = "rank by |attribution|", norms(weights, observable, "norm")
    heads = [h for h in norm.index if h in wide]
    if not heads:
        return Estimate.missing("no head has a norm and an attribution", 0, unit)
    which = int(np.argmax(norm.loc[heads].to_numpy(float)))

    def rank(x: np.ndarray, axis: int = -1) -> np.ndarray:
        size = np.abs(x.mean(axis))
        return 1.0 + (size > size[..., which, None]).sum(-1)

    found = estimate(rank, wide[heads].to_numpy(float), unit=unit, **options)
    return replace(found, reason=found.reason or named(heads[which]))
