"""How far do norms turn a feature, and how good is a tangent of the final one (protocol 2.6, 4.7, 4.11)?"""

from __future__ import annotations

import re

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bearings.evidence.figures import WIDTH, colour
from bearings.stages.panels import TWIN, get, legend, said_missing, there, title
from bearings.stages.read import ModelRun
from bearings.studies.obsprop.draw_panels import Runs, paper
from bearings.studies.obsprop.theorem import bound, expected_angle

WIDTHS = re.compile(r"ln\.theorem\.d(\d+)\.angle")
# What was measured -> marker, name, colour.
ANGLES = {
    "ln.activation_angle": ("o", "random features in front of blocks", "clean"),
    "ln.final_angle": ("s", "the observables in front of the unembedding", "obsprop"),
    "ln.aligned_angle": ("^", "activations made to lie along the feature", "random"),
}
TASK = "subj"
CELL = re.compile(rf"ln\.tangent\.{TASK}\.g(\d+)\.g(\d+)")


def layernorm(runs: Runs) -> Figure:
    """Left: angles by width. Right, one table per run: errors of tangents, and what to hold them against."""
    ratios = [1.15, *(1.25 if _cells(run) else 0.45 for run in runs)]
    figure, axes = plt.subplots(
        1, 1 + len(runs), figsize=(WIDTH * 1.5, 3.9), squeeze=False, width_ratios=ratios
    )
    _angles(axes[0, 0], runs)
    for run, panel in zip(runs, axes[0, 1:], strict=True):
        _table(panel, run)
    legend(figure, 2)
    return figure


def _angles(panel: Axes, runs: Runs) -> None:
    panel.set_title("How far does a norm turn a feature?", fontsize=9)
    run = next((r for r in runs if any(WIDTHS.fullmatch(name) for name in r.measures)), None)
    if run is None:
        said_missing(panel, "no angles were simulated")
        return
    found = {int(m[1]): get(run, m[0]) for m in map(WIDTHS.fullmatch, run.measures) if m}
    widths = np.array(sorted(found))
    smooth = np.unique(np.geomspace(widths[0], widths[-1], 60).astype(int))
    panel.plot(smooth, [expected_angle(int(d)) for d in smooth], color="black", linewidth=1.0,
               label="expected for random features")  # fmt: skip
    panel.plot(smooth, [bound(int(d)) for d in smooth], ":", color="black", label="the paper's bound")
    for k, d in enumerate(widths):
        label = "simulation" if k == 0 else None
        _point(panel, d, found[d], ".", "black", label, True)
    for r in runs:
        twin = r.name.endswith(TWIN)
        for name, (marker, label, ink) in ANGLES.items():
            d = _width(r, name.removeprefix("ln."))
            if d and there(r, name):
                at = d * (1.2 if twin else 0.84)
                _point(panel, at, get(r, name), marker, colour(ink), None if twin else label, not twin)
    if any(r.name.endswith(TWIN) for r in runs):
        panel.plot([], [], "o", mfc="white", mec="black", linestyle="", label="open: untrained twin")
    panel.set(
        yscale="log",
        xlabel="width d (a model's points stand beside its d)",
        ylabel="angle of n and its gradient (radians)",
    )
    panel.set_xscale("log", base=2)
    panel.set_xticks(widths, [str(d) for d in widths], fontsize=7.5)
    panel.set_xticks([], minor=True)


def _point(panel: Axes, x: float, found, marker: str, ink: str, label: str | None, filled: bool) -> None:
    """A point with its interval; open ones belong to the untrained twin."""
    panel.plot(x, found["value"], marker, mfc=ink if filled else "white", mec=ink if not filled else "black",
               mew=0.6 if filled else 1.2, ms=6, label=label, linestyle="", zorder=4)  # fmt: skip
    if found["low"] is not None:
        panel.vlines(x, found["low"], found["high"], color="black", linewidth=1.0, zorder=5)


def _width(run: ModelRun, quantity: str) -> int | None:
    rows = run.outcomes["layernorm"]
    rows = rows[rows["quantity"] == quantity]
    return int(rows["group"].iloc[0]) if len(rows) else None


def _cells(run: ModelRun) -> dict[tuple[int, int], float]:
    """(fitted on, evaluated on) -> mean absolute error."""
    found = (CELL.fullmatch(name) for name in run.measures)
    return {(int(m[1]), int(m[2])): get(run, m[0])["value"] for m in found if m and there(run, m[0])}


def _table(panel: Axes, run: ModelRun) -> None:
    cells = _cells(run)
    if not cells:
        panel.set_title(f"{title(run)}".replace(": ", ":\n"), fontsize=9)
        reasons = (get(run, f"ln.tangent.{TASK}.g0.g0").get("reason"), "no tangent of the final norm")
        said_missing(panel, next(filter(None, reasons)), 18)
        return
    theirs = " (the paper's)" if paper(run, f"ln.tangent.{TASK}.g0.g0") is not None else ""
    said = f"{title(run)}\ntangents of the final norm:\nmean |error| of n_subj{theirs}"
    panel.set_title(said, fontsize=9)
    groups = sorted({g for pair in cells for g in pair})
    controls = {q: _by_group(run, q) for q in ("tangent_random", "tangent_truth")}
    grid = np.array([[*(cells.get((i, j), np.nan) for j in groups), np.nan, *(c.get(i, np.nan) for c in
                     controls.values())] for i in groups])  # fmt: skip
    image = panel.imshow(grid, cmap="Blues", vmin=0, vmax=np.nanmax(grid), aspect="auto")
    for (i, j), value in np.ndenumerate(grid):
        if np.isfinite(value):
            ink = "white" if value > 0.6 * np.nanmax(grid) else "black"
            theirs = paper(run, f"ln.tangent.{TASK}.g{groups[i]}.g{groups[j]}") if j < len(groups) else None
            said = f"{value:.2f}" if theirs is None else f"{value:.3f}\n({theirs:.3f})"
            panel.text(j, i, said, ha="center", va="center", fontsize=8, color=ink)
    bar = panel.figure.colorbar(image, ax=panel, pad=0.02, fraction=0.06)
    bar.set_label("mean |error| (logits)", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    named = [f"template {g + 1}" for g in groups]
    k = len(groups)
    named += ["random point,\nsame template", "no tangent,\nsame template"]
    panel.set_xticks([*range(k), k + 1, k + 2], named,
                     rotation=35, ha="right", rotation_mode="anchor", fontsize=7.5)  # fmt: skip
    panel.set_yticks(range(k), [n.replace(" ", "\n") for n in named[:k]], fontsize=7.5)
    panel.set(xlabel="evaluated on", ylabel="tangent at the mean of")
    panel.grid(False)
    panel.spines[:].set_visible(False)


def _by_group(run: ModelRun, quantity: str) -> dict[int, float]:
    """Template -> mean of |value|: errors at random points, and the outputs themselves (what 0 would be off by)."""
    rows = run.outcomes["layernorm"]
    rows = rows[(rows["quantity"] == quantity) & (rows["task"] == TASK)]
    return {int(g): float(np.abs(v).mean()) for g, v in rows.groupby("group")["value"]}
