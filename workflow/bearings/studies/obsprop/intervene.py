"""The study's experiments by name; each gives rows that intervals can be computed from, never only a mean."""

from __future__ import annotations

import pyarrow as pa

from bearings.stages.inputs import Inputs

NAMES = ("weights", "patching", "search", "coupling", "layernorm", "scores", "lowdata", "tokens", "debias")
NEEDS_MODEL = frozenset(NAMES)


def intervene(experiment: str, inputs: Inputs) -> pa.Table:
    """The outcome table of one experiment on one model."""
    from bearings.studies.obsprop import (
        coupling,
        debias,
        heads,
        layernorm,
        lowdata,
        patching,
        scores,
        searched,
        tokens,
    )

    run = (
        heads.weights, patching.patching, searched.search, coupling.coupling, layernorm.layernorm, scores.scores,
        lowdata.lowdata, tokens.tokens, debias.debias,
    )  # fmt: skip
    return dict(zip(NAMES, run, strict=True))[experiment](inputs)
