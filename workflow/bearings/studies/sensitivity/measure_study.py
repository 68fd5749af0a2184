"""The outcomes of one model put in order: lengths by name, SAEs by kind and level, curves by direction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bearings.evidence.paired import Paired
from bearings.studies.sensitivity.common import KINDS, MAIN
from bearings.studies.sensitivity.measure_drawn import Drawn
from bearings.studies.sensitivity.measure_tables import Columns, Conditions

# SAEs that claims name, at one scale or another: those published (protocol 4.5), and our own sparsest ones.
PUBLISHED = (
    *(
        "ahxwn90o",
        "43zmudf4",
        "unji5etq",
        "jup3glm9",
        "h9hrelni",
        "1jy3m5j0",
        "4nlqrc2y",
        "2wvu1zs5",
        "uiwt81f1",
    ),
    *("4zcbb4au", "zgdpkafo", "tvj2owza", "1bubkmps", "wzzcimkj", "4d5ksz89"),
    *("55get0e5", "2lzle2f0", "zidd0d3y", "rb8q8czb", "p9zmh62k", "7nkdr21r", "fqdgjxfe"),
    "bloom-6",
)
NAMED = (*PUBLISHED, *(f"{kind}-0" for kind in KINDS))
# The place of length 0, which is not of the grid.
NO_LENGTH = -1


@dataclass(frozen=True)
class Curve:
    """One direction type: a layer by name, and the SAE it is of ("" for baselines)."""

    layer: str
    direction: str
    sae: str = ""

    @property
    def table(self) -> str:
        if not self.sae:
            return "baselines"
        return "errors" if self.direction == "error" else "features"


@dataclass(frozen=True, eq=False)
class Study:
    """Every table as conditions over the same resampled sequences.

    `grid` are the settings' lengths above 0, `fractions` the same as shares of the main layer's mean norm, `lengths`
    name -> place in the grid; `ladders` layer -> kind -> SAEs, sparsest first; `facts` (layer, SAE) -> plain columns.
    """

    paired: Paired
    sequences: np.ndarray
    tables: Mapping[str, Conditions]
    single: pd.DataFrame
    grid: np.ndarray
    fractions: np.ndarray
    lengths: Mapping[str, int]
    layers: tuple[str, ...]
    ladders: Mapping[str, Mapping[str, list[str]]]
    facts: Mapping[tuple[str, str], Mapping[str, float]]

    @property
    def clean(self) -> Conditions:
        return self.tables["clean"]

    @property
    def substitute(self) -> Conditions:
        return self.tables["substitute"]

    @property
    def quality(self) -> Conditions:
        return self.tables["quality"]

    def named(self) -> Iterator[tuple[str, str]]:
        """(layer, SAE) of every SAE that is here, and of those that claims name and are not."""
        for layer, ladder in self.ladders.items():
            here = [sae for kind in ladder.values() for sae in kind]
            yield from ((layer, sae) for sae in here)
            if layer == MAIN:
                yield from ((layer, sae) for sae in NAMED if sae not in here)

    def no_sae(self, layer: str, sae: str) -> str:
        """Why there is nothing of an SAE; "" where it is here."""
        if (layer, sae) in self.facts:
            return ""
        kinds = [names for names in self.ladders[layer].values() if names]
        here = ", ".join(k[0] if len(k) == 1 else f"{k[0]} to {k[-1]}" for k in kinds)
        return f"no SAE '{sae}' at the {layer} layer of this model; there are {here or 'none'}"

    def at(self, curve: Curve, name: str, quantity: str = "kl") -> Columns:
        """A curve at a named length."""
        if name not in self.lengths:
            return Columns(self.tables[curve.table], (), quantity, f"the settings name no length '{name}'")
        return self._columns(curve, [self.lengths[name]], quantity)

    def whole(self, curve: Curve, quantity: str = "kl") -> Columns:
        """A curve on the whole grid."""
        return self._columns(curve, list(range(len(self.grid))), quantity)

    def shortest(self, curve: Curve, quantity: str) -> Columns:
        """A curve at the shortest length it was measured at."""
        key = (curve.layer, curve.direction, curve.sae)
        index = self.tables[curve.table].index
        place = next((k for k in range(len(self.grid)) if (*key, k) in index), 0)
        return self._columns(curve, [place], quantity)

    def median(self, curve: Curve, name: str) -> Drawn:
        """The median over all rows at a named length."""
        key = (curve.layer, curve.direction, curve.sae, self.lengths.get(name))
        return self.tables[curve.table].median(key, "kl", self.at(curve, name).why)

    def _columns(self, curve: Curve, places: list[int], quantity: str) -> Columns:
        table, key = self.tables[curve.table], (curve.layer, curve.direction, curve.sae)
        return table.columns([(*key, k) for k in places], quantity, self._why(curve, len(places)))

    def _why(self, curve: Curve, asked: int) -> str:
        """Why a curve is not on some of the lengths."""
        if curve.sae and (why := self.no_sae(curve.layer, curve.sae)):
            return why
        key = (curve.layer, curve.direction, curve.sae)
        has = sum((*key, k) in self.tables[curve.table].index for k in range(len(self.grid)))
        if not has and curve.table == "features":
            return f"no row has a feature of the class '{curve.direction}'"
        if not has:
            return f"'{curve.direction}' was not measured at the {curve.layer} layer"
        return f"measured at {has} of {len(self.grid)} lengths" + (", not at this one" if asked == 1 else "")


def prefix(layer: str) -> str:
    """What stands before a measure's name: nothing for the main layer."""
    return "" if layer == MAIN else f"{layer}."
