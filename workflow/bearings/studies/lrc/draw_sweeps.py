"""Figures of the sweeps: rank of the inverse, object and subject layer, strength of the edit, LRE samples."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from bearings.evidence.figures import WIDTH, bar_with_interval, colour, interval_line, published_mark
from bearings.stages.panels import get, legend, there, title
from bearings.stages.read import ModelRun
from bearings.studies.lrc.draw_panels import (
    AXIS,
    NAMES,
    PAPER,
    SCORES,
    Runs,
    both,
    line,
    numbered,
    said_missing,
    score_rows,
)


def rank(runs: Runs) -> Figure:
    """Accuracy and causality against the rank of the inverse; the shaded ranks are at most a tenth of the width."""
    figure, axes = score_rows(runs, "corrected.rank.peak.acc", 2.7)
    for run, panels in zip(runs, axes, strict=True):
        for panel, kind in zip(panels, SCORES, strict=True):
            panel.set_title(title(run) if kind == "acc" else "")
            ranks = [int(x) for x in numbered(run, "corrected.rank", f".{kind}.macro")]
            if not ranks:
                said_missing(panel, run, f"corrected.rank.peak.{kind}")
                continue
            if width := _width(run):
                panel.axvspan(ranks[0] / 1.3, width / 10, color="#EEEEEE", label="at most 10 % of the width")
            names = [f"corrected.rank{r}.{kind}.macro" for r in ranks]
            line(panel, ranks, run, names, "lrc", f"{NAMES['lrc']}, few samples")
            for m in ("svm", "average"):
                value = get(run, f"corrected.{m}.{kind}.macro")["value"]
                if value is not None:
                    panel.axhline(value, color=colour(m), linestyle=":", linewidth=1.2, label=NAMES[m])
            panel.set_xscale("log", base=2)
            panel.set_xticks(ranks, [str(r) for r in ranks], fontsize=7)
            panel.set_xticks([], minor=True)
            panel.set(xlim=(ranks[0] / 1.3, ranks[-1] * 1.3), ylim=(0, 1.05))
            panel.set(xlabel="rank of the inverse", ylabel=AXIS[kind])
    legend(figure, 4)
    return figure


def _width(run: ModelRun) -> int | None:
    found = (v.shape[-1] for arrays in run.directions.values() for v in arrays.values() if v.ndim == 2)
    return next(found, None)


def layers(runs: Runs) -> Figure:
    """Left: accuracy by object layer, objects of one token and of several. Right: both scores by subject layer."""
    figure, axes = score_rows(runs, "corrected.subject_layer.spearman.acc", 2.7)
    for run, (left, right) in zip(runs, axes, strict=True):
        left.set_title(title(run))
        objects = sorted({*numbered(run, "corrected.object", ".acc.macro")})
        if not objects:
            said_missing(left, run, "corrected.object_layer.all.acc")
        else:
            for name, dashes, said in (
                ("single", "-", "objects of one token"),
                ("multi", "--", "of several"),
            ):
                names = [f"corrected.object{x:g}.acc.{name}" for x in objects]
                if any(there(run, n) for n in names):
                    line(left, objects, run, names, "lrc", f"accuracy, {said}", dashes)
            left.set(xlabel="object layer (residual entering the block)", ylabel=AXIS["acc"], xticks=objects)
            left.set_ylim(0, 1.05)
            left.legend(loc="upper left")
        subjects = numbered(run, "corrected.subject", ".acc.macro")
        if not subjects:
            said_missing(right, run, "corrected.subject_layer.spearman.acc")
            continue
        names = [f"corrected.svm_subject{x:g}.acc.macro" for x in subjects]
        if all(there(run, n) for n in names):
            line(right, subjects, run, names, "svm", f"{SCORES['acc']}, SVM", "--")
        both(right, run, subjects, "subject")
        right.set(xlabel="subject layer (residual entering the block)", xticks=subjects)
    return figure


def beta(runs: Runs) -> Figure:
    """Causality against the strength of the edit, on test prompts; the line: chosen on training prompts for LRC."""
    probe = "corrected.lrc.beta"
    ratios = [1.0 if there(run, probe) else 0.4 for run in runs]
    figure, axes = plt.subplots(1, len(runs), figsize=(WIDTH * 1.5, 3.6), squeeze=False, width_ratios=ratios)
    for panel, run in zip(axes[0], runs, strict=True):
        panel.set_title(title(run))
        # Without an edit there is no method to tell from another.
        betas = [b for b in numbered(run, "corrected.lrc.caus.beta.", "") if b]
        if not betas:
            said_missing(panel, run, probe)
            continue
        for m in ("lrc", "first_final", "svm", "svm_fair", "average", "centred", "random"):
            found = [get(run, f"corrected.{m}.caus.beta.{b:g}") for b in betas]
            if all(f["value"] is not None for f in found):
                interval_line(panel, range(len(betas)), found, m, NAMES[m])
        chosen = np.interp(get(run, probe)["value"], betas, range(len(betas)))
        said = "LRC's, chosen on training prompts"
        panel.axvline(chosen, color=colour("lrc"), linestyle="--", linewidth=1, label=said)
        panel.set_xticks(range(len(betas)), [f"{b:g}" for b in betas])
        panel.set(
            xlabel="strength of the edit (share of the residual's norm, at every block)",
            ylabel=AXIS["caus"],
            ylim=(0, 1.05),
        )
    legend(figure, 4)
    return figure


def samples(runs: Runs) -> Figure:
    """Left: scores by number of LRE samples. Right: one sample, of the own object or of another."""
    figure, axes = score_rows(runs, "corrected.single_same.acc.macro", 2.8)
    kinds = {
        "single_same": "own object",
        "single_other": "another object,\nshared map",
        "single_distinct": "another object,\nown map",
    }
    for run, (left, right) in zip(runs, axes, strict=True):
        left.set_title(title(run))
        samples = numbered(run, "corrected.samples", ".acc.macro")
        if samples:
            both(left, run, samples, "samples")
            left.set(xlabel="LRE samples per relation", xticks=samples)
        else:
            said_missing(left, run, "corrected.samples.spearman.acc")
        if not any(there(run, f"corrected.{k}.acc.macro") for k in kinds):
            said_missing(right, run, "corrected.single_same.acc.macro")
            continue
        for i, k in enumerate(kinds):
            for s, shift in (("acc", -0.2), ("caus", 0.2)):
                before = len(right.patches)
                label = SCORES[s] if i == 0 else None
                bar_with_interval(right, i + shift, get(run, f"corrected.{k}.{s}.macro"), "lrc", label, 0.36)
                for bar in right.patches[before:]:
                    bar.set_alpha(1.0 if s == "acc" else 0.5)
                if (s, k) in PAPER.get(run.name, {}):
                    said = "paper" if i + shift < 0 else ""
                    published_mark(right, PAPER[run.name][s, k], i + shift, label=said, width=0.36)
        right.set_xticks(range(len(kinds)), kinds.values(), fontsize=8)
        right.set(ylim=(0, 1.15), xlabel="object of the one LRE sample", ylabel="share of prompts or edits")
        right.legend(loc="upper left", ncols=2)
    return figure
