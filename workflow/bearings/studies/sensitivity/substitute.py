"""What happens to the output when the residual is replaced by the SAE's, or by noise as far away (protocol 4.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from bearings.lm.divergence import clean, effects
from bearings.lm.perturb import along, norm_corrected, norm_only, theta
from bearings.lm.prepare import prepare
from bearings.stages.inputs import Inputs
from bearings.studies.sensitivity.common import MAIN, ListTable, Rows, in_rows, layers, saes, token_batch
from bearings.studies.sensitivity.curves import LISTS
from bearings.studies.sensitivity.draws import Pool, draw, normal, pool

MATCHED = ("iso", "iso2", "cov_mixture", "real_mixture")
ASIDE = ("iso", "cov_mixture", "real_mixture")
PLAIN = {"sequence": pa.int32(), "layer": pa.string(), "sae": pa.string(), "variant": pa.string()}


def substitute(inputs: Inputs) -> pa.Table:
    """KL, CE and L2 of every variant of every SAE; without an SAE mean and zero ablation and the identity."""
    out = ListTable(PLAIN, LISTS)
    ladders = {name: saes(inputs, name) for name in layers(inputs.settings)}
    pools = {name: pool(inputs.directions["pool"], x) for name, x in layers(inputs.settings).items()}
    # As published the mean has position 0 in it.
    dump = inputs.dumps["rows"].resid[pools[MAIN].layer]
    mean = dump.mean(0, dtype=np.float64).astype(np.float32)
    for rows in in_rows(inputs):
        batch = prepare(inputs.model, token_batch(rows))
        for name, mine in pools.items():
            x = rows.resid[name]
            before = clean(inputs.model, batch, mine.layer, resid=x)
            noise = {k: draw(k, x.numpy(), rows.sequences, mine, inputs.seed) for k in MATCHED}
            if name == MAIN:
                _add(out, inputs, before, rows, name, "", _ablations(x, mean))
            for sae in ladders[name]:
                found = variants(x, sae(x), noise, _around(rows, x, mine, inputs.seed), name == MAIN)
                _add(out, inputs, before, rows, name, sae.name, found)
    return out.table()


def variants(
    x: Any, xhat: Any, noise: Mapping[str, np.ndarray], around: np.ndarray, every: bool = True
) -> dict[str, Any]:
    """Residuals by variant [b, pos, d_model]: the SAE's own, noise of the error's length at each position, and, with
    `every`, those that keep direction or norm, or have another direction at the same angle (`around`)."""
    import torch

    away = (xhat - x).norm(dim=-1)
    found = {"sae": xhat}
    for kind in MATCHED if every else ASIDE:
        found[kind] = along(x, torch.from_numpy(noise[kind]), away)
    if every:
        u = torch.from_numpy(around)
        found |= {
            "norm_corrected": norm_corrected(x, xhat),
            "norm_only": norm_only(x, xhat),
            "theta_recon": theta(x, xhat, u, norm="recon"),
            "theta_true": theta(x, xhat, u, norm="true"),
        }
    return found


def _around(rows: Rows, x: Any, mine: Pool, seed: int) -> np.ndarray:
    drawn = [normal("orthogonal", x.shape[1:], seed, mine.layer, s) for s in rows.sequences]
    return np.stack(drawn).astype(np.float32)


def _ablations(x: Any, mean: np.ndarray) -> dict[str, Any]:
    import torch

    return {"mean": torch.from_numpy(mean).expand_as(x), "zero": torch.zeros_like(x), "identity": x}


def _add(
    out: ListTable, inputs: Inputs, before: Any, rows: Rows, layer: str, sae: str, found: Mapping[str, Any]
) -> None:
    import torch

    stacked = torch.stack(list(found.values()))
    effect = effects(inputs.model, before, stacked, max_tokens=inputs.settings["max_tokens"])
    for k, variant in enumerate(found):
        lists = {name: getattr(effect, name)[k].cpu().numpy() for name in LISTS}
        out.add(lists, sequence=rows.sequences, layer=layer, sae=sae, variant=variant)
