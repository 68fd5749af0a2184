"""Directional activation patching (protocol 4.2): one layer at a time, all positions, toy words and whole reviews."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import torch

from bearings.lm.edits import patch_along
from bearings.lm.forward import forward, repeat
from bearings.stages.batch import Batch, logit_difference, make_batch
from bearings.stages.inputs import Inputs, Outcomes
from bearings.stages.prompts import Prompt
from bearings.studies.sentiment.common import METHODS, corrupted, enough, toy, unit

SCHEMA = {
    "set": pa.string(),
    "split": pa.string(),
    "layer": pa.int32(),
    "method": pa.string(),
    "variant": pa.string(),
    "draw": pa.int32(),
    "prompt": pa.int32(),
    "label": pa.int8(),
    "ld_clean": pa.float32(),
    "ld_corrupted": pa.float32(),
    "ld_patched": pa.float32(),
}
Pairs = list[tuple[Prompt, Prompt]]
# One direction to be patched along: method, variant, draw, rows [k, d_model] or None for the whole residual.
Way = tuple[str, str, int, torch.Tensor | None]


def patching(inputs: Inputs) -> pa.Table:
    """Logit differences, against the clean prompt's answers, of clean, corrupted and patched runs, per prompt."""
    out = Outcomes(SCHEMA)
    for name, split, pairs in _pair_sets(inputs.prompts, inputs.settings):
        for chunk in _chunks(pairs, inputs.settings["batch"]):
            width = max(len(p.ids) for pair in chunk for p in pair)
            clean = make_batch(inputs.model, [c for c, _ in chunk], width)
            other = make_batch(inputs.model, [o for _, o in chunk], width)
            for layer, ways, values in _patched(inputs, clean, other):
                for (method, variant, draw, _), patched in zip(ways, values["patched"], strict=True):
                    out.add(
                        set=name,
                        split=split,
                        layer=layer,
                        method=method,
                        variant=variant,
                        draw=draw,
                        prompt=[c.id for c, _ in chunk],
                        label=[c.label for c, _ in chunk],
                        ld_clean=values["clean"],
                        ld_corrupted=values["corrupted"],
                        ld_patched=patched,
                    )
    return out.table()


def _patched(inputs: Inputs, clean: Batch, other: Batch) -> Iterator[tuple[int, list[Way], dict[str, Any]]]:
    """For each layer the ways, and LDs: clean and corrupted [batch], patched [way][batch]."""
    model, layers = inputs.model, inputs.layers

    def ld(batch, **how):
        n = len(how["resid"]) // len(clean.prompts) if "resid" in how else 1
        rows, columns = clean.rows.repeat(n), clean.columns.repeat(n, 1)
        logits = forward(model, batch, rows=rows, columns=columns, **how).logits
        return logit_difference(logits) * clean.sign.repeat(n)

    resid = {name: forward(model, b.prepared, keep=layers).resid for name, b in (("c", clean), ("o", other))}
    ends = {"clean": ld(clean.prepared), "corrupted": ld(other.prepared)}
    stacks: dict[int, Any] = {}
    for layer in layers:
        ways = _ways(inputs, layer)
        if len(ways) not in stacks:
            stacks[len(ways)] = repeat(other.prepared, len(ways))
        c, o = resid["c"][layer], resid["o"][layer]
        states = [c if rows is None else patch_along(rows, c)(o) for *_, rows in ways]
        patched = ld(stacks[len(ways)], start=layer, resid=torch.cat(states))
        yield layer, ways, {**ends, "patched": patched.view(len(ways), -1)}


def _ways(inputs: Inputs, layer: int) -> list[Way]:
    ways: list[Way] = [("full", "", 0, None)]
    for method in METHODS:
        for variant in ("published", "corrected"):
            d = unit(inputs.directions[method], variant, layer)
            if d is not None:
                ways.append((method, variant, 0, torch.from_numpy(d)))
    for draw in range(inputs.settings["random_draws"]):
        d = unit(inputs.directions["random"], str(draw), layer)
        if d is not None:
            ways.append(("random", "", draw, torch.from_numpy(d)))
    return ways


def _pair_sets(
    prompts: Mapping[str, Sequence[Prompt]], settings: Mapping[str, Any]
) -> Iterator[tuple[str, str, Pairs]]:
    if enough(toy(prompts["toy"], "train")):
        for split in ("train", "test"):
            chosen = toy(prompts["toy"], split)
            yield "toy", split, list(zip(chosen, corrupted(chosen), strict=True))
    for scaffold in ("classification", "continuation"):
        for split in ("dev", "test"):
            fine = [
                p
                for p in prompts["reviews"]
                if p.usable and p.extra["scaffold"] == scaffold and p.split == split
            ]
            pairs = equal_length_pairs(fine, settings["pairing"], settings["review_pairs"])
            if pairs:
                yield scaffold, split, pairs


def equal_length_pairs(prompts: Sequence[Prompt], pairing: str, most: int | None = None) -> Pairs:
    """Clean and corrupted reviews of opposite class and the same token count, in file order (protocol 3.3).

    `swap` corrupts each of a pair by the other; `rotate` is the authors' way: the interleaved list is rotated by
    one, so that a negative's partner comes from the next pair and may differ in length (section 5, row 11).
    Of more than `most` prompts, pairs are taken evenly over all lengths, both classes equally often.
    """
    by_length: dict[int, dict[int, list[Prompt]]] = {}
    for p in prompts:
        by_length.setdefault(len(p.ids), {0: [], 1: []})[p.label].append(p)
    both = [pn for n in sorted(by_length) for pn in zip(by_length[n][1], by_length[n][0], strict=False)]
    if most is not None and len(both) > most // 2:
        both = [both[i * len(both) // (most // 2)] for i in range(most // 2)]
    if pairing == "swap":
        return [pair for a, b in both for pair in ((a, b), (b, a))]
    if pairing == "rotate":
        flat = [p for pair in both for p in pair]
        return list(zip(flat, corrupted(flat), strict=True))
    raise ValueError(f"settings interventions.patching.pairing is {pairing!r}; allowed: swap, rotate")


def _chunks(items: Pairs, size: int) -> Iterator[Pairs]:
    for i in range(0, len(items), size):
        yield items[i : i + size]
