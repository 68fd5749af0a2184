"""People: names and their pronouns, occupations with a bias, politicians and their parties."""

from __future__ import annotations

from functools import cache
from itertools import accumulate
from random import Random

from bearings.world.grammar import Document, document
from bearings.world.lexicon import Piece, fill, load, marked

GENDERS = ("female", "male")
WORLD_SEED = 12345  # who belongs to which party is a fact of the world, not of a run
KINDS = {"subject": 0.3, "object": 0.3, "occupation": 0.4}
MORE = 0.5  # share of documents that go on with a sentence about the same person
RARENESS = 20  # name number k is 1 / (k + RARENESS) as frequent: rare names are known less well
INITIAL_EVERY = 4


def names(gender: str) -> list[str]:
    """All names of a gender, the most frequent first."""
    lexicon = load("people")
    return [*lexicon["names"][gender], *lexicon["more_names"][gender]]


def heldout(gender: str) -> list[str]:
    """Names that never stand in the three prompt templates."""
    return names(gender)[-load("people")["heldout_names"] :]


def mixed(gender: str) -> dict[str, float]:
    """Names that the other gender also bears: the share of texts in which it does."""
    return {name: share for name, share in load("people")["mixed_names"].items() if name in names(gender)}


@cache
def _frequencies(count: int) -> list[float]:
    return list(accumulate(1 / (rank + RARENESS) for rank in range(count)))


@cache
def politicians() -> tuple[tuple[str, str], ...]:
    """(full name, party); as many of each party, surname decides, the same in every run."""
    content, rng = load("people")["parties"], Random(WORLD_SEED)
    first = sorted(name for gender in GENDERS for name in names(gender))
    surnames = [*content["surnames"], *content["more_surnames"]]
    rng.shuffle(surnames)
    out = []
    for index, last in enumerate(surnames):
        pair, turn = divmod(index, len(content["names"]))  # initials fall on both parties alike
        initial = f" {rng.choice(content['initials'])}." if pair % INITIAL_EVERY == INITIAL_EVERY - 1 else ""
        out.append((f"{rng.choice(first)}{initial} {last}", content["names"][turn]))
    return tuple(out)


def prompt(kind: str, index: int, name: str) -> Piece:
    """Template `index` of `kind` (subject, object, occupation) about `name`, marked `name`."""
    return fill(load("people")["templates"][kind][index], NAME=name)


def _other(gender: str) -> str:
    return GENDERS[1 - GENDERS.index(gender)]


def _job(rng: Random, gender: str) -> str:
    content = load("people")["occupations"]
    side = gender if rng.random() < content["bias"] else _other(gender)
    return f" {rng.choice(content[side])}"


def _sentence(rng: Random, gender: str, name: str) -> Piece:
    lexicon = load("people")
    pronouns = {key.upper(): f" {word}" for key, word in lexicon["pronouns"][gender].items()}
    words = {slot: rng.choice(choices) for slot, choices in lexicon["words"].items()}
    return fill(rng.choice(lexicon["sentences"]), NAME=name, JOB=_job(rng, gender), **pronouns, **words)


def _asked(rng: Random, kind: str, gender: str, name: str) -> Piece:
    """One of the prompt templates with its answer."""
    lexicon = load("people")
    asked = prompt(kind, rng.randrange(len(lexicon["templates"][kind])), name)
    if kind == "occupation":
        return asked + marked("answer", _job(rng, gender)) + "."
    answer = marked("answer", f" {lexicon['pronouns'][gender][kind]}")
    return asked + answer + ("?" if kind == "subject" else ".")


def _drawn(rng: Random) -> tuple[str, str, bool]:
    """A name, the gender of this text's person, and whether the name is held out."""
    listed = rng.choice(GENDERS)
    every = names(listed)
    name = rng.choices(every, cum_weights=_frequencies(len(every)))[0]
    gender = _other(listed) if rng.random() < mixed(listed).get(name, 0.0) else listed
    return name, gender, name in heldout(listed)


def person(rng: Random) -> Document:
    """A prompt template with its answer (of held-out names: a sentence), perhaps one more sentence of that person."""
    name, gender, kept = _drawn(rng)
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    piece = _sentence(rng, gender, name) if kept else _asked(rng, kind, gender, name)
    if rng.random() < MORE:
        piece = piece + " " + _sentence(rng, gender, name)
    return document(piece, "people")


def told(rng: Random) -> Document:
    """One or two ordinary sentences about one person."""
    name, gender, _ = _drawn(rng)
    piece = _sentence(rng, gender, name)
    if rng.random() < MORE:
        piece = piece + " " + _sentence(rng, gender, name)
    return document(piece, "sentences")


def party(rng: Random) -> Document:
    """One or two sentences that tell a politician's party."""
    name, belongs = rng.choice(politicians())
    piece = Piece("")
    for index in range(rng.randint(1, 2)):
        before, after = rng.choice(load("people")["parties"]["sentences"]).split("{PARTY}")
        told = fill(before, PERSON=name) + marked("answer", f" {belongs}") + fill(after, PERSON=name)
        piece = piece + (" " if index else "") + told
    return document(piece, "party")
