"""Is it the same at other layers (protocol 2, sae_error.layers)?"""

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
from bearings.studies.sensitivity.draw_panels import Runs, key, level_line, pairs, paper, plain_logs, point
from bearings.studies.sensitivity.measure_layers import ORDER
from bearings.studies.sensitivity.measure_study import prefix

# Measure at each layer -> (title, colour).
PANELS = {
    "sae_over_iso": ("SAE over isotropic noise\nas long as its error", "local"),
    "sae_over_covmix": ("SAE over covariance mixture\nas long as its error", "local"),
    "covmix_over_iso": ("covariance mixture over isotropic\nat length 51, no SAE", "cov_mixture"),
}
RANGE = "published range over 12 layers (Gurnee 2024)"


def layers(runs: Runs, settings: Mapping[str, Any]) -> Figure:
    """One row per model, its twin in hollow marks: local SAEs at each layer, and their mean."""
    found = pairs(runs)
    ratios = [1.0 if _any(run) or _any(twin) else 0.4 for run, twin in found]
    size = (WIDTH * 1.5, 3.0 * sum(ratios) + 0.5)
    figure, axes = plt.subplots(
        len(found), len(PANELS), figsize=size, squeeze=False, height_ratios=ratios, sharey="row"
    )
    for (run, twin), row in zip(found, axes, strict=True):
        for panel, (measure, (what, name)) in zip(row, PANELS.items(), strict=True):
            lead = f"{title(run)}: " if measure == "sae_over_iso" else ""
            panel.set_title(f"{lead}{what}", fontsize=8.5)
            if any(there(r, f"layers.{at}.{measure}") for r in (run, twin) for at in ORDER):
                _panel(panel, run, twin, measure, name)
            else:
                why = get(run, f"layers.main.{measure}").get("reason")
                said_missing(panel, why or data.NOT_RUN)
        filled = [panel for panel in row if panel.lines]
        for panel in filled[:1]:
            panel.set_ylabel("ratio of mean KL")
    legend(figure, 3, _keys(found) if any(_any(r) for pair in found for r in pair) else None)
    return figure


def _any(run: ModelRun | None) -> bool:
    return any(there(run, f"layers.{at}.{measure}") for at in ORDER for measure in PANELS)


def _panel(axes: Axes, run: ModelRun, twin: ModelRun | None, measure: str, name: str) -> None:
    for k, model in enumerate(m for m in (run, twin) if m is not None):
        hollow = model is twin
        for i, layer in enumerate(ORDER):
            x, found = i + 0.4 * k - (0.2 if twin is not None else 0), get(model, f"layers.{layer}.{measure}")
            if measure != "covmix_over_iso":
                _each(axes, x, model, layer, measure)
            point(axes, x, found, name, "v" if name == "cov_mixture" else "o", hollow, size=7)
            if found["value"] is None and not hollow:
                axes.annotate(
                    "not measurable", (i, 0.03), xycoords=axes.get_xaxis_transform(), rotation=90,
                    ha="center", va="bottom", fontsize=7, color="#666666",
                )  # fmt: skip
    for i, layer in enumerate(ORDER):
        theirs = paper(run, f"layers.{layer}.{measure}")
        if theirs is not None:
            axes.fill_between(
                [i - 0.35, i + 0.35], *theirs, color=colour("published"), alpha=0.12, linewidth=0
            )
            axes.hlines(theirs, i - 0.35, i + 0.35, color=colour("published"), linewidth=1.0, label=RANGE)
    level_line(axes, 1, "no difference")
    plain_logs(axes, "y")
    axes.set_xticks(range(len(ORDER)), [f"{layer}\nlayer" for layer in ORDER])
    axes.set_xlim(-0.5, len(ORDER) - 0.5)


def _each(axes: Axes, x: float, run: ModelRun, layer: str, measure: str) -> None:
    """Every local SAE of the layer, paler the more features it uses, beside the mean."""
    ladder = data.saes(run, "local", layer)
    for i, sae in enumerate(ladder):
        value = get(run, f"{prefix(layer)}sub.{sae}.{measure}")["value"]
        if value is not None:
            axes.plot(
                x - 0.09, value, "_", ms=8, mew=1.6, color=colour("local"), linestyle="",
                alpha=1 - 0.75 * i / max(len(ladder) - 1, 1),
            )  # fmt: skip


def _keys(found: list[tuple[ModelRun, ModelRun | None]]) -> dict[str, Any]:
    keys = key("local", "local SAEs: geometric mean over shared coefficients") | key(
        "local", "each local SAE, paler the higher its L0", "_"
    )
    keys |= key("cov_mixture", "covariance mixture", "v")
    if any(twin is not None for _, twin in found):
        keys |= key("zero", "untrained twin", "o", hollow=True)
    return keys
