"""Sweeps and controls: rank, object and subject layer, no edit at all, faithfulness of the affine map."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from bearings.evidence.stats import Estimate, estimate
from bearings.studies.lrc.measure_counts import CATEGORIES, Measures
from bearings.studies.lrc.measure_scores import UNITS, Scored
from bearings.studies.lrc.metrics import best, curves, macro, rank_correlation, shares

# Other sets of results that the papers on the original LRE report, which nothing here computes.
ELSEWHERE = {
    "elsewhere.object_embedding": "edits by the object's embedding are not run",
    "elsewhere.target_z": "edits by the target's late state are not run",
    "elsewhere.faithfulness_baselines": "the baselines of LRE's faithfulness are not run",
}
V = "corrected"


def points(scored: Scored, score: str, kind: str) -> dict[int, pd.DataFrame]:
    """Hits at every point of a sweep, in order."""
    found = {m: re.fullmatch(rf"{kind}(\d+)", m) for m in scored.names(V, score)}
    return {x: scored.get(V, score, f"{kind}{x}") for x in sorted(int(f[1]) for f in found.values() if f)}


def sweeps(scored: Scored, settings: Mapping[str, Any], d_model: int | None) -> Measures:
    """Where the rank's curve peaks, what an earlier object layer gains, and the subject layer's trade-off."""
    out: Measures = {name: Estimate.missing(why) for name, why in ELSEWHERE.items()}
    for score in ("acc", "caus"):
        rank = points(scored, score, "rank")
        where = f"{V}.rank.peak.{score}"
        if rank and d_model:
            found = best(
                list(rank), curves(list(rank.values())), scored.options, "share of width", 1 / d_model
            )
            out[where] = found
        else:
            out[where] = _missing(scored, score, "rank", "share of width")
        for name, kind in (("subject_layer", "subject"), ("samples", "samples")):
            swept, where = points(scored, score, kind), f"{V}.{name}.spearman.{score}"
            if len(swept) > 2:
                out[where] = rank_correlation(list(swept), curves(list(swept.values())), scored.options)
            else:
                out[where] = _missing(scored, score, kind, "Spearman")
        out |= _object_layer(scored, score, settings)
        out |= _by_tokens(scored, score)
    return out


def _by_tokens(scored: Scored, score: str) -> Measures:
    """Every object layer's macro score, apart for objects of one token and of several."""
    out: Measures = {}
    for layer, rows in points(scored, score, "object").items():
        for name, few in (("single", True), ("multi", False)):
            part = rows[(rows["tokens"] == 1) == few]
            if len(part):
                out[f"{V}.object{layer}.{score}.{name}"] = macro(part, scored.options, UNITS[score])
    return out


def _missing(scored: Scored, score: str, kind: str, unit: str) -> Estimate:
    why = scored.why[V] or f"too few points of the {kind} sweep were run"
    return Estimate.missing(why, len(points(scored, score, kind)), unit)


def _object_layer(scored: Scored, score: str, settings: Mapping[str, Any]) -> Measures:
    """The study's own object layer less the last one, for objects of one token and of several, and by how much more.

    For edits it is the target's tokens that count: its concept is what the layer is read for.
    """
    head, unit = f"{V}.object_layer", "difference of shares"
    layers = points(scored, score, "object")
    mid = _mid(list(layers), settings.get("object_layer"))
    if mid is None:
        missing = _missing(scored, score, "object", unit)
        return {f"{head}.{x}.{score}": missing for x in ("all", "single", "multi", "gap")}
    a, b = layers[mid], layers[max(layers)]
    parts = {"all": (a, b)}
    for name, few in (("single", True), ("multi", False)):
        parts[name] = tuple(rows[(rows["tokens"] == 1) == few] for rows in (a, b))
    gains = {name: (shares(x) - shares(y)).mean(axis=1).dropna() for name, (x, y) in parts.items()}
    out = {
        f"{head}.{name}.{score}": estimate(np.mean, gain, unit=unit, **scored.options)
        for name, gain in gains.items()
    }
    out[f"{head}.gap.{score}"] = _gap(gains["multi"], gains["single"], scored, unit)
    out[f"{head}.mid"] = Estimate(mid, None, None, len(layers), "layer (residual entering the block)")
    return out


def _mid(layers: list[int], own: int | None) -> int | None:
    """The study's layer, if the sweep has it before its last one; else the one in the middle."""
    if len(layers) < 2:
        return None
    return own if own in layers[:-1] else layers[(len(layers) - 1) // 2]


def _gap(multi: pd.Series, single: pd.Series, scored: Scored, unit: str) -> Estimate:
    """Mean gain of `multi` less that of `single`; relations are resampled with whichever of the two they have."""
    if multi.empty or single.empty:
        which = "several tokens" if multi.empty else "one token"
        return Estimate.missing(f"no relation has objects of {which}", 0, unit)
    both = pd.concat([multi, single], axis=1).sort_index()

    def gap(gain: np.ndarray, there: np.ndarray, axis: int = -1) -> np.ndarray:
        mean = gain.sum(axis) / there.sum(axis)
        return mean[..., 0] - mean[..., 1]

    return estimate(gap, both.fillna(0.0), both.notna(), unit=unit, **scored.options)


def no_edit(scored: Scored) -> Measures:
    """Control C4: successes at strength 0, apart for source objects of one token, where they cannot be, and more."""
    rows = scored.edits.get((V, "lrc"))
    rows = rows if rows is None else rows[(rows["stage"] == "test") & (rows["beta"] == 0)]
    out: Measures = {}
    for name, few in (("single", True), ("multi", False)):
        mine = rows if rows is None else rows[(rows["source_tokens"] == 1) == few]
        if mine is None or mine.empty:
            why = scored.why[V] or f"no edit of strength 0 whose own object has {name[:6]} tokens"
            out[f"{V}.beta0.{name}"] = Estimate.missing(why, 0, UNITS["caus"])
        else:
            # A check of every edit, not a sample of them: no interval.
            value = float(mine["success"].mean())
            out[f"{V}.beta0.{name}"] = Estimate(value, None, None, len(mine), UNITS["caus"])
    return out


def faithful(rows: pd.DataFrame, scored: Scored) -> Measures:
    """Share of known prompts whose first answer token the affine map's own guess has, macro over relations."""
    unit = "share of known prompts"
    rows = rows[rows["variant"] == V].rename(columns={"right": "hit"})
    rows = rows.assign(hit=rows["hit"].astype(float))
    parts = {"macro": rows, **{s: rows[rows["set"] == s] for s in ("train", "test")}}
    categories = sorted({*CATEGORIES, *rows["category"]})
    parts |= {f"category.{c}": rows[rows["category"] == c] for c in categories}
    out: Measures = {}
    for name, part in parts.items():
        why = scored.why[V] or "no such prompt is known"
        out[f"{V}.faithful.{name}"] = (
            Estimate.missing(why, 0, unit) if part.empty else macro(part, scored.options, unit)
        )
    by_relation = shares(rows).mean(axis=1) if len(rows) else pd.Series(dtype=float)
    out[f"{V}.faithful.over_60"] = (
        Estimate.missing(scored.why[V] or "no prompt is known", 0, "share of relations")
        if by_relation.empty
        else estimate(np.mean, (by_relation > 0.6).astype(float), unit="share of relations", **scored.options)
    )
    return out
