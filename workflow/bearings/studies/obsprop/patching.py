"""Path patching of single heads, in its exact short form (protocol 4.5), and each component's direct contribution.

Patching a head with the other prompt's input, and nothing else, changes the residual in front of the final norm by
the difference of its outputs in the two runs. So two plain passes serve all heads of a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from bearings.lm import weights as lm_weights
from bearings.lm.forward import forward
from bearings.lm.load import Model
from bearings.lm.parts import final_norm
from bearings.stages.batch import in_batches
from bearings.stages.inputs import Inputs, Outcomes
from bearings.stages.prompts import Prompt
from bearings.studies.obsprop.common import NAME_TASKS, TASKS, observables, vector

SCHEMA = {
    "task": pa.string(), "kind": pa.string(), "template": pa.int32(), "pair": pa.int32(),
    "component": pa.string(), "layer": pa.int32(), "head": pa.int32(), "quantity": pa.string(),
    "held_out": pa.bool_(), "value": pa.float64(),
}  # fmt: skip
CROSS, WITHIN = "cross", "within"


@dataclass(frozen=True, eq=False)
class Ends:
    """What n prompts hold at their last position.

    resid [n, n_layers + 1, d_model]: the residual entering every block, and the final one.
    z [n, n_layers, n_heads, d_head]: head outputs in front of W_O.
    """

    resid: Tensor
    z: Tensor


@dataclass(frozen=True, eq=False)
class Readout:
    """An observable on a model: logits' difference = y . norm(x) + bias, y [d_model] = W_U n."""

    model: Model
    y: Tensor
    bias: float

    def __call__(self, x: Tensor) -> Tensor:
        """n . logits [...] of final residuals [..., d_model]."""
        return final_norm(self.model)(x) @ self.y + self.bias

    def direct(self, x: Tensor) -> Tensor:
        """Rows g [..., d_model] with g . (x' - x) = change of n . logits while the norm's scale stays that at x."""
        norm = final_norm(self.model)
        v = norm.weight * self.y
        if norm.centres:
            v, x = v - v.mean(), x - x.mean(-1, keepdim=True)
        return v / (x.square().mean(-1, keepdim=True) + norm.eps).sqrt()


def readout(model, n: np.ndarray) -> Readout:
    """An observable n [d_vocab] on a model."""
    unembed = lm_weights.W_U(model)
    weights = torch.from_numpy(n).to(unembed)
    return Readout(model, unembed @ weights, float(model.bridge.unembed.b_U @ weights))


def ends(model, prompts: Sequence[Prompt], max_tokens: int) -> Ends:
    """One pass over prompts, of which only the last position is kept."""
    layers = range(model.n_layers)
    hooks = {layer: f"blocks.{layer}.attn.hook_z" for layer in layers}
    resid: list[Tensor | None] = [None] * len(prompts)
    z: list[Tensor | None] = [None] * len(prompts)
    for group, batch in in_batches(model, prompts, max_tokens):
        done = forward(model, batch.prepared, keep=[*range(model.n_layers + 1), *hooks.values()])
        rows = torch.arange(len(group), device=batch.rows.device)
        at = batch.rows
        stacked = torch.stack([done.resid[layer][rows, at] for layer in range(model.n_layers + 1)], 1)
        heads = torch.stack([_by_head(model, done.hooks[hooks[layer]])[rows, at] for layer in layers], 1)
        for i, one, other in zip(group, stacked, heads, strict=True):
            resid[i], z[i] = one, other
    return Ends(torch.stack(resid), torch.stack(z))


def _by_head(model, z: Tensor) -> Tensor:
    """Head outputs [batch, pos, n_heads, d_head], whether they come with heads apart or side by side."""
    return z.reshape(*z.shape[:2], model.info.n_heads, -1)


def attributions(model, read: Readout, ends: Ends, clean: Sequence[int], dirty: Sequence[int]) -> Tensor:
    """n . logits(clean) - n . logits(patched) [pair, n_layers, n_heads] of patching each head alone."""
    x = ends.resid[clean, -1]
    before = read(x)
    out = []
    for layer in range(model.n_layers):
        change = ends.z[dirty, layer] - ends.z[clean, layer]
        written = torch.einsum("phe,hed->phd", change, lm_weights.W_O(model, layer))
        out.append(before[:, None] - read(x[:, None] + written))
    return torch.stack(out, 1)


def direct(
    model, read: Readout, ends: Ends, clean: Sequence[int], dirty: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Direct contributions to clean minus dirty with the final norm frozen at clean: of heads
    [pair, n_layers, n_heads], MLPs [pair, n_layers] and the embedding [pair]; biases are the same in both runs.

    They add up to g . (x_clean - x_dirty).
    """
    g = read.direct(ends.resid[clean, -1])
    step = ends.resid[clean] - ends.resid[dirty]
    heads, mlps = [], []
    for layer in range(model.n_layers):
        change = ends.z[clean, layer] - ends.z[dirty, layer]
        written = torch.einsum("phe,hed->phd", change, lm_weights.W_O(model, layer))
        rest = step[:, layer + 1] - step[:, layer] - written.sum(1)
        heads.append(torch.einsum("phd,pd->ph", written, g))
        mlps.append((rest * g).sum(-1))
    return torch.stack(heads, 1), torch.stack(mlps, 1), (step[:, 0] * g).sum(-1)


def patching(inputs: Inputs) -> pa.Table:
    """Every head and component, for each pair of prompts of a template: female and male, female and female."""
    model = inputs.model
    out = Outcomes(SCHEMA)
    known = observables(inputs.prompts["pairs"])
    for task in NAME_TASKS:
        observable = TASKS[task]
        prompts = [p for p in inputs.prompts["names"] if p.extra["task"] == task and p.usable]
        if not prompts or observable not in known:
            continue
        d_vocab = lm_weights.W_U(model).shape[1]
        read = readout(model, vector(inputs.prompts["pairs"], observable, d_vocab))
        found = ends(model, prompts, inputs.settings["max_tokens"])
        for kind, clean, dirty in pairs(prompts):
            shared = {"task": task, "kind": kind}
            about = [prompts[i] for i in clean]
            shared |= {
                "template": [p.extra["template"] for p in about],
                "pair": [p.extra["pair"] for p in about],
                "held_out": [bool(p.extra["held_out"]) for p in about],
            }
            patch = attributions(model, read, found, clean, dirty)
            heads, mlps, embed = direct(model, read, found, clean, dirty)
            whole = read(found.resid[clean, -1]) - read(found.resid[dirty, -1])
            out.add(**shared, component="output", layer=-1, head=-1, quantity="patch", value=whole)
            out.add(**shared, component="embed", layer=-1, head=-1, quantity="direct", value=embed)
            for layer in range(model.n_layers):
                at = {**shared, "layer": layer}
                out.add(**at, component="mlp", head=-1, quantity="direct", value=mlps[:, layer])
                for head in range(patch.shape[2]):
                    of = {**at, "component": "head", "head": head}
                    out.add(**of, quantity="patch", value=patch[:, layer, head])
                    out.add(**of, quantity="direct", value=heads[:, layer, head])
    return out.table()


def pairs(prompts: Sequence[Prompt]) -> Iterator[tuple[str, list[int], list[int]]]:
    """(kind, clean, dirty) indices: the i-th female name with the i-th male one, and with the next female."""
    by_key = {(p.extra["template"], p.extra["gender"], p.extra["pair"]): i for i, p in enumerate(prompts)}
    female = [key for key in by_key if key[1] == "female"]
    cross = [(key, (key[0], "male", key[2])) for key in female]
    within = [(key, (key[0], "female", key[2] + 1)) for key in female]
    for kind, asked in ((CROSS, cross), (WITHIN, within)):
        both = [(by_key[a], by_key[b]) for a, b in asked if b in by_key]
        if both:
            yield kind, [a for a, _ in both], [b for _, b in both]
