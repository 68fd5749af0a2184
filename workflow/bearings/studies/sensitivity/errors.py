"""SAE errors as directions: what an SAE leaves out, stretched to given lengths (protocol 2.2)."""

from __future__ import annotations

import pyarrow as pa

from bearings.lm.divergence import clean
from bearings.stages.inputs import Inputs
from bearings.studies.sensitivity import curves
from bearings.studies.sensitivity.common import MAIN, in_rows, layers, lengths, saes, token_batch
from bearings.studies.sensitivity.draws import pool


def errors(inputs: Inputs) -> pa.Table:
    """A curve along SAE(x) - x for every SAE of the main layer."""
    out, layer = curves.table(), layers(inputs.settings)[MAIN]
    grid = lengths(inputs.settings, pool(inputs.directions["pool"], layer).norm)
    found = saes(inputs)
    for rows in in_rows(inputs):
        x = rows.resid[MAIN]
        before = clean(inputs.model, token_batch(rows), layer, resid=x)
        for sae in found:
            curves.add_curve(
                out,
                inputs.model,
                before,
                rows.sequences,
                sae(x) - x,
                grid,
                layer=MAIN,
                direction="error",
                sae=sae.name,
                max_tokens=inputs.settings["max_tokens"],
            )
    return out.table()
