"""Partial forward passes: a prepared batch becomes residuals, kept activations and only the logits asked for.

Blocks are called in a plain loop that can start at any layer from a given residual, edit the residual between
blocks and stop anywhere; what is not asked for is not computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bearings.lm import weights
from bearings.lm.edits import Edit, FrozenAttention, HookEdit, ResidualEdit, apply
from bearings.lm.hooks import hooked
from bearings.lm.load import Model
from bearings.lm.prepare import Prepared, prepare, repeat
from bearings.lm.tokens import Tokens, batches, last_positions, pad

__all__ = [
    "ALL", "Pass", "Prepared", "Tokens", "batches", "forward", "last_positions", "pad", "patterns", "prepare",
    "repeat",
]  # fmt: skip

ALL = "all"


@dataclass(frozen=True, eq=False)
class Pass:
    """What was asked of a pass: residuals [batch, pos, d_model] by layer and activations by hook, both as
    edited, and logits."""

    resid: dict[int, Tensor]
    hooks: dict[str, Tensor]
    logits: Tensor | None


def forward(
    model: Model,
    batch: Prepared | Tokens,
    *,
    start: int = 0,
    resid: Tensor | None = None,
    stop: int | None = None,
    edits: Iterable[Edit] = (),
    keep: Iterable[int | str] = (),
    rows: Tensor | str | None = None,
    columns: Tensor | None = None,
    grad: bool = False,
) -> Pass:
    """Run blocks `start` to the last one needed and return only what was asked for.

    start, resid: resume at layer `start` from `resid` [batch, pos, d_model], the residual entering that
      block; edits of that layer still act on it.
    stop: end before block `stop`; its residual is returned. Default: the last layer `keep` or logits need.
    keep: layers (residual entering that block, after its edits; n_layers: before the final norm) and hook
      names such as "blocks.2.attn.hook_z".
    rows: positions to unembed, [batch] -> logits [batch, vocab], [batch, r] -> [batch, r, vocab], or "all".
    columns: token ids to unembed, [k], or [batch, k] when each prompt has its own; without rows, at all
      positions. Neither rows nor columns: nothing is unembedded.
    edits: at layers the pass covers, in the order given; frozen attention of a block that is not run is idle.
    grad: keep the graph, for training through the suffix; otherwise everything runs without gradients.

    Raises ValueError, naming the argument, for anything out of range or that could not act or be returned.
    """
    edits, keep = tuple(edits), tuple(keep)
    n = model.n_layers
    stop = _plan(n, start, resid, stop, edits, keep, rows is not None or columns is not None)
    prepared = batch if isinstance(batch, Prepared) else prepare(model, batch)
    x = prepared.embedded if resid is None else resid
    if x.shape != prepared.embedded.shape:
        raise ValueError(f"resid must be {list(prepared.embedded.shape)}, found {list(x.shape)}")
    by_layer = {layer: [e for e in edits if _is_residual(e) and e.layer == layer] for layer in range(n + 1)}
    by_hook = [e for e in edits if isinstance(e, HookEdit) or _is_frozen(e, start, stop)]
    names = [name for name in keep if isinstance(name, str)]
    wanted = {layer for layer in keep if not isinstance(layer, str)} | {stop}
    resids: dict[int, Tensor] = {}
    with torch.set_grad_enabled(grad), hooked(model, by_hook, names) as hooks:
        for layer in range(start, stop + 1):
            for one in by_layer[layer]:
                x = apply(one, x)
            if layer in wanted:
                resids[layer] = x
            if layer < stop:
                x = _call(model.blocks[layer], x, prepared.calls[layer])
        logits = None
        if rows is not None or columns is not None:
            logits = weights.logits(model, _rows(x, rows), columns)
    return Pass(resids, hooks, logits)


def patterns(
    model: Model, batch: Prepared | Tokens, layers: Iterable[int] | None = None
) -> dict[int, Tensor]:
    """Attention patterns [batch, head, query, key] of an unedited pass, by layer (default: all)."""
    chosen = sorted(set(range(model.n_layers) if layers is None else layers))
    names = {layer: f"blocks.{layer}.attn.hook_pattern" for layer in chosen}
    hooks = forward(model, batch, keep=names.values()).hooks
    return {layer: hooks[name] for layer, name in names.items()}


def _rows(x: Tensor, rows: Tensor | str | None) -> Tensor:
    """Positions [batch] or [batch, r] of x [batch, pos, d]; all of them for None or "all"."""
    if isinstance(rows, str) and rows != ALL:
        raise ValueError(f"rows must be positions or {ALL!r}, found {rows!r}")
    if rows is None or isinstance(rows, str):
        return x
    rows = rows.to(x.device)
    if rows.ndim not in (1, 2) or len(rows) != len(x):
        raise ValueError(f"rows must be [batch] or [batch, r], found {list(rows.shape)} for batch {len(x)}")
    index = torch.arange(len(x), device=x.device)
    return x[index if rows.ndim == 1 else index[:, None], rows]


def _is_residual(e: Edit) -> bool:
    return isinstance(e, ResidualEdit)


def _is_frozen(e: Edit, start: int, stop: int) -> bool:
    return isinstance(e, FrozenAttention) and start <= e.layer < stop


def _hook_layer(name: str, n_layers: int) -> int:
    parts = name.split(".")
    if len(parts) < 3 or parts[0] != "blocks" or not parts[1].isdigit() or int(parts[1]) >= n_layers:
        raise ValueError(f"hook {name!r} must lie in a block, 'blocks.0...' to 'blocks.{n_layers - 1}...'")
    return int(parts[1])


def _plan(
    n: int,
    start: int,
    resid: Tensor | None,
    stop: int | None,
    edits: Sequence[Edit],
    keep: Sequence[int | str],
    logits: bool,
) -> int:
    """Check a pass and return the layer it ends before."""
    if not 0 <= start <= n:
        raise ValueError(f"start must be 0 to {n}, found {start}")
    if start and resid is None:
        raise ValueError(f"start {start} needs resid, the residual entering that block")
    inside = [_hook_layer(name, n) for name in keep if isinstance(name, str)]
    layers = [layer for layer in keep if not isinstance(layer, str)]
    needed = [*layers, *(layer + 1 for layer in inside), *([n] if logits else [])]
    if stop is None:
        if not needed:
            raise ValueError("nothing is asked for: give stop, keep, rows or columns")
        stop = max(needed)
    if not start <= stop <= n or max(needed, default=start) > stop:
        raise ValueError(
            f"the pass covers layers {start} to {stop}, but {max(needed, default=stop)} is asked for"
        )
    if min([*layers, *inside], default=start) < start:
        raise ValueError(f"keep asks for layer {min([*layers, *inside])}, before start {start}")
    for e in edits:
        if isinstance(e, FrozenAttention):
            continue
        layer, last = (e.layer, stop) if _is_residual(e) else (_hook_layer(e.hook, n), stop - 1)
        if not start <= layer <= last:
            raise ValueError(f"an edit at layer {layer} would never act: the pass covers {start} to {last}")
    return stop


def _call(block: nn.Module, x: Tensor, call: tuple[tuple, Mapping[str, Any]]) -> Tensor:
    args, kwargs = call
    out = block(x, *args, **kwargs)
    return out[0] if isinstance(out, tuple) else out
