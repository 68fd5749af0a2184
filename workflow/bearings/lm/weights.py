"""Weights under one set of shapes, whatever the architecture stores: layers go in, views or small copies out.

They are the weights of the loaded processing: with "folded", the folded ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bearings.lm.load import Model


def W_V(model: Model, layer: int) -> Tensor:
    """Value maps [kv_head, d_model, d_head]: v = x @ W_V[h] (+ bias)."""
    info = model.info
    return _shaped(model, layer, "attn.W_V", (info.n_kv_heads, info.d_model, info.d_head))


def W_O(model: Model, layer: int) -> Tensor:
    """Output maps [head, d_head, d_model]: the head writes z @ W_O[h]."""
    info = model.info
    return _shaped(model, layer, "attn.W_O", (info.n_heads, info.d_head, info.d_model))


def W_out(model: Model, layer: int) -> Tensor:
    """What each neuron writes [d_mlp, d_model]."""
    weight = model.blocks[layer].mlp.W_out
    if weight.ndim != 2 or weight.shape[1] != model.info.d_model:
        raise ValueError(
            f"{model.name}: blocks.{layer}.mlp.W_out has shape {list(weight.shape)}, not [d_mlp, d_model]"
        )
    return weight


def b_O(model: Model, layer: int) -> Tensor:
    """What the attention of a block writes beside its heads [d_model]; zero where it has no bias."""
    return _bias(model, model.blocks[layer].attn.b_O)


def b_out(model: Model, layer: int) -> Tensor:
    """What the MLP of a block writes beside its neurons [d_model]; zero where it has no bias."""
    return _bias(model, model.blocks[layer].mlp.b_out)


def W_U(model: Model) -> Tensor:
    """Unembedding [d_model, d_vocab]."""
    return model.bridge.unembed.W_U


def unembedding(model: Model, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors [..., d_model] and biases [...] that turn a normed residual into logits of token ids [...]."""
    return W_U(model).T[columns], model.bridge.unembed.b_U[columns]


def final_norm(model: Model, resid: Tensor) -> Tensor:
    """The model's final norm on a residual [..., d_model]."""
    return model.bridge.ln_final(resid)


def logits(model: Model, resid: Tensor, columns: Tensor | None = None) -> Tensor:
    """Logits of a final residual [..., d_model]: [..., d_vocab], or of token ids only.

    `columns` [k] gives [..., k]; `columns` [batch, k], other ids in every row, gives [batch, (rows,) k].
    """
    normed = final_norm(model, resid)
    if columns is None:
        return model.bridge.unembed(normed)
    vectors, biases = unembedding(model, columns.to(normed.device))
    if columns.ndim == 1:
        return normed @ vectors.T + biases
    if columns.ndim != 2 or len(columns) != len(normed):
        raise ValueError(
            f"columns must be [k] or [batch, k], found {list(columns.shape)} for batch {len(normed)}"
        )
    if normed.ndim == 2:
        return torch.einsum("bd,bkd->bk", normed, vectors) + biases
    return torch.einsum("brd,bkd->brk", normed, vectors) + biases[:, None]


def _bias(model: Model, bias: Tensor | None) -> Tensor:
    if bias is None:
        return torch.zeros(model.info.d_model, dtype=model.dtype, device=model.device)
    return bias


def _shaped(model: Model, layer: int, name: str, shape: tuple[int, int, int]) -> Tensor:
    weight: Tensor = model.blocks[layer]
    for part in name.split("."):
        weight = getattr(weight, part)
    if tuple(weight.shape) != shape:
        raise ValueError(
            f"{model.name}: blocks.{layer}.{name} has shape {list(weight.shape)}, expected {list(shape)}"
        )
    return weight
