"""Parquet tables: prompts, activation dumps and outcomes, written in row groups, verified when read.

A tensor column is `fixed_shape_tensor` of float32: any reader of Parquet sees lists of floats, numpy gets the
array without a copy.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bearings.store.atomic import replacing
from bearings.store.hashing import ColumnHash, columns_digest
from bearings.store.provenance import KEY, Provenance, Refused, admit, canonical, check_label, make_label
from bearings.store.tensors import as_ndarray, is_tensor, tensor_column, tensor_field

__all__ = [
    "TableWriter",
    "as_ndarray",
    "iter_batches",
    "read_table",
    "stored_label",
    "tensor_column",
    "tensor_field",
    "write_table",
]
DAMAGE = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError)
ROWS_PER_GROUP = 4096


class TableWriter:
    """Streams batches into row groups of exactly `rows_per_group` rows, however the batches are cut.

    Used as a context manager: the file appears under its own name when the block ends well, and not at all
    when it does not. Memory holds at most one row group and one batch.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        schema: pa.Schema,
        provenance: Provenance,
        rows_per_group: int = ROWS_PER_GROUP,
    ):
        if rows_per_group < 1:
            raise ValueError(f"rows_per_group is {rows_per_group}; must be at least 1")
        self._path, self._schema, self._provenance = path, schema.remove_metadata(), provenance
        self._rows_per_group, self._rows = rows_per_group, 0
        self._hashes = {f.name: ColumnHash(f.type) for f in schema}
        if len(self._hashes) != len(schema):
            raise ValueError(f"{path}: two columns have the same name")
        self._waiting: list[pa.Table] = []

    def __enter__(self) -> TableWriter:
        plain = [f.name for f in self._schema if not pa.types.is_nested(f.type) and not is_tensor(f.type)]
        words = [name for name in plain if pa.types.is_string(self._schema.field(name).type)]
        self._replacing = replacing(self._path)
        temporary = self._replacing.__enter__()
        try:
            self._stream = open(temporary, "wb")  # closed in __exit__
            self._writer = pq.ParquetWriter(
                self._stream,
                self._schema,
                compression="none",
                use_dictionary=words or False,
                write_statistics=plain or False,
                write_page_checksum=True,
            )
        except BaseException as error:
            self._replacing.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def write(self, batch: pa.Table | pa.RecordBatch | Mapping[str, Any]) -> None:
        """Add rows: a table of the writer's schema, or a mapping of columns (arrays, lists).

        Raises:
            ValueError: a missing or unknown column, a wrong shape or type; the message names the column.
        """
        table = _as_table(batch, self._schema)
        for name, hasher in self._hashes.items():
            hasher.update(table.column(name))
        self._rows += table.num_rows
        self._waiting.append(table)
        held = pa.concat_tables(self._waiting)
        whole = held.num_rows - held.num_rows % self._rows_per_group
        for start in range(0, whole, self._rows_per_group):
            self._flush(held.slice(start, self._rows_per_group))
        self._waiting = [held.slice(whole)]

    def _flush(self, table: pa.Table) -> None:
        self._writer.write_table(table.combine_chunks(), row_group_size=self._rows_per_group)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._finish()
        except BaseException as failure:
            self._abandon()
            self._replacing.__exit__(type(failure), failure, failure.__traceback__)
            raise
        if error is not None:
            self._abandon()
        self._replacing.__exit__(kind, error, trace)

    def _finish(self) -> None:
        rest = pa.concat_tables(self._waiting) if self._waiting else self._schema.empty_table()
        if rest.num_rows:
            self._flush(rest)
        digests = {name: hasher.digest() for name, hasher in self._hashes.items()}
        label = make_label(
            self._provenance,
            columns_digest(self._rows, digests),
            columns=list(digests.items()),
            rows=self._rows,
        )
        self._writer.add_key_value_metadata({KEY: canonical(label)})
        self._writer.close()
        self._stream.close()

    def _abandon(self) -> None:
        for part in (self._writer, self._stream):
            with contextlib.suppress(Exception):  # the first error is the one to report
                part.close()


def write_table(
    path: str | os.PathLike,
    table: pa.Table,
    provenance: Provenance,
    rows_per_group: int = ROWS_PER_GROUP,
) -> None:
    """Write a whole table at once; see `TableWriter`."""
    with TableWriter(path, table.schema, provenance, rows_per_group) as writer:
        writer.write(table)


def read_table(
    path: str | os.PathLike, kind: str | None = None, columns: Sequence[str] | None = None
) -> pa.Table:
    """The table, or some of its columns, verified before anything is returned.

    Raises:
        FileNotFoundError: no such file.
        Refused: damaged, of another kind, from another place, without a column asked for, or made from inputs
            that have changed since.
    """
    stored, label, names = _open(path, kind, columns)
    try:
        with stored:
            table = stored.read(columns=names)
    except DAMAGE as error:
        raise Refused(path, f"cannot be read ({error})") from None
    _compare(path, label, _digests(path, table.schema, names, [table]), table.num_rows)
    return table.replace_schema_metadata(None).select(names)


def iter_batches(
    path: str | os.PathLike,
    kind: str | None = None,
    columns: Sequence[str] | None = None,
    rows: int = ROWS_PER_GROUP,
) -> Iterator[pa.RecordBatch]:
    """Batches of at most `rows` rows; label and page checksums are checked on the way, the hash at the end.

    Raises:
        Refused: as `read_table`; a wrong hash only after the last batch, so do not keep what a loop that
            raised has made.
    """
    stored, label, names = _open(path, kind, columns)
    hashes: dict[str, ColumnHash] = {}
    count = 0
    with stored:
        try:
            batches = stored.iter_batches(batch_size=rows, columns=names)
            while (batch := next(batches, None)) is not None:
                hashes = hashes or {n: ColumnHash(batch.schema.field(n).type) for n in names}
                for name, hasher in hashes.items():
                    hasher.update(batch.column(name))
                count += batch.num_rows
                yield batch.select(names)
        except DAMAGE as error:
            raise Refused(path, f"cannot be read ({error})") from None
    hashes = hashes or {n: ColumnHash(stored.schema_arrow.field(n).type) for n in names}
    _compare(path, label, {n: h.digest() for n, h in hashes.items()}, count)


def stored_label(path: str | os.PathLike) -> Any:
    """The label in the file's footer; None where it has none.

    Raises:
        Refused: no readable footer.
    """
    try:
        text = (pq.read_metadata(path).metadata or {}).get(KEY.encode())
        return None if text is None else json.loads(text)
    except FileNotFoundError:
        raise
    except (*DAMAGE, RecursionError) as error:
        raise Refused(path, f"is not a whole Parquet file ({error})") from None


def _as_table(batch: pa.Table | pa.RecordBatch | Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    given = list(batch.schema.names) if isinstance(batch, pa.Table | pa.RecordBatch) else list(batch)
    for name in sorted(set(given) ^ set(schema.names)):
        raise ValueError(f"column {name!r} is {'unknown' if name in given else 'missing'}")
    columns = []
    for field in schema:
        value = (
            batch.column(field.name) if isinstance(batch, pa.Table | pa.RecordBatch) else batch[field.name]
        )
        try:
            columns.append(_as_column(value, field.type))
        except (pa.ArrowException, ValueError, TypeError) as error:
            raise ValueError(f"column {field.name!r}: {error}") from None
        if not field.nullable and columns[-1].null_count:
            raise ValueError(f"column {field.name!r} holds a null")
    return pa.Table.from_arrays(columns, schema=schema)


def _as_column(value: Any, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    if isinstance(value, np.ndarray) and is_tensor(kind):
        value = tensor_column(value)
    if not isinstance(value, pa.Array | pa.ChunkedArray):
        return pa.array(value, type=kind)
    if value.type != kind:
        if is_tensor(kind):
            raise ValueError(f"rows of {value.type} where {kind} is expected")
        return value.cast(kind)
    return value


def _open(
    path: str | os.PathLike, kind: str | None, columns: Sequence[str] | None
) -> tuple[pq.ParquetFile, dict[str, Any], list[str]]:
    """An open file whose label is whole and admits it, and the columns to read."""
    label = check_label(stored_label(path), path)
    label = {**label, "columns": dict(label.get("columns", []))}
    if columns_digest(label.get("rows", 0), label["columns"]) != label["content"]:
        raise Refused(path, "is no table of this project")
    admit(path, label, kind)
    names = list(columns) if columns is not None else list(label["columns"])
    try:
        stored = pq.ParquetFile(path, page_checksum_verification=True)
        there = set(stored.schema_arrow.names)
    except DAMAGE as error:
        raise Refused(path, f"is not a whole Parquet file ({error})") from None
    for name in names:
        if name not in label["columns"] or name not in there:
            stored.close()
            raise Refused(path, f"has no column {name!r} (it has {', '.join(sorted(there))})")
    return stored, label, names


def _digests(
    path: str | os.PathLike, schema: pa.Schema, names: Sequence[str], tables: Sequence[pa.Table]
) -> dict[str, str]:
    try:
        hashes = {name: ColumnHash(schema.field(name).type) for name in names}
        for table in tables:
            for name, hasher in hashes.items():
                hasher.update(table.column(name))
    except DAMAGE as error:
        raise Refused(path, f"cannot be read ({error})") from None
    return {name: hasher.digest() for name, hasher in hashes.items()}


def _compare(path: str | os.PathLike, label: Mapping[str, Any], found: Mapping[str, str], rows: int) -> None:
    wrong = [name for name, value in found.items() if label["columns"][name] != value]
    if wrong:
        raise Refused(path, f"the content of column {wrong[0]!r} does not match its hash")
    if rows != label["rows"]:
        raise Refused(path, f"has {rows} rows where {label['rows']} were written")
