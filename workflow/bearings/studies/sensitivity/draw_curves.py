"""How does KL grow with length along each kind of direction (protocol 2.2, 2.3)?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bearings.evidence.figures import WIDTH, colour
from bearings.stages.panels import said_missing, title
from bearings.stages.read import ModelRun
from bearings.studies.sensitivity import draw_data as data
from bearings.studies.sensitivity.draw_panels import (
    KL,
    NAMES,
    THEIRS,
    Runs,
    level_line,
    line_with_band,
    paper,
    plain_logs,
    published_dash,
)

LENGTH = "length of the perturbation (mean norms)"
PANELS = {"baselines": "baselines", "error": "SAE errors", "inactive": "features, alive but inactive"}
DASHES = {"cov_difference": "--", "real_difference": "--", "zero": ":"}
BASELINES = ("iso", "cov_mixture", "cov_difference", "real_mixture", "real_difference", "zero")
REFERENCES = ("iso", "cov_mixture")
KINDS = {"local": "local", "e2e": "e2e", "e2e_ds": "e2e_ds"}


@dataclass(frozen=True, eq=False)
class Drawn:
    """One line of a panel."""

    name: str
    label: str
    dashes: Any
    means: data.Means
    measure: str = ""


def curves(runs: Runs, settings: Mapping[str, Any]) -> Figure:
    """Two rows per run: KL by length, and over that of isotropic noise of the same length, resampled together."""
    ratios = [r for run in runs for r in ((1.25, 1.0) if _measured(run) else (0.4, 0.02))]
    size = (WIDTH * 1.5, 2.35 * sum(ratios) + 0.4)
    figure, axes = plt.subplots(
        2 * len(runs), len(PANELS), figsize=size, squeeze=False, height_ratios=ratios, sharex=False
    )
    for i, run in enumerate(runs):
        named = data.named_lengths(run, settings)
        for column, (direction, what) in enumerate(PANELS.items()):
            top, bottom = axes[2 * i, column], axes[2 * i + 1, column]
            top.set_title(f"{title(run)}, {what}" if column == 0 else what, fontsize=9)
            lines = _lines(run, direction)
            if not any(line.means for line in lines if direction == "baselines" or line.measure):
                said_missing(top, _why(run, direction))
                bottom.set_axis_off()
                bottom.text(0, 0, " ")
                continue
            _growth(top, run, lines, named)
            _ratio(bottom, lines, named, first=column == 0)
            top.set_ylabel(KL if column == 0 else "")
        _same_heights(list(axes[2 * i]))
        _same_heights(list(axes[2 * i + 1]))
    named = {name: at for run in reversed(runs) for name, at in data.named_lengths(run, settings).items()}
    marked = any(THEIRS in panel.get_legend_handles_labels()[1] for panel in figure.axes)
    _footer(figure, named, marked)
    return figure


def _measured(run: ModelRun) -> bool:
    return bool(data.curve(run, "iso"))


def _why(run: ModelRun, direction: str) -> str:
    if direction != "baselines" and not data.every_sae(run):
        return "this model has no SAEs"
    return data.NOT_RUN


def _lines(run: ModelRun, direction: str) -> list[Drawn]:
    """What a panel draws: all baselines, or two of them and one direction of a few SAEs."""
    if direction == "baselines":
        found = [Drawn(n, NAMES[n], DASHES.get(n, "-"), data.curve(run, n)) for n in BASELINES]
        return [line for line in found if line.means]
    found = [Drawn(n, NAMES[n], "-", data.curve(run, n)) for n in REFERENCES]
    found = [line for line in found if line.means]
    for kind, sae, dashes in compared(run):
        measure = f"err.{sae}" if direction == "error" else f"feat.{sae}.{direction}"
        found.append(Drawn(kind, named_sae(run, kind, sae), dashes, data.curve(run, direction, sae), measure))
    return found


def compared(run: ModelRun) -> list[tuple[str, str, Any]]:
    """(kind, SAE, dashes): the sparsest and the middle local SAE, and of the other kinds that of the nearest L0."""
    local, centre = data.saes(run, "local"), data.middle(run)
    found: list[tuple[str, str, Any]] = (
        [("local", local[0], (0, (1, 1)))] if local and local[0] != centre else []
    )
    found += [("local", centre, "-")] if centre else []
    wanted = data.l0(run, centre) if centre else None
    others = ((kind, data.nearest(run, kind, wanted)) for kind in ("e2e", "e2e_ds"))
    return found + [(kind, sae, "-") for kind, sae in others if sae]


def named_sae(run: ModelRun, kind: str, sae: str) -> str:
    """What a legend calls an SAE."""
    value = data.l0(run, sae)
    return f"{NAMES[kind]}, {sae}" if value is None else f"{NAMES[kind]}, L0 {value:.3g}"


def _growth(axes: Axes, run: ModelRun, lines: list[Drawn], named: Mapping[str, float]) -> None:
    for line in lines:
        if not line.means:
            axes.plot([], [], color="white", linestyle="", label=f"{NAMES[line.name]}: none in these rows")
            continue
        line_with_band(axes, line.means.x, data.band(line.means), line.name, line.label, line.dashes, "o")
        for name, at in named.items():
            theirs = paper(run, f"{line.measure}.{name}")
            published_dash(axes, at, theirs, colour(line.name), size=9)
    axes.set(xscale="log", yscale="log")
    axes.minorticks_off()  # six decades of them say nothing, and cost as much as the rest of the figure
    axes.tick_params(labelbottom=False)
    handles, labels = axes.get_legend_handles_labels()
    own = {text: h for text, h in zip(labels, handles, strict=True) if text != THEIRS}
    box = axes.legend(
        own.values(), own, loc="lower right", fontsize=7, handlelength=1.8, labelspacing=0.25, borderpad=0.2,
        borderaxespad=0.2, frameon=True, framealpha=1, edgecolor="none",
    )  # fmt: skip
    box.set_zorder(1.5)  # above the lines of the lengths, below the curves
    low, high = axes.get_ylim()
    # Room for the lengths' names above and for the legend below.
    axes.set_ylim(low * (low / high) ** 0.1, high * (high / low) ** 0.06)
    _mark(axes, named, text=True)


def _ratio(axes: Axes, lines: list[Drawn], named: Mapping[str, float], first: bool) -> None:
    """K over that of isotropic noise; SAEs whose class some sequences lack, on those that have it."""
    noise = next((line.means for line in lines if line.name == "iso"), None)
    if noise is None:
        said_missing(axes, "isotropic noise was not measured")
        return
    for line in lines:
        if line.name != "iso" and line.means:
            mine, theirs = data.at_same_lengths(line.means, noise)
            line_with_band(axes, mine.x, data.band(mine, theirs), line.name, "", line.dashes, "o")
    level_line(axes, 1, "")
    axes.set_xscale("log")
    plain_logs(axes, "y")
    plain_logs(axes, "x")
    axes.set(xlabel=LENGTH if first else "length (mean norms)", ylabel="KL over isotropic" if first else "")
    _mark(axes, named, text=False)


def _mark(axes: Axes, named: Mapping[str, float], text: bool) -> None:
    for name, at in named.items():
        axes.axvline(at, color="#BBBBBB", linewidth=0.7, linestyle="--", zorder=1)
        if text:
            axes.annotate(
                name.removeprefix("k"), (at, 1.0), xycoords=axes.get_xaxis_transform(), xytext=(0, -1),
                textcoords="offset points", ha="center", va="top", fontsize=6.5, color="#666666",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4},
            )  # fmt: skip


def _same_heights(panels: list[Axes]) -> None:
    """One range for the panels of a row that hold data."""
    full = [p for p in panels if p.lines]
    if full:
        low, high = min(p.get_ylim()[0] for p in full), max(p.get_ylim()[1] for p in full)
        for panel in full:
            panel.set_ylim(max(low, 1e-8) if panel.get_yscale() == "log" else low, high)


def _footer(figure: Figure, named: Mapping[str, float], published: bool) -> None:
    """What the grey dashed lines are, and the black dashes."""
    lengths = ", ".join(f"{name.removeprefix('k')} is {at:.3g}" for name, at in named.items())
    said = [f"grey dashes: lengths with a name, called as on GPT-2; in mean norms {lengths}"] if named else []
    said += [f"framed in black: {THEIRS}"] if published else []
    if said:
        figure.supxlabel("\n".join(said), fontsize=8, color="#444444")
