"""Path patching, path search and path features against explicit patching of the real model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lm_models import FAMILIES, RELATIVE
from obsprop_models import OBSERVABLES, inputs, pairs

from bearings.lm import weights
from bearings.lm.edits import HookEdit, head_output
from bearings.lm.forward import forward, pad, prepare
from bearings.lm.parts import final_norm
from bearings.lm.propagate import Head, Mlp, parse_path
from bearings.studies.obsprop import heads, patching, search
from bearings.studies.obsprop.dense import dense

FAMILY = "gpt_neo"


def vector(name: str, d_vocab: int) -> np.ndarray:
    out = np.zeros(d_vocab, np.float32)
    for ids, sign in zip(OBSERVABLES[name], (1, -1), strict=True):
        for i in ids:
            out[i] += sign
    return out


def read(model, name: str) -> patching.Readout:
    return patching.readout(model, vector(name, weights.W_U(model).shape[1]))


def observed(logits: torch.Tensor, name: str) -> torch.Tensor:
    return logits @ torch.from_numpy(vector(name, logits.shape[-1])).to(logits)


def task_prompts(given, task: str = "subj", template: int = 0):
    return [p for p in given.prompts["names"] if p.extra["task"] == task and p.extra["template"] == template]


def run(model, prompts, edits=(), **asked):
    tokens = pad([list(p.ids) for p in prompts], 0)
    asked = asked or {"rows": torch.full((len(prompts),), tokens.ids.shape[1] - 1)}
    return forward(model, prepare(model, tokens), edits=edits, **asked)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_readout_is_the_observable_on_the_models_logits(family):
    given = inputs(family)
    prompts = task_prompts(given)
    found = patching.ends(given.model, prompts, 64)
    expected = observed(run(given.model, prompts).logits, "n_subj")
    torch.testing.assert_close(
        read(given.model, "n_subj")(found.resid[:, -1]), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_short_form_equals_patching_the_head_and_nothing_else(family):
    """Explicitly: the dirty head's output at the last position of the clean run, every later block frozen."""
    given = inputs(family)
    model, prompts = given.model, task_prompts(given)
    clean, dirty = [0, 1], [4, 5]
    found = patching.ends(model, prompts, 64)
    short = patching.attributions(model, read(model, "n_subj"), found, clean, dirty)
    layers = range(model.n_layers)
    outs = [f"blocks.{layer}.{part}.hook_out" for layer in layers for part in ("attn", "mlp")]
    a, b = [prompts[i] for i in clean], [prompts[i] for i in dirty]
    plain = run(model, a, keep=outs).hooks
    before = observed(run(model, a).logits, "n_subj")
    for layer in layers:
        z = run(model, b, keep=[f"blocks.{layer}.attn.hook_z"]).hooks[f"blocks.{layer}.attn.hook_z"]
        for head in (0, 3):
            # What reads the patched head is put back to what it was, so that only the direct way is left.
            held = [
                HookEdit(name, lambda x, name=name: plain[name])
                for name in outs
                if int(name.split(".")[1]) > layer or name == f"blocks.{layer}.mlp.hook_out"
            ]
            logits = run(model, a, [head_output(layer, head, z), *held]).logits
            expected = before - observed(logits, "n_subj")
            # A difference of two logits of size 5, each good to RELATIVE of the sums in play.
            torch.testing.assert_close(short[:, layer, head], expected, rtol=1e-3, atol=40 * RELATIVE)
            assert expected.abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_direct_contributions_add_up(family):
    given = inputs(family)
    model, prompts = given.model, task_prompts(given)
    clean, dirty = [0, 1, 2], [4, 5, 6]
    found, one = patching.ends(model, prompts, 64), read(model, "n_obj")
    of_heads, mlps, embed = patching.direct(model, one, found, clean, dirty)
    step = found.resid[clean, -1] - found.resid[dirty, -1]
    expected = (one.direct(found.resid[clean, -1]) * step).sum(-1)
    total = of_heads.sum((1, 2)) + mlps.sum(1) + embed
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_frozen_scale_reads_a_scaled_residual_like_the_norm_itself(family):
    """g is the norm's own slope along the residual, where the scale is what cancels: its values agree, and it is the
    gradient for every change that leaves the scale alone."""
    given = inputs(family)
    one = read(given.model, "n_subj")
    x = torch.randn(5, weights.W_U(given.model).shape[0], generator=torch.Generator().manual_seed(1))
    norm = final_norm(given.model)
    bias = 0 if norm.bias is None else norm.bias @ one.y
    torch.testing.assert_close((one.direct(x) * x).sum(-1) + bias + one.bias, one(x), rtol=1e-4, atol=1e-4)


def test_a_pair_of_equal_prompts_has_no_effect():
    given = inputs(FAMILY)
    found = patching.ends(given.model, task_prompts(given), 64)
    patch = patching.attributions(given.model, read(given.model, "n_subj"), found, [0, 1], [0, 1])
    assert patch.abs().max() < 1e-5


def test_tables_hold_every_pair_head_and_component():
    given = inputs(FAMILY)
    rows = patching.patching(given).to_pandas()
    model = given.model
    n = model.n_layers * model.info.n_heads
    per_pair = rows[rows["kind"] == "cross"].groupby(["task", "pair"]).size()
    assert len(per_pair) == 3 * 8
    assert set(per_pair) == {2 * n + model.n_layers + 2}
    within = rows[(rows["kind"] == "within") & (rows["component"] == "output")]
    assert set(within.groupby("task").size()) == {2 * 3}


def setting(family: str, task: str = "subj") -> search.Setting:
    return search.settle(inputs(family).model, pairs(), task)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_normal_stands_where_the_observable_is_nought(family):
    s = setting(family)
    one = read(s.model, "n_subj")
    d = s.normal.shape[0]
    assert s.normal.norm() > 0
    # Moving along the normal moves the observable up at the point it was taken at; it has no part that only scales.
    assert abs(float(s.normal @ torch.ones(d))) < 1e-3 * float(s.normal.norm()) * d**0.5 or not (
        final_norm(s.model).centres
    )
    assert one.y.shape == s.normal.shape


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_of_single_components_are_their_changes_read_by_the_normal(family):
    s = setting(family)
    found = {f.path: f.score for f in search._extended(s, (), search.CORRECTED)}
    for layer in range(s.model.n_layers):
        change = s.dirty.mlp_out[layer, -1] - s.clean.mlp_out[layer, -1]
        torch.testing.assert_close(found[(Mlp(layer, -1),)], -float(change @ s.normal), rtol=1e-4, atol=1e-5)
    # Over all sources, a head with the clean pattern and the dirty values.
    z = s.clean.pattern[1, 2, -1] @ (s.dirty.v[1] - s.clean.v[1])[:, -1 if s.clean.v.shape[2] == 1 else 0]
    if s.clean.v.shape[2] == s.clean.z.shape[2]:
        z = s.clean.pattern[1, 2, -1] @ (s.dirty.v[1, :, 2] - s.clean.v[1, :, 2])
        total = sum(
            v for k, v in found.items() if isinstance(k[0], Head) and (k[0].layer, k[0].head) == (1, 2)
        )
        expected = -float(z @ weights.W_O(s.model, 1)[2] @ s.normal)
        assert abs(total - expected) < 1e-4 * max(1.0, abs(expected))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_longer_path_is_the_upper_component_run_again_on_what_changed_below(family):
    """By hooks: the lower component's output is replaced at the position that is read, and of the model's answer to
    it only the upper component's own change is kept."""
    s = setting(family)
    model = s.model
    source = 2
    lower = Mlp(0, source)
    for found in search._extended(s, (Head(2, 1, source),), search.CORRECTED):
        if found.path[-1] != lower:
            continue
        change = s.dirty.mlp_out[0, source] - s.clean.mlp_out[0, source]
        resid = s.clean.resid[2].clone()
        resid[source] += change
        tokens = pad([s.clean.ids.tolist()], 0)
        name = "blocks.2.attn.hook_v"
        v = forward(model, prepare(model, tokens), start=2, resid=resid[None], keep=[name]).hooks[name][0]
        kv = 1 // (model.info.n_heads // model.info.n_kv_heads)
        moved = (v - s.clean.v[2])[source, kv] * s.clean.pattern[2, 1, -1, source]
        expected = -float(moved @ weights.W_O(model, 2)[1] @ s.normal)
        assert abs(found.score - expected) < 1e-3 * abs(expected) + 1e-5
        return
    raise AssertionError("the path was not scored")


def test_the_authors_range_is_part_of_the_full_one():
    s = setting(FAMILY)
    above = (Head(3, 0, 2),)
    published = {f.path for f in search._extended(s, above, search.PUBLISHED)}
    corrected = {f.path for f in search._extended(s, above, search.CORRECTED)}
    assert published < corrected
    reached = {p[-1].layer for p in published}
    assert reached == {0, 1}  # of a head of layer 3: not layer 2
    assert {p[-1].layer for p in corrected} == {0, 1, 2}
    single = {f.path for f in search._extended(s, (), search.PUBLISHED)}
    assert (Mlp(s.model.n_layers - 1, -1),) not in single


@pytest.mark.parametrize("family", ["gpt_neo", "gptj"])
def test_attention_lies_upstream_of_its_own_blocks_mlp_unless_the_block_is_parallel(family):
    s = setting(family)
    found = {f.path[-1] for f in search._extended(s, (Mlp(1, -1),), search.CORRECTED)}
    assert any(isinstance(c, Head) and c.layer == 1 for c in found) == (family == "gpt_neo")


def test_the_beam_keeps_the_best_of_every_length():
    s = setting(FAMILY)
    by_length = search.find(s, 3, 4)
    assert [len(rows) for rows in by_length] == [4, 4, 4]
    for k, rows in enumerate(by_length, start=1):
        assert [f.score for f in rows] == sorted((f.score for f in rows), reverse=True)
        assert all(len(f.path) == k for f in rows)
        assert k == 1 or all(f.path[:-1] in {g.path for g in by_length[k - 2]} for f in rows)


def test_searched_paths_end_where_the_name_is_read():
    given = inputs(FAMILY)
    found = {}
    for key in given.directions["paths"]:
        name, path, _ = key.rsplit("/", 2)
        found[name] = parse_path(path)
    source = {p.extra["observable"]: p.positions["source"][-1] for p in pairs() if p.split == "pair"}
    assert {"n_subj.head", "n_subj.shared"} <= set(found)
    for name, path in found.items():
        assert isinstance(path[-1], Head)
        assert path[-1].position == source[name.split(".")[0]]
    shared = {(found[f"{n}.shared"][-1].layer, found[f"{n}.shared"][-1].head) for n in ("n_subj", "n_bias")}
    assert len(shared) == 1


def test_weights_agree_with_the_features_that_were_fitted():
    given = inputs(FAMILY)
    rows = heads.weights(given).to_pandas().set_index(["layer", "head", "observable", "other", "quantity"])
    y, other = (given.directions["heads"][f"{name}/2"][1] for name in ("n_subj", "n_obj"))
    value = rows["value"]
    assert np.isclose(value[2, 1, "n_subj", "", "norm"], np.linalg.norm(y), rtol=1e-5)
    cos = y @ other / np.linalg.norm(y) / np.linalg.norm(other)
    assert np.isclose(value[2, 1, "n_subj", "n_obj", "cos"], cos, rtol=1e-4, atol=1e-6)
    assert np.isclose(value[2, 1, "n_subj", "n_obj", "coupling"], y @ other / (y @ y), rtol=1e-4, atol=1e-6)
    assert value[-1, -1, "n_subj", "", "norm_final"] > 0
    assert (value.xs("cos", level="quantity").abs() <= 1 + 1e-6).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_dense_end_is_the_rest_of_the_model_run_on_the_change(family):
    """For an MLP: its output at the source replaced by the dirty one in a plain pass, behind its own block."""
    s = setting(family)
    source = 2
    found = {f.path: f.score for f in dense(s, source)}
    model, layer = s.model, 1
    tokens = pad([s.clean.ids.tolist()], 0)
    patched = s.dirty.mlp_out[layer, source]

    def put(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:, :source], patched[None, None], x[:, source + 1 :]], 1)

    edit = HookEdit(f"blocks.{layer}.mlp.hook_out", put)
    n = model.n_layers
    last = forward(model, prepare(model, tokens), edits=[edit], keep=[n]).resid[n][0, -1]
    expected = float((s.clean.resid[-1, -1] - last) @ s.normal)
    assert abs(found[(Mlp(layer, source),)] - expected) < 1e-3 * max(1.0, abs(expected))
    assert abs(expected) > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_in_the_last_block_the_dense_end_is_the_direct_one(family):
    s = setting(family)
    source, layer = 2, s.model.n_layers - 1
    direct = {f.path: f.score for f in search.singles(s)}
    for f in dense(s, source):
        if isinstance(f.path[0], Head) and f.path[0].layer == layer:
            assert abs(f.score - direct.get(f.path, 0.0)) < 1e-3 * max(1.0, abs(f.score))


@pytest.mark.parametrize("family", FAMILIES)
def test_features_without_norms_still_start_at_the_linearised_final_norm(family):
    s = setting(family)
    layer, head = 2, 1
    kv = head // (s.model.info.n_heads // s.model.info.n_kv_heads)
    expected = weights.W_V(s.model, layer)[kv] @ (weights.W_O(s.model, layer)[head] @ s.normal)
    found = search.composed(s, (Head(layer, head, 2),), "ignore")
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-6)
    plain = weights.W_V(s.model, layer)[kv] @ (weights.W_O(s.model, layer)[head] @ s.n)
    assert np.corrcoef(found, plain.numpy())[0, 1] < 0.9999
