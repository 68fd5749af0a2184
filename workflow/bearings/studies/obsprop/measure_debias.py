"""What patching along a feature does (protocol 2.8), and which tokens a feature ranks highest (2.4), in numbers.

A name is in every template; its rows are resampled together. Shares of the gap are ratios of means over pairs, since
single pairs may have hardly any gap.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from bearings.evidence.stats import Estimate, estimate
from bearings.studies.obsprop.measure_patching import plain

Measures = dict[str, Estimate]
Options = Mapping[str, Any]
VARIANTS = ("unit", "double", "random", "whole")
LOGITS, NATS, GAP = "logits", "nats", "share of the gap"
KEYS = ["template", "pair"]


def measure(frame: pd.DataFrame, options: Options) -> Measures:
    """Measures `debias.*` of the table `debias`; random vectors count by their mean over draws, per pair."""
    if frame.empty:
        return {name: Estimate.missing("there are no pairs to patch, or no feature") for name in _names()}
    table = frame.assign(draw=frame["variant"], variant=frame["variant"].str.split(".").str[0])
    table["shift"] = table["patched"] - table["negative"]
    table["gap"] = table["positive"] - table["negative"]
    ends = table[["positive", "negative"]]
    inside = (table["patched"] >= ends.min(axis=1)) & (table["patched"] <= ends.max(axis=1))
    table["between"] = inside.astype(float)
    columns = ["shift", "gap", "between", "kl_whole", "kl_others"]
    by = {
        v: rows.groupby([*KEYS, "name"], sort=True)[columns].mean().reset_index()
        for v, rows in table.groupby("variant")
    }
    out = {"debias.output_gap": _mean(by["unit"], "gap", LOGITS, options)}
    for variant in VARIANTS:
        out |= _variant(variant, by.get(variant), options)
    return out | _against_random(table, by, options)


def _names() -> list[str]:
    each = [f"debias.{x}{v}" for v in VARIANTS for x in ("", "gap.", "between.", "kl_whole.", "kl_others.")]
    return [
        "debias.output_gap",
        *each,
        "debias.between",
        "debias.gap.random.abs_q95",
        "debias.gap.above_random",
    ]


def _mean(rows: pd.DataFrame, column: str, unit: str, options: Options) -> Estimate:
    return estimate(np.mean, rows[column], clusters=rows["name"], unit=unit, **options)


def _share(shift: np.ndarray, gap: np.ndarray, axis: int = -1) -> np.ndarray:
    return shift.mean(axis) / gap.mean(axis)


def _variant(variant: str, rows: pd.DataFrame | None, options: Options) -> Measures:
    """Mean change of the output, share of the gap that it closes, pairs left between both ends, divergences."""
    if rows is None:
        names = [n for n in _names() if n.split(".")[-1] == variant]
        return {name: Estimate.missing(f"nothing was patched with variant {variant}") for name in names}
    out = {
        f"debias.{variant}": _mean(rows, "shift", LOGITS, options),
        f"debias.gap.{variant}": estimate(
            _share, rows["shift"], rows["gap"], clusters=rows["name"], unit=GAP, **options
        ),
        f"debias.between.{variant}": _mean(rows, "between", "share of pairs", options),
        f"debias.kl_whole.{variant}": _mean(rows, "kl_whole", NATS, options),
        f"debias.kl_others.{variant}": _mean(rows, "kl_others", NATS, options),
    }
    return out | ({"debias.between": out["debias.between.unit"]} if variant == "unit" else {})


def _against_random(table: pd.DataFrame, by: Mapping[str, pd.DataFrame], options: Options) -> Measures:
    """The largest |share| of random vectors (95 % quantile over draws), and by how much the feature's is above their
    mean."""
    names = ["debias.gap.random.abs_q95", "debias.gap.above_random"]
    if "random" not in by:
        return {name: Estimate.missing("no random vector was patched", 0, GAP) for name in names}
    means = table[table["variant"] == "random"].groupby("draw")[["shift", "gap"]].mean()
    shares = (means["shift"] / means["gap"]).abs()
    both = by["unit"].merge(by["random"][[*KEYS, "shift"]], on=KEYS, suffixes=("", "_random"))

    def above(shift: np.ndarray, random: np.ndarray, gap: np.ndarray, axis: int = -1) -> np.ndarray:
        return (shift.mean(axis) - random.mean(axis)) / gap.mean(axis)

    return {
        # Where both genders get the same answer there is no gap to have a share of.
        names[0]: plain(shares.quantile(0.95), len(shares), GAP),
        names[1]: estimate(
            above,
            both["shift"],
            both["shift_random"],
            both["gap"],
            clusters=both["name"],
            unit=GAP,
            **options,
        ),
    }


def measure_tokens(frame: pd.DataFrame, options: Options) -> Measures:
    """Measures `tokens.<feature>.*` of the table `tokens`: shares of names of either gender at both ends.

    `tokens.random.*` are means over random vectors, each of which is a row; `.distinct` counts different tokens,
    since a share made of one word repeated says less. Tokens are resampled together where they are one word.
    """
    out: Measures = {}
    found = frame[~frame["feature"].str.startswith("random.")]
    for feature, rows in found.groupby("feature", sort=True):
        for side, mine in rows.groupby("side"):
            head = f"tokens.{feature}.{side}"
            for kind in ("female", "male"):
                hits = (mine["kind"] == kind).astype(float)
                out[f"{head}_{kind}_share"] = estimate(
                    np.mean, hits, clusters=mine["token"], unit="share of tokens", **options
                )
            out[f"{head}_distinct"] = Estimate(
                float(mine["token"].nunique()), None, None, len(mine), "different tokens"
            )
    chance = frame[frame["feature"].str.startswith("random.")]
    for side in ("top", "bottom"):
        for kind in ("female", "male"):
            mine = chance[chance["side"] == side]
            shares = mine.assign(hit=(mine["kind"] == kind).astype(float)).groupby("feature")["hit"].mean()
            name, unit = f"tokens.random.{side}_{kind}_share", "share of tokens"
            out[name] = estimate(np.mean, shares, unit=unit, **options)
    return out
