"""Protocol section 3: running text packed into rows of one length, each of which begins with BOS.

Every document has BOS in front. One that overflows its row goes on in the next, behind a new BOS; one that ends
inside a row is followed by the next one's. A document that ends with its row makes the next row begin with two BOS.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from bearings.stages.prompts import Encoder, Prompt, to_table
from bearings.stages.texts import documents

COLUMNS = {"document": pa.int32()}
SETS = ("rows", "train")


class Row(NamedTuple):
    """`ids` of one row, the characters they cover, and the numbers of the first and last document in it."""

    ids: tuple[int, ...]
    text: str
    first: int
    last: int


def prompts(name: str, data: Mapping[str, Path], settings: Mapping[str, Any], encoder: Encoder) -> pa.Table:
    """The prompt table of one set: `rows`, what the study looks at, or `train`, what SAEs are trained on.

    Both are of `context` tokens; position `tokens` is all of them, `end` the last. `rows` takes the text's first
    documents, the first `curve_rows` of it are of the split `curve` and the others of `pool`; `train` takes the
    documents behind those of `rows`, so that no document is in both.

    Raises:
        ValueError: too little text, no BOS, or a setting that does not fit the model or another one, in one line.
    """
    if name not in SETS:
        raise ValueError(f"no set {name!r}; allowed: {', '.join(SETS)}")
    _check(settings, encoder)
    path, studied = data["text"], settings["rows"]
    made = list(islice(packed(encoder, path, settings), studied))
    _enough(path, len(made), studied, settings["context"], "rows")
    if name == "rows":
        return _table(made, ["curve" if i < settings["curve_rows"] else "pool" for i in range(studied)])
    after = made[-1].last + 1
    wanted = settings["train_rows"]
    made = list(islice(packed(encoder, path, settings, after), wanted))
    _enough(
        path, len(made), wanted, settings["context"], "train_rows", f"behind the {after} documents of 'rows' "
    )
    return _table(made, ["train"] * wanted)


def packed(encoder: Encoder, path: str | Path, settings: Mapping[str, Any], start: int = 0) -> Iterator[Row]:
    """Full rows of the documents from number `start` on; what is left over at the end is dropped.

    A document has at most `max_document` tokens, its BOS counted; what it has beyond them is not used.
    """
    size, mark = settings["context"], encoder.text_of(encoder.bos)
    row, text, first, last = [], "", start, start
    for number, document in enumerate(documents(path)):
        if number < start:
            continue
        ids, offsets = encoder.encode(document)
        ids, offsets = ids[: settings["max_document"]], offsets[: settings["max_document"]]
        heads = 1  # BOS at the front of `ids`
        while True:
            room = size - len(row)
            if not row:
                first = number
            if room:
                last = number
                row += ids[:room]
                text += mark * min(heads, room) + _characters(document, offsets[heads:room])
            if len(ids) <= room:
                break
            yield Row(tuple(row), text, first, last)
            row, text = [], ""
            # In front of a document for which there was no room at all stand two of them now.
            heads = 1 if room else 2
            ids, offsets = [encoder.bos, *ids[room:]], [(0, 0), *offsets[room:]]
    if len(row) == size:
        yield Row(tuple(row), text, first, last)


def _characters(document: str, offsets: Sequence[tuple[int, int]]) -> str:
    """What consecutive tokens cover; a letter that two rows share is in both."""
    return document[offsets[0][0] : offsets[-1][1]] if offsets else ""


def _table(rows: Sequence[Row], splits: Sequence[str]) -> pa.Table:
    at = {"tokens": tuple(range(len(rows[0].ids))), "end": (len(rows[0].ids) - 1,)} if rows else {}
    made = [
        Prompt(i, split, row.text, row.ids, None, at, (), (), extra={"document": row.first})
        for i, (row, split) in enumerate(zip(rows, splits, strict=True))
    ]
    return to_table(made, COLUMNS)


def _check(settings: Mapping[str, Any], encoder: Encoder) -> None:
    if encoder.bos is None:
        raise ValueError("the model has no start token (bos_token_id in its config.json): a row cannot begin")
    if not 2 <= settings["context"] <= encoder.n_ctx:
        raise ValueError(f"key 'context' is {settings['context']}; allowed: 2 to {encoder.n_ctx} tokens")
    if settings["max_document"] < 2:
        raise ValueError(f"key 'max_document' is {settings['max_document']}; allowed: at least 2 tokens")
    if not 1 <= settings["curve_rows"] <= settings["rows"]:
        raise ValueError(
            f"key 'curve_rows' is {settings['curve_rows']}; allowed: 1 to 'rows', which is {settings['rows']}"
        )


def _enough(path: Path, there: int, wanted: int, size: int, key: str, where: str = "") -> None:
    if there < wanted:
        raise ValueError(
            f"{path}: {where}its text fills {there} rows of {size} tokens; key '{key}' asks for {wanted}"
        )
