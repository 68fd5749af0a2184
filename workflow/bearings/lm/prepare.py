"""Preparing a batch: the embedded tokens and the arguments each block will be called with.

The model's own forward is run once with its blocks stubbed out, so masks, positions and rotations are
the model's own in every architecture, computed once for any number of partial passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bearings.lm.load import Model
from bearings.lm.tokens import Tokens


@dataclass(frozen=True, eq=False)
class Prepared:
    """A batch ready for any number of partial passes: layer 0's residual and every block's call arguments."""

    tokens: Tokens
    embedded: Tensor
    calls: tuple[tuple[tuple, dict[str, Any]], ...]


def prepare(model: Model, tokens: Tokens, past: Any = None) -> Prepared:
    """Embed a batch and record what each block is called with. Positions count real tokens only.

    past: keys and values of unpadded tokens before these, in the interface of a transformers cache; blocks
    will be called with it, and masks and positions take its length into account (see `prefix`).

    Raises ValueError when ids and mask disagree, the batch is longer than the context, or an id is unknown.
    """
    info = model.info
    before = 0 if past is None else past.get_seq_length()
    if tokens.ids.ndim != 2 or tokens.ids.shape != tokens.mask.shape:
        raise ValueError(
            f"ids and mask are [batch, pos], found {list(tokens.ids.shape)} and {list(tokens.mask.shape)}"
        )
    if before + tokens.ids.shape[1] > info.n_ctx:
        raise ValueError(
            f"{model.name}: {before + tokens.ids.shape[1]} tokens are more than its context of {info.n_ctx}"
        )
    if tokens.ids.min() < 0 or tokens.ids.max() >= info.d_vocab:
        raise ValueError(
            f"{model.name}: token ids must be 0 to {info.d_vocab - 1}, found up to {tokens.ids.max()}"
        )
    tokens = Tokens(tokens.ids.to(model.device), tokens.mask.to(model.device, torch.bool))
    mask = tokens.mask.long()
    calls: list[tuple[tuple, dict[str, Any]]] = []
    with torch.no_grad(), _stubbed(model, calls) as base:
        try:
            base(
                input_ids=tokens.ids,
                attention_mask=torch.cat([mask.new_ones(len(mask), before), mask], 1) if before else mask,
                position_ids=before + (mask.cumsum(1) - 1).clamp(min=0),
                use_cache=False,
                **({} if past is None else {"past_key_values": past}),
            )
        except _Recorded as recorded:
            return Prepared(tokens, recorded.embedded, tuple(calls))
    raise RuntimeError(f"{model.name}: the model's own forward never reached its last block")


def repeat(prepared: Prepared, n: int) -> Prepared:
    """The same batch n times over [n * batch, ...]: n conditions in one pass, one condition after another."""
    size = len(prepared.embedded)

    def many(value: Any) -> Any:
        if isinstance(value, Tensor):
            return (
                value.repeat(n, *[1] * (value.ndim - 1)) if value.ndim > 1 and len(value) == size else value
            )
        if isinstance(value, tuple | list):
            return type(value)(many(item) for item in value)
        return {key: many(item) for key, item in value.items()} if isinstance(value, dict) else value

    shared: dict[int, Any] = {}  # blocks share their masks: repeat each tensor once

    def once(value: Any) -> Any:
        if id(value) not in shared:
            shared[id(value)] = many(value)
        return shared[id(value)]

    calls = tuple(
        (tuple(once(a) for a in args), {k: once(v) for k, v in kw.items()}) for args, kw in prepared.calls
    )
    tokens = Tokens(many(prepared.tokens.ids), many(prepared.tokens.mask))
    return Prepared(tokens, many(prepared.embedded), calls)


class _Recorded(Exception):
    """Raised by the last stub: all that a pass needs is known, the rest of the forward is not wanted."""

    def __init__(self, embedded: Tensor):
        super().__init__()
        self.embedded = embedded


class _Stub(nn.Module):
    """Stands in for a block: records its arguments, and shows the block's attributes."""

    def __init__(self, block: nn.Module, calls: list, embedded: list[Tensor], last: bool):
        super().__init__()
        object.__setattr__(self, "_block", block)
        self._calls, self._embedded, self._last = calls, embedded, last

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(object.__getattribute__(self, "_block"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if args:
            hidden, args = args[0], args[1:]
        else:
            hidden = kwargs.pop("hidden_states")
        self._embedded.append(hidden)
        self._calls.append((args, kwargs))
        if self._last:
            raise _Recorded(self._embedded[0])
        # Some models take the first item of what a block returns: with a batch in front that is the residual again.
        return self._embedded[0][None]


@contextmanager
def _stubbed(model: Model, calls: list) -> Iterator[nn.Module]:
    """The base model with its block list replaced by stubs, put back whatever happens."""
    base = model.bridge.original_model.base_model
    name = next((k for k, child in base.named_children() if child is model.blocks), None)
    if name is None:
        raise ValueError(f"{model.name}: cannot find the blocks in {type(base).__name__}")
    embedded: list[Tensor] = []
    last = len(model.blocks) - 1
    stubs = nn.ModuleList(_Stub(block, calls, embedded, i == last) for i, block in enumerate(model.blocks))
    setattr(base, name, stubs)
    try:
        yield base
    finally:
        setattr(base, name, model.blocks)
