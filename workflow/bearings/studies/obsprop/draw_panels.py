"""Parts of the study's figures: a model and its twin, panels that say why they are empty, the published numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from bearings.evidence.figures import bar_with_interval, colour
from bearings.stages.panels import TWIN
from bearings.stages.read import ModelRun

Runs = Sequence[ModelRun]
PUBLISHED_MODEL = "gpt-neo-1.3b"
# As in `claims.yaml`, which a test holds against these: measure -> value of the paper's model.
PAPER: Mapping[str, float] = {
    **{"coupling.published.17.14.predicted": 0.71227, "coupling.published.17.14.slope": 0.7692},
    **{"coupling.published.17.14.cos": 0.98825, "coupling.published.17.14.r2": 0.956659},
    **{"coupling.published.15.13.predicted": 0.80108, "coupling.published.15.13.slope": 0.80034},
    **{"coupling.published.15.13.cos": 0.98179, "coupling.published.15.13.r2": 0.952306},
    **{"coupling.published.13.11.predicted": 0.74779, "coupling.published.13.11.slope": 0.76322},
    **{"coupling.published.13.11.cos": 0.93593, "coupling.published.13.11.r2": 0.818938},
    **{"scores.subj.reading.r2": 0.947, "scores.occ.reading.r2": 0.8817},
    **{"lowdata.pronoun.published.obsprop": 0.945, "lowdata.pronoun.published.regression": 0.945},
    **{"lowdata.pronoun.published.mean_diff": 0.899, "lowdata.party.published.obsprop": 0.427},
    **{"lowdata.party.published.regression": 0.295, "lowdata.party.published.mean_diff": 0.0605},
    # Mean absolute error of the tangent fitted on one template, on each template (protocol 2.6).
    **{"ln.tangent.subj.g0.g0": 0.05, "ln.tangent.subj.g0.g1": 0.2947, "ln.tangent.subj.g0.g2": 0.2519},
    **{"ln.tangent.subj.g1.g0": 0.1448, "ln.tangent.subj.g1.g1": 0.0949, "ln.tangent.subj.g1.g2": 0.1313},
    **{"ln.tangent.subj.g2.g0": 0.1803, "ln.tangent.subj.g2.g1": 0.0566, "ln.tangent.subj.g2.g2": 0.0545},
    # One claim holds the three of code: they cannot be compared where the windows are others.
    **{"lowdata.code.published.obsprop": 0.9974, "lowdata.code.published.regression": 0.9971},
    "lowdata.code.published.mean_diff": 0.9052,
}


def pairs(runs: Runs) -> list[tuple[ModelRun, ModelRun | None]]:
    """Every model with its untrained twin; a twin whose model is not among the runs stands alone."""
    named = {run.name: run for run in runs}
    alone = [run for run in runs if run.name.removesuffix(TWIN) not in named or not run.name.endswith(TWIN)]
    return [(run, named.get(run.name + TWIN)) for run in alone]


def paper(run: ModelRun, measure: str) -> float | None:
    """The published value of a measure, on the model that it belongs to only."""
    return PAPER.get(measure) if run.name == PUBLISHED_MODEL else None


def said(measure: Mapping[str, Any], digits: int = 2) -> str:
    """A value with its interval in words."""
    if measure["value"] is None:
        return "not measurable"
    text = f"{measure['value']:.{digits}f}"
    if measure["low"] is None or measure["high"] is None:
        return text
    return f"{text} [{measure['low']:.{digits}f}, {measure['high']:.{digits}f}]"


def bar(
    axes: Axes, x: float, measure: Mapping[str, Any], name: str, twin: bool = False, width: float = 0.38
) -> None:
    """A bar with its interval; the twin's is hatched and paler."""
    before = len(axes.patches)
    bar_with_interval(axes, x, measure, name, width=width)
    for patch in axes.patches[before:]:
        patch.set(hatch="////" if twin else None, alpha=0.6 if twin else 1.0)


def published_dash(axes: Axes, x: float, value: float, ink: str | None = None) -> None:
    """The paper's value on this very model, as a short thick black line, with the method's colour inside if given."""
    black, label = colour("published"), "the paper's value for this model"
    axes.plot(x, value, "_", ms=15, mew=5, color="white", zorder=5, linestyle="")
    axes.plot(x, value, "_", ms=14, mew=3.4, color=black, label=label, zorder=6, linestyle="")
    if ink is not None:
        axes.plot(x, value, "_", ms=12.5, mew=1.6, color=ink, zorder=7, linestyle="")


def quantile_tick(axes: Axes, x: float, value: float | None, width: float = 0.38) -> None:
    """Where the 95 % quantile of random vectors lies."""
    if value is not None:
        axes.hlines(
            value, x - width / 2, x + width / 2, color="black", linestyle=(0, (1, 1)),
            label="95 % quantile of random vectors",
        )  # fmt: skip


def twin_patches() -> dict[str, Artist]:
    """Legend entries of a model's bars and its twin's."""
    grey = {"facecolor": "#AAAAAA", "edgecolor": "white", "linewidth": 0}
    return {"trained": Patch(**grey), "untrained twin": Patch(hatch="////", alpha=0.6, **grey)}
