"""How good are the SAEs: L0, explained variance, error, CE increase, dead share (protocol 2.1 and 8)?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bearings.evidence.figures import WIDTH, bar_with_interval, colour
from bearings.stages.panels import get, legend, said_missing, there, title
from bearings.stages.read import ModelRun
from bearings.studies.sensitivity import draw_data as data
from bearings.studies.sensitivity.common import KINDS, MAIN, SIDES
from bearings.studies.sensitivity.draw_panels import (
    MARKS,
    NAMES,
    Runs,
    key,
    l0_axis,
    pairs,
    paper,
    plain_logs,
    point,
    published_dash,
)
from bearings.studies.sensitivity.measure_study import prefix

# What follows the SAE's name, on which part of the measures -> axis.
PANELS = {
    "sae.{}.l0": "L0, features per token",
    "sae.{}.variance": "explained variance",
    "sae.{}.error_norm": "mean norm of the error",
    "sub.{}.ce_increase": "CE increase (nats per token)",
    "sae.{}.dead": "share of dead features",
}
LOGS = ("sae.{}.l0", "sub.{}.ce_increase")
GATES = {
    "setup.entropy_share": ("CE over\nunigram entropy\n(≤ 0.8)", 0.8),
    "gate.participation": ("participation\nover width\n(≤ 0.5)", 0.5),
    "gate.variance": ("variance,\nleast local\n(≥ 0.5)", 0.5),
}
SIDE_MARKS = {"early": "<", "late": ">"}


def quality(runs: Runs, settings: Mapping[str, Any]) -> Figure:
    """Six panels per model, its twin in hollow marks: five of SAEs by their L0, one of the gates."""
    found = pairs(runs)
    ratios = [r for pair in found for r in ((1.0, 1.0) if _any(*pair) else (0.7, 0.7))]
    size = (WIDTH * 1.5, 2.3 * sum(ratios) + 0.6)
    figure, axes = plt.subplots(2 * len(found), 3, figsize=size, squeeze=False, height_ratios=ratios)
    for i, (run, twin) in enumerate(found):
        panels = [*axes[2 * i], *axes[2 * i + 1]]
        for panel, (measure, text) in zip(panels, PANELS.items(), strict=False):
            panel.set_title(f"{title(run)}: {text}" if panel is panels[0] else text, fontsize=9)
            if any(there(r, measure.format(sae)) for r in (run, twin) if r for _, sae in data.every_sae(r)):
                _panel(panel, run, twin, measure, text)
            else:
                said_missing(panel, "this model has no SAEs" if not data.every_sae(run) else data.NOT_RUN)
        _gates(panels[-1], run, twin)
    legend(figure, 4, _keys(found) if any(_any(*pair) for pair in found) else None)
    return figure


def _any(run: ModelRun, twin: ModelRun | None) -> bool:
    return any(data.every_sae(r) for r in (run, twin) if r is not None)


def _panel(axes: Axes, run: ModelRun, twin: ModelRun | None, measure: str, text: str) -> None:
    first = measure == "sae.{}.l0"
    for model in (m for m in (twin, run) if m is not None):
        hollow = model is twin
        for kind in KINDS:
            _ladder(axes, model, kind, MAIN, measure, MARKS[kind], hollow)
        for layer in SIDES if not hollow else ():
            _ladder(axes, model, "local", layer, measure, SIDE_MARKS[layer], True, line=False)
    if first:
        axes.set_xlabel("place in the ladder, sparsest first")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        l0_axis(axes)
    if measure in LOGS and _positive(axes):
        plain_logs(axes, "y")
    elif measure.endswith("dead"):
        axes.set_ylim(-0.04, max(0.2, axes.get_ylim()[1]))


def _positive(axes: Axes) -> bool:
    """Whether all that is drawn can stand on a logarithmic axis."""
    return all(min(line.get_ydata()) > 0 for line in axes.lines if len(line.get_ydata()))


def _ladder(
    axes: Axes, run: ModelRun, kind: str, layer: str, measure: str, mark: str, hollow: bool, line: bool = True
) -> None:
    ladder, head = data.saes(run, kind, layer), prefix(layer)
    places = [i if measure == "sae.{}.l0" else data.l0(run, sae, layer) for i, sae in enumerate(ladder)]
    found = [get(run, head + measure.format(sae)) for sae in ladder]
    known = [
        (x, m, s)
        for x, m, s in zip(places, found, ladder, strict=True)
        if x is not None and m["value"] is not None
    ]
    if line and known:
        dashes = "--" if hollow else "-"
        axes.plot(
            [k[0] for k in known],
            [k[1]["value"] for k in known],
            dashes,
            color=colour(kind),
            linewidth=0.9,
            alpha=0.6,
        )
    for x, m, sae in known:
        point(axes, x, m, kind, mark, hollow, size=4.5)
        published_dash(axes, x, paper(run, head + measure.format(sae)), colour(kind))


def _gates(axes: Axes, run: ModelRun, twin: ModelRun | None) -> None:
    """What must hold before anything is claimed, with its bound."""
    axes.set_title("gates, bound dotted", fontsize=9)
    if not any(there(m, name) for m in (run, twin) for name in GATES):
        said_missing(axes, data.NOT_RUN)
        return
    for i, (name, (_, bound)) in enumerate(GATES.items()):
        for k, model in enumerate(m for m in (run, twin) if m is not None):
            before = len(axes.patches)
            bar_with_interval(
                axes, i + 0.38 * k - (0.19 if twin else 0), get(model, name), "zero", width=0.36
            )
            for patch in axes.patches[before:]:
                patch.set(facecolor="#AAAAAA", hatch="////" if model is twin else None)
        axes.hlines(bound, i - 0.42, i + 0.42, color="black", linestyle=":", linewidth=1.2, zorder=4)
    axes.set_xticks(range(len(GATES)), [text for text, _ in GATES.values()], fontsize=7.5)
    axes.set(xlim=(-0.55, len(GATES) - 0.45), ylabel="share")


def _keys(found: list[tuple[ModelRun, ModelRun | None]]) -> dict[str, Artist]:
    keys: dict[str, Artist] = {}
    for kind in KINDS:
        keys |= key(kind, f"SAE, {NAMES[kind]}", MARKS[kind])
    for layer, mark in SIDE_MARKS.items():
        keys |= key("local", f"local, {layer} layer", mark, hollow=True)
    if any(twin is not None for _, twin in found):
        keys |= key("zero", "untrained twin (bars: hatched)", "o", hollow=True, dashes="--")
    return keys
