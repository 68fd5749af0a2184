"""Edits: pure functions on activations [..., d], and the small objects that say where in a model they act.

A function takes an activation and returns one of the same shape; an edit binds it to a layer or a hook and to
a position mask [batch, pos].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]

# Rows of a span may miss orthonormality by the rounding of an fp32 matrix exponential or QR (about 1e-5 at
# d = 4096), never by a forgotten normalisation.
ORTHONORMAL = 1e-4


def span(direction: Tensor) -> Tensor:
    """Orthonormal rows [k, d] of a direction [d] of any length (zero: k = 0) or orthonormal span [k, d].

    Raises ValueError when the rows of a [k, d] span are not orthonormal.
    """
    if direction.ndim == 1:
        norm = direction.norm()
        return direction[None] / norm if norm > 0 else direction.new_zeros(0, direction.shape[0])
    if direction.ndim != 2:
        raise ValueError(f"a direction is [d] and a span [k, d], found shape {list(direction.shape)}")
    rows = direction.detach()
    gap = (rows @ rows.T - torch.eye(len(rows), dtype=rows.dtype, device=rows.device)).abs()
    if gap.numel() and gap.max() > ORTHONORMAL:
        raise ValueError(
            f"the rows of a span must be orthonormal: off by {gap.max():.1e}, allowed {ORTHONORMAL:.0e}"
        )
    return direction


def ablate(direction: Tensor) -> Function:
    """x - P x: the component along a direction [d] or span [k, d] set to zero."""
    rows = span(direction)
    return lambda x: x - x @ rows.T @ rows


def project(direction: Tensor) -> Function:
    """P x: only the component along a direction [d] or span [k, d] kept."""
    rows = span(direction)
    return lambda x: x @ rows.T @ rows


def constant(direction: Tensor, mean: Tensor) -> Function:
    """x - P x + P mean: the component along the direction set to that of `mean` (broadcast against x)."""
    rows = span(direction)
    target = mean @ rows.T @ rows
    return lambda x: x - x @ rows.T @ rows + target


def replace(source: Tensor) -> Function:
    """`source`, broadcast to the activation: a full patch, or mean ablation when `source` is a mean [d]."""
    return lambda x: source.to(x.dtype).expand_as(x)


def patch_along(direction: Tensor, source: Tensor) -> Function:
    """x + P (source - x): the component along a direction [d] or span [k, d] taken from `source`."""
    rows = span(direction)
    return lambda x: x + (source - x) @ rows.T @ rows


def add(vector: Tensor, scale: float | Tensor = 1.0) -> Function:
    """x + scale * vector; the vector is used as given, so pass a unit vector when `scale` is a length."""
    return lambda x: x + scale * vector


def compose(*functions: Function) -> Function:
    """The functions one after the other, the first one first."""

    def run(x: Tensor) -> Tensor:
        for function in functions:
            x = function(x)
        return x

    return run


@dataclass(frozen=True, eq=False)
class ResidualEdit:
    """`function` on the residual entering block `layer` (n_layers: the final one), at `positions` or all."""

    layer: int
    function: Function
    positions: Tensor | None = None


@dataclass(frozen=True, eq=False)
class HookEdit:
    """`function` on the activation at a hook, e.g. "blocks.2.mlp.hook_out", at `positions` or all."""

    hook: str
    function: Function
    positions: Tensor | None = None


@dataclass(frozen=True, eq=False)
class FrozenAttention:
    """Block `layer` attends by the given pattern [batch, head, query, key] to the values of this pass."""

    layer: int
    pattern: Tensor


Edit = ResidualEdit | HookEdit | FrozenAttention


def frozen_attention(patterns: Mapping[int, Tensor]) -> tuple[FrozenAttention, ...]:
    """Freeze the blocks in `patterns`: layer -> [batch, head, query, key], as `forward.patterns` gives.

    The head outputs are overwritten by pattern @ values rather than the pattern itself, because GPT-Neo and
    GPT-J compute attention inside their own code and ignore an edited pattern. Value edits act before, head
    edits after.
    """
    return tuple(FrozenAttention(layer, patterns[layer]) for layer in sorted(patterns))


def values(layer: int, source: Tensor, positions: Tensor | None = None) -> HookEdit:
    """Attention values of block `layer` replaced, all heads, by `source` [batch, pos, kv_head, d_head]."""
    return HookEdit(f"blocks.{layer}.attn.hook_v", replace(source), positions)


def head_output(layer: int, head: int, source: Tensor, positions: Tensor | None = None) -> HookEdit:
    """Output z of one head replaced by that head's in `source` [batch, pos, head, d_head]."""

    def patch(z: Tensor) -> Tensor:
        if not 0 <= head < z.shape[2]:
            raise ValueError(f"head {head} is out of range; block {layer} has heads 0 to {z.shape[2] - 1}")
        return torch.cat([z[:, :, :head], source[:, :, head : head + 1], z[:, :, head + 1 :]], dim=2)

    return HookEdit(f"blocks.{layer}.attn.hook_z", patch, positions)


def apply(edit: ResidualEdit | HookEdit, x: Tensor) -> Tensor:
    """The edit's function at its positions of x [batch, pos, ...]; other positions keep their bits."""
    new = edit.function(x)
    if new.shape != x.shape:
        raise ValueError(f"{_where(edit)}: the edit turned shape {list(x.shape)} into {list(new.shape)}")
    if edit.positions is None:
        return new
    if edit.positions.shape != x.shape[:2] or edit.positions.dtype != torch.bool:
        raise ValueError(
            f"{_where(edit)}: positions must be a bool mask {list(x.shape[:2])}, "
            f"found {edit.positions.dtype} {list(edit.positions.shape)}"
        )
    return torch.where(edit.positions.to(x.device).view(*x.shape[:2], *[1] * (x.ndim - 2)), new, x)


def _where(edit: ResidualEdit | HookEdit) -> str:
    return edit.hook if isinstance(edit, HookEdit) else f"residual of layer {edit.layer}"
