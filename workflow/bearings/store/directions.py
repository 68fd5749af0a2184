"""Directions on disk: one safetensors file per method, keys `variant/layer`, provenance in its metadata."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from bearings.store.atomic import replacing
from bearings.store.provenance import KEY, Provenance, Refused, admit, canonical, check_label, make_label

# The length of a safetensors header stands in its first 8 bytes; a damaged one must not be allocated.
MAX_HEADER = 100_000_000


def write_directions(
    path: str | os.PathLike, directions: Mapping[str, np.ndarray], provenance: Provenance
) -> None:
    """Write directions by key, each [d_model] or [k, d_model], at the precision they come in.

    Raises:
        ValueError: a direction of another rank, of no numbers, or with a value that is not finite.
    """
    arrays = {key: np.ascontiguousarray(directions[key]) for key in sorted(directions)}
    for key, array in arrays.items():
        if array.ndim not in (1, 2) or array.dtype not in (np.float32, np.float64):
            raise ValueError(
                f"direction {key!r} is {array.dtype}{list(array.shape)}; allowed: float32 or float64, "
                "[d_model] or [k, d_model]"
            )
        if not np.isfinite(array).all():
            raise ValueError(f"direction {key!r} holds values that are not finite")
    label = make_label(provenance, _digest(arrays))
    with replacing(path) as temporary:
        temporary.write_bytes(save(arrays, metadata={KEY: canonical(label)}))


def read_directions(path: str | os.PathLike, kind: str | None = "directions") -> dict[str, np.ndarray]:
    """Directions by key, verified.

    Raises:
        FileNotFoundError: no such file.
        Refused: damaged, of another kind, from another place, or made from inputs that changed.
    """
    label = check_label(stored_label(path), path)
    try:
        with safe_open(str(path), framework="numpy") as stored:
            # keys() and get_tensor() are the library's names; the handle is no mapping to loop over
            arrays = {key: stored.get_tensor(key) for key in sorted(stored.keys())}
    except (SafetensorError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise Refused(path, f"cannot be read ({error})") from None
    if _digest(arrays) != label["content"]:
        raise Refused(path, "its content does not match its hash")
    admit(path, label, kind)
    return arrays


def stored_label(path: str | os.PathLike) -> Any:
    """The label in the file's header; None where it has none (somebody else's weights).

    Raises:
        Refused: no readable header.
    """
    try:
        with open(path, "rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > min(MAX_HEADER, Path(path).stat().st_size):
                raise ValueError("its header is longer than the file")
            text = json.loads(stream.read(length)).get("__metadata__", {}).get(KEY)
        return None if text is None else json.loads(text)
    except (ValueError, struct.error, AttributeError, TypeError, RecursionError) as error:
        raise Refused(path, f"is not a whole safetensors file ({error})") from None


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    total = hashlib.sha256()
    for key in sorted(arrays):
        array = np.ascontiguousarray(arrays[key])
        head = canonical([key, array.dtype.str, list(array.shape)])
        total.update(f"{len(head)}:{head}".encode())
        total.update(array.tobytes())
    return total.hexdigest()
