"""Does KL depend on L0, by kind of SAE and of direction (protocol 2.2, 2.3)?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bearings.evidence.figures import WIDTH, colour
from bearings.stages.panels import get, legend, said_missing, there, title
from bearings.stages.read import ModelRun
from bearings.studies.sensitivity import draw_data as data
from bearings.studies.sensitivity.common import KINDS
from bearings.studies.sensitivity.draw_panels import (
    KL,
    MARKS,
    NAMES,
    Runs,
    l0_axis,
    paper,
    plain_logs,
    point,
    published_dash,
)

# Part of the measure -> (title, length it is read at).
PANELS = {
    "error": ("SAE errors", "k21"),
    "inactive": ("alive, inactive features", "k51"),
    "active": ("active features", "k51"),
    "dead": ("dead features", "k51"),
}
SPEARMAN = {"error": "ladder.{}.err.l0_k21", **{c: f"ladder.{{}}.feat.{c}.l0_k51" for c in list(PANELS)[1:]}}


def sparsity(runs: Runs, settings: Mapping[str, Any]) -> Figure:
    """One row per run, one panel per direction; bands are the intervals of two baselines of the same length."""
    ratios = [1.0 if data.every_sae(run) else 0.35 for run in runs]
    size = (WIDTH * 1.5, 2.7 * sum(ratios) + 0.8)
    figure, axes = plt.subplots(len(runs), len(PANELS), figsize=size, squeeze=False, height_ratios=ratios)
    for run, row in zip(runs, axes, strict=True):
        for panel, (direction, (what, length)) in zip(row, PANELS.items(), strict=True):
            first = f"{title(run)}\n" if direction == "error" else "\n"
            panel.set_title(f"{first}{what}, length {length.removeprefix('k')}", fontsize=8.5)
            if _ladders(panel, run, direction, length):
                _baselines(panel, run, length)
                plain_logs(panel, "y")
                known = [at for _, sae in data.every_sae(run) if (at := data.l0(run, sae))]
                panel.set_xlim(min(known) / 1.4, max(known) * 1.4)
                l0_axis(panel)
                panel.set_ylabel(KL if direction == "error" else "")
                _trends(panel, run, direction, length)
            else:
                said_missing(panel, _why(run, direction, length), 26)
        _same_heights([p for p in row[1:] if p.lines])
    legend(figure, 3)
    return figure


def _measure(sae: str, direction: str, length: str) -> str:
    return f"err.{sae}.{length}" if direction == "error" else f"feat.{sae}.{direction}.{length}"


def _why(run: ModelRun, direction: str, length: str) -> str:
    every = data.every_sae(run)
    if not every:
        return "this model has no SAEs"
    return get(run, _measure(every[0][1], direction, length)).get("reason") or data.NOT_RUN


def _ladders(axes: Axes, run: ModelRun, direction: str, length: str) -> bool:
    """Points joined within a kind, sparsest first; whether there are any."""
    any_there = False
    for kind in KINDS:
        found = [
            (at, sae)
            for sae in data.saes(run, kind)
            if (at := data.l0(run, sae)) and there(run, _measure(sae, direction, length))
        ]
        measures = [get(run, _measure(sae, direction, length)) for _, sae in found]
        if found:
            heights = [m["value"] for m in measures]
            axes.plot([at for at, _ in found], heights, color=colour(kind), linewidth=1.0, alpha=0.7)
        for (at, sae), measure in zip(found, measures, strict=True):
            point(axes, at, measure, kind, MARKS[kind], label=f"{NAMES[kind]} SAEs")
            published_dash(axes, at, paper(run, _measure(sae, direction, length)), colour(kind))
        any_there |= bool(found)
    return any_there


def _baselines(axes: Axes, run: ModelRun, length: str) -> None:
    for name in ("cov_mixture", "iso"):
        found = get(run, f"base.{name}.{length}")
        if found["value"] is None:
            continue
        axes.axhline(found["value"], color=colour(name), linewidth=1.4, label=f"{NAMES[name]}, same length")
        if found["low"] is not None:
            axes.axhspan(found["low"], found["high"], color=colour(name), alpha=0.18, linewidth=0)


def _trends(axes: Axes, run: ModelRun, direction: str, length: str) -> None:
    """Rank correlations of L0 with KL, in the colours of the kinds, and which kinds have no such direction."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.3)  # room for them
    said = []
    for kind in KINDS:
        ladder, rho = data.saes(run, kind), get(run, SPEARMAN[direction].format(kind))["value"]
        if ladder and not any(there(run, _measure(sae, direction, length)) for sae in ladder):
            said.append((kind, f"{NAMES[kind]}: not measurable"))
        elif rho is not None:
            said.append((kind, f"ρ {NAMES[kind]} {rho:+.2f}".replace("-", "−")))
    for i, (kind, text) in enumerate(said):
        axes.annotate(
            text, (1.0, 1.0), xycoords="axes fraction", xytext=(-2, -1 - 10 * i), textcoords="offset points",
            ha="right", va="top", fontsize=7.5, color=colour(kind), zorder=8,
        )  # fmt: skip


def _same_heights(panels: list[Axes]) -> None:
    """One range for panels of one length."""
    if panels:
        low, high = min(p.get_ylim()[0] for p in panels), max(p.get_ylim()[1] for p in panels)
        for panel in panels:
            panel.set_ylim(low, high)
