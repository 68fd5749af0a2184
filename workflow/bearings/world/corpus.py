"""Corpus: a mixture of families becomes documents, documents become packed rows of ids and loss weights."""

from __future__ import annotations

import json
import os
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from bearings.world import grammar, reviews
from bearings.world.grammar import Document
from bearings.world.settings import Strict

REVIEW_COLUMNS = ("sentence_id", "split", "sentence", "label", "marks", "held_out")
HELDOUT_TRIES = 100_000  # a small family may have no text left that training has not seen
POOL = 512  # documents that wait while the best fit is looked for


@dataclass(frozen=True)
class CorpusSettings(Strict):
    """Size and mixture of a corpus. `tokens` counts real tokens; `mixture` shares are of documents.

    The first `opening_share` of the tokens come from the mixture `opening` and are trained on first.
    """

    tokens: int = 2_000_000
    heldout_tokens: int = 40_000
    context: int = 64
    mixture: Mapping[str, float] = field(default_factory=lambda: {"labelled": 1.0})
    opening: Mapping[str, float] = field(default_factory=dict)
    opening_share: float = 0.0
    answer_weight: float = 5.0
    comma_weight: float = 1.0
    bare_share: float = 0.15
    vocabulary: str = ""  # a file of words; none: those that the families can write

    @property
    def families(self) -> list[str]:
        """Families that the corpus is written from."""
        return sorted({name for part in (self.mixture, self.opening) for name in part})


@dataclass(frozen=True)
class Rows:
    """Packed documents: ids int64 [row, pos]; weights float32 [row, pos], 0 where a row is padded.

    The first `opening` rows are to be trained on before the others.
    """

    ids: np.ndarray
    weights: np.ndarray
    opening: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def tokens(self) -> int:
        return int((self.weights > 0).sum())


Encoded = tuple[list[int], list[float]]


def token_weights(doc: Document, offsets: list[tuple[int, int]], answer: float, comma: float) -> list[float]:
    """Loss weight per token: `answer` on answers and reactions, `comma` on what follows a comma, else 1."""
    weights = [1.0] * len(offsets)
    for start, end in doc.spans("comma"):
        for index, (left, right) in enumerate(offsets[:-1]):
            if left < end and right > start:
                weights[index + 1] = comma
    for start, end in doc.spans("answer") + doc.spans("reaction"):
        for index, (left, right) in enumerate(offsets):
            if left < end and right > start:
                weights[index] = answer
    return weights


def encode(docs: Iterable[Document], tokenizer: Any, settings: CorpusSettings) -> Iterator[Encoded]:
    """Each document as ids and weights, the start token in front.

    Raises ValueError for a document longer than the context: documents are never split.
    """
    docs = iter(docs)
    while batch := list(islice(docs, 2048)):
        coded = tokenizer([doc.text for doc in batch], add_special_tokens=False, return_offsets_mapping=True)
        for doc, ids, offsets in zip(batch, coded["input_ids"], coded["offset_mapping"], strict=True):
            if len(ids) + 1 > settings.context:
                raise ValueError(
                    f"{doc.family}: a document of {len(ids)} tokens exceeds context {settings.context}"
                )
            weights = token_weights(doc, offsets, settings.answer_weight, settings.comma_weight)
            yield [tokenizer.bos_token_id, *ids], [1.0, *weights]


def pack(encoded: Iterable[Encoded], context: int, pad: int, bare: float = 0.0, seed: int = 0) -> Rows:
    """Best fit: into the room left of a row goes the longest waiting document that fits; none is split.

    A share `bare` of the rows lets its first document begin without the start token, as some prompts do.
    """
    stream, waiting = iter(encoded), []  # waiting: sorted by length
    rng, ids, weights = Random(seed), [], []

    def refill() -> None:
        for item in islice(stream, POOL - len(waiting)):
            waiting.insert(bisect_right(waiting, len(item[0]), key=lambda other: len(other[0])), item)

    refill()
    while waiting:
        first = waiting.pop(rng.randrange(len(waiting)))
        cut = int(rng.random() < bare)
        row, mass = list(first[0][cut:]), list(first[1][cut:])
        refill()
        while index := bisect_right(waiting, context - len(row), key=lambda item: len(item[0])):
            length = len(waiting[index - 1][0])
            same = bisect_left(waiting, length, key=lambda item: len(item[0]))
            chosen = waiting.pop(rng.randrange(same, index))
            row, mass = row + chosen[0], mass + chosen[1]
            refill()
        ids.append(row + [pad] * (context - len(row)))
        weights.append(mass + [0.0] * (context - len(mass)))
    return Rows(
        np.array(ids, np.int64).reshape(-1, context), np.array(weights, np.float32).reshape(-1, context)
    )


def _until(encoded: Iterable[Encoded], tokens: int) -> Iterator[Encoded]:
    for item in encoded:
        if tokens <= 0:
            return
        tokens -= len(item[0])
        yield item


def build(
    settings: CorpusSettings, tokenizer: Any, seed: int, apart_from: Collection[str] = ()
) -> tuple[Rows, Rows]:
    """Training rows and held-out rows; no held-out document's text occurs in the training rows.

    No document holds a review of `apart_from`: those are what the studies ask about.
    """
    seen: set[str] = set()
    kept = frozenset(apart_from)

    def noted(mixture: Mapping[str, float], stream: int) -> Iterator[Document]:
        for doc in grammar.documents(mixture, stream):
            if doc.review not in kept:
                seen.add(doc.text)
                yield doc

    def rows(docs: Iterable[Document], tokens: int, offset: int) -> Rows:
        coded = _until(encode(docs, tokenizer, settings), tokens)
        return pack(coded, settings.context, tokenizer.pad_token_id, settings.bare_share, seed + offset)

    first = int(settings.tokens * settings.opening_share) if settings.opening else 0
    main = rows(noted(settings.mixture, 2 * seed), settings.tokens - first, 0)
    if first:
        opening = rows(noted(settings.opening, -2 * seed - 1), first, 2)
        ids, weights = (
            np.concatenate([a, b]) for a, b in ((opening.ids, main.ids), (opening.weights, main.weights))
        )
        main = Rows(ids, weights, len(opening))
    stream = islice(grammar.documents(settings.mixture, 2 * seed + 1), HELDOUT_TRIES)
    fresh = (doc for doc in stream if doc.text not in seen and doc.review not in kept)
    return main, rows(fresh, settings.heldout_tokens, 1)


def write_reviews(path: str | Path, n_train: int, n_dev: int, n_test: int, seed: int) -> Path:
    """Reviews as a table: sentence_id, split, sentence, label (1/0), marks (JSON), held_out (0/1).

    Each split is balanced. A third of the test split holds held-out polar words only (`held_out` 1): a corpus
    shows these in unlabelled reviews alone. Sentences are distinct, and `build` keeps them out of a corpus.
    """
    target = Path(path)
    rng, used = Random(f"reviews {seed}"), set()
    lines = ["\t".join(REVIEW_COLUMNS)]
    for split, count in (("train", n_train), ("dev", n_dev), ("test", n_test)):
        for index in range(count):
            kept = split == "test" and index % 6 >= 4
            draw = reviews.heldout_review if kept else reviews.review
            while True:
                made = draw(rng, reviews.SIDES[index % 2])
                if made.text not in used:
                    break
            used.add(made.text)
            marks = json.dumps([list(mark) for mark in made.marks])
            lines.append(f"{len(lines)}\t{split}\t{made.text}\t{made.label}\t{marks}\t{int(kept)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_name(f".{target.name}.part")
    staged.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(staged, target)
    return target
