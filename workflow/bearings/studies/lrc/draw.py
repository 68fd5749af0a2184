"""The study's figures: numbers from the measures and outcomes of each run, the untrained twin beside its model.

Published values are marked only on the model that they belong to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bearings.evidence.figures import WIDTH, bar_with_interval, colour
from bearings.stages.panels import get, legend, there, title
from bearings.stages.read import ModelRun
from bearings.studies.lrc.draw_panels import AXIS, NAMES, PAPER, SCORES, Runs, said_missing, score_rows
from bearings.studies.lrc.draw_sweeps import beta, layers, rank, samples
from bearings.studies.lrc.measure_scores import Scored, score
from bearings.studies.lrc.metrics import shares


def draw(figure: str, runs: Runs, settings: Mapping[str, Any]) -> Figure:
    """One figure by the name that `claims.yaml` gives it."""
    return FIGURES[figure](runs)


def _main(runs: Runs) -> Figure:
    """Accuracy and causality by method, relations weighing alike; diamonds: prompts and edits as published."""
    probe = "corrected.lrc.acc.macro"
    ratios = [1.0 if there(run, probe) else 0.45 for run in runs]
    figure, axes = plt.subplots(2, len(runs), figsize=(WIDTH * 1.5, 5.6), squeeze=False, width_ratios=ratios)
    for j, run in enumerate(runs):
        axes[0, j].set_title(title(run))
        for i, kind in enumerate(SCORES):
            panel = axes[i, j]
            if there(run, f"corrected.lrc.{kind}.macro"):
                _main_panel(panel, run, kind)
                panel.set_ylabel(AXIS[kind])
            else:
                said_missing(panel, run, f"corrected.lrc.{kind}.macro")
    legend(figure, 3)
    return figure


def _main_panel(panel: Axes, run: ModelRun, kind: str) -> None:
    for x, m in enumerate(NAMES):
        if (kind, m) == ("caus", "majority"):
            panel.text(x, 0.03, "no edit", rotation=90, ha="center", fontsize=7, color="#666666")
            continue
        bar_with_interval(panel, x, get(run, f"corrected.{m}.{kind}.macro"), m)
        theirs = get(run, f"published.{m}.{kind}.macro")["value"]
        if theirs is not None:
            label = "variant as published: prompts, edits and strength"
            panel.plot(x, theirs, "D", mfc="white", mec="black", ms=5, label=label, zorder=4, linestyle="")
        if (kind, m) in PAPER.get(run.name, {}):
            _paper(panel, x, PAPER[run.name][kind, m])
    chance = get(run, "corrected.chance.acc.macro")["value"]
    if kind == "acc" and chance is not None:
        panel.axhline(chance, color="black", linestyle=":", linewidth=1, label="chance: 1 / objects")
    panel.set(xlim=(-0.6, len(NAMES) - 0.4), ylim=(0, 1.12))
    names = list(NAMES.values()) if kind == "caus" else [""] * len(NAMES)
    panel.set_xticks(range(len(NAMES)), names, rotation=40, ha="right", rotation_mode="anchor", fontsize=8)


def _paper(panel: Axes, x: float, value: float) -> None:
    """The paper's value on this very model, as a short thick line with a white rim."""
    panel.plot(x, value, "_", ms=15, mew=4, color="white", zorder=5, linestyle="")
    label = "the paper's value for this model"
    panel.plot(x, value, "_", ms=14, mew=2, color=colour("published"), label=label, zorder=6, linestyle="")


def _per_relation(runs: Runs) -> Figure:
    """LRC beside the SVM on every relation, mean over split seeds, sorted by the difference."""
    scored = [score(run.outcomes, {"published": "", "corrected": ""}, None, {}) for run in runs]
    most = max([len(_relations(hits, "acc", "lrc")) for hits in scored], default=0)
    figure, axes = score_rows(runs, "corrected.lrc.acc.macro", 1.0 + 0.2 * max(most, 4))
    for run, hits, panels in zip(runs, scored, axes, strict=True):
        for panel, kind in zip(panels, SCORES, strict=True):
            first = kind == "acc"
            panel.set_title(f"{title(run)}\n{SCORES[kind]}" if first else f"\n{SCORES[kind]}", fontsize=9)
            lrc, svm = (_relations(hits, kind, m) for m in ("lrc", "svm"))
            both = sorted(set(lrc) & set(svm), key=lambda r: (lrc[r][0] - svm[r][0], r))
            if not both:
                said_missing(panel, run, f"corrected.lrc_minus_svm.{kind}")
                continue
            for y, r in enumerate(both):
                panel.plot([lrc[r][0], svm[r][0]], [y, y], color="#BBBBBB", linewidth=1.2, zorder=1)
            at = range(len(both))
            for m, found, marker in (("svm", svm, "s"), ("lrc", lrc, "o")):
                panel.plot([found[r][0] for r in both], at, marker, color=colour(m), label=NAMES[m], ms=5)
            panel.set_yticks(at, [f"{r} ({lrc[r][1]})" for r in both], fontsize=7)
            panel.set(xlim=(-0.03, 1.03), ylim=(-0.7, len(both) - 0.3), xlabel=AXIS[kind].replace("\n", " "))
            panel.grid(axis="x")
    legend(figure, 2)
    return figure


def _relations(scored: Scored, kind: str, method: str) -> dict[str, tuple[float, int]]:
    """Relation -> (mean over split seeds of its share, distinct prompts or edits)."""
    rows = scored.get("corrected", kind, method)
    if rows is None:
        return {}
    n = rows[["relation", "prompt", "target"]].drop_duplicates().groupby("relation").size()
    return {r: (float(v), int(n[r])) for r, v in shares(rows).mean(axis=1).items()}


def _counts(runs: Runs) -> Figure:
    """Prompts before and after the filters, mean over split seeds; and answers by number of tokens."""
    figure, axes = score_rows(runs, "corrected.counts.test.all.prompts", 2.3)
    steps = {"all": "all", "known": "answered right", "used": "of kept relations"}
    for run, (left, right) in zip(runs, axes, strict=True):
        left.set_title(title(run))
        if not there(run, "corrected.counts.test.all.prompts"):
            for panel in (left, right):
                said_missing(panel, run, "corrected.counts.test.all.prompts")
            continue
        bars = [(f"{p}: {said}", f"corrected.counts.{p}.{step}") for p in ("train", "test") for step, said in
                steps.items()]  # fmt: skip
        values = [get(run, f"{head}.prompts")["value"] for _, head in bars]
        relations = [get(run, f"{head}.relations")["value"] for _, head in bars]
        said = [f"{v:.0f}, {r:.3g} relations" for v, r in zip(values, relations, strict=True)]
        _bars(left, [name for name, _ in bars], values, said)
        left.set_xlabel("prompts per split seed")
        tokens = {"1": "1 token", "2": "2", "3": "3", "4": "4", "5plus": "5 or more"}
        values = [get(run, f"corrected.counts.tokens{t}")["value"] for t in tokens]
        _bars(right, list(tokens.values()), values, [f"{v:.0f}" for v in values])
        right.set(xlabel="used test prompts per split seed", ylabel="tokens of the answer")
    return figure


def _bars(panel: Axes, names: Sequence[str], values: Sequence[float], said: Sequence[str]) -> None:
    drawn = panel.barh(range(len(names)), values, color=colour("clean"))
    panel.bar_label(drawn, said, padding=3, fontsize=7)
    panel.set_yticks(range(len(names)), names, fontsize=8)
    panel.set_xlim(0, 1.45 * max(*values, 1))
    panel.invert_yaxis()
    panel.grid(axis="x")
    panel.grid(False, axis="y")


FIGURES = {
    "main": _main,
    "per_relation": _per_relation,
    "rank": rank,
    "layers": layers,
    "beta": beta,
    "samples": samples,
    "counts": _counts,
}
