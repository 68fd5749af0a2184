"""The study's figures: numbers from the measures and outcomes of each run, the untrained twin beside its model.

Published values are marked on the model that they belong to; in the figure of couplings, where every point is held
against the same line, they stand beside every trained model and are named.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from bearings.studies.obsprop.draw_couplings import couplings
from bearings.studies.obsprop.draw_curves import learning
from bearings.studies.obsprop.draw_heads import heads
from bearings.studies.obsprop.draw_norms import layernorm
from bearings.studies.obsprop.draw_panels import Runs
from bearings.studies.obsprop.draw_readout import debias, readout
from bearings.studies.obsprop.draw_tokens import tokens

FIGURES = {
    "heads": heads,
    "couplings": couplings,
    "learning": learning,
    "readout": readout,
    "layernorm": layernorm,
    "tokens": tokens,
    "debias": debias,
}


def draw(figure: str, runs: Runs, settings: Mapping[str, Any]) -> Figure:
    """One figure by the name that `claims.yaml` gives it."""
    return FIGURES[figure](runs)
