"""Outcomes become named measures with intervals. The first part of a name says which variant: `published` follows the
authors' code, `corrected` mends it (protocol 5.1); names without either are counts of the data.

Where the model answers too little for the paper's own filters, everything else is missing, with the counts as reason.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from bearings.evidence.stats import Estimate
from bearings.stages.inputs import Inputs
from bearings.studies.lrc.measure_counts import counts, reasons, table
from bearings.studies.lrc.measure_methods import methods
from bearings.studies.lrc.measure_orders import orders
from bearings.studies.lrc.measure_scores import score
from bearings.studies.lrc.measure_sweeps import faithful, no_edit, sweeps


def measure(inputs: Inputs, outcomes: Mapping[str, pd.DataFrame]) -> dict[str, Estimate]:
    """Every measure of the study on one model, by name."""
    settings = inputs.settings
    options = {"seed": inputs.seed, "resamples": settings["resamples"]}
    filtered = outcomes["filter"]
    why = reasons(filtered, settings.get("min_test", 5))
    scored = score(outcomes, why, settings.get("published_beta"), options)
    return {
        **counts(table(inputs.prompts), filtered, settings.get("must_vanish", ())),
        **methods(scored),
        **orders(scored),
        **sweeps(scored, settings, width(inputs)),
        **no_edit(scored),
        **faithful(outcomes["faithful"], scored),
    }


def width(inputs: Inputs) -> int | None:
    """d_model, from any concept or residual that is there."""
    vectors = [v for arrays in inputs.directions.values() for v in arrays.values() if v.ndim == 2]
    vectors += [v for d in inputs.dumps.values() for v in d.resid.values()]
    return int(vectors[0].shape[-1]) if vectors else None
