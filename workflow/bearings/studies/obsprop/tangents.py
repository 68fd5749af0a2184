"""Tangents of the final norm (protocol 4.11): fitted where one template's means tie, tried on every template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bearings.lm import weights
from bearings.lm.parts import Norm, final_norm, gradient
from bearings.lm.propagate import crossing, through_heads
from bearings.stages.inputs import Inputs
from bearings.stages.prompts import Prompt


@dataclass(frozen=True, eq=False)
class Output:
    """An observable as a function of final residuals [..., d_model] -> [...]: y . LN_f(x) + bias, in float64."""

    norm: Norm
    y: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return self.norm(x) @ self.y + self.bias

    def gradient(self, x: Tensor) -> Tensor:
        return gradient(self.norm, x, self.y)


@dataclass(frozen=True, eq=False)
class Tangent:
    """value + g . (x - x0), with the gradient g [d_model] at x0 [d_model]; `t` is where x0 lies between the means."""

    x0: Tensor
    g: Tensor
    value: Tensor
    t: float = float("nan")

    def __call__(self, x: Tensor) -> Tensor:
        return self.value + (x - self.x0) @ self.g


def output_of(model, prompt: Prompt) -> Output:
    """n . logits of the prompt's own observable: its positive words minus its negative ones, summed."""
    columns = torch.tensor([*prompt.positive, *prompt.negative], device=model.device)
    vectors, biases = (x.double() for x in weights.unembedding(model, columns))
    k = len(prompt.positive)
    y, bias = vectors[:k].sum(0) - vectors[k:].sum(0), biases[:k].sum() - biases[k:].sum()
    return Output(final_norm(model), y, bias)


def tangent(f: Output, male: Tensor, female: Tensor) -> Tangent | None:
    """The tangent of f [d_model] -> number at its zero between two means, as if f were exactly zero there."""
    with torch.no_grad():
        x0, t, kind = crossing(f, male, female)
    if kind != "zero":
        return None
    return Tangent(x0, f.gradient(x0), torch.zeros_like(f.bias), t)


def tangents(inputs: Inputs, task: str, prompts: Sequence[Prompt], rng: np.random.Generator, add) -> None:
    """Rows of one task: the tangent of every group (template) on the prompts of every other, and its control.

    A group whose means do not lie on either side of zero has no tangent. `tangent_truth` is |n . logits| itself, the
    error of saying zero, without which an error in logits means little.
    """
    model = inputs.model
    f, x = output_of(model, prompts[0]), _final(inputs, prompts)
    groups: dict[int, list[int]] = {}
    for i, p in enumerate(prompts):
        groups.setdefault(p.extra["template"], []).append(i)
    fitted = {i: tangent(f, *_means(prompts, x, rows)) for i, rows in groups.items() if _both(prompts, rows)}
    fitted = {i: found for i, found in fitted.items() if found is not None}
    with torch.no_grad():
        truth = f(x)
    ids = {i: [prompts[k].id for k in rows] for i, rows in groups.items()}
    for j, rows in groups.items():
        add("tangent_truth", truth[rows].abs(), task=task, group=j, index=ids[j])
    for i, found in fitted.items():
        add("tangent_t", found.t, task=task, group=i)
        add("grad_norm", found.g.norm().item(), task=task, group=i)
        for j, rows in groups.items():
            error = (truth[rows] - found(x[rows])).abs()
            add("tangent", error, task=task, group=i, other=str(j), index=ids[j])
        for draw in range(inputs.settings["random_draws"]):
            at = _at_random(f, found.x0.norm(), rng)
            error = (truth[groups[i]] - at(x[groups[i]])).abs()
            add("tangent_random", error, task=task, group=i, other=str(draw), index=ids[i])
    for i, j in _pairs(fitted):
        value = torch.cosine_similarity(fitted[i].g, fitted[j].g, dim=0)
        add("grad_cos", value.item(), task=task, group=i, other=str(j))
    _at_heads(inputs, fitted, task, add)


def _final(inputs: Inputs, prompts: Sequence[Prompt]) -> Tensor:
    x = inputs.dumps["names"].at("end", [p.id for p in prompts], inputs.model.n_layers)
    return torch.from_numpy(x).to(inputs.model.device).double()


def _both(prompts: Sequence[Prompt], rows: Sequence[int]) -> bool:
    return {prompts[i].label for i in rows} == {0, 1}


def _means(prompts: Sequence[Prompt], x: Tensor, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
    male, female = ([i for i in rows if prompts[i].label == label] for label in (0, 1))
    return x[male].mean(0), x[female].mean(0)


def _at_random(f: Output, length: Tensor, rng: np.random.Generator) -> Tangent:
    """The tangent of f, with its value, at a random point of that length."""
    point = torch.from_numpy(rng.standard_normal(len(f.y))).to(f.y)
    point = point * length / point.norm()
    with torch.no_grad():
        value = f(point)
    return Tangent(point, f.gradient(point), value)


def _at_heads(inputs: Inputs, fitted: dict[int, Tangent], task: str, add) -> None:
    """The tangents taken back through the heads of setting `tangent_heads`: their lengths, cosines and couplings."""
    for layer, head in inputs.settings.get("tangent_heads", ()) if fitted else ():
        stacked = torch.stack([found.g for found in fitted.values()]).to(inputs.model.dtype)
        y = dict(zip(fitted, through_heads(inputs.model, layer, stacked)[:, head], strict=True))
        where = {"task": task, "layer": layer, "head": head}
        for i in y:
            add("head_norm", y[i].norm().item(), group=i, **where)
        for i, j in _pairs(y):
            dot = y[i] @ y[j]
            add("head_cos", (dot / (y[i].norm() * y[j].norm())).item(), group=i, other=str(j), **where)
            add("head_coupling", (dot / (y[i] @ y[i])).item(), group=i, other=str(j), **where)


def _pairs(items: dict[int, object]) -> list[tuple[int, int]]:
    return [(i, j) for i in items for j in items if i < j]
