"""What an experiment gets: a model, the study's prompts, dumps, directions and SAEs, and its section's settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bearings.stages.dumps import Dump
from bearings.stages.prompts import Prompt
from bearings.stages.read import layers_of


@dataclass(frozen=True, eq=False)
class Inputs:
    """Files of one model and study. `directions` is method -> "variant/layer" -> vector, `saes` kind -> folder."""

    prompts: Mapping[str, Sequence[Prompt]]
    dumps: Mapping[str, Dump]
    directions: Mapping[str, Mapping[str, np.ndarray]]
    settings: Mapping[str, Any]
    seed: int
    model: Any = None
    saes: Mapping[str, Path] = field(default_factory=dict)

    @property
    def layers(self) -> list[int]:
        """Layers the study looks at, 0 to n_layers."""
        chosen = self.settings["layers"]
        return layers_of(self.dumps) if chosen == "all" else sorted(chosen)


class Outcomes:
    """Rows of outcomes, collected as columns of one length and handed over as a table."""

    def __init__(self, schema: Mapping[str, pa.DataType]):
        self._schema = pa.schema(schema)
        self._columns: dict[str, list[Any]] = {name: [] for name in schema}

    def add(self, **columns: Any) -> None:
        """Append rows; a scalar (or None) is repeated to the length of the sequences beside it."""
        if columns.keys() != self._columns.keys():
            raise ValueError(f"outcome columns {sorted(columns)} are not {sorted(self._columns)}")
        plain = {k: v.tolist() if hasattr(v, "tolist") else v for k, v in columns.items()}
        lengths = {len(v) for v in plain.values() if isinstance(v, list | tuple)}
        if len(lengths) > 1:
            raise ValueError(f"outcome columns have different lengths: {sorted(lengths)}")
        n = lengths.pop() if lengths else 1
        for name, value in plain.items():
            self._columns[name].extend(value if isinstance(value, list | tuple) else [value] * n)

    def table(self) -> pa.Table:
        return pa.table(self._columns, schema=self._schema)
