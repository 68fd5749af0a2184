"""One token alone is changed, the others see it through attention (the control of T3; Gurnee 2024)."""

from __future__ import annotations

import pyarrow as pa

from bearings.lm.divergence import clean, effects
from bearings.lm.perturb import along, only_at
from bearings.stages.inputs import Inputs
from bearings.studies.sensitivity.common import (
    MAIN,
    ListTable,
    in_rows,
    layers,
    length_of,
    saes,
    token_batch,
)
from bearings.studies.sensitivity.draws import draw, pool

MATCHED = ("iso", "cov_mixture", "real_mixture")
FIXED = {"iso_fixed": "iso", "cov_fixed": "cov_mixture"}
LENGTH = "k51"
PLAIN = {
    "sequence": pa.int32(),
    "sae": pa.string(),
    "variant": pa.string(),
    "fraction": pa.float64(),
    "position": pa.int32(),
}


def single(inputs: Inputs) -> pa.Table:
    """KL at every scored position when one is changed: by an SAE, noise of its error's length, or of a given one."""
    import torch

    out, layer = ListTable(PLAIN, ("kl",)), layers(inputs.settings)[MAIN]
    mine = pool(inputs.directions["pool"], layer)
    fixed = length_of(inputs.settings, LENGTH, mine.norm)
    # The published claim is about local SAEs.
    found = saes(inputs, kinds=["local"])
    for rows in in_rows(inputs, inputs.settings["single_rows"]):
        x = rows.resid[MAIN]
        position = round(inputs.settings["position"] * x.shape[1])
        before = clean(inputs.model, token_batch(rows), layer, resid=x)
        noise = {k: torch.from_numpy(draw(k, x.numpy(), rows.sequences, mine, inputs.seed)) for k in MATCHED}
        conditions = [
            ("", name, fixed.fraction, along(x, noise[kind], torch.tensor(fixed.length)))
            for name, kind in FIXED.items()
        ]
        for sae in found:
            xhat = sae(x)
            away = (xhat - x).norm(dim=-1)
            conditions.append((sae.name, "sae", None, xhat))
            conditions += [(sae.name, k, None, along(x, d, away)) for k, d in noise.items()]
        changed = torch.stack([only_at(x, c[3], position) for c in conditions])
        effect = effects(inputs.model, before, changed, max_tokens=inputs.settings["max_tokens"])
        for k, (name, variant, fraction, _) in enumerate(conditions):
            out.add(
                {"kl": effect.kl[k].cpu().numpy()},
                sequence=rows.sequences,
                sae=name,
                variant=variant,
                fraction=fraction,
                position=position,
            )
    return out.table()
