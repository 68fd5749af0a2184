"""The study's figures: numbers from the measures and outcomes of each run, the untrained twin beside its model.

Published values are marked on the model that they belong to, and on no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from bearings.studies.sensitivity.draw_curves import curves
from bearings.studies.sensitivity.draw_layers import layers
from bearings.studies.sensitivity.draw_panels import Runs
from bearings.studies.sensitivity.draw_quality import quality
from bearings.studies.sensitivity.draw_single import single
from bearings.studies.sensitivity.draw_sparsity import sparsity
from bearings.studies.sensitivity.draw_substitution import substitution
from bearings.studies.sensitivity.draw_tokens import tokens

FIGURES = {
    "curves": curves,
    "substitution": substitution,
    "sparsity": sparsity,
    "layers": layers,
    "tokens": tokens,
    "single": single,
    "quality": quality,
}


def draw(figure: str, runs: Runs, settings: Mapping[str, Any]) -> Figure:
    """One figure by the name that `claims.yaml` gives it; the settings say which lengths have names."""
    return FIGURES[figure](runs, settings)
