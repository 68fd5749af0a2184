"""Outcome tables as conditions: per-sequence means of every condition, resampled once for all measures.

A sequence is a cluster: all of them have the same number of positions, so the mean over rows is the mean of
per-sequence means, and resampling those is the cluster bootstrap. Every statistic is a function of resampled means
[1 + resamples, k], whose first entry is the measured one. Conditions that some sequences lack (a class of features
may be empty in a row) are compared on the sequences that have both.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from bearings.evidence.paired import Paired
from bearings.studies.sensitivity.measure_drawn import Drawn

# Table -> the columns that name a condition, the lists, and the plain columns that are read besides.
SCHEMAS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "clean": ((), ("ce", "token", "norm_main", "norm_early", "norm_late"), ()),
    **dict.fromkeys(
        ("baselines", "errors", "features"),
        (("layer", "direction", "sae", "fraction"), ("kl", "ce", "l2"), ("length", "cosine")),
    ),
    "substitute": (("layer", "sae", "variant"), ("kl", "ce", "l2"), ()),
    "quality": (
        ("layer", "sae"),
        ("l0", "squared_error", "error_norm", "recon_norm", "cosine", "variance"),
        ("kind", "level", "d_sae", "alive", "l0_training", "coefficient"),
    ),
    "single": (("sae", "variant", "position"), ("kl",), ("fraction",)),
}


def check(outcomes: Mapping[str, pd.DataFrame]) -> None:
    """Raises ValueError naming the first table or column that is missing."""
    for name, (keys, lists, plain) in SCHEMAS.items():
        if name not in outcomes:
            raise ValueError(f"outcomes: no table '{name}'; needed are {', '.join(SCHEMAS)}")
        lacking = [c for c in ("sequence", *keys, *lists, *plain) if c not in outcomes[name]]
        if lacking:
            raise ValueError(
                f"outcomes '{name}': no column '{lacking[0]}'; it has {', '.join(outcomes[name])}"
            )


def stack(name: str, column: pd.Series) -> np.ndarray:
    """A column of lists as [rows, positions] float64; rows whose list is empty or null are NaN.

    Raises:
        ValueError: lists of different lengths.
    """
    values = column.to_numpy()
    sizes = np.array([0 if v is None or np.ndim(v) == 0 else len(v) for v in values], np.int64)
    found = np.unique(sizes[sizes > 0])
    if len(found) > 1:
        raise ValueError(
            f"outcomes '{name}': lists of '{column.name}' have lengths {found.tolist()}; one needed"
        )
    out = np.full((len(values), found[0] if len(found) else 0), np.nan)
    if len(found):
        out[sizes > 0] = np.concatenate(values[sizes > 0]).reshape(-1, found[0])
    return out


class Conditions:
    """One outcome table: lists by quantity [rows, positions], and which row is a condition of a sequence."""

    def __init__(
        self, name: str, table: pd.DataFrame, keys: Sequence[str], sequences: np.ndarray, paired: Paired
    ):
        """`keys` are the columns that name a condition; `sequences` the ids of all sequences.

        Raises:
            ValueError: a sequence that is not one of them, or two rows for one sequence and condition.
        """
        self.name, self.paired, self._table = name, paired, table
        at = pd.Index(sequences).get_indexer(table["sequence"])
        if (at < 0).any():
            odd = table["sequence"].to_numpy()[at < 0][0]
            raise ValueError(f"outcomes '{name}': sequence {odd} is not in the table 'clean'")
        grouped = table.groupby(list(keys), sort=False, dropna=False) if keys else None
        code = np.zeros(len(table), np.int64) if grouped is None else grouped.ngroup().to_numpy()
        first = np.unique(code, return_index=True)[1]
        named = table[list(keys)].iloc[first].itertuples(index=False, name=None) if keys else [()]
        self.index: dict[tuple[Hashable, ...], int] = {key: k for k, key in enumerate(named)}
        self._row = np.full((len(sequences), len(self.index)), -1)
        self._row[at, code] = np.arange(len(table))
        if (self._row >= 0).sum() != len(table):
            twice = table[pd.Series(at * len(self.index) + code, table.index).duplicated()].iloc[0]
            words = ", ".join(f"{k} '{twice[k]}'" for k in ("sequence", *keys))
            raise ValueError(f"outcomes '{name}': two rows for {words}")
        self._lists: dict[str, np.ndarray] = {}
        self._means: dict[str, np.ndarray] = {}
        self._drawn: dict[str, np.ndarray] = {}

    def lists(self, column: str) -> np.ndarray:
        """[rows, positions] of a column of lists."""
        if column not in self._lists:
            self._lists[column] = stack(self.name, self._table[column])
        return self._lists[column]

    def means(self, quantity: str) -> np.ndarray:
        """Per-sequence means [n_seq, conditions], NaN where not measured.

        A quantity is a column of lists, the same without position 0 ("kl.no_bos"), or a plain column.
        """
        if quantity not in self._means:
            column, _, part = quantity.partition(".")
            plain = not self._is_list(column)
            if plain:
                by_row = pd.to_numeric(self._table[column]).to_numpy(np.float64, na_value=np.nan)
            else:
                values = self.lists(column)[:, 1:] if part == "no_bos" else self.lists(column)
                by_row = values.mean(1) if values.shape[1] else np.full(len(values), np.nan)
            by_row = np.append(by_row, np.nan)  # row -1: not measured
            self._means[quantity] = by_row[self._row]
        return self._means[quantity]

    def _is_list(self, column: str) -> bool:
        return column in SCHEMAS[self.name][1]

    def drawn(self, quantity: str) -> np.ndarray:
        """Resampled means [1 + resamples, conditions]."""
        if quantity not in self._drawn:
            self._drawn[quantity] = self.paired.means(self.means(quantity))
        return self._drawn[quantity]

    def columns(self, keys: Sequence[tuple[Hashable, ...]], quantity: str = "kl", why: str = "") -> Columns:
        """Some conditions; `why` is said where one of them is not in the table."""
        ids = [self.index.get(key) for key in keys]
        if None in ids:
            lacking = ", ".join(str(x) for x in keys[ids.index(None)] if x != "")
            return Columns(self, (), quantity, why or f"no rows of {lacking} in the outcomes '{self.name}'")
        return Columns(self, tuple(ids), quantity)

    def median(self, key: tuple[Hashable, ...], quantity: str = "kl", why: str = "") -> Drawn:
        """Median over all rows (sequences and positions) of one condition."""
        found = self.columns([key], quantity, why)
        if found.why:
            return Drawn(None, 0, found.why)
        rows = self._row[:, found.ids[0]]
        values = np.where(rows[:, None] >= 0, self.lists(quantity)[rows], np.nan)
        return Drawn(self.paired.median(values), int((rows >= 0).sum()))


@dataclass(frozen=True, eq=False)
class Columns:
    """Conditions of one table, to be compared on the sequences that have them."""

    table: Conditions
    ids: tuple[int, ...]
    quantity: str = "kl"
    why: str = field(default="")

    @property
    def measured(self) -> np.ndarray:
        """Which sequences [n_seq] have all of them."""
        return np.isfinite(self.table.means(self.quantity)[:, list(self.ids)]).all(1)

    def drawn(self, on: np.ndarray) -> np.ndarray:
        """Resampled means [1 + resamples, k] over the sequences in `on` [n_seq]."""
        rows = self.table.means(self.quantity)[:, list(self.ids)]
        if (np.isfinite(rows) == on[:, None]).all():
            return self.table.drawn(self.quantity)[:, list(self.ids)]
        return self.table.paired.means(np.where(on[:, None], rows, np.nan))


def together(statistic: Callable[..., np.ndarray], *columns: Columns) -> Drawn:
    """A statistic of resampled means [1 + resamples, k] of several conditions, on the sequences that have all."""
    why = next((c.why for c in columns if c.why), "")
    if why:
        return Drawn(None, 0, why)
    on = np.logical_and.reduce([c.measured for c in columns])
    if not on.any():
        return Drawn(None, 0, "no sequence has all that is compared")
    with np.errstate(all="ignore"):
        return Drawn(statistic(*(c.drawn(on) for c in columns)), int(on.sum()))
