"""What norms do to features (protocol 2.6, 4.7, 4.11): the theorem, the model's activations, tangents, weights.

The theorem holds for a norm without weights and any input, as long as the feature is isotropic. Measured here is the
model's own norm with its weights. An RMSNorm does not centre: the theorem's form is not meant for it, its angles are
measured all the same and show what one projection less makes of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from bearings.lm.parts import Norm, attn_norm, final_norm, gain, gradient, mlp_norm
from bearings.lm.trace import traces
from bearings.stages.batch import in_batches
from bearings.stages.inputs import Inputs, Outcomes
from bearings.stages.prompts import Prompt
from bearings.studies.obsprop import theorem
from bearings.studies.obsprop.tangents import output_of, tangents

SCHEMA = {
    "quantity": pa.string(), "task": pa.string(), "layer": pa.int32(), "head": pa.int32(),
    "group": pa.int32(), "other": pa.string(), "index": pa.int32(), "value": pa.float64(),
}  # fmt: skip
NOWHERE = {"task": "", "layer": -1, "head": -1, "group": -1, "other": "", "index": -1}
SUBJECT, IGNORE = "n_subj", "ignore"
# Length of the noise on a feature relative to its own, in the inputs that break the theorem's assumption.
NOISE = 0.1
# Names per template and gender that the published mean lengths are taken over (T21).
FIRST_NAMES = 3
# Every norm's input of a batch is held at once.
AT_ONCE = 1024


def layernorm(inputs: Inputs) -> pa.Table:
    """One row per draw, prompt, head or module; columns that do not apply are -1 or empty. `group` holds the width of
    angles, and the template of tangents.

    Settings: `widths` and `draws` of the simulation, `prompts` (how many have their activations looked at), how many
    `random_draws` of tangents at random points, `max_tokens`, and `tangent_heads`, [layer, head] pairs that the
    tangents are taken back to; they may be absent.
    """
    out = Outcomes(SCHEMA)

    def add(quantity: str, value: Any, **where: Any) -> None:
        out.add(**{**NOWHERE, **where, "quantity": quantity, "value": value})

    settings = inputs.settings
    for d in settings["widths"]:
        found = theorem.angles(d, settings["draws"], _rng(inputs, 1, d))
        add("theorem_angle", found, group=d, index=list(range(len(found))))
    prompts = [p for p in inputs.prompts["names"] if p.usable]
    _activations(inputs, prompts, add)
    _features(inputs, [p for p in prompts if p.extra["observable"] == SUBJECT], add)
    _paths(inputs.directions.get("paths", {}), add)
    for task in dict.fromkeys(p.extra["task"] for p in prompts):
        tangents(inputs, task, [p for p in prompts if p.extra["task"] == task], _rng(inputs, 2), add)
    _modules(inputs, add)
    return out.table()


def _rng(inputs: Inputs, *purpose: int) -> np.random.Generator:
    return np.random.default_rng([inputs.seed, 13, *purpose])


def _sample(inputs: Inputs, prompts: Sequence[Prompt], purpose: int) -> list[Prompt]:
    count = min(inputs.settings["prompts"], len(prompts))
    chosen = _rng(inputs, purpose).permutation(len(prompts))[:count]
    return [prompts[i] for i in sorted(chosen)]


def _gradient(norm: Norm, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Exact gradients [..., d] of features y behind a norm at residuals x, both [..., d], float64."""
    at, feature = (torch.from_numpy(np.asarray(v, np.float64)).to(norm.weight.device) for v in (x, y))
    return gradient(norm, at, feature).cpu().numpy()


def _angle(norm: Norm, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Angles [n] in radians between features y [n, d] behind a norm and their gradients at x [n, d]."""
    return theorem.angle(y.astype(np.float64), _gradient(norm, x, y))


def _activations(inputs: Inputs, prompts: Sequence[Prompt], add) -> None:
    """Angles at the model's own residuals, random features in front of blocks and the observable at the end; and at
    residuals of the same length that lie along the feature, where the theorem's assumption fails."""
    model, dump = inputs.model, inputs.dumps["names"]
    few = _sample(inputs, prompts, 3)
    ids = [p.id for p in few]
    if not few:
        return
    for layer in [k for k in dump.layers if k < model.n_layers]:
        norm, rng = attn_norm(model, layer), _rng(inputs, 4, layer)
        for position in ("name", "end"):
            x = dump.at(position, ids, layer)
            n, noise = rng.standard_normal((2, *x.shape))
            where = {"task": "names", "layer": layer, "group": dump.width, "other": position, "index": ids}
            add("activation_angle", _angle(norm, x, n), **where)
            along = n + NOISE * noise
            along *= np.linalg.norm(x, axis=1, keepdims=True) / np.linalg.norm(along, axis=1, keepdims=True)
            add("aligned_angle", _angle(norm, along, n), **where)
    for task in dict.fromkeys(p.extra["task"] for p in few):
        mine = [p for p in few if p.extra["task"] == task]
        x = dump.at("end", [p.id for p in mine], model.n_layers)
        y = output_of(model, mine[0]).y.cpu().numpy()
        found = _angle(final_norm(model), x, y)
        where = {"task": task, "layer": model.n_layers, "group": dump.width}
        add("final_angle", found, index=[p.id for p in mine], **where)


def _features(inputs: Inputs, prompts: Sequence[Prompt], add) -> None:
    """Cosine of every head's feature without the norm and with the norm's gradient at the name."""
    model, dump = inputs.model, inputs.dumps["names"]
    few = _sample(inputs, prompts, 5)
    if not few:
        return
    ids = [p.id for p in few]
    for layer in [k for k in dump.layers if k < model.n_layers]:
        y = inputs.directions["heads"].get(f"{SUBJECT}/{layer}")
        if y is None:
            continue
        x = dump.at("name", ids, layer)[:, None]
        found = theorem.cosine(y.astype(np.float64), _gradient(attn_norm(model, layer), x, y))
        for head in range(len(y)):
            add("cos_gradient", found[:, head], task=few[0].extra["task"], layer=layer, head=head, index=ids)


def _paths(paths: Mapping[str, np.ndarray], add) -> None:
    """Cosine of every path's feature without norms and with them, by mode (`other`); `task` is the path's name."""
    for key, plain in paths.items():
        name, path, mode = key.split("/")
        if mode != IGNORE:
            continue
        for other in (k.split("/")[2] for k in paths if k.startswith(f"{name}/{path}/")):
            if other != IGNORE:
                y = paths[f"{name}/{path}/{other}"]
                value = theorem.cosine(plain.astype(np.float64), y.astype(np.float64))
                add("path_cos", float(value), task=name, other=other)


def modules(model) -> Iterator[tuple[int, str, Norm]]:
    """(layer, name, norm) of every norm: `ln_1` of a block, `ln_2` where it has one of its own, and `ln_f`."""
    for layer in range(model.n_layers):
        yield layer, "ln_1", attn_norm(model, layer)
        if getattr(model.blocks[layer], "ln2", None) is not None:
            yield layer, "ln_2", mlp_norm(model, layer)
    yield model.n_layers, "ln_f", final_norm(model)


def _modules(inputs: Inputs, add) -> None:
    """Variance of every norm's weights, mean length of its inputs, and variance over mean absolute input entry.

    Inputs are those of the subject's prompts: index 0 as published (first names, all positions), 1 all names without
    BOS, 2 BOS alone.
    """
    lengths, entries = _norm_inputs(inputs)
    for layer, name, norm in modules(inputs.model):
        variance = float(gain(norm).double().var(correction=0))
        add("weight_var", variance, layer=layer, other=name)
        for index in range(3):
            if (key := (layer, name, index)) in lengths:
                add("input_norm", lengths[key], layer=layer, other=name, index=index)
                add("weight_ratio", variance / entries[key], layer=layer, other=name, index=index)


def _norm_inputs(inputs: Inputs) -> tuple[dict[tuple, float], dict[tuple, float]]:
    """Mean length and mean absolute entry of every norm's inputs, by (layer, module, index)."""
    model = inputs.model
    mine = [p for p in inputs.prompts["names"] if p.extra["observable"] == SUBJECT]
    first = _first(mine)
    sums: dict[tuple, np.ndarray] = {}
    limit = min(inputs.settings["max_tokens"], AT_ONCE)
    for _, batch in in_batches(model, [p for p in mine if p.usable], limit):
        done = traces(model, batch.prepared.tokens, ("resid", "mid"))
        published = torch.tensor([p.id in first for p in batch.prompts])[:, None] & batch.mask.cpu()
        bos = batch.at("bos").cpu()
        masks = (published, batch.mask.cpu() & ~bos, bos)
        for layer, name, _ in modules(model):
            x = (done.mid if name == "ln_2" else done.resid)[:, layer]
            for index, mask in enumerate(masks):
                key = layer, name, index
                sums[key] = sums.get(key, 0) + _totals(x[mask.to(x.device)])
    means = {key: (s[:2] / s[2]) for key, s in sums.items() if s[2]}
    return {k: float(m[0]) for k, m in means.items()}, {k: float(m[1]) for k, m in means.items()}


def _totals(x: Tensor) -> np.ndarray:
    """Of rows [n, d]: their lengths summed, their mean absolute entries summed, and n."""
    return np.array([x.norm(dim=-1).double().sum().item(), x.abs().mean(-1).double().sum().item(), len(x)])


def _first(prompts: Sequence[Prompt]) -> set[int]:
    """Ids of the prompts with the first names of their list, in every template."""
    groups: dict[tuple, list[Prompt]] = {}
    for p in prompts:
        groups.setdefault((p.extra["template"], p.extra["gender"]), []).append(p)
    return {
        p.id for group in groups.values() for p in sorted(group, key=lambda p: p.extra["pair"])[:FIRST_NAMES]
    }
