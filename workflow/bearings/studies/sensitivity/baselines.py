"""What SAE errors and features are held against: directions that no SAE had a part in (protocol 4.1)."""

from __future__ import annotations

import pyarrow as pa

from bearings.lm.divergence import clean
from bearings.lm.prepare import prepare
from bearings.stages.inputs import Inputs
from bearings.studies.sensitivity import curves
from bearings.studies.sensitivity.common import MAIN, Length, in_rows, layers, lengths, token_batch
from bearings.studies.sensitivity.draws import DRAWN, FIXED, cosines, draw, pool

# At the other layers only those that claims are about, at the named lengths.
ASIDE = ("iso", "cov_mixture", "real_mixture")


def baselines(inputs: Inputs) -> pa.Table:
    """A curve for every baseline at the main layer, and the named lengths of three of them at the others."""
    out = curves.table()
    pools = {name: pool(inputs.directions["pool"], x) for name, x in layers(inputs.settings).items()}
    for rows in in_rows(inputs):
        batch = prepare(inputs.model, token_batch(rows))
        for name, mine in pools.items():
            x = rows.resid[name]
            before = clean(inputs.model, batch, mine.layer, resid=x)
            grid = lengths(inputs.settings, mine.norm, named=name != MAIN)
            if name == MAIN:
                # Length 0 must do nothing at all: a control of everything behind it.
                grid = [Length(0.0, 0.0), *grid]
            for kind in (*DRAWN, *FIXED) if name == MAIN else ASIDE:
                found = draw(kind, x.numpy(), rows.sequences, mine, inputs.seed)
                curves.add_curve(
                    out,
                    inputs.model,
                    before,
                    rows.sequences,
                    found,
                    grid,
                    layer=name,
                    direction=kind,
                    cosine=cosines(found, x.numpy()),
                    max_tokens=inputs.settings["max_tokens"],
                )
    return out.table()
