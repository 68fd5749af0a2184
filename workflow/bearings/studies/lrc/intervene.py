"""The study's experiments by name; each gives one row per prompt and condition, never only a mean."""

from __future__ import annotations

import pyarrow as pa

from bearings.stages.inputs import Inputs

NEEDS_MODEL = frozenset({"edit", "sweep", "faithful"})


def intervene(experiment: str, inputs: Inputs) -> pa.Table:
    """The outcome table of one experiment on one model."""
    from bearings.studies.lrc.classify import classify, filtered

    if experiment in NEEDS_MODEL:  # only these pay for torch
        from bearings.studies.lrc.faithful import faithful
        from bearings.studies.lrc.steer import edit, sweep

        return {"edit": edit, "sweep": sweep, "faithful": faithful}[experiment](inputs)
    return {"filter": filtered, "classify": classify}[experiment](inputs)
