"""Propagation: a direction of the logits becomes feature vectors further down a path of components.

Dunefsky and Cohan, arXiv 2312.16291. An observable is a linear functional of the logits; carried back through
heads (linear while the attention is held), MLPs and norms (to first order) it becomes a direction y in front
of a component, and y . x there says what that path adds to the observable. Row convention: a component that
maps x to f(x) turns the direction y on its output into grad_x (y . f(x)) on its input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bearings.lm import parts, paths, weights
from bearings.lm.load import Model
from bearings.lm.paths import Head, Mlp, Path, parse_path, show_path
from bearings.lm.points import STEPS, crossing, norm_step, zero_final
from bearings.lm.trace import Trace

__all__ = [
    "MODES", "STEPS", "Contributions", "Head", "Mlp", "Path", "contributions", "crossing", "features", "norm_step",
    "parse_path", "show_path", "through_heads", "zero_final",
]  # fmt: skip

# "scale_swapped" holds the scale of the other norm of the block, as the published numbers did.
MODES = (*STEPS, "scale_swapped")


def through_heads(model: Model, layer: int, y: Tensor) -> Tensor:
    """Directions y [k, d_model] on the residual carried through every head of a block [k, head, d_model].

    y_h = W_V[h] (W_O[h] y), the feature at the normed input, without norm and without attention weight; y_h . x
    is y . (what head h writes for the value of x), biases aside. No d_model x d_model matrix is built.
    """
    info = model.info
    if y.ndim != 2 or y.shape[1] != info.d_model:
        raise ValueError(f"y must be [k, {info.d_model}], found {list(y.shape)}")
    w_o = weights.W_O(model, layer).reshape(info.n_heads * info.d_head, info.d_model)
    by_value = (y @ w_o.T).view(len(y), info.n_kv_heads, -1, info.d_head)
    out = torch.einsum("kvge,vde->kvgd", by_value, weights.W_V(model, layer))
    return out.reshape(len(y), info.n_heads, info.d_model)


def features(
    model: Model,
    path: Path | Sequence[str] | str,
    n: Tensor,
    mode: str = "ignore",
    a: Trace | None = None,
    b: Trace | None = None,
    *,
    start: str = "a",
    offset: float = 0.0,
    attention: bool = False,
) -> Tensor:
    """Features [len(path), d_model] of an observable: row i lives at the input of path[i].

    path: components from the output down, or what `parse_path` reads. The top one writes at the last position,
      every other one where the one above it reads.
    n: [d_model], the observable in front of the unembedding, W_U n.
    mode: "ignore" leaves every norm out, the final one too, so that rows live behind the norm. The others
      linearise the final norm at its zero nearest to prompt `start` ("a" or "b"; `zero_final`, `offset`), put
      every row on the residual in front of the component's norm, and take that norm at prompt a: "scale" and
      "gradient" as in `norm_step`; "scale_swapped" with the scale of the block's other norm and its input (T3).
    a, b: traces of the two prompts. Needed: none for heads under "ignore"; both for an MLP in any mode, which is
      linearised where y . MLP is zero between its two normed inputs (`crossing`); otherwise a, and `start`.
    attention: rows carry the weight with which a head attends in prompt a from where it writes to where it
      reads. Left out by default, as in the paper: features are products of OV maps alone, so their length is
      that of full attention; with it, the composed map is the real model's with its attention held.

    Results are in the model's dtype. Raises ValueError, one line, for a path that the model does not have or a
    prompt that is missing or too short.
    """
    steps = parse_path(path)
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, found {mode!r}")
    if start not in ("a", "b"):
        raise ValueError(f"start must be 'a' or 'b', found {start!r}")
    paths.check(model, steps, [len(prompt.ids) for prompt in (a, b) if prompt is not None])
    y = n.to(model.device, model.dtype)
    if mode != "ignore":
        prompt = _need({"a": a, "b": b}[start], start, f"mode {mode!r}")
        x = prompt.resid[-1, -1]
        norm = parts.final_norm(model)
        y = norm_step(norm, n.to(x.device, torch.float64), zero_final(model, n, x, offset), "gradient").to(
            model.dtype
        )
    rows, writes = [], -1
    for step in steps:
        if isinstance(step, Mlp):
            y = _through_mlp(model, step, y, a, b)
        else:
            y = _through_attention(model, step, y, _need(a, "a", "attention") if attention else None, writes)
        if mode != "ignore":
            y = _in_front(model, step, y, mode, _need(a, "a", f"mode {mode!r}"))
        rows.append(y)
        writes = step.position
    return torch.stack(rows)


def _through_attention(model: Model, step: Head, y: Tensor, a: Trace | None, writes: int) -> Tensor:
    if step.head is None:
        by_head = through_heads(model, step.layer, y[None])[0]
    else:
        value = weights.W_O(model, step.layer)[step.head] @ y
        by_head = (weights.W_V(model, step.layer)[parts.kv_of(model, step.head)] @ value)[None]
    if a is not None:
        weight = a.pattern[step.layer, :, writes, step.position]
        by_head = by_head * (weight if step.head is None else weight[step.head])[..., None]
    return by_head.sum(0)


def _through_mlp(model: Model, step: Mlp, y: Tensor, a: Trace | None, b: Trace | None) -> Tensor:
    ends = [
        _need(prompt, name, f"mlp{step.layer}").mlp_in[step.layer, step.position]
        for prompt, name in ((a, "a"), (b, "b"))
    ]
    mlp = parts.mlp(model, step.layer)
    with torch.no_grad():
        point, _, _ = crossing(lambda x: y @ mlp(x), *ends)
    return parts.gradient(mlp, point, y)


def _in_front(model: Model, step: Head | Mlp, y: Tensor, mode: str, a: Trace) -> Tensor:
    """y behind the component's norm carried to the residual in front of it, at prompt a."""
    of_mlp = isinstance(step, Mlp) != (mode == "scale_swapped")
    norm = (parts.mlp_norm if of_mlp else parts.attn_norm)(model, step.layer)
    x = (a.mid if of_mlp else a.resid)[step.layer, step.position]
    return norm_step(norm, y, x, "gradient" if mode == "gradient" else "scale")


def _need(prompt: Trace | None, name: str, what: str) -> Trace:
    if prompt is None:
        raise ValueError(f"{what} needs the trace of prompt {name}")
    return prompt


@dataclass(frozen=True, eq=False)
class Contributions:
    """What each component wrote at one position, along k directions.

    embed: [k]. heads: [k, n_layers, head], biases of attention outputs aside. attn_bias: [k, n_layers].
    mlps: [k, n_layers], output biases aside. mlp_bias: [k, n_layers].
    """

    embed: Tensor
    heads: Tensor
    attn_bias: Tensor
    mlps: Tensor
    mlp_bias: Tensor

    @property
    def total(self) -> Tensor:
        """Sum over all components [k]: the direction on the final residual."""
        rest = (self.attn_bias + self.mlps + self.mlp_bias).sum(-1)
        return self.embed + self.heads.sum((-2, -1)) + rest


def contributions(model: Model, trace: Trace, position: int, direction: Tensor) -> Contributions:
    """What every component adds to direction . resid[-1, position]; directions are [k, d_model] or [d_model].

    They sum to it (`total`): the residual is the sum of what was written. A head's values carry their own bias,
    so it counts as the head's.
    """
    y = direction.reshape(-1, direction.shape[-1]).to(trace.resid)
    layers = range(model.n_layers)
    heads = [
        torch.einsum("kd,hed,he->kh", y, weights.W_O(model, layer), trace.z[layer, position])
        for layer in layers
    ]
    attn_bias = torch.stack([y @ weights.b_O(model, layer) for layer in layers], 1)
    mlp_bias = torch.stack([y @ weights.b_out(model, layer) for layer in layers], 1)
    mlps = y @ trace.mlp_out[:, position].T - mlp_bias
    return Contributions(y @ trace.resid[0, position], torch.stack(heads, 1), attn_bias, mlps, mlp_bias)
