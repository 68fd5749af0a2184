"""House style of the figures: one colour per method, legible at README width, the same bytes every time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bearings.store.atomic import replacing

DPI = 150
WIDTH = 6.0  # inches: 900 pixels, the width of a README

# Okabe and Ito's colours, told apart under the common kinds of colour blindness.
OKABE_ITO = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "yellow": "#F0E442",
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "purple": "#CC79A7",
    "grey": "#999999",
}
COLOURS: Mapping[str, str] = {
    "mean_diff": OKABE_ITO["blue"],
    "kmeans": OKABE_ITO["orange"],
    "logistic": OKABE_ITO["green"],
    "pca": OKABE_ITO["purple"],
    "das": OKABE_ITO["vermilion"],
    "das2d": "#A34700",
    "das3d": "#6B2F00",
    "das_all": "#F0946B",
    "lrc": OKABE_ITO["vermilion"],
    "first_mid": "#F0946B",
    "first_final": OKABE_ITO["orange"],
    "transpose": "#8A7A00",
    "full_rank": "#6B2F00",
    "svm": OKABE_ITO["blue"],
    "svm_fair": OKABE_ITO["sky"],
    "average": OKABE_ITO["purple"],
    "centred": "#882255",
    "majority": "#555555",
    "obsprop": OKABE_ITO["vermilion"],
    "obsprop_chosen": OKABE_ITO["orange"],
    "obsprop_path": "#F0946B",
    "regression": OKABE_ITO["green"],
    "leace": OKABE_ITO["purple"],
    "control": OKABE_ITO["yellow"],
    "shuffled": "#666666",
    "female": "#882255",
    "male": OKABE_ITO["blue"],
    "random": OKABE_ITO["grey"],
    "twin": "#BBBBBB",
    "published": OKABE_ITO["black"],
    "clean": OKABE_ITO["sky"],
    "iso": OKABE_ITO["grey"],
    "cov_mixture": OKABE_ITO["blue"],
    "cov_difference": OKABE_ITO["sky"],
    "real_mixture": OKABE_ITO["green"],
    "real_difference": "#7FCDB3",
    "zero": "#555555",
    "norm_only": "#8A7A00",
    # Kinds of SAE, in which their errors and reconstructions are drawn too.
    "local": OKABE_ITO["vermilion"],
    "e2e": OKABE_ITO["purple"],
    "e2e_ds": OKABE_ITO["orange"],
    # Classes of features: one hue, the paler the less a feature fires.
    "active": "#332288",
    "inactive": "#6F5FC0",
    "dead": "#BDB4E2",
}
# A published value stays legible on top of a bar and its interval.
ON_TOP: Mapping[str, Any] = {
    "textcoords": "offset points",
    "va": "bottom",
    "fontsize": 7,
    "zorder": 6,
    "bbox": {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.8},
}
STYLE: Mapping[str, Any] = {
    "figure.dpi": DPI,
    "figure.figsize": (WIDTH, 3.4),
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",  # ships with matplotlib, so every machine draws the same letters
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#E0E0E0",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "svg.hashsalt": "bearings",
}


def colour(name: str) -> str:
    """A method's colour; black for a name without one of its own."""
    return COLOURS.get(name, OKABE_ITO["black"])


@contextmanager
def style() -> Iterator[None]:
    """The house style, and nothing of the user's own matplotlib settings."""
    with plt.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def save(figure: Figure, path: str | os.PathLike) -> None:
    """Write a PNG without date or software name, atomically, and close the figure."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
    plt.close(figure)


def bar_with_interval(
    axes: Axes, x: float, measure: Mapping[str, Any], name: str, label: str | None = None, width: float = 0.7
) -> None:
    """A bar up to the value with its interval; what was not measured is written, not drawn as zero."""
    if measure.get("value") is None:
        axes.annotate(
            "not measurable",
            (x, 0),
            xycoords=axes.get_xaxis_transform(),
            xytext=(0, 4),
            textcoords="offset points",
            rotation=90,
            ha="center",
            va="bottom",
            fontsize=7,
            color="#666666",
        )
        return
    hatch = "///" if name == "twin" else None
    axes.bar(
        x,
        measure["value"],
        width,
        color=colour(name),
        label=label,
        hatch=hatch,
        edgecolor="white",
        linewidth=0,
    )
    _whisker(axes, x, measure)


def interval_line(
    axes: Axes, x: Sequence[float], measures: Sequence[Mapping[str, Any]], name: str, label: str | None = None
) -> None:
    """A line through the values with a band over the intervals; gaps where nothing was measured."""
    values, low, high = (
        np.array([np.nan if m.get(key) is None else m[key] for m in measures], dtype=float)
        for key in ("value", "low", "high")
    )
    dashes = "--" if name in ("random", "twin") else "-"
    axes.plot(x, values, dashes, marker="o", color=colour(name), label=label or name)
    axes.fill_between(x, low, high, color=colour(name), alpha=0.18, linewidth=0)
    # A point between two gaps has no band; its interval is seen all the same.
    axes.vlines(x, low, high, color=colour(name), linewidth=0.8, alpha=0.6)


def published_mark(
    axes: Axes, value: float, x: float | None = None, label: str = "published", width: float = 0.8
) -> None:
    """The paper's value: a labelled line over the bar at `x`, or across the figure (no label: the number)."""
    black, text = COLOURS["published"], f"{label} {value:.4g}".strip()
    if x is None:
        axes.axhline(value, color=black, linestyle=":", linewidth=1.2)
        across = axes.get_yaxis_transform()
        axes.annotate(text, (1.0, value), xycoords=across, xytext=(-2, 3), ha="right", **ON_TOP)
        return
    ends = (x - width / 2, x + width / 2)
    axes.hlines(value, *ends, color="white", linewidth=3.0, zorder=4)
    axes.hlines(value, *ends, color=black, linestyle=(0, (2, 1)), linewidth=1.6, zorder=5)
    axes.annotate(text, (x, value), xytext=(0, 3), ha="center", **ON_TOP)


def _whisker(axes: Axes, x: float, measure: Mapping[str, Any]) -> None:
    low, high = measure.get("low"), measure.get("high")
    if low is not None and high is not None:
        axes.vlines(x, low, high, color=OKABE_ITO["black"], linewidth=1.2)
