"""How well does a feature's score tell the answer (protocol 2.4, 2.7), and what does an edit along it do (2.8)?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bearings.evidence.figures import WIDTH
from bearings.stages.panels import TWIN, get, legend, said_missing, there
from bearings.stages.read import ModelRun
from bearings.studies.obsprop.draw_panels import (
    Runs,
    bar,
    pairs,
    paper,
    published_dash,
    quantile_tick,
    said,
    twin_patches,
)

TASKS = {
    "subj": ("subject pronoun", "name"),
    "obj": ("object pronoun", "name"),
    "occ": ("occupations", "name"),
    "party": ("party", "mean over tokens"),
    "code1": ("C or Python", "mean over tokens"),
}
# Kind of feature -> what it is called, and its colour.
KINDS = {
    "reading": ("reading\nfeature", "obsprop"),
    "best_head": ("best head,\nchosen on other half", "obsprop_chosen"),
    "head": ("best path\nof length 1", "obsprop_path"),
    "path2": ("best path\nof length 2", "obsprop_path"),
    "path3": ("best path\nof length 3", "obsprop_path"),
    "shared": ("shared with\nanother observable", "obsprop_path"),
    "6_6": ("path to 6.6", "obsprop_path"),
    "mlp1": ("path to MLP 1", "obsprop_path"),
    "control": ("control observable,\nsame head", "control"),
    "random": ("random\nvectors", "random"),
}
EDITS = {
    "unit": ("unit feature", "obsprop"),
    "double": ("“2 v”, as\npublished (× 4)", "obsprop_path"),
    "whole": ("whole residual", "clean"),
    "random": ("random\nvectors", "random"),
}


def readout(runs: Runs) -> Figure:
    """One row of bars per task, a model beside its twin; r^2 of the answer, or the area under the curve for code."""
    rows = [(run, twin, task) for run, twin in pairs(runs) for task in TASKS]
    kinds = _kinds(runs)
    size = (WIDTH * 1.5, 1.35 * len(rows) + 1.1)
    figure, axes = plt.subplots(len(rows), 1, figsize=size, squeeze=False)
    for (run, twin, task), panel in zip(rows, axes[:, 0], strict=True):
        name, where = TASKS[task]
        model = f"{run.name}, " if task == next(iter(TASKS)) else ""
        what = (
            "do scores tell the languages apart?"
            if task == "code1"
            else "do scores tell the logit difference?"
        )
        panel.set_title(f"{model}{name} ({where}): {what}", fontsize=9)
        _task(panel, run, twin, task, kinds)
        named = panel is axes[-1, 0]
        panel.set_xticks(range(len(kinds)), [KINDS[k][0] if named else "" for k in kinds], fontsize=8)
    legend(figure, 5, _patches(runs))
    return figure


def _patches(runs: Runs) -> dict:
    return twin_patches() if any(run.name.endswith(TWIN) for run in runs) else {}


def _unit(task: str) -> str:
    return "auc" if task == "code1" else "r2"


def _kinds(runs: Runs) -> list[str]:
    """The kinds that any run has; the path of the reading feature itself is not shown a second time."""

    def own(kind: str) -> bool:
        found = [(get(r, f"scores.{t}.{kind}.{_unit(t)}"), get(r, f"scores.{t}.reading.{_unit(t)}")) for r in runs
                 for t in TASKS]  # fmt: skip
        values = [(a["value"], b["value"]) for a, b in found if a["value"] is not None]
        return kind == "reading" or any(a != b for a, b in values)

    return [kind for kind in KINDS if own(kind)]


def _task(panel: Axes, run: ModelRun, twin: ModelRun | None, task: str, kinds: list[str]) -> None:
    unit = _unit(task)
    for x, kind in enumerate(kinds):
        measure = f"scores.{task}.{kind}.{unit}"
        for which, shift in ((run, -0.2), (twin, 0.2)):
            if which is None:
                continue
            found, at = get(which, measure), x + (shift if twin is not None else 0.0)
            if found["value"] is None:
                panel.text(
                    at, 0.04, "none", rotation=90, ha="center", va="bottom", fontsize=7, color="#666666"
                )
                continue
            bar(panel, at, found, KINDS[kind][1], which is twin)
            if (get(which, f"scores.{task}.{kind}.r")["value"] or 0.0) < 0:
                top = max(found["value"], found["high"] or 0.0)
                panel.text(at, top + 0.02, "r < 0", ha="center", va="bottom", fontsize=6.5, color="#444444")
            if kind == "random":
                quantile_tick(panel, at, get(which, f"{measure}.q95")["value"])
        theirs = paper(run, measure)
        if theirs is not None:
            published_dash(panel, x + (-0.2 if twin is not None else 0.0), theirs)
    if unit == "auc":
        panel.axhline(0.5, color="black", linewidth=0.9, linestyle=":", label="chance (AUC)")
    panel.set(xlim=(-0.6, len(kinds) - 0.4), ylim=(0, 1.09), ylabel="AUC" if unit == "auc" else "r²")
    panel.set_yticks([0, 0.5, 1])


def debias(runs: Runs) -> Figure:
    """Left: share of the gap of outputs that an edit closes. Right: what it changes of all other tokens."""
    models = pairs(runs)
    size = (WIDTH * 1.5, 3.1 * len(models) + 0.5)
    figure, axes = plt.subplots(len(models), 2, figsize=size, squeeze=False)
    for (run, twin), (left, right) in zip(models, axes, strict=True):
        left.set_title(f"{run.name}: how much of the gap does an edit close?", fontsize=9)
        right.set_title("how much do the other tokens change?", fontsize=9)
        _gap(left, run, twin)
        _others(right, run, twin)
    legend(figure, 4, _patches(runs))
    return figure


def _gap(panel: Axes, run: ModelRun, twin: ModelRun | None) -> None:
    """Shares of the model's own gap; a twin has next to none, so its gap is written."""
    if not there(run, "debias.gap.unit"):
        said_missing(panel, get(run, "debias.gap.unit").get("reason"))
        return
    for x, (variant, (_, ink)) in enumerate(EDITS.items()):
        bar(panel, x, get(run, f"debias.gap.{variant}"), ink, width=0.6)
    _number(panel, len(EDITS) - 1, get(run, "debias.gap.random"), 9)
    quantile_tick(panel, len(EDITS) - 1, get(run, "debias.gap.random.abs_q95")["value"], 0.6)
    lines = [f"gap: {said(get(run, 'debias.output_gap'))} logits"]
    if there(twin, "debias.output_gap"):
        lines.append(f"untrained twin's gap: {said(get(twin, 'debias.output_gap'))}")
    panel.text(0.02, 0.98, "\n".join(lines), transform=panel.transAxes, va="top", fontsize=8)
    panel.axhline(0, color="black", linewidth=0.8)
    panel.set_xticks(range(len(EDITS)), [name for name, _ in EDITS.values()], fontsize=8)
    panel.set(ylabel="share of the gap of n_bias closed")
    low, high = panel.get_ylim()
    panel.set_ylim(low, high + 0.28 * (high - low))


def _others(panel: Axes, run: ModelRun, twin: ModelRun | None) -> None:
    if not there(run, "debias.kl_others.unit"):
        said_missing(panel, get(run, "debias.kl_others.unit").get("reason"))
        return
    for x, (variant, (_, ink)) in enumerate(EDITS.items()):
        for which, shift in ((run, -0.2), (twin, 0.2)):
            if which is not None:
                at = x + (shift if twin is not None else 0.0)
                found = get(which, f"debias.kl_others.{variant}")
                bar(panel, at, found, ink, which is twin)
                if variant == "random":
                    _number(panel, at, found, 3)
    panel.set_xticks(range(len(EDITS)), [name for name, _ in EDITS.values()], fontsize=8)
    panel.set(ylabel="KL on all other tokens (nats)")


def _number(panel: Axes, x: float, measure: Mapping[str, Any], above: float) -> None:
    """The number over a bar that may be too low to be seen; `above` in points."""
    if measure["value"] is not None:
        at = (x, max(measure["value"], 0.0))
        panel.annotate(f"{measure['value']:.1g}", at, xytext=(0, above), textcoords="offset points", ha="center",
                       fontsize=7.5, color="#444444")  # fmt: skip
