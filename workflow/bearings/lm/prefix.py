"""Held prefixes: one prompt's tokens become keys and values before a position and residuals from it on.

A transformers cache grows when a pass reads it, so a second pass through the same cache attends to stale
copies of itself, without an error. The caches here answer the same questions and cannot change: any number of
passes and function transforms may share one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bearings.lm.forward import Prepared, forward, pad, prepare
from bearings.lm.load import Model
from bearings.lm.tokens import Tokens


@dataclass(frozen=True, eq=False)
class Held:
    """One prompt cut at position `source`, ready for any number of passes over the rest.

    model: the model the prompt went through.
    source: the first position of the rest; everything before it is held.
    rest: the calls of every block for positions source .. last, with the held keys and values.
    resid: residual entering every block (n_layers: the final one) there [n_layers + 1, pos, d_model].
    """

    model: Model
    source: int
    rest: Prepared
    resid: Tensor

    @property
    def last(self) -> int:
        """The last position that was computed."""
        return self.source + self.resid.shape[1] - 1


def hold(model: Model, ids: Sequence[int], source: int, last: int | None = None) -> Held:
    """Run one prompt once up to position `last` (default: its end) and hold what lies before `source`.

    The prompt has no padding. Raises ValueError when source or last lie outside it.
    """
    last = len(ids) - 1 if last is None else last
    if not 0 <= last < len(ids):
        raise ValueError(f"last must be 0 to {len(ids) - 1}, found {last}")
    if not 0 <= source <= last:
        raise ValueError(f"source must be 0 to {last}, found {source}")
    tokens = pad([list(ids[: last + 1])], 0)
    layers = range(model.n_layers + 1)
    recording = Recording()
    whole = forward(model, prepare(model, tokens, recording), keep=layers)
    prefix = Prefix(
        tuple(
            (k[:, :, :source].clone(), v[:, :, :source].clone())
            for k, v in (recording.seen[layer] for layer in range(model.n_layers))
        )
    )
    rest = prepare(model, Tokens(tokens.ids[:, source:], tokens.mask[:, source:]), prefix)
    return Held(model, source, rest, torch.stack([whole.resid[layer][0, source:] for layer in layers]))


class _Fixed:
    """What transformers and TransformerLens ask of a cache, for one of unchanging length."""

    is_compileable = False

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of positions that are held."""
        return 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return self.get_seq_length(layer_idx)

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Number of keys a query sees, and the position of the first."""
        return self.get_seq_length(layer_idx) + query_length, 0


class Recording(_Fixed):
    """An empty cache that notes the keys and values [batch, kv_head, pos, d_head] of a pass, by layer.

    It hands them back untouched, so the pass keeps the bits of one without a cache.
    """

    def __init__(self) -> None:
        self.seen: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, k: Tensor, v: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.seen[layer_idx] = (k, v)
        return k, v


@dataclass(frozen=True, eq=False)
class Prefix(_Fixed):
    """A cache of one prompt that never grows: keys and values [1, kv_head, pos, d_head] by layer."""

    layers: tuple[tuple[Tensor, Tensor], ...]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.layers[layer_idx][0].shape[2]

    def update(self, k: Tensor, v: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """The held keys and values with these behind them, in a new tensor; nothing is stored."""
        held_k, held_v = self.layers[layer_idx]
        n = k.shape[0]
        return (
            torch.cat([held_k.expand(n, -1, -1, -1), k], 2),
            torch.cat([held_v.expand(n, -1, -1, -1), v], 2),
        )
