"""Tokens of running text that a feature scores highest and lowest (protocol 2.4, the paper's appendix I).

Scores are of the unit feature on the raw residual where it lives: in front of the block for a head, in front of the
MLP's norm for an MLP. The first token of a window is left out: it stands for the cut and not for its word.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from tqdm import tqdm

from bearings.lm.forward import forward
from bearings.lm.propagate import Mlp, parse_path
from bearings.stages.batch import Batch, in_batches
from bearings.stages.inputs import Inputs, Outcomes
from bearings.stages.prompts import Prompt
from bearings.studies.obsprop.baselines import unit

SCHEMA = {
    "feature": pa.string(), "layer": pa.int32(), "side": pa.string(), "rank": pa.int32(),
    "window": pa.int32(), "position": pa.int32(), "token": pa.string(), "context": pa.string(),
    "kind": pa.string(), "score": pa.float64(),
}  # fmt: skip
# Roles of paths whose features read a name: found by search, and published.
ROLES = re.compile(r"head|shared|path\d*|6_6|mlp\d+")
MODE = "ignore"
SIDES = {"top": 1.0, "bottom": -1.0}
CONTEXT = 8  # tokens shown up to the one that is scored


@dataclass(frozen=True, eq=False)
class Reader:
    """A unit vector [d_model] and where it is read: in front of block `layer`, or of its MLP's norm at `hook`."""

    name: str
    layer: int
    hook: str | None
    vector: np.ndarray

    @property
    def site(self) -> int | str:
        """What a forward pass has to keep."""
        return self.layer if self.hook is None else self.hook


@dataclass(frozen=True)
class Best:
    """The best tokens so far of one reader and side: scores, prompts (by number) and positions, best first."""

    score: np.ndarray
    window: np.ndarray
    position: np.ndarray


def tokens(inputs: Inputs) -> pa.Table:
    """The `top` highest and lowest tokens of every path feature, and of random vectors read at the same layers.

    `window` is the prompt's id, `position` counts from 0 in it. `kind` is `female` or `male` where the token, as it
    stands in the prompts, is a name of that list alone, else empty; names of several tokens are not recognised.
    """
    out, prompts = Outcomes(SCHEMA), [p for p in inputs.prompts["text"] if p.usable]
    found = readers(inputs)
    if not found or not prompts:
        return out.table()
    best = _search(inputs, prompts, found)
    kinds, tokenizer = name_kinds(inputs.prompts["names"]), inputs.model.tokenizer
    for (name, side), top in best.items():
        seen = [prompts[w].ids[: p + 1] for w, p in zip(top.window, top.position, strict=True)]
        out.add(
            feature=name, layer=next(r.layer for r in found if r.name == name), side=side,
            rank=list(range(len(seen))), window=[prompts[w].id for w in top.window], position=top.position,
            token=[tokenizer.decode([ids[-1]]) for ids in seen],
            context=[tokenizer.decode(list(ids[-CONTEXT:])) for ids in seen],
            kind=[kinds.get(ids[-1], "") for ids in seen], score=SIDES[side] * top.score,
        )  # fmt: skip
    return out.table()


def readers(inputs: Inputs) -> list[Reader]:
    """Path features without norms, by the path's name, then `random.<layer>.<k>` at each of their layers."""
    out = []
    for key, vector in sorted(inputs.directions["paths"].items()):
        name, path, mode = key.split("/")
        # An observable with one published path has no role in its name.
        if mode == MODE and ROLES.fullmatch(name.partition(".")[2] or "head"):
            last = parse_path(path)[-1]
            out.append(Reader(name, last.layer, _mlp_hook(inputs.model, last), unit(vector)))
    for layer in sorted({r.layer for r in out}):
        draws = inputs.directions["random"].get(str(layer), ())
        out += [Reader(f"random.{layer}.{k}", layer, None, unit(v)) for k, v in enumerate(draws)]
    return out


def _mlp_hook(model, last) -> str | None:
    """Hook of the residual in front of an MLP's norm; without a norm of its own that is the block's residual."""
    own = getattr(model.blocks[last.layer], "ln2", None) is not None
    return f"blocks.{last.layer}.ln2.hook_in" if isinstance(last, Mlp) and own else None


def name_kinds(prompts: Sequence[Prompt]) -> dict[int, str]:
    """Gender by token id of the names that are one token and on one list only."""
    seen: dict[int, set[str]] = {}
    for p in prompts:
        if p.usable:
            seen.setdefault(p.ids[p.at("name")], set()).add(p.extra["gender"])
    return {token: next(iter(genders)) for token, genders in seen.items() if len(genders) == 1}


def _search(
    inputs: Inputs, prompts: Sequence[Prompt], found: Sequence[Reader]
) -> dict[tuple[str, str], Best]:
    """The best tokens by (reader, side), over all prompts, ties in the order of the text."""
    model, settings = inputs.model, inputs.settings
    sites = {site: [r for r in found if r.site == site] for site in dict.fromkeys(r.site for r in found)}
    vectors = {site: _stacked(model, here) for site, here in sites.items()}
    parts: dict[tuple[str, str], list[Best]] = {(r.name, side): [] for r in found for side in SIDES}
    for group, batch in tqdm(in_batches(model, prompts, settings["max_tokens"]), desc="tokens", ascii=True):
        done = forward(model, batch.prepared, keep=sites)
        counted, window, position = _counted(batch, np.array(group))
        for site, here in sites.items():
            x = (done.hooks if isinstance(site, str) else done.resid)[site]
            scores = (x[counted.to(x.device)] @ vectors[site].T).double().cpu().numpy()
            for reader, score in zip(here, scores.T, strict=True):
                for side, sign in SIDES.items():
                    mine = parts[reader.name, side]
                    mine[:] = [_top([*mine, Best(sign * score, window, position)], settings["top"])]
    return {key: mine[0] for key, mine in parts.items()}


def _stacked(model, readers: Sequence[Reader]) -> Tensor:
    return torch.from_numpy(np.stack([r.vector for r in readers])).to(model.device, model.dtype)


def _counted(batch: Batch, numbers: np.ndarray) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Mask [batch, pos] of the tokens that count, and of each, row by row, its prompt's number and its position."""
    width = batch.mask.shape[1]
    first = torch.tensor([width - len(p.ids) for p in batch.prompts])[:, None]
    counted = torch.arange(width)[None] > first
    row, column = (x.numpy() for x in counted.nonzero(as_tuple=True))
    return counted, numbers[row], column - first[:, 0].numpy()[row]


def _top(parts: Sequence[Best], count: int) -> Best:
    score, window, position = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("score", "window", "position")
    )
    order = np.lexsort((position, window, -score))[:count]
    return Best(score[order], window[order], position[order])
