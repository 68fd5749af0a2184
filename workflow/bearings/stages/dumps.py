"""Residuals at named positions, every layer: written batch by batch, read back as arrays.

Beside a position `X` that prompts have there is `X.mean`: one row per prompt, the mean over all its tokens named X.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from bearings.stages.prompts import Prompt
from bearings.store.tables import as_ndarray, tensor_column, tensor_field

MEAN = ".mean"
RESID = "resid."
# Columns that say where a row stands.
PLACES = ("prompt", "name", "position")


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
    return pa.schema(fields + [tensor_field(f"{RESID}{layer}", (d_model,)) for layer in chosen])


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
        rows = _rows(batch.prompts, names)
        if not len(rows.prompt):
            continue
        lengths = np.array([len(p.ids) for p in batch.prompts])
        column = width - lengths[rows.owner] + rows.at
        # Where a row's tokens end; a row of a position that is no mean has one.
        last = np.cumsum(rows.sizes) - 1
        tokens = batch.prepared.tokens.ids.cpu().numpy()[rows.owner, column][last]
        plain = [
            pa.array(rows.prompt, pa.int32()),
            pa.array(names, pa.string()).take(pa.array(rows.name)),
            pa.array(np.where(rows.mean, -1, rows.at[last]), pa.int32()),
            pa.array(np.where(rows.mean, -1, tokens), pa.int32()),
        ]
        if predict:
            there = resid[model.n_layers][rows.owner[last], column[last]]
            tops = weights.logits(model, there).argmax(-1).cpu().numpy()
            plain.append(pa.array(np.where(rows.mean, -1, tops), pa.int32()))
        values = (resid[layer][rows.owner, column].float().cpu().numpy() for layer in chosen)
        tensors = [tensor_column(_means(x, rows.sizes)) for x in values]
        yield pa.Table.from_arrays([*plain, *tensors], schema=schema)


class Rows(NamedTuple):
    """Rows [n] of a dump and the tokens [t] they are read at, row by row.

    `prompt` ids, `name` index of the position's name, `mean` whether it is one, `sizes` number of tokens; `owner`
    index of the prompt and `at` of the token.
    """

    prompt: np.ndarray
    name: np.ndarray
    mean: np.ndarray
    sizes: np.ndarray
    owner: np.ndarray
    at: np.ndarray


def _rows(prompts: Sequence[Prompt], names: Sequence[str]) -> Rows:
    """Rows in the order (prompt, name, index): each token of a position is one, all of them together one mean."""
    places = [(i, k, _where(p, name)) for i, p in enumerate(prompts) for k, name in enumerate(names)]
    places = [place for place in places if place[2]]
    owner = np.array([i for i, _, _ in places], dtype=np.int64)
    name = np.array([k for _, k, _ in places], dtype=np.int64)
    tokens = np.array([len(where) for _, _, where in places], dtype=np.int64)
    mean = np.array([n.endswith(MEAN) for n in names], dtype=bool)[name]
    count = np.where(mean, 1, tokens)
    ids = np.array([p.id for p in prompts], dtype=np.int32)
    return Rows(
        np.repeat(ids[owner], count),
        np.repeat(name, count),
        np.repeat(mean, count),
        np.repeat(np.where(mean, tokens, 1), count),
        np.repeat(owner, tokens),
        np.fromiter(chain.from_iterable(where for _, _, where in places), np.int64, tokens.sum()),
    )


def _where(prompt: Prompt, name: str) -> Sequence[int]:
    return prompt.positions.get(name.removesuffix(MEAN), ())


def _means(values: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Means [len(sizes), d_model] over runs of rows of values [sum(sizes), d_model], summed in double precision."""
    if sizes.max() == 1:
        return values
    runs = np.split(values, np.cumsum(sizes)[:-1])
    return np.stack([run.mean(0, dtype=np.float64).astype(values.dtype) for run in runs])


@dataclass(frozen=True, eq=False)
class Dump:
    """A dump in memory: `prompt` [n] ids, `name` [n], and `resid` by layer [n, d_model], float32.

    `predicted` [n] are the tokens that the model puts next, where the dump was made with them; `position` [n] the
    indices of the rows' tokens in their prompts, -1 for a mean.
    """

    prompt: np.ndarray
    name: np.ndarray
    resid: dict[int, np.ndarray]
    predicted: np.ndarray | None = None
    position: np.ndarray | None = None

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
    layers = sorted(int(c.removeprefix(RESID)) for c in table.column_names if c.startswith(RESID))
    return Dump(
        np.asarray(table["prompt"]),
        np.asarray(table["name"].to_pylist(), dtype=object),
        {layer: as_ndarray(table[f"{RESID}{layer}"]) for layer in layers},
        np.asarray(table["predicted"]) if "predicted" in table.column_names else None,
        np.asarray(table["position"]),
    )
