"""Patching along a feature and ranking tokens, against the plain transformers model and against definitions."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lm_models import D_MODEL, FAMILIES, N_LAYERS, RELATIVE, reference
from obsprop_models import SETTINGS, inputs, run_dump
from obsprop_outcomes import outcomes

from bearings.stages.inputs import Inputs
from bearings.studies.obsprop.debias import debias, divergence, feature, pairs_of
from bearings.studies.obsprop.measure_debias import measure, measure_tokens
from bearings.studies.obsprop.tokens import name_kinds, readers, tokens

OPTIONS = {"seed": 0, "resamples": 50}
DRAWS = SETTINGS["random_draws"]
CLOSE = 50 * RELATIVE  # differences of logits after four blocks, of runs that pad differently
BLOCKS_OF = {
    "gpt2": "transformer.h", "gpt_neo": "transformer.h", "gptj": "transformer.h",
    "gpt_neox": "gpt_neox.layers", "llama": "model.layers",
}  # fmt: skip


def with_path(family: str, path: str, **settings: Any) -> Inputs:
    """Inputs whose only path feature is a made-up one that ends as told."""
    made = inputs(family)
    v = np.random.default_rng(5).standard_normal(D_MODEL).astype(np.float32)
    paths = {f"n_bias.head/{path}/ignore": 3 * v, f"n_bias.head/{path}/scale": v[::-1].copy()}
    return replace(
        made, directions={**made.directions, "paths": paths}, settings={**SETTINGS, "top": 7, **settings}
    )


@cache
def patched(family: str, layer: int) -> pd.DataFrame:
    return debias(with_path(family, f"attn{layer}.1@2")).to_pandas()


def by_hand(family: str, male, layer: int, function) -> torch.Tensor:
    """Last logits [vocab] of the plain model with `function` on the name's residual in front of a block."""

    def hook(_, args, kwargs):
        x = (args[0] if args else kwargs["hidden_states"]).clone()
        x[0, male.at("name")] = function(x[0, male.at("name")])
        return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": x})

    network = reference(family)
    block = network.get_submodule(BLOCKS_OF[family])[layer]
    handle = block.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        with torch.no_grad():
            return network(torch.tensor([male.ids]), use_cache=False).logits[0, -1]
    finally:
        handle.remove()


def output(p, logits: torch.Tensor) -> float:
    return float(logits[list(p.positive)].sum() - logits[list(p.negative)].sum())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [0, 2])
def test_patches_are_those_of_the_plain_model(family, layer):
    made, table = with_path(family, f"attn{layer}.1@2"), patched(family, layer)
    pairs = pairs_of(made.prompts["names"])
    at = feature(made)
    vectors = {"unit": at.vector, "random.1": made.directions["random"][str(layer)][1]}
    for female, male in (pairs[0], pairs[-1]):
        # The female prompt's residual, from a plain run of it.
        kept = {}
        by_hand(family, female, layer, lambda x, kept=kept: kept.setdefault("x", x.clone()))
        plain = by_hand(family, male, layer, lambda x: x)
        for variant in ("unit", "double", "random.1", "whole"):
            times = 4 if variant == "double" else 1
            v = torch.from_numpy(np.asarray(vectors.get(variant, at.vector))).float()

            def edit(x, v=v, times=times, variant=variant, kept=kept):
                return kept["x"] if variant == "whole" else x + times * (v @ (kept["x"] - x)) * v

            logits = by_hand(family, male, layer, edit)
            row = table[(table["variant"] == variant) & (table["pair"] == male.extra["pair"])].iloc[0]
            scale = {"abs": CLOSE * logits.abs().max().item()}
            assert row["patched"] == pytest.approx(output(male, logits), **scale)
            assert row["negative"] == pytest.approx(output(male, plain), **scale)
            assert row["positive"] == pytest.approx(
                output(female, by_hand(family, female, layer, lambda x: x)), **scale
            )
            p, q = logits.double().log_softmax(-1), plain.double().log_softmax(-1)
            kl = torch.nn.functional.kl_div(q, p, log_target=True, reduction="sum").item()
            # KL is of first order in the rounding of logits that are up to some tens.
            assert row["kl_whole"] == pytest.approx(kl, rel=1e-3, abs=1e-4)
            words = {*male.positive, *male.negative}
            rest = [k for k in range(len(logits)) if k not in words]
            p, q = logits[rest].double().log_softmax(-1), plain[rest].double().log_softmax(-1)
            kl = torch.nn.functional.kl_div(q, p, log_target=True, reduction="sum").item()
            assert row["kl_others"] == pytest.approx(kl, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_in_front_of_the_first_block_the_whole_patch_is_the_other_prompt(family):
    table = patched(family, 0)
    whole = table[table["variant"] == "whole"]
    assert len(whole) == 8
    assert np.allclose(whole["patched"], whole["positive"], atol=CLOSE * whole["positive"].abs().max())
    # Deeper in, what came before the patch has already gone to other positions, or has not: not the same.
    later = patched(family, 2)
    later = later[later["variant"] == "whole"]
    assert not np.allclose(later["patched"], later["positive"], atol=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_patch_from_itself_changes_nothing(family):
    """With the male prompt's own residual in the female's place, every variant leaves the prompt as it was."""
    made = with_path(family, "attn2.1@2")
    females = {p.extra["pair"]: p for p, _ in pairs_of(made.prompts["names"])}
    same = [
        replace(p, ids=next(m.ids for f, m in pairs_of(made.prompts["names"]) if f.id == p.id))
        if p.extra["pair"] in females and p.id == females[p.extra["pair"]].id
        else p
        for p in made.prompts["names"]
    ]
    dump = run_dump(made.model, same, ("name", "bos", "end"))
    made = replace(made, prompts={**made.prompts, "names": same}, dumps={**made.dumps, "names": dump})
    table = debias(made).to_pandas()
    assert np.allclose(table["patched"], table["negative"], atol=CLOSE * table["negative"].abs().max())
    assert table["kl_whole"].abs().max() < 1e-6
    assert table["kl_others"].abs().max() < 1e-6


def test_one_row_per_pair_and_variant():
    table = patched("gpt_neo", 2)
    names = {"unit", "double", "whole", *(f"random.{k}" for k in range(DRAWS))}
    assert set(table["variant"]) == names
    assert (table.groupby(["variant", "pair"]).size() == 1).all()
    assert len(table) == 8 * len(names)
    assert table["kl_whole"].min() > 0
    assert np.isfinite(table["kl_others"]).all()


def test_batches_of_prompts_do_not_matter():
    """Prompts of different lengths in many batches: every column goes to its own pair."""
    made = with_path("gpt2", "attn2.1@2", max_tokens=9)
    long = [
        replace(p, ids=(*p.ids, 50, 51), positions={**p.positions, "end": (len(p.ids) + 1,)})
        if p.extra["task"] == "occ" and p.extra["template"] == 0
        else p
        for p in made.prompts["names"]
    ]
    made = replace(made, prompts={**made.prompts, "names": long})
    one = replace(made, settings={**made.settings, "max_tokens": 4096})
    few, many = (debias(x).to_pandas().sort_values(["variant", "pair"]) for x in (made, one))
    assert few["pair"].tolist() == many["pair"].tolist()
    for column in ("positive", "negative", "patched", "kl_whole"):
        assert np.allclose(few[column], many[column], atol=CLOSE * 10), column
    assert few.groupby("pair")["positive"].nunique().max() == 1


def test_unusable_halves_leave_a_pair_out():
    made = inputs("gpt2")
    prompts = made.prompts["names"]
    gone = next(p for p in prompts if p.extra["task"] == "occ" and p.label == 0)
    fewer = [replace(p, usable=False) if p is gone else p for p in prompts]
    assert len(pairs_of(fewer)) == len(pairs_of(prompts)) - 1
    for female, male in pairs_of(prompts):
        assert (female.label, male.label) == (1, 0)
        assert female.extra["pair"] == male.extra["pair"]
        assert len(female.ids) == len(male.ids)


def test_the_feature_is_the_one_that_is_asked_for():
    made = with_path("gpt2", "attn2.1@2")
    assert feature(made).layer == 2
    assert np.linalg.norm(feature(made).vector) == pytest.approx(1)
    with pytest.raises(ValueError, match=r"no path 'n_bias.6_6'"):
        feature(with_path("gpt2", "attn2.1@2", feature="n_bias.6_6"))
    # Without any path it is the head whose feature is longest.
    alone = replace(made, directions={**made.directions, "paths": {}})
    lengths = {k: np.linalg.norm(made.directions["heads"][f"n_bias/{k}"], axis=1) for k in range(N_LAYERS)}
    assert feature(alone).layer == max(lengths, key=lambda k: lengths[k].max())
    none = replace(made, directions={**made.directions, "paths": {}, "heads": {}})
    assert feature(none) is None
    assert debias(none).num_rows == 0


def test_divergences():
    generator = torch.Generator().manual_seed(0)
    p, q = torch.randn(2, 3, 11, generator=generator)
    without = torch.tensor([[0, 1], [2, 3], [4, 5]])
    assert torch.allclose(divergence(p, p), torch.zeros(3, dtype=torch.float64))
    # Only the observable's tokens differ: the others do not diverge at all.
    moved = p.scatter_add(1, without, torch.ones(3, 2))
    assert (divergence(moved, p) > 1e-3).all()
    assert divergence(moved, p, without).abs().max() < 1e-12
    for i in range(3):
        keep = [k for k in range(11) if k not in without[i].tolist()]
        a, b = (x[i, keep].double().log_softmax(-1) for x in (p, q))
        expected = torch.nn.functional.kl_div(b, a, log_target=True, reduction="sum")
        assert divergence(p, q, without)[i].item() == pytest.approx(expected.item(), abs=1e-12)


def synthetic(shares: dict[str, float], noise: float = 0.0) -> pd.DataFrame:
    """Twelve names in three templates, gaps of 2 to 4 logits, closed by the share of each variant."""
    rng, out = np.random.default_rng(0), []
    for variant, share in shares.items():
        for template in range(3):
            for i in range(12):
                gap = 2 + template
                out.append(
                    {"variant": variant, "template": template, "pair": 12 * template + i, "name": f"n{i}",
                     "positive": gap - 1.0, "negative": -1.0,
                     "patched": -1.0 + share * gap + noise * rng.standard_normal(),
                     "kl_whole": share**2, "kl_others": share**2 / 2}
                )  # fmt: skip
    return pd.DataFrame(out)


def test_measures_of_known_shares():
    shares = {"unit": 0.4, "double": 1.6, "whole": 1.0, "random.0": 0.02, "random.1": -0.04, "random.2": 0.0}
    found = measure(synthetic(shares), OPTIONS)
    value = {name: e.value for name, e in found.items()}
    assert value["debias.output_gap"] == pytest.approx(3)
    assert value["debias.gap.unit"] == pytest.approx(0.4)
    assert value["debias.gap.double"] == pytest.approx(1.6)
    assert value["debias.gap.whole"] == pytest.approx(1)
    assert value["debias.gap.random"] == pytest.approx(-0.02 / 3)
    assert value["debias.gap.random.abs_q95"] == pytest.approx(np.quantile([0.02, 0.04, 0.0], 0.95))
    assert value["debias.gap.above_random"] == pytest.approx(0.4 + 0.02 / 3)
    assert value["debias.unit"] == pytest.approx(1.2)
    assert value["debias.between"] == value["debias.between.unit"] == 1
    assert value["debias.between.double"] == 0
    assert value["debias.kl_others.unit"] == pytest.approx(0.08)
    assert value["debias.kl_whole.whole"] == pytest.approx(1)
    assert found["debias.gap.unit"].n == 36


def test_no_edit_measures_nothing():
    """A feature that does nothing has an interval around zero, and is not above the random vectors."""
    shares = {"unit": 0.0, "whole": 1.0, "random.0": 0.0, "random.1": 0.0}
    found = measure(synthetic(shares, noise=0.3), {"seed": 0, "resamples": 400})
    assert found["debias.gap.unit"].low < 0 < found["debias.gap.unit"].high
    assert found["debias.gap.above_random"].low < 0 < found["debias.gap.above_random"].high
    assert found["debias.gap.double"].value is None
    assert "double" in found["debias.gap.double"].reason


def test_an_empty_table_says_what_is_missing():
    there = measure(synthetic({"unit": 0.4, "double": 1.6, "whole": 1.0, "random.0": 0.0}), OPTIONS)
    gone = measure(synthetic({"unit": 0.4}).iloc[:0], OPTIONS)
    assert set(gone) == set(there)
    assert all(e.value is None and e.reason for e in gone.values())


@cache
def ranked(family: str, path: str) -> pd.DataFrame:
    return tokens(with_path(family, path)).to_pandas()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("path", ["attn2.1@2", "attn3.0@2<=mlp1@2"])
def test_tokens_are_ranked_by_their_residuals(family, path):
    made, table = with_path(family, path), ranked(family, path)
    at = readers(made)[0]
    assert (at.name, at.layer) == ("n_bias.head", 1 if "mlp" in path else 2)
    by_score = []
    for p in made.prompts["text"]:
        x = residuals(family, p, at.layer, "mlp" in path)
        scores = x.double().numpy() @ at.vector
        by_score += [(scores[k], p.id, k, p.ids[k]) for k in range(1, len(p.ids))]
    for side, order in (("top", sorted(by_score, reverse=True)), ("bottom", sorted(by_score))):
        mine = table[(table["feature"] == "n_bias.head") & (table["side"] == side)].sort_values("rank")
        assert mine["rank"].tolist() == list(range(7))
        assert np.allclose(mine["score"], [row[0] for row in order[:7]], atol=1e-4)
        where = list(zip(mine["window"], mine["position"], strict=True))
        assert where == [(row[1], row[2]) for row in order[:7]]
        assert mine["token"].tolist() == [f"w{row[3]}" for row in order[:7]]
        assert [c.split()[-1] for c in mine["context"]] == mine["token"].tolist()


def residuals(family: str, p, layer: int, middle: bool) -> torch.Tensor:
    """In front of a block of the plain model [pos, d_model], or of its MLP's norm, where it has one of its own."""
    network, seen = reference(family), {}

    def keep(_, args, kwargs):
        seen["x"] = (args[0] if args else kwargs["hidden_states"])[0]

    module = network.get_submodule(BLOCKS_OF[family])[layer]
    if middle:
        names = ("ln_2", "post_attention_layernorm")
        module = next((getattr(module, n) for n in names if hasattr(module, n)), module)
    handle = module.register_forward_pre_hook(keep, with_kwargs=True)
    with torch.no_grad():
        network(torch.tensor([p.ids]), use_cache=False)
    handle.remove()
    return seen["x"]


def test_first_tokens_are_left_out_and_random_vectors_are_there():
    table = ranked("gpt_neo", "attn2.1@2")
    assert table["position"].min() >= 1
    assert set(table["feature"]) == {"n_bias.head", *(f"random.2.{k}" for k in range(DRAWS))}
    # Both ends of a short text are one ranking, read from either side.
    whole = tokens(with_path("gpt_neo", "attn2.1@2", top=10_000)).to_pandas()
    for _, rows in whole.groupby("feature"):
        ends = {side: mine.sort_values("rank")["score"].to_numpy() for side, mine in rows.groupby("side")}
        assert np.array_equal(ends["top"], ends["bottom"][::-1])
    assert len(whole) == 2 * (DRAWS + 1) * sum(len(p.ids) - 1 for p in inputs("gpt_neo").prompts["text"])


def test_batches_do_not_matter():
    few = tokens(with_path("gpt_neox", "attn2.1@2", max_tokens=9)).to_pandas()
    many = tokens(with_path("gpt_neox", "attn2.1@2", max_tokens=4096)).to_pandas()
    columns = ["feature", "side", "rank", "window", "position", "token", "kind"]
    assert few[columns].equals(many[columns])
    assert np.allclose(few["score"], many["score"], atol=1e-4)


def test_kinds_of_tokens():
    made = inputs("gpt2")
    kinds = name_kinds(made.prompts["names"])
    assert {t for t, kind in kinds.items() if kind == "female"} == {30, 31, 32, 33}
    # A name on both lists is of neither.
    first = next(p for p in made.prompts["names"] if p.label == 0)
    both = replace(first, extra={**first.extra, "gender": "female"})
    assert first.ids[first.at("name")] not in name_kinds([*made.prompts["names"], both])
    table = ranked("gpt_neo", "attn2.1@2")
    for row in table.itertuples():
        assert row.kind == kinds.get(int(row.token[1:]), "")


def test_readers_take_the_paths_that_read_names():
    made = with_path("gpt2", "attn2.1@2")
    v = next(iter(made.directions["paths"].values()))
    names = ("n_subj.head", "n_subj.path2", "n_subj.6_6", "n_bias.mlp1", "n_bias.attn0", "n_bias.6_6_alt2")
    paths = {f"{name}/attn1.0@2/{mode}": v for name in names for mode in ("ignore", "gradient")}
    found = readers(replace(made, directions={**made.directions, "paths": paths}))
    assert [r.name for r in found if not r.name.startswith("random.")] == sorted(names[:4])
    assert tokens(replace(made, directions={**made.directions, "paths": {}})).num_rows == 0


def test_measures_of_known_tokens():
    def some(name: str, side: str, kinds: list[str]) -> list[dict]:
        return [
            {"feature": name, "side": side, "token": f"t{i // 2}", "kind": k} for i, k in enumerate(kinds)
        ]

    table = pd.DataFrame(
        some("n_subj.head", "top", ["female"] * 3 + [""])
        + some("n_subj.head", "bottom", ["male", "male", "female", ""])
        + some("random.2.0", "top", ["female", "", "", ""])
        + some("random.2.1", "top", [""] * 4)
    )
    value = {name: e.value for name, e in measure_tokens(table, OPTIONS).items()}
    assert value["tokens.n_subj.head.top_female_share"] == 0.75
    assert value["tokens.n_subj.head.bottom_male_share"] == 0.5
    assert value["tokens.n_subj.head.top_distinct"] == 2
    assert value["tokens.random.top_female_share"] == 0.125
    assert value["tokens.random.bottom_female_share"] is None
    assert measure_tokens(table.iloc[:0], OPTIONS)["tokens.random.top_male_share"].value is None


def test_without_a_gap_there_is_no_share_of_it():
    """A model that answers both genders alike: shares are missing, not numbers that no file can hold."""
    table = outcomes()["debias"].assign(positive=1.0, negative=1.0, patched=1.0)
    found = measure(table, {"seed": 0, "resamples": 20})
    assert found["debias.gap.random.abs_q95"].value is None
    assert all(e.value is None or np.isfinite(e.value) for e in found.values())
