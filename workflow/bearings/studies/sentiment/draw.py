"""The study's figures: every number from the measures the run wrote, the untrained twin beside its model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bearings.evidence.figures import WIDTH, bar_with_interval, colour, interval_line, published_mark
from bearings.stages.panels import get, there, title, wrap
from bearings.stages.read import ModelRun

Runs = Sequence[ModelRun]
NAMES = {
    "mean_diff": "mean difference",
    "kmeans": "k-means",
    "logistic": "logistic regression",
    "pca": "PCA",
    "das": "DAS",
    "das2d": "DAS, 2-D",
    "das3d": "DAS, 3-D",
    "das_all": "DAS, all positions",
    "random": "random direction",
}
ONE_DIM = ("mean_diff", "kmeans", "logistic", "pca", "das")


def draw(figure: str, runs: Runs, settings: Mapping[str, Any]) -> Figure:
    """One figure by the name that `claims.yaml` gives it."""
    return FIGURES[figure](runs, settings["direction"])


def _columns(runs: Runs, height: float, probe: str = "", **options) -> tuple[Figure, list[Axes]]:
    """One panel per run, side by side; a run that has not the measure `probe` gets a narrow one."""
    ratios = [1.0 if not probe or there(run, probe) else 0.4 for run in runs]
    figure, axes = plt.subplots(
        1, len(runs), figsize=(WIDTH * 1.5, height), squeeze=False, width_ratios=ratios, **options
    )
    return figure, list(axes[0])


def _grid(
    runs: Runs, columns: int, width: float, height: float, probe: str, **options
) -> tuple[Figure, np.ndarray]:
    """One row of panels per run, one below the other; a run that has not the measure `probe` gets a low one."""
    ratios = [1.0 if there(run, probe) else 0.35 for run in runs]
    size = (WIDTH * width, height * sum(ratios) + 0.4)
    return plt.subplots(len(runs), columns, figsize=size, squeeze=False, height_ratios=ratios, **options)


def _said_missing(axes: Axes, run: ModelRun, measure: str) -> None:
    """Write why a panel is empty, in the panel; axes may be shared, so ticks are hidden and not taken away."""
    why = get(run, measure).get("reason") or "not measured"
    axes.text(
        0.5, 0.5, "\n".join(wrap(why, 30)), transform=axes.transAxes, ha="center", va="center", fontsize=8
    )
    axes.tick_params(left=False, labelleft=False, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.grid(False)


def _legend(panels: Sequence[Axes], **options) -> None:
    """One legend, in the first panel that has anything to name."""
    for panel in panels:
        if panel.get_legend_handles_labels()[0]:
            panel.legend(fontsize=7, **options)
            return


def _layers(run: ModelRun) -> list[int]:
    return sorted({int(k.rsplit("/", 1)[1]) for k in run.directions["random"]})


def _directions(runs: Runs, fitted: str) -> Figure:
    """Left: abs cosines between methods at the layer of the paper. Right: accuracy on unseen words by layer."""
    figure, axes = plt.subplots(2, len(runs), figsize=(WIDTH * 1.5, 6.6), squeeze=False)
    for j, run in enumerate(runs):
        top, bottom = axes[:, j]
        if not _layers(run):
            for panel in (top, bottom):
                _said_missing(panel, run, "directions.similarity.lowest")
            top.set_title(title(run))
            continue
        at = get(run, "directions.similarity.layer")["value"]
        pairs = [[(a, b) for b in ONE_DIM] for a in ONE_DIM]
        cosine = {
            (a, b): get(run, f"directions.cosine.{a}.{b}.{at}")["value"] for row in pairs for a, b in row
        }
        grid = np.array([[1.0 if a == b else cosine[a, b] for a, b in row] for row in pairs], dtype=float)
        top.imshow(grid, vmin=0, vmax=1, cmap="cividis")
        for (i, k), value in np.ndenumerate(grid):
            top.text(
                k, i, f"{value:.2f}", ha="center", va="center", color="white" if value < 0.6 else "black"
            )
        ticks = [NAMES[m] for m in ONE_DIM]
        top.set_xticks(range(len(ticks)), ticks, rotation=30, ha="right")
        top.set_yticks(range(len(ticks)), ticks)
        top.grid(False)
        top.set_title(f"{title(run)}\nabs cosine of two methods, layer {at}", fontsize=9)
        layers = _layers(run)
        for m in ONE_DIM:
            found = [get(run, f"directions.accuracy.{m}.layer{x}") for x in layers]
            interval_line(bottom, layers, found, m, NAMES[m])
        shuffled = [get(run, f"directions.accuracy.shuffled.layer{x}") for x in layers]
        interval_line(bottom, layers, shuffled, "random", "shuffled labels")
        bottom.set(ylim=(0, 105), xlabel="layer (residual entering the block)", xticks=layers)
        bottom.set_ylabel("unseen adjectives on\nthe right side (%)" if j == 0 else "")
    _legend(axes[1], loc="lower left")
    return figure


def _patching(runs: Runs, fitted: str) -> Figure:
    """Recovery by layer and method: toy words never fitted on, and whole reviews in two templates."""
    sets = (
        ("toy", "toy template, unseen words"),
        ("classification", "reviews"),
        ("continuation", "reviews, continued"),
    )
    figure, axes = _grid(runs, 3, 1.5, 2.8, "patching.toy.das.rec")
    for i, run in enumerate(runs):
        for j, (name, said) in enumerate(sets):
            panel = axes[i, j]
            layers = [x for x in _layers(run) if f"patching.{name}.random.layer{x}.rec" in run.measures]
            if not layers:
                _said_missing(panel, run, f"patching.{name}.das.rec")
            for m in (*ONE_DIM, "das2d", "random") if layers else ():
                found = [get(run, f"patching.{name}.{m}.layer{x}.rec") for x in layers]
                interval_line(panel, layers, found, m, NAMES[m])
            if layers and name == "toy":
                published_mark(panel, 109.8, label="paper, DAS:")
            if layers and name == "classification":
                published_mark(panel, 47.0, label="paper, DAS:")
            if layers:
                panel.axhline(0, color="black", linewidth=0.6)
                panel.set_xticks(layers)
            panel.set_title(f"{title(run)}\n{said}" if j == 0 else f"\n{said}", fontsize=9)
            if layers:
                panel.set_xlabel("layer patched")
                panel.set_ylabel("LD recovered (%)" if j == 0 else "")
    named = [panel.get_legend_handles_labels() for panel in axes.flat]
    figure.legend(*max(named, key=lambda x: len(x[0])), loc="outside lower center", ncols=4, fontsize=8)
    return figure


def _ablation(runs: Runs, fitted: str) -> Figure:
    """Above-chance accuracy lost: fitted directions and random ones, at all positions and at commas."""
    cells = [(v, p) for v in ("published", "corrected") for p in ("all", "comma")]
    names = {
        "all": "all positions",
        "comma": "commas",
        "published": "as published",
        "corrected": "corrected index",
    }
    figure, panels = _columns(runs, 3.9, "ablation.published.das.all.above_lost", sharey=True)
    shown = ("das", "das_all", "mean_diff", "random")
    for panel, run in zip(panels, runs, strict=True):
        panel.set_title(title(run))
        if get(run, "ablation.published.das.all.above_lost")["value"] is None:
            _said_missing(panel, run, "ablation.published.das.all.above_lost")
            continue
        for i, (variant, place) in enumerate(cells):
            for k, m in enumerate(shown):
                x = i + (k - 1.5) * 0.2
                label = NAMES[m] if i == 0 else None
                measure = get(run, f"ablation.{variant}.{m}.{place}.above_lost")
                bar_with_interval(panel, x, measure, m, label, width=0.18)
            if variant == "published":
                value = 76.1 if place == "all" else 35.7
                published_mark(panel, value, i - 0.1, label="paper", width=0.6)
        panel.set_xticks(range(len(cells)), [f"{names[p]}\n{names[v]}" for v, p in cells], fontsize=8)
        panel.axhline(0, color="black", linewidth=0.6)
        panel.legend(loc="upper right", fontsize=7)
    panels[0].set_ylabel("above-chance accuracy lost (%)")
    return figure


def _by_class(runs: Runs, fitted: str) -> Figure:
    """Accuracy left per class, with attention free and frozen."""
    cells = [(p, f) for p in ("all", "comma") for f in ("", "_frozen")]
    published = {
        ("all", ""): (0.9094, 0.3295),
        ("all", "_frozen"): (0.9871, 0.1669),
        ("comma", ""): (0.9597, 0.6820),
        ("comma", "_frozen"): (0.9971, 0.9669),
    }
    figure, panels = _columns(runs, 3.6, "ablation.published.das.all.above_lost", sharey=True)
    for panel, run in zip(panels, runs, strict=True):
        panel.set_title(title(run))
        if get(run, "ablation.published.das.all.accuracy.positive")["value"] is None:
            _said_missing(panel, run, "ablation.published.das.all.accuracy")
            continue
        for i, (place, frozen) in enumerate(cells):
            for k, (side, hue) in enumerate((("positive", "kmeans"), ("negative", "mean_diff"))):
                measure = get(run, f"ablation.published.das.{place}{frozen}.accuracy.{side}")
                x = i + (k - 0.5) * 0.36
                bar_with_interval(panel, x, measure, hue, f"{side} reviews" if i == 0 else None, width=0.32)
                mark = published[place, frozen][k]
                published_mark(panel, mark, x, label="paper" if i + k == 0 else "", width=0.32)
        ticks = [f"{'all positions' if p == 'all' else 'commas'}{', frozen' if f else ''}" for p, f in cells]
        panel.set_xticks(range(len(cells)), ["\n".join(wrap(t, 14)) for t in ticks], fontsize=8)
        panel.axhline(0.5, color="black", linewidth=0.6, linestyle=":")
        panel.set_ylim(0, 1.3)
        panel.legend(loc="upper center", ncols=2, fontsize=7)
    panels[0].set_ylabel("accuracy left, DAS ablated as published")
    return figure


def _summary(runs: Runs, fitted: str) -> Figure:
    """LD lost by position; mood stories with flipped values; punctuation against phrase by distance."""
    figure, axes = _grid(runs, 3, 1.5, 2.9, "ablation.corrected.das.comma.ld_drop")
    places = {
        "comma": "commas",
        "random_token": "other\ntokens",
        "period": "periods",
        "polar": "polar\nwords",
        "aspect": "aspects",
        "name": "names",
    }
    groups = {
        "phrase": "phrase",
        "comma": "comma",
        "period": "period",
        "punctuation": "comma+\nperiod",
        "phrase_and_punctuation": "all of\nthem",
        "neutral": "neutral\ntokens",
    }
    for run, (left, middle, right) in zip(runs, axes, strict=True):
        left.set_title(f"{title(run)}\nreviews, direction removed", fontsize=9)
        if get(run, "ablation.corrected.das.comma.ld_drop")["value"] is None:
            _said_missing(left, run, "ablation.corrected.das.comma.ld_drop")
        else:
            there = [
                p for p in places if get(run, f"ablation.corrected.das.{p}.ld_drop")["value"] is not None
            ]
            for i, place in enumerate(there):
                for k, m in enumerate(("das", "das_all")):
                    measure = get(run, f"ablation.corrected.{m}.{place}.ld_drop")
                    bar_with_interval(
                        left, i + (k - 0.5) * 0.4, measure, m, NAMES[m] if i == 0 else None, width=0.36
                    )
            published_mark(left, 17.0, 0, label="paper", width=0.8)
            left.set_xticks(range(len(there)), [places[p] for p in there], fontsize=6)
            left.set_ylim(top=1.25 * left.get_ylim()[1])
            left.set_ylabel("LD lost (%)")
            left.legend(fontsize=7)
        middle.set_title("mood stories, values flipped", fontsize=9)
        right.set_title("irrelevant text in between", fontsize=9)
        if get(run, "mood.phrase.all.change")["value"] is None:
            for panel in (middle, right):
                _said_missing(panel, run, "mood.phrase.all.change")
            continue
        shown = [g for g in groups if f"mood.{g}.all.change" in run.measures]
        for i, group in enumerate(shown):
            hue = "random" if group == "neutral" else "das"
            bar_with_interval(middle, i, get(run, f"mood.{group}.all.change"), hue)
        for group, value in (("comma", -37.4), ("phrase_and_punctuation", -75)):
            if group in shown:
                published_mark(middle, value, shown.index(group), label="paper", width=0.8)
        middle.set_xticks(range(len(shown)), [groups[g] for g in shown], fontsize=6)
        middle.axhline(0, color="black", linewidth=0.6)
        middle.set_ylabel("change of LD (%)")
        lengths = sorted(
            int(k.rsplit(".", 1)[1]) for k in run.measures if k.startswith("mood.distance.ratio.")
        )
        found = [get(run, f"mood.distance.ratio.{n}") for n in lengths]
        interval_line(right, lengths, found, "das", "measured")
        right.plot(
            [0, 10, 18, 22],
            [0.29, 0.63, 0.92, 1.15],
            ":",
            marker="s",
            color=colour("published"),
            label="paper",
        )
        right.set(xlabel="tokens in between", ylabel="LD change: punctuation\nover phrase")
        right.legend(fontsize=7)
    return figure


def _circuit(runs: Runs, fitted: str) -> Figure:
    """Direct effect of every head, what it reads and writes at the comma, and what sets of heads recover."""
    figure, axes = _grid(runs, 4, 1.9, 2.8, "circuit.circuit.rec")
    titles = (
        "direct effect at the end",
        "reads the words\nfrom the comma",
        "writes the direction\nat the comma",
        "patched together",
    )
    for run, panels in zip(runs, axes, strict=True):
        rows = run.outcomes["circuit"]
        for panel, said in zip(panels, titles, strict=True):
            panel.set_title(f"{title(run)}\n{said}" if said == titles[0] else said, fontsize=9)
        if get(run, "circuit.circuit.rec")["value"] is None:
            for panel in panels:
                _said_missing(panel, run, "circuit.circuit_minus_random.rec")
            continue
        test = rows[rows["split"] == "test"]
        whole = (test["ld_clean"] - test["ld_corrupted"]).mean()
        gain = test.assign(rec=100 * (test["ld_patched"] - test["ld_corrupted"]) / whole)
        direct = gain[gain["kind"] == "direct"].pivot_table("rec", "layer", "head").to_numpy()
        comma = gain[(gain["kind"] == "patch") & (gain["where"] == "comma")]
        attention, write = (
            comma.pivot_table(x, "layer", "head", dropna=False).to_numpy() for x in ("attention", "write")
        )
        _heads(figure, panels[0], direct, "RdBu_r", "% of LD", centred=True)
        _heads(figure, panels[1], attention, "cividis", "attention")
        _heads(figure, panels[2], write, "RdBu_r", "length along it", centred=True)
        for i, kind in enumerate(("circuit", "complement", "random")):
            bar_with_interval(
                panels[3], i, get(run, f"circuit.{kind}.rec"), "random" if kind == "random" else "das"
            )
        panels[3].set_xticks(range(3), ["circuit", "all\nothers", "random\nsets"])
        panels[3].set_ylabel("LD recovered, unseen words (%)", fontsize=8)
        panels[3].axhline(0, color="black", linewidth=0.6)
    return figure


def _heads(
    figure: Figure, panel: Axes, grid: np.ndarray, cmap: str, label: str, centred: bool = False
) -> None:
    top = float(np.nanmax(np.abs(grid))) or 1.0
    image = panel.imshow(grid, cmap=cmap, vmin=-top if centred else 0, vmax=top, aspect="auto")
    for (i, j), value in np.ndenumerate(grid):
        if grid.size <= 48:
            dark = abs(value) > 0.6 * top if centred else value < 0.6 * top
            panel.text(j, i, f"{value:.0f}" if top > 2 else f"{value:.2f}", ha="center", va="center", fontsize=7,
                       color="white" if dark else "black")  # fmt: skip
    panel.set(xlabel="head", ylabel="layer", xticks=range(grid.shape[1]), yticks=range(grid.shape[0]))
    panel.grid(False)
    figure.colorbar(image, ax=panel, label=label)


def _neurons(runs: Runs, fitted: str) -> Figure:
    """Cosines of all neurons' output weights with the direction, beside random directions."""
    figure, panels = _columns(runs, 3.2, sharey=True)
    bins = np.linspace(-1, 1, 81)
    for panel, run in zip(panels, runs, strict=True):
        rows = run.outcomes["neurons"]
        panel.set_title(title(run))
        if rows.empty:
            _said_missing(panel, run, "neurons.largest")
            continue
        chance = rows[rows["method"] == "random"]
        ours = rows[rows["method"] == fitted]
        weight = np.full(len(chance), 1 / chance["draw"].nunique())
        panel.hist(
            chance["cosine"], bins, weights=weight, color=colour("random"), label="random directions, mean"
        )
        panel.hist(
            ours["cosine"],
            bins,
            histtype="step",
            color=colour(fitted),
            linewidth=1.4,
            label=f"{NAMES[fitted]} direction",
        )
        for sign in (1, -1):
            top = (ours.assign(s=sign * ours["cosine"])).nlargest(3, "s")
            said = "\n".join(f"L{int(r.layer)}N{int(r.neuron)} {r.cosine:+.2f}" for r in top.itertuples())
            side = {"x": 0.98, "ha": "right"} if sign > 0 else {"x": 0.02, "ha": "left"}
            panel.text(y=0.6, s=said, transform=panel.transAxes, va="top", fontsize=7, **side)
        panel.set(yscale="log", xlabel="cosine of the neuron's output weights with the direction")
        panel.legend(loc="upper left", fontsize=7)
    panels[0].set_ylabel("neurons")
    return figure


def _negation(runs: Runs, fitted: str) -> Figure:
    """Cosine with the direction at negated and at plain words, layer by layer, by the word's own sentiment."""
    figure, panels = _columns(runs, 3.4, sharey=True)
    for panel, run in zip(panels, runs, strict=True):
        rows = run.outcomes["negation"]
        panel.set_title(title(run))
        if rows.empty:
            _said_missing(panel, run, "negation.fitted.share")
            continue
        mine = rows[rows["method"] == fitted]
        first = mine[mine["layer"] == 1].set_index(["set", "prompt"])["cosine"]
        centre = float(mine["mean"].iloc[0])
        side = [first[s, p] > centre for s, p in zip(mine["set"], mine["prompt"], strict=True)]
        for name, style, hue in (("plain", "--", "random"), ("negated", "-", fitted)):
            for up, word in ((True, "positive"), (False, "negative")):
                cell = mine[(mine["set"] == name) & (np.array(side) == up)].groupby("layer")["cosine"]
                mean, error = cell.mean(), 1.96 * cell.sem()
                label = f"{name}, read as {word} at layer 1" if up or name == "negated" else None
                panel.errorbar(
                    mean.index,
                    mean,
                    error,
                    fmt=style,
                    marker="o" if up else "v",
                    color=colour(hue),
                    label=label,
                )
        panel.axhline(centre, color="black", linewidth=0.6, linestyle=":")
        panel.set(xlabel="layer", xticks=sorted(mine["layer"].unique()))
    panels[0].set_ylabel(f"cosine with the direction\n({NAMES[fitted]}; mean, 95 %)")
    _legend(panels)
    return figure


def _steering(runs: Runs, fitted: str) -> Figure:
    """Positive minus negative words of the continuations against the strength of the added direction."""
    figure, panels = _columns(runs, 3.2, sharey=True)
    for panel, run in zip(panels, runs, strict=True):
        panel.set_title(title(run))
        head = "steering.fitted.score."
        strengths = sorted(float(k.removeprefix(head)) for k in run.measures if k.startswith(head))
        if not strengths:
            _said_missing(panel, run, "steering.fitted.spearman")
            continue
        for m, hue in (("fitted", fitted), ("random", "random")):
            found = [get(run, f"steering.{m}.score.{c:g}") for c in strengths]
            interval_line(
                panel, strengths, found, hue, "a random direction" if hue == "random" else NAMES[hue]
            )
        panel.axhline(0, color="black", linewidth=0.6)
        panel.set(
            xlabel="strength of the added direction (share of the residual's length)", ylim=(-1.05, 1.05)
        )
    panels[0].set_ylabel("positive less negative words,\nshare of polar words")
    _legend(panels, loc="lower right")
    return figure


FIGURES = {
    "directions": _directions,
    "patching": _patching,
    "ablation": _ablation,
    "by_class": _by_class,
    "summary": _summary,
    "circuit": _circuit,
    "neurons": _neurons,
    "negation": _negation,
    "steering": _steering,
}
