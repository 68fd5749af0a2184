"""The study's experiments by name; each gives one row per prompt and condition, never only a mean."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from bearings.stages.inputs import Inputs
from bearings.studies.sentiment.ablation import ablation
from bearings.studies.sentiment.circuit import circuit
from bearings.studies.sentiment.mood import mood
from bearings.studies.sentiment.patching import patching
from bearings.studies.sentiment.readings import negation, neurons
from bearings.studies.sentiment.steering import steering

EXPERIMENTS: dict[str, Callable[[Inputs], pa.Table]] = {
    "patching": patching,
    "ablation": ablation,
    "mood": mood,
    "circuit": circuit,
    "neurons": neurons,
    "negation": negation,
    "steering": steering,
}

NEEDS_MODEL = frozenset(EXPERIMENTS)


def intervene(experiment: str, inputs: Inputs) -> pa.Table:
    """The outcome table of one experiment on one model."""
    return EXPERIMENTS[experiment](inputs)
