"""Hash of a column's logical content: the same for the same values, however they are cut into chunks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bearings.store.provenance import canonical, digest


class ColumnHash:
    """Streaming hash over validity, lengths and values of a column, nested types by their parts.

    Raises:
        TypeError: a type that no artefact of this project needs.
    """

    def __init__(self, kind: pa.DataType):
        self._kind = kind
        self._count = 0
        self._valid, self._lengths, self._values = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
        self._parts = [ColumnHash(t) for t in _part_types(kind)]

    def update(self, column: pa.Array | pa.ChunkedArray) -> None:
        """Add the next rows; chunks are taken in turn."""
        for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
            if chunk.type != self._kind:
                raise TypeError(f"column is {chunk.type} where {self._kind} is expected")
            self._update(chunk)

    def _update(self, array: pa.Array) -> None:
        self._count += len(array)
        self._valid.update(np.asarray(pc.is_valid(array).to_numpy(zero_copy_only=False), dtype=np.uint8))
        kind = array.type
        if isinstance(kind, pa.BaseExtensionType):
            self._parts[0].update(array.storage)
        elif pa.types.is_null(kind):
            pass
        elif pa.types.is_struct(kind):
            for part, child in zip(self._parts, array.flatten(), strict=True):
                part.update(child)
        elif pa.types.is_map(kind):
            present = array.drop_null()
            start, stop = _bounds(present.offsets, len(present))
            self._length(present.offsets)
            self._parts[0].update(present.keys.slice(start, stop - start))
            self._parts[1].update(present.items.slice(start, stop - start))
        elif _is_list(kind):
            self._length_of(pc.list_value_length(array))
            self._parts[0].update(array.flatten())
        elif pa.types.is_string(kind) or pa.types.is_binary(kind):
            filled = pc.fill_null(array.cast(pa.large_binary()), b"")
            self._length_of(pc.binary_length(filled))
            self._values.update(_bytes_of(filled))
        else:
            self._values.update(_numbers(array))

    def _length(self, offsets: pa.Array) -> None:
        self._lengths.update(np.diff(offsets.to_numpy()).astype("<i8"))

    def _length_of(self, lengths: pa.Array) -> None:
        self._lengths.update(pc.fill_null(lengths, 0).to_numpy(zero_copy_only=False).astype("<i8"))

    def digest(self) -> str:
        own = [h.hexdigest() for h in (self._valid, self._lengths, self._values)]
        return digest([_name(self._kind), self._count, *own, [part.digest() for part in self._parts]])


def columns_digest(rows: int, columns: Mapping[str, str]) -> str:
    """Hash of a table from the hashes of its columns, in their order."""
    return digest([rows, [[name, columns[name]] for name in columns]])


def _name(kind: pa.DataType) -> str:
    """A type's name without the names of its inner fields, which Parquet does not keep as they were."""
    if pa.types.is_map(kind):
        return "map sorted" if kind.keys_sorted else "map"
    if pa.types.is_struct(kind):
        return "struct " + canonical([kind.field(i).name for i in range(kind.num_fields)])
    return "list" if _is_list(kind) else str(kind)


def _part_types(kind: pa.DataType) -> list[pa.DataType]:
    if isinstance(kind, pa.BaseExtensionType):
        return [kind.storage_type]
    if pa.types.is_map(kind):
        return [kind.key_type, kind.item_type]
    if pa.types.is_struct(kind):
        return [kind.field(i).type for i in range(kind.num_fields)]
    if _is_list(kind):
        return [kind.value_type]
    simple = (
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_boolean,
        pa.types.is_string,
        pa.types.is_binary,
        pa.types.is_null,
    )
    if any(test(kind) for test in simple):
        return []
    raise TypeError(
        f"a column of type {kind} is not stored; use numbers, text, lists, maps, structs or tensors"
    )


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind)


def _bounds(offsets: pa.Array, length: int) -> tuple[int, int]:
    return (offsets[0].as_py(), offsets[length].as_py()) if length else (0, 0)


def _bytes_of(array: pa.Array) -> memoryview | bytes:
    """The text bytes of a large_binary array, joined; the buffer itself, not a copy."""
    data = array.buffers()[2]
    if data is None or not len(array):
        return b""
    offsets = np.frombuffer(array.buffers()[1], dtype=np.int64)
    start, stop = int(offsets[array.offset]), int(offsets[array.offset + len(array)])
    return memoryview(data)[start:stop]


def _numbers(array: pa.Array) -> np.ndarray:
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.uint8())
    if array.null_count:
        array = pc.fill_null(array, 0)
    return np.ascontiguousarray(array.to_numpy(zero_copy_only=False))
