"""The study's directions by method: maps from Jacobians, concepts from the maps, and what they are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bearings.stages.dumps import Dump
from bearings.stages.prompts import Prompt
from bearings.studies.lrc import concepts, lre, probes

NEEDS_MODEL = frozenset({"lre"})


def fit(
    method: str,
    prompts: Mapping[str, Sequence[Prompt]],
    dumps: Mapping[str, Dump],
    settings: Mapping[str, Any],
    seed: int,
    model=None,
    built: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> dict[str, np.ndarray]:
    """Arrays of one method by "<variant>/<split seed>/<relation>/..."; empty where the model knows too little."""
    if method == "lre":
        return lre.lre(prompts, dumps, settings, model)
    if method == "lrc":
        return concepts.lrc(prompts, dumps, settings, built["lre"])
    if method == "probes":
        return probes.probes(prompts, dumps, settings, seed)
    if method == "means":
        return probes.means(prompts, dumps, settings)
    if method == "random":
        return probes.random(prompts, dumps, settings)
    raise ValueError(f"unknown method {method!r}")
