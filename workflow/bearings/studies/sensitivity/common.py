"""What the study's experiments share: its layers, lengths and rows, SAEs, and tables with a list per row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from bearings.stages.inputs import Inputs
from bearings.stages.prompts import Prompt

MAIN, SIDES = "main", ("early", "late")
KINDS = ("local", "e2e", "e2e_ds")
# An activation above this counts as fired (protocol 4.1).
FIRED = 1e-8


def layers(settings: Mapping[str, Any]) -> dict[str, int]:
    """The study's layers by name: `main`, `early`, `late`. Where two are one layer of a shallow model, the later
    name is left out."""
    found: dict[str, int] = {}
    for name in (MAIN, *SIDES):
        layer = settings[f"{name}_layer"]
        if layer not in found.values():
            found[name] = layer
    return found


def curve_rows(prompts: Mapping[str, Sequence[Prompt]]) -> list[Prompt]:
    """The rows that are perturbed.

    Raises:
        ValueError: there are none.
    """
    chosen = [p for p in prompts["rows"] if p.usable and p.split == "curve"]
    if not chosen:
        raise ValueError("the set 'rows' has no usable row of the split 'curve'")
    return chosen


@dataclass(frozen=True)
class Length:
    """A length of a perturbation, in the residual's own units and as a share of the mean norm without position 0."""

    fraction: float
    length: float


def lengths(settings: Mapping[str, Any], norm: float, named: bool = False) -> list[Length]:
    """The grid, or only its named lengths; `norm` is the mean norm of the layer's residual without position 0."""
    values = sorted({float(x) for _, x in settings["named"]} if named else map(float, settings["grid"]))
    if settings["relative"]:
        return [Length(x, x * norm) for x in values]
    return [Length(x / norm, x) for x in values]


def length_of(settings: Mapping[str, Any], name: str, norm: float) -> Length:
    """A named length.

    Raises:
        ValueError: there is no such name.
    """
    value = dict(map(tuple, settings["named"])).get(name)
    if value is None:
        raise ValueError(f"key 'named' has no {name!r}; it has {', '.join(n for n, _ in settings['named'])}")
    return Length(value, value * norm) if settings["relative"] else Length(value / norm, value)


@dataclass(frozen=True, eq=False)
class Rows:
    """A few of the rows that are perturbed: ids `sequences` [b], `resid` [b, pos, d_model] at each layer."""

    prompts: tuple[Prompt, ...]
    resid: Mapping[str, Any]

    @property
    def sequences(self) -> list[int]:
        return [p.id for p in self.prompts]


def in_rows(inputs: Inputs, most: int | None = None) -> Iterator[Rows]:
    """The rows that are perturbed, a few at a time, with their cached residuals as torch tensors.

    most: so many of all the study's rows, the perturbed ones first, instead of the split `curve`.
    """
    import torch

    chosen, dump = curve_rows(inputs.prompts), inputs.dumps["rows"]
    if most is not None:
        chosen = [p for p in inputs.prompts["rows"] if p.usable][:most]
    size = max(1, inputs.settings["batch_rows"])
    for first in range(0, len(chosen), size):
        some = chosen[first : first + size]
        at = [dump.rows[p.id, "tokens"] for p in some]
        resid = {
            name: torch.from_numpy(np.ascontiguousarray(dump.resid[layer][at]))
            for name, layer in layers(inputs.settings).items()
        }
        yield Rows(tuple(some), resid)


def token_batch(rows: Rows) -> Any:
    """The rows as a batch of tokens, all of one length, none padded."""
    from bearings.lm.forward import pad

    return pad([list(p.ids) for p in rows.prompts], pad_id=0)


def saes(inputs: Inputs, layer: str = MAIN, kinds: Sequence[str] = KINDS) -> list[Any]:
    """The SAEs of one layer, sparsest first within a kind; kinds that this scale has none of are passed over."""
    from bearings.lm.saes import check_model, load_sae, read_ladder

    at = layers(inputs.settings).get(layer)
    entries = [entry for kind in kinds if kind in inputs.saes for entry in read_ladder(inputs.saes[kind])]
    if inputs.model is not None:
        check_model(entries, inputs.model)
    # Those of the other layers stay on the disk: the published ones have 280 MB each.
    return [load_sae(entry) for entry in entries if entry.layer == at]


class ListTable:
    """Rows of outcomes whose measured columns are lists of float32, one number per scored position."""

    def __init__(self, plain: Mapping[str, pa.DataType], lists: Sequence[str]):
        self._plain, self._lists = dict(plain), tuple(lists)
        self._rows: dict[str, list[Any]] = {name: [] for name in plain}
        self._values: dict[str, list[np.ndarray]] = {name: [] for name in lists}

    def add(self, lists: Mapping[str, Any], **plain: Any) -> None:
        """Append n rows: lists [n, r] (tensors or arrays); a plain scalar (or None) is repeated n times."""
        if set(plain) != set(self._plain) or set(lists) != set(self._lists):
            raise ValueError(
                f"columns {sorted([*plain, *lists])}: need {sorted([*self._plain, *self._lists])}"
            )
        arrays = {name: np.asarray(values, np.float32) for name, values in lists.items()}
        sizes = {len(a) for a in arrays.values()}
        if len(sizes) != 1:
            raise ValueError(f"lists of different numbers of rows: {sorted(sizes)}")
        n = sizes.pop()
        for name, value in plain.items():
            several = isinstance(value, list | tuple | np.ndarray)
            if several and len(value) != n:
                raise ValueError(f"column {name!r} has {len(value)} rows, the lists {n}")
            self._rows[name].extend(list(value) if several else [value] * n)
        for name, array in arrays.items():
            self._values[name].append(array)

    def table(self) -> pa.Table:
        columns = {name: pa.array(self._rows[name], kind) for name, kind in self._plain.items()}
        for name in self._lists:
            ends = np.cumsum([0, *(a.shape[1] for a in self._values[name] for _ in a)])
            flat = [a.reshape(-1) for a in self._values[name]]
            values = np.concatenate(flat) if flat else np.zeros(0, np.float32)
            columns[name] = pa.ListArray.from_arrays(
                pa.array(ends, pa.int32()), pa.array(values, pa.float32())
            )
        return pa.table(columns)
