"""From outcome tables to a `Study`: what they hold is checked, lengths find their place, SAEs their ladder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bearings.evidence.paired import Paired
from bearings.stages.inputs import Inputs
from bearings.studies.sensitivity.common import KINDS, MAIN, SIDES, layers
from bearings.studies.sensitivity.measure_study import NO_LENGTH, Study
from bearings.studies.sensitivity.measure_tables import SCHEMAS, Conditions, check

CURVES = ("baselines", "errors", "features")
# How far a row's length may be from a length of the grid, relatively.
CLOSE = 1e-5


def study(inputs: Inputs, outcomes: Mapping[str, pd.DataFrame]) -> Study:
    """Read the tables.

    Raises:
        ValueError: a table or column that is missing, rows at a length that is not on the grid, an SAE without a row
            in `quality`, a sequence that `clean` does not have, or a condition twice.
    """
    check(outcomes)
    settings = inputs.settings
    sequences = np.unique(outcomes["clean"]["sequence"])
    if not len(sequences):
        raise ValueError("outcomes 'clean': no rows, so there is no sequence to measure")
    paired = Paired(len(sequences), inputs.seed, settings["resamples"])
    grid = np.array(sorted({float(x) for x in settings["grid"]} - {0.0}))
    facts, ladders = _saes(outcomes["quality"])
    for name in (*CURVES, "substitute", "single"):
        _known(name, outcomes[name], facts)
    tables, fractions = {}, grid if settings["relative"] else np.full(len(grid), np.nan)
    for name in SCHEMAS:
        table, keys = outcomes[name], list(SCHEMAS[name][0])
        if name in CURVES:
            lengths = table["fraction" if settings["relative"] else "length"].to_numpy(np.float64)
            table = table.assign(grid=_places(name, lengths, grid))
            keys[keys.index("fraction")] = "grid"
            if not settings["relative"]:
                fractions = _fractions(table, fractions)
        if name != "single":
            tables[name] = Conditions(name, table, keys, sequences, paired)
    return Study(
        paired,
        sequences,
        tables,
        outcomes["single"],
        grid,
        fractions,
        _lengths(settings["named"], grid),
        tuple(layers(settings)),
        ladders,
        facts,
    )


def _saes(quality: pd.DataFrame) -> tuple[dict, dict]:
    """(facts of each SAE, ladders)."""
    plain = list(SCHEMAS["quality"][2])
    once = quality.drop_duplicates(["layer", "sae"]).sort_values("level", kind="stable")
    facts = {(r["layer"], r["sae"]): {k: r[k] for k in plain} for r in once.to_dict("records")}
    odd = sorted({str(f["kind"]) for f in facts.values()} - set(KINDS))
    if odd:
        raise ValueError(f"outcomes 'quality': kind {odd[0]!r}; allowed: {', '.join(KINDS)}")
    ladders = {
        layer: {k: [s for (at, s), f in facts.items() if at == layer and f["kind"] == k] for k in KINDS}
        for layer in (MAIN, *SIDES)
    }
    return facts, ladders


def _known(name: str, table: pd.DataFrame, facts: Mapping[tuple[str, str], Mapping]) -> None:
    at = table["layer"] if "layer" in table else pd.Series(MAIN, table.index)
    for layer, sae in dict.fromkeys(zip(at, table["sae"], strict=True)):
        if sae and (layer, sae) not in facts:
            raise ValueError(f"outcomes '{name}': SAE '{sae}' ({layer}) has no row in 'quality'")


def _places(name: str, lengths: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Place in the grid of every row's length."""
    place = np.abs(lengths[:, None] - grid).argmin(1) if len(lengths) else np.zeros(0, np.int64)
    off = ~np.isclose(lengths, grid[place], rtol=CLOSE) & (lengths != 0)
    if off.any():
        raise ValueError(f"outcomes '{name}': length {lengths[off][0]:g} is not on the grid {grid.tolist()}")
    return np.where(lengths == 0, NO_LENGTH, place)


def _fractions(table: pd.DataFrame, known: np.ndarray) -> np.ndarray:
    """Lengths as shares of the main layer's mean norm, where a table has them."""
    found = table[(table["layer"] == MAIN) & (table["grid"] >= 0)].groupby("grid")["fraction"].first()
    out = known.copy()
    out[found.index.to_numpy(int)] = found.to_numpy()
    return out


def _lengths(named: Sequence[Sequence[Any]], grid: np.ndarray) -> dict[str, int]:
    """Name -> place in the grid."""
    out = {}
    for name, value in named:
        near = np.flatnonzero(np.isclose(grid, float(value), rtol=CLOSE))
        if not len(near):
            raise ValueError(f"key 'named': {name} = {value:g} is not on the grid {grid.tolist()}")
        out[str(name)] = int(near[0])
    return out
