"""The clean run, and how good the SAEs are: L0, explained variance, error, dead features (protocol 2.1)."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from bearings.lm.divergence import clean
from bearings.stages.inputs import Inputs
from bearings.studies.sensitivity.common import (
    FIRED,
    MAIN,
    SIDES,
    ListTable,
    in_rows,
    layers,
    saes,
    token_batch,
)
from bearings.studies.sensitivity.features import alive_features

QUALITY_LISTS = ("l0", "squared_error", "error_norm", "recon_norm", "cosine", "variance")
QUALITY = {
    "sequence": pa.int32(),
    "layer": pa.string(),
    "sae": pa.string(),
    "kind": pa.string(),
    "level": pa.int16(),
    "d_sae": pa.int32(),
    "alive": pa.int32(),
    "l0_training": pa.float64(),
    "coefficient": pa.float64(),
}


def clean_rows(inputs: Inputs) -> pa.Table:
    """One row per sequence: cross-entropy, token and, at each of the study's layers, norm at the scored positions."""
    norms = [f"norm_{name}" for name in (MAIN, *SIDES)]
    out, at = ListTable({"sequence": pa.int32()}, ("ce", "token", *norms)), layers(inputs.settings)
    for rows in in_rows(inputs):
        before = clean(inputs.model, token_batch(rows), at[MAIN], resid=rows.resid[MAIN])
        # A shallow model may lack a layer of its own for some of the names.
        resid = {name: rows.resid.get(name, rows.resid[MAIN]) for name in (MAIN, *SIDES)}
        tokens = np.array([p.ids for p in rows.prompts])
        scored = before.rows.cpu().numpy()
        out.add(
            {
                "ce": before.ce.cpu().numpy(),
                "token": tokens[:, scored],
                **{f"norm_{name}": x[:, scored].norm(dim=-1).numpy() for name, x in resid.items()},
            },
            sequence=rows.sequences,
        )
    return out.table()


def quality(inputs: Inputs) -> pa.Table:
    """One row per sequence and SAE; the lists hold a number for each position, the last and position 0 too."""
    out = ListTable(QUALITY, QUALITY_LISTS)
    for name, layer in layers(inputs.settings).items():
        mean = inputs.directions["pool"][f"mean/{layer}"].astype(np.float32)
        resid = inputs.dumps["rows"].resid[layer]
        for sae in saes(inputs, name):
            alive = int(alive_features(sae, resid).sum())
            for rows in in_rows(inputs):
                x = rows.resid[name]
                active = sae.encode(x)
                xhat = sae.decode(active)
                lengths = x.norm(dim=-1) * xhat.norm(dim=-1)
                out.add(
                    {
                        "l0": (active > FIRED).sum(-1),
                        "squared_error": (xhat - x).square().sum(-1),
                        "error_norm": (xhat - x).norm(dim=-1),
                        "recon_norm": xhat.norm(dim=-1),
                        "cosine": (x * xhat).sum(-1) / lengths.clamp(min=1e-12),
                        "variance": np.square(x.numpy() - mean).sum(-1),
                    },
                    sequence=rows.sequences,
                    layer=name,
                    sae=sae.name,
                    kind=sae.kind,
                    level=sae.level,
                    d_sae=sae.d_sae,
                    alive=alive,
                    l0_training=sae.entry.l0_training,
                    coefficient=sae.entry.coefficient,
                )
    return out.table()
