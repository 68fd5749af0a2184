"""Parts of the study's figures: names, marks and inks; points with intervals; a model and its twin."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import Locator, LogLocator, MaxNLocator, NullFormatter

from bearings.evidence.figures import colour
from bearings.stages.panels import TWIN
from bearings.stages.read import ModelRun
from bearings.studies.sensitivity.draw_published import PAPER, PUBLISHED_MODEL

Runs = Sequence[ModelRun]
KL = "KL (nats per token)"
THEIRS = "the paper's value for this model"
# As labels say it; colours are those of `evidence.figures`.
NAMES: Mapping[str, str] = {
    "iso": "isotropic",
    "cov_mixture": "covariance mixture",
    "cov_difference": "covariance difference",
    "real_mixture": "real mixture",
    "real_difference": "real difference",
    "zero": "−x, towards zero",
    "norm_only": "norm of the reconstruction only",
    "local": "local",
    "e2e": "e2e",
    "e2e_ds": "e2e+ds",
    "inactive": "alive, inactive",
    "active": "active",
    "dead": "dead",
}
MARKS: Mapping[str, str] = {
    "local": "o", "e2e": "s", "e2e_ds": "^", "iso": "D", "cov_mixture": "v", "real_mixture": "P", "norm_only": "X",
}  # fmt: skip


def pairs(runs: Runs) -> list[tuple[ModelRun, ModelRun | None]]:
    """Every model with its untrained twin; a twin whose model is not among the runs stands alone."""
    named = {run.name: run for run in runs}
    alone = [run for run in runs if run.name.removesuffix(TWIN) not in named or not run.name.endswith(TWIN)]
    return [(run, named.get(run.name + TWIN)) for run in alone]


def paper(run: ModelRun, measure: str) -> Any:
    """The published value of a measure, on the model that it belongs to only."""
    return PAPER.get(measure) if run.name == PUBLISHED_MODEL else None


def point(
    axes: Axes,
    x: float,
    measure: Mapping[str, Any],
    name: str,
    mark: str | None = None,
    hollow: bool = False,
    label: str | None = None,
    size: float = 5,
) -> None:
    """A mark with its interval; nothing where nothing was measured."""
    if measure["value"] is None:
        return
    ink = colour(name)
    face = "white" if hollow else ink
    axes.plot(
        x, measure["value"], mark or MARKS.get(name, "o"), color=ink, mfc=face, ms=size, mew=1.0, linestyle="",
        label=label, zorder=4,
    )  # fmt: skip
    if measure["low"] is not None and measure["high"] is not None:
        axes.vlines(x, measure["low"], measure["high"], color=ink, linewidth=1.2, zorder=3)


def line_with_band(
    axes: Axes,
    x: np.ndarray,
    found: Sequence[np.ndarray],
    name: str,
    label: str,
    dashes: Any = "-",
    mark: str = "",
) -> None:
    """A line through values [k] with a band from low to high [k]."""
    value, low, high = found
    axes.plot(x, value, color=colour(name), linestyle=dashes, label=label, marker=mark, ms=3)
    axes.fill_between(x, low, high, color=colour(name), alpha=0.2, linewidth=0)


def published_dash(
    axes: Axes, x: float, value: float | None, ink: str | None = None, size: float = 14
) -> None:
    """The paper's value on this very model: a short thick black line, its method's colour inside."""
    if value is None:
        return
    axes.plot(x, value, "_", ms=size + 1, mew=5, color="white", zorder=5, linestyle="")
    axes.plot(
        x, value, "_", ms=size, mew=3.4, color=colour("published"), zorder=6, linestyle="", label=THEIRS
    )
    if ink is not None:
        axes.plot(x, value, "_", ms=size - 1.5, mew=1.6, color=ink, zorder=7, linestyle="")


def level_line(axes: Axes, value: float, text: str) -> None:
    """A dotted line across."""
    axes.axhline(value, color="black", linewidth=0.9, linestyle=":", label=text, zorder=2)


class FewLogs(Locator):
    """Round numbers on a logarithmic axis, as many as there is room for, be it a tenth of a decade or six of them."""

    def __init__(self, room: int):
        self._room = room

    def __call__(self) -> np.ndarray:
        return self.tick_values(*self.axis.get_view_interval())

    def tick_values(self, low: float, high: float) -> np.ndarray:
        low, high = sorted((low, high))
        if not 0 < low < high:
            return np.array([])
        decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
        found: list[float] = []
        for round_numbers in ((1, 1.5, 2, 3, 5, 7), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
            found = [m * 10.0**k for k in decades for m in round_numbers if low <= m * 10.0**k <= high]
            if len(found) <= self._room:
                break
        if len(found) < 2:
            found = [x for x in MaxNLocator(4).tick_values(low, high) if low <= x <= high]
        return np.array(found[:: -(-len(found) // self._room)])


def plain_logs(axes: Axes, which: str, room: int = 6) -> None:
    """A logarithmic axis with at most `room` numbers, as they are (20, not 2 x 10^1)."""
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(FewLogs(room))
    axis.set_minor_locator(LogLocator(10, range(2, 10)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def l0_axis(axes: Axes) -> None:
    """L0 along a logarithmic x axis; SAEs that hardly ever fire would squeeze the others, and are left out."""
    plain_logs(axes, "x", 5)
    left, right = axes.get_xlim()
    if left < 1:
        axes.set_xlim(1, max(right, 10))
        axes.text(0.02, 0.02, "L0 below 1 not shown", transform=axes.transAxes, fontsize=6.5, color="0.35")
    axes.set_xlabel("L0 of the SAE")


def key(name: str, label: str, mark: str = "o", hollow: bool = False, dashes: str = "") -> dict[str, Artist]:
    """A legend entry by hand."""
    face = "white" if hollow else colour(name)
    line = Line2D([], [], color=colour(name), marker=mark, mfc=face, linestyle=dashes, ms=5)
    return {label: line}
