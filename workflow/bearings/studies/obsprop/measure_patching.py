"""Which heads carry an observable from the name (protocol 2.2)?

Pairs of names are the units: a name's prompts in all templates are one row, and rows are what is resampled. Heads are
ranked by |mean attribution| on the names of even number in the first two templates; what is said of the k-th head is
measured on the names of odd number in all templates, which had no part in choosing it. Heads that the paper names by
number are measured on all pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from bearings.evidence.stats import Estimate, estimate
from bearings.studies.obsprop.common import NAME_TASKS

Measures = dict[str, Estimate]
Options = Mapping[str, Any]
Head = tuple[int, int]
# Heads with published attributions (protocol 2.2), the five largest of 300 pairs first.
PUBLISHED: dict[str, tuple[Head, ...]] = {
    "subj": ((17, 14), (13, 11), (15, 13), (13, 3), (22, 2), (18, 11)),
    "obj": ((17, 14), (13, 11), (15, 13), (22, 2), (23, 0), (15, 0), (18, 11)),
}
UNIT = "logits"
TOP = 3
LISTED = 5


def patching(table: pd.DataFrame, options: Options) -> Measures:
    """`patch.<task>.*` of every task about names."""
    out: Measures = {}
    for task in NAME_TASKS:
        ranks = ranking(table, task)
        out |= _tops(table, task, ranks, options)
        out |= _by_number(table, task, options)
        out |= _shares(table, task, options)
    return out


def rows_of(table: pd.DataFrame, task: str, kind: str = "cross", quantity: str = "patch") -> pd.DataFrame:
    """Rows of one task and kind of pair, with `name`: the pair's number within its template."""
    rows = table[(table["task"] == task) & (table["kind"] == kind) & (table["quantity"] == quantity)]
    return rows.assign(name=rows["pair"] - rows.groupby("template")["pair"].transform("min"))


def effects(table: pd.DataFrame, task: str, kind: str = "cross") -> pd.DataFrame:
    """Attribution of heads: name pair x (layer, head), mean over templates."""
    return by_name(rows_of(table, task, kind))


def by_name(rows: pd.DataFrame) -> pd.DataFrame:
    """Name pair x (layer, head) of a table of heads, mean over templates."""
    rows = rows[rows["component"] == "head"]
    return rows.groupby(["name", "layer", "head"])["value"].mean().unstack(["layer", "head"]).sort_index()


def ranking(table: pd.DataFrame, task: str) -> list[Head]:
    """All heads as (layer, head), largest |mean attribution| first, on the pairs kept for choosing."""
    rows = rows_of(table, task)
    templates = sorted(rows["template"].unique())[:2]
    rows = rows[rows["template"].isin(templates) & (rows["name"] % 2 == 0)]
    means = by_name(rows).mean().abs()
    # Equal attributions keep the order of layers and heads.
    return [(int(a), int(b)) for a, b in (-means.sort_index()).sort_values(kind="stable").index]


def unseen(wide: pd.DataFrame) -> pd.DataFrame:
    """The name pairs that had no part in the ranking."""
    return wide[wide.index % 2 == 1]


def missing(names: Sequence[str], why: str, unit: str = "") -> Measures:
    return dict.fromkeys(names, Estimate.missing(why, 0, unit))


def plain(value: float, n: int = 1, unit: str = "", reason: str = "") -> Estimate:
    """A number that follows from the weights alone: no interval. One that is not finite is missing."""
    if not np.isfinite(value):
        return Estimate.missing("the number is undefined", n, unit)
    return Estimate(float(value), None, None, int(n), unit, reason)


def named(head: Head) -> str:
    return f"head {head[0]}.{head[1]}"


def _tops(table: pd.DataFrame, task: str, ranks: Sequence[Head], options: Options) -> Measures:
    """The three largest heads, and how much of the largest one's effect is left between two names of one gender."""
    names = [*(f"patch.{task}.top{k}" for k in range(1, TOP + 1)), f"patch.{task}.within"]
    names += [f"patch.{task}.within.share"]
    wide = effects(table, task)
    if not ranks or unseen(wide).empty:
        return missing(names, f"no pair of prompts of task {task}", UNIT)
    ours = unseen(wide)
    out: Measures = {}
    for k, head in enumerate(ranks[:TOP], start=1):
        found = estimate(np.mean, ours[head], unit=UNIT, **options)
        out[f"patch.{task}.top{k}"] = replace(found, reason=named(head))
    rows = rows_of(table, task, "within")
    same = unseen(effects(table, task, "within"))
    if same.empty:
        return missing(names, f"no two female names in a template of task {task}", UNIT) | out
    out[f"patch.{task}.within"] = estimate(np.mean, same[ranks[0]], unit=UNIT, **options)
    # Signed differences of neighbours in a list add up to almost nothing whatever the model, so sizes are compared.
    sizes = [
        by_name(r.assign(value=r["value"].abs()))[ranks[0]].rename(name)
        for name, r in (("within", rows), ("cross", rows_of(table, task)))
    ]
    both = unseen(pd.concat(sizes, axis=1, join="inner"))
    out[f"patch.{task}.within.share"] = estimate(
        _ratio, both["within"], both["cross"], unit="share of |attribution| between genders", **options
    )
    return missing(names, f"fewer than {TOP} heads") | out


def _ratio(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.mean(a, axis=axis) / np.mean(b, axis=axis)


def _by_number(table: pd.DataFrame, task: str, options: Options) -> Measures:
    """Heads that the paper names, on all pairs (published: 300) and on the first ten."""
    wide = effects(table, task)
    first = rows_of(table, task)
    first = by_name(first[(first["template"] == first["template"].min()) & (first["name"] < 10)])
    n = rows_of(table, task)[["template", "pair"]].drop_duplicates().shape[0]
    out: Measures = {}
    heads = [h for h in PUBLISHED.get(task, ())[:LISTED] if h in wide]
    where = f"patch.{task}.listed"
    out[where] = Estimate.missing("this model lacks heads of the paper's", 0, UNIT)
    if len(heads) == LISTED:
        found = estimate(np.mean, wide[heads].sum(axis=1), unit=f"{UNIT}, five heads together", **options)
        out[where] = replace(found, n=n)
    for head in PUBLISHED.get(task, ()):
        for name, part, rows in ((f"patch.{task}", wide, n), (f"patch.{task}.first10", first, len(first))):
            where = f"{name}.{head[0]}.{head[1]}"
            if head in part:
                out[where] = replace(estimate(np.mean, part[head], unit=UNIT, **options), n=rows)
            else:
                out[where] = Estimate.missing(f"this model has no {named(head)}", 0, UNIT)
    return out


def _shares(table: pd.DataFrame, task: str, options: Options) -> Measures:
    """The whole difference of outputs, and what of it components write to the end themselves (frozen final norm)."""
    names = [f"patch.{task}.{x}" for x in ("total", "direct_share", "mlp_share", "embed_share")]
    whole, parts = rows_of(table, task), rows_of(table, task, quantity="direct")
    whole = whole[whole["component"] == "output"]
    if whole.empty or parts.empty:
        return missing(names, f"no pair of prompts of task {task}", UNIT)
    n = whole[["template", "pair"]].drop_duplicates().shape[0]
    total = estimate(np.mean, whole.groupby("name")["value"].mean(), unit=UNIT, **options)
    sums = parts.groupby(["name", "component"])["value"].sum().unstack("component").fillna(0.0)
    out = {names[0]: replace(total, n=n)}
    for name, component in zip(names[1:], ("head", "mlp", "embed"), strict=True):
        mine = sums[component] if component in sums else sums.sum(axis=1) * 0
        found = estimate(_ratio, mine, sums.sum(axis=1), unit="share of direct contributions", **options)
        out[name] = replace(found, n=n)
    return out
