"""Directional ablation on reviews (protocol 4.5): what is lost when a direction is removed, and where it matters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from tqdm import tqdm

from bearings.lm.edits import Edit, Function, ResidualEdit, ablate, frozen_attention, replace
from bearings.lm.forward import forward, patterns
from bearings.stages.batch import Batch, in_batches, logit_difference
from bearings.stages.inputs import Inputs, Outcomes
from bearings.stages.prompts import Prompt
from bearings.studies.sentiment.common import unit

SCHEMA = {
    "operation": pa.string(),
    "direction": pa.string(),
    "variant": pa.string(),
    "where": pa.string(),
    "frozen": pa.bool_(),
    "draw": pa.int32(),
    "prompt": pa.int32(),
    "label": pa.int8(),
    "ld": pa.float32(),
    "top10": pa.bool_(),
    "comma": pa.bool_(),
    "kept": pa.bool_(),
}
TOP = 10


@dataclass(frozen=True)
class Condition:
    """One way to ablate: `operation` ablate | mean, at the positions `where`, attention `frozen` or not.

    `variant` is the layer convention: `published` applies the vector fitted at the input of block i to its output,
    so that the embedding is never touched; `corrected` applies every vector where it was fitted.
    """

    operation: str
    direction: str
    variant: str
    where: str
    frozen: bool = False
    draw: int = 0


def ablation(inputs: Inputs) -> pa.Table:
    """Logit difference per review and condition; operation `clean` covers every review, kept by the filter or not."""
    reviews = [p for p in inputs.prompts["reviews"] if p.usable and p.extra["scaffold"] == "ablation"]
    out = Outcomes(SCHEMA)
    if not reviews:
        return out.table()
    clean = _clean(inputs, reviews)
    kept = balanced(reviews, clean, inputs.seed)
    for p in reviews:
        ld, top = clean[p.id]
        _add(out, Condition("clean", "", "", ""), [p], [ld], top10=[top], kept=[p in kept])
    if not kept:
        return out.table()
    means = _means(inputs, kept)
    conditions = [c for c in _conditions(inputs) if _possible(c, kept)]
    work = list(in_batches(inputs.model, kept, inputs.settings["batch_tokens"]))
    rows: dict[Condition, dict[int, float]] = {c: {} for c in conditions}
    for _, batch in tqdm(work, desc="ablation", unit="batch", ascii=True):
        frozen = frozen_attention(patterns(inputs.model, batch.prepared))
        places = _places(batch, inputs.seed)
        for c in conditions:
            edits = [*_edits(inputs, c, places, means, batch), *(frozen if c.frozen else ())]
            logits = forward(
                inputs.model, batch.prepared, edits=edits, rows=batch.rows, columns=batch.columns
            ).logits
            found = (logit_difference(logits) * batch.sign).tolist()
            rows[c] |= dict(zip([p.id for p in batch.prompts], found, strict=True))
    for c in conditions:
        _add(out, c, kept, [rows[c][p.id] for p in kept])
    return out.table()


def _add(out: Outcomes, c: Condition, prompts: Sequence[Prompt], ld, top10=None, kept=True) -> None:
    out.add(
        operation=c.operation,
        direction=c.direction,
        variant=c.variant,
        where=c.where,
        frozen=c.frozen,
        draw=c.draw,
        prompt=[p.id for p in prompts],
        label=[p.label for p in prompts],
        ld=ld,
        top10=top10,
        comma=["comma" in p.positions for p in prompts],
        kept=kept,
    )


def _clean(inputs: Inputs, reviews: Sequence[Prompt]) -> dict[int, tuple[float, bool]]:
    """LD of each review, and whether its answer is among the TOP logits at *any* position (section 5, row 5)."""
    found = {}
    for _, batch in in_batches(inputs.model, reviews, inputs.settings["batch_tokens"]):
        logits = forward(inputs.model, batch.prepared, rows="all").logits
        at_end = logits[torch.arange(len(batch.rows)), batch.rows].gather(1, batch.columns)
        ld = logit_difference(at_end) * batch.sign
        k = batch.columns.shape[1] // 2
        right = torch.where(batch.sign[:, None] > 0, batch.columns[:, :k], batch.columns[:, k:])
        threshold = logits.topk(TOP, -1).values[..., -1]
        of_answer = logits.gather(2, right[:, None].expand(-1, logits.shape[1], -1)).amax(-1)
        top = ((of_answer >= threshold) & batch.mask).any(1)
        for i, p in enumerate(batch.prompts):
            found[p.id] = (ld[i].item(), bool(top[i]))
    return found


def balanced(reviews: Sequence[Prompt], clean: Mapping[int, tuple[float, bool]], seed: int) -> list[Prompt]:
    """The paper's set (protocol 3.3): right, in the top 10, with a bare comma, as many positives as negatives."""
    good = [p for p in reviews if clean[p.id][0] > 0 and clean[p.id][1] and "comma" in p.positions]
    sides = [[p for p in good if p.label == label] for label in (0, 1)]
    n = min(map(len, sides))
    rng = np.random.default_rng([seed, 415])
    chosen = [
        s if len(s) == n else [s[i] for i in sorted(rng.choice(len(s), n, replace=False))] for s in sides
    ]
    return sorted(chosen[0] + chosen[1], key=lambda p: p.id)


def _conditions(inputs: Inputs) -> Iterator[Condition]:
    both, methods = ("published", "corrected"), inputs.settings["directions"]
    fitted = [m for m in methods if inputs.directions[m]]
    for direction in fitted:
        for variant in both:
            for where in ("all", "comma", "random_token", "period", "polar", "aspect", "name"):
                yield Condition("ablate", direction, variant, where)
            for where in ("all", "comma"):
                yield Condition("ablate", direction, variant, where, frozen=True)
    if fitted:
        for variant in both:
            for where in ("all", "comma"):
                for draw in range(inputs.settings["random_draws"]):
                    yield Condition("ablate", "random", variant, where, draw=draw)
    yield from (Condition("mean", m, "published", "comma") for m in ("own", "opposite"))
    if _elsewhere(inputs):
        yield Condition("mean", "elsewhere", "published", "comma")
    yield Condition("mean", "own", "published", "comma", frozen=True)
    yield Condition("mean", "own", "published", "period")
    yield Condition("mean", "own", "published", "random_token")


def _possible(c: Condition, kept: Sequence[Prompt]) -> bool:
    """Does any review have such a position? Otherwise the outcomes would be the clean ones under another name."""
    return c.where in ("all", "random_token") or any(c.where in p.positions for p in kept)


def _places(batch: Batch, seed: int) -> dict[str, torch.Tensor]:
    """Position masks [batch, pos]; `random_token`: as many tokens of the sentence as it has commas (control C2)."""
    places = {name: batch.at(name) for name in ("comma", "period", "polar", "aspect", "name")}
    random = torch.zeros_like(batch.mask)
    width = random.shape[1]
    for i, p in enumerate(batch.prompts):
        commas = p.positions.get("comma", ())
        others = [t for t in p.positions["sentence"] if t not in commas]
        rng = np.random.default_rng([seed, 602, p.id])
        chosen = rng.choice(others, min(len(commas), len(others)), replace=False)
        random[i, torch.as_tensor(chosen, dtype=torch.long) + width - len(p.ids)] = True
    return {**places, "all": batch.mask, "random_token": random}


def _edits(
    inputs: Inputs, c: Condition, places: Mapping[str, torch.Tensor], means: Mapping, batch: Batch
) -> list[Edit]:
    n = inputs.model.n_layers
    where = places[c.where]

    def at(layer: int, function: Function) -> ResidualEdit:
        return ResidualEdit(layer, function, where)

    if c.operation == "mean":
        # resid_post of every block: the residual entering the next one.
        def mean(layer: int) -> torch.Tensor:
            if c.direction == "opposite":
                positive = batch.sign[:, None, None] > 0
                return torch.where(positive, means[c.where, layer, 0], means[c.where, layer, 1])
            return means[c.where, layer, "elsewhere" if c.direction == "elsewhere" else "both"]

        return [at(layer, replace(mean(layer))) for layer in range(1, n + 1)]
    vectors = inputs.directions[c.direction]
    fitted_on = str(c.draw) if c.direction == "random" else "corrected"
    if c.variant == "published" and any(key.startswith("published/") for key in vectors):
        fitted_on = "published"
    edits = []
    for layer in range(n + 1):
        target = layer + 1 if c.variant == "published" else layer
        d = unit(vectors, fitted_on, layer)
        if d is not None and target <= n:
            edits.append(at(target, ablate(torch.from_numpy(d))))
    return edits


def _elsewhere(inputs: Inputs) -> list[Prompt]:
    """Texts with commas that are no reviews: mood stories, where the authors took web text."""
    return [p for p in inputs.prompts["mood"] if p.usable and "comma" in p.positions]


def _means(inputs: Inputs, kept: Sequence[Prompt]) -> dict[tuple, torch.Tensor]:
    """Mean residual [d_model] by (where, layer, side): of the kept reviews, by class or both, and elsewhere."""
    n = inputs.model.n_layers
    total: dict[tuple, torch.Tensor] = {}
    count: dict[tuple, int] = {}

    def collect(prompts: Sequence[Prompt], masks: Callable[[Batch], dict[tuple, torch.Tensor]]) -> None:
        for _, batch in in_batches(inputs.model, prompts, inputs.settings["batch_tokens"]):
            resid = forward(inputs.model, batch.prepared, keep=range(1, n + 1)).resid
            for (where, side), mask in masks(batch).items():
                for layer in range(1, n + 1):
                    key = (where, layer, side)
                    total[key] = total.get(key, 0) + resid[layer][mask].double().sum(0)
                    count[key] = count.get(key, 0) + int(mask.sum())

    def of_reviews(batch: Batch) -> dict[tuple, torch.Tensor]:
        places, positive = _places(batch, inputs.seed), (batch.sign > 0)[:, None]
        sides = {"both": batch.mask, 1: positive, 0: ~positive}
        return {(w, s): places[w] & m for w in ("comma", "period", "random_token") for s, m in sides.items()}

    collect(kept, of_reviews)
    collect(_elsewhere(inputs), lambda batch: {("comma", "elsewhere"): batch.at("comma", "comma_day")})
    return {k: (v / max(count[k], 1)).float() for k, v in total.items()}
