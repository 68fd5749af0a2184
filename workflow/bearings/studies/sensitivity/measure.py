"""Outcomes become named measures with intervals (protocol sections 2, 4.7 and 6).

The first part of a name says which part of the study: `setup`, `gate`, `base`, `err`, `feat`, `sub`, `sae`, `ladder`,
`matched`, `single`, `l2` or `layers`. What is of the early or the late layer has that in front. K is a mean over all
rows, position 0 in it, unless the name says `no_bos`. Intervals are cluster bootstraps over sequences, paired: the
same resampled sequences serve every direction type and SAE.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from bearings.evidence.stats import Estimate
from bearings.stages.inputs import Inputs
from bearings.studies.sensitivity.measure_curves import CLASSES, curves
from bearings.studies.sensitivity.measure_drawn import Measures
from bearings.studies.sensitivity.measure_ladders import ladders
from bearings.studies.sensitivity.measure_layers import by_layer
from bearings.studies.sensitivity.measure_matched import matches, order
from bearings.studies.sensitivity.measure_read import study
from bearings.studies.sensitivity.measure_setup import saes, setup
from bearings.studies.sensitivity.measure_single import single
from bearings.studies.sensitivity.measure_substitute import substitutions

# What papers report and no run can measure -> why.
NEVER = {
    "layers.attention.sae_over_iso": "SAEs of attention outputs are not part of the study",
    **dict.fromkeys(
        (f"feat.uiwt81f1.{kind}.k51.token" for kind in CLASSES),
        "one token of a row that cannot be found again",
    ),
}


def measure(inputs: Inputs, outcomes: Mapping[str, pd.DataFrame]) -> Measures:
    """Every measure of the study on one model, by name.

    Raises:
        ValueError: tables that are not as the experiments write them; the message names table and column.
    """
    found = study(inputs, outcomes)
    return {
        **{name: Estimate.missing(why) for name, why in NEVER.items()},
        **setup(found, inputs),
        **saes(found),
        **curves(found),
        **substitutions(found),
        **ladders(found),
        **matches(found),
        **order(found),
        **by_layer(found),
        **single(found),
    }
