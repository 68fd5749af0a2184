"""Programs: short functions in C and Python, told apart by their delimiters and the sign that begins a comment."""

from __future__ import annotations

from random import Random

from bearings.world.grammar import Document, document
from bearings.world.lexicon import Piece, fill, load

LANGUAGES = ("c", "python")
PARAMETERS, LINES = (1, 3), (1, 2)  # of a function, least and most


def _filled(rng: Random, template: str, **slots: str) -> Piece:
    lexicon = load("code")
    a, b, c = rng.sample(lexicon["variables"], 3)
    drawn = {slot: rng.choice(lexicon[key]) for slot, key in (("OP", "operators"), ("N", "numbers"))}
    return fill(template, A=a, B=b, C=c, COMMENT=rng.choice(lexicon["comments"]), **drawn, **slots)


def head(rng: Random, language: str) -> Piece:
    """The first line of a function; its last mark, `answer`, is the delimiter that tells the language."""
    lexicon = load("code")
    frame = lexicon["languages"][language]
    names = rng.sample(lexicon["variables"], rng.randint(*PARAMETERS))
    shown = ", ".join(fill(rng.choice(frame["parameters"]), A=name).text for name in names)
    return fill(frame["head"], F=rng.choice(lexicon["functions"]), PARAMETERS=shown)


def function(rng: Random, language: str) -> Piece:
    """One function."""
    frame = load("code")["languages"][language]
    piece = head(rng, language)
    for line in (*rng.sample(frame["body"], rng.randint(*LINES)), frame["tail"]):
        piece = piece + "\n" + _filled(rng, line)
    return piece


def program(rng: Random) -> Document:
    """One function in one of the languages."""
    return document(function(rng, rng.choice(LANGUAGES)), "code")


def file(rng: Random, language: str) -> str:
    """A source file: two to four functions of one language, a blank line between them."""
    return "\n\n".join(function(rng, language).text for _ in range(rng.randint(2, 4))) + "\n"
