"""Points: where on a prompt's activations a norm or an MLP is replaced by its tangent (ObProp, protocol 4.2)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bearings.lm.load import Model
from bearings.lm.parts import Norm, final_norm, gain, gradient

# How a norm is treated at one point x (protocol 4.2): left out, its scale at x held, its exact gradient.
STEPS = ("ignore", "scale", "gradient")
NEWTON_STEPS = 100
ZERO = 1e-7


def norm_step(norm: Norm, y: Tensor, x: Tensor, mode: str) -> Tensor:
    """A direction y [..., d] behind a norm carried in front of it [..., d], at the norm's input x [..., d].

    ignore: y. scale: weight * sqrt(d) / |x| * y, |x| of x as it is (protocol 4.2 (b)). gradient: the exact
    gradient of y . norm(x). Raises ValueError for another mode.
    """
    if mode == "ignore":
        return y
    if mode == "scale":
        return gain(norm) * math.sqrt(x.shape[-1]) / x.norm(dim=-1, keepdim=True) * y
    if mode == "gradient":
        return gradient(norm, x, y)
    raise ValueError(f"mode must be one of {', '.join(STEPS)}, found {mode!r}")


def crossing(value: Callable[[Tensor], Tensor | float], a: Tensor, b: Tensor) -> tuple[Tensor, float, str]:
    """Point a + t (b - a) [d] where the scalar `value` is zero, its t in [0, 1], and how it was found.

    "zero": the ends differ in sign. "mean": they do not, and the point is where `value` is the mean of the two
    ends (protocol 4.2). By bisection from t = 1/2 to the precision of a's type, so the same root every time; t is
    a float64 and the point has the type of a. Where the ends agree the point is a.
    """
    wide_a, span = a.double(), b.double() - a.double()

    def at(t: float) -> float:
        return float(value((wide_a + t * span).to(a.dtype)))

    first, last = at(0.0), at(1.0)
    kind = "mean" if first * last > 0 else "zero"
    target = (first + last) / 2 if kind == "mean" else 0.0
    if first == target or last == target:
        return (a, 0.0, kind) if first == target else (b, 1.0, kind)
    low, high = 0.0, 1.0
    while high - low > torch.finfo(a.dtype).eps:
        middle = (low + high) / 2
        if (at(middle) > target) == (first > target):
            low = middle
        else:
            high = middle
    t = (low + high) / 2
    return (wide_a + t * span).to(a.dtype), t, kind


def zero_final(model: Model, n: Tensor, x: Tensor, offset: float = 0.0) -> Tensor:
    """Point [d] near x [d] where n . final_norm(point) + offset = 0, in float64 (protocol 4.2).

    n: [d_model], an observable in front of the unembedding, W_U n. offset: the observable on the unembedding's
    bias, for models that have one. Each step goes to the zero of the tangent, x - g grad / |grad|^2, and is
    halved while it would leave |g| larger, which the rule alone can do where the gradient is small.

    Raises ValueError, with the |g| reached, when |g| < 1e-7 is not reached in 100 steps: a bias of the norm
    larger than anything the direction can cancel leaves no zero.
    """
    norm = final_norm(model)
    point, wide = x.double(), n.double()

    def value(at: Tensor) -> float:
        return float(wide @ norm(at)) + offset

    g = value(point)
    for _ in range(NEWTON_STEPS):
        if abs(g) < ZERO:
            return point
        slope = gradient(norm, point, wide)
        step = g * slope / slope.square().sum()
        while abs(value(point - step)) > abs(g) and step.norm() > torch.finfo(step.dtype).eps * point.norm():
            step = step / 2
        point = point - step
        g = value(point)
    if abs(g) < ZERO:
        return point
    raise ValueError(
        f"{model.name}: the observable has no zero behind the final norm near x: |g| stays {abs(g):.1e}"
    )
