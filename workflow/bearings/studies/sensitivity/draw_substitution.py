"""Is an SAE's error worse than noise of its size, and than which noise (protocol 2.1)?

Points on a logarithmic axis and no bars: the KLs span orders of magnitude, and such an axis has no zero to stand on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bearings.evidence.figures import WIDTH, colour
from bearings.stages.panels import get, legend, said_missing, title
from bearings.stages.read import ModelRun
from bearings.studies.sensitivity import draw_data as data
from bearings.studies.sensitivity.common import KINDS
from bearings.studies.sensitivity.draw_panels import (
    KL,
    MARKS,
    NAMES,
    Runs,
    key,
    level_line,
    paper,
    plain_logs,
    point,
    published_dash,
)

# What x is replaced by -> what is drawn for it; the SAE itself is drawn in its kind's colour.
VARIANTS = ("sae", "iso", "cov_mixture", "real_mixture", "norm_only")
RATIOS = {"sae_over_iso": "iso", "sae_over_covmix": "cov_mixture", "sae_over_realmix": "real_mixture"}
STEP = 0.16


def substitution(runs: Runs, settings: Mapping[str, Any]) -> Figure:
    """Two rows per run: KL of each substitution, and the SAE's over that of each noise of the same length."""
    ratios = [r for run in runs for r in ((1.15, 1.0) if data.every_sae(run) else (0.45, 0.02))]
    size = (WIDTH * 1.5, 2.2 * sum(ratios) + 0.7)
    figure, axes = plt.subplots(
        2 * len(runs), len(KINDS), figsize=size, squeeze=False, height_ratios=ratios, sharey="row"
    )
    for i, run in enumerate(runs):
        for column, kind in enumerate(KINDS):
            top, bottom = axes[2 * i, column], axes[2 * i + 1, column]
            what = f"{NAMES[kind]} SAEs"
            top.set_title(f"{title(run)}, {what}" if column == 0 else what, fontsize=9)
            ladder = data.saes(run, kind)
            if not ladder:
                said_missing(top, f"this model has no {NAMES[kind]} SAEs")
                said_missing(bottom, f"this model has no {NAMES[kind]} SAEs")
                if not data.every_sae(run):
                    bottom.texts[-1].set_text(" ")
                continue
            _costs(top, run, kind, ladder)
            _ratios(bottom, run, kind, ladder)
        filled = [(a, b) for a, b in zip(axes[2 * i], axes[2 * i + 1], strict=True) if a.lines]
        for top, bottom in filled[:1]:
            top.set_ylabel(KL)
            bottom.set_ylabel("KL of the SAE\nover that of noise")
    if any(data.every_sae(run) for run in runs):
        legend(figure, 4, _keys())
    return figure


def _costs(axes: Axes, run: ModelRun, kind: str, ladder: list[str]) -> None:
    for i, sae in enumerate(ladder):
        for k, variant in enumerate(VARIANTS):
            x, measure = i + (k - 2) * STEP, f"sub.{sae}.{variant}.kl"
            name = kind if variant == "sae" else variant
            point(axes, x, get(run, measure), name, MARKS[name], size=5.5 if variant == "sae" else 4)
            published_dash(axes, x, paper(run, measure), colour(name))
    plain_logs(axes, "y", 5)
    _ladder_axis(axes, run, ladder)
    axes.tick_params(labelbottom=False)


def _ratios(axes: Axes, run: ModelRun, kind: str, ladder: list[str]) -> None:
    for i, sae in enumerate(ladder):
        for k, (ratio, name) in enumerate(RATIOS.items()):
            point(axes, i + (k - 1) * STEP * 1.4, get(run, f"sub.{sae}.{ratio}"), name, MARKS[name], size=4.5)
    level_line(axes, 1, "")
    plain_logs(axes, "y")
    _ladder_axis(axes, run, ladder)
    axes.set_xlabel("L0 of the SAE")


def _ladder_axis(axes: Axes, run: ModelRun, ladder: list[str]) -> None:
    values = [data.l0(run, sae) for sae in ladder]
    labels = [sae if v is None else f"{v:.3g}" for v, sae in zip(values, ladder, strict=True)]
    axes.set_xticks(range(len(ladder)), labels)
    axes.set_xlim(-0.5, len(ladder) - 0.5)
    for i in range(0, len(ladder), 2):
        axes.axvspan(i - 0.5, i + 0.5, color="#F3F3F3", linewidth=0, zorder=0)


def _keys() -> dict[str, Artist]:
    found: dict[str, Artist] = {}
    for kind in KINDS:
        found |= key(kind, f"SAE, {NAMES[kind]}", MARKS[kind])
    for name, text in (
        ("iso", "isotropic, as long as the error"),
        ("cov_mixture", "covariance mixture, as long"),
        ("real_mixture", "real mixture, as long"),
        ("norm_only", NAMES["norm_only"]),
    ):
        found |= key(name, text, MARKS[name])
    return found
