"""Grammar: families of documents, each a seeded generator over one lexicon file, mixed into a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random

from bearings.world.lexicon import Mark, Piece


@dataclass(frozen=True)
class Document:
    """One document of the corpus. Marks named `answer` are what the model is asked for.

    `review` is the review it holds, if any: a review kept for the studies must not be trained on.
    """

    text: str
    family: str
    marks: tuple[Mark, ...] = ()
    review: str = ""

    def spans(self, name: str) -> list[tuple[int, int]]:
        """Character spans (start, end) of the marks called `name`, in order."""
        return [(start, end) for mark, start, end in self.marks if mark == name]


Family = Callable[[Random], Document]

# The lexicon file that each family writes from.
LEXICON_OF: Mapping[str, str] = {
    **dict.fromkeys(("labelled", "short", "unlabelled", "toy", "mood"), "sentiment"),
    **dict.fromkeys(("facts", "biography", "profile"), "facts"),
    **dict.fromkeys(("people", "sentences", "party"), "people"),
    "code": "code",
    "narrative": "narrative",
}


def document(piece: Piece, family: str, review: str = "") -> Document:
    """A finished piece of text as a document of `family`."""
    return Document(piece.text, family, piece.marks, review)


def families() -> Mapping[str, Family]:
    """Every family by name, in a fixed order."""
    from bearings.world import facts, moods, narrative, people, programs, reviews

    return {
        "labelled": reviews.labelled,
        "short": reviews.short,
        "unlabelled": reviews.unlabelled,
        "toy": reviews.toy,
        "mood": moods.story,
        "facts": facts.facts,
        "biography": facts.biography,
        "profile": facts.profile,
        "people": people.person,
        "sentences": people.told,
        "party": people.party,
        "code": programs.program,
        "narrative": narrative.passage,
    }


def documents(mixture: Mapping[str, float], seed: int) -> Iterator[Document]:
    """Endless stream of documents; `mixture` gives each family's share of the documents.

    Raises ValueError for a family that does not exist or shares that are negative or all nought.
    """
    known = families()
    unknown = sorted(set(mixture) - set(known))
    if unknown:
        raise ValueError(f"mixture: unknown family '{unknown[0]}'; known: {', '.join(known)}")
    names = [name for name in known if mixture.get(name)]
    shares = [mixture[name] for name in names]
    if not names or min(shares) < 0:
        raise ValueError("mixture: shares must be positive, at least one of them")
    rng = Random(seed)
    while True:
        yield known[rng.choices(names, shares)[0]](rng)
