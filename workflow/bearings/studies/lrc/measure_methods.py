"""Accuracy and causality of every method (M1 to M4), by category, by subject and against chance."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from bearings.evidence.stats import Estimate, estimate
from bearings.studies.lrc.common import VARIANTS
from bearings.studies.lrc.measure_counts import CATEGORIES, Measures
from bearings.studies.lrc.measure_scores import (
    CONTROLS,
    METHODS,
    PUBLISHED_METHODS,
    UNITS,
    Scored,
    best_beta,
    macro_at,
)
from bearings.studies.lrc.metrics import by_seed, macro, micro, ratio, spread

# What is measured on few samples each: macro scores only.
ONES = ("single_same", "single_other", "single_distinct")
ABOVE = ("lrc", "svm", "full_rank", "scrambled", "permuted", "random", "majority")
BY_CATEGORY = {"acc": ("lrc",), "caus": ("lrc", "single_layer", "substitute")}


def methods(scored: Scored) -> Measures:
    """`<variant>.<method>.<acc or caus>.<macro or micro>` and what belongs to it, for everything that was run."""
    out: Measures = {}
    for variant in VARIANTS:
        for score in ("acc", "caus"):
            wanted = _wanted(variant, score)
            for method in sorted({*wanted, *scored.names(variant, score)}):
                head = f"{variant}.{method}.{score}"
                rows = scored.get(variant, score, method)
                out |= _scores(
                    head, rows, scored, method in wanted and method not in ONES, variant, score, method
                )
            for method in BY_CATEGORY[score] if variant == "corrected" else ("lrc",):
                out |= _categories(scored, variant, score, method)
        out |= _betas(scored, variant)
    return out | _chance(scored)


def _wanted(variant: str, score: str) -> tuple[str, ...]:
    """Methods whose measures are always there, if only as missing."""
    if variant == "published":
        return PUBLISHED_METHODS
    return (*METHODS, *ONES, "majority") if score == "acc" else (*METHODS, *ONES, *CONTROLS, "single_layer")


def _scores(
    head: str, rows: pd.DataFrame | None, scored: Scored, whole: bool, variant: str, score: str, method: str
) -> Measures:
    """Macro, and for a `whole` method micro too, each with its spread over split seeds."""
    kinds = ("macro", "micro") if whole else ("macro",)
    if rows is None:
        missing = scored.missing(variant, score, method)
        names = [f"{head}.{kind}{tail}" for kind in kinds for tail in ("", ".sd")]
        return dict.fromkeys([*names, *([f"{head}.subjects"] if whole else [])], missing)
    out: Measures = {}
    for kind in kinds:
        of = macro if kind == "macro" else micro
        out[f"{head}.{kind}"] = of(rows, scored.options, UNITS[score])
        out[f"{head}.{kind}.sd"] = spread(rows, kind, UNITS[score])
        for seed, value in by_seed(rows, kind).items():
            n = int((rows["seed"] == seed).sum())
            out[f"{head}.{kind}.seed{seed}"] = Estimate(float(value), None, None, n, UNITS[score])
    if whole:
        out[f"{head}.subjects"] = _by_subject(rows, scored, UNITS[score])
    return out


def _by_subject(rows: pd.DataFrame, scored: Scored, unit: str) -> Estimate:
    """Mean over subjects of a relation, whatever their number of prompts (section 5, row 16); n = subjects."""
    means = rows.groupby(["relation", "subject", "seed"])["hit"].mean().unstack("seed").sort_index()
    return estimate(ratio, means.fillna(0.0), means.notna(), unit=unit, **scored.options)


def _categories(scored: Scored, variant: str, score: str, method: str) -> Measures:
    """A macro score by category: computed by the authors' code, never published."""
    rows = scored.get(variant, score, method)
    there = {} if rows is None else dict(list(rows.groupby("category", sort=True)))
    out: Measures = {}
    for category in sorted({*CATEGORIES, *there}):
        name = f"{variant}.{method}.{score}.category.{category}"
        if category in there:
            out[name] = macro(there[category], scored.options, UNITS[score])
        elif rows is None:
            out[name] = scored.missing(variant, score, method)
        else:
            out[name] = Estimate.missing(f"no relation of category {category} is kept", 0, UNITS[score])
    return out


def _betas(scored: Scored, variant: str) -> Measures:
    """Strength at which each method is read, and LRC's causality at every strength of the grid."""
    out: Measures = {}
    for method in (*METHODS, "single_layer") if variant == "corrected" else PUBLISHED_METHODS:
        head = f"{variant}.{method}"
        own = scored.betas.get((variant, method))
        if not own:
            out[f"{head}.beta"] = scored.missing(variant, "caus", method, unit="strength")
            continue
        for seed, beta in own.items():
            out[f"{head}.beta.seed{seed}"] = Estimate(beta, None, None, 1, "strength")
        middle = float(pd.Series(own).median())
        out[f"{head}.beta"] = Estimate(middle, None, None, len(own), "strength, median over split seeds")
        rows = scored.edits[variant, method]
        for beta, part in rows[rows["stage"] == "test"].groupby("beta", sort=True):
            # Methods without a curve were run at their own strength, which split seeds may choose differently.
            if part["seed"].nunique() == len(own):
                out[f"{head}.caus.beta.{beta:g}"] = macro_at(part, scored.options)
    out[f"{variant}.lrc.beta.best"] = _best(scored, variant)
    return out


def _best(scored: Scored, variant: str) -> Estimate:
    """LRC's best strength on the test edits themselves: how the paper's was found."""
    rows = scored.edits.get((variant, "lrc"))
    test = rows if rows is None else rows[(rows["stage"] == "test") & (rows["beta"] > 0)]
    if test is None or test.empty:
        return scored.missing(variant, "caus", "lrc", unit="strength")
    return Estimate(best_beta(test), None, None, test["relation"].nunique(), "strength")


def _chance(scored: Scored) -> Measures:
    """Control C3, 1/objects, and what methods reach above it in the same relations."""
    rows = scored.get("corrected", "acc", "lrc")
    if rows is None:
        missing = scored.missing("corrected", "acc", "lrc")
        out = {"corrected.chance.acc.macro": missing}
    else:
        out = {
            "corrected.chance.acc.macro": macro(
                rows.assign(hit=1 / rows["n_objects"]), scored.options, UNITS["acc"]
            )
        }
    for method in ABOVE:
        rows = scored.get("corrected", "acc", method)
        name = f"corrected.{method}.acc.above_chance"
        if rows is None:
            out[name] = scored.missing("corrected", "acc", method)
        else:
            above = macro(rows.assign(hit=rows["hit"] - 1 / rows["n_objects"]), scored.options, UNITS["acc"])
            out[name] = replace(above, unit="accuracy above 1/objects")
    return out
