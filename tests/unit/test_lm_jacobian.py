"""Jacobians with a held prefix: the full pass, reverse mode, finite differences, and what must not matter."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from lm_models import D_MODEL, D_VOCAB, FAMILIES, N_CTX, N_LAYERS, RELATIVE, directory, gap, model, prompts

from bearings.lm.forward import forward, pad, prepare
from bearings.lm.jacobian import jacobians, linearise
from bearings.lm.load import load_model
from bearings.lm.prefix import Prefix, hold

family = pytest.mark.parametrize("family", FAMILIES)

# Longer than the local window of 4 on either side of the source, so that a wrong mask or position shows.
LENGTH, SOURCE, TARGETS = 18, 9, [14, 15, 16]
IDS = prompts(2, [LENGTH])[0]
# The others attend, or scale their norms, in fp32 even when the model is in fp64.
FULLY_DOUBLE = ("gpt2", "gpt_neox")
KEYS = [(layer, how) for layer in (3, N_LAYERS) for how in ("mean", "first")]


@cache
def double(family):
    return load_model(directory(family), dtype="float64")


def maps(family, ids=IDS, source=SOURCE, targets=TARGETS, start=1, layers=(3, N_LAYERS), **options):
    return jacobians(model(family), ids, source, targets, start, layers, **options)


def reverse(m, tokens, row, source, targets, start):
    """The same Jacobians by reverse mode through the whole batch, nothing held: {key: [d, d]}."""
    prepared = prepare(m, tokens)
    x = forward(m, prepared, stop=start).resid[start]
    here = torch.zeros(*x.shape[:2], 1, dtype=torch.bool)
    here[row, source] = True

    def outputs(s):
        resid = forward(
            m, prepared, start=start, resid=torch.where(here, s, x), keep=[3, N_LAYERS], grad=True
        ).resid
        out = {(layer, "mean"): resid[layer][row, targets].mean(0) for layer in (3, N_LAYERS)}
        return out | {(layer, "first"): resid[layer][row, targets[0]] for layer in (3, N_LAYERS)}

    return torch.func.jacrev(outputs)(x[row, source])


@family
@pytest.mark.parametrize("processing", ["raw", "folded"])
@pytest.mark.parametrize("source", [0, 1, SOURCE, LENGTH - 1])
def test_rest_equals_the_full_pass(family, processing, source):
    m = model(family, processing)
    full = forward(m, pad([IDS], 0), keep=range(N_LAYERS + 1)).resid
    held = hold(m, IDS, source)
    assert held.resid.shape == (N_LAYERS + 1, LENGTH - source, D_MODEL)
    for layer in range(N_LAYERS + 1):
        assert torch.equal(held.resid[layer], full[layer][0, source:]), "recording changed the pass"
    for start in range(N_LAYERS):
        again = forward(
            m, held.rest, start=start, resid=held.resid[start][None], keep=range(start, N_LAYERS + 1)
        )
        for layer, resid in again.resid.items():
            worst = gap(resid[0], full[layer][0, source:])
            assert worst < RELATIVE, f"{family}: from {start}, residual of layer {layer} off by {worst:.1e}"


@family
@pytest.mark.parametrize("processing", ["raw", "folded"])
@pytest.mark.parametrize(("source", "targets", "start"), [(SOURCE, TARGETS, 1), (0, [3, 4], 0), (5, [5], 2)])
def test_forward_mode_equals_reverse_mode(family, processing, source, targets, start):
    m = model(family, processing)
    expected = reverse(m, pad([IDS], 0), 0, source, targets, start)
    found = jacobians(m, IDS, source, targets, start, [3, N_LAYERS])
    assert sorted(found) == sorted(KEYS)
    for key in KEYS:
        assert found[key].W.shape == (D_MODEL, D_MODEL)
        # A Jacobian sums products along more paths than a pass: twice the rounding is allowed.
        worst = gap(found[key].W, expected[key])
        assert worst < 2 * RELATIVE, f"{family}, {key}: {worst:.1e}"


@family
def test_padding_does_not_matter(family):
    """One prompt among longer ones, padded on the left: the same Jacobian through the full batch."""
    others = prompts(4, [LENGTH + 5, LENGTH + 1])
    shift = 5
    expected = reverse(
        model(family),
        pad([others[0], IDS, others[1]], 0),
        1,
        SOURCE + shift,
        [t + shift for t in TARGETS],
        1,
    )
    found = maps(family)
    for key in KEYS:
        assert gap(found[key].W, expected[key]) < 2 * RELATIVE, f"{family}, {key}"


@family
def test_finite_differences(family):
    m = double(family)
    found = jacobians(m, IDS, SOURCE, TARGETS, 1, [3, N_LAYERS])
    tokens = pad([IDS], 0)
    prepared = prepare(m, tokens)
    x = forward(m, prepared, stop=1).resid[1]
    generator = torch.Generator().manual_seed(6)

    def outputs(s):
        moved = x.clone()
        moved[0, SOURCE] = s
        resid = forward(m, prepared, start=1, resid=moved, keep=[3, N_LAYERS]).resid
        return {
            (layer, how): resid[layer][0, TARGETS].mean(0) if how == "mean" else resid[layer][0, TARGETS[0]]
            for layer in (3, N_LAYERS)
            for how in ("mean", "first")
        }

    # In fp64 truncation is all there is, some ten times the square of the relative step. Where fp32 is inside,
    # its roundings of 6e-8 are divided by the step, and one of 3e-3 leaves the least of both, some 1e-4.
    relative, allowed = (1e-4, 1e-6) if family in FULLY_DOUBLE else (3e-3, 1e-3)
    s = x[0, SOURCE]
    for _ in range(5):
        u = torch.randn(D_MODEL, generator=generator, dtype=torch.float64)
        step = relative * s.norm() / u.norm()
        above, below = outputs(s + step * u), outputs(s - step * u)
        for key in KEYS:
            assert found[key].W.dtype == torch.float64
            measured = (above[key] - below[key]) / (2 * step)
            error = ((found[key].W @ u - measured).norm() / measured.norm()).item()
            assert error < allowed, f"{family}, {key}: {error:.1e}"


@family
def test_affine_at_the_source(family):
    m = model(family)
    full = forward(m, pad([IDS], 0), keep=range(N_LAYERS + 1)).resid
    for (layer, how), one in maps(family).items():
        expected = full[layer][0, TARGETS].mean(0) if how == "mean" else full[layer][0, TARGETS[0]]
        assert gap(one.value, expected) < RELATIVE
        assert torch.equal(one.source, full[1][0, SOURCE])
        # b = F(s) - W s, rounded at the size of W s.
        scale = max(1.0, ((one.W @ one.source).abs().max() / one.value.abs().max()).item())
        assert gap(one.W @ one.source + one.bias, one.value) < scale * 1e-6


@family
def test_aggregations(family):
    """The mean's map is the mean of the maps of its positions; with one position there is no difference."""
    found = maps(family)
    each = [maps(family, targets=[t]) for t in TARGETS]
    for layer in (3, N_LAYERS):
        mean = torch.stack([one[layer, "first"].W for one in each]).mean(0)
        assert gap(found[layer, "mean"].W, mean) < RELATIVE
        assert gap(found[layer, "first"].W, each[0][layer, "first"].W) < RELATIVE
        assert gap(found[layer, "first"].W, found[layer, "mean"].W) > 1e-2
        assert torch.equal(each[0][layer, "first"].W, each[0][layer, "mean"].W)
        assert torch.equal(each[0][layer, "first"].value, each[0][layer, "mean"].value)


@family
def test_asked_for_alone_equals_asked_for_together(family):
    together = maps(family)
    for layer, how in KEYS:
        alone = maps(family, layers=[layer], aggregations=[how])
        assert list(alone) == [(layer, how)]
        assert torch.equal(alone[layer, how].W, together[layer, how].W)
        assert torch.equal(alone[layer, how].bias, together[layer, how].bias)


@family
def test_one_held_prefix_serves_any_number_of_passes(family):
    """The cache never grows: every later call gives the bits of the first, and those of a fresh prefix."""
    m = model(family)
    held = hold(m, IDS, SOURCE, TARGETS[-1])
    first = linearise(held, TARGETS, 1, [3, N_LAYERS])
    for start in (0, 2, 3):
        shared = linearise(held, TARGETS, start, [N_LAYERS])
        fresh = maps(family, start=start, layers=[N_LAYERS])
        for key, one in fresh.items():
            assert torch.equal(shared[key].W, one.W)
            assert torch.equal(shared[key].bias, one.bias)
    other = [*prompts(8, [SOURCE])[0], *IDS[SOURCE:]]
    changed = maps(family, ids=other)
    again = linearise(held, TARGETS, 1, [3, N_LAYERS])
    for key in KEYS:
        assert torch.equal(again[key].W, first[key].W)
        assert torch.equal(again[key].value, first[key].value)
        assert gap(changed[key].W, first[key].W) > 1e-3, "the prefix was not attended to"


@family
def test_only_residuals_and_held_keys_are_read(family):
    """Tokens before the source reach a pass over the rest by the held keys and values alone."""
    m = model(family)
    held = hold(m, IDS, SOURCE)
    other = hold(m, [*prompts(8, [SOURCE])[0], *IDS[SOURCE:]], SOURCE)
    own = forward(m, held.rest, start=1, resid=held.resid[1][None], stop=N_LAYERS).resid[N_LAYERS]
    foreign = forward(m, other.rest, start=1, resid=held.resid[1][None], stop=N_LAYERS).resid[N_LAYERS]
    assert gap(own[0], held.resid[N_LAYERS]) < RELATIVE
    assert gap(foreign[0], held.resid[N_LAYERS]) > 1e-3


@family
def test_tokens_after_the_last_target_do_not_matter(family):
    found = maps(family)
    changed = maps(family, ids=[*IDS[: TARGETS[-1] + 1], *prompts(9, [7])[0]])
    longer = linearise(hold(model(family), IDS, SOURCE), TARGETS, 1, [3, N_LAYERS])
    for key in KEYS:
        assert torch.equal(changed[key].W, found[key].W)
        assert gap(longer[key].W, found[key].W) < RELATIVE


@family
def test_chunks_change_only_the_last_bits(family):
    whole = maps(family, chunk=0)
    for chunk in (1, 7, D_MODEL):
        for key, one in maps(family, chunk=chunk).items():
            assert gap(one.W, whole[key].W) < RELATIVE, f"{family}, {chunk}"


@family
def test_no_gradient_is_left(family):
    parameters = list(model(family).bridge.original_model.parameters())
    with torch.enable_grad():
        found = maps(family)
    assert not any(
        t.requires_grad for one in found.values() for t in (one.W, one.value, one.source, one.bias)
    )
    assert all(p.grad is None and not p.requires_grad for p in parameters)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"targets": [SOURCE - 1, SOURCE]}, "source must be 0 to 8"),
        ({"source": -1}, "source must be"),
        ({"targets": []}, "targets must be"),
        ({"targets": [LENGTH]}, "targets must be 0 to 17"),
        ({"targets": [15, 14]}, "targets must be ascending"),
        ({"targets": [14, 14]}, "targets must be ascending"),
        ({"start": -1}, "start must be 0 to 3"),
        ({"start": N_LAYERS, "layers": [N_LAYERS]}, "start must be 0 to 3"),
        ({"start": 3}, "layers must be 4 to 4"),
        ({"layers": [N_LAYERS + 1]}, "layers must be 2 to 4"),
        ({"layers": []}, "layers must be"),
        ({"aggregations": ["last"]}, "aggregations must be among mean, first"),
        ({"aggregations": []}, "aggregations must be"),
        ({"chunk": -1}, "chunk must be"),
    ],
)
def test_refusals_name_the_argument(asked, message):
    with pytest.raises(ValueError, match=message) as error:
        maps("gpt2", **asked)
    assert "\n" not in str(error.value)


def test_held_prefix_refuses_what_lies_outside():
    m = model("gpt2")
    with pytest.raises(ValueError, match="source must be 0 to 4"):
        hold(m, IDS, 5, 4)
    with pytest.raises(ValueError, match="last must be 0 to 17"):
        hold(m, IDS, 5, LENGTH)
    held = hold(m, IDS, 5, 8)
    with pytest.raises(ValueError, match="targets must be 5 .* to 8"):
        linearise(held, [9], 1, [2])
    with pytest.raises(ValueError, match="targets must be 5 .* to 8"):
        linearise(held, [4, 6], 1, [2])
    with pytest.raises(ValueError, match="token ids must be 0 to 60"):
        hold(m, [*IDS[:3], D_VOCAB], 1)
    full = Prefix(((torch.zeros(1, 4, N_CTX, 8),) * 2,) * N_LAYERS)
    with pytest.raises(ValueError, match="65 tokens are more than its context of 64"):
        prepare(m, pad([[3]], 0), full)
