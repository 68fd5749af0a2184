"""Sampling: prompts go in, continuations come out, edits act at every position, new ones included."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from bearings.lm.edits import Edit, FrozenAttention
from bearings.lm.forward import Tokens, forward, last_positions
from bearings.lm.load import Model


def sample(
    model: Model,
    tokens: Tokens,
    n_new: int,
    *,
    edits: Iterable[Edit] = (),
    top_k: int | None = None,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Continue left-padded prompts by `n_new` tokens; returns the new ids [batch, n_new].

    Each step reruns the whole sequence: an edit at every position changes every key and value, and
    continuations are short. `temperature` 0 takes the most likely token; otherwise draws come from
    `generator` (CPU) on float64 probabilities, so a seed gives the same text where the logits are the same.

    Raises ValueError for right padding, for edits bound to positions (they cannot name tokens yet to come),
    and for a context too short.
    """
    edits = tuple(edits)
    if n_new < 1:
        raise ValueError(f"n_new must be at least 1, found {n_new}")
    if temperature < 0:
        raise ValueError(f"temperature must be 0 or more, found {temperature}")
    if top_k is not None and not 1 <= top_k <= model.info.d_vocab:
        raise ValueError(f"top_k must be 1 to {model.info.d_vocab}, found {top_k}")
    if temperature > 0 and generator is None:
        raise ValueError("sampling needs a seeded torch.Generator; temperature 0 does without")
    if not bool((last_positions(tokens) == tokens.ids.shape[1] - 1).all()):
        raise ValueError("prompts must be padded on the left, so that new tokens follow the last one")
    if any(isinstance(e, FrozenAttention) or e.positions is not None for e in edits):
        raise ValueError(
            "edits while sampling act at every position: give them no positions and no frozen pattern"
        )
    width = tokens.ids.shape[1]
    if width + n_new > model.info.n_ctx:
        raise ValueError(
            f"{model.name}: {width} + {n_new} tokens are more than its context of {model.info.n_ctx}"
        )
    ids, mask = tokens.ids.to(model.device), tokens.mask.to(model.device)
    for _ in range(n_new):
        now = Tokens(ids, mask)
        logits = forward(model, now, edits=edits, rows=last_positions(now)).logits
        new = _draw(logits.double().cpu(), top_k, temperature, generator).to(ids.device)
        ids = torch.cat([ids, new[:, None]], dim=1)
        mask = torch.cat([mask, torch.ones_like(new, dtype=torch.bool)[:, None]], dim=1)
    return ids[:, width:]


def _draw(logits: Tensor, top_k: int | None, temperature: float, generator: torch.Generator | None) -> Tensor:
    """One token id [batch] from logits [batch, d_vocab]."""
    if temperature == 0:
        return logits.argmax(-1)
    values, indices = logits.topk(top_k or logits.shape[-1], dim=-1)
    chosen = torch.multinomial((values / temperature).softmax(-1), 1, generator=generator)
    return indices.gather(1, chosen)[:, 0]
