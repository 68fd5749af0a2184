"""Mood stories: one person's liking, an occasion, and how that person feels about it."""

from __future__ import annotations

from random import Random

from bearings.world import narrative
from bearings.world.grammar import Document, document
from bearings.world.lexicon import Piece, load, marked

HABITS = (", and{HABIT} them whenever possible", ",{HABIT} them whenever possible", ", and{HABIT} them")


def story(rng: Random) -> Document:
    """One person; up to two neutral sentences between the liking and the occasion.

    In three of five the habit says nothing, so that the liking itself has to be carried to the end.
    """
    mood = load("sentiment")["mood"]
    side = rng.choice(("positive", "negative"))
    name = rng.choice(mood["names"])
    thing, occasion = rng.choice(mood["things"])
    kind = "neutral" if rng.random() < 0.6 else side
    habit = rng.choice(HABITS).replace("{HABIT}", " " + rng.choice(mood["habits"][kind]))
    gap = "".join(" " + narrative.sentence(rng) for _ in range(rng.choice((0, 0, 0, 0, 1, 1, 2))))
    piece = (
        Piece(name)
        + marked("phrase", f" {rng.choice(mood['attitudes'][side])} {thing}")
        + f"{habit}.{gap} One day, there was {occasion}. {name} feels very"
        + marked("answer", f" {rng.choice(mood['feelings'][side])}")
        + "."
    )
    return document(piece, "mood")
