"""Patching of one component with its "dense end" (protocol 4.6): whatever later blocks make of it counts too."""

from __future__ import annotations

import torch
from torch import Tensor

from bearings.lm import weights as lm_weights
from bearings.lm.forward import Tokens, forward, prepare, repeat
from bearings.lm.parts import kv_of
from bearings.lm.propagate import Head, Mlp
from bearings.studies.obsprop.search import Found, Setting


def dense(setting: Setting, source: int) -> list[Found]:
    """Every head that reads position `source`, and every MLP there, best first: how much of n . logits is lost when
    it gets the other prompt's input there, all later blocks run on the result and the linearised final norm reads it.

    A head's change, with the clean attention pattern, is added at every position that attends to the source, behind
    its block. Its own block's MLP does not see it, as in the authors' loops.
    """
    model, clean = setting.model, setting.clean
    ids = clean.ids[None]
    prepared = prepare(model, Tokens(ids, torch.ones_like(ids, dtype=torch.bool)))
    many = repeat(prepared, model.info.n_heads + 1)
    found = []
    for layer in range(model.n_layers):
        resid = clean.resid[layer + 1] + _changes(setting, layer, source)
        last = forward(model, many, start=layer + 1, resid=resid, stop=model.n_layers).resid[model.n_layers]
        scores = ((clean.resid[-1, -1] - last[:, -1]) @ setting.normal).tolist()
        names = [*(Head(layer, head, source) for head in range(model.info.n_heads)), Mlp(layer, source)]
        found += [Found((name,), score) for name, score in zip(names, scores, strict=True)]
    return sorted(found, key=lambda f: -f.score)


def _changes(setting: Setting, layer: int, source: int) -> Tensor:
    """What each head and, last, the MLP of a block writes differently [n_heads + 1, pos, d_model]."""
    model, clean, dirty = setting.model, setting.clean, setting.dirty
    moved = (dirty.v[layer, source] - clean.v[layer, source])[
        [kv_of(model, h) for h in range(model.info.n_heads)]
    ]
    written = torch.einsum("he,hed->hd", moved, lm_weights.W_O(model, layer))
    heads = clean.pattern[layer, :, :, source, None] * written[:, None]
    mlp = torch.zeros_like(heads[:1])
    mlp[0, source] = dirty.mlp_out[layer, source] - clean.mlp_out[layer, source]
    return torch.cat([heads, mlp])
