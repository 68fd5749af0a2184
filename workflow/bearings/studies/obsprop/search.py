"""Greedy search for paths that carry an observable between two prompts (protocol 4.6).

A path is patched along itself: its first component (the last one written) gets the other prompt's input, every
component above it only what changed below, and the change that arrives is read by the linearised final norm.
Attention patterns stay those of the clean prompt, and a head counts once for every position that it reads.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bearings.lm import weights as lm_weights
from bearings.lm.load import Model
from bearings.lm.parts import attn_norm, final_norm, gradient, kv_of, mlp, mlp_norm, parallel
from bearings.lm.propagate import Head, Mlp, features, zero_final
from bearings.lm.trace import Trace, trace
from bearings.studies.obsprop.common import has_pair, observables, pair, vector
from bearings.studies.obsprop.patching import readout

PUBLISHED, CORRECTED = "published", "corrected"
# The prompt from which the final norm's zero is looked for: of the first three tasks the authors start at the male
# one, of the others at prompt A.
STARTS = {"subj": "b", "obj": "b", "occ": "b"}
Component = Head | Mlp
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Setting:
    """Two prompts of one length on a model: `clean` and `dirty`, the observable `n` [d_model] in front of the
    unembedding with its bias `offset`, the prompt (`a` or `b`) from which the final norm's zero was found, and the
    normal [d_model] of the final norm linearised there, which reads the last position."""

    model: Model
    clean: Trace
    dirty: Trace
    n: Tensor
    offset: float
    start: str
    normal: Tensor

    @property
    def last(self) -> int:
        return self.clean.resid.shape[1] - 1


@dataclass(frozen=True, eq=False)
class Found:
    """A path from the output down with its score: how much of n . logits is lost when it is patched."""

    path: tuple[Component, ...]
    score: float


def settle(model, prompts, task: str) -> Setting | None:
    """A task's linearisation pair, traced; None where the tokenizer splits its words or the observable is never 0."""
    known = observables(prompts)
    if not has_pair(prompts, task) or pair(prompts, task)[0].extra["observable"] not in known:
        return None
    both = pair(prompts, task)
    read = readout(model, vector(prompts, both[0].extra["observable"], model.info.d_vocab))
    clean, dirty = (trace(model, list(p.ids)) for p in both)
    start = STARTS.get(task, "a")
    near = (clean if start == "a" else dirty).resid[-1, -1]
    try:
        point = zero_final(model, read.y, near, read.bias)
    except ValueError as error:
        log.warning("task %s is not linearised: %s", task, error)
        return None
    normal = gradient(final_norm(model), point, read.y.double()).to(read.y)
    return Setting(model, clean, dirty, read.y, read.bias, start, normal)


def composed(setting: Setting, path: tuple[Component, ...], mode: str) -> np.ndarray:
    """The observable's feature [d_model] at the input of the last component of a path.

    The final norm is linearised in every mode (protocol 4.2): `ignore` leaves out the other norms.
    """
    n = setting.normal if mode == "ignore" else setting.n
    rows = features(
        setting.model, path, n, mode, setting.clean, setting.dirty,
        start=setting.start, offset=setting.offset,
    )  # fmt: skip
    return rows[-1].float().cpu().numpy()


def find(setting: Setting, length: int, beam: int, variant: str = CORRECTED) -> list[list[Found]]:
    """The `beam` best paths of every length up to `length`, best first.

    `published` leaves out what the authors' loops leave out (T9): the last MLP, and upstream of a component of layer
    L whatever lies in layer L - 1; of an MLP also the attention of its own layer.
    """
    kept: list[list[Found]] = []
    above: list[tuple[Component, ...]] = [()]
    for _ in range(length):
        scored = [found for path in above for found in _extended(setting, path, variant)]
        # Equal scores keep the order in which they came, which is by layer, head and position.
        best = sorted(scored, key=lambda f: -f.score)[:beam]
        if not best:
            break
        kept.append(best)
        above = [found.path for found in best]
    return kept


def singles(setting: Setting) -> list[Found]:
    """Every component that writes at the last position, as a path of its own."""
    return list(_extended(setting, (), CORRECTED))


def _extended(setting: Setting, path: tuple[Component, ...], variant: str) -> Iterator[Found]:
    """Every component in front of a path, with the score of the longer path."""
    position = path[-1].position if path else setting.last
    position = setting.last if position == -1 else position
    names, changes = [], []
    for component, change in _upstream(setting, path[-1] if path else None, position, variant):
        names.append(component)
        changes.append(change)
    if not names:
        return
    arrived = torch.stack(changes)
    for i in reversed(range(len(path))):
        above = path[i - 1].position if i else setting.last
        arrived = push(setting, path[i], setting.last if above == -1 else above, arrived)
    scores = -(arrived @ setting.normal)
    for component, score in zip(names, scores.tolist(), strict=True):
        yield Found((*path, component), score)


def _upstream(
    setting: Setting, below: Component | None, position: int, variant: str
) -> Iterator[tuple[Component, Tensor]]:
    """Components that write where `below` reads (None: in front of the final norm), and what changes in their
    output there [d_model] when they read the dirty prompt."""
    model, clean, dirty = setting.model, setting.clean, setting.dirty
    attention, mlps = _reach(model, below, variant)
    for layer in range(attention):
        written = lm_weights.W_O(model, layer)
        for head in range(model.info.n_heads):
            kv = kv_of(model, head)
            moved = (dirty.v[layer, : position + 1, kv] - clean.v[layer, : position + 1, kv]) @ written[head]
            seen = clean.pattern[layer, head, position, : position + 1, None] * moved
            for source in range(position + 1):
                # A head that reads the same values, or nothing, moves nothing: no path.
                if seen[source].any():
                    yield Head(layer, head, source), seen[source]
    end = -1 if position == setting.last else position
    for layer in range(mlps):
        yield Mlp(layer, end), dirty.mlp_out[layer, position] - clean.mlp_out[layer, position]


def _reach(model, below: Component | None, variant: str) -> tuple[int, int]:
    """How many layers of attention and of MLPs lie upstream of a component."""
    n = model.n_layers
    if below is None:
        return (n, n - 1) if variant == PUBLISHED else (n, n)
    if variant == PUBLISHED:
        return max(0, below.layer - 1), max(0, below.layer - 1)
    own = isinstance(below, Mlp) and not parallel(model)
    return below.layer + own, below.layer


def push(setting: Setting, component: Component, position: int, change: Tensor) -> Tensor:
    """What a change [n, d_model] of the residual that a component reads does to what it writes at `position`."""
    model, clean, layer = setting.model, setting.clean, component.layer
    if isinstance(component, Mlp):
        at = setting.last if component.position == -1 else component.position
        x, norm, run = clean.mid[layer, at], mlp_norm(model, layer), mlp(model, layer)
        return run(norm(x + change)) - run(norm(x))
    x, norm = clean.resid[layer, component.position], attn_norm(model, layer)
    moved = norm(x + change) - norm(x)
    kv = kv_of(model, component.head)
    values = moved @ lm_weights.W_V(model, layer)[kv]
    weight = clean.pattern[layer, component.head, position, component.position]
    return weight * (values @ lm_weights.W_O(model, layer)[component.head])
