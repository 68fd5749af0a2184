"""Tensor columns of a table: arrays go in, the same arrays come out, where possible without a copy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa


def tensor_field(name: str, shape: Sequence[int]) -> pa.Field:
    """Field of a tensor column; each row holds float32 of `shape`."""
    return pa.field(name, pa.fixed_shape_tensor(pa.float32(), list(shape)), nullable=False)


def tensor_column(array: np.ndarray) -> pa.ExtensionArray:
    """[rows, *shape] as a tensor column, without a copy where it is contiguous float32 already."""
    array = np.ascontiguousarray(array, dtype=np.float32)
    if array.ndim < 2 or 0 in array.shape[1:]:
        raise ValueError(f"a tensor column needs an array [rows, *shape], got {list(array.shape)}")
    kind = pa.fixed_shape_tensor(pa.float32(), list(array.shape[1:]))
    flat = pa.array(array.reshape(-1))
    return kind.wrap_array(pa.FixedSizeListArray.from_arrays(flat, int(np.prod(array.shape[1:]))))


def as_ndarray(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A column as an array: tensor columns [rows, *shape], numbers [rows]; one chunk comes without a copy."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    kind = column.type
    if not isinstance(kind, pa.FixedShapeTensorType):
        return (
            column.to_numpy()
            if isinstance(column, pa.ChunkedArray)
            else column.to_numpy(zero_copy_only=False)
        )
    parts = [c.storage.flatten().to_numpy(zero_copy_only=True).reshape(-1, *kind.shape) for c in chunks]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty((0, *kind.shape), dtype=np.float32)


def is_tensor(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.FixedShapeTensorType)
