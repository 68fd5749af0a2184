"""The SAEs of the study: ladders trained here, or released ones that are only checked (protocol 4.5 and 4.6).

Settings of the section `saes`, with the study's `main_layer`, `early_layer`, `late_layer` and `max_tokens` beside:

    width: features per residual dimension (d_sae = width * d_model)
    local: {coefficients, side_coefficients, samples, batch, lr, warmup, decay, init_norm}
    e2e, e2e_ds: {coefficients, rows, batch_rows, lr, warmup, decay, init_norm, kl, downstream, clip}
    released: [{name, model, kind, layer, level, folder, l0, revision, sha256, coefficient}]

`coefficients` are for residuals scaled to a mean norm of sqrt(d); larger is sparser, and levels count from the
sparsest. `side_coefficients` are those of local SAEs at the early and the late layer ([]: none there). `samples` is
in tokens, `rows` in rows of tokens, `batch` and `batch_rows` are one step's; `warmup` and `decay` are shares of the
steps, `init_norm` the norm of the decoder's rows at the start. With `released` nothing is trained: its folders are
verified against `sha256`, or recorded where that is null; `coefficient` may be left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bearings.lm.load import Model
from bearings.lm.saes import Entry, SaeError, d_sae_of, folder_digest, load_sae, model_digest, save_sae
from bearings.stages.dumps import Dump
from bearings.stages.prompts import Prompt
from bearings.stages.read import Dumps
from bearings.studies.sensitivity.common import KINDS, MAIN, layers

SET, POSITION = "train", "tokens"
STREAM = 41
RELEASED = {"name", "model", "kind", "layer", "level", "folder", "l0", "revision", "sha256"}


def train(
    kind: str,
    prompts: Mapping[str, Sequence[Prompt]],
    dumps: Mapping[str, Dump],
    settings: Mapping[str, Any],
    seed: int,
    model: Model,
    folder: Path,
) -> list[Entry]:
    """Train the SAEs of one kind and write them below `folder`, or look up the released ones of that kind.

    Args:
        prompts, dumps: the set `train`, rows of equal length and their residuals at every position.

    Raises:
        ValueError: a setting out of range, naming it, or rows that do not fit their dump.
        SaeError: a released SAE that is not the one the settings name.
    """
    if kind not in KINDS:
        raise ValueError(f"kind of SAE {kind!r} is unknown; allowed: {', '.join(KINDS)}")
    if settings["released"]:
        checked = map(_complete, settings["released"])
        mine = [e for e in checked if (e["kind"], e["model"]) == (kind, model.info.name)]
        return [_released(entry, model) for entry in mine]
    if kind == "e2e_ds" and settings["main_layer"] + 1 >= model.n_layers:
        return []  # no block's input lies behind the layer: there is nothing downstream to keep
    own, d_sae = settings[kind], settings["width"] * model.info.d_model
    entries = []
    for layer, suffix, coefficients in _places(kind, settings, own):
        ids, resid = rows_of(prompts[SET], _dump(dumps, layer), layer)
        number = int(np.random.default_rng([seed, STREAM, KINDS.index(kind), layer]).integers(2**31))
        ordered = sorted(map(float, coefficients), reverse=True)
        ladder = _ladder(kind, model, ids, resid, layer, ordered, d_sae, settings, number)
        for level, trained in enumerate(ladder):
            name = f"{kind}-{level}{suffix}"
            about = {
                "hook_name": f"blocks.{layer}.hook_resid_pre",
                "model_name": model.name,
                "context_size": ids.shape[1],
                "prepend_bos": True,
            }
            save_sae(trained.sae, folder / name, about)
            entries.append(
                Entry(
                    name=name,
                    kind=kind,
                    layer=layer,
                    level=level,
                    folder=name,
                    coefficient=trained.coefficient,
                    l0_training=trained.l0,
                    d_sae=d_sae,
                    published=False,
                    sha256=folder_digest(folder / name),
                    model=model_digest(model),
                    processing=model.processing,
                )
            )
    return entries


def rows_of(prompts: Sequence[Prompt], dump: Dump, layer: int) -> tuple[Tensor, Tensor]:
    """Tokens [rows, pos] and the residuals [rows, pos, d] that enter `layer`, position 0 (BOS) with them (T15).

    Raises:
        ValueError: no rows, rows of different lengths, or a dump without all their positions at that layer.
    """
    lengths = sorted({len(p.ids) for p in prompts})
    if len(lengths) != 1:
        raise ValueError(
            f"set {SET!r} must hold rows of one length to train SAEs on, found lengths {lengths}"
        )
    if layer not in dump.resid:
        raise ValueError(
            f"the dump of {SET!r} holds layers {dump.layers}, not {layer}, which SAEs are trained at"
        )
    chosen = np.flatnonzero(dump.name == POSITION)
    chosen = chosen[np.argsort(dump.prompt[chosen], kind="stable")]
    wanted = np.repeat(sorted(p.id for p in prompts), lengths[0])
    if not np.array_equal(dump.prompt[chosen], wanted):
        raise ValueError(
            f"the dump of {SET!r} has {len(chosen)} rows where its prompts have {len(wanted)} tokens"
        )
    ids = torch.tensor([p.ids for p in sorted(prompts, key=lambda p: p.id)], dtype=torch.long)
    resid = dump.resid[layer][chosen].reshape(*ids.shape, -1)
    return ids, torch.from_numpy(resid)


def _dump(dumps: Mapping[str, Dump], layer: int) -> Dump:
    """The dump of the training rows; of one that lies in a file, that layer alone."""
    there = isinstance(dumps, Dumps) and layer in dumps.layers(SET)
    return dumps.only(SET, [layer]) if there else dumps[SET]


def _places(
    kind: str, settings: Mapping[str, Any], own: Mapping[str, Any]
) -> list[tuple[int, str, list[float]]]:
    """(layer, suffix of the names, coefficients) of each ladder."""
    places = [(settings["main_layer"], "", own["coefficients"])]
    if kind == "local" and own["side_coefficients"]:
        places += [
            (layer, f"-{name}", own["side_coefficients"])
            for name, layer in layers(settings).items()
            if name != MAIN
        ]
    for _, _, coefficients in places:
        if (
            not coefficients
            or any(not c > 0 for c in coefficients)
            or len(set(coefficients)) < len(coefficients)
        ):
            raise ValueError(
                f"settings saes.{kind}: coefficients must be distinct and above 0, found {coefficients}"
            )
    return places


def _ladder(
    kind: str,
    model: Model,
    ids: Tensor,
    resid: Tensor,
    layer: int,
    coefficients: Sequence[float],
    d_sae: int,
    settings: Mapping[str, Any],
    seed: int,
) -> list:
    # sae-lens takes 10 to 17 s to import, and released SAEs need none of it.
    from bearings.lm.e2e import E2eOptions, train_e2e
    from bearings.lm.ladder import Options, options_from, train_ladder

    section = f"saes.{kind}"
    if kind == "local":
        options = options_from(settings[kind], Options, section)
        return train_ladder(resid.flatten(0, 1), coefficients, d_sae, options, seed)
    options = options_from(settings[kind], E2eOptions, section)
    return train_e2e(model, ids, resid, layer, coefficients, d_sae, options, seed, settings["max_tokens"])


def _complete(given: Mapping[str, Any]) -> Mapping[str, Any]:
    missing = sorted(RELEASED - set(given))
    if missing:
        raise ValueError(
            f"settings saes.released: key {missing[0]!r} is missing from {given.get('name', given)}"
        )
    return given


def _released(given: Mapping[str, Any], model: Model) -> Entry:
    """The entry of a released SAE, its folder verified and its shape that of the model."""
    found = folder_digest(given["folder"])
    if given["sha256"] not in (None, found):
        raise SaeError(
            f"{given['folder']}: released SAE {given['name']} has digest {found}, settings say {given['sha256']}"
        )
    entry = Entry(
        name=given["name"],
        kind=given["kind"],
        layer=given["layer"],
        level=given["level"],
        folder=str(given["folder"]),
        coefficient=given.get("coefficient"),
        l0_training=given["l0"],
        d_sae=d_sae_of(given["folder"]),
        published=True,
        sha256=found,
        model=model_digest(model),
        processing=model.processing,
        revision=given["revision"],
    )
    sae = load_sae(entry)
    if sae.d_in != model.info.d_model:
        raise SaeError(
            f"{given['folder']}: SAE {entry.name} reads {sae.d_in} numbers, {model.name} has {model.info.d_model}"
        )
    return entry
