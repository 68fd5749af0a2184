"""Edits do what their formulas say (protocol checks C7 and more), act where told and leave no hook behind."""

from __future__ import annotations

import pytest
import torch
from lm_models import D_MODEL, FAMILIES, N_LAYERS, RELATIVE, SIDES, arguments, gap, model, tokens

from bearings.lm import edits
from bearings.lm.edits import HookEdit, ResidualEdit, frozen_attention, head_output, values
from bearings.lm.forward import forward, last_positions, patterns, prepare, repeat
from bearings.lm.hooks import attend, hooked

family = pytest.mark.parametrize("family", FAMILIES)
side = pytest.mark.parametrize("side", SIDES)
ALL_LAYERS = range(N_LAYERS + 1)


def direction(seed: int = 3) -> torch.Tensor:
    return torch.randn(D_MODEL, generator=torch.Generator().manual_seed(seed))


def plane(k: int = 3) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(D_MODEL, k, generator=torch.Generator().manual_seed(4))).Q.T


def n_hooks(m) -> int:
    """Hooks of both kinds: those TransformerLens lists and those torch will call."""
    points = m.bridge.hook_dict.values()
    return sum(len(p.fwd_hooks) + len(p._forward_hooks) for p in points)


# --- functions ---


@pytest.mark.parametrize("which", [direction(), 100 * direction(), plane()])
def test_ablation_leaves_nothing_along_the_direction(which):
    x = 5 * torch.randn(4, 7, D_MODEL, generator=torch.Generator().manual_seed(0))
    once = edits.ablate(which)(x)
    rows = edits.span(which)
    # x and P x are rounded at 6e-8 of |x| each, so what remains is a few roundings, not 1e-5.
    assert ((once @ rows.T).abs().amax(-1) / x.norm(dim=-1)).max() < 1e-5
    assert gap(edits.ablate(which)(once), once) < 1e-6
    assert gap(once + edits.project(which)(x), x) < 1e-6
    assert (once - x).abs().max() > 0.1


def test_constant_sets_the_component_of_the_mean():
    x, mean = torch.randn(2, 3, D_MODEL), torch.randn(D_MODEL)
    out = edits.constant(plane(), mean)(x)
    assert gap(out @ plane().T, (mean @ plane().T).expand(2, 3, 3)) < 1e-5
    assert gap(edits.ablate(plane())(out), edits.ablate(plane())(x)) < 1e-5


def test_patching_moves_only_the_component():
    x, source = torch.randn(2, 3, D_MODEL), torch.randn(2, 3, D_MODEL)
    out = edits.patch_along(plane(), source)(x)
    assert gap(out @ plane().T, source @ plane().T) < 1e-5
    assert gap(edits.ablate(plane())(out), edits.ablate(plane())(x)) < 1e-5
    assert torch.equal(edits.patch_along(plane(), x)(x), x)


def test_full_basis_patch_is_replacement():
    x, source = torch.randn(2, 3, D_MODEL), torch.randn(2, 3, D_MODEL)
    assert gap(edits.patch_along(plane(D_MODEL), source)(x), source) < 1e-5
    assert torch.equal(edits.replace(source)(x), source)
    assert edits.replace(source[0, 0])(x).shape == x.shape


def test_neutral_edits_are_exact():
    x = torch.randn(2, 3, D_MODEL)
    assert torch.equal(edits.ablate(torch.zeros(D_MODEL))(x), x)
    assert torch.equal(edits.add(direction(), 0.0)(x), x)
    assert torch.equal(edits.compose()(x), x)


def test_compose_runs_the_first_one_first():
    x = torch.randn(2, 3, D_MODEL)
    both = edits.compose(edits.add(direction(), 2.0), edits.ablate(direction()))
    assert gap(both(x), edits.ablate(direction())(x)) < 1e-5


@pytest.mark.parametrize("bad", [torch.ones(2, D_MODEL), 1.01 * plane(), torch.zeros(1, 2, 3)])
def test_spans_must_be_orthonormal(bad):
    with pytest.raises(ValueError, match="orthonormal|span"):
        edits.span(bad)


# --- in a model ---


@family
@side
def test_neutral_edits_leave_the_run_bit_for_bit(family, side):
    m, batch = model(family), tokens(side)
    prepared = prepare(m, batch)
    clean = forward(m, prepared, keep=ALL_LAYERS, rows="all")
    for function in (
        lambda layer: edits.ablate(torch.zeros(D_MODEL)),
        lambda layer: edits.patch_along(direction(), clean.resid[layer]),
        lambda layer: edits.add(direction(), 0.0),
        lambda layer: edits.replace(clean.resid[layer]),
    ):
        neutral = [ResidualEdit(layer, function(layer)) for layer in ALL_LAYERS]
        assert torch.equal(forward(m, prepared, edits=neutral, rows="all").logits, clean.logits)


@family
@side
def test_cumulative_ablation(family, side):
    m, batch = model(family), tokens(side)
    ablate = [ResidualEdit(layer, edits.ablate(direction()), batch.mask) for layer in ALL_LAYERS]
    once = forward(m, batch, edits=ablate, keep=ALL_LAYERS, rows="all")
    unit = edits.span(direction())[0]
    for layer in ALL_LAYERS:
        x = once.resid[layer][batch.mask]
        assert ((x @ unit).abs() / x.norm(dim=-1)).max() < 1e-5, layer
    twice = forward(m, batch, edits=ablate + ablate, rows="all")
    assert gap(twice.logits[batch.mask], once.logits[batch.mask]) < RELATIVE
    assert gap(forward(m, batch, rows="all").logits, once.logits) > 1e-2


@family
@pytest.mark.parametrize("layer", ALL_LAYERS)
def test_full_residual_patch_gives_the_clean_logits_exactly(family, layer):
    m, clean, other = model(family), tokens("none", 0), tokens("none", 1)
    target = forward(m, clean, keep=[layer], rows="all")
    patch = ResidualEdit(layer, edits.replace(target.resid[layer]))
    assert torch.equal(forward(m, other, edits=[patch], rows="all").logits, target.logits)
    assert not torch.equal(forward(m, other, rows="all").logits, target.logits)


@family
def test_earlier_positions_do_not_change(family):
    m, batch = model(family), tokens("none")
    at = torch.zeros_like(batch.mask)
    at[:, 5] = True
    patch = ResidualEdit(1, edits.add(direction(), 3.0), at)
    clean = forward(m, batch, keep=ALL_LAYERS, rows="all")
    edited = forward(m, batch, edits=[patch], keep=ALL_LAYERS, rows="all")
    assert torch.equal(edited.logits[:, :5], clean.logits[:, :5])
    assert not torch.equal(edited.logits[:, 6], clean.logits[:, 6])
    assert torch.equal(edited.resid[1][:, 6:], clean.resid[1][:, 6:])
    assert torch.equal(edited.resid[0], clean.resid[0])


@family
@side
@pytest.mark.parametrize(
    "hook", ["attn.hook_v", "attn.hook_z", "attn.hook_out", "mlp.hook_post", "mlp.hook_out"]
)
def test_hook_edits_equal_transformer_lens(family, side, hook):
    m, batch = model(family), tokens(side)
    name = f"blocks.1.{hook}"
    edit = HookEdit(name, lambda x: 2 * x + 0.3, batch.mask)
    with torch.no_grad():
        fwd = [(name, lambda x, hook: edits.apply(edit, x))]
        theirs = m.bridge.run_with_hooks(batch.ids, fwd_hooks=fwd, **arguments(batch))
    ours = forward(m, batch, edits=[edit], keep=[name], rows="all")
    clean = forward(m, batch, keep=[name], rows="all")
    assert torch.equal(ours.logits, theirs), f"{gap(ours.logits, theirs):.1e}"
    assert gap(ours.logits, clean.logits) > 1e-3
    assert torch.equal(ours.hooks[name], edits.apply(edit, clean.hooks[name])), (
        "kept activations are the edited ones"
    )


@family
@side
def test_frozen_attention_with_its_own_patterns_is_the_clean_run(family, side):
    m, batch = model(family), tokens(side)
    prepared = prepare(m, batch)
    frozen = frozen_attention(patterns(m, prepared))
    clean = forward(m, prepared, rows="all").logits
    worst = gap(forward(m, prepared, edits=frozen, rows="all").logits, clean)
    assert worst < RELATIVE, f"{worst:.1e}"


@family
@side
def test_frozen_attention_keeps_the_pattern_and_moves_the_values(family, side):
    """After an edit before block 1, block 1 must write its clean pattern times its *new* values."""
    m, batch = model(family), tokens(side)
    prepared = prepare(m, batch)
    clean = patterns(m, prepared)
    keep = ["blocks.1.attn.hook_z", "blocks.1.attn.hook_v", "blocks.1.attn.hook_pattern"]
    shift = ResidualEdit(1, edits.add(direction(), 2.0), batch.ids % 2 == 0)
    free = forward(m, prepared, edits=[shift], keep=keep).hooks
    frozen = forward(m, prepared, edits=[shift, *frozen_attention({1: clean[1]})], keep=keep).hooks
    z, v, _ = (frozen[name] for name in keep)
    assert torch.equal(z, attend(clean[1], v))
    assert torch.equal(v, free["blocks.1.attn.hook_v"])
    real = batch.mask
    assert gap(free["blocks.1.attn.hook_pattern"], clean[1]) > 1e-3, "the edit should have moved the pattern"
    assert gap(z[real], free["blocks.1.attn.hook_z"][real]) > 1e-3


@family
@pytest.mark.parametrize("order", [1, -1])
def test_value_patching_under_frozen_patterns(family, order):
    """Values of the other run at some positions: head outputs are clean pattern @ mixture, in any order."""
    m, batch, other = model(family), tokens("none", 0), tokens("none", 1)
    prepared = prepare(m, batch)
    clean = patterns(m, prepared)
    v_name, z_name = "blocks.2.attn.hook_v", "blocks.2.attn.hook_z"
    source = forward(m, other, keep=[v_name]).hooks[v_name]
    at = torch.zeros_like(batch.mask)
    at[:, [1, 4]] = True
    acting = [values(2, source, at), *frozen_attention(clean)][::order]
    run = forward(m, prepared, edits=acting, keep=[v_name, z_name])
    own = forward(m, prepared, keep=[v_name]).hooks[v_name]
    mixture = torch.where(at[:, :, None, None], source, own)
    assert gap(run.hooks[v_name], mixture) < RELATIVE
    assert gap(run.hooks[z_name], attend(clean[2], mixture)) < RELATIVE
    assert gap(run.hooks[z_name], attend(clean[2], own)) > 1e-2


@family
def test_values_of_the_other_run_everywhere_and_its_patterns_give_its_heads(family):
    m, batch, other = model(family), tokens("none", 0), tokens("none", 1)
    names = [f"blocks.{layer}.attn.hook_v" for layer in range(N_LAYERS)]
    z = f"blocks.{N_LAYERS - 1}.attn.hook_z"
    source = forward(m, other, keep=[*names, z]).hooks
    acting = [values(layer, source[name]) for layer, name in enumerate(names)]
    acting += frozen_attention(patterns(m, other))
    run = forward(m, batch, edits=acting, keep=[z])
    assert gap(run.hooks[z], source[z]) < RELATIVE


@family
def test_one_head_is_patched_alone(family):
    m, batch, other = model(family), tokens("none", 0), tokens("none", 1)
    name = "blocks.1.attn.hook_z"
    at = torch.zeros_like(batch.mask)
    at[:, 3] = True
    source, clean = (forward(m, b, keep=[name]).hooks[name] for b in (other, batch))
    z = forward(m, batch, edits=[head_output(1, 2, source, at)], keep=[name]).hooks[name]
    assert torch.equal(z[:, 3, 2], source[:, 3, 2])
    z[:, 3, 2] = clean[:, 3, 2]
    assert torch.equal(z, clean)
    with pytest.raises(ValueError, match="heads 0 to 3"):
        forward(m, batch, edits=[head_output(1, 4, source)], rows="all")


@family
def test_several_conditions_in_one_pass(family):
    m, batch = model(family), tokens("left")
    prepared = prepare(m, batch)
    resid = forward(m, prepared, stop=2).resid[2]
    vectors = torch.stack([direction(i) for i in range(3)])
    stacked = vectors.repeat_interleave(len(resid), 0)[:, None]
    rows = last_positions(batch)
    together = forward(
        m,
        repeat(prepared, 3),
        start=2,
        resid=resid.repeat(3, 1, 1),
        edits=[ResidualEdit(2, edits.add(stacked))],
        rows=rows.repeat(3),
    ).logits
    for i, vector in enumerate(vectors):
        alone = forward(
            m, prepared, start=2, resid=resid, edits=[ResidualEdit(2, edits.add(vector))], rows=rows
        ).logits
        assert gap(together[i * len(alone) : (i + 1) * len(alone)], alone) < RELATIVE


# --- hooks ---


@family
def test_hooks_are_removed_after_success_and_failure(family):
    m, batch = model(family), tokens("left")
    before, clean = n_hooks(m), forward(m, batch, rows="all").logits

    def fail(x):
        raise RuntimeError("inside")

    frozen = frozen_attention(patterns(m, batch))
    forward(m, batch, edits=[HookEdit("blocks.0.mlp.hook_out", lambda x: 2 * x), *frozen], rows="all")
    assert n_hooks(m) == before
    for edit in (HookEdit("blocks.2.mlp.hook_out", fail), ResidualEdit(2, fail)):
        with pytest.raises(RuntimeError, match="inside"):
            forward(
                m, batch, edits=[HookEdit("blocks.0.attn.hook_z", lambda x: 2 * x), edit, *frozen], rows="all"
            )
        assert n_hooks(m) == before
    with pytest.raises(ValueError, match="has no hook"):
        forward(m, batch, edits=[*frozen, HookEdit("blocks.1.nowhere", fail)], rows="all")
    with pytest.raises(KeyError), hooked(m, frozen, ["blocks.0.hook_out"]):
        raise KeyError
    assert n_hooks(m) == before
    assert torch.equal(forward(m, batch, rows="all").logits, clean)


def test_a_hook_of_somebody_else_stays():
    m, batch = model("gpt2"), tokens("left")
    seen = []
    point = m.bridge.blocks[0].mlp.hook_out
    point.add_hook(lambda x, hook: seen.append(1))
    try:
        forward(m, batch, edits=[HookEdit("blocks.0.mlp.hook_out", lambda x: x)], stop=1)
        forward(m, batch, stop=1)
        assert len(seen) == 2
    finally:
        point.remove_hooks()


@family
def test_a_pattern_edit_acts_or_is_refused(family):
    m, batch = model(family), tokens("left")
    edit = HookEdit("blocks.1.attn.hook_pattern", lambda p: torch.eye(p.shape[-1]).expand_as(p).contiguous())
    if family in ("gpt_neo", "gptj"):
        with pytest.raises(ValueError, match="use frozen_attention"):
            forward(m, batch, edits=[edit], rows="all")
        return
    ours = forward(m, batch, edits=[edit], rows="all").logits
    assert gap(ours, forward(m, batch, rows="all").logits) > 1e-2


def test_residual_edits_are_no_hooks():
    with (
        pytest.raises(ValueError, match="between blocks"),
        hooked(model("gpt2"), [ResidualEdit(0, lambda x: x)]),
    ):
        pass


def test_freezing_blocks_that_do_not_run_is_idle():
    m, batch = model("gpt_neox"), tokens("left")
    prepared = prepare(m, batch)
    frozen = frozen_attention(patterns(m, prepared))
    full = forward(m, prepared, edits=frozen, keep=[2], rows="all")
    assert torch.equal(forward(m, prepared, edits=frozen, stop=2).resid[2], full.resid[2])
    resumed = forward(m, prepared, start=2, resid=full.resid[2], edits=frozen, rows="all")
    assert torch.equal(resumed.logits, full.logits)


def test_patterns_of_another_batch_are_refused():
    m = model("llama")
    frozen = frozen_attention(patterns(m, tokens("left")))
    with pytest.raises(ValueError, match="of the same batch"):
        forward(m, repeat(prepare(m, tokens("left")), 2), edits=frozen, rows="all")
