"""Texts become prompts: token ids and named positions, for one model's tokenizer, without loading the model.

A template names its positions in brackets, `[comma:,]`; a position is the last token of the marked characters, or,
written `[phrase*: loves parties]`, every token of them. Nothing is found by searching for a word, so the same
template works on any tokenizer that keeps the mark's end at a token boundary, and a prompt on which it does not is
kept as unusable, with the reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from tokenizers import Tokenizer

MARK = re.compile(r"\[([a-z_]+\*?):([^\]]*)\]")
Span = tuple[str, int, int]
# Texts encoded at once: enough to fill the tokenizer's threads, few enough to be small in memory.
CHUNK = 1024

COLUMNS = {
    "id": pa.int32(),
    "split": pa.string(),
    "text": pa.string(),
    "ids": pa.list_(pa.int32()),
    "label": pa.int8(),
    "positions": pa.map_(pa.string(), pa.list_(pa.int32())),
    "positive": pa.list_(pa.int32()),
    "negative": pa.list_(pa.int32()),
    "usable": pa.bool_(),
    "why": pa.string(),
}


@dataclass(frozen=True)
class Prompt:
    """One prompt: `ids` with BOS if it has one, `positions` name -> token indices, answer token ids by class."""

    id: int
    split: str
    text: str
    ids: tuple[int, ...]
    label: int | None
    positions: Mapping[str, tuple[int, ...]]
    positive: tuple[int, ...]
    negative: tuple[int, ...]
    usable: bool = True
    why: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    def at(self, name: str) -> int:
        """The one index of a named position; KeyError where the prompt has none."""
        return self.positions[name][-1]

    @property
    def sign(self) -> int:
        """+1 for the positive class, -1 for the negative."""
        return 1 if self.label else -1


def strip_marks(template: str) -> tuple[str, list[Span]]:
    """Text without brackets, and (name, start, end) in its characters for each mark."""
    text, spans, last = "", [], 0
    for match in MARK.finditer(template):
        text += template[last : match.start()]
        spans.append((match[1], len(text), len(text) + len(match[2])))
        text += match[2]
        last = match.end()
    return text + template[last:], spans


class Encoder:
    """A model directory's tokenizer: ids with character offsets, and single-token words."""

    def __init__(self, directory: str | Path):
        directory = Path(directory)
        self._tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        config = json.loads((directory / "config.json").read_text())
        self.bos = config.get("bos_token_id")
        names = ("n_positions", "max_position_embeddings")
        self.n_ctx = next((config[n] for n in names if isinstance(config.get(n), int)), 1 << 30)
        self._words: dict[str, int | None] = {}

    def encode(self, text: str, *, bos: bool = True) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids of a text and each token's (start, end) characters; BOS, if the model has one, is (0, 0)."""
        coded = self._tokenizer.encode(text, add_special_tokens=False)
        head = [self.bos] if bos and self.bos is not None else []
        return head + list(coded.ids), [(0, 0)] * len(head) + list(coded.offsets)

    def encode_many(
        self, texts: Sequence[str], *, bos: bool = True
    ) -> Iterator[tuple[list[int], list[tuple[int, int]]]]:
        """What `encode` gives for each of the texts, in their order, in a fraction of the time."""
        head = [self.bos] if bos and self.bos is not None else []
        for first in range(0, len(texts), CHUNK):
            chunk = list(texts[first : first + CHUNK])
            for coded in self._tokenizer.encode_batch(chunk, add_special_tokens=False):
                yield head + list(coded.ids), [(0, 0)] * len(head) + list(coded.offsets)

    def word(self, word: str) -> int | None:
        """Id of a word that is one token *in running text*, or None.

        The word is encoded behind another one, because some tokenizers put a blank before every text.
        """
        if word not in self._words:
            before, _ = self.encode("a", bos=False)
            both, _ = self.encode("a" + word, bos=False)
            one = len(both) == len(before) + 1 and both[:-1] == before
            self._words[word] = both[-1] if one else None
        return self._words[word]

    def text_of(self, token: int) -> str:
        """A token's own characters."""
        return self._tokenizer.decode([token], skip_special_tokens=False)


def locate(offsets: Sequence[tuple[int, int]], text: str, spans: Iterable[Span]) -> dict[str, list[int]]:
    """Named positions: for each mark the last token that overlaps it, or all of them if its name ends in `*`.

    Raises:
        ValueError: the mark ends inside a token, or its token begins before the mark (a blank in front aside).
    """
    positions: dict[str, list[int]] = {}
    for name, start, end in spans:
        inside = [i for i, (a, b) in enumerate(offsets) if a < end and b > start and b > a]
        if not inside or offsets[inside[-1]][1] != end or text[offsets[inside[0]][0] : start].strip():
            raise ValueError(f"'{text[start:end].strip()}' ({name}) does not end at a token boundary")
        positions.setdefault(name.rstrip("*"), []).extend(inside if name.endswith("*") else inside[-1:])
    return positions


def make_prompt(
    encoder: Encoder,
    number: int,
    split: str,
    text: str,
    spans: Iterable[Span] = (),
    *,
    label: int | None = None,
    answers: tuple[Sequence[str], Sequence[str]] = ((), ()),
    bos: bool = True,
    single: Iterable[str] = (),
    **extra: Any,
) -> Prompt:
    """Encode a text and find its positions; whatever keeps it from being used becomes the reason `why`.

    Args:
        spans: marks as (name, start, end) characters of `text`.
        answers: words of the (positive, negative) class, each of which must be one token.
        single: words that must be one token each, such as the word in a template's slot.
    """
    ids, offsets = encoder.encode(text, bos=bos)
    positions: dict[str, list[int]] = {}
    why = ""
    split_words = [w for w in (*single, *answers[0], *answers[1]) if encoder.word(w) is None]
    if split_words:
        why = f"'{split_words[0].strip()}' is not one token"
    elif len(ids) > encoder.n_ctx:
        why = f"{len(ids)} tokens do not fit a context of {encoder.n_ctx}"
    else:
        try:
            positions = locate(offsets, text, spans)
        except ValueError as error:
            why = str(error)
    positions.setdefault("end", [len(ids) - 1])
    tokens = [tuple(t for t in map(encoder.word, words) if t is not None) for words in answers]
    fixed = {name: tuple(at) for name, at in positions.items()}
    return Prompt(
        number, split, text, tuple(ids), label, fixed, *tokens, usable=not why, why=why, extra=extra
    )


def to_table(prompts: Sequence[Prompt], extra: Mapping[str, pa.DataType]) -> pa.Table:
    """The prompt table; `extra` names and types the study's own columns."""
    columns = {}
    for name, kind in COLUMNS.items():
        values = [getattr(p, name) for p in prompts]
        if name == "positions":
            values = [[(k, list(v)) for k, v in sorted(x.items())] for x in values]
        columns[name] = pa.array(values, kind)
    columns |= {name: pa.array([p.extra.get(name) for p in prompts], kind) for name, kind in extra.items()}
    return pa.table(columns)


def from_table(table: pa.Table) -> list[Prompt]:
    """Prompts back from their table."""
    own = [name for name in table.column_names if name not in COLUMNS]
    out = []
    for row in table.to_pylist():
        base = {name: row[name] for name in COLUMNS}
        base["positions"] = {k: tuple(v) for k, v in row["positions"]}
        for name in ("ids", "positive", "negative"):
            base[name] = tuple(row[name])
        out.append(Prompt(**base, extra={name: row[name] for name in own}))
    return out
