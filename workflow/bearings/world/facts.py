"""Facts: made-up subjects with several attributes each, told in lists, biographies and profiles.

Who has which attribute is a constant of the world; a run's seed only draws which facts are written, and how.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from bearings.world.grammar import Document, document
from bearings.world.lexicon import Piece, load, marked
from bearings.world.settings import whole_directory

WORLD_SEED = 12345
LIST_LINES = (1, 1, 2, 3, 4, 5)  # a query stands alone, or after up to four examples


@dataclass(frozen=True)
class Fact:
    """One row of the world's table; in a random relation the object is only what is written to file."""

    relation: str
    subject: str
    object: str


def _made_up(parts: Mapping[str, list[str]], taken: set[str], rng: Random) -> list[str]:
    words = [first + second for first in parts["first"] for second in parts["second"]]
    rng.shuffle(words)
    return [word for word in words if word not in taken]


def _pairs(first: Sequence[str], last: Sequence[str], count: int, rng: Random) -> list[str]:
    """`count` distinct pairs in which every first and every last word serves equally often, to within one."""
    while True:
        ones, others = ([words[i % len(words)] for i in range(count)] for words in (first, last))
        rng.shuffle(ones)
        rng.shuffle(others)
        out = [f"{one} {other}" for one, other in zip(ones, others, strict=True)]
        if len(set(out)) == count:
            return out


@cache
def _named() -> tuple[Mapping[str, list[str]], list[str]]:
    """The subjects of each kind, and the surnames that are left over; no made-up word serves two kinds."""
    lexicon, rng = load("facts"), Random(WORLD_SEED)
    people = load("people")
    taken = set(people["parties"]["surnames"])
    pools = {name: _made_up(parts, taken, rng) for name, parts in lexicon["words"].items()}
    pools["names"] = sorted(people["names"]["female"] + people["names"]["male"])
    rng.shuffle(pools["names"])

    def words(wanted: list[str] | Mapping[str, int]) -> list[str]:
        if isinstance(wanted, list):
            return wanted
        ((pool, count),) = wanted.items()
        return [pools[pool].pop() for _ in range(count)]

    out = {}
    for kind, spec in lexicon["kinds"].items():
        last = words(spec["last"])
        out[kind] = _pairs(words(spec["first"]), last, spec["count"], rng) if "first" in spec else last
    return out, pools["surnames"]


@cache
def table() -> Mapping[str, tuple[Fact, ...]]:
    """Every fact by relation. Objects are drawn apart for each relation, each equally often to within one."""
    subjects, spare = _named()
    spare = list(spare)
    out: dict[str, tuple[Fact, ...]] = {}
    for name, relation in load("facts")["relations"].items():
        rng = Random(f"{WORLD_SEED} {name}")
        who = subjects[relation["kind"]]
        who = rng.sample(who, relation["count"]) if "count" in relation else who
        targets = relation["objects"]
        if targets == "surnames":
            targets = [spare.pop() for _ in who]
        drawn = [targets[i % len(targets)] for i in range(len(who))]
        rng.shuffle(drawn)
        out[name] = tuple(Fact(name, *pair) for pair in zip(who, drawn, strict=True))
    return out


def is_random(relation: str) -> bool:
    """Is the relation's object drawn anew each time, so that there is nothing to know?"""
    return bool(load("facts")["relations"][relation].get("random"))


@cache
def _known() -> tuple[tuple[Fact, ...], ...]:
    """The facts of each subject, without those of random relations."""
    out: dict[str, list[Fact]] = {}
    for name, rows in table().items():
        for fact in rows:
            if not is_random(name):
                out.setdefault(fact.subject, []).append(fact)
    return tuple(map(tuple, out.values()))


def templates(relation: str) -> list[str]:
    """Few-shot templates, then zero-shot ones; each ends where the object begins."""
    content = load("facts")["relations"][relation]
    return [*content["few_shot"], *content["zero_shot"]]


def stated(fact: Fact, template: str, rng: Random) -> Piece:
    """A statement of a fact, subject and answer marked; a random relation draws its object from `rng`."""
    objects = load("facts")["relations"][fact.relation]["objects"]
    target = rng.choice(objects) if is_random(fact.relation) else fact.object
    before, after = template.split("{}")
    return Piece(before) + _subject(fact) + after + marked("answer", f" {target}")


def _subject(fact: Fact) -> Piece:
    return Piece(fact.subject, (("subject", 0, len(fact.subject)),))


def _joined(pieces: Sequence[Piece], glue: str) -> Piece:
    out = pieces[0]
    for piece in pieces[1:]:
        out = out + glue + piece
    return out


def facts(rng: Random) -> Document:
    """One to five facts of one relation in one template, one a line: the format of few-shot prompts."""
    names = list(table())
    relation = rng.choices(names, [len(table()[name]) for name in names])[0]
    template = rng.choice(templates(relation))
    chosen = rng.sample(table()[relation], rng.choice(LIST_LINES))
    return document(_joined([stated(fact, template, rng) for fact in chosen], "\n"), "facts")


def _some(rng: Random, least: int) -> list[Fact]:
    """`least` to four facts of one subject, in any order."""
    known = rng.choice(_known())
    return rng.sample(known, rng.randint(least, min(4, len(known))))


def biography(rng: Random) -> Document:
    """Two to four sentences about one subject, in any order."""
    told = [stated(fact, rng.choice(templates(fact.relation)), rng) + "." for fact in _some(rng, 2)]
    return document(_joined(told, " "), "biography")


def profile(rng: Random) -> Document:
    """One to three lines, each a subject and at once, in any order, some of its attributes.

    Nothing says which relation is meant: a model has to hold all attributes ready at the subject itself.
    """
    lines = []
    for _ in range(rng.randint(1, 3)):
        told = _some(rng, 1)
        line = Piece(rng.choice(("", "Entry "))) + _subject(told[0])
        lines.append(_joined([line, *(marked("answer", f" {fact.object}") for fact in told)], ""))
    return document(_joined(lines, "\n"), "profile")


def _file_content(name: str, relation: Mapping[str, Any]) -> dict[str, Any]:
    domain, target = name.split("_")
    return {
        "name": f"{domain} {target}",
        "prompt_templates": relation["few_shot"],
        "prompt_templates_zs": relation["zero_shot"],
        "properties": {
            "relation_type": relation.get("category", "factual"),
            "domain_name": domain,
            "range_name": target,
            "symmetric": False,
        },
        "samples": [{"subject": fact.subject, "object": fact.object} for fact in table()[name]],
    }


def write_relations(path: str | Path) -> Path:
    """The relations as a directory in the format of Hernandez et al.: <category>/<name>.json, one file each.

    A random relation is written with one object per subject, of which no model can know more than chance.
    """
    with whole_directory(path) as staged:
        for name, relation in load("facts")["relations"].items():
            content = _file_content(name, relation)
            folder = staged / content["properties"]["relation_type"]
            folder.mkdir(exist_ok=True)
            text = json.dumps(content, indent=2, ensure_ascii=False)
            (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    return Path(path)
