"""By position and in the median: does the mean tell the whole story (protocol T2, T7, feature.heavy_tail)?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from bearings.evidence.figures import WIDTH, colour
from bearings.stages.panels import get, legend, said_missing, title
from bearings.stages.read import ModelRun
from bearings.studies.sensitivity import draw_data as data
from bearings.studies.sensitivity.common import MAIN
from bearings.studies.sensitivity.draw_curves import named_sae
from bearings.studies.sensitivity.draw_panels import (
    KL,
    NAMES,
    THEIRS,
    Runs,
    line_with_band,
    paper,
    plain_logs,
)

LENGTH = "k51"
SHARES = (0.05, 0.25, 0.75, 0.95, 0.99)
FLOOR = 1e-6  # nats; what rounding leaves of a KL is not drawn


@dataclass(frozen=True, eq=False)
class Condition:
    """One distribution of KL over tokens, and the names of its mean and median among the measures."""

    name: str
    label: str
    table: str
    where: Mapping[str, Any]
    mean: str
    median: str
    in_time: bool = False


def tokens(runs: Runs, settings: Mapping[str, Any]) -> Figure:
    """One row per run: KL by position on the left; on the right how it is spread over tokens, mean and median."""
    ratios = [1.0 if _conditions(run, settings) else 0.35 for run in runs]
    size = (WIDTH * 1.5, 3.1 * sum(ratios) + 0.7)
    figure, axes = plt.subplots(
        len(runs), 2, figsize=size, squeeze=False, height_ratios=ratios, width_ratios=[1.0, 1.25]
    )
    for run, (left, right) in zip(runs, axes, strict=True):
        left.set_title(f"{title(run)}, by position\n{_about(run)}", fontsize=9)
        right.set_title("over all tokens: quantiles, median, mean\n", fontsize=9)
        found = _conditions(run, settings)
        if not found:
            for panel in (left, right):
                said_missing(panel, data.NOT_RUN)
            continue
        _by_position(left, run, found)
        _spread(right, run, found)
    legend(figure, 3, _keys() if any(_conditions(run, settings) for run in runs) else None)
    return figure


def shown(run: ModelRun) -> str | None:
    """The local SAE that is drawn: one whose median is published, or the middle one."""
    ladder = data.saes(run, "local")
    told = (sae for sae in ladder if paper(run, f"sub.{sae}.sae.kl.median") is not None)
    return next(told, data.middle(run))


def _conditions(run: ModelRun, settings: Mapping[str, Any]) -> list[Condition]:
    """The conditions that the run measured."""
    out, at = [], data.named_lengths(run, settings).get(LENGTH)
    sae = shown(run)
    if sae is not None:
        label = named_sae(run, "local", sae)
        for variant, name in (("sae", "local"), ("iso", "iso"), ("cov_mixture", "cov_mixture")):
            text = f"SAE ({label})" if variant == "sae" else f"{NAMES[name]}, as long as its error"
            where = {"layer": MAIN, "sae": sae, "variant": variant}
            measure = f"sub.{sae}.{variant}.kl"
            out.append(Condition(name, text, "substitute", where, measure, f"{measure}.median", True))
    if at is not None:
        for name in ("iso", "cov_mixture", "real_mixture"):
            out.append(_at_length(run, f"{NAMES[name]}, length 51", name, name, "", at))
        if sae is not None:
            out.append(_at_length(run, "error of the SAE, length 51", "local", "error", sae, at))
            for name in ("active", "inactive", "dead"):
                out.append(_at_length(run, f"{NAMES[name]} features, length 51", name, name, sae, at))
    return [c for c in out if len(data.chosen(run, c.table, **c.where))]


def _at_length(run: ModelRun, label: str, name: str, direction: str, sae: str, at: float) -> Condition:
    table = "baselines" if not sae else "errors" if direction == "error" else "features"
    head = (
        f"base.{direction}"
        if not sae
        else f"err.{sae}"
        if direction == "error"
        else f"feat.{sae}.{direction}"
    )
    rows = data.chosen(run, table, layer=MAIN, direction=direction, sae=sae)
    near = rows["fraction"].to_numpy() if len(rows) else np.zeros(0)
    # Of the lengths as the table has them, so that rows are found by equality.
    exact = near[np.isclose(near, at, rtol=1e-5)][:1]
    where = {
        "layer": MAIN,
        "direction": direction,
        "sae": sae,
        "fraction": exact[0] if len(exact) else np.nan,
    }
    return Condition(name, label, table, where, f"{head}.{LENGTH}", f"{head}.{LENGTH}.median")


def _about(run: ModelRun) -> str:
    """What the lines by position are of."""
    sae = shown(run)
    if sae is None:
        return "directions of length 51" if data.curve(run, "iso") else ""
    return f"SAE ({named_sae(run, 'local', sae)}) and noise as long as its error"


def _short(condition: Condition) -> str:
    return "SAE" if condition.name == "local" else NAMES[condition.name]


def _by_position(axes: Axes, run: ModelRun, found: Sequence[Condition]) -> None:
    """Means over sequences with bands."""
    some = [c for c in found if c.in_time] or found[:3]
    for condition in some:
        means = data.by_position(run, condition.table, **condition.where)
        line_with_band(axes, means.x, data.band(means), condition.name, _short(condition), "-")
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set(xlabel="position (0 is BOS)", ylabel=KL, ylim=(max(low, FLOOR), high))


def _spread(axes: Axes, run: ModelRun, found: Sequence[Condition]) -> None:
    for i, condition in enumerate(found):
        kl = data.by_position(run, condition.table, **condition.where).rows
        kl = kl[np.isfinite(kl)]
        low, quarter, most, high, top = np.maximum(np.quantile(kl, SHARES), FLOOR)
        y, ink = len(found) - 1 - i, colour(condition.name)
        axes.hlines(y, low, high, color=ink, linewidth=1.3)
        axes.barh(y, most - quarter, 0.5, left=quarter, color=ink, alpha=0.45, linewidth=0)
        axes.plot(top, y, "|", color=ink, ms=7, mew=1.6, linestyle="")
        for measure, mark, face in ((condition.median, "o", "white"), (condition.mean, "D", ink)):
            told = get(run, measure)
            if told["value"] is None:
                continue
            at = max(told["value"], FLOOR)
            if told["low"] is not None:
                axes.hlines(y, max(told["low"], FLOOR), told["high"], color="black", linewidth=1.6, zorder=3)
            axes.plot(at, y, mark, mfc=face, mec="black", mew=0.9, ms=5.5, linestyle="", zorder=4)
            theirs = paper(run, measure)
            if theirs is not None:
                axes.plot(
                    theirs, y, "|", color=colour("published"), ms=15, mew=2.4, zorder=6, label=THEIRS, ls=""
                )
    plain_logs(axes, "x")
    axes.set_yticks(range(len(found)), [c.label for c in reversed(found)], fontsize=7.5)
    axes.grid(False, axis="y")
    axes.grid(True, axis="x")
    axes.set(xlabel=KL, ylim=(-0.6, len(found) - 0.4))


def _keys() -> dict[str, Artist]:
    point = {"color": "black", "linestyle": "", "ms": 5.5}
    return {
        "median, 95 % interval": Line2D([], [], marker="o", mfc="white", **point),
        "mean, 95 % interval": Line2D([], [], marker="D", **point),
        "middle half of the tokens": Patch(color="#AAAAAA", alpha=0.8),
        "from 5 % to 95 % of the tokens": Line2D([], [], color="#777777", linewidth=1.3),
        "99 % of the tokens are below": Line2D(
            [], [], color="#777777", marker="|", ms=7, mew=1.6, linestyle=""
        ),
    }
