"""Causal edits (section 3.2; protocol 4.5): the residual of the subject is moved from one concept to another.

At every block's output the subject's last token becomes h + beta |h| (v_target - v_source), h being the residual as
edited so far; the edit succeeds if the target's answer then is more probable than the source's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from bearings.lm.edits import ResidualEdit
from bearings.lm.forward import batches, forward, pad, prepare, repeat
from bearings.lm.prefix import hold

ADD, REPLACE = "add", "replace"
# Tokens that holding a prefix must save before it pays for two passes more and a batch of its own.
WORTH_HOLDING = 1000


@dataclass(frozen=True, eq=False)
class Edit:
    """One run to make: `ids` of a prompt, edited at token `position`, asked for `answer`.

    `vector` [d_model] is added, times `strength` and the length of the residual, at each layer of `layers`; with
    `how` replace it takes the residual's place instead.
    """

    ids: tuple[int, ...]
    position: int
    answer: tuple[int, ...]
    vector: np.ndarray
    strength: float
    layers: tuple[int, ...]
    how: str = ADD


def answer_log_probability(model, edits: Sequence[Edit], max_tokens: int, desc: str = "edits") -> np.ndarray:
    """The smallest log-probability [n] among the answer's tokens under each edit, teacher-forced, fp32.

    Edits of one set of layers and one way are run together, whatever their methods and strengths are. Many edits of
    one prompt share the tokens before the subject, which are run once; the others are batched by length.
    """
    out = np.zeros(len(edits), np.float32)
    alike: dict[tuple, list[int]] = {}
    for i, e in enumerate(edits):
        alike.setdefault((e.how, e.layers, e.ids, e.answer, e.position), []).append(i)
    work: list[tuple[Callable, list[int]]] = []
    loose: dict[tuple, list[int]] = {}
    for (how, layers, ids, answer, position), group in alike.items():
        if len(group) * position < WORTH_HOLDING:
            loose.setdefault((how, layers), []).extend(group)
            continue
        size = max(1, max_tokens // (len(ids) + len(answer) - position))
        work += [(_run_held, group[k : k + size]) for k in range(0, len(group), size)]
    for group in loose.values():
        lengths = [len(edits[i].ids) + len(edits[i].answer) - 1 for i in group]
        work += [(_run, [group[i] for i in part]) for part in batches(lengths, max_tokens)]
    for run, group in tqdm(work, desc=desc, unit="batch", ascii=True):
        out[group] = run(model, [edits[i] for i in group])
    return out


def _run_held(model, edits: Sequence[Edit]) -> np.ndarray:
    """Edits of one prompt and answer: only what comes after the edited token is run, once per edit."""
    e, n = edits[0], len(edits)
    held = hold(model, [*e.ids, *e.answer[:-1]], e.position)
    start = min(e.layers)
    where = torch.zeros(n, held.resid.shape[1], dtype=torch.bool)
    where[:, 0] = True
    first = len(e.ids) - 1 - e.position
    done = forward(
        model,
        repeat(held.rest, n),
        start=start,
        resid=held.resid[start][None].expand(n, -1, -1),
        edits=_at_layers(model, edits, where),
        rows=torch.arange(first, first + len(e.answer)).expand(n, -1),
    )
    return _smallest(done.logits, torch.tensor(e.answer).expand(n, -1))


def _run(model, edits: Sequence[Edit]) -> np.ndarray:
    """Edits of any prompts and answers, whole."""
    # The last answer token is predicted, never read.
    tokens = pad([[*e.ids, *e.answer[:-1]] for e in edits], 0)
    shift = [tokens.ids.shape[1] - len(e.ids) - len(e.answer) + 1 for e in edits]
    # A shorter answer repeats its last token, which leaves the smallest probability as it is.
    longest = max(len(e.answer) for e in edits)
    of = [[min(k, len(e.answer) - 1) for k in range(longest)] for e in edits]
    both = list(zip(edits, shift, of, strict=True))
    where = torch.zeros_like(tokens.mask)
    where[torch.arange(len(edits)), torch.tensor([s + e.position for e, s, _ in both])] = True
    done = forward(
        model,
        prepare(model, tokens),
        edits=_at_layers(model, edits, where),
        rows=torch.tensor([[s + len(e.ids) - 1 + k for k in ks] for e, s, ks in both]),
    )
    return _smallest(done.logits, torch.tensor([[e.answer[k] for k in ks] for e, _, ks in both]))


def _at_layers(model, edits: Sequence[Edit], where: torch.Tensor) -> list[ResidualEdit]:
    """The edits of a batch [batch, pos], each with its own vector and strength, at every layer that they share."""
    vectors = torch.from_numpy(np.stack([e.vector for e in edits]))[:, None].to(model.device, model.dtype)
    strengths = torch.tensor([e.strength for e in edits], dtype=model.dtype, device=model.device)[
        :, None, None
    ]

    def function(x: torch.Tensor) -> torch.Tensor:
        if edits[0].how == REPLACE:
            return vectors.expand_as(x)
        return x + strengths * x.norm(dim=-1, keepdim=True) * vectors

    return [ResidualEdit(layer, function, where) for layer in edits[0].layers]


def _smallest(logits: torch.Tensor, answers: torch.Tensor) -> np.ndarray:
    """Smallest log-probability [batch] among answers [batch, k], from logits [batch, k, vocab]."""
    logp = logits.float().log_softmax(-1).gather(-1, answers[..., None].to(logits.device))
    return logp[..., 0].min(1).values.cpu().numpy()
