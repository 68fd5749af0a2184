"""Summarisation in mood stories (protocol 4.6): which positions hand the feeling on, once its words are past."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from bearings.lm.edits import frozen_attention, values
from bearings.lm.forward import forward, patterns
from bearings.stages.batch import logit_difference, make_batch
from bearings.stages.inputs import Inputs, Outcomes
from bearings.stages.prompts import Prompt

SCHEMA = {
    "group": pa.string(),
    "layers": pa.string(),
    "frozen": pa.bool_(),
    "filler": pa.int32(),
    "prompt": pa.int32(),
    "label": pa.int8(),
    "ld_clean": pa.float32(),
    "ld_corrupted": pa.float32(),
    "ld_patched": pa.float32(),
}
# Group of positions -> the names in a story's template. `filler` and `neutral` carry no feeling: the control.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "phrase": ("phrase",),
    "comma": ("comma",),
    "period": ("period",),
    "punctuation": ("comma", "period"),
    "phrase_and_punctuation": ("phrase", "comma", "period"),
    "neutral": ("neutral",),
}


def mood(inputs: Inputs) -> pa.Table:
    """LDs of clean, corrupted and value-patched stories, per story, group of positions and filler length.

    The values at a group's positions are taken from the flipped story, all heads, in the chosen layers, while the
    attention patterns are held at the clean story's: only what is stored at the positions can act.
    """
    out = Outcomes(SCHEMA)
    n = inputs.model.n_layers
    spans = {"all": range(n), "upper": range(n // 2, n)}
    for filler, pairs in _stories(inputs.prompts["mood"]):
        clean = make_batch(inputs.model, [c for c, _ in pairs])
        other = make_batch(inputs.model, [o for _, o in pairs])
        names = [f"blocks.{layer}.attn.hook_v" for layer in range(n)]
        source = forward(inputs.model, other.prepared, keep=names).hooks
        held = frozen_attention(patterns(inputs.model, clean.prepared))

        def ld(batch, edits=(), clean=clean):
            logits = forward(
                inputs.model, batch.prepared, edits=edits, rows=clean.rows, columns=clean.columns
            ).logits
            return logit_difference(logits) * clean.sign

        ends = {"ld_clean": ld(clean), "ld_corrupted": ld(other)}
        for group, marks in GROUPS.items():
            where = clean.at(*marks)
            if not where.any(1).all():
                continue
            for label, layers in spans.items():
                for frozen in (True, False):
                    patch = [values(layer, source[names[layer]], where) for layer in layers]
                    out.add(
                        group=group,
                        layers=label,
                        frozen=frozen,
                        filler=filler,
                        prompt=[p.id for p in clean.prompts],
                        label=[p.label for p in clean.prompts],
                        ld_patched=ld(clean, [*patch, *(held if frozen else ())]),
                        **ends,
                    )
    return out.table()


def _stories(prompts: Sequence[Prompt]) -> Iterator[tuple[int, list[tuple[Prompt, Prompt]]]]:
    """By filler length: (clean, corrupted) pairs of flipped twins with equally many tokens, each both ways."""
    stories: dict[int, list[Prompt]] = {}
    for p in prompts:
        if p.usable:
            stories.setdefault(p.extra["story"], []).append(p)
    twins = [t for t in stories.values() if len(t) == 2 and len(t[0].ids) == len(t[1].ids)]
    for filler in sorted({t[0].extra["filler"] for t in twins}):
        mine = [t for t in twins if t[0].extra["filler"] == filler]
        yield filler, [pair for a, b in mine for pair in ((a, b), (b, a))]
