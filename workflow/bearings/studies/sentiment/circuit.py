"""Heads (protocol 4.7): what each reads at the words and writes later, and what a few of them carry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from bearings.lm import weights
from bearings.lm.edits import HookEdit, head_output
from bearings.lm.forward import forward
from bearings.stages.batch import Batch, logit_difference, make_batch
from bearings.stages.inputs import Inputs, Outcomes
from bearings.studies.sentiment.common import corrupted, enough, toy, unit

SCHEMA = {
    "kind": pa.string(),
    "split": pa.string(),
    "layer": pa.int32(),
    "head": pa.int32(),
    "where": pa.string(),
    "draw": pa.int32(),
    "prompt": pa.int32(),
    "ld_clean": pa.float32(),
    "ld_corrupted": pa.float32(),
    "ld_patched": pa.float32(),
    "attention": pa.float32(),
    "write": pa.float32(),
}
READ = ("adj", "verb")
WRITE = ("comma", "sum", "end")


def circuit(inputs: Inputs) -> pa.Table:
    """Per head and prompt: patched LDs, attention to the words, and what the head writes along the direction.

    Rows of kind `direct` (the head's output at the end, added to the final residual), `patch` (its output at one
    position), and, on held-out words, `circuit`, `complement` and `random` (a set of heads at all positions). The
    set is chosen on the training words alone, by direct effect.
    """
    out = Outcomes(SCHEMA)
    words = inputs.prompts["toy"]
    if not enough(toy(words, "train")) or not enough(toy(words, "test")):
        return out.table()
    heads = [
        (layer, head) for layer in range(inputs.model.n_layers) for head in range(inputs.model.info.n_heads)
    ]
    direct: dict[tuple[int, int], float] = {}
    for split in ("train", "test"):
        run = _Run(inputs, split)
        for layer, head in heads:
            patched = run.direct(layer, head)
            if split == "train":
                direct[layer, head] = float((patched - run.ld_other).mean())
            _add(out, run, kind="direct", layer=layer, head=head, where="end", patched=patched)
            for where in (*READ, *WRITE):
                _add(
                    out,
                    run,
                    kind="patch",
                    layer=layer,
                    head=head,
                    where=where,
                    patched=run.patched([(layer, head)], where),
                    attention=run.attention(layer, head, where) if where in WRITE else None,
                    write=run.write(layer, head, where) if where in WRITE else None,
                )
    size = min(inputs.settings["circuit_heads"], len(heads) - 1)
    chosen = sorted(heads, key=lambda h: -abs(direct[h]))[:size]
    sets = [("circuit", 0, chosen), ("complement", 0, [h for h in heads if h not in chosen])]
    rng = np.random.default_rng([inputs.seed, 606])
    for draw in range(inputs.settings["random_draws"]):
        picked = rng.choice(len(heads), size, replace=False)
        sets.append(("random", draw, [heads[i] for i in sorted(picked)]))
    for kind, draw, members in sets:
        _add(out, run, kind=kind, draw=draw, where="all", patched=run.patched(members, "all"))
    return out.table()


def _add(
    out: Outcomes, run: _Run, *, kind, where, patched, layer=-1, head=-1, draw=0, attention=None, write=None
):
    out.add(
        kind=kind,
        split=run.split,
        layer=layer,
        head=head,
        where=where,
        draw=draw,
        prompt=[p.id for p in run.clean.prompts],
        ld_clean=run.ld_clean,
        ld_corrupted=run.ld_other,
        ld_patched=patched,
        attention=attention,
        write=write,
    )


class _Run:
    """Clean and corrupted toy prompts of one split, with every head's output z and pattern at hand."""

    def __init__(self, inputs: Inputs, split: str):
        self.inputs, self.model, self.split = inputs, inputs.model, split
        prompts: Sequence = toy(inputs.prompts["toy"], split)
        width = max(len(p.ids) for p in prompts)
        self.clean: Batch = make_batch(self.model, prompts, width)
        self.other: Batch = make_batch(self.model, corrupted(prompts), width)
        n = self.model.n_layers
        names = [f"blocks.{i}.attn.{hook}" for i in range(n) for hook in ("hook_z", "hook_pattern")]
        self.z: Mapping[str, Tensor] = forward(self.model, self.clean.prepared, keep=names).hooks
        got = forward(self.model, self.other.prepared, keep=[n, *names])
        self.z_other, self.final = got.hooks, got.resid[n]
        self.ld_clean, self.ld_other = self._ld(self.clean), self._ld(self.other)

    def _ld(self, batch: Batch, edits: Sequence = ()) -> Tensor:
        logits = forward(
            self.model, batch.prepared, edits=edits, rows=self.clean.rows, columns=self.clean.columns
        ).logits
        return logit_difference(logits) * self.clean.sign

    def _where(self, name: str) -> Tensor:
        return self.other.mask if name == "all" else self.other.at(name)

    def _output(self, z: Mapping[str, Tensor], layer: int, head: int) -> Tensor:
        """What the head writes [batch, pos, d_model]."""
        return z[f"blocks.{layer}.attn.hook_z"][:, :, head] @ weights.W_O(self.model, layer)[head]

    def difference(self, layer: int, head: int) -> Tensor:
        """The head's clean minus corrupted output [batch, pos, d_model]."""
        return self._output(self.z, layer, head) - self._output(self.z_other, layer, head)

    def direct(self, layer: int, head: int) -> Tensor:
        """LD [batch] when only the head's own write at the end becomes the clean one, and nothing reads it."""
        rows = torch.arange(len(self.clean.rows))
        end = self.final[rows, self.clean.rows] + self.difference(layer, head)[rows, self.clean.rows]
        return logit_difference(weights.logits(self.model, end, self.clean.columns)) * self.clean.sign

    def patched(self, heads: Sequence[tuple[int, int]], where: str) -> Tensor:
        """LD [batch] of the corrupted run with these heads' outputs clean at a position."""
        at = self._where(where)
        edits: list[HookEdit] = [
            head_output(layer, head, self.z[f"blocks.{layer}.attn.hook_z"], at) for layer, head in heads
        ]
        return self._ld(self.other, edits)

    def attention(self, layer: int, head: int, where: str) -> Tensor:
        """Attention [batch] paid to the adjective and verb from a position of the clean prompt."""
        pattern = self.z[f"blocks.{layer}.attn.hook_pattern"][:, head]
        rows = torch.arange(len(self.clean.rows))
        from_there = pattern[rows, self.clean.index(where)]
        return (from_there * self.clean.at(*READ)).sum(-1)

    def write(self, layer: int, head: int, where: str) -> Tensor:
        """Clean minus corrupted write [batch] along the next layer's direction, towards the clean class."""
        d = unit(self.inputs.directions[self.inputs.settings["direction"]], "corrected", layer + 1)
        if d is None:
            return torch.full_like(self.ld_clean, float("nan"))
        rows = torch.arange(len(self.clean.rows))
        difference = self.difference(layer, head)[rows, self.clean.index(where)]
        return difference @ torch.from_numpy(d) * self.clean.sign
