"""Running text: documents of the grammar for studies that read a model on text it was not trained on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from random import Random

from bearings.store.atomic import write_text
from bearings.world import grammar

TRIES = 10_000  # documents in a row that bring no new text: the families have run out of them


def texts(mixture: Mapping[str, float], seed: int) -> Iterator[str]:
    """Distinct texts, in an endless stream of their own: none of the streams that a corpus is built from.

    `mixture` gives each family's share of the documents drawn; of a family that repeats itself, less is left.

    Raises ValueError for a mixture that `grammar.documents` refuses, or whose families hold no further text.
    """
    # A corpus draws from streams numbered by small multiples of its seed (corpus.build): this number is 64 bits long.
    stream = grammar.documents(mixture, Random(f"running text {seed}").getrandbits(64) | 1 << 63)
    seen: set[str] = set()
    while True:
        fresh = next((doc.text for doc in islice(stream, TRIES) if doc.text not in seen), None)
        if fresh is None:
            raise ValueError(
                f"mixture: no more than {len(seen)} distinct texts found; ask for fewer documents"
            )
        seen.add(fresh)
        yield fresh


def write_texts(path: str | Path, mixture: Mapping[str, float], documents: int, seed: int) -> Path:
    """Write `documents` texts as JSON lines {"text": ...}, no two of them the same; 0 makes an empty file.

    Two parts of the file thus share no document. The first lines do not hang on how many follow.

    Raises ValueError for a negative or fractional number, and where `texts` does.
    """
    if not isinstance(documents, int) or isinstance(documents, bool) or documents < 0:
        raise ValueError(f"documents: must be a whole number from 0 up, not {documents!r}")
    drawn = islice(texts(mixture, seed), documents)
    write_text(path, "".join(json.dumps({"text": text}) + "\n" for text in drawn))
    return Path(path)
