"""Perturbations: lengths, fixed directions, norms and angles as asked (protocol 4.2; A2, A3, A5, A7)."""

from __future__ import annotations

import pytest
import torch

from bearings.lm import perturb

B, POS, D = 3, 5, 32
# fp32 rounds at 6e-8 of the largest entry; norms and quotients over d = 32 add some ten roundings.
RELATIVE = 2e-6


def random(seed, *shape):
    return torch.randn(*(shape or (B, POS, D)), generator=torch.Generator().manual_seed(seed))


def close(a, b, tolerance=RELATIVE):
    return ((a - b).abs().max() / b.abs().max()).item() < tolerance


def cosine(a, b):
    return torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=-1)


X, XHAT = 3 * random(0), 3 * random(0) + random(1)


def test_along_moves_by_the_length_asked():
    for length in (0.01, 1.0, 40.0):
        moved = (perturb.along(X, random(2), length) - X).norm(dim=-1)
        # The sum x + L d keeps the roundings of x: 6e-8 |x| / L relative, 1e-4 where L = 0.01 and |x| = 17.
        assert close(moved, torch.full_like(moved, length), 3e-4 if length < 1 else 1e-5)


def test_along_takes_one_length_per_position():
    error = (XHAT - X).norm(dim=-1)
    assert close((perturb.along(X, random(2), error) - X).norm(dim=-1), error, 1e-4)


def test_directions_are_fixed_over_the_lengths():
    lengths = torch.tensor([1.0, 4.0, 16.0])
    changed = perturb.along(X, random(2), lengths)
    assert changed.shape == (3, B, POS, D)
    steps = [(changed[i] - X) / lengths[i] for i in range(3)]
    assert close(steps[0], steps[2], 1e-5)
    assert torch.equal(changed[1], perturb.along(X, random(2), 4.0)), (
        "a condition must not depend on the others"
    )
    assert not close(steps[0], random(3), 0.5), "any direction would pass"


def test_one_direction_for_all_positions():
    ones = torch.ones(D)
    assert torch.equal(perturb.along(X, ones, 2.0), perturb.along(X, ones.expand(B, POS, D), 2.0))


def test_along_nothing_and_by_nothing_keeps_the_bits():
    direction = random(2)
    direction[1, 2] = 0
    changed = perturb.along(X, direction, torch.tensor([0.0, 5.0]))
    assert torch.equal(changed[0], X)
    assert torch.equal(changed[1, 1, 2], X[1, 2])
    assert not torch.equal(changed[1, 1, 1], X[1, 1])


def test_lengths_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"length must be a number, \[k\] or \[3, 5\], found shape \[5, 3\]"):
        perturb.along(X, random(2), torch.ones(POS, B))


def test_norm_corrected_and_norm_only():
    corrected, only = perturb.norm_corrected(X, XHAT), perturb.norm_only(X, XHAT)
    assert close(corrected.norm(dim=-1), X.norm(dim=-1))
    assert close(only.norm(dim=-1), XHAT.norm(dim=-1))
    assert (cosine(corrected, XHAT) - 1).abs().max() < 1e-5
    assert (cosine(only, X) - 1).abs().max() < 1e-5
    assert (cosine(corrected, X) - 1).abs().max() > 1e-2, "x and its reconstruction must differ in direction"
    zero = torch.zeros_like(X)
    assert torch.equal(perturb.norm_corrected(X, zero), zero)
    assert torch.equal(perturb.norm_only(zero, XHAT), zero)


@pytest.mark.parametrize("norm", ["recon", "true"])
@pytest.mark.parametrize("error", [1.0, 1e-3])
def test_theta_has_the_angle_and_the_norm_asked(norm, error):
    xhat = X + error * random(1)
    moved = perturb.theta(X, xhat, random(4), norm)
    assert (cosine(moved, X) - cosine(xhat, X)).abs().max() < 1e-5
    # The angle itself, which a cosine near 1 hides; 6e-8 |x| of rounding in an orthogonal part of 1e-3 |x| / 3.
    sine = (1 - cosine(moved, X) ** 2).sqrt()
    assert close(sine, (1 - cosine(xhat, X) ** 2).sqrt(), 2e-3)
    assert close(moved.norm(dim=-1), (xhat if norm == "recon" else X).norm(dim=-1), 1e-5)
    assert not close(moved - X, xhat - X, 0.5), "the direction must be another one"


def test_theta_beside_the_reconstruction_itself_gives_it_back():
    assert close(perturb.theta(X, XHAT, XHAT), XHAT, 1e-5)
    assert close(perturb.theta(X, XHAT, XHAT - X), XHAT, 1e-5)


def test_theta_refuses_another_norm():
    with pytest.raises(ValueError, match="norm 'mean' is unknown; allowed: recon, true"):
        perturb.theta(X, XHAT, random(4), "mean")


def test_only_at_changes_one_position():
    changed = perturb.along(X, random(2), torch.tensor([1.0, 3.0]))
    one = perturb.only_at(X, changed, 2)
    assert torch.equal(one[:, :, 2], changed[:, :, 2])
    assert torch.equal(one[:, :, [0, 1, 3, 4]], X[:, [0, 1, 3, 4]].expand(2, -1, -1, -1))
    own = perturb.only_at(X, changed[0], torch.tensor([0, 4, 2]))
    assert torch.equal(own[1, 4], changed[0, 1, 4])
    assert torch.equal(own[1, :4], X[1, :4])
    with pytest.raises(ValueError, match="position must be 0 to 4, found 5 to 5"):
        perturb.only_at(X, changed, 5)
