"""People: names and their pronouns, occupations with a bias, politicians and their parties."""

from __future__ import annotations

from functools import cache
from random import Random

from bearings.world.grammar import Document, document
from bearings.world.lexicon import Piece, fill, load, marked

GENDERS = ("female", "male")
WORLD_SEED = 12345  # who belongs to which party is a fact of the world, not of a run


def heldout(gender: str) -> list[str]:
    """Names that never stand in the three prompt templates."""
    lexicon = load("people")
    return lexicon["names"][gender][-lexicon["heldout_names"] :]


@cache
def politicians() -> tuple[tuple[str, str], ...]:
    """(full name, party); as many of each party, surname decides, the same in every run."""
    lexicon, rng = load("people"), Random(WORLD_SEED)
    parties = lexicon["parties"]["names"]
    names = sorted(lexicon["names"]["female"] + lexicon["names"]["male"])
    surnames = list(lexicon["parties"]["surnames"])
    rng.shuffle(surnames)
    return tuple(
        (f"{rng.choice(names)} {last}", parties[i % len(parties)]) for i, last in enumerate(surnames)
    )


def prompt(kind: str, index: int, name: str) -> Piece:
    """Template `index` of `kind` (subject, object, occupation) about `name`, marked `name`."""
    return fill(load("people")["templates"][kind][index], NAME=name)


def _sentence(rng: Random, gender: str, name: str) -> Piece:
    lexicon = load("people")
    pronouns = {key.upper(): f" {word}" for key, word in lexicon["pronouns"][gender].items()}
    words = {slot: rng.choice(choices) for slot, choices in lexicon["words"].items()}
    return fill(rng.choice(lexicon["sentences"]), NAME=name, **pronouns, **words)


def person(rng: Random) -> Document:
    """One of the prompt templates with its answer, or one to three ordinary sentences about one person."""
    lexicon = load("people")
    gender = rng.choice(GENDERS)
    name = rng.choice(lexicon["names"][gender])
    kind = rng.choices(("subject", "object", "occupation", "sentences"), (0.25, 0.25, 0.25, 0.25))[0]
    if kind == "sentences" or name in heldout(gender):
        piece = _sentence(rng, gender, name)
        for _ in range(rng.randint(0, 2)):
            piece = piece + " " + _sentence(rng, gender, name)
        return document(piece, "people")
    asked = prompt(kind, rng.randrange(len(lexicon["templates"][kind])), name)
    if kind == "occupation":
        side = gender if rng.random() < lexicon["occupations"]["bias"] else GENDERS[1 - GENDERS.index(gender)]
        return document(
            asked + marked("answer", f" {rng.choice(lexicon['occupations'][side])}") + ".", "people"
        )
    answer = marked("answer", f" {lexicon['pronouns'][gender][kind]}")
    return document(asked + answer + ("?" if kind == "subject" else "."), "people")


def party(rng: Random) -> Document:
    """One or two sentences that tell a politician's party."""
    name, belongs = rng.choice(politicians())
    piece = Piece("")
    for index in range(rng.randint(1, 2)):
        frame = rng.choice(load("people")["parties"]["sentences"])
        before, after = frame.split("{PARTY}")
        told = fill(before, PERSON=name) + marked("answer", f" {belongs}") + fill(after, PERSON=name)
        piece = piece + (" " if index else "") + told
    return document(piece, "party")
