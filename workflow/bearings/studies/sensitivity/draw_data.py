"""What the figures read from outcome tables: the SAEs of a run, and means over sequences with their intervals.

Of a table's lists only those are stacked that are drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bearings.evidence.paired import Paired
from bearings.stages.panels import get
from bearings.stages.read import ModelRun
from bearings.studies.sensitivity.common import KINDS, MAIN
from bearings.studies.sensitivity.measure_study import prefix
from bearings.studies.sensitivity.measure_tables import stack

# Bands are drawn, not judged: fewer resamples than the measures'.
RESAMPLES, SEED, LEVEL = 400, 0, 0.95
NOT_RUN = "not measured in this run"


def saes(run: ModelRun, kind: str, layer: str = MAIN) -> list[str]:
    """The SAEs of a kind at a layer, sparsest first."""
    table = run.outcomes.get("quality")
    if table is None or table.empty:
        return []
    rows = table[(table["layer"] == layer) & (table["kind"] == kind)]
    once = rows[["sae", "level"]].drop_duplicates().sort_values(["level", "sae"], kind="stable")
    return once["sae"].tolist()


def every_sae(run: ModelRun, layer: str = MAIN) -> list[tuple[str, str]]:
    """(kind, SAE) of all SAEs at a layer."""
    return [(kind, sae) for kind in KINDS for sae in saes(run, kind, layer)]


def l0(run: ModelRun, sae: str, layer: str = MAIN) -> float | None:
    """Measured L0 of an SAE."""
    return get(run, f"{prefix(layer)}sae.{sae}.l0")["value"]


def middle(run: ModelRun, kind: str = "local") -> str | None:
    """The SAE in the middle of a ladder."""
    ladder = saes(run, kind)
    return ladder[(len(ladder) - 1) // 2] if ladder else None


def nearest(run: ModelRun, kind: str, wanted: float | None) -> str | None:
    """The SAE of a kind whose L0 is nearest to the wanted one, as a ratio; the middle one where L0 is unknown."""
    known = [(sae, value) for sae in saes(run, kind) if (value := l0(run, sae))]
    if not wanted or not known:
        return middle(run, kind)
    return min(known, key=lambda pair: abs(np.log(pair[1] / wanted)))[0]


def chosen(run: ModelRun, table: str, **where: Any) -> pd.DataFrame:
    """Rows of an outcome table whose columns have the given values; none where there is no such table."""
    rows = run.outcomes.get(table)
    if rows is None or rows.empty:
        return pd.DataFrame()
    keep = np.logical_and.reduce([(rows[column] == value).to_numpy() for column, value in where.items()])
    return rows[keep]


@dataclass(frozen=True, eq=False)
class Means:
    """Means per sequence [n_seq, k] at k places `x` (lengths or positions); NaN where a sequence has none."""

    x: np.ndarray
    rows: np.ndarray

    def __bool__(self) -> bool:
        return bool(self.rows.size) and bool(np.isfinite(self.rows).any())


NONE = Means(np.zeros(0), np.zeros((0, 0)))


def curve(run: ModelRun, direction: str, sae: str = "", layer: str = MAIN) -> Means:
    """Mean KL of every sequence by length above 0 (in mean norms); empty where the direction was not measured."""
    table = "baselines" if not sae else "errors" if direction == "error" else "features"
    rows = chosen(run, table, layer=layer, direction=direction, sae=sae)
    rows = rows[rows["length"] > 0] if len(rows) else rows
    if rows.empty:
        return NONE
    by = pd.DataFrame({"length": rows["length"], "fraction": rows["fraction"], "sequence": rows["sequence"]})
    by["kl"] = stack(table, rows["kl"]).mean(1)
    wide = by.pivot(index="sequence", columns="length", values="kl").reindex(_sequences(run, by["sequence"]))
    return Means(by.groupby("length")["fraction"].mean().to_numpy(), wide.to_numpy())


def by_position(run: ModelRun, table: str, **where: Any) -> Means:
    """KL of every sequence by scored position, for the one condition that the columns name."""
    rows = chosen(run, table, **where)
    if rows.empty:
        return NONE
    kl = stack(table, rows["kl"])
    wide = pd.DataFrame(kl, index=rows["sequence"].to_numpy()).groupby(level=0).mean()
    wide = wide.reindex(_sequences(run, rows["sequence"]))
    return Means(np.arange(kl.shape[1]), wide.to_numpy())


def _sequences(run: ModelRun, found: pd.Series) -> np.ndarray:
    """The run's sequences, in the same order for every condition, so that two can be paired."""
    clean = run.outcomes.get("clean")
    return np.unique(found if clean is None or clean.empty else clean["sequence"])


def band(means: Means, over: Means | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Value, low and high [k] of the mean over sequences, or of its ratio to another at the same places.

    A ratio is of the sequences that have both, resampled together.
    """
    paired = Paired(len(means.rows), SEED, RESAMPLES)
    if over is None:
        drawn = paired.means(means.rows)
    else:
        both = np.isfinite(means.rows) & np.isfinite(over.rows)
        top, bottom = (paired.means(np.where(both, m.rows, np.nan)) for m in (means, over))
        with np.errstate(all="ignore"):
            drawn = np.where(bottom > 0, top / bottom, np.nan)
    tail = (1 - LEVEL) / 2
    known = np.isfinite(drawn[1:]).all(0)
    low, high = np.full((2, drawn.shape[1]), np.nan)
    low[known], high[known] = np.quantile(drawn[1:, known], [tail, 1 - tail], axis=0)
    return drawn[0], low, high


def at_same_lengths(means: Means, other: Means) -> tuple[Means, Means]:
    """Two curves at the lengths that both have."""
    common = [(i, j) for i, a in enumerate(means.x) for j, b in enumerate(other.x) if np.isclose(a, b)]
    i, j = (list(side) for side in zip(*common, strict=True)) if common else ([], [])
    return Means(means.x[i], means.rows[:, i]), Means(other.x[j], other.rows[:, j])


def named_lengths(run: ModelRun, settings: Mapping[str, Any]) -> dict[str, float]:
    """Name -> length in mean norms, of the named lengths that the run measured."""
    rows = chosen(run, "baselines", layer=MAIN, direction="iso", sae="")
    if rows.empty:
        return {}
    known = rows[["length", "fraction"]].drop_duplicates()
    column = known["fraction" if settings.get("relative") else "length"].to_numpy()
    found = {}
    for name, value in settings.get("named", ()):
        near = np.flatnonzero(np.isclose(column, float(value), rtol=1e-5))
        if len(near):
            found[str(name)] = float(known["fraction"].iloc[near[0]])
    return found
