"""Debiasing (protocol 4.10): a male prompt's name is moved, along one feature, to where the female prompt's is.

The residual in front of one block, at the name, becomes x + (v . (x_pos - x_neg)) v, and the rest of the model runs
on it: heads, MLPs and the skip path all see the edit (T11). Divergences are KL(patched || unpatched) in nats, summed
over the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from bearings.lm.edits import Function, ResidualEdit, patch_along, replace
from bearings.lm.forward import forward
from bearings.stages.batch import Batch, in_batches
from bearings.stages.inputs import Inputs, Outcomes
from bearings.stages.prompts import Prompt
from bearings.studies.obsprop.scores import Feature, longest, path_features, reading

SCHEMA = {
    "variant": pa.string(), "template": pa.int32(), "pair": pa.int32(), "name": pa.string(),
    "positive": pa.float64(), "negative": pa.float64(), "patched": pa.float64(), "kl_whole": pa.float64(),
    "kl_others": pa.float64(),
}  # fmt: skip
TASK, OBSERVABLE = "occ", "n_bias"
UNIT, DOUBLE, WHOLE = "unit", "double", "whole"
# 2v in place of v, in both of its places, as published.
FACTOR = 4


def debias(inputs: Inputs) -> pa.Table:
    """One row per pair and variant: n . logits of the female, the male and the patched prompt, and divergences.

    Variants: `unit` along the feature, `double` four times as far (as published), `random.<k>` along random vectors,
    `whole` the whole residual. `name` is the male prompt's. Settings: `feature` (a path's name, may be absent),
    `max_tokens`, `random_draws`.
    """
    out = Outcomes(SCHEMA)
    model, pairs, at = inputs.model, pairs_of(inputs.prompts["names"]), feature(inputs)
    if at is None or not pairs:
        return out.table()
    females, males = (list(side) for side in zip(*pairs, strict=True))
    draws = inputs.directions["random"][str(at.layer)][: inputs.settings["random_draws"]]
    vectors = {UNIT: at.vector, **{f"random.{k}": v for k, v in enumerate(draws)}}
    source = torch.from_numpy(inputs.dumps["names"].at("name", [p.id for p in females], at.layer))
    positive = _outputs(inputs, females)
    for group, batch in in_batches(model, males, inputs.settings["max_tokens"]):
        plain = forward(model, batch.prepared, keep=[at.layer], rows=batch.rows)
        resid = plain.resid[at.layer]
        for variant, function in _edits(vectors, source[group].to(resid)):
            edit = ResidualEdit(at.layer, function, batch.at("name"))
            logits = forward(
                model, batch.prepared, start=at.layer, resid=resid, edits=[edit], rows=batch.rows
            ).logits
            out.add(
                variant=variant, template=[p.extra["template"] for p in batch.prompts],
                pair=[p.extra["pair"] for p in batch.prompts], name=[p.extra["name"] for p in batch.prompts],
                positive=positive[group], negative=_output(plain.logits, batch),
                patched=_output(logits, batch), kl_whole=divergence(logits, plain.logits),
                kl_others=divergence(logits, plain.logits, batch.columns),
            )  # fmt: skip
    return out.table()


def feature(inputs: Inputs) -> Feature | None:
    """The unit vector to patch along, norms left out: the path that setting `feature` names, else the one that the
    task is read with, else that of the head whose feature is longest; None where the observable has no features.

    Raises:
        ValueError: the settings name a path that is not there.
    """
    if (name := inputs.settings.get("feature")) is not None:
        found = path_features(inputs, name.split(".")[0]).get(name)
        if found is None:
            raise ValueError(f"debias: there is no path '{name}'")
        return found
    return reading(inputs, TASK, OBSERVABLE) or longest(inputs, OBSERVABLE)


def pairs_of(prompts: Sequence[Prompt]) -> list[tuple[Prompt, Prompt]]:
    """(female, male) prompts of the occupation task that share template and place in the lists, both usable."""
    by_pair: dict[int, dict[int, Prompt]] = {}
    for p in prompts:
        if p.extra["task"] == TASK and p.usable:
            by_pair.setdefault(p.extra["pair"], {})[p.label] = p
    return [(both[1], both[0]) for _, both in sorted(by_pair.items()) if len(both) == 2]


def divergence(logits: Tensor, reference: Tensor, without: Tensor | None = None) -> Tensor:
    """KL(softmax(logits) || softmax(reference)) in nats [batch], of logits [batch, vocab], float64.

    without: token ids [batch, k] that are left out of both, what remains being renormalised.
    """
    p, q = logits.double(), reference.double()
    if without is not None:
        p, q = (x.scatter(1, without.to(x.device), -torch.inf) for x in (p, q))
    p, q = p.log_softmax(-1), q.log_softmax(-1)
    terms = p.exp() * (p - q)
    # What was left out has probability zero in both and adds nothing.
    return terms.nan_to_num(nan=0.0).sum(-1) if without is not None else terms.sum(-1)


def _edits(vectors: Mapping[str, np.ndarray], source: Tensor) -> Iterator[tuple[str, Function]]:
    """Edits by variant towards residuals `source` [batch, d_model]."""
    target = source[:, None]
    for name, vector in vectors.items():
        along = patch_along(torch.from_numpy(np.asarray(vector)).to(source), target)
        yield name, along
        if name == UNIT:
            yield DOUBLE, lambda x, along=along: x + FACTOR * (along(x) - x)
    yield WHOLE, replace(target)


def _outputs(inputs: Inputs, prompts: Sequence[Prompt]) -> np.ndarray:
    """n . logits [n] of prompts as they are."""
    out = np.zeros(len(prompts))
    for group, batch in in_batches(inputs.model, prompts, inputs.settings["max_tokens"]):
        logits = forward(inputs.model, batch.prepared, rows=batch.rows).logits
        out[group] = _output(logits, batch).cpu().numpy()
    return out


def _output(logits: Tensor, batch: Batch) -> Tensor:
    """n . logits [batch] of logits [batch, vocab]: positive words minus negative ones, summed."""
    words = logits.gather(1, batch.columns.to(logits.device)).double()
    k = len(batch.prompts[0].positive)
    return words[:, :k].sum(-1) - words[:, k:].sum(-1)
