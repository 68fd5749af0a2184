"""Local SAEs by sae-lens's trainer: what the coefficient does, one pass for a ladder, and repeatability."""

from __future__ import annotations

from itertools import islice

import lm_models
import pytest
import torch

from bearings.lm.ladder import Options, new_sae, options_from, orders, scale_of, train_ladder

D, TRUE, N = 16, 24, 6000
OPTIONS = Options(samples=60000, batch=250, lr=4e-3, init_norm=0.5)


@pytest.fixture(scope="module")
def x():
    """Residuals [n, d]: three of 24 directions at a time, around a mean far from nought."""
    g = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(TRUE, D, generator=g), dim=1)
    active = torch.rand(N, TRUE, generator=g).argsort(1) < 3
    sizes = active * (1 + torch.rand(N, TRUE, generator=g))
    return 5 * sizes @ directions + 4 * torch.randn(D, generator=g)


@pytest.fixture(scope="module")
def ladder(x):
    return train_ladder(x, [1.5, 0.5, 0.1], 48, OPTIONS, seed=7)


def explained(trained, x):
    with torch.no_grad():
        left = (trained.sae(x) - x).square().sum()
    return 1 - (left / (x - x.mean(0)).square().sum()).item()


def weights(trained):
    return torch.cat([p.detach().flatten() for p in trained.sae.parameters()])


def test_a_larger_coefficient_is_sparser_and_explains_less(ladder, x):
    l0 = [t.l0 for t in ladder]
    share = [explained(t, x) for t in ladder]
    assert [t.coefficient for t in ladder] == [1.5, 0.5, 0.1]
    assert l0[0] < l0[1] / 1.1 < l0[2] / 1.21
    assert share[0] < share[1] < share[2]
    assert share[1] > 0.5
    assert share[2] > 0.9
    # The mean alone explains nothing of the variance, so the features do.
    assert all(s > 0.2 for s in share)


def test_l0_is_that_of_the_trained_sae_on_its_rows(ladder, x):
    for t in ladder:
        with torch.no_grad():
            assert t.l0 == pytest.approx((t.sae.encode(x) > 0).sum(-1).double().mean().item(), rel=1e-9)


def test_two_runs_with_one_seed_are_bitwise_equal(x):
    """A10; and the caller's random numbers are left alone."""
    options = Options(samples=2000, batch=200, lr=4e-3)
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first = train_ladder(x, [1.0, 0.3], 48, options, seed=7)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(99)
    second = train_ladder(x, [1.0, 0.3], 48, options, seed=7)
    other = train_ladder(x, [1.0, 0.3], 48, options, seed=8)
    for a, b, c in zip(first, second, other, strict=True):
        assert torch.equal(weights(a), weights(b))
        assert not torch.equal(weights(a), weights(c))


def test_an_sae_is_the_same_alone_and_in_a_ladder(x):
    options = Options(samples=2000, batch=200, lr=4e-3)
    both = train_ladder(x, [1.0, 0.3], 48, options, seed=7)
    alone = train_ladder(x, [0.3], 48, options, seed=7)
    assert torch.equal(weights(both[1]), weights(alone[0]))


def test_coefficients_do_not_depend_on_the_size_of_the_residuals(x):
    """Twice the residuals, twice the reconstruction: a power of two rounds nothing, so the features are the same."""
    options = Options(samples=2000, batch=200, lr=4e-3)
    (one,) = train_ladder(x, [0.6], 48, options, seed=7)
    (two,) = train_ladder(2 * x, [0.6], 48, options, seed=7)
    with torch.no_grad():
        assert torch.equal(one.sae.encode(x), two.sae.encode(2 * x))
        assert lm_models.gap(two.sae(2 * x), 2 * one.sae(x)) < 1e-6
    assert one.l0 == two.l0


def test_the_input_is_not_centred_and_the_start_is_the_seeds(x):
    bias = x.mean(0)
    sae = new_sae(D, 48, 1.0, bias, seed=3, init_norm=0.25)
    assert sae.cfg.apply_b_dec_to_input is False
    assert torch.equal(sae.b_dec.detach(), bias)
    assert lm_models.gap(sae.W_dec.norm(dim=1), torch.full((48,), 0.25)) < 1e-6
    assert torch.equal(sae.W_enc, sae.W_dec.T)
    assert torch.equal(new_sae(D, 48, 9.0, bias, 3, 0.25).W_dec, sae.W_dec)


def test_an_order_takes_every_row_once_a_pass():
    drawn = torch.cat(list(islice(orders(10, 4, seed=0), 5)))
    assert sorted(drawn[:10].tolist()) == sorted(drawn[10:].tolist()) == list(range(10))
    assert drawn[:10].tolist() != drawn[10:].tolist()
    larger = next(orders(3, 7, seed=0))  # a batch that needs several passes
    assert len(larger) == 7
    assert sorted(larger[:3].tolist()) == [0, 1, 2]


def test_scale_brings_the_mean_norm_to_sqrt_d(x):
    assert (x * scale_of(x)).norm(dim=1).mean().item() == pytest.approx(D**0.5, rel=1e-6)
    for empty in (x[:0], 0 * x):
        with pytest.raises(ValueError, match="hold nothing"):
            scale_of(empty)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"samples": 5}, "samples 5 must be at least one batch of 10"),
        ({"lr": 0}, "lr must be above 0, found 0"),
        ({"warmup": 0.6, "decay": 0.6}, "warmup 0.6 and decay 0.6 are shares"),
        ({"init_norm": 0.0}, "init_norm must be above 0"),
        ({"epochs": 3}, "unexpected keyword argument 'epochs'"),
    ],
)
def test_wrong_settings_are_named(wrong, words):
    given = {"samples": 100, "batch": 10, "lr": 1e-3, "coefficients": [1.0], "side_coefficients": []}
    assert options_from(given, Options, "saes.local") == Options(100, 10, 1e-3)
    with pytest.raises(ValueError, match=f"settings saes.local: .*{words}") as caught:
        options_from({**given, **wrong}, Options, "saes.local")
    assert "\n" not in str(caught.value)
