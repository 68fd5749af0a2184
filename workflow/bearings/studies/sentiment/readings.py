"""What the direction reads without touching the model: neurons that write along it, and negated words (4.8, 4.9)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import torch

from bearings.lm import weights
from bearings.lm.forward import forward
from bearings.stages.batch import in_batches
from bearings.stages.inputs import Inputs, Outcomes
from bearings.studies.sentiment.common import METHODS, toy, unit

NEURONS = {
    "layer": pa.int32(),
    "neuron": pa.int32(),
    "method": pa.string(),
    "draw": pa.int32(),
    "cosine": pa.float32(),
    "positive": pa.float32(),
    "negative": pa.float32(),
}
NEGATION = {
    "method": pa.string(),
    "draw": pa.int32(),
    "prompt": pa.int32(),
    "set": pa.string(),
    "layer": pa.int32(),
    "cosine": pa.float32(),
    "mean": pa.float32(),
    "sd": pa.float32(),
}


def neurons(inputs: Inputs) -> pa.Table:
    """Cosine of every neuron's output weights with the layer-1 direction, and its mean activation on toy words.

    `positive` and `negative` are means over the summary position of the test prompts of each class. Random
    directions show how large the largest of so many cosines is by chance.
    """
    out = Outcomes(NEURONS)
    words = toy(inputs.prompts["toy"], "test")
    chosen = inputs.settings["direction"]
    d = unit(inputs.directions[chosen], "corrected", 1)
    if d is None or not words:
        return out.table()
    acts = _neuron_means(inputs, words)
    ways = [(chosen, 0, d)] + [
        ("random", draw, unit(inputs.directions["random"], str(draw), 1))
        for draw in range(inputs.settings["random_draws"])
    ]
    for layer in range(inputs.model.n_layers):
        rows = weights.W_out(inputs.model, layer).double()
        rows = rows / rows.norm(dim=1, keepdim=True)
        for method, draw, direction in ways:
            out.add(
                layer=layer,
                neuron=list(range(len(rows))),
                method=method,
                draw=draw,
                cosine=rows @ torch.from_numpy(direction).double(),
                positive=acts[layer][1],
                negative=acts[layer][0],
            )
    return out.table()


def _neuron_means(inputs: Inputs, prompts) -> dict[int, dict[int, torch.Tensor]]:
    names = {i: f"blocks.{i}.mlp.hook_post" for i in range(inputs.model.n_layers)}
    sums = {i: {0: 0.0, 1: 0.0} for i in names}
    for _, batch in in_batches(inputs.model, prompts, inputs.settings["batch_tokens"]):
        hooks = forward(inputs.model, batch.prepared, keep=names.values()).hooks
        at = batch.index("sum")
        for i, name in names.items():
            post = hooks[name][torch.arange(len(at)), at]
            for side in (0, 1):
                sums[i][side] = sums[i][side] + post[(batch.sign > 0) == bool(side)].sum(0)
    count = {side: max(sum(p.label == side for p in prompts), 1) for side in (0, 1)}
    return {i: {side: sums[i][side] / count[side] for side in (0, 1)} for i in names}


def negation(inputs: Inputs) -> pa.Table:
    """Cosine of the residual with the layer-1 direction at negated words, at every layer (protocol 4.9).

    Set `negated` holds the texts of the study at their target word; `plain` the toy prompts at their adjective,
    where nothing is negated. `mean` and `sd` are those of the cosine over all tokens and layers of the reviews.
    """
    out = Outcomes(NEGATION)
    targets = {
        "negated": ([p for p in inputs.prompts["negation"] if p.usable], "target"),
        "plain": (toy(inputs.prompts["toy"], "test"), "adj"),
    }
    ways = {(m, 0): unit(inputs.directions[m], "corrected", 1) for m in METHODS}
    ways |= {
        ("random", draw): unit(inputs.directions["random"], str(draw), 1)
        for draw in range(inputs.settings["random_draws"])
    }
    ways = {k: d for k, d in ways.items() if d is not None and d.ndim == 1}
    if not ways or not targets["negated"][0]:
        return out.table()
    keys = list(ways)
    directions = torch.from_numpy(np.stack([ways[k] for k in keys]))
    mean, sd = _spread(inputs, directions)
    layers = range(inputs.model.n_layers + 1)
    for name, (prompts, where) in targets.items():
        for _, batch in in_batches(inputs.model, prompts, inputs.settings["batch_tokens"]):
            resid = forward(inputs.model, batch.prepared, keep=layers).resid
            at = batch.index(where)
            for layer in layers:
                x = resid[layer][torch.arange(len(at)), at]
                cosine = x @ directions.T / x.norm(dim=-1, keepdim=True)
                for j, (method, draw) in enumerate(keys):
                    out.add(
                        method=method,
                        draw=draw,
                        prompt=[p.id for p in batch.prompts],
                        set=name,
                        layer=layer,
                        cosine=cosine[:, j],
                        mean=mean[j].item(),
                        sd=sd[j].item(),
                    )
    return out.table()


def _spread(inputs: Inputs, directions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation [n directions] of the cosine over all tokens of reviews and layers but the last."""
    texts = [
        p
        for p in inputs.prompts["reviews"]
        if p.usable and p.extra["scaffold"] == "ablation" and p.split == "dev"
    ]
    total, square, count = 0.0, 0.0, 0
    for _, batch in in_batches(inputs.model, texts, inputs.settings["batch_tokens"]):
        resid: Mapping[int, torch.Tensor] = forward(
            inputs.model, batch.prepared, keep=range(inputs.model.n_layers)
        ).resid
        for x in resid.values():
            x = x[batch.mask]
            cosine = (x @ directions.T / x.norm(dim=-1, keepdim=True)).double()
            total, square, count = total + cosine.sum(0), square + (cosine**2).sum(0), count + len(x)
    if not count:
        nothing = torch.full((len(directions),), float("nan"))
        return nothing, nothing
    mean = total / count
    return mean, (square / count - mean**2).clamp(min=0).sqrt()
