"""Narrative: neutral passages about farms, ships and kitchens."""

from __future__ import annotations

from random import Random

from bearings.world.grammar import Document
from bearings.world.lexicon import fill, load


def sentence(rng: Random, topic: str | None = None) -> str:
    """One neutral sentence of a topic (drawn if not given)."""
    lexicon = load("narrative")
    words = lexicon["topics"][topic or rng.choice(list(lexicon["topics"]))]
    noun, other = rng.sample(words["noun"], 2)
    return fill(
        rng.choice(lexicon["templates"]),
        NOUN=noun,
        NOUN2=other,
        VERB=rng.choice(words["verb"]),
        ADJ=rng.choice(words["adj"]),
        PLACE=rng.choice(words["place"]),
        NAME=rng.choice(lexicon["names"]),
    ).text


def passage(rng: Random) -> Document:
    """Two to four sentences of one topic."""
    topic = rng.choice(list(load("narrative")["topics"]))
    return Document(" ".join(sentence(rng, topic) for _ in range(rng.randint(2, 4))), "narrative")
