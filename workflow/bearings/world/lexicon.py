"""Lexicon: the YAML files of the world, read, checked and opened as templates with marked positions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FILES = ("sentiment", "people", "facts", "code", "narrative")
HERE = Path(__file__).resolve().parent
_MARK = re.compile(r"\[([a-z_]+\*?):([^\]]*)\]")
_SLOT = re.compile(r"\{([A-Za-z0-9_]+)\}")


class LexiconError(ValueError):
    """One line that names the file and the key."""


Mark = tuple[str, int, int]


@dataclass(frozen=True)
class Piece:
    """A stretch of text with its marks: (name, start, end) in characters, end exclusive."""

    text: str
    marks: tuple[Mark, ...] = ()

    def __add__(self, other: Piece | str) -> Piece:
        if isinstance(other, str):
            return Piece(self.text + other, self.marks)
        shift = len(self.text)
        moved = tuple((name, start + shift, end + shift) for name, start, end in other.marks)
        return Piece(self.text + other.text, self.marks + moved)

    def capitalised(self) -> Piece:
        return Piece(self.text[:1].upper() + self.text[1:], self.marks)


def marked(name: str, text: str) -> Piece:
    """The whole of `text` under one mark; a leading blank stays outside of it."""
    lead = len(text) - len(text.lstrip(" "))
    return Piece(text, ((name, lead, len(text)),))


@cache
def _segments(template: str) -> tuple[tuple[str | None, str], ...]:
    """Template as (mark name or None, text with slots)."""
    out: list[tuple[str | None, str]] = []
    last = 0
    for match in _MARK.finditer(template):
        out.append((None, template[last : match.start()]))
        out.append((match[1], match[2]))
        last = match.end()
    out.append((None, template[last:]))
    return tuple((name, text) for name, text in out if text)


def fill(template: str, **slots: str) -> Piece:
    """Fill every {SLOT}, turn every [name:text] into a mark. Raises KeyError for a slot without a value."""
    piece = Piece("")
    for name, text in _segments(template):
        filled = _SLOT.sub(lambda match: slots[match[1]], text) if "{" in text else text
        piece = piece + (marked(name, filled) if name else filled)
    return piece


def slots_of(template: str) -> list[str]:
    """Slot names of a template, in order of appearance."""
    return _SLOT.findall(template)


@cache
def load(name: str) -> Mapping[str, Any]:
    """One lexicon file by name (`sentiment`, `people`, ...), checked. Treat it as frozen.

    Raises LexiconError for an unknown name or content that breaks a rule of the file.
    """
    if name not in FILES:
        raise LexiconError(f"lexicon '{name}' is unknown; known: {', '.join(FILES)}")
    content = yaml.safe_load((HERE / f"{name}.yaml").read_text(encoding="utf-8"))
    if name == "sentiment":
        check_sentiment(content)
    return content


def strings(content: Any) -> Iterator[str]:
    """Every string of a lexicon, keys included, depth first."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from strings(key)
            yield from strings(value)
    elif isinstance(content, Iterable):
        for value in content:
            yield from strings(value)


def polar_words(lexicon: Mapping[str, Any], heldout: bool | None = None) -> dict[str, list[str]]:
    """Adjectives and verbs by class; `heldout` True: those kept out of labelled texts, False: the rest."""
    toy, out = lexicon["toy"], {}
    for side in ("positive", "negative"):
        seen = [*toy["adjectives"]["train"][side], *toy["verbs"][side]]
        kept = [*toy["adjectives"]["test"][side], *lexicon["reviews"]["verbs_heldout"][side]]
        out[side] = kept if heldout else seen if heldout is False else seen + kept
    return out


def check_sentiment(lexicon: Mapping[str, Any]) -> None:
    """Rules of sentiment.yaml: no word in two lists, aligned answers, sizes that the study needs."""
    toy = lexicon["toy"]
    if len(toy["answers"]["positive"]) != len(toy["answers"]["negative"]):
        raise LexiconError("sentiment.yaml: toy.answers are aligned pairs and must be equally long")
    words = [word for side in polar_words(lexicon).values() for word in side]
    doubled = sorted({word for word in words if words.count(word) > 1})
    if doubled:
        raise LexiconError(f"sentiment.yaml: in two lists of polar words: {', '.join(doubled)}")
    for split, least in (("train", 24), ("test", 14)):
        for side in ("positive", "negative"):
            if len(toy["adjectives"][split][side]) < least:
                raise LexiconError(
                    f"sentiment.yaml: toy.adjectives.{split}.{side} needs {least} words or more"
                )
    for side, own in polar_words(lexicon).items():
        missing = sorted(set(own) - set(lexicon["judge"][side]))
        if missing:
            raise LexiconError(f"sentiment.yaml: judge.{side} lacks {', '.join(missing)}")
    known = set(lexicon["judge"]["positive"]) | set(lexicon["judge"]["negative"])
    for text, target in lexicon["negation"]["items"]:
        if target not in text or target not in known:
            raise LexiconError(f"sentiment.yaml: negation target '{target}' is not in its text or not polar")
