"""Parts of the study's figures: panels that say why they are empty, lines of sweeps, names of methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bearings.evidence.figures import WIDTH, colour, interval_line
from bearings.stages import panels
from bearings.stages.panels import get, there
from bearings.stages.read import ModelRun

Runs = Sequence[ModelRun]
NAMES = {
    "lrc": "LRC",
    "first_mid": "LRC, first token",
    "first_final": "LRC, first token, last block",
    "transpose": "transposed map",
    "full_rank": "full-rank inverse",
    "svm": "SVM",
    "svm_fair": "SVM, bias and scaling",
    "logistic": "logistic regression",
    "average": "averaging",
    "centred": "centred averaging",
    "random": "random directions",
    "majority": "most frequent object",
}
SCORES = {"acc": "accuracy", "caus": "causality"}
AXIS = {"acc": "accuracy\n(share of prompts)", "caus": "causality\n(share of edits)"}
# Table 5 and, for one sample, table 6: model -> (score, method) -> value.
PAPER: Mapping[str, Mapping[tuple[str, str], float]] = {
    "llama-2-7b": {
        **{
            ("acc", "lrc"): 0.81,
            ("acc", "first_final"): 0.74,
            ("acc", "svm"): 0.73,
            ("acc", "average"): 0.70,
        },
        **{("caus", "lrc"): 0.78, ("caus", "first_final"): 0.78, ("caus", "svm"): 0.69},
        **{("caus", "average"): 0.55, ("acc", "single_same"): 0.31, ("acc", "single_other"): 0.69},
        **{("caus", "single_same"): 0.31, ("caus", "single_other"): 0.70},
    },
    "gpt-j-6b": {
        **{
            ("acc", "lrc"): 0.81,
            ("acc", "first_final"): 0.78,
            ("acc", "svm"): 0.75,
            ("acc", "average"): 0.73,
        },
        **{("caus", "lrc"): 0.84, ("caus", "first_final"): 0.86, ("caus", "svm"): 0.76},
        ("caus", "average"): 0.56,
    },
}


def said_missing(axes: Axes, run: ModelRun, measure: str) -> None:
    """Write in a panel why a measure of a run is missing."""
    panels.said_missing(axes, get(run, measure).get("reason"), 26)


def score_rows(runs: Runs, probe: str, height: float) -> tuple[Figure, np.ndarray]:
    """Accuracy beside causality, one row per run; a run that has not the measure `probe` gets a low row."""
    ratios = [1.0 if there(run, probe) else 0.42 for run in runs]
    size = (WIDTH * 1.5, height * sum(ratios) + 0.5)
    return plt.subplots(len(runs), 2, figsize=size, squeeze=False, height_ratios=ratios)


def numbered(run: ModelRun, head: str, tail: str) -> list[float]:
    """The x of every measure `<head><x><tail>` of a run, in order."""
    found = [
        k[len(head) : len(k) - len(tail)] for k in run.measures if k.startswith(head) and k.endswith(tail)
    ]
    return sorted(float(x) for x in found if x.replace(".", "", 1).isdigit())


def line(
    axes: Axes, x: Sequence[float], run: ModelRun, names: Sequence[str], name: str, label: str, dashes="-"
):
    interval_line(axes, x, [get(run, n) for n in names], name, label)
    axes.lines[-1].set(linestyle=dashes, markerfacecolor=colour(name) if dashes == "-" else "white")


def both(panel: Axes, run: ModelRun, x: Sequence[float], kind: str) -> None:
    """Accuracy and causality of one sweep, both LRC's."""
    for s, dashes in (("acc", "-"), ("caus", ":")):
        line(panel, x, run, [f"corrected.{kind}{v:g}.{s}.macro" for v in x], "lrc", SCORES[s], dashes)
    panel.set(ylim=(0, 1.05), ylabel="share of prompts or edits")
    panel.legend(loc="lower left")
