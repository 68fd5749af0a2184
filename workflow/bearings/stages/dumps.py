"""Residuals at named positions, every layer: written batch by batch, read back as arrays.

Beside a position `X` that prompts have there is `X.mean`: one row per prompt, the mean over all its tokens named X.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
import pyarrow as pa

from bearings.stages.prompts import Prompt
from bearings.store.tables import as_ndarray, tensor_column, tensor_field

MEAN = ".mean"


def dump_schema(
    n_layers: int, d_model: int, predict: bool = False, layers: Sequence[int] | None = None
) -> pa.Schema:
    """Columns of a dump: prompt id, position name and index, token, one tensor column per layer.

    Layers are 0 to n_layers, or only those of `layers`. With `predict` also the token that the model thinks comes
    next, the argmax of its logits at the position.
    """
    fields = [
        pa.field("prompt", pa.int32()),
        pa.field("name", pa.string()),
        pa.field("position", pa.int32()),
        pa.field("token", pa.int32()),
        *([pa.field("predicted", pa.int32())] if predict else []),
    ]
    chosen = range(n_layers + 1) if layers is None else sorted(layers)
    return pa.schema(fields + [tensor_field(f"resid.{layer}", (d_model,)) for layer in chosen])


def dump(
    model,
    prompts: Sequence[Prompt],
    names: Sequence[str],
    max_tokens: int,
    predict: bool = False,
    layers: Sequence[int] | None = None,
) -> Iterator[pa.Table]:
    """Run the prompts and yield a table of residuals per batch, rows in the order (prompt, name, index).

    With `predict`, nothing but the positions that are dumped is unembedded. A mean stands at no index and on no token
    and predicts nothing: all three are -1.
    """
    from bearings.lm import weights
    from bearings.lm.forward import forward
    from bearings.stages.batch import in_batches

    chosen = range(model.n_layers + 1) if layers is None else sorted(layers)
    keep = sorted({*chosen, *([model.n_layers] if predict else [])})
    schema = dump_schema(model.n_layers, model.info.d_model, predict, layers)
    for _, batch in in_batches(model, prompts, max_tokens):
        resid = forward(model, batch.prepared, keep=keep).resid
        width = batch.mask.shape[1]
        rows = [row for i, p in enumerate(batch.prompts) for name in names for row in _rows(i, p, name)]
        if not rows:
            continue
        plain = [pa.array([r[k] for r in rows], schema.field(k - 1).type) for k in (1, 2, 3, 4)]
        sizes = [len(r[5]) for r in rows]
        row = [r[0] for r in rows for _ in r[5]]
        column = [width - len(batch.prompts[r[0]].ids) + at for r in rows for at in r[5]]
        if predict:
            last = [end - 1 for end in accumulate(sizes)]
            there = resid[model.n_layers][[row[k] for k in last], [column[k] for k in last]]
            tops = weights.logits(model, there).argmax(-1).cpu().numpy()
            tops = np.where([r[3] < 0 for r in rows], -1, tops)
            plain.append(pa.array(tops, pa.int32()))
        values = (resid[layer][row, column].float().cpu().numpy() for layer in chosen)
        tensors = [tensor_column(_means(x, sizes)) for x in values]
        yield pa.Table.from_arrays([*plain, *tensors], schema=schema)


def _rows(i: int, prompt: Prompt, name: str) -> list[tuple]:
    """(i, prompt id, name, index, token, indices that are averaged) of each row of one position of a prompt."""
    where = prompt.positions.get(name.removesuffix(MEAN), ())
    if name.endswith(MEAN):
        return [(i, prompt.id, name, -1, -1, where)] if where else []
    return [(i, prompt.id, name, at, prompt.ids[at], (at,)) for at in where]


def _means(values: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Means [len(sizes), d_model] over runs of rows of values [sum(sizes), d_model], summed in double precision."""
    if max(sizes) == 1:
        return values
    runs = np.split(values, np.cumsum(sizes)[:-1])
    return np.stack([run.mean(0, dtype=np.float64).astype(values.dtype) for run in runs])


@dataclass(frozen=True, eq=False)
class Dump:
    """A dump in memory: `prompt` [n] ids, `name` [n], and `resid` by layer [n, d_model], float32.

    `predicted` [n] are the tokens that the model puts next, where the dump was made with them.
    """

    prompt: np.ndarray
    name: np.ndarray
    resid: dict[int, np.ndarray]
    predicted: np.ndarray | None = None

    @cached_property
    def rows(self) -> dict[tuple[int, str], list[int]]:
        """Rows of each (prompt, position name), in the order of the positions."""
        out: dict[tuple[int, str], list[int]] = {}
        for row, key in enumerate(zip(self.prompt.tolist(), self.name, strict=True)):
            out.setdefault(key, []).append(row)
        return out

    def at(self, name: str, prompts: Sequence[int], layer: int) -> np.ndarray:
        """Residuals [len(prompts), d_model] at a position that each of these prompts has once (or: its last).

        Raises KeyError for a prompt without it.
        """
        return self.resid[layer][[self.rows[p, name][-1] for p in prompts]]

    def mean_at(self, name: str, prompts: Sequence[int], layer: int) -> np.ndarray:
        """Residuals [len(prompts), d_model], each the mean over a prompt's positions of that name."""
        resid = self.resid[layer]
        return np.stack([resid[self.rows[p, name]].mean(0) for p in prompts])

    @property
    def layers(self) -> list[int]:
        return sorted(self.resid)

    @property
    def width(self) -> int:
        """d_model."""
        return next(iter(self.resid.values())).shape[1]


def load_dump(table: pa.Table) -> Dump:
    """The arrays of a dump's table, as `store.tables.read_table` returned it."""
    layers = sorted(int(c.split(".")[1]) for c in table.column_names if c.startswith("resid."))
    return Dump(
        np.asarray(table["prompt"]),
        np.asarray(table["name"].to_pylist(), dtype=object),
        {layer: as_ndarray(table[f"resid.{layer}"]) for layer in layers},
        np.asarray(table["predicted"]) if "predicted" in table.column_names else None,
    )
