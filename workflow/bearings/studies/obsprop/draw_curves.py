"""How many labelled rows does a baseline need to match two prompts (protocol 2.7)?"""

from __future__ import annotations

import re

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bearings.evidence.figures import WIDTH, colour, interval_line
from bearings.stages.panels import TWIN, get, legend, said_missing, there, title
from bearings.stages.read import ModelRun
from bearings.studies.obsprop.draw_panels import Runs, paper, published_dash

TASKS = {"pronoun": "pronoun", "party": "party", "code": "C or Python"}
METHODS = {
    "regression": "regression (code: logistic)",
    "mean_diff": "mean difference",
    "leace": "LEACE",
    "obsprop_chosen": "ObsProp, head chosen on the rows",
    "shuffled": "regression on shuffled labels",
}
AXIS = {
    "pronoun": "r · |r| with the logit difference\non held-out rows",
    "party": "r · |r|, as on the left",
    "code": "AUC on held-out rows",
}
PUBLISHED = ("obsprop", "regression", "mean_diff")


def learning(runs: Runs) -> Figure:
    """One row per run, one panel per task; bands are intervals over resplits of the same rows."""
    ratios = [1.0 if any(_sizes(run, t) for t in TASKS) else 0.4 for run in runs]
    size = (WIDTH * 1.5, 2.9 * sum(ratios) + 0.9)
    figure, axes = plt.subplots(len(runs), len(TASKS), figsize=size, squeeze=False, height_ratios=ratios)
    for run, panels in zip(runs, axes, strict=True):
        for panel, task in zip(panels, TASKS, strict=True):
            first = f"{title(run)}, {TASKS[task]}" if task == "pronoun" else TASKS[task]
            panel.set_title(f"{first}\n{_answer(run, task)}", fontsize=9)
            if _sizes(run, task):
                _panel(panel, run, task)
            else:
                said_missing(panel, get(run, f"lowdata.{task}.matched_at").get("reason"))
    legend(figure, 3)
    return figure


def _sizes(run: ModelRun, task: str) -> list[int]:
    """Training sizes of the curves."""
    pattern = re.compile(rf"lowdata\.{task}\.like\.(?:{'|'.join(METHODS)})\.n(\d+)")
    found = (pattern.fullmatch(name) for name in run.measures)
    return sorted({int(m[1]) for m in found if m})


def _answer(run: ModelRun, task: str) -> str:
    """When two prompts are matched; nothing of a twin, in which there is nothing to match."""
    sizes, found = _sizes(run, task), get(run, f"lowdata.{task}.matched_at")
    if not sizes or run.name.endswith(TWIN):
        return ""
    if found["value"] is None:
        return f"two prompts not matched by {sizes[-1]} rows"
    return f"regression matches at {found['value']:.0f} rows"


def _panel(panel: Axes, run: ModelRun, task: str) -> None:
    sizes, head = _sizes(run, task), f"lowdata.{task}.like"
    for method, name in METHODS.items():
        measures = [get(run, f"{head}.{method}.n{n}") for n in sizes]
        if any(m["value"] is not None for m in measures):
            interval_line(panel, sizes, measures, method, name)
            if method == "shuffled":
                panel.lines[-1].set(linestyle=":", marker="x")
    for method, name in (("random", "random vectors"), ("obsprop", "ObsProp: two prompts, no training rows")):
        _level(panel, run, f"{head}.{method}.", method, name)
    _as_published(panel, run, task)
    q95 = get(run, f"{head}.random.q95")["value"]
    if q95 is not None:
        label = "95 % quantile of random vectors"
        panel.axhline(q95, color=colour("random"), linewidth=1.2, linestyle="-.", label=label)
    chance = 0.5 if task == "code" else 0.0
    panel.axhline(chance, color="black", linewidth=0.8, linestyle=":", label="chance")
    panel.set_xscale("log", base=2)
    panel.set_xticks(sizes, [str(n) for n in sizes])
    panel.set_xticks([], minor=True)
    last = max([sizes[-1], *(line.get_xdata()[-1] for line in panel.lines if line.get_marker() == "D")])
    panel.set(xlim=(sizes[0] / 1.2, last * 1.15), xlabel="labelled training rows")
    panel.set(ylim=(0.2, 1.03) if task == "code" else (-0.42, 1.06), ylabel=AXIS[task])


def _level(panel: Axes, run: ModelRun, head: str, method: str, label: str) -> None:
    """A method without training rows: a line across, its interval a band."""
    name = next((n for n in run.measures if n.startswith(head) and n[len(head) :].startswith("n")), None)
    if name is None or not there(run, name):
        return
    found, ink = get(run, name), colour(method)
    dashes = "--" if method == "random" else "-"
    panel.axhline(found["value"], color=ink, linewidth=2.0, linestyle=dashes, label=label)
    if found["low"] is not None:
        panel.axhspan(found["low"], found["high"], color=ink, alpha=0.18, linewidth=0)


def _as_published(panel: Axes, run: ModelRun, task: str) -> None:
    """The comparison as the authors made it: r^2 without its sign, one split, other tokens and test rows."""
    rows = run.outcomes["lowdata"]
    rows = rows[(rows["task"] == task) & (rows["variant"] == "published")]
    for method in PUBLISHED:
        where, mine = f"lowdata.{task}.published.{method}", rows[rows["method"] == method]
        if mine.empty:
            continue
        n, found = int(mine["n_train"].iloc[0]), get(run, where)
        # Beside the curve's own point at as many rows.
        at = n * 1.25
        if found["value"] is not None:
            label = "compared as published (r² or AUC, one split)" if method == "obsprop" else None
            panel.plot(at, found["value"], "D", mfc="white", mec=colour(method), ms=5.5, mew=1.3, label=label,
                       linestyle="", zorder=5)  # fmt: skip
            if found["low"] is not None:
                panel.vlines(at, found["low"], found["high"], color=colour(method), linewidth=0.9, zorder=4)
        theirs = paper(run, where)
        if theirs is not None:
            published_dash(panel, at, theirs, colour(method))
