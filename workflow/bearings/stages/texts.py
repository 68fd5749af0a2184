"""Running text and source code: the documents of a file or of a folder of files, one after the other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

TABLES = (".jsonl", ".parquet")
ROWS = 64


def documents(path: str | Path, endings: Sequence[str] = (".txt",)) -> Iterator[str]:
    """The documents of a table of texts, or of all tables of a folder, or its loose files with one of the endings.

    A table is a `.jsonl` or `.parquet` file with a column `text`. Files come in the order of their paths; hidden ones
    are passed over, and loose ones where there are tables.

    Raises:
        ValueError: one line naming the file: it is missing, of another kind, or holds what is no text.
    """
    path = Path(path)
    for file in _files(path, tuple(endings)):
        if file.suffix == ".jsonl":
            yield from _json_lines(file)
        elif file.suffix == ".parquet":
            yield from _parquet(file)
        else:
            yield _read(file)


def _files(path: Path, endings: tuple[str, ...]) -> list[Path]:
    if path.is_file():
        if path.suffix not in TABLES:
            raise ValueError(f"{path}: must be a .jsonl or .parquet file, or a folder")
        return [path]
    if not path.is_dir():
        raise ValueError(f"{path}: no such file or folder")
    inside = sorted(f for f in path.rglob("*") if f.is_file())
    seen = [f for f in inside if not any(part.startswith(".") for part in f.relative_to(path).parts)]
    found = [f for f in seen if f.suffix in TABLES] or [f for f in seen if f.suffix in endings]
    if not found:
        raise ValueError(f"{path}: holds no file that ends in {', '.join((*TABLES, *endings))}")
    return found


def _json_lines(path: Path) -> Iterator[str]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError:
                    raise ValueError(f"{path}: line {number} is not valid JSON") from None
                yield _text_of(row.get("text") if isinstance(row, dict) else None, path, f"line {number}")


def _parquet(path: Path) -> Iterator[str]:
    try:
        with pq.ParquetFile(path) as file:
            if "text" not in file.schema_arrow.names:
                raise ValueError(f"{path}: no column 'text'")
            number = 0
            for batch in file.iter_batches(batch_size=ROWS, columns=["text"]):
                for value in batch.column(0).to_pylist():
                    yield _text_of(value, path, f"row {number}")
                    number += 1
    except pa.ArrowException as error:
        raise ValueError(f"{path}: not valid Parquet ({' '.join(str(error).split())[:120]})") from None


def _text_of(value: Any, path: Path, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{path}: {where} has no 'text'")
    return value


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is not UTF-8 text") from None
