"""Outcome tables become hits by variant, score and method, with the edit strength that each method is read at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from bearings.evidence.stats import Estimate
from bearings.studies.lrc.metrics import KEYS, Options, macro, shares

PUBLISHED_METHODS = ("lrc", "first_final", "svm", "average")
METHODS = (
    *("lrc", "first_mid", "first_final", "transpose", "full_rank", "scrambled", "permuted"),
    *("svm", "svm_fair", "logistic", "average", "centred", "random"),
)
# Edits with LRC's own directions, or in their place: read at LRC's strength, never at one of their own.
CONTROLS = ("reversed", "random", "other_relation", "after", "substitute")
UNITS = {"acc": "share of test prompts", "caus": "share of edits"}
COLUMNS = [*KEYS, "category", "subject", "tokens", "n_objects", "hit"]
Betas = Mapping[tuple[str, str], Mapping[int, float]]


@dataclass(frozen=True, eq=False)
class Scored:
    """Hits by (variant, score, method), strengths by (variant, method) and split seed, and why nothing is there."""

    hits: Mapping[tuple[str, str, str], pd.DataFrame]
    betas: Betas
    edits: Mapping[tuple[str, str], pd.DataFrame]
    why: Mapping[str, str]
    options: Options = field(default_factory=dict)

    def get(self, variant: str, score: str, method: str) -> pd.DataFrame | None:
        return self.hits.get((variant, score, method))

    def names(self, variant: str, score: str) -> list[str]:
        return sorted(m for v, s, m in self.hits if (v, s) == (variant, score))

    def missing(self, variant: str, score: str, *methods: str, unit: str | None = None) -> Estimate:
        """Why a score of these methods cannot be had."""
        absent = [m for m in methods if self.get(variant, score, m) is None]
        what = "edits" if score == "caus" else "answers"
        why = self.why[variant] or f"no {what} of {', '.join(absent or methods)} in the {variant} variant"
        return Estimate.missing(why, 0, UNITS[score] if unit is None else unit)


def score(
    outcomes: Mapping[str, pd.DataFrame], why: Mapping[str, str], published_beta: object, options: Options
) -> Scored:
    """Split the outcome tables by what they score; edits are taken on test prompts, each method at its strength.

    Args:
        why: variant -> reason if nothing survives the filters, else "".
        published_beta: the paper's strength; 0 or none for the best one on the test edits (section 5 row 11).
    """
    edit = outcomes["edit"]
    edits = {(v, m): rows for (v, m), rows in edit.groupby(["variant", "method"], sort=True)}
    betas = tuned(edits, published_beta)
    hits = {(v, "acc", m): part for (v, m), part in _parts(outcomes["classify"], "right")}
    swept = outcomes["sweep"]
    hits |= {(v, "caus", m): part for (v, m), part in _parts(swept[swept["beta"] > 0], "success")}
    for (variant, method), rows in edits.items():
        there = at_beta(rows[rows["stage"] == "test"], betas.get((variant, method)))
        hits |= {(v, "caus", m): part for (v, m), part in _parts(there, "success")}
    return Scored(hits, betas, edits, why, options)


def _parts(rows: pd.DataFrame, hit: str):
    """((variant, method), hits) of a `classify`, `edit` or `sweep` table."""
    target = rows["target"] if "target" in rows else pd.Series(-1, rows.index)
    tokens = rows["answer_tokens"] if "answer_tokens" in rows else rows["target_tokens"]
    n_objects = rows["n_objects"] if "n_objects" in rows else pd.Series(np.nan, rows.index)
    table = rows.assign(target=target, tokens=tokens, n_objects=n_objects, hit=rows[hit].astype(float))
    keys = ["variant", "method", "seed", "relation", "prompt", "target"]
    table["copy"] = table.groupby(keys).cumcount()
    for name, part in table.groupby(["variant", "method"], sort=True):
        yield name, part[COLUMNS]


def at_beta(rows: pd.DataFrame, betas: Mapping[int, float] | None) -> pd.DataFrame:
    """The edits of each split seed at its strength; all of them where strength has no meaning (None)."""
    if betas is None:
        return rows
    wanted = rows["seed"].map(betas).astype(float)
    return rows[np.isclose(rows["beta"], wanted)]


def tuned(edits: Mapping[tuple[str, str], pd.DataFrame], published_beta: object) -> Betas:
    """(variant, method) -> split seed -> strength; a method that has none is absent.

    Corrected: largest M3 on the edits of training prompts, the smaller strength on ties; a method without such
    edits is read at LRC's, and one that was run at a single strength at that. Published: the paper's strength, or the
    best on the test edits of all split seeds.
    """
    out: dict[tuple[str, str], dict[int, float]] = {}
    for (variant, method), rows in edits.items():
        if method == "substitute":
            continue
        if variant == "published":
            out[variant, method] = _published(rows, published_beta)
        else:
            own = rows if method not in CONTROLS else rows.iloc[:0]
            wanted = _trained(own) or _trained(edits.get((variant, "lrc"), own))
            out[variant, method] = {**wanted, **_only(rows, wanted)}
    return out


def _only(rows: pd.DataFrame, wanted: Mapping[int, float]) -> dict[int, float]:
    """The one strength that a split seed was run at, where the wanted one was not."""
    test = rows[(rows["stage"] == "test") & (rows["beta"] > 0)]
    out = {}
    for seed, part in test.groupby("seed", sort=True):
        run = part["beta"].unique()
        if len(run) == 1 and not np.isclose(run[0], wanted.get(seed, np.nan)):
            out[int(seed)] = float(run[0])
    return out


def _trained(rows: pd.DataFrame) -> dict[int, float]:
    train = rows[(rows["stage"] == "train") & (rows["beta"] > 0)]
    found = {seed: best_beta(part) for seed, part in train.groupby("seed", sort=True)}
    return {int(seed): beta for seed, beta in found.items()}


def _published(rows: pd.DataFrame, fixed: object) -> dict[int, float]:
    test = rows[(rows["stage"] == "test") & (rows["beta"] > 0)]
    if test.empty:
        return {}
    number = isinstance(fixed, int | float) and not isinstance(fixed, bool)
    beta = float(fixed) if number and fixed > 0 else best_beta(test)
    return {int(seed): beta for seed in sorted(test["seed"].unique())}


def best_beta(rows: pd.DataFrame) -> float:
    """The strength of the largest macro causality of these edits, mean over their split seeds; ties: the smaller."""
    scores = {}
    for beta, part in rows.groupby("beta", sort=True):
        table = shares(part.assign(hit=part["success"].astype(float)))
        # Means that differ by rounding alone are ties.
        scores[beta] = round(float(table.mean().mean()), 12)
    return float(max(scores, key=scores.get))


def macro_at(rows: pd.DataFrame, options: Options) -> Estimate:
    """M3 of edits of one strength."""
    return macro(rows.assign(hit=rows["success"].astype(float)), options, UNITS["caus"])
