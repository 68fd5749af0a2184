"""What the weights alone say of every head (protocol 4.1, 4.4): features, their norms, cosines and couplings.

Heads are taken layer by layer, a layer's matrices at a time, so that a large model costs no more memory than itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from bearings.lm import weights as lm_weights
from bearings.lm.forward import forward, pad, prepare
from bearings.lm.parts import attn_norm, final_norm, gain
from bearings.lm.propagate import through_heads
from bearings.stages.inputs import Inputs, Outcomes
from bearings.stages.prompts import Prompt
from bearings.studies.obsprop.common import has_pair, observables, pair, vector

SUBJECT = "n_subj"
# Observables that the subject pronoun's is compared with, where the lists have them.
OTHERS = ("n_obj", "n_bias", "control")
SCHEMA = {
    "layer": pa.int32(), "head": pa.int32(), "observable": pa.string(), "other": pa.string(),
    "quantity": pa.string(), "value": pa.float64(),
}  # fmt: skip


def at_output(model, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
    """W_U n [d_model] of every observable whose words are single tokens: its feature behind the final norm."""
    unembed = lm_weights.W_U(model)
    out = {}
    for name in observables(prompts):
        n = torch.from_numpy(vector(prompts, name, unembed.shape[1])).to(unembed)
        out[name] = unembed @ n
    return out


def features(model, prompts: Sequence[Prompt]) -> dict[str, np.ndarray]:
    """No-norm features: "<observable>/<layer>" [n_heads, d_model] and "output/<observable>" [d_model]."""
    starts = at_output(model, prompts)
    if not starts:  # a tokenizer that splits all of their words
        return {}
    names = list(starts)
    stacked = torch.stack([starts[name] for name in names])
    out = {f"output/{name}": _numpy(starts[name]) for name in names}
    for layer in range(model.n_layers):
        found = through_heads(model, layer, stacked)
        out |= {f"{name}/{layer}": _numpy(found[i]) for i, name in enumerate(names)}
    return out


def random_observables(model, count: int, seed: int) -> Tensor:
    """W_U n [count, d_model] of differences of two tokens drawn from the vocabulary."""
    unembed = lm_weights.W_U(model)
    rng = np.random.default_rng([seed, 12])
    pairs = np.stack([rng.choice(unembed.shape[1], 2, replace=False) for _ in range(count)])
    plus, minus = (unembed[:, torch.from_numpy(column).to(unembed.device)].T for column in pairs.T)
    return plus - minus


def weights(inputs: Inputs) -> pa.Table:
    """Norms, cosines and couplings of the heads' features; layer and head -1 are the output space."""
    model, seed = inputs.model, inputs.seed
    starts = at_output(model, inputs.prompts["pairs"])
    random = random_observables(model, inputs.settings["random_observables"], seed)
    x_f = mean_final_norm(model, inputs.prompts["pairs"])
    out = Outcomes(SCHEMA)
    if SUBJECT not in starts or x_f is None:
        return out.table()
    out.add(layer=-1, head=-1, observable=SUBJECT, other="", quantity="norm_final", value=x_f)
    for row in _compared({k: v[None] for k, v in starts.items()}, random[:, None]):
        out.add(layer=-1, **{**row, "head": -1})
    for layer in range(model.n_layers):
        for row in _of_layer(model, layer, starts, random, x_f):
            out.add(layer=layer, **row)
    return out.table()


def _of_layer(model, layer: int, starts: Mapping[str, Tensor], random: Tensor, x_f: float) -> Iterator[dict]:
    names = list(starts)
    stacked = torch.stack([starts[name] for name in names])
    root = stacked.shape[1] ** 0.5
    here, last = root * gain(attn_norm(model, layer)), root / x_f * gain(final_norm(model))
    plain = through_heads(model, layer, torch.cat([stacked, random]))
    by_name = dict(zip(names, plain, strict=False))
    # As published, the final norm's weight meets the feature behind the head, which is another space (T4).
    published = {name: (y * here * last).norm(dim=-1) for name, y in by_name.items()}
    corrected = (through_heads(model, layer, stacked * last) * here).norm(dim=-1)
    for i, name in enumerate(names):
        for quantity, values in (
            ("norm", by_name[name].norm(dim=-1)),
            ("norm_ln_published", published[name]),
            ("norm_ln_corrected", corrected[i]),
        ):
            heads = list(range(len(values)))
            yield {"head": heads, "observable": name, "other": "", "quantity": quantity, "value": values}
    yield from _compared(by_name, plain[len(names) :])


def _compared(features: Mapping[str, Tensor], random: Tensor) -> Iterator[dict]:
    """Cosine and coupling of the subject's features [n_heads, d_model] with others at the same heads."""
    y = features[SUBJECT]
    heads = list(range(len(y)))
    others = {name: features[name] for name in OTHERS if name in features}
    others |= {f"random.{k}": row for k, row in enumerate(random)}
    for name, other in others.items():
        shared = {"head": heads, "observable": SUBJECT, "other": name}
        dot = (y * other).sum(-1)
        yield {**shared, "quantity": "cos", "value": dot / (y.norm(dim=-1) * other.norm(dim=-1))}
        if not name.startswith("random."):
            yield {**shared, "quantity": "coupling", "value": dot / (y * y).sum(-1)}


def mean_final_norm(model, prompts: Sequence[Prompt]) -> float | None:
    """Mean length of the residual in front of the final norm at the end of the subject's pair; None without one."""
    if not has_pair(prompts, "subj"):
        return None
    tokens = pad([list(p.ids) for p in pair(prompts, "subj")], 0)
    resid = forward(model, prepare(model, tokens), keep=[model.n_layers]).resid[model.n_layers]
    return float(resid[:, -1].norm(dim=-1).mean())


def _numpy(x: Tensor) -> np.ndarray:
    return x.detach().float().cpu().numpy()
