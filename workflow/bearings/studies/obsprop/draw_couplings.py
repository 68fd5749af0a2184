"""Do coupling coefficients predict slopes, and cos^2 the r^2, of scores over running text (protocol 2.3)?"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bearings.evidence.figures import WIDTH, colour
from bearings.stages.panels import TWIN, get, legend, said_missing, there, title
from bearings.stages.read import ModelRun
from bearings.studies.obsprop.draw_panels import PAPER, Runs, said
from bearings.studies.obsprop.measure_coupling import OURS, PUBLISHED, READINGS, SUMS, fit
from bearings.studies.obsprop.measure_patching import TOP

ALL = {"slope": "coupling.all.corr_slope", "r2": "coupling.all.corr_r2"}
AXES = {
    "slope": ("predicted: coupling coefficient C", "fitted: slope of the scores"),
    "r2": ("predicted: cos² of the features", "fitted: r² of the scores"),
}
CONTROLS = {
    "random": ("x", "object feature swapped for a random vector"),
    "shuffled": ("+", "shuffled tokens"),
}
# Where a head's number is written, by its rank, in points: heads that lie close keep their names apart.
NAMED = {1: (9, -14), 2: (-12, -18), 3: (-24, 8)}


def couplings(runs: Runs) -> Figure:
    """One row per run: slopes against C on the left, r^2 against cos^2 on the right, every head a point."""
    points = [_points(run) for run in runs]
    ratios = [1.0 if len(p["ours"]) else 0.4 for p in points]
    size = (WIDTH * 1.5, 3.7 * sum(ratios) + 0.6)
    figure, axes = plt.subplots(len(runs), 2, figsize=size, squeeze=False, height_ratios=ratios)
    for j, kind in enumerate(AXES):
        span = _span(points, kind)
        for run, mine, panel in zip(runs, points, axes[:, j], strict=True):
            asks = "does C predict the slope?" if kind == "slope" else "does cos² predict r²?"
            panel.set_title(f"{title(run)}: {asks}", fontsize=9)
            if mine["ours"].empty:
                said_missing(panel, "no scores of any head over running text")
                continue
            _panel(panel, run, mine, kind)
            panel.set(xlim=span, ylim=span, xlabel=AXES[kind][0], ylabel=AXES[kind][1])
            panel.grid(True, axis="both")
    legend(figure, 3)
    return figure


def _points(run: ModelRun) -> dict[str, pd.DataFrame]:
    """Fits by head: of our reading and of its controls."""
    table = run.outcomes["coupling"]
    return {"ours": _fits(table, {})} | {name: _fits(table, READINGS[name]) for name in CONTROLS}


def _fits(table: pd.DataFrame, how: dict) -> pd.DataFrame:
    """(layer, head) -> predicted, cos2, slope, r2."""
    for column, value in {**OURS, **how}.items():
        table = table[table[column] == value]
    by = table.groupby(["layer", "head"])
    out = by[["predicted", "cos"]].first()
    with np.errstate(invalid="ignore", divide="ignore"):
        found = fit(by[SUMS].sum().to_numpy(float))
    return out.assign(cos2=out["cos"] ** 2, slope=found["slope"], r2=found["r2"])


def _span(points: list[dict[str, pd.DataFrame]], kind: str) -> tuple[float, float]:
    """The same range in every row and on both axes, with all points inside."""
    x = "predicted" if kind == "slope" else "cos2"
    values = [p[name][c] for p in points for name in p for c in (x, kind)]
    values += [pd.Series([0.0, 1.0])]
    found = pd.concat(values).replace([np.inf, -np.inf], np.nan).dropna()
    return float(found.min()) - 0.07, float(found.max()) + 0.07


def _panel(panel: Axes, run: ModelRun, mine: dict[str, pd.DataFrame], kind: str) -> None:
    x = "predicted" if kind == "slope" else "cos2"
    panel.axline((0, 0), slope=1, color="black", linewidth=0.8, linestyle=":", label="predicted = fitted")
    for name, (marker, label) in CONTROLS.items():
        found = mine[name]
        panel.plot(found[x], found[kind], marker, color=colour("random"), ms=5, label=label, linestyle="")
    ours = mine["ours"]
    soft = {"color": colour("clean"), "ms": 5, "alpha": 0.9, "linestyle": "", "label": "one head"}
    panel.plot(ours[x], ours[kind], "o", **soft)
    predicted = "predicted" if kind == "slope" else "cos2"
    for k in range(1, TOP + 1):
        _top(panel, run, f"coupling.top{k}", predicted, kind, k)
    if not run.name.endswith(TWIN):
        _published(panel, run, kind)
    panel.text(0.03, 0.97, f"over heads: Pearson {said(get(run, ALL[kind]))}", transform=panel.transAxes, va="top",
               fontsize=8, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1})  # fmt: skip


def _top(panel: Axes, run: ModelRun, where: str, predicted: str, kind: str, k: int) -> None:
    if not (there(run, f"{where}.{predicted}") and there(run, f"{where}.{kind}")):
        return
    x, found = get(run, f"{where}.{predicted}")["value"], get(run, f"{where}.{kind}")
    ink = colour("obsprop")
    panel.plot(
        x, found["value"], "o", color=ink, ms=6.5, label="three heads of the largest attribution", zorder=4
    )
    if found["low"] is not None:
        panel.vlines(x, found["low"], found["high"], color=ink, linewidth=1.6, zorder=4)
    head = (found.get("reason") or "").removeprefix("head ").split(";")[0]
    panel.annotate(
        head, (x, found["value"]), xytext=NAMED[k], textcoords="offset points", fontsize=7.5, color=ink, zorder=5,
        arrowprops={"arrowstyle": "-", "color": ink, "lw": 0.7, "shrinkA": 0, "shrinkB": 3},
    )  # fmt: skip


def _published(panel: Axes, run: ModelRun, kind: str) -> None:
    """The three published heads: the paper's numbers, and on its model ours read as the authors did."""
    for a, b in PUBLISHED:
        where = f"coupling.published.{a}.{b}"
        cos, c = PAPER[f"{where}.cos"], PAPER[f"{where}.predicted"]
        x = c if kind == "slope" else cos**2
        mark = {"mfc": "none", "mec": "black", "ms": 7, "mew": 1.1, "linestyle": "", "zorder": 5}
        panel.plot(x, PAPER[f"{where}.{kind}"], "D", label="published, GPT-Neo-1.3B", **mark)
        ours = get(run, f"{where}.{'predicted' if kind == 'slope' else 'cos2'}")["value"]
        if ours is not None and there(run, f"{where}.{kind}"):
            label = "the same heads here, read as published"
            panel.plot(ours, get(run, f"{where}.{kind}")["value"], "*", color=colour("obsprop_chosen"), ms=8,
                       label=label, linestyle="", zorder=6)  # fmt: skip
