"""Outcomes become named measures with intervals. An effect is a direction minus random directions on the same rows.

Where the model does not do the task in the first place, percentages of what it does are noise: those measures are
missing, with the clean accuracy as the reason.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from bearings.evidence.stats import Estimate, difference, estimate, proportion
from bearings.stages.inputs import Inputs
from bearings.studies.sentiment.common import METHODS, enough, toy
from bearings.studies.sentiment.measure_readings import circuit, directions, mood, negation, neurons, steering
from bearings.studies.sentiment.metrics import above_lost, dropped, flipped, flipped_raw, recovered

Measures = dict[str, Estimate]
# Clean accuracy, low end of its interval, below which nothing is said about what an intervention takes away.
ABLE = 0.6
# Claims that need data which no scale has here yet.
ELSEWHERE = {
    "ablation.imdb.all.accuracy": "needs the IMDB reviews",
    "owt.tail_purity": "needs web text",
    "owt.loss_increase": "needs web text",
}
PERCENT, POINTS = "%", "points of %"


def measure(inputs: Inputs, outcomes: Mapping[str, pd.DataFrame]) -> Measures:
    """Every measure of the study on one model, by name."""
    options = {"seed": inputs.seed, "resamples": inputs.settings["resamples"]}
    words = toy(inputs.prompts["toy"], "test")
    n_words = len(words) if enough(words) and enough(toy(inputs.prompts["toy"], "train")) else 0
    return {
        **_vocabulary(inputs),
        **{name: Estimate.missing(why) for name, why in ELSEWHERE.items()},
        **directions(inputs),
        **_patching(outcomes["patching"], n_words, options),
        **_ablation(outcomes["ablation"], options),
        **mood(outcomes["mood"], options),
        **circuit(outcomes["circuit"], options),
        **neurons(outcomes["neurons"], options),
        **negation(outcomes["negation"], inputs.settings["direction"], options),
        **steering(outcomes["steering"], options),
    }


def _vocabulary(inputs: Inputs) -> Measures:
    """How many prompts of each set the model's tokenizer can hold."""
    return {
        f"usable.{name}": proportion(sum(p.usable for p in prompts), len(prompts), unit="share of prompts")
        for name, prompts in inputs.prompts.items()
    }


def able(right: np.ndarray, what: str) -> str:
    """Empty if the model does the task on these unselected rows, else the reason why nothing is measured."""
    share = proportion(int(right.sum()), len(right))
    if share.low is None:
        return f"no usable {what}"
    if share.low < ABLE:
        return f"clean accuracy {share.value:.2f} on {what} is too near chance (n = {share.n})"
    return ""


def _patching(rows: pd.DataFrame, n_words: int, options: Mapping) -> Measures:
    out: Measures = {}
    for name, picked_on in (("toy", "train"), ("classification", "dev"), ("continuation", "dev")):
        mine = rows[rows["set"] == name]
        test = mine[mine["split"] == "test"]
        clean = test[(test["method"] == "full") & (test["layer"] == test["layer"].min())]
        right = clean["ld_clean"].to_numpy() > 0
        what = f"{name} prompts" if n_words else f"{name} prompts: too few words are single tokens"
        reason = able(right, what)
        out[f"patching.{name}.clean_right"] = proportion(
            int(right.sum()), len(right), unit=PERCENT, scale=100
        )
        out |= _patching_set(f"patching.{name}", mine, picked_on, reason, len(right), options)
    return out


def _patching_set(
    head: str, rows: pd.DataFrame, picked_on: str, reason: str, n: int, options: Mapping
) -> Measures:
    """Recovery and flips of one prompt set: every layer, and at the layer picked on other prompts."""
    cells = {s: _cells(rows[rows["split"] == s]) for s in (picked_on, "test")}
    if not cells[picked_on]:
        reason = reason or f"no {picked_on} prompts to pick the layer on"
    if reason:
        names = [
            *(f"{m}.{x}" for m in ("das", "random") for x in ("rec", "flip")),
            *(f"das.{x}" for x in ("rec_effect", "flip_effect", "last_layer.rec")),
            *("order.all_minus_random", "order.das_minus_best_other", "das2d_minus_das", "inner_minus_outer"),
        ]
        return {f"{head}.{x}": Estimate.missing(reason, n, PERCENT) for x in names}
    layers = sorted({layer for _, _, layer in cells["test"]})
    random = {layer: cells["test"]["random", "", layer] for layer in layers}
    out: Measures = {}
    best: dict[tuple[str, str], int] = {}
    for method in METHODS:
        for variant in ("published", "corrected"):
            if (method, variant, layers[0]) not in cells["test"]:
                continue
            # The authors picked the layer on the test set, cell by cell (section 5, row 9).
            picked = cells["test" if variant == "published" else picked_on]
            layer = max(layers, key=lambda x: float(recovered(*picked[method, variant, x][:3])))
            best[method, variant] = layer
            tail = ".published" if variant == "published" else ""
            for at in layers:
                c = cells["test"][method, variant, at]
                out[f"{head}.{method}{tail}.layer{at}.rec"] = estimate(
                    recovered, *c[:3], unit=PERCENT, **options
                )
                out[f"{head}.{method}{tail}.layer{at}.flip"] = estimate(flipped, *c, unit=PERCENT, **options)
            c = cells["test"][method, variant, layer]
            out[f"{head}.{method}{tail}.layer"] = Estimate(layer, None, None, len(c[0]), "layer")
            out[f"{head}.{method}{tail}.rec"] = out[f"{head}.{method}{tail}.layer{layer}.rec"]
            out[f"{head}.{method}{tail}.flip"] = out[f"{head}.{method}{tail}.layer{layer}.flip"]
            out[f"{head}.{method}{tail}.flip_raw"] = estimate(flipped_raw, *c[:3], unit=PERCENT, **options)
            for x, metric, k in (("rec", recovered, 3), ("flip", flipped, 4)):
                out[f"{head}.{method}{tail}.{x}_effect"] = difference(
                    c[:k], random[layer][:k], statistic=metric, unit=POINTS, **options
                )
    last = cells["test"]["das", "corrected", layers[-1]]
    out[f"{head}.das.last_layer.rec"] = estimate(recovered, *last[:3], unit=PERCENT, **options)
    at = best["das", "corrected"]
    for x, metric, k in (("rec", recovered, 3), ("flip", flipped, 4)):
        # The mean over draws is a statistic of the same rows, so its interval is over rows too.
        out[f"{head}.random.{x}"] = estimate(
            lambda *c, axis=-1, metric=metric: metric(*c).mean(-1), *random[at][:k], unit=PERCENT, **options
        )
        for layer in layers:
            out[f"{head}.random.layer{layer}.{x}"] = estimate(
                lambda *c, axis=-1, metric=metric: metric(*c).mean(-1),
                *random[layer][:k],
                unit=PERCENT,
                **options,
            )
    return out | _order(head, cells["test"], best, random, layers, options)


def _cells(rows: pd.DataFrame) -> dict[tuple[str, str, int], tuple[np.ndarray, ...]]:
    """(method, variant, layer) -> clean, corrupted, patched ([n], or [n, draws] for random), sign."""
    out = {}
    for (method, variant, layer), cell in rows.groupby(["method", "variant", "layer"], sort=True):
        wide = cell.sort_values(["draw", "prompt"], kind="stable")
        draws = wide["draw"].nunique()
        first = wide[wide["draw"] == wide["draw"].min()]
        patched = wide["ld_patched"].to_numpy(float).reshape(draws, -1).T
        out[method, variant, int(layer)] = (
            first["ld_clean"].to_numpy(float),
            first["ld_corrupted"].to_numpy(float),
            patched if method == "random" else patched[:, 0],
            np.where(first["label"] == 1, 1.0, -1.0),
        )
    return out


def _order(
    head: str, cells: Mapping, best: Mapping, random: Mapping, layers: list[int], options: Mapping
) -> Measures:
    """Comparisons between methods, each at its own picked layer, paired by prompt."""
    one_dim = [m for m in ("das", "mean_diff", "kmeans", "logistic", "pca") if (m, "corrected") in best]
    own = {
        m: cells[m, "corrected", best[m, "corrected"]]
        for m in (*one_dim, "das2d")
        if (m, "corrected") in best
    }
    clean, corrupted = own["das"][:2]

    def minus(a: np.ndarray, b: np.ndarray, floor=None) -> Estimate:
        def statistic(c, o, x, y, axis=-1):
            one, two = recovered(c, o, x), recovered(c, o, y)
            two = two.mean(-1) if two.ndim > one.ndim else two
            return one - two

        return estimate(statistic, clean, corrupted, a, b, unit=POINTS, **options)

    rec = {m: float(recovered(*c[:3])) for m, c in own.items()}
    worst = min(one_dim, key=rec.get)
    other = max((m for m in one_dim if m != "das"), key=rec.get)
    out = {
        f"{head}.order.all_minus_random": minus(own[worst][2], random[best[worst, "corrected"]][2]),
        f"{head}.order.das_minus_best_other": minus(own["das"][2], own[other][2]),
    }
    if "das2d" in own:
        out[f"{head}.das2d_minus_das"] = minus(own["das2d"][2], own["das"][2])
    by_layer = {layer: cells["mean_diff", "corrected", layer][2] for layer in layers}
    values = {layer: float(recovered(clean, corrupted, x)) for layer, x in by_layer.items()}
    inner = max(layers[1:-1], key=values.get, default=None)
    outer = max((layers[0], layers[-1]), key=values.get)
    out[f"{head}.inner_minus_outer"] = (
        Estimate.missing("no layer lies between the first and the last", len(clean), POINTS)
        if inner is None
        else minus(by_layer[inner], by_layer[outer])
    )
    return out


def _ablation(rows: pd.DataFrame, options: Mapping) -> Measures:
    clean = rows[rows["operation"] == "clean"]
    kept = clean[clean["kept"]].sort_values("prompt", kind="stable")
    right = clean["ld"].to_numpy() > 0
    out: Measures = {
        "ablation.counts.all": Estimate(len(clean), None, None, len(clean), "sentences"),
        "ablation.counts.pass": Estimate(
            int((right & clean["top10"].eq(True)).sum()), None, None, len(clean), "sentences"
        ),
        "ablation.counts.kept": Estimate(len(kept), None, None, len(clean), "sentences"),
        "ablation.counts.negatives": Estimate(
            int((kept["label"] == 0).sum()), None, None, len(clean), "sentences"
        ),
        "ablation.clean.accuracy_unselected": proportion(int(right.sum()), len(right), unit="accuracy"),
    }
    reason = able(right, "unselected reviews") or ("" if len(kept) >= 20 else f"{len(kept)} reviews are kept")
    where = _Ablated(rows, kept, reason, options)
    for side, label in (("positive", 1), ("negative", 0)):
        ld = kept.loc[kept["label"] == label, "ld"].to_numpy(float)
        out[f"ablation.clean.ld.{side}"] = (
            estimate(np.mean, ld, unit="logits", **options) if not reason else where.missing("logits")
        )
    for variant in ("published", "corrected"):
        for place in ("all", "comma"):
            out |= where.random(variant, place)
        for direction in ("das", "das_all", "mean_diff"):
            for place in ("all", "comma", "random_token", "period", "polar", "aspect", "name"):
                out |= where.one(variant, direction, place)
            for place in ("all", "comma"):
                out |= where.one(variant, direction, place, frozen=True)
            out |= where.shares(variant, direction)
    for source, place, name in (
        ("own", "comma", "comma"),
        ("opposite", "comma", "comma_opposite"),
        ("elsewhere", "comma", "comma_neutral"),
        ("own", "period", "period"),
        ("own", "random_token", "random_token"),
    ):
        out |= where.mean(source, place, name)
    out |= where.mean("own", "comma", "comma_frozen", frozen=True)
    return out


class _Ablated:
    """Columns of LDs by condition, over the kept reviews in one order."""

    def __init__(self, rows: pd.DataFrame, kept: pd.DataFrame, reason: str, options: Mapping):
        self.reason, self.options, self.n = reason, options, len(kept)
        self.clean, self.label = kept["ld"].to_numpy(float), kept["label"].to_numpy()
        done = rows[rows["operation"] != "clean"]
        keys = ["operation", "direction", "variant", "where", "frozen"]
        self.columns = {
            key: part.sort_values(["draw", "prompt"], kind="stable")["ld"]
            .to_numpy(float)
            .reshape(-1, self.n)
            .T
            for key, part in done.groupby(keys, sort=True)
        }

    def missing(self, unit: str = PERCENT) -> Estimate:
        return Estimate.missing(self.reason or "this condition was not run", self.n, unit)

    def get(self, *key) -> np.ndarray | None:
        found = None if self.reason else self.columns.get(key)
        return None if found is None or not len(found) else found

    def random(self, variant: str, place: str) -> Measures:
        head = f"ablation.{variant}.random.{place}"
        ld = self.get("ablate", "random", variant, place, False)
        if ld is None:
            return {f"{head}.{x}": self.missing() for x in ("above_lost", "ld_drop")}
        return {
            f"{head}.above_lost": estimate(
                lambda x, axis=-1: above_lost(x).mean(-1), ld, unit=PERCENT, **self.options
            ),
            f"{head}.ld_drop": estimate(
                lambda x, c, axis=-1: dropped(x, c).mean(-1), ld, self.clean, unit=PERCENT, **self.options
            ),
        }

    def one(self, variant: str, direction: str, place: str, frozen: bool = False) -> Measures:
        head = f"ablation.{variant}.{direction}.{place}{'_frozen' if frozen else ''}"
        ld = self.get("ablate", direction, variant, place, frozen)
        if ld is None:
            names = (
                "above_lost",
                "ld_drop",
                "accuracy",
                "effect",
                "ld_effect",
                "accuracy.negative",
                "accuracy.positive",
            )
            return {f"{head}.{x}": self.missing() for x in names}
        ld = ld[:, 0]
        out = self._both(head, ld)
        for side, label in (("positive", 1), ("negative", 0)):
            mine = ld[self.label == label]
            out[f"{head}.accuracy.{side}"] = proportion(int((mine > 0).sum()), len(mine), unit="accuracy")
        base = self.get("ablate", "random", variant, "all" if place == "all" else "comma", False)
        if base is not None and place in ("all", "comma"):
            out[f"{head}.effect"] = difference(ld, base, statistic=above_lost, unit=POINTS, **self.options)
            out[f"{head}.ld_effect"] = difference(
                (ld, self.clean), (base, self.clean), statistic=dropped, unit=POINTS, **self.options
            )
        return out

    def _both(self, head: str, ld: np.ndarray) -> Measures:
        return {
            f"{head}.above_lost": estimate(above_lost, ld, unit=PERCENT, **self.options),
            f"{head}.ld_drop": estimate(dropped, ld, self.clean, unit=PERCENT, **self.options),
            f"{head}.accuracy": proportion(int((ld > 0).sum()), self.n, unit="accuracy"),
        }

    def shares(self, variant: str, direction: str) -> Measures:
        """What commas lose as a share of what all positions lose, and against as many other tokens (control C2)."""
        head = f"ablation.{variant}.{direction}"
        everywhere, commas, others = (
            self.get("ablate", direction, variant, x, False) for x in ("all", "comma", "random_token")
        )
        if everywhere is None or commas is None or others is None:
            return {f"{head}.{x}": self.missing() for x in ("comma_share", "comma_minus_random_token")}
        return {
            f"{head}.comma_share": estimate(
                lambda a, b, axis=-1: above_lost(b) / above_lost(a),
                everywhere[:, 0],
                commas[:, 0],
                unit="share",
                **self.options,
            ),
            f"{head}.comma_minus_random_token": estimate(
                lambda a, b, c, axis=-1: dropped(a, c) - dropped(b, c),
                commas[:, 0],
                others[:, 0],
                self.clean,
                unit=POINTS,
                **self.options,
            ),
        }

    def mean(self, source: str, place: str, name: str, frozen: bool = False) -> Measures:
        head = f"ablation.mean.{name}"
        ld = self.get("mean", source, "published", place, frozen)
        if ld is None:
            return {
                f"{head}.{x}": self.missing()
                for x in ("above_lost", "ld_drop", "accuracy", "ld_drop.negative")
            }
        out = self._both(head, ld[:, 0])
        for side, label in (("positive", 1), ("negative", 0)):
            of = self.label == label
            out[f"{head}.ld_drop.{side}"] = estimate(
                dropped, ld[of, 0], self.clean[of], unit=PERCENT, **self.options
            )
        return out
