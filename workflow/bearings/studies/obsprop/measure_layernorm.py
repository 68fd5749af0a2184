"""What norms do to features, in numbers (protocol 2.6): theorem, activations, tangents of the final norm, weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from bearings.evidence.stats import Estimate, estimate
from bearings.studies.obsprop.theorem import bound, expected_angle

Measures = dict[str, Estimate]
Options = Mapping[str, Any]
RADIANS, COSINE, LOGITS = "radians", "cosine", "logits"
TASKS = ("subj", "obj", "occ")
# Row of `input_norm` and `weight_ratio` by how the mean was taken.
PUBLISHED, CORRECTED = 0, 1


def measure(frame: pd.DataFrame, options: Options) -> Measures:
    """Measures `ln.*` of the table `layernorm`; what has no rows is missing, with the reason."""
    by = {str(quantity): rows for quantity, rows in frame.groupby("quantity", sort=True)}

    def rows(quantity: str) -> pd.DataFrame:
        return by.get(quantity, frame.iloc[:0])

    out = _theorem(rows("theorem_angle"), options)
    for quantity in ("activation_angle", "aligned_angle", "final_angle"):
        out |= _angles(f"ln.{quantity}", rows(quantity), options)
    out |= _gradients(rows("cos_gradient"), options)
    for r in rows("path_cos").itertuples():
        out[f"ln.path_cos.{r.task}.{r.other}"] = _number(r.value, 1, COSINE)
    tasks = dict.fromkeys((*TASKS, *rows("tangent_truth")["task"]))
    for task in tasks:
        out |= _tangents(task, {q: r[r["task"] == task] for q, r in by.items()}, frame.iloc[:0], options)
    return out | _heads(by) | _modules(rows("weight_var"), rows("weight_ratio"), rows("input_norm"))


def _number(value: float, n: int = 1, unit: str = "", reason: str = "") -> Estimate:
    """What is computed and not sampled: no interval. One that is not finite is missing."""
    if not np.isfinite(value):
        return Estimate.missing("the number is undefined", n, unit)
    return Estimate(float(value), None, None, int(n), unit, reason)


def _missing(names: list[str], what: str, unit: str = "") -> Measures:
    return {name: Estimate.missing(f"there are no rows of {what}", 0, unit) for name in names}


def _mean(rows: pd.DataFrame, options: Options, unit: str) -> Estimate:
    """Mean over rows; rows of one draw or prompt are resampled together."""
    return estimate(np.mean, rows["value"], clusters=rows["index"], unit=unit, **options)


def _scaled(found: Estimate, by: float, unit: str) -> Estimate:
    value, low, high = (None if x is None else x / by for x in (found.value, found.low, found.high))
    return replace(found, value=value, low=low, high=high, unit=unit)


def _theorem(rows: pd.DataFrame, options: Options) -> Measures:
    """Simulated mean angle of every width, and its distance from the closed form in standard errors."""
    names = ["ln.theorem.max_error_se", "ln.theorem.below_bound"]
    if rows.empty:
        return _missing(names, "theorem_angle")
    out, errors, below = {}, [], []
    for d, mine in rows.groupby("group", sort=True):
        found = estimate(np.mean, mine["value"], unit=RADIANS, **options)
        se = mine["value"].std(ddof=1) / np.sqrt(len(mine))
        errors.append(float((found.value - expected_angle(int(d))) / se))
        below.append(found.value < bound(int(d)))
        out[f"ln.theorem.d{d}.angle"] = found
        out[f"ln.theorem.d{d}.error_se"] = _number(errors[-1], len(mine), "standard errors")
        out[f"ln.theorem.d{d}.over_bound"] = _scaled(found, bound(int(d)), "of the bound")
    out[names[0]] = _number(max(map(abs, errors)), len(errors), "standard errors")
    return out | {names[1]: _number(np.mean(below), len(below), "share of widths")}


def _angles(name: str, rows: pd.DataFrame, options: Options) -> Measures:
    """Mean angle, the same over the theorem's bound at that width, and the largest mean of a layer over the bound."""
    names = [name, f"{name}.over_bound", f"{name}.worst_layer"]
    if rows.empty:
        return _missing(names, name.removeprefix("ln."), RADIANS)
    found, most = _mean(rows, options, RADIANS), bound(int(rows["group"].iloc[0]))
    worst = rows.groupby("layer")["value"].mean()
    layer = rows[rows["layer"] == worst.idxmax()]
    out = {name: found, names[1]: _scaled(found, most, "of the bound")}
    out[names[2]] = _scaled(_mean(layer, options, RADIANS), most, "of the bound")
    if name == "ln.final_angle":
        out |= {f"{name}.{task}": _mean(mine, options, RADIANS) for task, mine in rows.groupby("task")}
    return out


def _gradients(rows: pd.DataFrame, options: Options) -> Measures:
    """Cosine of heads' features without and with the norm's gradient: mean, and the head with the smallest mean."""
    names = ["ln.cos_gradient.mean", "ln.cos_gradient.min"]
    if rows.empty:
        return _missing(names, "cos_gradient", COSINE)
    of = rows.groupby(["layer", "head"])["value"].mean().sort_index()
    layer, head = of.idxmin()
    worst = rows[(rows["layer"] == layer) & (rows["head"] == head)]
    smallest = _mean(worst, options, COSINE)
    reason = "; ".join(filter(None, [f"head {layer}.{head}", smallest.reason]))
    return {names[0]: _mean(rows, options, COSINE), names[1]: replace(smallest, reason=reason)}


def _tangents(task: str, by: Mapping[str, pd.DataFrame], none: pd.DataFrame, options: Options) -> Measures:
    """Mean absolute errors of the tangents, and what to hold them against: tangents at random points, and zero."""
    head = f"ln.tangent.{task}"
    names = [f"{head}.{x}" for x in ("diagonal", "off_diagonal", "random", "zero", "over_random")]
    error, chance = by.get("tangent", none), by.get("tangent_random", none)
    out = _without(task, sorted(by.get("tangent_truth", none)["group"].unique()))
    if error.empty:
        return out | _missing([*names, f"{head}.crossings"], f"tangents of task {task}", LOGITS)
    chance = chance.groupby(["group", "index"])["value"].mean().reset_index()  # over draws
    own = error[error["group"].astype(str) == error["other"]]
    other = error[error["group"].astype(str) != error["other"]]
    out |= {
        f"{head}.g{i}.g{j}": _mean(rows, options, LOGITS)
        for (i, j), rows in error.groupby(["group", "other"])
    }
    out |= {names[0]: _mean(own, options, LOGITS), names[2]: _mean(chance, options, LOGITS)}
    out[names[1]] = (
        _mean(other, options, LOGITS) if len(other) else Estimate.missing("one template", 0, LOGITS)
    )
    # The control is made of the templates that have a tangent; zero is held against the same prompts.
    zero = by["tangent_truth"]
    out[names[3]] = _mean(zero[zero["group"].isin(own["group"])], options, LOGITS)
    out[names[4]] = _ratio(own, chance, options)
    out |= {f"{head}.g{r.group}.t": _number(r.value) for r in by["tangent_t"].itertuples()}
    out[f"{head}.crossings"] = _number(
        by["tangent_t"]["group"].nunique(), zero["group"].nunique(), "templates"
    )
    out |= {f"ln.grad_norm.{task}.g{r.group}": _number(r.value) for r in by["grad_norm"].itertuples()}
    cosines = by.get("grad_cos", none)
    out |= {
        f"ln.grad_cos.{task}.g{r.group}.g{r.other}": _number(r.value, 1, COSINE) for r in cosines.itertuples()
    }
    if cosines.empty:
        return out
    return out | {f"ln.grad_cos.{task}": _number(cosines["value"].min(), len(cosines), COSINE)}


def _without(task: str, groups: Sequence[int]) -> Measures:
    """What a task with these templates has to say, as if none of them had a tangent."""
    lone = [f"ln.tangent.{task}.g{i}.{x}" for i in groups for x in ("t", *(f"g{j}" for j in groups))]
    lone += [f"ln.grad_norm.{task}.g{i}" for i in groups]
    pairs = [f"ln.grad_cos.{task}.g{i}.g{j}" for i in groups for j in groups if i < j]
    why = "the outputs of the template's mean prompts do not lie on either side of zero"
    both = Estimate.missing(f"task {task} has no two templates with a tangent", 0, COSINE)
    return dict.fromkeys(lone, Estimate.missing(why, 0)) | dict.fromkeys(
        [*pairs, f"ln.grad_cos.{task}"], both
    )


def _ratio(own: pd.DataFrame, chance: pd.DataFrame, options: Options) -> Estimate:
    """Error of the groups' own tangents over that of tangents at random points, on the same prompts."""
    theirs = chance.set_index(["group", "index"])["value"]
    both = own.set_index(["group", "index"])["value"].to_frame("own").join(theirs.rename("chance")).dropna()

    def ratio(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return a.mean(axis) / b.mean(axis)

    return estimate(ratio, both["own"], both["chance"], unit="of the random points' error", **options)


def _heads(by: Mapping[str, pd.DataFrame]) -> Measures:
    """Tangents taken back through single heads: lengths by template, cosines and couplings by pair of templates."""
    out = {}
    for quantity in ("norm", "cos", "coupling"):
        for r in by.get(f"head_{quantity}", pd.DataFrame()).itertuples():
            groups = f"g{r.group}" if quantity == "norm" else f"g{r.group}.g{r.other}"
            out[f"ln.head.{r.layer}.{r.head}.{r.task}.{quantity}.{groups}"] = _number(r.value)
    return out


def _modules(variance: pd.DataFrame, ratio: pd.DataFrame, length: pd.DataFrame) -> Measures:
    """Weights of the norms and lengths of their inputs; `corrected` are means over all names, BOS left out."""
    names = ["ln.weight_var", *(f"ln.weight_ratio.{x}" for x in ("max", "first", "elsewhere"))]
    if variance.empty:
        return _missing(names, "weight_var")
    out = {names[0]: _number(variance["value"].mean(), len(variance), "mean over norms")}
    for index, tail in ((PUBLISHED, ""), (CORRECTED, ".corrected")):
        mine, its = ratio[ratio["index"] == index], length[length["index"] == index]
        if mine.empty:
            out |= _missing([f"{x}{tail}" for x in names[1:]], "weight_ratio")
            continue
        first = (mine["layer"] == 0) & (mine["other"] == "ln_1")
        summary: dict[str, Callable[[], float]] = {
            "max": mine["value"].max,
            "first": mine["value"][first].max,
            "elsewhere": mine["value"][~first].max,
        }
        out |= {f"ln.weight_ratio.{x}{tail}": _number(f(), len(mine)) for x, f in summary.items()}
        for r in its[its["other"] == "ln_1"].itertuples():
            out[f"ln.input_norm.l{r.layer}{tail}"] = _number(r.value)
        for r in its[its["other"] == "ln_f"].itertuples():
            out[f"ln.input_norm.final{tail}"] = _number(r.value)
    return out
