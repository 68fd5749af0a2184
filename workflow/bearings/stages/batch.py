"""Prompts as batches of a model: padded tokens, masks of named positions, answer columns, logit differences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from bearings.lm.forward import Prepared, Tokens, batches, last_positions, pad, prepare
from bearings.lm.load import Model
from bearings.stages.prompts import Prompt


@dataclass(frozen=True, eq=False)
class Batch:
    """Prompts in one rectangle, padded on the left.

    `rows` [batch] is each prompt's last position, `sign` [batch] +1 where the positive answer is right and -1 where
    the negative is.
    """

    prompts: tuple[Prompt, ...]
    prepared: Prepared
    rows: Tensor
    sign: Tensor

    @cached_property
    def columns(self) -> Tensor:
        """Ids of each prompt's k positive and then its k negative answers [batch, 2k].

        Raises ValueError where the prompts of the batch have different numbers of answers.
        """
        return torch.tensor([[*p.positive, *p.negative] for p in self.prompts], dtype=torch.long)

    @property
    def mask(self) -> Tensor:
        """Positions [batch, pos] that are no padding."""
        return self.prepared.tokens.mask

    def at(self, *names: str) -> Tensor:
        """Mask [batch, pos] of the named positions; prompts without one have none set."""
        width = self.mask.shape[1]
        out = torch.zeros_like(self.mask)
        for i, prompt in enumerate(self.prompts):
            shift = width - len(prompt.ids)
            for name in names:
                out[i, [shift + p for p in prompt.positions.get(name, ())]] = True
        return out

    def index(self, name: str) -> Tensor:
        """The last position [batch] of that name; KeyError where a prompt has none."""
        width = self.mask.shape[1]
        return torch.tensor([width - len(p.ids) + p.at(name) for p in self.prompts])


def make_batch(model: Model, prompts: Sequence[Prompt], width: int | None = None) -> Batch:
    """One batch of prompts; `width` pads to more than the longest."""
    ids = [list(p.ids) for p in prompts]
    if width is not None:
        filler = [0] * width
        tokens = pad([*ids, filler], pad_id=0)
        tokens = Tokens(tokens.ids[:-1], tokens.mask[:-1])
    else:
        tokens = pad(ids, pad_id=0)
    sign = torch.tensor([p.sign for p in prompts])
    return Batch(tuple(prompts), prepare(model, tokens), last_positions(tokens), sign)


def in_batches(model: Model, prompts: Sequence[Prompt], max_tokens: int) -> Iterator[tuple[list[int], Batch]]:
    """Batches of similar length with the indices of their prompts."""
    for group in batches([len(p.ids) for p in prompts], max_tokens):
        yield group, make_batch(model, [prompts[i] for i in group])


def logit_difference(logits: Tensor) -> Tensor:
    """Positive minus negative answers [batch], mean over aligned pairs, of answer logits [batch, 2k]."""
    k = logits.shape[-1] // 2
    return (logits[..., :k] - logits[..., k:]).mean(-1)
