"""Experiments on tiny random models, against answers known beforehand or worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from sentiment_models import (
    D_MODEL,
    N_HEADS,
    N_LAYERS,
    SETTINGS,
    STUDY,
    world_directions,
    world_inputs,
    world_prompts,
)

from bearings.lm import weights
from bearings.lm.edits import ResidualEdit, patch_along
from bearings.lm.forward import forward
from bearings.stages.batch import logit_difference, make_batch
from bearings.stages.inputs import Inputs
from bearings.stages.prompts import Prompt
from bearings.studies.sentiment import ablation as ablations
from bearings.studies.sentiment import circuit as circuits
from bearings.studies.sentiment import intervene, mood, readings
from bearings.studies.sentiment.common import METHODS, corrupted, toy, unit
from bearings.studies.sentiment.steering import steering

FAMILIES = ("gpt_neo", "llama")
LAYERS = range(N_LAYERS + 1)
# Logits of these models are of order 1 to 10; fp32 sums in another order differ by some 1e-6 of that.
CLOSE = {"rtol": 1e-3, "atol": 2e-4}


@pytest.fixture(scope="module", params=FAMILIES)
def inputs(request) -> Inputs:
    return world_inputs(request.param)


def ld(inputs, batch, clean, edits=()) -> np.ndarray:
    """LDs of a batch against the answers of `clean`."""
    got = forward(inputs.model, batch.prepared, edits=edits, rows=clean.rows, columns=clean.columns).logits
    return (logit_difference(got) * clean.sign).numpy()


def with_directions(inputs: Inputs, **directions) -> Inputs:
    return replace(inputs, directions={**inputs.directions, **directions})


def zeros() -> dict[str, np.ndarray]:
    return {
        f"{v}/{layer}": np.zeros(D_MODEL, np.float32) for v in ("published", "corrected") for layer in LAYERS
    }


def test_manifest_and_experiments_agree():
    manifest = yaml.safe_load((STUDY / "claims.yaml").read_text())["manifest"]
    assert sorted(manifest["experiments"]) == sorted(intervene.EXPERIMENTS)
    assert sorted(manifest["sets"]) == sorted(world_prompts())
    assert set(manifest["dumps"]) <= set(manifest["sets"])
    for name, positions in manifest["dumps"].items():
        there = {x for p in world_prompts()[name] for x in p.positions}
        assert set(positions) <= there


def test_every_set_of_the_world_is_usable():
    for name, prompts in world_prompts().items():
        assert [p.why for p in prompts if not p.usable] == [], name
        assert len({p.id for p in prompts}) == len(prompts)


# --- patching ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def patched(inputs) -> pd.DataFrame:
    return intervene.intervene("patching", inputs).to_pandas()


def test_a_full_patch_is_the_clean_run(patched):
    """Control C7, at every layer and in every set, because the pairs are equally long."""
    full = patched[patched["method"] == "full"]
    assert sorted(full["layer"].unique()) == list(LAYERS)
    np.testing.assert_allclose(full["ld_patched"], full["ld_clean"], **CLOSE)
    # The partners do differ, or the equality would say nothing.
    assert (full["ld_clean"] - full["ld_corrupted"]).abs().median() > 0.05


def test_swapped_partners_mirror_each_other(patched):
    """In a swapped pair the corrupted run is the partner's clean run, read against the opposite answers."""
    mine = patched[
        (patched["set"] == "continuation") & (patched["split"] == "test") & (patched["method"] == "full")
    ]
    rows = mine[mine["layer"] == 0]
    assert len(rows) == SETTINGS["review_pairs"]
    np.testing.assert_allclose(
        rows["ld_corrupted"].to_numpy()[0::2], -rows["ld_clean"].to_numpy()[1::2], **CLOSE
    )
    np.testing.assert_allclose(
        rows["ld_corrupted"].to_numpy()[1::2], -rows["ld_clean"].to_numpy()[0::2], **CLOSE
    )
    assert rows["label"].tolist() == [1, 0] * (len(rows) // 2)


def test_rotated_partners_are_the_next_prompt(patched):
    rows = patched[(patched["set"] == "toy") & (patched["split"] == "test") & (patched["method"] == "full")]
    rows = rows[rows["layer"] == 0]
    assert rows["prompt"].tolist() == [p.id for p in toy(world_prompts()["toy"], "test")]
    following = -np.roll(rows["ld_clean"].to_numpy(), -1)
    np.testing.assert_allclose(rows["ld_corrupted"], following, **CLOSE)


def test_patching_along_a_direction_equals_a_whole_edited_pass(patched, inputs):
    prompts = toy(world_prompts()["toy"], "test")[:4]
    clean, other = make_batch(inputs.model, prompts), make_batch(inputs.model, prompts[1:] + prompts[:1])
    for layer in (0, 1, N_LAYERS):
        source = forward(inputs.model, clean.prepared, keep=[layer]).resid[layer]
        for method, variant, draw, key in (
            ("das", "published", 0, "published"),
            ("das2d", "corrected", 0, "corrected"),
            ("mean_diff", "corrected", 0, "corrected"),
            ("random", "", 2, "2"),
        ):
            d = torch.from_numpy(unit(inputs.directions[method], key, layer))
            by_hand = ld(inputs, other, clean, [ResidualEdit(layer, patch_along(d, source))])
            cell = patched[
                (patched["set"] == "toy")
                & (patched["split"] == "test")
                & (patched["layer"] == layer)
                & (patched["method"] == method)
                & (patched["variant"] == variant)
                & (patched["draw"] == draw)
            ].set_index("prompt")["ld_patched"]
            # The last of these four has another partner in the whole list.
            np.testing.assert_allclose(cell.loc[[p.id for p in prompts[:3]]], by_hand[:3], **CLOSE)


def test_patching_covers_every_way_once(patched):
    keys = ["set", "split", "layer", "method", "variant", "draw", "prompt"]
    assert not patched.duplicated(keys).any()
    assert set(patched["method"]) == {"full", "random", *METHODS}
    cells = patched.groupby(["set", "split", "layer"]).size()
    assert cells.groupby(level=[0, 1]).nunique().eq(1).all()
    # full + four closed forms and DAS twice, three spans or masks once, three random draws.
    ways = 1 + 2 * 5 + 3 + 3
    assert cells["toy", "test", 0] == ways * len(toy(world_prompts()["toy"], "test"))


# --- ablation ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reviews() -> list[Prompt]:
    return [p for p in world_prompts()["reviews"] if p.usable and p.extra["scaffold"] == "ablation"]


def editing(inputs, condition, reviews):
    batch = make_batch(inputs.model, reviews)
    places = ablations._places(batch, 0)
    return batch, ablations._edits(inputs, condition, places, {}, batch)


@pytest.mark.parametrize("direction", ["das", "das_all", "mean_diff", "random"])
@pytest.mark.parametrize("variant", ["published", "corrected"])
def test_the_layer_a_vector_is_applied_at(inputs, reviews, direction, variant):
    """As published, vector i acts at the output of block i, so never on the embedding; corrected, where fitted."""
    condition = ablations.Condition("ablate", direction, variant, "all", draw=1)
    _, edits = editing(inputs, condition, reviews[:2])
    shift = 1 if variant == "published" else 0
    assert [e.layer for e in edits] == list(range(shift, N_LAYERS + 1))
    for e in edits:
        layer = e.layer - shift
        if direction == "random":
            key = "1"
        elif direction == "das_all" or variant == "corrected":
            key = "corrected"
        else:
            key = "published"
        d = torch.from_numpy(unit(inputs.directions[direction], key, layer))
        assert e.function(d).norm() < 1e-6
        others = [unit(inputs.directions[direction], key, x) for x in LAYERS if x != layer]
        assert min(e.function(torch.from_numpy(o)).norm() for o in others) > 1e-3


def test_ablating_leaves_nothing_along_the_direction(inputs, reviews):
    batch, edits = editing(inputs, ablations.Condition("ablate", "das", "corrected", "all"), reviews[:8])
    resid = forward(inputs.model, batch.prepared, edits=edits, keep=LAYERS).resid
    for layer in LAYERS:
        d = torch.from_numpy(unit(inputs.directions["das"], "corrected", layer))
        x = resid[layer][batch.mask]
        # Relative to the residual's own length: C7 asks for 1e-5.
        assert ((x @ d).abs() / x.norm(dim=-1)).max() < 1e-5
    # Twice is once.
    again = forward(inputs.model, batch.prepared, edits=[*edits, *edits], keep=[N_LAYERS]).resid[N_LAYERS]
    torch.testing.assert_close(again, resid[N_LAYERS], rtol=1e-4, atol=1e-5)


def test_positions_before_the_first_comma_keep_their_bits(inputs, reviews):
    chosen = [p for p in reviews if "comma" in p.positions][:6]
    batch, edits = editing(inputs, ablations.Condition("ablate", "das", "corrected", "comma"), chosen)
    plain = forward(inputs.model, batch.prepared, keep=LAYERS).resid
    edited = forward(inputs.model, batch.prepared, edits=edits, keep=LAYERS).resid
    commas = batch.at("comma")
    before = (commas.long().cumsum(1) == 0) & batch.mask
    for layer in LAYERS:
        assert torch.equal(plain[layer][before], edited[layer][before])
    assert not torch.equal(plain[0][commas], edited[0][commas])
    # At layer 0 nothing but the commas themselves is touched.
    assert torch.equal(plain[0][~commas], edited[0][~commas])


def test_random_tokens_are_as_many_as_commas_and_none_of_them(inputs, reviews):
    batch = make_batch(inputs.model, reviews[:40])
    places = ablations._places(batch, 0)
    assert torch.equal(places["random_token"].sum(1), places["comma"].sum(1))
    assert places["comma"].any()
    assert not (places["random_token"] & places["comma"]).any()
    assert not (places["random_token"] & ~batch.at("sentence")).any()
    # The same tokens whatever the batch, others for another seed.
    alone = make_batch(inputs.model, reviews[:1])
    mine = ablations._places(alone, 0)["random_token"][0]
    assert torch.equal(mine, places["random_token"][0, -len(mine) :])
    assert not torch.equal(ablations._places(batch, 1)["random_token"], places["random_token"])
    assert torch.equal(places["all"], batch.mask)


def test_balanced_keeps_the_whole_smaller_class(reviews):
    clean = {p.id: (1.0, True) for p in reviews}
    wrong, hidden = [p for p in reviews if "comma" in p.positions][:2]
    clean[wrong.id] = (-0.5, True)
    clean[hidden.id] = (0.5, False)
    positive = [p for p in reviews if p.label == 1]
    for p in positive[: len(positive) // 3]:
        clean[p.id] = (0.0, True)
    kept = ablations.balanced(reviews, clean, 0)
    good = [p for p in reviews if clean[p.id] == (1.0, True) and "comma" in p.positions]
    sides = {k: [p for p in good if p.label == k] for k in (0, 1)}
    assert len(sides[1]) < len(sides[0])
    assert [p for p in kept if p.label == 1] == sides[1]
    assert {p.id for p in kept if p.label == 0} <= {p.id for p in sides[0]}
    assert sum(p.label for p in kept) * 2 == len(kept) == 2 * len(sides[1])
    assert kept == ablations.balanced(reviews, clean, 0)
    assert kept != ablations.balanced(reviews, clean, 1)
    assert [p.id for p in kept] == sorted(p.id for p in kept)
    assert ablations.balanced(reviews, {p.id: (-1.0, True) for p in reviews}, 0) == []


def test_the_filter_reads_the_right_answer_at_any_position(inputs, reviews):
    found = ablations._clean(inputs, reviews[:12])
    for p in reviews[:12]:
        batch = make_batch(inputs.model, [p])
        logits = forward(inputs.model, batch.prepared, rows="all").logits[0]
        right = p.positive[0] if p.label else p.negative[0]
        wrong = p.negative[0] if p.label else p.positive[0]
        assert found[p.id][0] == pytest.approx(float(logits[-1, right] - logits[-1, wrong]), abs=2e-4)
        rank = (logits > logits[:, right : right + 1]).sum(1)
        assert found[p.id][1] == bool((rank < ablations.TOP).any())


@pytest.fixture(scope="module")
def ablated(inputs):
    """The experiment with two directions that are nothing, so that what must not move can be seen not to."""

    def some(reviews, clean, seed):
        """A random model is right by chance and mostly on one class: keep reviews of both, right or not."""
        commas = [p for p in reviews if "comma" in p.positions]
        chosen = [p for label in (0, 1) for p in [q for q in commas if q.label == label][:8]]
        return sorted(chosen, key=lambda p: p.id)

    patch = pytest.MonkeyPatch()
    patch.setattr(ablations, "balanced", some)
    random = {f"{draw}/{layer}": np.zeros(D_MODEL, np.float32) for draw in range(3) for layer in LAYERS}
    made = with_directions(inputs, das_all=zeros(), random=random)
    table = ablations.ablation(made).to_pandas()
    patch.undo()
    return table


def test_ablating_nothing_is_the_clean_run(ablated):
    clean = ablated[ablated["operation"] == "clean"].set_index("prompt")["ld"]
    for direction in ("das_all", "random"):
        nothing = ablated[(ablated["operation"] == "ablate") & (ablated["direction"] == direction)]
        assert nothing["frozen"].any() or direction == "random"
        # Frozen attention with no other edit is the clean run too.
        np.testing.assert_allclose(nothing["ld"], clean.loc[nothing["prompt"]], **CLOSE)
    some = ablated[(ablated["direction"] == "das") & (ablated["where"] == "all")]
    assert (some["ld"].to_numpy() - clean.loc[some["prompt"]].to_numpy()).std() > 0.01


def test_every_condition_holds_the_kept_reviews_once(ablated, reviews):
    clean = ablated[ablated["operation"] == "clean"]
    assert sorted(clean["prompt"]) == sorted(p.id for p in reviews)
    kept = clean[clean["kept"]]
    assert len(kept) == 16
    assert kept["comma"].all()
    assert (kept["label"] == 1).sum() * 2 == len(kept)
    done = ablated[ablated["operation"] != "clean"]
    cells = done.groupby(["operation", "direction", "variant", "where", "frozen", "draw"])
    assert (cells["prompt"].apply(sorted).map(tuple) == tuple(sorted(kept["prompt"]))).all()


def test_ablation_equals_a_pass_by_hand(ablated, inputs, reviews):
    ids = set(ablated[(ablated["operation"] == "clean") & ablated["kept"]]["prompt"])
    chosen = [p for p in reviews if p.id in ids][:3]
    assert len(chosen) == 3
    for p in chosen:
        batch = make_batch(inputs.model, [p])
        d = [torch.from_numpy(unit(inputs.directions["das"], "published", layer)) for layer in LAYERS]

        def out(x, v):
            return x - (x @ v)[..., None] * v

        where = batch.at("comma")
        edits = [ResidualEdit(i + 1, lambda x, v=d[i]: out(x, v), where) for i in range(N_LAYERS)]
        cell = ablated[
            (ablated["direction"] == "das")
            & (ablated["variant"] == "published")
            & (ablated["where"] == "comma")
            & ~ablated["frozen"]
            & (ablated["prompt"] == p.id)
        ]
        assert cell["ld"].item() == pytest.approx(ld(inputs, batch, batch, edits)[0], rel=1e-3, abs=2e-4)


def test_means_are_over_the_kept_commas(inputs, reviews):
    chosen = [p for p in reviews if "comma" in p.positions][:10]
    assert {p.label for p in chosen} == {0, 1}
    means = ablations._means(inputs, chosen)
    rows: dict[int, list[torch.Tensor]] = {0: [], 1: []}
    for p in chosen:
        resid = forward(inputs.model, make_batch(inputs.model, [p]).prepared, keep=[2]).resid[2][0]
        rows[p.label] += [resid[at] for at in p.positions["comma"]]
    for side in (0, 1):
        torch.testing.assert_close(
            means["comma", 2, side], torch.stack(rows[side]).mean(0), rtol=1e-3, atol=1e-4
        )
    everything = torch.stack(rows[0] + rows[1]).mean(0)
    torch.testing.assert_close(means["comma", 2, "both"], everything, rtol=1e-3, atol=1e-4)


def test_mean_ablation_puts_the_other_class_there(inputs, reviews):
    chosen = [p for p in reviews if "comma" in p.positions][:10]
    means = ablations._means(inputs, chosen)
    batch = make_batch(inputs.model, chosen)
    places = ablations._places(batch, 0)
    for direction in ("own", "opposite"):
        condition = ablations.Condition("mean", direction, "published", "comma")
        edits = ablations._edits(inputs, condition, places, means, batch)
        assert [e.layer for e in edits] == list(range(1, N_LAYERS + 1))
        resid = forward(inputs.model, batch.prepared, edits=edits, keep=LAYERS).resid
        for layer in range(1, N_LAYERS + 1):
            for i, p in enumerate(chosen):
                theirs = means["comma", layer, "both" if direction == "own" else 1 - p.label]
                there = resid[layer][i, batch.at("comma")[i]]
                torch.testing.assert_close(there, theirs.expand_as(there))


def test_a_place_that_no_review_has_is_no_condition(reviews):
    """Its outcomes would be the clean ones, and a measure would call them a loss of nothing."""
    nameless = [p for p in reviews if "name" not in p.positions]
    assert nameless
    for where, possible in (("name", False), ("all", True), ("random_token", True), ("comma", True)):
        condition = ablations.Condition("ablate", "das", "corrected", where)
        assert ablations._possible(condition, nameless) is possible
    assert ablations._possible(ablations.Condition("ablate", "das", "corrected", "name"), reviews)


def test_no_reviews_no_rows(inputs):
    nothing = replace(inputs, prompts={**inputs.prompts, "reviews": []})
    assert ablations.ablation(nothing).num_rows == 0


def test_nothing_survives_the_filter(inputs, monkeypatch):
    monkeypatch.setattr(ablations, "balanced", lambda *a: [])
    found = ablations.ablation(inputs).to_pandas()
    assert set(found["operation"]) == {"clean"}
    assert not found["kept"].any()


# --- mood ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stories(inputs) -> pd.DataFrame:
    return mood.mood(inputs).to_pandas()


def test_stories_are_read_both_ways(stories):
    one = stories[(stories["group"] == "phrase") & (stories["layers"] == "all") & stories["frozen"]]
    for _, cell in one.groupby("filler"):
        assert cell["label"].tolist() == [1, 0] * (len(cell) // 2)
        clean, other = (cell[c].to_numpy() for c in ("ld_clean", "ld_corrupted"))
        np.testing.assert_allclose(other[0::2], -clean[1::2], **CLOSE)
        np.testing.assert_allclose(other[1::2], -clean[0::2], **CLOSE)
    keys = ["group", "layers", "frozen", "filler", "prompt"]
    assert not stories.duplicated(keys).any()
    assert sorted(one["filler"].unique()) == [0, 10, 18, 22]


def test_values_of_the_same_story_change_nothing(inputs, monkeypatch):
    """A story patched with its own values, attention held or free, is the clean run."""
    own = {}
    for p in world_prompts()["mood"]:
        own.setdefault(p.extra["story"], p)
    twins = [x for p in own.values() for x in (p, p)]
    monkeypatch.setattr(mood, "_stories", lambda _: iter([(0, [(p, p) for p in twins[:4]])]))
    found = mood.mood(inputs).to_pandas()
    assert set(found["frozen"]) == {True, False}
    np.testing.assert_allclose(found["ld_patched"], found["ld_clean"], **CLOSE)


def test_all_values_and_the_flipped_attention_are_the_flipped_story(inputs, monkeypatch):
    """With every value and every pattern of the flipped story the last token, the same in both, sees nothing else."""
    real = mood.patterns
    flipped = []

    def theirs(model, prepared):
        return real(model, flipped[0])

    pairs = next(mood._stories(world_prompts()["mood"]))[1]
    flipped.append(make_batch(inputs.model, [o for _, o in pairs]).prepared)
    names = {n for c, _ in pairs for n in c.positions}
    everything = [
        replace(p, positions={**p.positions, "every": tuple(range(len(p.ids)))})
        for c, o in pairs
        for p in (c, o)
    ]
    assert "end" in names
    again = list(zip(everything[0::2], everything[1::2], strict=True))
    monkeypatch.setattr(mood, "_stories", lambda _: iter([(0, again)]))
    monkeypatch.setattr(mood, "GROUPS", {"every": ("every",)})
    monkeypatch.setattr(mood, "patterns", theirs)
    found = mood.mood(inputs).to_pandas()
    whole = found[(found["layers"] == "all") & found["frozen"]]
    np.testing.assert_allclose(whole["ld_patched"], whole["ld_corrupted"], **CLOSE)
    assert (whole["ld_clean"] - whole["ld_corrupted"]).abs().max() > 0.01


def test_unequal_twins_are_left_out():
    a, b = world_prompts()["mood"][:2]
    assert a.extra["story"] == b.extra["story"]
    longer = replace(b, ids=(*b.ids, 5))
    assert list(mood._stories([a, longer])) == []
    assert list(mood._stories([a, replace(b, usable=False)])) == []
    assert [(f, [(x.id, y.id) for x, y in p]) for f, p in mood._stories([a, b])] == [
        (0, [(a.id, b.id), (b.id, a.id)])
    ]


# --- circuit -------------------------------------------------------------------------------------------------------

HEADS = [(layer, head) for layer in range(N_LAYERS) for head in range(N_HEADS)]


@pytest.fixture(scope="module")
def run(inputs) -> circuits._Run:
    return circuits._Run(inputs, "test")


def test_all_heads_clean_is_the_clean_run(run):
    """The last token is the same in clean and corrupted prompts, so all it knows of the words came by heads."""
    np.testing.assert_allclose(run.patched(HEADS, "all"), run.ld_clean, **CLOSE)
    assert torch.equal(run.patched([], "all"), run.ld_other)
    assert (run.ld_clean - run.ld_other).abs().max() > 0.01


def test_a_head_patched_where_nothing_differs_does_nothing(run):
    """Before the adjective both prompts are the same text."""
    before = torch.zeros_like(run.other.mask)
    before[:, : int(run.clean.index("adj").min())] = True
    run_where, run._where = run._where, lambda name: before
    try:
        np.testing.assert_allclose(run.patched(HEADS, "before"), run.ld_other, **CLOSE)
    finally:
        run._where = run_where


def test_heads_sum_to_the_attention_output(run, inputs):
    for layer in range(N_LAYERS):
        name = f"blocks.{layer}.attn.hook_out"
        out = [forward(inputs.model, b.prepared, keep=[name]).hooks[name] for b in (run.clean, run.other)]
        whole = sum(run.difference(layer, head) for head in range(N_HEADS))
        torch.testing.assert_close(whole, out[0] - out[1], rtol=1e-3, atol=1e-4)


def test_direct_effect_by_hand(run, inputs):
    """The final residual plus the head's difference at the end, through norm and unembedding."""
    for layer, head in ((0, 1), (1, 3), (N_LAYERS - 1, 0)):
        z = [x[f"blocks.{layer}.attn.hook_z"][:, -1, head] for x in (run.z, run.z_other)]
        end = run.final[:, -1] + (z[0] - z[1]) @ weights.W_O(inputs.model, layer)[head]
        logits = inputs.model.bridge.unembed(inputs.model.bridge.ln_final(end[:, None]))[:, 0]
        picked = logits.gather(1, run.clean.columns)
        k = picked.shape[1] // 2
        by_hand = (picked[:, :k] - picked[:, k:]).mean(1) * run.clean.sign
        np.testing.assert_allclose(run.direct(layer, head), by_hand, **CLOSE)


def test_the_last_layer_acts_directly_or_through_its_mlp_only(inputs):
    """In the last block of a model with sequential blocks, patching a head at the end = direct effect + its MLP."""
    run = circuits._Run(inputs, "test")
    layer = N_LAYERS - 1
    direct, patch = run.direct(layer, 2), run.patched([(layer, 2)], "end")
    elsewhere = run.patched([(layer, 2)], "adj")
    np.testing.assert_allclose(elsewhere, run.ld_other, **CLOSE)
    assert (direct - run.ld_other).abs().max() > 1e-4
    assert (patch - run.ld_other).abs().max() > 1e-4


def test_attention_and_write(run, inputs):
    pattern = run.z["blocks.1.attn.hook_pattern"]
    for i, p in enumerate(run.clean.prompts):
        there = pattern[i, 2, p.at("sum")]
        assert run.attention(1, 2, "sum")[i] == pytest.approx(
            float(there[p.at("adj")] + there[p.at("verb")]), rel=1e-5, abs=1e-7
        )
    d = torch.from_numpy(unit(inputs.directions["kmeans"], "corrected", 2))
    at = run.clean.index("sum")[0]
    assert run.write(1, 2, "sum")[0] == pytest.approx(
        float(run.difference(1, 2)[0, at] @ d * run.clean.sign[0]), rel=1e-4, abs=1e-6
    )


def test_the_circuit_is_chosen_on_training_words(inputs):
    rows = circuits.circuit(inputs).to_pandas()
    assert set(rows["kind"]) == {"direct", "patch", "circuit", "complement", "random"}
    sets = rows[rows["kind"].isin(["circuit", "complement", "random"])]
    assert set(sets["split"]) == {"test"}
    direct = rows[(rows["kind"] == "direct") & (rows["split"] == "train")]
    size = (
        (direct["ld_patched"] - direct["ld_corrupted"])
        .groupby([direct["layer"], direct["head"]])
        .mean()
        .abs()
    )
    chosen = list(size.nlargest(SETTINGS["circuit_heads"]).index)
    run = circuits._Run(inputs, "test")
    circuit = sets[sets["kind"] == "circuit"]["ld_patched"].to_numpy()
    np.testing.assert_allclose(circuit, run.patched(sorted(chosen), "all"), **CLOSE)
    rest = [h for h in HEADS if h not in chosen]
    complement = sets[sets["kind"] == "complement"]["ld_patched"].to_numpy()
    np.testing.assert_allclose(complement, run.patched(rest, "all"), **CLOSE)
    assert sets[sets["kind"] == "random"]["draw"].nunique() == SETTINGS["random_draws"]
    few = replace(inputs, prompts={**inputs.prompts, "toy": []})
    assert circuits.circuit(few).num_rows == 0


# --- readings ------------------------------------------------------------------------------------------------------


def test_neurons_are_cosines_of_output_weights(inputs):
    rows = readings.neurons(inputs).to_pandas()
    d = unit(inputs.directions["kmeans"], "corrected", 1).astype(float)
    for layer in range(N_LAYERS):
        w = weights.W_out(inputs.model, layer).double().numpy()
        cosine = w @ d / np.linalg.norm(w, axis=1)
        cell = rows[(rows["layer"] == layer) & (rows["method"] == "kmeans")].sort_values("neuron")
        np.testing.assert_allclose(cell["cosine"], cosine, atol=1e-6)
        assert len(cell) == len(w)
    assert rows["cosine"].abs().max() <= 1
    assert rows[rows["method"] == "random"]["draw"].nunique() == SETTINGS["random_draws"]
    p = [p for p in toy(world_prompts()["toy"], "test") if p.label == 1]
    batch = make_batch(inputs.model, p)
    post = forward(inputs.model, batch.prepared, keep=["blocks.1.mlp.hook_post"]).hooks[
        "blocks.1.mlp.hook_post"
    ]
    mean = post[torch.arange(len(p)), batch.index("sum")].mean(0).numpy()
    cell = rows[(rows["layer"] == 1) & (rows["method"] == "kmeans")].sort_values("neuron")
    np.testing.assert_allclose(cell["positive"], mean, rtol=1e-3, atol=1e-4)


def test_negation_is_the_cosine_at_the_target(inputs):
    rows = readings.negation(inputs).to_pandas()
    d = unit(inputs.directions["das"], "corrected", 1)
    p = world_prompts()["negation"][3]
    resid = forward(inputs.model, make_batch(inputs.model, [p]).prepared, keep=LAYERS).resid
    for layer in LAYERS:
        x = resid[layer][0, p.at("target")].numpy()
        cell = rows[
            (rows["method"] == "das")
            & (rows["set"] == "negated")
            & (rows["prompt"] == p.id)
            & (rows["layer"] == layer)
        ]
        assert cell["cosine"].item() == pytest.approx(float(x @ d / np.linalg.norm(x)), abs=1e-5)
    assert not {"das2d", "das3d"} & set(rows["method"])
    assert set(rows[rows["set"] == "plain"]["prompt"]) == {p.id for p in toy(world_prompts()["toy"], "test")}


def test_spread_is_over_all_tokens_and_layers_but_the_last(inputs):
    d = torch.from_numpy(unit(inputs.directions["mean_diff"], "corrected", 1))
    mean, sd = readings._spread(inputs, d[None])
    found = []
    for p in world_prompts()["reviews"]:
        if p.extra["scaffold"] == "ablation" and p.split == "dev":
            batch = make_batch(inputs.model, [p])
            for x in forward(inputs.model, batch.prepared, keep=range(N_LAYERS)).resid.values():
                found += (x[0] @ d / x[0].norm(dim=-1)).tolist()
    assert mean.item() == pytest.approx(np.mean(found), abs=1e-5)
    assert sd.item() == pytest.approx(np.std(found), abs=1e-5)


# --- steering ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def steered(inputs) -> pd.DataFrame:
    return steering(inputs).to_pandas()


def test_strength_zero_gives_the_same_text_for_every_direction(steered):
    zero = steered[steered["coefficient"] == 0]
    texts = zero.groupby(["prompt", "sample"])["text"].nunique()
    assert len(texts) == SETTINGS["samples"]
    assert (texts == 1).all()
    strong = steered[steered["coefficient"] == 4]
    assert (strong.groupby(["prompt", "sample"])["text"].nunique() > 1).any()


def test_steered_texts_are_counted(steered):
    ways = 1 + SETTINGS["random_draws"]
    assert len(steered) == ways * len(SETTINGS["coefficients"]) * SETTINGS["samples"]
    judge = next(p for p in world_prompts()["steering"]).extra
    fitted = {p.extra["word"] for p in world_prompts()["toy"] if p.split == "train"}
    import re

    for _, row in steered.iterrows():
        words = re.findall(r"[a-z]+", row["text"].lower())
        assert row["positive"] == sum(w in set(judge["judge_positive"]) for w in words)
        assert row["new_negative"] == sum(w in set(judge["judge_negative"]) - fitted for w in words)
        assert row["new_positive"] <= row["positive"]


def test_steering_needs_a_direction_and_room(inputs):
    none = with_directions(inputs, kmeans={}, random={})
    assert steering(none).num_rows == 0
    p = world_prompts()["steering"][0]
    full = replace(p, ids=p.ids + (5,) * (inputs.model.info.n_ctx - len(p.ids)))
    assert steering(replace(inputs, prompts={**inputs.prompts, "steering": [full]})).num_rows == 0


def test_relative_strengths_are_shares_of_the_residual(inputs):
    """Strength c of relative steering is c times the mean residual: the same text as that length given outright."""
    length = float(np.linalg.norm(inputs.dumps["toy"].resid[1], axis=1).mean())
    relative = replace(
        inputs, settings={**inputs.settings, "relative": True, "coefficients": [-0.5, 0.0, 0.5]}
    )
    outright = replace(
        inputs, settings={**inputs.settings, "coefficients": [-0.5 * length, 0.0, 0.5 * length]}
    )
    assert steering(relative)["text"].to_pylist() == steering(outright)["text"].to_pylist()


def test_corrupted_and_world_directions_are_shared():
    prompts = toy(world_prompts()["toy"], "test")
    assert corrupted(corrupted(prompts))[0] is prompts[2]
    assert set(world_directions()) == {*METHODS, "random"}
