"""The forward engine equals the plain full pass: architectures, paddings, resumed, stopped, rows, columns."""

from __future__ import annotations

import pytest
import torch
from lm_models import (
    D_MODEL,
    D_VOCAB,
    FAMILIES,
    N_LAYERS,
    RELATIVE,
    SIDES,
    arguments,
    gap,
    model,
    prompts,
    reference,
    save,
    tokens,
)

from bearings.lm.edits import ResidualEdit, add, compose, patch_along, span
from bearings.lm.forward import batches, forward, last_positions, pad, patterns, prepare, repeat
from bearings.lm.load import load_model

family = pytest.mark.parametrize("family", FAMILIES)
side = pytest.mark.parametrize("side", SIDES)


def some_edits(batch):
    """An addition everywhere, then a patch along a plane at every other position, two layers apart."""
    generator = torch.Generator().manual_seed(5)
    plane = torch.linalg.qr(torch.randn(D_MODEL, 2, generator=generator)).Q.T
    source = torch.randn(*batch.ids.shape, D_MODEL, generator=generator)
    positions = torch.arange(batch.ids.shape[1]).expand(batch.ids.shape) % 2 == 0
    shift = torch.randn(D_MODEL, generator=generator)
    return (
        ResidualEdit(1, compose(add(shift, 0.5), add(shift, 0.25))),
        ResidualEdit(3, patch_along(plane, source), positions),
    )


@family
@side
def test_equals_plain_transformers_pass(family, side):
    batch = tokens(side)
    with torch.no_grad():
        plain = reference(family)(batch.ids, **arguments(batch), output_hidden_states=True)
    ours = forward(model(family), batch, keep=range(N_LAYERS + 1), rows="all")
    worst = gap(ours.logits[batch.mask], plain.logits[batch.mask])
    assert worst < RELATIVE, f"{family}, {side}: logits differ by {worst:.1e}"
    for layer in range(N_LAYERS):  # transformers returns the last one after the final norm
        worst = gap(ours.resid[layer][batch.mask], plain.hidden_states[layer][batch.mask])
        assert worst < RELATIVE, f"{family}, {side}: residual of layer {layer} differs by {worst:.1e}"
    assert torch.isfinite(ours.logits).all()


@family
def test_any_number_of_blocks(family, tmp_path):
    """Some models index what a block returns, which over many blocks wears a stub's answer away."""
    deep = load_model(save(family, tmp_path / family, n_layers=6))
    batch = tokens("left")
    with torch.no_grad():
        plain = deep.bridge.original_model(batch.ids, **arguments(batch), output_hidden_states=True)
    ours = forward(deep, batch, keep=[3], rows="all")
    assert gap(ours.logits[batch.mask], plain.logits[batch.mask]) < RELATIVE
    assert gap(ours.resid[3][batch.mask], plain.hidden_states[3][batch.mask]) < RELATIVE


@family
@side
@pytest.mark.parametrize("processing", ["raw", "folded"])
def test_equals_bridge_bit_for_bit(family, side, processing):
    m, batch = model(family, processing), tokens(side)
    with torch.no_grad():
        plain, cache = m.bridge.run_with_cache(batch.ids, **arguments(batch))
    ours = forward(
        m, batch, keep=[*range(N_LAYERS), "blocks.2.attn.hook_z", "blocks.1.mlp.hook_out"], rows="all"
    )
    # The same operations on the same shapes: nothing may differ, not even the last bit.
    assert torch.equal(ours.logits, plain), f"differs by {gap(ours.logits, plain):.1e}"
    for layer in range(N_LAYERS):
        assert torch.equal(ours.resid[layer], cache[f"blocks.{layer}.hook_in"]), layer
    assert torch.equal(ours.hooks["blocks.2.attn.hook_z"], cache["blocks.2.attn.hook_z"])
    assert torch.equal(ours.hooks["blocks.1.mlp.hook_out"], cache["blocks.1.mlp.hook_out"])


@family
@side
def test_edits_equal_transformer_lens_hooks(family, side):
    m, batch = model(family), tokens(side)
    edits = some_edits(batch)
    from bearings.lm.edits import apply

    hooks = [(f"blocks.{e.layer}.hook_in", lambda x, hook, e=e: apply(e, x)) for e in edits]
    with torch.no_grad():
        hooked = m.bridge.run_with_hooks(batch.ids, fwd_hooks=hooks, **arguments(batch))
    ours = forward(m, batch, edits=edits, rows="all").logits
    clean = forward(m, batch, rows="all").logits
    assert torch.equal(ours, hooked), f"differs by {gap(ours, hooked):.1e}"
    assert gap(ours, clean) > 1e-2, "the edits did nothing, so the comparison shows nothing"


@family
def test_folding_changes_the_basis_and_not_the_prediction(family):
    batch = tokens("left")
    raw, folded = (forward(model(family, p), batch, keep=[2], rows="all") for p in ("raw", "folded"))
    a, b = raw.logits.log_softmax(-1)[batch.mask], folded.logits.log_softmax(-1)[batch.mask]
    # Folding multiplies weights together once, so each product is rounded once more than in the raw model.
    assert gap(a, b) < 10 * RELATIVE, f"{family}: {gap(a, b):.1e}"
    assert model(family, "folded").name == f"{family}-folded"


@family
@side
@pytest.mark.parametrize("edited", [False, True])
def test_resume_at_every_layer(family, side, edited):
    m, batch = model(family), tokens(side)
    edits = some_edits(batch) if edited else ()
    prepared = prepare(m, batch)
    full = forward(m, prepared, edits=edits, keep=range(N_LAYERS + 1), rows="all")
    for layer in range(N_LAYERS + 1):
        later = [e for e in edits if e.layer > layer]
        resumed = forward(m, prepared, start=layer, resid=full.resid[layer], edits=later, rows="all")
        assert torch.equal(resumed.logits, full.logits), f"resumed at {layer}"


@family
def test_stop_early_equals_full(family):
    m, batch = model(family), tokens("left")
    edits = some_edits(batch)
    full = forward(m, batch, edits=edits, keep=range(N_LAYERS + 1), rows="all")
    ran = []
    handles = [
        block.register_forward_pre_hook(lambda *_, i=i: ran.append(i)) for i, block in enumerate(m.blocks)
    ]
    try:
        for layer in range(1, N_LAYERS + 1):
            ran.clear()
            before = [e for e in edits if e.layer <= layer]
            stopped = forward(m, batch, edits=before, stop=layer)
            assert ran == list(range(layer)), "blocks ran that nobody asked for"
            assert stopped.logits is None
            assert torch.equal(stopped.resid[layer], full.resid[layer])
        ran.clear()
        forward(m, batch, keep=["blocks.1.attn.hook_v", 1])
        assert ran == [0, 1]
    finally:
        for handle in handles:
            handle.remove()


@family
@side
def test_rows_and_columns_are_slices_of_the_full_logits(family, side):
    m, batch = model(family), tokens(side)
    full = forward(m, batch, rows="all").logits
    n = len(batch.ids)
    last, columns = last_positions(batch), torch.tensor([7, 3, 60])
    own = torch.arange(2 * n).view(n, 2) + 5
    two = torch.stack([last, last - 1], 1)
    at = torch.arange(n)
    expected = {
        "rows": (full[at, last], {"rows": last}),
        "two rows": (full[at[:, None], two], {"rows": two}),
        "columns": (full[:, :, columns], {"columns": columns}),
        "rows, columns": (full[at, last][:, columns], {"rows": last, "columns": columns}),
        "rows, own columns": (full[at, last].gather(1, own), {"rows": last, "columns": own}),
        "two rows, own columns": (
            full[at[:, None], two].gather(2, own[:, None].expand(-1, 2, -1)),
            {"rows": two, "columns": own},
        ),
    }
    for what, (slice_, asked) in expected.items():
        got = forward(m, batch, **asked).logits
        assert got.shape == slice_.shape, what
        assert gap(got, slice_) < RELATIVE, f"{what}: {gap(got, slice_):.1e}"


@family
@side
def test_repeat_is_the_batch_stacked(family, side):
    m, batch = model(family), tokens(side)
    prepared = prepare(m, batch)
    three = repeat(prepared, 3)
    stacked = forward(m, three, rows="all").logits
    single = forward(m, prepared, rows="all").logits
    for i in range(3):
        part = stacked[i * len(single) : (i + 1) * len(single)]
        assert gap(part, single) < RELATIVE, f"copy {i}: {gap(part, single):.1e}"
    again = prepare(m, type(batch)(batch.ids.repeat(3, 1), batch.mask.repeat(3, 1)))
    assert torch.equal(stacked, forward(m, again, rows="all").logits)


@family
def test_repeat_when_batch_and_length_agree(family):
    """Nothing may be taken for the batch axis only because it has the batch's length."""
    m = model(family)
    batch = pad(prompts(1, [4, 2, 4, 3]), 0)
    two = forward(m, repeat(prepare(m, batch), 2), rows="all").logits
    one = forward(m, batch, rows="all").logits
    assert gap(two[4:], one) < RELATIVE
    single = pad(prompts(1, [6]), 0)
    two = forward(m, repeat(prepare(m, single), 2), rows="all").logits
    assert gap(two[1:], forward(m, single, rows="all").logits) < RELATIVE


@family
def test_padding_does_not_matter(family):
    m = model(family)
    left, right = (forward(m, b, rows=last_positions(b)).logits for b in (tokens("left"), tokens("right")))
    alone = []
    for prompt in prompts():
        batch = pad([prompt], 0)
        alone.append(forward(m, batch, rows=last_positions(batch)).logits)
    alone = torch.cat(alone)
    # Masked keys get exactly zero weight, but a longer row sums in another order.
    assert gap(left, alone) < RELATIVE, f"left: {gap(left, alone):.1e}"
    assert gap(right, alone) < RELATIVE, f"right: {gap(right, alone):.1e}"


@family
def test_gradient_through_the_suffix(family):
    m, batch = model(family), tokens("left")
    prepared = prepare(m, batch)
    resid = forward(m, prepared, stop=2).resid[2]
    generator = torch.Generator().manual_seed(9)
    source = torch.randn(resid.shape, generator=generator)
    vector = torch.randn(D_MODEL, generator=generator)
    step = torch.randn(D_MODEL, generator=generator)
    columns = torch.tensor([5, 9])

    def loss(v, grad):
        edit = ResidualEdit(2, patch_along(v, source))
        logits = forward(
            m,
            prepared,
            start=2,
            resid=resid,
            edits=[edit],
            rows=last_positions(batch),
            columns=columns,
            grad=grad,
        ).logits
        return (logits[:, 0] - logits[:, 1]).double().mean()

    leaf = vector.clone().requires_grad_()
    loss(leaf, True).backward()
    slope = (leaf.grad @ step).item()
    # Central difference: truncation shrinks with h^2, fp32 rounding (about 1e-6 on the loss) grows with 1/h,
    # and h = 1e-2 leaves about 1e-4 of each.
    h = 1e-2
    measured = (loss(vector + h * step, False) - loss(vector - h * step, False)).item() / (2 * h)
    assert slope == pytest.approx(measured, rel=2e-2, abs=2e-3)
    assert abs(slope) > 5e-3, "a zero slope would match anything"
    assert not loss(vector, False).requires_grad
    assert all(p.grad is None for p in m.bridge.original_model.parameters())


@family
def test_patterns_reproduce_the_head_outputs(family):
    from bearings.lm.hooks import attend

    m, batch = model(family), tokens("left")
    clean = forward(m, batch, keep=["blocks.1.attn.hook_v", "blocks.1.attn.hook_z"]).hooks
    z = attend(patterns(m, batch, [1])[1], clean["blocks.1.attn.hook_v"])
    assert gap(z, clean["blocks.1.attn.hook_z"]) < RELATIVE


def test_prepare_leaves_the_model_whole():
    m = model("gpt2")
    blocks = list(m.bridge.original_model.base_model.h)
    prepare(m, tokens("left"))
    with pytest.raises(ValueError, match="token ids must be 0 to 60"):
        prepare(m, pad([[3, D_VOCAB]], 0))
    assert list(m.bridge.original_model.base_model.h) == blocks


def test_pad_and_last_positions():
    left, right = pad([[5, 6, 7], [8]], 0), pad([[5, 6, 7], [8]], 0, "right")
    assert left.ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert right.ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert left.mask.tolist() == [[True] * 3, [False, False, True]]
    assert last_positions(left).tolist() == [2, 2]
    assert last_positions(right).tolist() == [2, 0]
    with pytest.raises(ValueError, match="side must be"):
        pad([[1]], 0, "both")
    with pytest.raises(ValueError, match="at least one prompt"):
        pad([[1], []], 0)


def test_batches_cover_everything_within_the_budget():
    lengths = [9, 3, 3, 12, 5, 40, 3]
    groups = batches(lengths, 24)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    assert groups == [[1, 2, 6, 4], [0, 3], [5]]
    assert all(len(g) == 1 or len(g) * max(lengths[i] for i in g) <= 24 for g in groups)
    assert batches([], 10) == []


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "nothing is asked for"),
        ({"start": 2, "stop": 3}, "needs resid"),
        ({"stop": 9}, "covers layers 0 to 9"),
        ({"stop": 2, "columns": torch.tensor([1])}, "covers layers 0 to 2, but 4"),
        ({"stop": 1, "keep": ["blocks.1.attn.hook_z"]}, "covers layers 0 to 1, but 2"),
        ({"stop": 1, "edits": [ResidualEdit(2, lambda x: x)]}, "would never act"),
        ({"keep": ["ln_final.hook_scale"]}, "must lie in a block"),
        ({"keep": ["blocks.0.attn.hook_nothing"]}, "has no hook"),
        ({"keep": ["blocks.0.hook_mlp_in"]}, "never reached"),
        ({"rows": "last"}, "rows must be positions or 'all'"),
        ({"rows": torch.tensor([1])}, "rows must be"),
        ({"rows": "all", "columns": torch.zeros(2, 2, dtype=torch.long)}, "columns must be"),
        ({"stop": 2, "edits": [ResidualEdit(1, lambda x: x[:, :1])]}, "the edit turned shape"),
        ({"stop": 2, "edits": [ResidualEdit(1, lambda x: x, torch.ones(5, 2) > 0)]}, "positions must be"),
    ],
)
def test_refusals_name_the_argument(asked, message):
    with pytest.raises(ValueError, match=message) as error:
        forward(model("gpt2"), tokens("left"), **asked)
    assert "\n" not in str(error.value)


def test_context_is_respected():
    with pytest.raises(ValueError, match="more than its context of 64"):
        prepare(model("llama"), pad([[3] * 65], 0))


def test_span_of_a_plane_is_checked():
    with pytest.raises(ValueError, match="orthonormal"):
        span(torch.ones(2, 4))
