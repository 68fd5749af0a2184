"""Measures of what is read rather than removed: directions, mood stories, heads, neurons, negation, steering."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from bearings.evidence.stats import Estimate, difference, estimate, proportion
from bearings.stages.dumps import Dump
from bearings.stages.inputs import Inputs
from bearings.studies.sentiment.common import METHODS, enough, toy, unit
from bearings.studies.sentiment.metrics import changed, recovered, turned

Measures = dict[str, Estimate]
COMPARED = ("mean_diff", "kmeans", "logistic", "pca", "das")
# One shuffle is right on nearly all unseen words or on nearly none: only the mean of many is near 50 %.
SHUFFLES = 400
SCORE = "positive minus negative, share of polar words"


def directions(inputs: Inputs) -> Measures:
    """Cosines between methods by layer, accuracy on unseen words, and both for random and shuffled controls."""
    train, test = (toy(inputs.prompts["toy"], split) for split in ("train", "test"))
    if not enough(train) or not enough(test):
        missing = Estimate.missing(
            "too few words are single tokens for this tokenizer", len(train) + len(test)
        )
        names = ["similarity.lowest", "similarity.random", *(f"accuracy.{m}" for m in COMPARED)]
        names += ["accuracy.lowest", "accuracy.shuffled", "cosine.das.kmeans.1"]
        return {f"directions.{name}": missing for name in names} | _fingerprint()
    out: Measures = {}
    n = len(train)
    one_dim = [m for m in METHODS if inputs.directions[m] and m not in ("das2d", "das3d")]
    lowest: dict[int, float] = {}
    for layer in inputs.layers:
        units = {m: unit(inputs.directions[m], "corrected", layer) for m in one_dim}
        cosines = {(a, b): abs(float(units[a] @ units[b])) for a, b in combinations(units, 2)}
        for (a, b), value in cosines.items():
            for x, y in ((a, b), (b, a)):
                out[f"directions.cosine.{x}.{y}.{layer}"] = Estimate(value, None, None, n, "abs cosine")
        lowest[layer] = min(v for pair, v in cosines.items() if set(pair) <= set(COMPARED))
    # The paper compares at the embedding or right behind the first block.
    first = [layer for layer in (0, 1) if layer in lowest] or [min(lowest)]
    at = max(first, key=lowest.get)
    out["directions.similarity.lowest"] = Estimate(lowest[at], None, None, n, "abs cosine")
    draws = len({k.split("/")[0] for k in inputs.directions["random"]})
    md = unit(inputs.directions["mean_diff"], "corrected", at)
    chance = [abs(float(unit(inputs.directions["random"], str(d), at) @ md)) for d in range(draws)]
    out["directions.similarity.random"] = estimate(np.mean, chance, seed=inputs.seed, unit="abs cosine")
    out["directions.similarity.layer"] = Estimate(at, None, None, n, "layer")
    return out | _accuracy(inputs, train, test, at) | _fingerprint()


def _fingerprint() -> Measures:
    missing = Estimate.missing("the published vectors belong to GPT-2 small", 0)
    names = ("fingerprint.lowest", "fingerprint.random", "published_adjacent.0")
    return {f"directions.{name}": missing for name in names}


def _accuracy(inputs: Inputs, train, test, at: int) -> Measures:
    """Share of unseen adjectives on the right side of the midpoint between the training classes.

    Without a layer in its name, at layer `at`, where the methods agree best on the training words.
    """
    out: Measures = {}
    dump: Dump = inputs.dumps["toy"]
    y, y_test = (np.array([p.label for p in part]) for part in (train, test))
    rng = np.random.default_rng([inputs.seed, 605])
    for layer in inputs.layers:
        x, x_test = (dump.at("adj", [p.id for p in part], layer).astype(float) for part in (train, test))

        def right(d, labels=y, x=x, x_test=x_test) -> np.ndarray:
            along = x @ d
            middle = (along[labels == 1].mean() + along[labels == 0].mean()) / 2
            return (x_test @ d > middle) == (y_test == 1)

        for m in (m for m in METHODS if m not in ("das2d", "das3d")):
            d = unit(inputs.directions[m], "corrected", layer)
            if d is not None:
                hits = right(d.astype(float))
                found = proportion(int(hits.sum()), len(hits), unit="% of test adjectives", scale=100)
                out[f"directions.accuracy.{m}.layer{layer}"] = found
        shuffled = []
        for _ in range(SHUFFLES):
            labels = rng.permutation(y)
            shuffled.append(100 * right(x[labels == 1].mean(0) - x[labels == 0].mean(0), labels).mean())
        out[f"directions.accuracy.shuffled.layer{layer}"] = estimate(
            np.mean, shuffled, seed=inputs.seed, unit="% of test adjectives"
        )
    for m in (*COMPARED, "shuffled"):
        out[f"directions.accuracy.{m}"] = out[f"directions.accuracy.{m}.layer{at}"]
    out["directions.accuracy.lowest"] = min(
        (out[f"directions.accuracy.{m}"] for m in COMPARED), key=lambda e: e.value
    )
    return out


def mood(rows: pd.DataFrame, options: Mapping) -> Measures:
    """Change of LD when the values at a group of positions come from the flipped story."""
    names = ("comma", "period", "phrase", "punctuation", "phrase_and_punctuation", "neutral")
    changes = [f"{g}.{where}.change" for g in names for where in ("all", "upper")]
    bare = rows[
        (rows["filler"] == 0) & (rows["group"] == "phrase") & (rows["layers"] == "all") & rows["frozen"]
    ]
    right = bare["ld_clean"].to_numpy() > 0
    share = proportion(int(right.sum()), len(right))
    if share.low is None or share.low < 0.6:
        accuracy = (
            "no usable stories" if share.value is None else f"clean accuracy {share.value:.2f} on stories"
        )
        missing = Estimate.missing(f"{accuracy}: nothing to hand on", len(right), "%")
        return {f"mood.{k}": missing for k in (*changes, "clean.ld", "distance.increase")}
    out: Measures = {
        "mood.clean.accuracy": proportion(int(right.sum()), len(right), unit="accuracy"),
        "mood.clean.ld": estimate(np.mean, bare["ld_clean"], unit="logits", **options),
    }
    for (group, layers, frozen, filler), cell in rows.groupby(
        ["group", "layers", "frozen", "filler"], sort=True
    ):
        tail = ("" if frozen else ".free") + (f".filler{filler}" if filler else "")
        out[f"mood.{group}.{layers}.change{tail}"] = estimate(
            changed, cell["ld_patched"], cell["ld_clean"], unit="% change of LD", **options
        )
    unmarked = Estimate.missing("the stories have no such position", len(right), "% change of LD")
    out = {**{f"mood.{k}": unmarked for k in changes}, **out}
    ratio: dict[int, tuple[np.ndarray, ...]] = {}
    frozen = rows[rows["frozen"] & (rows["layers"] == "all")].sort_values("prompt", kind="stable")
    for filler in sorted(frozen["filler"].unique()):
        cells = [
            frozen[(frozen["filler"] == filler) & (frozen["group"] == g)] for g in ("punctuation", "phrase")
        ]
        ratio[filler] = (
            *(c["ld_patched"].to_numpy(float) for c in cells),
            cells[0]["ld_clean"].to_numpy(float),
        )
        out[f"mood.distance.ratio.{filler}"] = estimate(
            lambda p, q, c, axis=-1: changed(p, c) / changed(q, c), *ratio[filler], unit="ratio", **options
        )
    near, far = min(ratio), max(ratio)
    out["mood.distance.increase"] = Estimate.missing("stories of one length only", len(right), "ratio")
    if near != far and len(ratio[near][0]) == len(ratio[far][0]):
        out["mood.distance.increase"] = estimate(
            lambda a, b, c, x, y, z, axis=-1: changed(x, z) / changed(y, z) - changed(a, c) / changed(b, c),
            *ratio[near],
            *ratio[far],
            unit="ratio, longest minus none",
            **options,
        )
    return out


def circuit(rows: pd.DataFrame, options: Mapping) -> Measures:
    """What single heads and sets of heads recover on unseen words."""
    keys = ("top5_share", "random.rec", "circuit_minus_random.rec", "circuit_minus_complement.flip")
    test = rows[rows["split"] == "test"].sort_values("prompt", kind="stable")
    right = test.loc[test["kind"] == "circuit", "ld_clean"].to_numpy() > 0
    share = proportion(int(right.sum()), len(right))
    if share.low is None or share.low < 0.6:
        said = (
            "no usable words" if share.value is None else f"clean accuracy {share.value:.2f} on the toy words"
        )
        return {f"circuit.{k}": Estimate.missing(f"{said}: no circuit to look for", len(right)) for k in keys}
    base = test[test["kind"] == "circuit"]
    clean, other = (base[c].to_numpy(float) for c in ("ld_clean", "ld_corrupted"))
    sets = {
        k: g.sort_values(["draw", "prompt"], kind="stable")["ld_patched"]
        .to_numpy(float)
        .reshape(-1, len(base))
        .T
        for k, g in test[test["kind"].isin(["circuit", "complement", "random"])].groupby("kind")
    }
    out: Measures = {}
    for kind in ("circuit", "complement"):
        ld = sets[kind][:, 0]
        out[f"circuit.{kind}.rec"] = estimate(recovered, clean, other, ld, unit="%", **options)
        out[f"circuit.{kind}.flip"] = estimate(turned, clean, ld, unit="%", **options)
    out["circuit.random.rec"] = estimate(
        lambda *c, axis=-1: recovered(*c).mean(-1), clean, other, sets["random"], unit="%", **options
    )
    out["circuit.circuit_minus_random.rec"] = difference(
        (clean, other, sets["circuit"][:, 0]),
        (clean, other, sets["random"]),
        statistic=recovered,
        unit="points of %",
        **options,
    )
    out["circuit.circuit_minus_complement.flip"] = estimate(
        lambda c, x, y, axis=-1: turned(c, x) - turned(c, y),
        clean,
        sets["circuit"][:, 0],
        sets["complement"][:, 0],
        unit="points of %",
        **options,
    )
    direct = test[test["kind"] == "direct"].pivot_table("ld_patched", "prompt", ["layer", "head"]).to_numpy()
    out["circuit.top5_share"] = estimate(
        _top5, direct - other[:, None], unit="% of direct effects", **options
    )
    return out


def _top5(effects: np.ndarray, axis: int = -1) -> np.ndarray:
    """Share of the five largest of the mean effects [..., heads, prompts], in per cent of all their sizes."""
    sizes = np.sort(np.abs(effects.mean(-1)), axis=-1)
    return 100 * sizes[..., -5:].sum(-1) / sizes.sum(-1)


def neurons(rows: pd.DataFrame, options: Mapping) -> Measures:
    """The largest of all cosines with the direction, against the largest with random directions."""
    if rows.empty:
        missing = Estimate.missing("no direction was fitted", 0, "abs cosine")
        return {f"neurons.{k}": missing for k in ("largest", "largest_minus_random", "random.largest")}
    size = rows.assign(size=rows["cosine"].abs()).groupby(["method", "draw"])["size"].max()
    ours, chance = float(size.drop("random").iloc[0]), size["random"].to_numpy(float)
    n = len(rows[rows["method"] != "random"])
    return {
        "neurons.largest": Estimate(ours, None, None, n, "abs cosine"),
        "neurons.random.largest": estimate(np.mean, chance, unit="abs cosine", **options),
        "neurons.largest_minus_random": estimate(
            lambda x, axis=-1: ours - x.mean(-1), chance, unit="abs cosine", **options
        ),
    }


def negation(rows: pd.DataFrame, chosen: str, options: Mapping) -> Measures:
    """Share of negated words whose reading turns towards or past the mean between layer 1 and a late layer.

    flip = 0.5 (a_late - a_1) / (m - a_1) with m the mean over all texts; the late layer is 10 of GPT-2's 12, or as
    far up in other models. `fitted` is the method `chosen`.
    """
    names = ("fitted.share", "fitted.share_plain", "random.share", "fitted.crossed", "fitted.share_effect")
    if rows.empty:
        missing = Estimate.missing("no usable negated texts, or no direction", 0, "share of texts")
        return {f"negation.{k}": missing for k in names}
    if rows["mean"].isna().any():
        missing = Estimate.missing("no reviews whose mean cosine a word could turn past", 0, "share of texts")
        return {f"negation.{k}": missing for k in names}
    late = round(rows["layer"].max() * 10 / 12)
    wide = rows[rows["layer"].isin([1, late])].pivot_table(
        ["cosine", "mean"], ["method", "draw", "set", "prompt"], "layer"
    )
    a1, a2, m = wide["cosine"][1], wide["cosine"][late], wide["mean"][1]
    size = (0.5 * (a2 - a1) / (m - a1)).rename("size").reset_index()
    out: Measures = {}
    for method in size.loc[size["method"] != "random", "method"].unique():
        for name, tail in (("negated", ""), ("plain", "_plain")):
            mine = size[(size["method"] == method) & (size["set"] == name)]["size"]
            out[f"negation.{method}.share{tail}"] = proportion(
                int((mine > 0).sum()), len(mine), unit="share of texts"
            )
            out[f"negation.{method}.crossed{tail}"] = proportion(
                int((mine > 0.5).sum()), len(mine), unit="share of texts"
            )
            out[f"negation.{method}.median{tail}"] = estimate(np.median, mine, unit="flip size", **options)
    for name in ("share", "share_plain", "crossed"):
        out[f"negation.fitted.{name}"] = out[f"negation.{chosen}.{name}"]
    turned = (
        size[(size["method"] == "random") & (size["set"] == "negated")].pivot_table("size", "prompt", "draw")
        > 0
    )
    ours = size[(size["method"] == chosen) & (size["set"] == "negated")].sort_values("prompt")["size"] > 0
    out["negation.random.share"] = estimate(
        lambda x, axis=-1: x.mean(-1).mean(-1), turned.to_numpy(float), unit="share of texts", **options
    )
    out["negation.fitted.share_effect"] = difference(
        ours.to_numpy(float), turned.to_numpy(float), unit="share of texts", **options
    )
    return out


def steering(rows: pd.DataFrame, options: Mapping) -> Measures:
    """Rank correlation of strength and mean positive score, texts resampled within each strength."""
    out: Measures = {}
    kinds = {"": ("positive", "negative"), "_new": ("new_positive", "new_negative")}
    if rows.empty:
        missing = Estimate.missing("no direction, or no room for a continuation", 0, "rank correlation")
        names = ("fitted.spearman", "fitted.swing_effect", "fitted.swing", "random.spearman", "random.swing")
        return {f"steering.{name}{t}": missing for name in names for t in kinds}
    rows = rows.assign(method=rows["method"].where(rows["method"] == "random", "fitted"))
    for tail, (plus, minus) in kinds.items():
        scored = rows.assign(score=(rows[plus] - rows[minus]) / (rows[plus] + rows[minus]).clip(lower=1))
        by_draw = {}
        for (method, draw), cell in scored.groupby(["method", "draw"], sort=True):
            table = cell.pivot_table("score", ["prompt", "sample"], "coefficient")
            by_draw.setdefault(method, []).append(table.to_numpy())
            strengths = table.columns.to_numpy(float)
            if draw == 0:
                for i, c in enumerate(strengths):
                    out[f"steering.{method}.score{tail}.{c:g}"] = estimate(
                        np.mean, table.to_numpy()[:, i], unit=SCORE, **options
                    )
        stacked = {m: np.concatenate(tables, axis=1) for m, tables in by_draw.items()}
        for method, scores in stacked.items():
            out[f"steering.{method}.spearman{tail}"] = estimate(
                lambda x, axis=-1, s=strengths: _rank_correlation(x, s).mean(-1),
                scores,
                unit="rank correlation",
                **options,
            )
        n = len(strengths)
        for method, scores in stacked.items():
            out[f"steering.{method}.swing{tail}"] = estimate(
                lambda x, axis=-1, n=n: _swing(x, n).mean(-1), scores, unit=SCORE, **options
            )
        # A random direction has no sign to be right about, so its size is what ours must exceed.
        out[f"steering.fitted.swing_effect{tail}"] = estimate(
            lambda x, y, axis=-1, n=n: _swing(x, n).mean(-1) - np.abs(_swing(y, n)).mean(-1),
            stacked["fitted"],
            stacked["random"],
            unit=f"{SCORE}, less the size of a random direction's",
            **options,
        )
    return out


def _rank_correlation(scores: np.ndarray, strengths: np.ndarray) -> np.ndarray:
    """Spearman [..., draws] of strength and mean score of texts [..., draws * strengths, texts]; constant: 0."""
    means = scores.mean(-1)
    means = means.reshape(*means.shape[:-1], -1, len(strengths))
    a, b = rankdata(means, axis=-1), rankdata(strengths)
    a, b = a - a.mean(-1, keepdims=True), b - b.mean()
    size = np.sqrt((a * a).sum(-1) * (b * b).sum())
    return np.where(size > 0, (a * b).sum(-1) / np.where(size > 0, size, 1), 0.0)


def _swing(scores: np.ndarray, strengths: int) -> np.ndarray:
    """Mean score of the upper half of the strengths less that of the lower half, [..., draws]; no middle.

    `scores` is [..., draws * strengths, texts] with strengths in rising order.
    """
    means = scores.mean(-1)
    means = means.reshape(*means.shape[:-1], -1, strengths)
    half = strengths // 2
    return means[..., -half:].mean(-1) - means[..., :half].mean(-1)
