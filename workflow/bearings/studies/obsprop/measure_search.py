"""What the path search finds (protocol 2.5), as the authors search and over the full range (T9).

Two prompts per task: there is nothing to resample, so no number here has an interval.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import pandas as pd

from bearings.evidence.stats import Estimate
from bearings.studies.obsprop.common import TASKS
from bearings.studies.obsprop.measure_patching import Measures, plain

VARIANTS = ("published", "corrected")
LENGTHS, RANKS = (1, 2, 3, 4, 5), (1, 2, 3)
# Paths with published scores that need not be the first of their length; -1 is the last position.
NAMED: dict[str, tuple[str, ...]] = {
    "subj": ("attn13.11@5<=attn6.6@3", "attn13.11@5<=attn9.1@3<=attn6.6@3"),
    "obj": ("attn13.11@6<=attn6.6@6",),
    "occ": (
        "attn15.13@3",
        "mlp19@-1<=mlp16@-1<=attn15.13@3",
        "mlp19@-1<=mlp16@-1<=attn15.13@3<=mlp12@3",
    ),
    "party": ("attn15.8@1",),
    "code1": ("attn16.9@4", "attn17.4@3"),
}
UNIT = "logits, linearised"
HEAD = re.compile(r"attn(\d+)\.(\d+)@(-?\d+)")


def search(table: pd.DataFrame, sources: Mapping[str, int]) -> Measures:
    """`search.<task>.*` of the authors' search, `search.<task>.corrected.*` of the full one.

    Args:
        sources: task -> position of the name in its linearisation pair, where the pair names one.
    """
    out: Measures = {}
    for task in TASKS:
        mine = table[table["task"] == task]
        for variant in VARIANTS:
            rows = mine[mine["variant"] == variant]
            head = f"search.{task}" if variant == "published" else f"search.{task}.corrected"
            ranks = RANKS if variant == "published" else RANKS[:1]
            for length in LENGTHS:
                out |= {f"{head}.length{length}.top{k}": _ranked(rows, length, k) for k in ranks}
            out |= _name(head, rows, sources.get(task))
            out[f"{head}.reading"] = _reading(rows, sources.get(task))
            out[f"{head}.sum10"] = _sum(rows, 1)
        for path in NAMED.get(task, ()):
            out[f"search.{task}.{path}"] = _of_path(mine[mine["variant"] == "published"], path)
        out[f"search.{task}.same_best"] = _same(mine)
        out |= _dense(task, mine[mine["variant"] == "dense"])
    return out


def _ranked(rows: pd.DataFrame, length: int, rank: int) -> Estimate:
    found = rows[(rows["length"] == length) & (rows["rank"] == rank)]
    if found.empty:
        return Estimate.missing(f"no path of length {length} and rank {rank} was searched for", 0, UNIT)
    return plain(found["score"].iloc[0], 1, UNIT, found["path"].iloc[0])


def _reading(rows: pd.DataFrame, source: int | None) -> Estimate:
    """The best path of any length that ends with a head reading the name."""
    if source is None:
        return Estimate.missing("the pair of prompts names no source", 0, UNIT)
    last = rows["path"].map(lambda text: HEAD.fullmatch(text.split("<=")[-1]))
    mine = rows[last.map(lambda m: m is not None and int(m[3]) == source).astype(bool)]
    if mine.empty:
        return Estimate.missing(f"no path kept ends with a head that reads position {source}", 0, UNIT)
    top = mine.loc[mine["score"].idxmax()]
    return plain(top["score"], 1, UNIT, top["path"])


def _dense(task: str, rows: pd.DataFrame) -> Measures:
    """Patching with later layers run (`search.<task>.dense.*`): the best head, and published ones."""
    heads = rows[rows["path"].map(lambda text: HEAD.fullmatch(text) is not None).astype(bool)]
    top = f"search.{task}.dense.top_head"
    out = {top: Estimate.missing("no head is among the best components", 0, "logits, dense end")}
    if len(heads):
        best = heads.loc[heads["score"].idxmax()]
        out[top] = plain(best["score"], 1, "logits, dense end", best["path"])
    if task == "party":
        out[f"search.{task}.dense.attn15.8@1"] = _of_path(rows, "attn15.8@1")
    return out


def _sum(rows: pd.DataFrame, length: int) -> Estimate:
    """The ten best scores of a length, added up."""
    best = rows[(rows["length"] == length) & (rows["rank"] <= 10)]
    if len(best) < 10:
        return Estimate.missing(f"{len(best)} of 10 paths of length {length}", len(best), UNIT)
    return plain(best["score"].sum(), 10, UNIT)


def _of_path(rows: pd.DataFrame, path: str) -> Estimate:
    found = rows[rows["path"] == path]
    if found.empty:
        return Estimate.missing(f"{path} is not among the paths kept", 0, UNIT)
    return plain(found["score"].iloc[0], 1, UNIT)


def _same(rows: pd.DataFrame) -> Estimate:
    """Share of path lengths at which both variants find the same best path."""
    first = rows[rows["rank"] == 1].pivot_table(
        index="length", columns="variant", values="path", aggfunc="first"
    )
    if not set(VARIANTS) <= set(first.columns):
        return Estimate.missing("only one variant of the search was run", 0, "share of lengths")
    first = first[list(VARIANTS)].dropna()
    return plain((first["published"] == first["corrected"]).mean(), len(first), "share of lengths")


def _name(head: str, rows: pd.DataFrame, source: int | None) -> Measures:
    """Heads that read the name: the best one's score, and their share of what all heads of length 1 bring."""
    best, share = f"{head}.name", f"{head}.name_share"
    found = (
        rows[rows["length"] == 1].assign(match=lambda r: r["path"].map(HEAD.fullmatch)).dropna(subset="match")
    )
    if source is None or found.empty:
        why = "the pair of prompts names no source" if source is None else "no head is among the best paths"
        return dict.fromkeys((best, share), Estimate.missing(why, 0, UNIT))
    reads = found["match"].map(lambda m: int(m[3]) == source)
    mine = found[reads]
    out = {best: Estimate.missing(f"no head that reads position {source} is among the best paths", 0, UNIT)}
    if len(mine):
        top = mine.loc[mine["score"].idxmax()]
        out[best] = plain(top["score"], 1, UNIT, top["path"])
    positive = found["score"].clip(lower=0)
    total = positive.sum()
    out[share] = plain(positive[reads].sum() / total if total else float("nan"), len(found), "share")
    return out
