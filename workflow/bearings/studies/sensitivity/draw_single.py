"""Does the effect survive when one token alone is changed (protocol T3, Gurnee 2024)?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bearings.evidence.figures import WIDTH, colour
from bearings.stages.panels import get, legend, said_missing, there, title
from bearings.stages.read import ModelRun
from bearings.studies.sensitivity import draw_data as data
from bearings.studies.sensitivity.common import KINDS
from bearings.studies.sensitivity.draw_curves import named_sae
from bearings.studies.sensitivity.draw_panels import (
    KL,
    MARKS,
    NAMES,
    Runs,
    key,
    l0_axis,
    level_line,
    line_with_band,
    paper,
    plain_logs,
    point,
    published_dash,
)
from bearings.studies.sensitivity.measure_single import FOLLOWED

RATIOS = {"sae_over_iso": "isotropic noise", "sae_over_covmix": "covariance mixture"}
FLOOR = 1e-8


def single(runs: Runs, settings: Mapping[str, Any]) -> Figure:
    """One row per run: KL from the changed token on; the SAE over noise, beside the same with all tokens changed."""
    ratios = [1.0 if _measured(run) else 0.35 for run in runs]
    size = (WIDTH * 1.5, 2.9 * sum(ratios) + 0.7)
    figure, axes = plt.subplots(len(runs), 3, figsize=size, squeeze=False, height_ratios=ratios)
    for run, row in zip(runs, axes, strict=True):
        _after(row[0], run)
        for panel, (ratio, noise) in zip(row[1:], RATIOS.items(), strict=True):
            panel.set_title(f"SAE over {noise}", fontsize=9)
            if any(there(run, f"single.{sae}.{ratio}") for _, sae in data.every_sae(run)):
                _ratios(panel, run, ratio)
                panel.set_ylabel("ratio of mean KL" if panel is row[1] else "")
            else:
                said_missing(panel, _why(run))
        full = [p for p in row[1:] if p.lines]
        for panel in full:
            low, high = min(p.get_ylim()[0] for p in full), max(p.get_ylim()[1] for p in full)
            panel.set_ylim(low, high)
    legend(figure, 3, _keys() if any(_measured(run) for run in runs) else None)
    return figure


def _measured(run: ModelRun) -> bool:
    table = run.outcomes.get("single")
    return table is not None and not table.empty


def _why(run: ModelRun) -> str:
    return data.NOT_RUN if data.every_sae(run) else "this model has no SAEs"


def _after(axes: Axes, run: ModelRun) -> None:
    """Mean KL by distance from the changed token, of the middle local SAE and of noise as long as its error."""
    sae = data.middle(run)
    what = f"\none token changed: {named_sae(run, 'local', sae)}" if sae else ""
    axes.set_title(f"{title(run)}{what}", fontsize=9)
    conditions = {"sae": "local", "iso": "iso", "cov_mixture": "cov_mixture"}
    if sae is None:
        conditions = {"iso_fixed": "iso", "cov_fixed": "cov_mixture"}
    drawn = False
    for variant, name in conditions.items():
        rows = data.chosen(run, "single", sae=sae or "", variant=variant)
        if rows.empty:
            continue
        drawn, position = True, int(rows["position"].iloc[0])
        means = data.by_position(run, "single", sae=sae or "", variant=variant, position=position)
        keep = (means.x >= position) & (means.x < position + FOLLOWED)
        some = data.Means(means.x[keep] - position, means.rows[:, keep])
        line_with_band(
            axes, some.x, [np.maximum(v, FLOOR) for v in data.band(some)], name, "", "-", MARKS[name]
        )
    if not drawn:
        said_missing(axes, data.NOT_RUN)
        return
    axes.set(yscale="log", xlabel="tokens after the changed one", ylabel=KL)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    low, high = axes.get_ylim()
    if high < 100 * low:
        plain_logs(axes, "y")
    before = get(run, "single.before")["value"]
    if before is not None:
        said = "exactly 0" if before == 0 else f"at most {before:.1e}"
        axes.annotate(
            f"before it: {said}", (1, 1), xycoords="axes fraction", ha="right", va="top", fontsize=8
        )


def _ratios(axes: Axes, run: ModelRun, ratio: str) -> None:
    for kind in KINDS:
        for sae in data.saes(run, kind):
            at, measure = data.l0(run, sae), f"single.{sae}.{ratio}"
            if not at:
                continue
            everywhere = get(run, f"sub.{sae}.{ratio}")["value"]
            if everywhere is not None:
                axes.plot(
                    at,
                    everywhere,
                    MARKS[kind],
                    color=colour(kind),
                    mfc="white",
                    ms=4,
                    mew=0.9,
                    ls="",
                    zorder=2,
                )
            point(axes, at, get(run, measure), kind, MARKS[kind])
            published_dash(axes, at, paper(run, measure), colour(kind))
    level_line(axes, 1, "")
    l0_axis(axes)
    plain_logs(axes, "y")


def _keys() -> dict[str, Artist]:
    found: dict[str, Artist] = {}
    for kind in KINDS:
        found |= key(kind, f"SAE, {NAMES[kind]}", MARKS[kind])
    found |= key("iso", "isotropic, as long as the error", MARKS["iso"], dashes="-")
    found |= key("cov_mixture", "covariance mixture, as long", MARKS["cov_mixture"], dashes="-")
    return found | key("zero", "all tokens changed at once", "o", hollow=True)
