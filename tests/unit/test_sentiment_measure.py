"""Measures: known answers on constructed outcomes, silence at chance, and no claim that points at nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml
from sentiment_models import (
    N_HEADS,
    N_LAYERS,
    STUDY,
    able_outcomes,
    unable_outcomes,
    world_inputs,
    world_prompts,
)

from bearings.evidence.claims import load_claims
from bearings.studies.sentiment import metrics
from bearings.studies.sentiment.common import METHODS, toy
from bearings.studies.sentiment.measure import able, measure
from bearings.studies.sentiment.measure_readings import (
    _rank_correlation,
    _swing,
    _top5,
    circuit,
    negation,
    steering,
)

OPTIONS = {"seed": 0, "resamples": 50}


@pytest.fixture(scope="module")
def measured():
    return measure(world_inputs(model=False), able_outcomes())


@pytest.fixture(scope="module")
def unmeasured():
    return measure(world_inputs(model=False), unable_outcomes())


# --- claims --------------------------------------------------------------------------------------------------------


def test_claims_are_well_formed():
    study = load_claims(STUDY / "claims.yaml")
    assert study.study == "sentiment"
    assert len(study.claims) >= 30


def named() -> dict[str, str]:
    """Every measure that a claim or its control names, with the claim."""
    found = {}
    for claim in yaml.safe_load((STUDY / "claims.yaml").read_text())["claims"]:
        found[claim["measure"]] = claim["id"]
        if "measure" in claim["control"]:
            found[claim["control"]["measure"]] = claim["id"]
    return found


@pytest.mark.parametrize("kind", ["able", "unable", "empty"])
def test_no_claim_points_at_nothing(kind, measured, unmeasured):
    there = {"able": measured, "unable": unmeasured, "empty": None}[kind]
    if there is None:
        there = measure(world_inputs(model=False), {k: v.iloc[:0] for k, v in able_outcomes().items()})
    assert {name: claim for name, claim in named().items() if name not in there} == {}


def test_what_is_missing_says_why(measured, unmeasured):
    for found in (measured, unmeasured):
        for name, e in found.items():
            assert e.value is not None or e.reason, name
            assert (e.low is None) == (e.high is None), name
            assert e.low is None or e.low <= e.high, name


def test_every_claim_is_measured_where_the_model_is_able(measured):
    """Only what needs other data stays missing."""
    missing = {name for name in named() if measured[name].value is None}
    elsewhere = {"ablation.imdb.all.accuracy", "owt.tail_purity", "owt.loss_increase"}
    fingerprints = {
        n for n in missing if n.startswith(("directions.fingerprint", "directions.published_adjacent"))
    }
    assert missing == elsewhere | fingerprints


def test_every_group_of_mood_positions_is_marked_in_the_world():
    from bearings.studies.sentiment.mood import GROUPS

    there = {name for p in world_prompts()["mood"] for name in p.positions}
    assert {mark for marks in GROUPS.values() for mark in marks} <= there


def test_nothing_is_measured_at_chance(unmeasured):
    for name in named():
        if name.startswith(("patching.", "ablation.", "mood.", "circuit.")):
            if name.endswith(("clean_right", "counts.kept", "counts.negatives")):
                assert unmeasured[name].value is not None
                continue
            assert unmeasured[name].value is None, name
            assert unmeasured[name].reason, name
    assert "too near chance" in unmeasured["patching.toy.das.rec"].reason
    assert "too near chance" in unmeasured["ablation.published.das.all.effect"].reason
    assert "nothing to hand on" in unmeasured["mood.comma.all.change"].reason
    assert "no circuit" in unmeasured["circuit.top5_share"].reason


def test_able():
    assert able(np.ones(40, bool), "reviews") == ""
    assert able(np.zeros(0, bool), "reviews") == "no usable reviews"
    # 65 of 100: the Wilson interval begins at 0.55.
    said = able(np.arange(100) < 65, "reviews")
    assert said == "clean accuracy 0.65 on reviews is too near chance (n = 100)"
    assert able(np.arange(1000) < 650, "reviews") == ""


# --- patching ------------------------------------------------------------------------------------------------------


def cell(rows, split, method, variant, layer, draw=0):
    mine = rows[
        (rows["set"] == "toy")
        & (rows["split"] == split)
        & (rows["method"] == method)
        & (rows["variant"] == variant)
        & (rows["layer"] == layer)
        & (rows["draw"] == draw)
    ].sort_values("prompt")
    return [mine[c].to_numpy(float) for c in ("ld_clean", "ld_corrupted", "ld_patched")] + [
        np.where(mine["label"] == 1, 1.0, -1.0)
    ]


def by_hand(c):
    return float(metrics.recovered(*c[:3])), float(metrics.flipped(*c))


def test_patching_by_hand(measured):
    rows = able_outcomes()["patching"]
    layers = range(N_LAYERS + 1)
    for method in ("das", "mean_diff", "das3d"):
        for layer in layers:
            rec, flip = by_hand(cell(rows, "test", method, "corrected", layer))
            assert measured[f"patching.toy.{method}.layer{layer}.rec"].value == pytest.approx(rec)
            assert measured[f"patching.toy.{method}.layer{layer}.flip"].value == pytest.approx(flip)
    # The corrected layer is picked on the training words, the published one on the test words themselves.
    on_train = max(layers, key=lambda x: by_hand(cell(rows, "train", "das", "corrected", x))[0])
    on_test = max(layers, key=lambda x: by_hand(cell(rows, "test", "das", "published", x))[0])
    assert measured["patching.toy.das.layer"].value == on_train
    assert measured["patching.toy.das.published.layer"].value == on_test
    rec, flip = by_hand(cell(rows, "test", "das", "corrected", on_train))
    assert measured["patching.toy.das.rec"].value == pytest.approx(rec)
    random = [by_hand(cell(rows, "test", "random", "", on_train, d)) for d in range(3)]
    assert measured["patching.toy.random.rec"].value == pytest.approx(np.mean([r for r, _ in random]))
    assert measured["patching.toy.das.rec_effect"].value == pytest.approx(
        rec - np.mean([r for r, _ in random])
    )
    assert measured["patching.toy.das.flip_effect"].value == pytest.approx(
        flip - np.mean([f for _, f in random])
    )
    last = by_hand(cell(rows, "test", "das", "corrected", N_LAYERS))[0]
    assert measured["patching.toy.das.last_layer.rec"].value == pytest.approx(last)


def test_order_of_methods(measured):
    rows = able_outcomes()["patching"]

    def own(m):
        return measured[f"patching.toy.{m}.rec"].value

    others = {m: own(m) for m in ("mean_diff", "kmeans", "logistic", "pca")}
    worst = min([*others, "das"], key=own)
    at = int(measured[f"patching.toy.{worst}.layer"].value)
    random = np.mean([by_hand(cell(rows, "test", "random", "", at, d))[0] for d in range(3)])
    order = measured["patching.toy.order.all_minus_random"].value
    assert order == pytest.approx(own(worst) - random)
    best = measured["patching.toy.order.das_minus_best_other"].value
    assert best == pytest.approx(own("das") - max(others.values()))
    assert measured["patching.toy.das2d_minus_das"].value == pytest.approx(own("das2d") - own("das"))
    inner = {x: measured[f"patching.toy.mean_diff.layer{x}.rec"].value for x in range(N_LAYERS + 1)}
    expected = max(inner[1], inner[2]) - max(inner[0], inner[N_LAYERS])
    assert measured["patching.toy.inner_minus_outer"].value == pytest.approx(expected)


def test_a_subset_of_layers_is_measured():
    rows = able_outcomes()
    rows = {**rows, "patching": rows["patching"][rows["patching"]["layer"].isin([1, 3])]}
    found = measure(world_inputs(model=False, layers=[1, 3]), rows)
    assert found["patching.toy.das.rec"].value is not None
    assert found["patching.toy.inner_minus_outer"].value is None
    assert "no layer lies between" in found["patching.toy.inner_minus_outer"].reason
    assert found["directions.similarity.lowest"].value is not None


def test_without_prompts_to_pick_a_layer_on():
    rows = able_outcomes()
    patching = rows["patching"]
    found = measure(
        world_inputs(model=False), {**rows, "patching": patching[~patching["split"].isin(["dev"])]}
    )
    assert found["patching.classification.das.rec"].reason == "no dev prompts to pick the layer on"
    assert found["patching.toy.das.rec"].value is not None


# --- ablation ------------------------------------------------------------------------------------------------------


def ablated(direction, variant, where, frozen=False, operation="ablate") -> pd.DataFrame:
    rows = able_outcomes()["ablation"]
    return rows[
        (rows["operation"] == operation)
        & (rows["direction"] == direction)
        & (rows["variant"] == variant)
        & (rows["where"] == where)
        & (rows["frozen"] == frozen)
    ].sort_values(["draw", "prompt"])


def test_ablation_by_hand(measured):
    rows = able_outcomes()["ablation"]
    clean = rows[(rows["operation"] == "clean") & rows["kept"]].sort_values("prompt")["ld"].to_numpy(float)
    for variant in ("published", "corrected"):
        for where in ("all", "comma"):
            ld = ablated("das", variant, where)["ld"].to_numpy(float)
            random = ablated("random", variant, where)["ld"].to_numpy(float).reshape(3, -1)
            head = f"ablation.{variant}.das.{where}"
            lost = 100 * (1 - (ld > 0).mean()) / 0.5
            of_random = np.mean([100 * (1 - (x > 0).mean()) / 0.5 for x in random])
            assert measured[f"{head}.above_lost"].value == pytest.approx(lost)
            assert measured[f"{head}.effect"].value == pytest.approx(lost - of_random)
            assert measured[f"ablation.{variant}.random.{where}.above_lost"].value == pytest.approx(of_random)
            drop = 100 * (1 - ld.mean() / clean.mean())
            assert measured[f"{head}.ld_drop"].value == pytest.approx(drop)
            assert measured[f"{head}.accuracy"].value == pytest.approx((ld > 0).mean())
            drops = np.mean([100 * (1 - x.mean() / clean.mean()) for x in random])
            assert measured[f"{head}.ld_effect"].value == pytest.approx(drop - drops)
            for side, label in (("positive", 1), ("negative", 0)):
                mine = ablated("das", variant, where)
                right = (mine[mine["label"] == label]["ld"] > 0).mean()
                assert measured[f"{head}.accuracy.{side}"].value == pytest.approx(right)
    head = "ablation.published.das"
    share = measured[f"{head}.comma.above_lost"].value / measured[f"{head}.all.above_lost"].value
    assert measured[f"{head}.comma_share"].value == pytest.approx(share)
    less = measured[f"{head}.comma.ld_drop"].value - measured[f"{head}.random_token.ld_drop"].value
    assert measured[f"{head}.comma_minus_random_token"].value == pytest.approx(less)


def test_counts_and_clean(measured):
    rows = able_outcomes()["ablation"]
    clean = rows[rows["operation"] == "clean"]
    assert measured["ablation.counts.all"].value == len(clean)
    passed = ((clean["ld"] > 0) & clean["top10"].astype(bool)).sum()
    assert measured["ablation.counts.pass"].value == passed
    kept = clean[clean["kept"]]
    assert measured["ablation.counts.kept"].value == len(kept)
    assert measured["ablation.counts.negatives"].value == (kept["label"] == 0).sum()
    negatives = kept[kept["label"] == 0]["ld"].mean()
    assert measured["ablation.clean.ld.negative"].value == pytest.approx(negatives, rel=1e-6)
    assert measured["ablation.clean.accuracy_unselected"].value == pytest.approx((clean["ld"] > 0).mean())


def test_too_few_kept_reviews_are_said():
    rows = able_outcomes()
    ablation = rows["ablation"]
    ids = ablation[ablation["kept"]]["prompt"].unique()[:10]
    kept = ablation["prompt"].isin(ids)
    few = ablation[kept | (ablation["operation"] == "clean")].assign(kept=lambda x: x["prompt"].isin(ids))
    found = measure(world_inputs(model=False), {**rows, "ablation": few})
    assert found["ablation.published.das.all.effect"].reason == "10 reviews are kept"
    assert found["ablation.counts.kept"].value == 10


def test_a_place_no_review_has_is_missing_not_zero():
    rows = able_outcomes()
    ablation = rows["ablation"]
    found = measure(world_inputs(model=False), {**rows, "ablation": ablation[ablation["where"] != "name"]})
    assert found["ablation.corrected.das.name.ld_drop"].value is None
    assert found["ablation.corrected.das.polar.ld_drop"].value is not None


# --- mood ----------------------------------------------------------------------------------------------------------


def test_mood_by_hand(measured):
    rows = able_outcomes()["mood"]

    def change(group, filler=0, layers="all", frozen=True):
        c = rows[
            (rows["group"] == group)
            & (rows["filler"] == filler)
            & (rows["layers"] == layers)
            & (rows["frozen"] == frozen)
        ]
        clean = c["ld_clean"].to_numpy(float).mean()
        return 100 * (c["ld_patched"].to_numpy(float).mean() - clean) / clean

    assert measured["mood.comma.all.change"].value == pytest.approx(change("comma"))
    assert measured["mood.phrase.upper.change"].value == pytest.approx(change("phrase", layers="upper"))
    assert measured["mood.comma.all.change.free"].value == pytest.approx(change("comma", frozen=False))
    assert measured["mood.comma.all.change.filler10"].value == pytest.approx(change("comma", 10))
    ratio = {x: change("punctuation", x) / change("phrase", x) for x in (0, 10, 18, 22)}
    for filler, value in ratio.items():
        assert measured[f"mood.distance.ratio.{filler}"].value == pytest.approx(value)
    assert measured["mood.distance.increase"].value == pytest.approx(ratio[22] - ratio[0])


# --- circuit -------------------------------------------------------------------------------------------------------


def circuit_rows(sets, clean=2.0, n=8) -> pd.DataFrame:
    """Outcomes of sets of heads, each a list of patched LDs by draw; clean 2, corrupted -2 and no direct effects."""
    out = []
    for kind, draws in sets.items():
        for draw, patched in enumerate(draws):
            for i in range(n):
                out.append((kind, "test", -1, -1, draw, i, clean, -clean, patched[i % len(patched)]))
    for head in range(N_HEADS):
        out += [("direct", "test", 0, head, 0, i, clean, -clean, -clean + 0.1 * head) for i in range(n)]
    names = ["kind", "split", "layer", "head", "draw", "prompt", "ld_clean", "ld_corrupted", "ld_patched"]
    return pd.DataFrame(out, columns=names)


def test_flips_of_a_circuit_are_literal():
    """Protocol 4.7: the share of patched LDs on the side of the mean clean LD, uncentred."""
    rows = circuit_rows(
        {"circuit": [[1.0, 1.0, 1.0, -1.0]], "complement": [[-1.0, 1.0]], "random": [[-2.0], [0.0]]}
    )
    found = circuit(rows, OPTIONS)
    assert found["circuit.circuit.flip"].value == 75
    assert found["circuit.complement.flip"].value == 50
    assert found["circuit.circuit_minus_complement.flip"].value == 25
    assert found["circuit.circuit.rec"].value == pytest.approx(100 * (0.5 + 2) / 4)
    # Draws of 0 % and 50 %.
    assert found["circuit.random.rec"].value == pytest.approx(25)
    assert found["circuit.circuit_minus_random.rec"].value == pytest.approx(62.5 - 25)


def test_a_circuit_that_does_everything_flips_everything():
    rows = circuit_rows({"circuit": [[2.0]], "complement": [[-2.0]], "random": [[-2.0]]})
    found = circuit(rows, OPTIONS)
    assert found["circuit.circuit.flip"].value == 100
    assert found["circuit.complement.flip"].value == 0
    assert found["circuit.random.rec"].value == 0


def test_top5_share():
    effects = np.zeros((6, 3))
    effects[:, 0] = [5, -4, 3, 2, 1, 1]
    assert _top5(effects * 3) == pytest.approx(100 * 15 / 16)


# --- negation and steering -----------------------------------------------------------------------------------------


def negation_rows(sizes, mean=0.2, n_layers=12, method="kmeans", draw=0) -> list[tuple]:
    """Texts whose cosine moves by `sizes` of the way from a1 = 0.6 to twice the mean's distance."""
    rows = []
    for name, prompts in sizes.items():
        for i, size in enumerate(prompts):
            late = 0.6 + 2 * size * (mean - 0.6)
            for layer in range(n_layers + 1):
                # Only layers 1 and 10 of twelve count.
                value = {1: 0.6, 10: late}.get(layer, 99.0)
                rows.append((method, draw, i, name, layer, value, mean, 0.1))
    return rows


def test_negation_follows_the_protocols_formula():
    """flip = 0.5 (a10 - a1) / (m - a1); its share above 0 and its median."""
    rows = negation_rows({"negated": [0.25, 0.75, -0.5, 0.1], "plain": [-0.1, -0.1, -0.1, 0.2]})
    for draw in range(2):
        rows += negation_rows({"negated": [-1.0, 1.0, -1.0, [-1.0, 1.0][draw]]}, method="random", draw=draw)
    names = ["method", "draw", "prompt", "set", "layer", "cosine", "mean", "sd"]
    found = negation(pd.DataFrame(rows, columns=names), "kmeans", OPTIONS)
    assert found["negation.kmeans.share"].value == 0.75
    assert found["negation.kmeans.share_plain"].value == 0.25
    assert found["negation.kmeans.crossed"].value == 0.25
    assert found["negation.kmeans.median"].value == pytest.approx(0.175)
    assert found["negation.random.share"].value == pytest.approx((0.25 + 0.5) / 2)
    assert found["negation.fitted.share_effect"].value == pytest.approx(0.75 - 0.375)


def test_negation_without_a_mean_is_missing():
    rows = negation_rows({"negated": [0.5] * 3}, mean=float("nan"))
    names = ["method", "draw", "prompt", "set", "layer", "cosine", "mean", "sd"]
    found = negation(pd.DataFrame(rows, columns=names), "kmeans", OPTIONS)
    assert found["negation.fitted.share"].value is None
    assert "no reviews" in found["negation.fitted.share"].reason


def steering_rows(effects) -> pd.DataFrame:
    """Ten samples per strength; (method, draw) -> share of positive words by strength."""
    rows = []
    for (method, draw), shares in effects.items():
        for c, positive in zip((-2.0, -1.0, 0.0, 1.0, 2.0), shares, strict=True):
            rows += [
                (0, method, draw, c, i, positive, 4 - positive, positive, 4 - positive) for i in range(10)
            ]
    names = [
        "prompt",
        "method",
        "draw",
        "coefficient",
        "sample",
        "positive",
        "negative",
        "new_positive",
        "new_negative",
    ]
    return pd.DataFrame(rows, columns=names)


def test_steering_by_hand():
    rows = steering_rows(
        {("kmeans", 0): [0, 1, 2, 3, 4], ("random", 0): [2, 2, 2, 2, 2], ("random", 1): [4, 3, 2, 1, 0]}
    )
    found = steering(rows, OPTIONS)
    for tail in ("", "_new"):
        assert found[f"steering.fitted.spearman{tail}"].value == pytest.approx(1)
        # Nothing to rank in the first draw, the wrong way round in the second.
        assert found[f"steering.random.spearman{tail}"].value == pytest.approx(-0.5)
        # Scores -1, -0.5, 0, 0.5, 1: upper half 0.75, lower half -0.75.
        assert found[f"steering.fitted.swing{tail}"].value == pytest.approx(1.5)
        assert found[f"steering.random.swing{tail}"].value == pytest.approx(-0.75)
        # A random direction's size counts, not its sign.
        assert found[f"steering.fitted.swing_effect{tail}"].value == pytest.approx(1.5 - 0.75)
        assert found[f"steering.fitted.score{tail}.-2"].value == -1


def test_rank_correlation_and_swing_keep_draws_apart():
    scores = np.stack([[1.0, 2, 3, 4], [4, 3, 2, 1]]).reshape(8, 1)
    assert _rank_correlation(scores, np.arange(4.0)) == pytest.approx([1, -1])
    assert _swing(scores, 4) == pytest.approx([2, -2])
    assert _swing(np.array([[0.0], [9.0], [2.0]]), 3) == pytest.approx([2])


# --- directions ----------------------------------------------------------------------------------------------------


def test_directions_by_hand(measured):
    inputs = world_inputs(model=False)
    d = {m: inputs.directions[m]["corrected/1"].astype(float) for m in ("das", "kmeans")}
    cosine = abs(d["das"] @ d["kmeans"]) / np.linalg.norm(d["das"]) / np.linalg.norm(d["kmeans"])
    assert measured["directions.cosine.das.kmeans.1"].value == pytest.approx(cosine, abs=1e-6)
    assert measured["directions.cosine.kmeans.das.1"] == measured["directions.cosine.das.kmeans.1"]
    compared = ("mean_diff", "kmeans", "logistic", "pca", "das")
    lowest = {
        layer: min(
            measured[f"directions.cosine.{a}.{b}.{layer}"].value for a in compared for b in compared if a != b
        )
        for layer in (0, 1)
    }
    assert measured["directions.similarity.lowest"].value == pytest.approx(max(lowest.values()))


def test_accuracy_on_unseen_words(measured):
    inputs = world_inputs(model=False)
    train, test = (toy(world_prompts()["toy"], s) for s in ("train", "test"))
    d = inputs.directions["kmeans"]["corrected/1"].astype(float)
    x, y = (
        inputs.dumps["toy"].at("adj", [p.id for p in part], 1).astype(float) @ d for part in (train, test)
    )
    label = np.array([p.label for p in train])
    middle = (x[label == 1].mean() + x[label == 0].mean()) / 2
    right = np.mean((y > middle) == np.array([p.label for p in test]))
    assert measured["directions.accuracy.kmeans.layer1"].value == pytest.approx(100 * right)
    at = measured["directions.similarity.layer"].value
    assert measured["directions.accuracy.kmeans"] == measured[f"directions.accuracy.kmeans.layer{at}"]
    assert "directions.accuracy.das_all" not in named()
    lowest = min(
        measured[f"directions.accuracy.{m}"].value for m in ("mean_diff", "kmeans", "logistic", "pca", "das")
    )
    assert measured["directions.accuracy.lowest"].value == lowest
    # Random words have no class to read: shuffled labels leave accuracy near one half (control C5).
    assert 40 < measured["directions.accuracy.shuffled"].value < 60


def test_too_few_words_silence_the_directions():
    inputs = world_inputs(model=False)
    few = {**inputs.prompts, "toy": [p for p in inputs.prompts["toy"] if p.extra["rank"] < 2]}
    nothing = {m: {} for m in (*METHODS, "random")}
    found = measure(replace(inputs, prompts=few, directions=nothing), unable_outcomes())
    assert "single tokens" in found["directions.similarity.lowest"].reason
    assert found["directions.accuracy.pca"].value is None
    assert {name for name in named() if name not in found} == set()


def test_usable_prompts_are_counted(measured):
    for name, prompts in world_prompts().items():
        assert measured[f"usable.{name}"].value == 1
        assert measured[f"usable.{name}"].n == len(prompts)
