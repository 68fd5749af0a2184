"""Files of a study back as objects, by the name that the path gives them. Every file is verified as it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bearings.stages.dumps import Dump, load_dump
from bearings.stages.prompts import Prompt, from_table
from bearings.store.directions import read_directions
from bearings.store.documents import read_json
from bearings.store.tables import read_table

Paths = Sequence[str]


def read_prompts(paths: Paths) -> dict[str, list[Prompt]]:
    """Prompt sets by name."""
    return {Path(p).stem: from_table(read_table(p, "prompts")) for p in paths}


def read_dumps(paths: Paths) -> dict[str, Dump]:
    """Activation dumps by set."""
    return {Path(p).stem: load_dump(read_table(p, "activations")) for p in paths}


def read_all_directions(paths: Paths) -> dict[str, dict[str, np.ndarray]]:
    """Directions by method, then by "variant/layer"."""
    return {Path(p).stem: read_directions(p) for p in paths}


def read_outcomes(paths: Paths) -> dict[str, pd.DataFrame]:
    """Outcome tables by experiment."""
    return {Path(p).stem: read_table(p, "outcomes").to_pandas() for p in paths}


@dataclass(frozen=True, eq=False)
class ModelRun:
    """What a figure may draw from: one model's measures, outcomes by experiment and directions by method."""

    name: str
    measures: Mapping[str, Mapping[str, Any]]
    outcomes: Mapping[str, pd.DataFrame]
    directions: Mapping[str, Mapping[str, np.ndarray]]


def read_models(models: Sequence[str], measures: Paths, outcomes: Paths, directions: Paths) -> list[ModelRun]:
    """The runs of several models; a file belongs to the model whose folder it lies in.

    Measures are <model>/<study>.json, the others <model>/<study>/<name>: a model may be called like any folder.
    """

    def of(model: str, paths: Paths, above: int = 1) -> list[str]:
        return [p for p in paths if Path(p).parts[-2 - above] == model]

    return [
        ModelRun(
            model,
            read_json(of(model, measures, 0)[0], "measures"),
            read_outcomes(of(model, outcomes)),
            read_all_directions(of(model, directions)),
        )
        for model in models
    ]
