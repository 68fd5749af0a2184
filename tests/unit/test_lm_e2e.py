"""End-to-end SAEs: the terms of the loss by hand, gradients that stay with their SAE, and what training brings."""

from __future__ import annotations

from dataclasses import replace

import lm_models
import pytest
import torch

from bearings.lm.e2e import E2eOptions, share, target, terms, train_e2e
from bearings.lm.forward import ALL, Tokens, forward, prepare
from bearings.lm.ladder import new_sae, scale_of

LAYER, D_SAE, ROWS, POS = 1, 128, 24, 12
OPTIONS = E2eOptions(rows=240, batch_rows=4, lr=4e-3, init_norm=0.5)


@pytest.fixture(scope="module")
def model():
    return lm_models.model("gpt2")


@pytest.fixture(scope="module")
def ids():
    return torch.tensor(lm_models.prompts(3, [POS] * ROWS))


def clean(model, ids, **asked):
    return forward(model, prepare(model, Tokens(ids, torch.ones_like(ids, dtype=torch.bool))), **asked)


@pytest.fixture(scope="module")
def resid(model, ids):
    return clean(model, ids, keep=[LAYER]).resid[LAYER]


def run(model, ids, resid, coefficients, options=OPTIONS, seed=5, max_tokens=4096):
    return train_e2e(model, ids, resid, LAYER, coefficients, D_SAE, options, seed, max_tokens)


def weights(trained):
    return torch.cat([p.detach().flatten() for p in trained.sae.parameters()])


def identity(d):
    """An SAE that gives back its input: every dimension's positive and negative part."""
    sae = new_sae(d, 2 * d, 1.0, torch.zeros(d), 0, 0.5)
    eye = torch.eye(d)
    with torch.no_grad():
        sae.W_enc.copy_(torch.cat([eye, -eye], 1))
        sae.W_dec.copy_(torch.cat([eye, -eye]))
    return sae


def test_the_identity_costs_nothing_but_its_sparsity(model, ids, resid):
    scale = scale_of(resid.flatten(0, 1))
    goal = target(model, ids, resid, LAYER, True)
    found = terms(model, [identity(resid.shape[-1])], goal, LAYER, scale)
    assert found.kl.abs().max() < 1e-6  # fp32 sums over 61 words
    assert found.downstream.max() < 1e-9
    assert found.sparsity.item() == pytest.approx((resid * scale).abs().mean().item(), rel=1e-5)


def test_the_terms_are_those_of_the_protocol(model, ids, resid):
    """Section 4.6, step 3, from plain passes of the replaced residual."""
    scale = scale_of(resid.flatten(0, 1))
    saes = [new_sae(resid.shape[-1], D_SAE, 1.0, torch.zeros(resid.shape[-1]), seed, 0.4) for seed in (0, 1)]
    found = terms(model, saes, target(model, ids, resid, LAYER, True), LAYER, scale)
    later = [2, 3]
    before = clean(model, ids, keep=later, rows=ALL)
    for i, sae in enumerate(saes):
        with torch.no_grad():
            f = sae.encode(resid * scale)
            after = clean(model, ids, start=LAYER, resid=sae.decode(f) / scale, keep=later, rows=ALL)
        p, q = before.logits.log_softmax(-1), after.logits.log_softmax(-1)
        kl = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1).mean()
        errors = [(scale * (after.resid[k] - before.resid[k])).square().mean() for k in later]
        sparsity = (f * sae.W_dec.norm(dim=1)).sum(-1).mean() / resid.shape[-1]
        # The same sums in another order; a missed weight or mean is off by far more.
        assert found.kl[i].item() == pytest.approx(kl.item(), rel=1e-4)
        assert found.downstream[i].item() == pytest.approx(sum(errors).item() / 2, rel=1e-4)
        assert found.sparsity[i].item() == pytest.approx(sparsity.item(), rel=1e-4)


def test_without_downstream_nothing_is_kept(model, ids, resid):
    goal = target(model, ids, resid, LAYER, False)
    assert goal.behind == {}
    assert terms(model, [identity(resid.shape[-1])], goal, LAYER, 1.0).downstream.item() == 0


def kl_of(model, ids, resid, replaced):
    p = clean(model, ids, rows=ALL).logits.log_softmax(-1)
    q = clean(model, ids, start=LAYER, resid=replaced, rows=ALL).logits.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean().item()


def test_training_makes_the_model_say_the_same(model, ids, resid):
    mean = kl_of(model, ids, resid, resid.flatten(0, 1).mean(0).expand_as(resid))
    sparse, dense = run(model, ids, resid, [3.0, 0.1])
    with torch.no_grad():
        found = [kl_of(model, ids, resid, t.sae(resid)) for t in (sparse, dense)]
    assert found[1] < found[0] < mean
    assert found[1] < mean / 2
    assert sparse.l0 < dense.l0 / 1.1


def test_downstream_terms_hold_the_layers_behind(model, ids, resid):
    def error(trained):
        with torch.no_grad():
            after = clean(model, ids, start=LAYER, resid=trained.sae(resid), keep=[3]).resid[3]
        return (after - clean(model, ids, keep=[3]).resid[3]).square().mean().item()

    (plain,) = run(model, ids, resid, [0.1])
    (held,) = run(model, ids, resid, [0.1], replace(OPTIONS, kl=0.5, downstream=5.0))
    assert error(held) < 0.8 * error(plain)


def test_two_runs_with_one_seed_are_bitwise_equal(model, ids, resid):
    """A10, with one thread; another seed is another SAE."""
    options = replace(OPTIONS, rows=16, kl=0.5, downstream=1.0)
    first, second = (run(model, ids, resid, [1.0, 0.1], options) for _ in range(2))
    other = run(model, ids, resid, [1.0, 0.1], options, seed=6)
    for a, b, c in zip(first, second, other, strict=True):
        assert torch.equal(weights(a), weights(b))
        assert not torch.equal(weights(a), weights(c))


def test_saes_stacked_or_one_at_a_time_are_the_same(model, ids, resid):
    """None sees another's gradient; stacking changes shapes of products only, so roundings, which Adam enlarges to a
    share of its step (4e-3) where a gradient is next to nought: after two steps far below one of them."""
    options = replace(OPTIONS, rows=8, kl=0.5, downstream=1.0)
    together = run(model, ids, resid, [1.0, 0.1], options)
    apart = run(model, ids, resid, [1.0, 0.1], options, max_tokens=1)
    (alone,) = run(model, ids, resid, [0.1], options)
    for a, b in (*zip(together, apart, strict=True), (together[1], alone)):
        assert (weights(a) - weights(b)).abs().mean() < 1e-2 * OPTIONS.lr
    assert (weights(together[0]) - weights(together[1])).abs().mean() > 5e-2 * OPTIONS.lr


def test_the_model_stays_as_it_is(model, ids, resid):
    before = [p.detach().clone() for p in model.bridge.original_model.parameters()]
    run(model, ids, resid, [0.5], replace(OPTIONS, rows=16))
    after = list(model.bridge.original_model.parameters())
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, after, strict=True))


def test_a_last_layer_has_nothing_downstream(model, ids, resid):
    options = replace(OPTIONS, rows=8, downstream=1.0)
    with pytest.raises(ValueError, match="layer 3 of 4 has no layers behind it"):
        train_e2e(model, ids, resid, 3, [1.0], D_SAE, options, 0, 4096)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"rows": 3}, "rows 3 must be at least one batch of 4"),
        ({"kl": 0.0}, "at least one above 0"),
        ({"downstream": -1.0}, "are weights"),
        ({"clip": 0.0}, "clip must be above 0"),
        ({"lr": -1.0}, "lr must be above 0"),
    ],
)
def test_wrong_options_are_named(wrong, words):
    with pytest.raises(ValueError, match=words):
        replace(OPTIONS, **wrong)


def test_the_rate_rises_stays_and_falls():
    rates = [share(step, 100, 0.1, 0.5) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:51] == [1.0] * 42
    assert rates[-1] == pytest.approx(1 / 50)
    assert all(a >= b for a, b in zip(rates[50:], rates[51:], strict=False))
    assert share(0, 10, 0.0, 0.0) == 1.0
