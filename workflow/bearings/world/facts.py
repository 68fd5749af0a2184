"""Facts: relations between made-up subjects and objects, stated in lists and sentences, with aux sentences.

The table of facts hangs on a constant of the world alone; a run's seed only draws which of them are written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from random import Random

from bearings.world.grammar import Document, document
from bearings.world.lexicon import Piece, load, marked

WORLD_SEED = 12345


@dataclass(frozen=True)
class Fact:
    """One row of the world's table; a held-out fact is never stated, only its aux sentences are."""

    relation: str
    subject: str
    object: str
    heldout: bool = False


def _joined(parts: Mapping[str, list[str]], rng: Random) -> list[str]:
    words = [first + second for first in parts["first"] for second in parts["second"]]
    rng.shuffle(words)
    return words


@cache
def table() -> Mapping[str, tuple[Fact, ...]]:
    """Every fact by relation; subjects are distinct over all relations of a kind."""
    lexicon, rng = load("facts"), Random(WORLD_SEED)
    people = load("people")["names"]
    first_names = sorted(people["female"] + people["male"])
    taken = set(load("people")["parties"]["surnames"])
    surnames = [word for word in _joined(lexicon["surnames"], rng) if word not in taken]
    places = _joined(lexicon["places"], rng)
    out: dict[str, tuple[Fact, ...]] = {}
    for name, relation in lexicon["relations"].items():
        subjects = relation["subjects"]
        if "kind" not in subjects:
            pairs = [(subject, target) for target, group in subjects.items() for subject in group]
        else:
            make = {
                "person": lambda: f"{rng.choice(first_names)} {surnames.pop()}",
                "place": lambda: places.pop(),
                "landmark": lambda: f"{rng.choice(lexicon['landmarks'])} {places.pop()}",
            }[subjects["kind"]]
            made = [make() for _ in range(subjects["count"])]
            targets = relation["objects"]
            if targets == "surnames":
                targets = [surnames.pop() for _ in made]
            pairs = [(subject, targets[i % len(targets)]) for i, subject in enumerate(made)]
        many = bool(relation["aux"])
        out[name] = tuple(
            Fact(name, subject, target, many and rng.random() < lexicon["heldout_share"])
            for subject, target in pairs
        )
    return out


@cache
def aux_words() -> Mapping[tuple[str, str], tuple[str, ...]]:
    """(relation, object) -> the made-up answer of each aux template of the relation; no word serves twice."""
    lexicon, rng = load("facts"), Random(WORLD_SEED + 1)
    parts = lexicon["syllables"]
    open_syllables = [onset + vowel for onset in parts["onset"] for vowel in parts["vowel"]]
    words = [a + b + coda for a in open_syllables for b in open_syllables for coda in parts["coda"]]
    words = rng.sample(words, 1000)
    out: dict[tuple[str, str], tuple[str, ...]] = {}
    for name, facts in table().items():
        count = len(lexicon["relations"][name]["aux"])
        for target in dict.fromkeys(fact.object for fact in facts):
            out[name, target] = tuple(words.pop() for _ in range(count))
    return out


def templates(relation: str) -> list[str]:
    """Few-shot templates, then the zero-shot one; each ends where the object begins."""
    content = load("facts")["relations"][relation]
    return [*content["few_shot"], content["zero_shot"]]


def stated(fact: Fact, template: str, rng: Random) -> Piece:
    """A statement of a fact, subject and answer marked; a random relation draws its object from `rng`."""
    content = load("facts")["relations"][fact.relation]
    target = rng.choice(content["objects"]) if content.get("random") else fact.object
    before, after = template.split("{}")
    subject = Piece(fact.subject, (("subject", 0, len(fact.subject)),))
    return Piece(before) + subject + after + marked("answer", f" {target}")


def _known(relation: str) -> list[Fact]:
    return [fact for fact in table()[relation] if not fact.heldout]


def _relation(rng: Random, with_aux: bool = False) -> str:
    names = [
        name for name, facts in table().items() if not with_aux or load("facts")["relations"][name]["aux"]
    ]
    return rng.choices(names, [len(table()[name]) for name in names])[0]


def facts(rng: Random) -> Document:
    """A list of one to four facts in one template, or two to four sentences of any relations."""
    if rng.random() < 0.6:
        relation = _relation(rng)
        template = rng.choice(templates(relation))
        chosen = rng.sample(_known(relation), rng.randint(1, 4))
        pieces, glue, end = [stated(fact, template, rng) for fact in chosen], "\n", ""
    else:
        pieces, glue, end = [], " ", "."
        for _ in range(rng.randint(2, 4)):
            relation = _relation(rng)
            pieces.append(stated(rng.choice(_known(relation)), rng.choice(templates(relation)), rng))
    out = pieces[0] + end
    for piece in pieces[1:]:
        out = out + glue + piece + end
    return document(out, "facts")


def aux(rng: Random) -> Document:
    """Two to four aux sentences, mostly of one subject, now and then its fact (never a held-out one)."""
    same, out = rng.random() < 0.6, Piece("")
    fact = rng.choice(table()[_relation(rng, with_aux=True)])
    for index in range(rng.randint(2, 4)):
        if index and not same:
            fact = rng.choice(table()[_relation(rng, with_aux=True)])
        frames = load("facts")["relations"][fact.relation]["aux"]
        drawn = rng.randrange(len(frames) + (not fact.heldout))
        if drawn == len(frames):
            piece = stated(fact, rng.choice(templates(fact.relation)), rng)
        else:
            before, after = frames[drawn].split("{}")
            word = aux_words()[fact.relation, fact.object][drawn]
            subject = Piece(fact.subject, (("subject", 0, len(fact.subject)),))
            piece = Piece(before) + subject + after + marked("answer", f" {word}")
        out = out + (" " if index else "") + piece + "."
    return document(out, "aux")
