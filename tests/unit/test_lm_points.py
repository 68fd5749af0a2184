"""Where norms and MLPs are replaced by their tangents: gradients, zeros and crossings against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from lm_models import D_MODEL, FAMILIES, gap
from lm_wide import EXACT, FIRST, SECOND, observable, random, wide

from bearings.lm import parts
from bearings.lm.parts import Norm, gradient
from bearings.lm.propagate import crossing, norm_step, zero_final
from bearings.lm.trace import trace

both = pytest.mark.parametrize("processing", ["raw", "folded"])
family = pytest.mark.parametrize("family", FAMILIES)


@family
@both
def test_gradients_equal_finite_differences(family, processing):
    m = wide(family, processing)
    x, y, step = (random(D_MODEL, seed=s) for s in range(3))
    h = 1e-5  # truncation h^2 = 1e-10, rounding 1e-16 / h = 1e-11
    for function in (parts.mlp(m, 1), parts.attn_norm(m, 1), parts.mlp_norm(m, 2), parts.final_norm(m)):
        measured = (y @ function(x + h * step) - y @ function(x - h * step)) / (2 * h)
        assert (gradient(function, x, y) @ step).item() == pytest.approx(measured.item(), rel=1e-6)


def unit_norm(d=D_MODEL, centres=True, weight=None):
    weight = torch.ones(d, dtype=torch.float64) if weight is None else weight
    return Norm(weight, random(d, seed=11) if centres else None, 0.0, centres)


def test_gradient_of_a_layer_norm_has_its_closed_form():
    """Protocol 4.2: g = (sqrt(d) / |Px|) (Pv - u (u . Pv)), v = w y, u = Px / |Px|."""
    x, y, w = random(5, D_MODEL, seed=1), random(5, D_MODEL, seed=2), random(D_MODEL, seed=3)
    centre = lambda a: a - a.mean(-1, keepdim=True)  # noqa: E731
    u, v = torch.nn.functional.normalize(centre(x), dim=-1), centre(w * y)
    length = centre(x).norm(dim=-1, keepdim=True)
    closed = math.sqrt(D_MODEL) / length * (v - u * (u * v).sum(-1, keepdim=True))
    assert gap(norm_step(unit_norm(weight=w), y, x, "gradient"), closed) < 1e-12


def test_angle_between_a_direction_and_its_gradient_through_a_layer_norm():
    """Protocol section 8: cos^2 = 1 - cos(y, 1)^2 - cos(y, Px)^2, for unit weights."""
    cos = torch.nn.functional.cosine_similarity
    x, y = random(50, D_MODEL, seed=1), random(50, D_MODEL, seed=2)
    centred = x - x.mean(-1, keepdim=True)
    found = cos(y, norm_step(unit_norm(), y, x, "gradient"), dim=-1) ** 2
    known = 1 - cos(y, torch.ones_like(y), dim=-1) ** 2 - cos(y, centred, dim=-1) ** 2
    assert (found - known).abs().max() < 1e-6
    assert found.min() < 0.98, "directions that never turn would show nothing"


def test_norm_step_modes():
    x, y, w = random(4, D_MODEL, seed=1), random(4, D_MODEL, seed=2), random(D_MODEL, seed=3)
    norm = unit_norm(weight=w, centres=False)
    assert torch.equal(norm_step(norm, y, x, "ignore"), y)
    scaled = norm_step(norm, y, x, "scale")
    # With its scale held, an RMS norm is linear and this is all of it: y . norm(x) = scaled . x.
    assert gap((scaled * x).sum(-1), (y * norm(x)).sum(-1)) < EXACT
    assert scaled[0, 3].item() == pytest.approx((w[3] * y[0, 3] * math.sqrt(D_MODEL) / x[0].norm()).item())
    with pytest.raises(ValueError, match="mode must be one of ignore, scale, gradient, found 'swap'"):
        norm_step(norm, y, x, "swap")


@family
@both
def test_zero_final_is_a_near_zero(family, processing):
    from scipy.optimize import minimize

    m = wide(family, processing)
    n, bias = observable(m)
    norm = parts.final_norm(m)
    for ids in (FIRST, SECOND):
        x = trace(m, ids).resid[-1, -1]
        origin = x.numpy()
        point = zero_final(m, n, x, bias)
        assert abs((n @ norm(point)).item() + bias) < 1e-7
        assert torch.equal(point, zero_final(m, n, x, bias)), "the same point every time"
        assert torch.equal(zero_final(m, n, point, bias), point)
        value = lambda p: (n @ norm(torch.as_tensor(p))).item() + bias  # noqa: E731
        slope = lambda p: gradient(norm, torch.as_tensor(p), n).numpy()  # noqa: E731
        best = minimize(
            lambda p, x=origin: ((p - x) ** 2).sum(),
            point.numpy(),
            jac=lambda p, x=origin: 2 * (p - x),
            constraints={"type": "eq", "fun": value, "jac": slope},
            method="SLSQP",
            options={"maxiter": 500, "ftol": 1e-12},
        )
        assert best.success
        # Tangent steps are not the projection: they overshoot by the curvature of the norm over one step.
        assert (point - x).norm().item() < 1.1 * math.sqrt(best.fun)
    with pytest.raises(ValueError, match="has no zero behind the final norm near x") as error:
        zero_final(m, n, x, 1e6)
    assert "\n" not in str(error.value)


def test_crossing_finds_the_zero_or_the_mean():
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([-3.0, 4.0])
    point, t, kind = crossing(lambda x: x[0], a, b)
    assert (t, kind) == (pytest.approx(0.25, abs=1e-6), "zero")
    assert point.dtype == torch.float32
    assert gap(point, torch.tensor([0.0, 1.0])) < 1e-6
    back, s, _ = crossing(lambda x: x[0], b, a)
    assert s == pytest.approx(0.75, abs=1e-6)
    assert gap(back, point) < 1e-6
    # 1 + x^2 is positive at both ends, 2 and 10: the target is 6, at x = -sqrt(5).
    point, t, kind = crossing(lambda x: 1 + x[0].double() ** 2, a.double(), b.double())
    assert kind == "mean"
    assert point[0].item() == pytest.approx(-math.sqrt(5), rel=1e-12)
    assert crossing(lambda x: x[0] - 1, a, b)[1:] == (0.0, "zero")
    assert crossing(lambda x: x[0] + 3, a, b)[1:] == (1.0, "zero")
    same = crossing(lambda x: x[0], a, a)
    assert same[1:] == (0.0, "mean")
    assert torch.equal(same[0], a)


def test_crossing_of_an_mlp_is_a_zero():
    m = wide("gpt_neo")
    a, b = (trace(m, ids).mlp_in[2, 3] for ids in (FIRST, SECOND))
    mlp, kinds = parts.mlp(m, 2), set()
    for seed in range(6):
        y = random(D_MODEL, seed=seed)
        point, t, kind = crossing(lambda x, y=y: y @ mlp(x), a, b)
        target = 0 if kind == "zero" else (y @ mlp(a) + y @ mlp(b)).item() / 2
        assert (y @ mlp(point)).item() == pytest.approx(target, abs=1e-12)
        assert gap(point, a + t * (b - a)) < EXACT
        kinds.add(kind)
    assert kinds == {"zero", "mean"}, "both kinds are to be seen"
