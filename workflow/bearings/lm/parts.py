"""Parts: a loaded model becomes its norms, MLPs and head outputs as pure functions on [..., d_model].

They hold no graph and install no hooks; their weights are those of the loaded processing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bearings.lm import weights
from bearings.lm.load import Model

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Norm:
    """A LayerNorm (`centres`) or RMSNorm (not) of the model, callable on [..., d_model] of any float type.

    weight: [d_model], ones where it was folded into the next map. bias: [d_model], or None where it has none.
    """

    weight: Tensor
    bias: Tensor | None
    eps: float
    centres: bool

    def __call__(self, x: Tensor) -> Tensor:
        """Normed activations, in the shape and type of x; half precision is normed in float32, as the model does."""
        wide = torch.promote_types(x.dtype, torch.float32)
        y = x.to(wide)
        if self.centres:
            y = y - y.mean(-1, keepdim=True)
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps) * self.weight.to(wide)
        return (y if self.bias is None else y + self.bias.to(wide)).to(x.dtype)


def attn_norm(model: Model, layer: int) -> Norm:
    """The norm in front of the attention of block `layer`."""
    return _norm(model.blocks[layer].ln1)


def mlp_norm(model: Model, layer: int) -> Norm:
    """The norm in front of the MLP of block `layer`; the attention's own where both share one (GPT-J)."""
    block = model.blocks[layer]
    return _norm(block.ln1 if getattr(block, "ln2", None) is None else block.ln2)


def final_norm(model: Model) -> Norm:
    """The norm in front of the unembedding."""
    return _norm(model.bridge.ln_final)


def gain(norm: Norm) -> Tensor:
    """Elementwise weight [d_model] of a norm; ones in a folded model."""
    return norm.weight


def centres(norm: Norm) -> bool:
    """Whether a norm takes the mean out first (LayerNorm) or not (RMSNorm)."""
    return norm.centres


def parallel(model: Model) -> bool:
    """Whether attention and MLP of a block read the same residual, so that neither is upstream of the other."""
    return bool(getattr(model.bridge.cfg, "parallel_attn_mlp", False))


def mlp(model: Model, layer: int) -> Function:
    """The MLP of block `layer` with its bias: normed input [..., d_model] -> what it writes [..., d_model].

    In the model's dtype. Not to be called while hooks are installed: they would see it.
    """
    return model.blocks[layer].mlp


def ov(model: Model, layer: int, head: int) -> Function:
    """What one head writes [..., d_model] for its z, or for one position's value, [..., d_head]; no bias."""
    w = weights.W_O(model, layer)[head]
    return lambda z: z @ w


def kv_of(model: Model, head: int) -> int:
    """The value head that query head `head` reads; its own number unless heads are grouped."""
    return head // (model.info.n_heads // model.info.n_kv_heads)


def gradient(function: Function, x: Tensor, y: Tensor) -> Tensor:
    """Gradient [..., d] of y . function(x) at x, exact, by reverse mode.

    x [..., d] and y [..., d_out] are broadcast against each other's leading axes, over which `function` must
    act row by row. Nothing of the graph is kept.
    """
    lead = torch.broadcast_shapes(x.shape[:-1], y.shape[:-1])
    point = x.detach().expand(*lead, x.shape[-1]).clone().requires_grad_()
    with torch.enable_grad():
        out = function(point)
        return torch.autograd.grad(out, point, y.detach().to(out.dtype).expand(out.shape))[0]


def _norm(module: Any) -> Norm:
    """The norm that a pass computes: TransformerLens takes the module's own epsilon or the configured one."""
    original, config = module.original_component, module.config
    eps = config.eps
    if module.use_native_layernorm_autograd or getattr(config, "layer_norm_folding", False):
        eps = getattr(original, "eps", None) or getattr(original, "variance_epsilon", None) or eps
    centres = not module.uses_rms_norm
    return Norm(original.weight.detach(), original.bias.detach() if centres else None, float(eps), centres)
