"""Programs: short functions in C and Python, told apart by their delimiters."""

from __future__ import annotations

from random import Random

from bearings.world.grammar import Document
from bearings.world.lexicon import load

LANGUAGES = ("c", "python")


def lines(rng: Random, language: str) -> list[str]:
    """One function as its lines."""
    lexicon = load("code")
    frame = lexicon["languages"][language]
    a, b, c = rng.sample(lexicon["variables"], 3)
    body = rng.sample(frame["body"], rng.randint(1, 2))
    return [
        line.format(
            F=rng.choice(lexicon["functions"]),
            A=a,
            B=b,
            C=c,
            OP=rng.choice(lexicon["operators"]),
            COMMENT=rng.choice(lexicon["comments"]),
        )
        for line in (frame["head"], *body, frame["tail"])
    ]


def program(rng: Random) -> Document:
    """One function in one of the languages."""
    return Document("\n".join(lines(rng, rng.choice(LANGUAGES))), "code")
