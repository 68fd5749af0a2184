"""Token batches: lists of ids become padded rectangles with a mask, grouped by fixed parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Tokens:
    """Token ids [batch, pos] (long) and the mask [batch, pos] (bool) of those that are no padding."""

    ids: Tensor
    mask: Tensor


def pad(ids: Sequence[Sequence[int]], pad_id: int, side: str = "left") -> Tokens:
    """Token id lists of unequal length as one rectangle, padded on the left or right."""
    if side not in ("left", "right"):
        raise ValueError(f"side must be 'left' or 'right', found {side!r}")
    if not ids or not all(len(row) for row in ids):
        raise ValueError("a batch needs at least one prompt and a token in each")
    width = max(len(row) for row in ids)
    out = torch.full((len(ids), width), pad_id, dtype=torch.long)
    mask = torch.zeros(len(ids), width, dtype=torch.bool)
    for i, row in enumerate(ids):
        where = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        out[i, where] = torch.as_tensor(list(row), dtype=torch.long)
        mask[i, where] = True
    return Tokens(out, mask)


def last_positions(tokens: Tokens) -> Tensor:
    """Position [batch] of each prompt's last token that is no padding."""
    width = tokens.mask.shape[1]
    return width - 1 - tokens.mask.long().flip(1).argmax(1)


def batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices in groups of similar length, each group at most `max_tokens` once padded (or one prompt alone).

    Groups depend on the arguments alone, never on cores or memory, because the shape of a batch decides the
    last bits of its results.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, found {max_tokens}")
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if groups and (len(groups[-1]) + 1) * lengths[index] <= max_tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
