"""The study's experiments by name; each gives a row per sequence and condition, never only a mean."""

from __future__ import annotations

import pyarrow as pa

from bearings.stages.inputs import Inputs

NAMES = ("clean", "baselines", "errors", "features", "substitute", "quality", "single")
# SAEs alone tell how good they are, on residuals that are cached.
NEEDS_MODEL = frozenset(NAMES) - {"quality"}


def intervene(experiment: str, inputs: Inputs) -> pa.Table:
    """The outcome table of one experiment on one model."""
    from bearings.studies.sensitivity import baselines, errors, features, quality, single, substitute

    run = (
        quality.clean_rows, baselines.baselines, errors.errors, features.features, substitute.substitute,
        quality.quality, single.single,
    )  # fmt: skip
    return dict(zip(NAMES, run, strict=True))[experiment](inputs)
