"""Running text and source code, cut into windows of tokens (protocol section 3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bearings.stages.prompts import Encoder
from bearings.stages.texts import documents


class Window(NamedTuple):
    """Consecutive tokens of one document, and the characters that they cover."""

    document: int
    ids: tuple[int, ...]
    text: str


def windows(ids: Sequence[int], size: int) -> Iterator[tuple[int, Sequence[int]]]:
    """(start, ids) of consecutive windows; the last one may be shorter."""
    for start in range(0, len(ids), size):
        yield start, ids[start : start + size]


def cut(
    encoder: Encoder, path: str | Path, size: int, endings: Sequence[str] = (".txt",)
) -> Iterator[Window]:
    """Windows of all documents in turn, without a start token; none goes across two documents.

    Raises:
        ValueError: see `documents`; or there is no token at all.
    """
    empty = True
    for number, text in enumerate(documents(path, endings)):
        ids, offsets = encoder.encode(text, bos=False)
        for start, part in windows(ids, size):
            empty = False
            first, last = offsets[start], offsets[start + len(part) - 1]
            yield Window(number, tuple(part), text[first[0] : last[1]])
    if empty:
        raise ValueError(f"{path}: holds no text")
