"""Files of a study back as objects, by the name that the path gives them. Every file is verified as it is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from bearings.stages.dumps import PLACES, RESID, Dump, load_dump
from bearings.stages.prompts import Prompt, from_table
from bearings.store.directions import read_directions
from bearings.store.documents import read_json
from bearings.store.tables import ROWS_PER_GROUP, iter_batches, read_table

Paths = Sequence[str]


def read_prompts(paths: Paths) -> dict[str, list[Prompt]]:
    """Prompt sets by name."""
    return {Path(p).stem: from_table(read_table(p, "prompts")) for p in paths}


class Dumps(Mapping[str, Dump]):
    """Activation dumps by set; a file is read and verified when its set is first asked for, and then kept."""

    def __init__(self, paths: Paths):
        self._paths = {Path(p).stem: p for p in paths}
        self._read: dict[str, Dump] = {}

    def __getitem__(self, name: str) -> Dump:
        if name not in self._read:
            self._read[name] = load_dump(read_table(self._paths[name], "activations"))
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __contains__(self, name: object) -> bool:
        return name in self._paths  # the default reads the file

    def stream(
        self, name: str, rows: int = ROWS_PER_GROUP, layers: Sequence[int] | None = None
    ) -> Iterator[Dump]:
        """Pieces of at most `rows` rows, in the order of the file, which is neither held nor kept.

        `layers` are the layers to read, by default all of the file's; none at all gives names and positions alone.

        Raises:
            Refused: as `store.tables.iter_batches`, so a wrong hash only behind the last piece.
        """
        columns = None if layers is None else _columns(layers)
        for batch in iter_batches(self._paths[name], "activations", columns, rows):
            yield load_dump(pa.Table.from_batches([batch]))

    def only(self, name: str, layers: Sequence[int]) -> Dump:
        """Some layers of a set, with names and positions; nothing else of it is read, and nothing is kept here."""
        return load_dump(read_table(self._paths[name], "activations", _columns(layers)))

    def layers(self, name: str) -> list[int]:
        """Layers of a set, without reading it."""
        return sorted(self._shapes(name))

    def width(self, name: str) -> int:
        """d_model, without reading the set."""
        return next(iter(self._shapes(name).values()))[0]

    def _shapes(self, name: str) -> dict[int, Sequence[int]]:
        fields = pq.read_schema(self._paths[name])
        return {int(f.name.removeprefix(RESID)): f.type.shape for f in fields if f.name.startswith(RESID)}


def _columns(layers: Sequence[int]) -> list[str]:
    return [*PLACES, *(f"{RESID}{layer}" for layer in sorted(layers))]


def read_dumps(paths: Paths) -> Dumps:
    """Activation dumps by set, each of which is read when it is needed."""
    return Dumps(paths)


def layers_of(dumps: Mapping[str, Dump]) -> list[int]:
    """The layers that were dumped, the same in every set."""
    first = next(iter(dumps))
    return dumps.layers(first) if isinstance(dumps, Dumps) else dumps[first].layers


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
