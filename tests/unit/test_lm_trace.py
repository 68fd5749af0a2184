"""A trace is what the components read and wrote; parts compute the same outside the pass."""

from __future__ import annotations

import pytest
import torch
from lm_models import D_MODEL, FAMILIES, N_LAYERS, RELATIVE, gap, model, prompts, tokens

from bearings.lm import parts, weights
from bearings.lm.forward import forward, last_positions
from bearings.lm.hooks import attend
from bearings.lm.propagate import contributions
from bearings.lm.trace import FIELDS, trace, traces

both = pytest.mark.parametrize("processing", ["raw", "folded"])
family = pytest.mark.parametrize("family", FAMILIES)
IDS = prompts(3, [7])[0]


@family
@both
def test_residual_is_the_sum_of_what_was_written(family, processing):
    m = model(family, processing)
    t = trace(m, IDS)
    assert t.ids.tolist() == IDS
    assert t.resid.shape == (N_LAYERS + 1, len(IDS), D_MODEL)
    assert gap(t.resid[:-1] + t.attn_out + t.mlp_out, t.resid[1:]) < RELATIVE
    middle = t.resid[:-1] if parts.parallel(m) else t.resid[:-1] + t.attn_out
    assert gap(t.mid, middle) < RELATIVE
    assert parts.parallel(m) == (family in ("gptj", "gpt_neox"))
    logits = forward(m, tokens("none"), rows="all").logits
    again = traces(m, tokens("none"), ["resid"]).resid[:, -1]
    assert torch.equal(weights.logits(m, again), logits), "the last residual is not what is unembedded"


@family
@both
def test_attention_is_the_sum_of_its_heads(family, processing):
    m = model(family, processing)
    t = trace(m, IDS)
    for layer in range(N_LAYERS):
        assert gap(t.pattern[layer].sum(-1), torch.ones(4, len(IDS))) < RELATIVE
        assert gap(attend(t.pattern[layer][None], t.v[layer][None])[0], t.z[layer]) < RELATIVE
        written = weights.b_O(m, layer) + sum(
            parts.ov(m, layer, h)(t.z[layer, :, h]) for h in range(m.info.n_heads)
        )
        assert gap(written, t.attn_out[layer]) < RELATIVE
        # Values come from the normed residual by W_V, through the value head of each query head.
        step = parts.attn_norm(m, layer)(t.resid[layer, 1]) - parts.attn_norm(m, layer)(t.resid[layer, 0])
        for head in range(m.info.n_heads):
            kv = parts.kv_of(m, head)
            change = step @ weights.W_V(m, layer)[kv]
            assert gap(change, t.v[layer, 1, kv] - t.v[layer, 0, kv]) < 10 * RELATIVE


def test_grouped_heads_share_values():
    assert [parts.kv_of(model("llama"), h) for h in range(4)] == [0, 0, 1, 1]
    assert [parts.kv_of(model("gptj"), h) for h in range(4)] == [0, 1, 2, 3]


@family
@both
@pytest.mark.parametrize("size", [1.0, 1e-3])
def test_parts_equal_the_pass(family, processing, size):
    """Small activations as well: there the norm's epsilon decides."""
    m = model(family, processing)
    t = trace(m, IDS)
    for layer in range(N_LAYERS):
        assert gap(parts.mlp_norm(m, layer)(t.mid[layer]), t.mlp_in[layer]) < RELATIVE
        assert gap(parts.mlp(m, layer)(t.mlp_in[layer]), t.mlp_out[layer]) < RELATIVE
        block, x = m.blocks[layer], size * t.resid[layer]
        assert gap(parts.attn_norm(m, layer)(x), block.ln1(x[None])[0]) < RELATIVE
    x = size * t.resid[-1]
    assert gap(parts.final_norm(m)(x), weights.final_norm(m, x)) < RELATIVE
    norm = parts.final_norm(m)
    assert parts.centres(norm) == (family != "llama")
    assert parts.gain(norm).shape == (D_MODEL,)
    assert bool((parts.gain(norm) == 1).all()) == (processing == "folded")


@family
def test_parts_leave_nothing_behind(family):
    m = model(family)
    t = trace(m, IDS)
    before = forward(m, tokens("left"), rows="all").logits
    mlp = parts.mlp(m, 1)
    y = torch.ones(3, D_MODEL)
    one = parts.gradient(mlp, t.mlp_in[1, 2], y)
    assert one.shape == (3, D_MODEL)
    assert torch.equal(one[0], one[1])
    assert not one.requires_grad
    rows = parts.gradient(mlp, t.mlp_in[1], y[0])
    assert gap(rows[2], one[0]) < RELATIVE, "rows of a batch must not see each other"
    assert not t.resid.requires_grad
    assert all(p.grad is None for p in m.bridge.original_model.parameters())
    assert torch.equal(forward(m, tokens("left"), rows="all").logits, before)


@family
@pytest.mark.parametrize("side", ["left", "right"])
def test_batched_traces_are_the_single_ones(family, side):
    m, batch = model(family), tokens(side)
    many = traces(m, batch)
    for i, ids in enumerate(prompts()):
        single, cut = trace(m, ids), many.one(i)
        assert cut.ids.tolist() == ids
        for name in FIELDS:
            a, b = getattr(cut, name), getattr(single, name)
            assert a.shape == b.shape, name
            assert gap(a, b) < RELATIVE, f"{name}: {gap(a, b):.1e}"
    some = traces(m, batch, ["resid"])
    assert some.z is None
    assert len(some) == len(batch.ids)
    last = some.resid[torch.arange(len(some)), -1, last_positions(batch)]
    assert gap(weights.logits(m, last), forward(m, batch, rows=last_positions(batch)).logits) < RELATIVE
    with pytest.raises(ValueError, match="mid was not asked for"):
        some.one(0)
    with pytest.raises(ValueError, match="want must be among"):
        traces(m, batch, ["logits"])


@family
@both
def test_contributions_are_complete(family, processing):
    m = model(family, processing)
    t = trace(m, IDS)
    y = torch.randn(2, D_MODEL, generator=torch.Generator().manual_seed(1))
    for position in (0, 3, -1):
        parts_of = contributions(m, t, position, y)
        assert parts_of.heads.shape == (2, N_LAYERS, 4)
        for k in range(2):
            # Protocol section 6 allows 1e-4; against the lengths, because a sum near zero has no digits.
            x = t.resid[-1, position]
            assert abs(parts_of.total[k] - y[k] @ x) < RELATIVE * y[k].norm() * x.norm()
        head = parts.ov(m, 2, 1)(t.z[2, position, 1])
        assert gap(parts_of.heads[:, 2, 1], y @ head) < 10 * RELATIVE
        whole = parts_of.heads[:, 1].sum(-1) + parts_of.attn_bias[:, 1]
        assert gap(whole, y @ t.attn_out[1, position]) < 10 * RELATIVE
        assert gap(parts_of.mlps[:, 3] + parts_of.mlp_bias[:, 3], y @ t.mlp_out[3, position]) < 10 * RELATIVE
    assert torch.equal(contributions(m, t, -1, y[0]).total, contributions(m, t, -1, y[:1]).total)
    # The bias of an output belongs to no head and no MLP: it is the same at every position.
    one, other = contributions(m, t, 0, y), contributions(m, t, 4, y)
    assert torch.equal(one.mlp_bias, other.mlp_bias)
    assert bool((one.mlp_bias == 0).all()) == (family == "llama")


def test_an_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="a batch needs at least one prompt"):
        trace(model("gpt2"), [])
