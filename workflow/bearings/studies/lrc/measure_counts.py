"""What the data holds and what the filters leave: relations, samples, prompts, subjects, objects by tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from bearings.evidence.stats import Estimate, proportion
from bearings.stages.prompts import Prompt
from bearings.studies.lrc.common import VARIANTS

Measures = dict[str, Estimate]
CATEGORIES = ("factual", "commonsense", "bias", "linguistic")
TOKENS = ("1", "2", "3", "4", "5plus")


def table(prompts: Mapping[str, Sequence[Prompt]]) -> pd.DataFrame:
    """One row per prompt: set, variant, relation, category, subject, object, answer_tokens, usable."""
    names = ("variant", "relation", "category", "subject", "object", "answer_tokens")
    rows = [
        {"set": s, "usable": p.usable, **{x: p.extra[x] for x in names}} for s in prompts for p in prompts[s]
    ]
    return pd.DataFrame(rows, columns=["set", "usable", *names])


def one_to_one(data: pd.DataFrame) -> set[str]:
    """Relations in which no object has two subjects: they have no test sample (protocol 3.2)."""
    samples = data[["relation", "subject", "object"]].drop_duplicates()
    most = samples.groupby(["relation", "object"]).size().groupby("relation").max()
    return set(most.index[most == 1])


def reasons(filtered: pd.DataFrame, min_test: int) -> dict[str, str]:
    """Variant -> why nothing can be measured, with the counts, or "" where some relation is kept."""
    return {v: _reason(filtered[filtered["variant"] == v], v, min_test) for v in VARIANTS}


def _reason(rows: pd.DataFrame, variant: str, min_test: int) -> str:
    test = rows[rows["set"] == "test"]
    if test.empty:
        return f"there are no test prompts of the {variant} variant"
    if test["used"].any():
        return ""
    right, n = (x["prompt"].nunique() for x in (test[test["known"]], test))
    relations = test["relation"].nunique()
    enough = test[test["known"]].groupby(["seed", "relation"]).size().ge(min_test)
    kept = enough[enough].index.get_level_values("relation").nunique() if len(enough) else 0
    said = f"{right} of {n} test prompts are answered right; {kept} of {relations} relations keep {min_test}"
    return f"{said}, none with two objects to tell apart" if kept else said


def counts(prompts: pd.DataFrame, filtered: pd.DataFrame, must_vanish: Sequence[str]) -> Measures:
    """Counts of the data, of each variant before and after the filters, and control C7."""
    out = _data(prompts)
    for variant in VARIANTS:
        rows = filtered[filtered["variant"] == variant]
        out |= _filtered(f"{variant}.counts", rows)
        out[f"{variant}.must_vanish.used"] = _vanished(prompts, rows, must_vanish)
    return out


def _data(data: pd.DataFrame) -> Measures:
    """What the prompts were made of; `many` leaves out the one-to-one relations, as Table 3 does."""
    if data.empty:
        missing = Estimate.missing("there are no prompts", 0)
        names = ["relations", "samples", "subjects", "many.relations", "many.samples"]
        names += [f"many.{x}.{c}" for x in ("relations", "samples") for c in CATEGORIES]
        names += [*(f"objects.tokens{t}" for t in TOKENS), *(f"prompts.{s}" for s in ("train", "test"))]
        return {f"counts.{x}": missing for x in names}
    samples = data[["category", "relation", "subject", "object"]].drop_duplicates()
    many = samples[~samples["relation"].isin(one_to_one(data))]
    objects = data.groupby(["relation", "object"])["answer_tokens"].min()
    out = {
        "counts.relations": _count(samples["relation"].nunique(), "relations"),
        "counts.samples": _count(len(samples), "samples"),
        "counts.subjects": _count(len(samples[["relation", "subject"]].drop_duplicates()), "subjects"),
        "counts.many.relations": _count(many["relation"].nunique(), "relations"),
        "counts.many.samples": _count(len(many), "samples"),
    }
    for category in sorted({*CATEGORIES, *samples["category"]}):
        mine = many[many["category"] == category]
        out[f"counts.many.relations.{category}"] = _count(mine["relation"].nunique(), "relations")
        out[f"counts.many.samples.{category}"] = _count(len(mine), "samples")
    for name in TOKENS:
        out[f"counts.objects.tokens{name}"] = _count(int(_of_length(objects, name).sum()), "objects")
    for name in ("train", "test"):
        mine = data[data["set"] == name]
        out[f"counts.prompts.{name}"] = _count(len(mine), "prompts")
        out[f"counts.usable.{name}"] = proportion(
            int(mine["usable"].sum()), len(mine), unit="share of prompts"
        )
    return out


def _filtered(head: str, rows: pd.DataFrame) -> Measures:
    """Prompts, subjects and relations of one variant, mean over split seeds, before and after the filters."""
    out: Measures = {}
    seeds = sorted(rows["seed"].unique())
    for name in ("train", "test"):
        mine = rows[rows["set"] == name]
        distinct = mine[["prompt", "known"]].drop_duplicates()
        out[f"{head}.{name}.known_share"] = proportion(
            int(distinct["known"].sum()), len(distinct), unit="share of prompts"
        )
        for step, part in (("all", mine), ("known", mine[mine["known"]]), ("used", mine[mine["used"]])):
            subjects = part[["seed", "relation", "subject"]].drop_duplicates()
            relations = part[["seed", "relation"]].drop_duplicates()
            out[f"{head}.{name}.{step}.prompts"] = _mean(part, seeds, "prompts")
            out[f"{head}.{name}.{step}.subjects"] = _mean(subjects, seeds, "subjects")
            out[f"{head}.{name}.{step}.relations"] = _mean(relations, seeds, "relations")
    used = rows[(rows["set"] == "test") & rows["used"]]
    for name in TOKENS:
        out[f"{head}.tokens{name}"] = _mean(used[_of_length(used["answer_tokens"], name)], seeds, "prompts")
    return out


def _vanished(data: pd.DataFrame, rows: pd.DataFrame, named: Sequence[str]) -> Estimate:
    """Control C7: relations that the filters must remove and did not, of n such relations."""
    if not rows["used"].any():
        return Estimate.missing("no relation is kept at all", 0, "relations")
    doomed = one_to_one(data) | (set(named) & set(data["relation"]))
    left = sorted(doomed & set(rows.loc[(rows["set"] == "test") & rows["used"], "relation"]))
    return Estimate(len(left), None, None, len(doomed), "relations", ", ".join(left))


def _of_length(tokens: pd.Series, name: str) -> pd.Series:
    return tokens >= 5 if name == "5plus" else tokens == int(name)


def _count(value: int, unit: str) -> Estimate:
    return Estimate(int(value), None, None, int(value), unit)


def _mean(rows: pd.DataFrame, seeds: Sequence[int], unit: str) -> Estimate:
    """Mean number of rows per split seed; n = split seeds."""
    if not len(seeds):
        return Estimate.missing("no prompt was filtered", 0, unit)
    return Estimate(len(rows) / len(seeds), None, None, len(seeds), f"{unit}, mean over split seeds")
