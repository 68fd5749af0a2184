"""Coupling coefficients against slopes (protocol 2.3, 4.3): scores of pairs of features over running text.

C(y1, y2) = y1 . y2 / |y1|^2 predicts the slope of the scores, and cos^2 their r^2, wherever activations have no
preferred direction. Rows hold sums over blocks of windows, of which slopes, r^2 and intervals are made.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from bearings.lm.forward import forward
from bearings.lm.parts import attn_norm
from bearings.lm.propagate import Head
from bearings.stages.batch import in_batches
from bearings.stages.inputs import Inputs, Outcomes
from bearings.studies.obsprop.search import composed, settle

SUMS = ("n", "sx", "sy", "sxx", "sxy", "syy")
SCHEMA = {
    "pair": pa.string(), "mode": pa.string(), "site": pa.string(), "layer": pa.int32(), "head": pa.int32(),
    "first": pa.bool_(), "window": pa.int32(), "half": pa.int8(), **dict.fromkeys(SUMS, pa.float64()),
    "predicted": pa.float64(), "cos": pa.float64(),
}  # fmt: skip
IGNORE, SCALE, SWAPPED = "ignore", "scale", "scale_swapped"
OWN, MISTAKEN, NORMED = "own", "mistaken", "normed"
# Rows per pair of features: windows next to each other are put together, so that large texts make no large tables.
BLOCKS = 400


@dataclass(frozen=True, eq=False)
class Pair:
    """Two features [d_model] to be read at `layer`: of the residual, or with `normed` of what its norm gives.

    `shuffled` pairs every score of y with that of another token.
    """

    name: str
    mode: str
    site: str
    layer: int
    head: int
    read: int
    x: np.ndarray
    y: np.ndarray
    shuffled: bool = False

    @property
    def predicted(self) -> float:
        return float(self.x @ self.y / (self.x @ self.x))

    @property
    def cos(self) -> float:
        return float(self.x @ self.y / np.sqrt((self.x @ self.x) * (self.y @ self.y)))


def coupling(inputs: Inputs) -> pa.Table:
    """Sums of scores for every head asked for, at its own layer and at the one that the paper read by mistake."""
    out = Outcomes(SCHEMA)
    windows = [p for p in inputs.prompts["text"] if p.usable]
    chosen = [p for p in found_pairs(inputs) if p.x.any() and p.y.any()]
    if not chosen or not windows:
        return out.table()
    per_block = -(-len(windows) // BLOCKS)
    sums: dict[tuple[int, bool, int], np.ndarray] = defaultdict(lambda: np.zeros(len(SUMS)))
    for index, first, window, values in _scored(inputs, windows, chosen):
        sums[index, first, window // per_block] += values
    for (index, first, block), values in sorted(sums.items()):
        p = chosen[index]
        out.add(
            pair=p.name, mode=p.mode, site=p.site, layer=p.layer, head=p.head, first=first,
            window=block, half=block % 2, predicted=p.predicted, cos=p.cos,
            **dict(zip(SUMS, values.tolist(), strict=True)),
        )  # fmt: skip
    return out.table()


def found_pairs(inputs: Inputs) -> Iterator[Pair]:
    """Subject against object pronoun at every head asked for, with controls, and the occupations' path against the
    subject's where both end at one place."""
    model, settings = inputs.model, inputs.settings
    heads = settings["heads"]
    if heads == "all":
        heads = [(layer, head) for layer in range(model.n_layers) for head in range(model.info.n_heads)]
    rng = np.random.default_rng([inputs.seed, 13])
    scaled = _scaled(inputs)
    for layer, head in heads:
        at = {"layer": layer, "head": head}
        for mode, (x, y) in _by_mode(inputs, scaled, layer, head).items():
            both = {**at, "x": x, "y": y}
            yield Pair("subj_obj", mode, OWN, read=layer, **both)
            if mode == IGNORE:
                yield Pair("subj_obj", mode, NORMED, read=layer, **both)
            else:
                yield Pair("subj_obj", mode, MISTAKEN, read=settings["mistaken_layer"], **both)
            if mode == SCALE:
                random = rng.standard_normal(len(x))
                other = (random * np.linalg.norm(x) / np.linalg.norm(random)).astype(np.float32)
                yield Pair("subj_random", mode, OWN, read=layer, **{**both, "y": other})
                yield Pair("subj_shuffled", mode, OWN, read=layer, shuffled=True, **both)
    yield from _paths(inputs.directions["paths"])


Scaled = Callable[[int, int, str], np.ndarray]


def _scaled(inputs: Inputs) -> list[Scaled]:
    """For subject and object: (layer, head, mode) -> feature [d_model] with the norms scaled as at the task's own
    prompt A. Empty where one of the tasks has no pair."""
    prompts, out = inputs.prompts["pairs"], []
    for task in ("subj", "obj"):
        setting = settle(inputs.model, prompts, task)
        sources = [p.positions["source"][-1] for p in prompts if _is_source(p, task)]
        if setting is None or not sources:
            return []

        def of(layer: int, head: int, mode: str, setting=setting, at=sources[0]) -> np.ndarray:
            return composed(setting, (Head(layer, head, at),), mode)

        out.append(of)
    return out


def _by_mode(
    inputs: Inputs, scaled: Sequence[Scaled], layer: int, head: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Features (subject, object) [d_model] of one head by mode."""
    plain = inputs.directions["heads"]
    names = (f"n_subj/{layer}", f"n_obj/{layer}")
    out = {IGNORE: tuple(plain[name][head] for name in names)} if all(n in plain for n in names) else {}
    if scaled:
        out |= {mode: tuple(of(layer, head, mode) for of in scaled) for mode in (SCALE, SWAPPED)}
    return out


def _is_source(p, task: str) -> bool:
    return p.split == "pair" and p.extra["task"] == task and "source" in p.positions


def _paths(paths: Mapping[str, np.ndarray]) -> Iterator[Pair]:
    """The occupations' feature (x) against the subject's (y), where both live at one head's input."""
    ends = {}
    for key, vector in paths.items():
        name, path, mode = key.rsplit("/", 2)
        last = path.split("<=")[-1].split("@")[0]
        if mode == IGNORE and last.startswith("attn") and last[4:].replace(".", "").isdigit():
            ends[name] = (*map(int, last[4:].split(".")), vector)
    for role in ("shared", "6_6"):
        if f"n_bias.{role}" in ends and f"n_subj.{role}" in ends:
            (layer, head, x), (_, _, y) = ends[f"n_bias.{role}"], ends[f"n_subj.{role}"]
            yield Pair("paths", IGNORE, OWN, layer=layer, head=head, read=layer, x=x, y=y)


def _scored(
    inputs: Inputs, windows: Sequence, chosen: Sequence[Pair]
) -> Iterator[tuple[int, bool, int, np.ndarray]]:
    """(pair, position 0 kept?, window, sums) of every window, in the order of the windows' batches."""
    model = inputs.model
    by_site: dict[tuple[int, bool], list[int]] = defaultdict(list)
    for i, p in enumerate(chosen):
        by_site[p.read, p.site == NORMED].append(i)
    layers = sorted({read for read, _ in by_site})
    generator = torch.Generator().manual_seed(inputs.seed)
    for group, batch in in_batches(model, windows, inputs.settings["max_tokens"]):
        resid = forward(model, batch.prepared, keep=layers).resid
        mask = batch.mask
        inner = mask & (mask.long().cumsum(1) > 1)
        for (read, normed), mine in by_site.items():
            at = attn_norm(model, read)(resid[read]) if normed else resid[read]
            x, y = (
                at @ torch.from_numpy(np.stack([getattr(chosen[i], side) for i in mine]).T).to(at)
                for side in "xy"
            )
            for k, i in enumerate(mine):
                scores = (x[..., k].double(), y[..., k].double())
                for first, kept in ((True, mask), (False, inner)):
                    if chosen[i].shuffled and first:
                        continue
                    rows = _sums(*scores, kept, generator if chosen[i].shuffled else None)
                    for g, values in zip(group, rows, strict=True):
                        if values[0]:
                            yield i, first, g, values


def _sums(x: Tensor, y: Tensor, mask: Tensor, generator: torch.Generator | None) -> np.ndarray:
    """Sums [batch, 6] of scores [batch, pos] where the mask is set; with a generator, y of other tokens."""
    if generator is not None:
        values = y[mask]
        y = y.clone()
        y[mask] = values[torch.randperm(len(values), generator=generator).to(values.device)]
    m = mask.to(x)
    x, y = x * m, y * m
    columns = (m, x, y, x * x, x * y, y * y)
    return torch.stack([c.sum(1) for c in columns], 1).cpu().numpy()
