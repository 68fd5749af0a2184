"""Reviews: clauses with signed scores, joined by commas whose next word depends on the sentiment so far."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import Any

from bearings.world.grammar import Document, document
from bearings.world.lexicon import Mark, Piece, fill, load, marked

SIDES = ("positive", "negative")
TOKENS = re.compile(r"\w+|[^\w\s]")
LONGEST = 46  # words and signs: with the longest scaffold, the start token and the answer it fits 56 tokens


@dataclass(frozen=True)
class Review:
    """A review: label (1 positive, 0 negative), signed score, marks (adj, verb, comma, period, name)."""

    text: str
    label: int
    score: float
    marks: tuple[Mark, ...]
    heldout: bool = False


@dataclass(frozen=True)
class Style:
    """How reviews are put together; shares are probabilities."""

    clauses: tuple[float, ...] = (0.28, 0.2, 0.2, 0.17, 0.15)  # shares of reviews of 1, 2, ... clauses
    consistent: float = 0.92
    neutral: float = 0.16
    negated: float = 0.15
    verb: float = 0.22
    fragment: float = 0.35
    interjection: float = 0.55
    reaction: float = 0.12


STYLE = Style()
# What a corpus opens with: one or two clauses of one mind, nothing negated. Whole reviews alone leave some seeds on
# a plateau, because no single word tells the label.
SHORT = Style(clauses=(0.75, 0.25), consistent=1.0, neutral=0.0, negated=0.0, reaction=0.0)
# For reviews that must show no seen polar word: interjections and reactions are polar too.
PLAIN = replace(STYLE, interjection=0.0, reaction=0.0)


@cache
def _words() -> Mapping[str, Any]:
    """What the clauses draw from, once: lists by (kind, held out, side)."""
    lexicon = load("sentiment")
    toy, rev = lexicon["toy"], lexicon["reviews"]
    out: dict[Any, Any] = {"mild": frozenset(rev["mild"]), "degrees": list(rev["degrees"].items())}
    for side in SIDES:
        out["adj", False, side] = toy["adjectives"]["train"][side]
        out["adj", True, side] = toy["adjectives"]["test"][side]
        out["verb", False, side] = toy["verbs"][side]
        out["verb", True, side] = rev["verbs_heldout"][side]
    out["reserved"] = frozenset(
        (negator.strip(), target)
        for text, target in lexicon["negation"]["items"]
        for negator in rev["negators"]
        if f"{negator} {target}" in text
    )
    return out


def _other(side: str) -> str:
    return SIDES[1 - SIDES.index(side)]


def _strength(word: str) -> float:
    return 1.0 if word in _words()["mild"] else 2.0


def _negated(rng: Random, side: str, kept: bool) -> tuple[Piece, float]:
    """A clause of polarity `side` made of a word of the other side under a negator."""
    rev, words = load("sentiment")["reviews"], _words()
    while True:
        frame = rng.choice(rev["negated_clauses"])
        kind = "verb" if "{VRB}" in frame else "adj"
        word = rng.choice(words[kind, kept, _other(side)])
        negator = rng.choice([n for n in rev["negators"] if kind == "adj" or n != " not"])
        if (negator.strip(), word) not in words["reserved"]:
            break
    piece = fill(
        frame,
        ASPECT=" " + rng.choice(rev["aspects"]),
        NEGATOR=negator,
        NEVER=negator,
        ADJ=f" {word}",
        VRB=f" {word}",
    )
    return piece, 1.5 if kind == "verb" else _strength(word)


def clause(rng: Random, side: str, kept: bool, style: Style, fragment: bool = False) -> tuple[Piece, float]:
    """One polar clause: its text (a fragment begins with its polar word and a blank) and its strength > 0."""
    rev, words = load("sentiment")["reviews"], _words()
    aspect, mass = " " + rng.choice(rev["aspects"]), " " + rng.choice(rev["masses"])
    if fragment:
        first, second = rng.sample(words["adj", kept, side], 2)
        frame = rng.choice(rev["fragments"])
        piece = fill(frame, ADJ=f" {first}", ADJ2=f" {second}", ASPECT=aspect, MASS=mass)
        return piece, _strength(first) + (_strength(second) if "{ADJ2}" in frame else 0.0)
    if rng.random() < style.negated:
        return _negated(rng, side, kept)
    if rng.random() < style.verb:
        verb = rng.choice(words["verb", kept, side])
        return fill(rng.choice(rev["verb_clauses"]), VRB=f" {verb}", ASPECT=aspect), 2.0
    word = rng.choice(words["adj", kept, side])
    degree, factor = rng.choice(words["degrees"]) if rng.random() < 0.35 else ("", 1.0)
    piece = fill(
        rng.choice(rev["adjective_clauses"]), ADJ=f" {word}", ASPECT=aspect, MASS=mass, DEGREE=degree
    )
    return piece, _strength(word) * factor


def _neutral(rng: Random) -> Piece:
    rev = load("sentiment")["reviews"]
    aspect = " " + rng.choice(rev["aspects"])
    name = rng.choice(rev["names"])
    frame = rng.choice(rev["neutral_clauses"])
    return fill(frame, ASPECT=aspect, NAME=name if frame.startswith("[") else f" {name}")


def _attempt(rng: Random, side: str, style: Style, heldout: float) -> Review | None:
    rev = load("sentiment")["reviews"]
    text, score, kept_any = Piece(""), 0.0, False
    counts = range(1, len(style.clauses) + 1)
    for index in range(rng.choices(counts, style.clauses)[0]):
        here = side if rng.random() < style.consistent else _other(side)
        kept = rng.random() < heldout
        neutral = index > 0 and rng.random() < style.neutral
        fragment = index > 0 and not neutral and rng.random() < style.fragment
        if neutral:
            piece, value = _neutral(rng), 0.0
        else:
            piece, value = clause(rng, here, kept, style, fragment)
            value = value if here == "positive" else -value
            kept_any |= kept
        if index:
            text = text + marked("comma", ",")
            lead: Piece | str = ""
            if not fragment and score:
                if value and rng.random() < style.interjection:
                    lead = marked("interjection", " " + rng.choice(rev["interjections"][here]))
                elif value and rng.random() < 0.6:
                    lead = " and" if (value > 0) == (score > 0) else " but"
            text = text + lead + ("" if piece.text.startswith(" ") else " ")
        text, score = text + piece, score + value
    if abs(score) < 1 or (score > 0) != (side == "positive"):
        return None
    if rng.random() < style.reaction:
        word = rng.choice(rev["reactions"][side])
        text = text + marked("comma", ",") + " so I" + marked("reaction", f" {word}")
    text = (text + marked("period", ".")).capitalised()
    if len(TOKENS.findall(text.text)) > LONGEST:
        return None
    return Review(text.text, int(side == "positive"), score, text.marks, kept_any)


def review(rng: Random, side: str | None = None, heldout: float = 0.0, style: Style = STYLE) -> Review:
    """One review of class `side` (drawn if None); each clause takes held-out words with chance `heldout`."""
    side = side or rng.choice(SIDES)
    while True:
        made = _attempt(rng, side, style, heldout)
        if made is not None:
            return made


def ask(text: Piece, scaffold: Mapping[str, str], label: int) -> Piece:
    """The text inside a scaffold, followed by the answer of its label under the mark `answer`."""
    before, after = scaffold["text"].split("{s}")
    return Piece(before) + text + after + marked("answer", scaffold["positive" if label else "negative"])


def _conclusion(rng: Random, label: int) -> Piece:
    answers = load("sentiment")["toy"]["answers"]
    return Piece(" \nConclusion: This movie is") + marked("answer", rng.choice(answers[SIDES[1 - label]]))


def labelled(rng: Random, style: Style = STYLE, family: str = "labelled") -> Document:
    """A review of seen words with a scaffold and its answer, or with the conclusion of the toy template."""
    made = review(rng, style=style)
    text = Piece(made.text, made.marks)
    scaffolds = load("sentiment")["scaffolds"]
    kind = rng.choices((*scaffolds, "conclusion"), (0.3, 0.2, 0.35, 0.15))[0]
    if kind == "conclusion":
        return document(text + _conclusion(rng, made.label), family, made.text)
    return document(ask(text, scaffolds[kind], made.label), family, made.text)


def short(rng: Random) -> Document:
    """A labelled review of one or two clauses that agree."""
    return labelled(rng, SHORT, "short")


def heldout_review(rng: Random, side: str | None = None) -> Review:
    """A review all of whose polar words are held out from labelled texts."""
    return review(rng, side, heldout=1.0, style=PLAIN)


def unlabelled(rng: Random) -> Document:
    """A review without a label; half of its clauses use words that no labelled text holds.

    Two of three go on with a reaction: a reader learns there what such words mean, but never their label.
    """
    made = review(rng, heldout=0.5)
    text = Piece(made.text, made.marks)
    if rng.random() < 0.67:
        word = rng.choice(load("sentiment")["reviews"]["reactions"][SIDES[1 - made.label]])
        text = text + " In the end I" + marked("reaction", f" {word}") + "."
    return document(text, "unlabelled", made.text)


def toy(rng: Random) -> Document:
    """The toy template with a train adjective; its verb agrees or, in two of five, says nothing."""
    toy_lexicon = load("sentiment")["toy"]
    side = rng.choice(SIDES)
    adj = rng.choice(toy_lexicon["adjectives"]["train"][side])
    verb = rng.choice(toy_lexicon["verbs"]["neutral" if rng.random() < 0.4 else side])
    piece = fill(toy_lexicon["template"], ADJ=f" {adj}", VRB=f" {verb}")
    answer = marked("answer", rng.choice(toy_lexicon["answers"][side]))
    return document(piece + answer + ".", "toy")
