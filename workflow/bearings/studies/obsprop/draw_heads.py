"""Figures of single heads: norms beside attributions, and couplings beside slopes (protocol 2.2, 2.3)."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bearings.evidence.figures import WIDTH, colour
from bearings.stages.panels import get, legend, said_missing
from bearings.stages.read import ModelRun
from bearings.studies.obsprop.common import TASKS
from bearings.studies.obsprop.draw_panels import Runs, pairs, said
from bearings.studies.obsprop.measure_agreement import norms
from bearings.studies.obsprop.measure_patching import TOP, effects

SHOWN = {"subj": "subject pronoun", "obj": "object pronoun"}
# One hue, darker for more; numbers are written where cells are wide enough for them.
MAP = "Blues"
FEW = 8
KINDS = {"pearson": "Pearson", "spearman": "Spearman"}


def heads(runs: Runs) -> Figure:
    """Norms and attributions of all heads side by side, and how they correlate, the twin's correlation beside."""
    rows = [(run, twin, task) for run, twin in pairs(runs) for task in SHOWN]
    heights = [_height(run) for run, _, _ in rows]
    size = (WIDTH * 1.5, sum(heights) + 0.4)
    figure, axes = plt.subplots(
        len(rows), 3, figsize=size, squeeze=False, height_ratios=heights, width_ratios=[1.0, 1.0, 0.9]
    )
    for (run, twin, task), (left, middle, right) in zip(rows, axes, strict=True):
        name = TASKS[task]
        norm = norms(run.outcomes["weights"], name, "norm_ln_corrected")
        wide = effects(run.outcomes["patching"], task)
        effect = wide.mean().abs()
        left.set_title(f"{run.name}, {SHOWN[task]}:\nlength of the feature by head", fontsize=9)
        middle.set_title(f"\n|attribution| by head, {len(wide)} name pairs", fontsize=9)
        right.set_title("\nDo the two go together?", fontsize=9)
        top = [] if effect.empty else list(effect.sort_values(ascending=False, kind="stable").index[:TOP])
        _map(left, norm, top, "norm with LayerNorm (logits)")
        _map(middle, effect, top, "|mean attribution| (logits)")
        _agreement(right, run, twin, task)
    legend(figure, 4)
    return figure


def _height(run: ModelRun) -> float:
    """Inches of a row: every layer of a deep model still has a line of its own."""
    layers = run.outcomes["weights"]["layer"].max()
    return 2.2 if not layers > FEW else 1.0 + 0.13 * (layers + 1)


def _map(axes: Axes, values: pd.Series, top: list, unit: str) -> None:
    """Heat map, layers upwards and heads to the right; the heads of the largest attribution are framed."""
    if values.empty:
        said_missing(axes, "no heads with this number")
        return
    grid = values.rename_axis(["layer", "head"]).unstack("head").sort_index().sort_index(axis=1)
    layers, numbers = grid.index.to_numpy(), grid.columns.to_numpy()
    most = max(float(np.nanmax(grid.to_numpy(float))), 1e-12)
    image = axes.imshow(
        grid.to_numpy(float), origin="lower", aspect="auto", cmap=MAP, vmin=0, vmax=most, interpolation="none"
    )
    bar = axes.figure.colorbar(image, ax=axes, pad=0.02, fraction=0.06)
    bar.set_label(unit, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    if max(grid.shape) <= FEW:
        for (i, j), value in np.ndenumerate(grid.to_numpy(float)):
            ink = "white" if value > 0.6 * most else "black"
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7.5, color=ink)
    for k, (layer, head) in enumerate(top):
        if layer in layers and head in numbers:
            at = (np.searchsorted(numbers, head) - 0.47, np.searchsorted(layers, layer) - 0.47)
            label = "the three largest attributions" if k == 0 else None
            frame = {"fill": False, "ec": colour("obsprop"), "lw": 1.8, "label": label}
            axes.add_patch(Rectangle(at, 0.94, 0.94, **frame))
    step = 1 if max(grid.shape) <= FEW else 4
    axes.set_xticks(range(0, len(numbers), step), numbers[::step], fontsize=8)
    axes.set_yticks(range(0, len(layers), step), layers[::step], fontsize=8)
    axes.set(xlabel="head", ylabel="layer")
    axes.grid(False)
    axes.spines[:].set_visible(False)


def _agreement(axes: Axes, run: ModelRun, twin: ModelRun | None, task: str) -> None:
    """Correlations over heads with intervals; what shuffled heads reach is a tick."""
    where = f"patch.agreement.{task}"
    if get(run, f"{where}.pearson")["value"] is None and get(twin, f"{where}.pearson")["value"] is None:
        said_missing(axes, get(run, f"{where}.pearson").get("reason"))
        return
    ticks = {}
    for y, (kind, name) in enumerate(KINDS.items()):
        for which, shift, filled in ((run, 0.22, True), (twin, -0.22, False)):
            found = get(which, f"{where}.{kind}")
            if found["value"] is None:
                continue
            label = "trained" if filled else "untrained twin"
            ink, at = colour("obsprop") if filled else "#777777", y + shift
            axes.plot(found["value"], at, "o", color=ink, mfc=ink if filled else "white", ms=6, label=label)
            if found["low"] is not None:
                axes.hlines(at, found["low"], found["high"], color=ink, linewidth=1.4)
            ticks[at] = f"{name}{'' if filled else ', twin'}\n{said(found)}"
            q95 = get(which, f"{where}.{kind}.shuffled.q95")["value"]
            if q95 is not None:
                label = "95 % of shuffled heads lie below"
                axes.plot(q95, at, "|", color="black", ms=11, mew=1.2, label=label, linestyle="")
    axes.axvline(0, color="#999999", linewidth=0.8)
    axes.set(xlim=(-1.05, 1.05), ylim=(-0.55, 1.55), xlabel="correlation over heads", xticks=(-1, 0, 1))
    axes.set_yticks(list(ticks), ticks.values(), fontsize=7.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.grid(False, axis="y")
