"""Observables, templates, linearisation pairs and component paths: read from their file and checked.

Protocol section 3. Whether the words are the paper's or a made-up world's is the scale's business. What a file says
of token ids and lengths is not used: words are encoded by the model's own tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from bearings.stages.prompts import Encoder
from bearings.studies.obsprop.common import NAME_TASKS, NEEDED_OBSERVABLES, NEEDED_PAIRS, TASKS
from bearings.studies.obsprop.fields import get, read_text, texts

SLOT = "[NAME]"


@dataclass(frozen=True)
class Observable:
    """n in R^V as words: the sum of the one-hots of `positive` less that of `negative`, not normalised."""

    positive: tuple[str, ...]
    negative: tuple[str, ...]


@dataclass(frozen=True)
class Template:
    """A text with one `[NAME]`, and whether it begins with the model's start token."""

    text: str
    bos: bool


@dataclass(frozen=True)
class Linearisation:
    """The two prompts a task is linearised at: `a` of the positive class. `source` counts the start token, if any."""

    a: str
    b: str
    bos: bool
    source: int | None


@dataclass(frozen=True)
class Lists:
    """Everything of the lists' file: observables and paths by name, templates and pairs by task.

    A path is a list of components from the output down, in the file's notation (`attn13.11@3`).
    """

    observables: Mapping[str, Observable]
    templates: Mapping[str, tuple[Template, ...]]
    pairs: Mapping[str, Linearisation]
    paths: Mapping[str, tuple[str, ...]]


class Tokens(NamedTuple):
    """An observable's words as token ids; `why` says what keeps it from being used."""

    positive: tuple[int, ...]
    negative: tuple[int, ...]
    why: str = ""


def read_lists(path: str | Path) -> Lists:
    """The lists of a YAML file.

    Raises:
        ValueError: one line naming the file and the key that is missing or malformed.
    """
    path = Path(path)
    try:
        raw = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(raw, Mapping):
        raise ValueError(f"{path}: must be a mapping")
    given = get(path, raw, "observables", Mapping)
    observables = {str(n): _observable(path, given, n) for n in given}
    for name in NEEDED_OBSERVABLES:
        if name not in observables:
            raise ValueError(f"{path}: no 'observables.{name}'")
    return Lists(
        observables,
        _templates(path, get(path, raw, "templates", Mapping)),
        _pairs(path, get(path, raw, "linearisation_pairs", Mapping), observables),
        dict(_paths(path, get(path, raw, "paths", Mapping) if raw.get("paths") else {}, observables)),
    )


def token_weights(lists: Lists, encoder: Encoder) -> dict[str, Tokens]:
    """Every observable as the token ids of its words; of one with a split word, only those that are one token."""
    out = {}
    for name, words in lists.observables.items():
        sides = [[(w, token_of(encoder, w)) for w in side] for side in (words.positive, words.negative)]
        bad = [w for side in sides for w, token in side if token is None]
        why = f"observable '{name}': '{bad[0].strip()}' is not one token" if bad else ""
        out[name] = Tokens(*(tuple(t for _, t in side if t is not None) for side in sides), why)
    return out


def token_of(encoder: Encoder, word: str) -> int | None:
    """Id of a word that is one token in running text, or None.

    Without a blank in front (`woman`) it would go on the word before it, which may then be cut elsewhere; such a
    word may also stand behind a bracket.
    """
    token = encoder.word(word)
    if token is None and not word[:1].isspace():
        before, both = (encoder.encode(text, bos=False)[0] for text in ("(", f"({word}"))
        token = both[-1] if both[:-1] == before else None
    return token


def _observable(path: Path, given: Mapping[str, Any], name: str) -> Observable:
    entry = get(path, given, name, Mapping, "observables.")
    sides = [texts(path, entry, side, f"observables.{name}.") for side in ("pos", "neg")]
    both = set(sides[0]) & set(sides[1])
    if both:
        raise ValueError(f"{path}: 'observables.{name}' has {min(both)!r} on both sides")
    return Observable(*sides)


def _templates(path: Path, raw: Mapping[str, Any]) -> dict[str, tuple[Template, ...]]:
    out = {}
    for task in NAME_TASKS:
        where = f"templates.{task}."
        entry = _task(path, raw, task, "templates.")
        bos = get(path, entry, "bos", bool, where)
        items = get(path, entry, "items", list, where)
        found = []
        for i, item in enumerate(items):
            text = item.get("text") if isinstance(item, Mapping) else item
            if not isinstance(text, str) or text.count(SLOT) != 1:
                raise ValueError(f"{path}: '{where}items[{i}]' is {str(text)[:60]!r}; needs one {SLOT}")
            found.append(Template(text, bos))
        out[task] = tuple(found)
    return out


def _pairs(
    path: Path, raw: Mapping[str, Any], observables: Mapping[str, Observable]
) -> dict[str, Linearisation]:
    wanted = [task for task in TASKS if task in raw or task in NEEDED_PAIRS]
    out = {}
    for task in wanted:
        entry, where = _task(path, raw, task, "linearisation_pairs."), f"linearisation_pairs.{task}."
        if TASKS[task] not in observables:
            raise ValueError(f"{path}: no 'observables.{TASKS[task]}', which '{where[:-1]}' needs")
        a, b = (get(path, entry, key, str, where) for key in ("prompt_a", "prompt_b"))
        source = entry.get("source_position")
        if source is not None and (get(path, entry, "source_position", int, where) < 0):
            raise ValueError(f"{path}: '{where}source_position' is {source}; must be at least 0")
        out[task] = Linearisation(a, b, get(path, entry, "bos", bool, where), source)
    return out


def _task(path: Path, raw: Mapping[str, Any], task: str, where: str) -> Mapping[str, Any]:
    """A task's entry; what it observes is fixed, because the later stages know it by the task."""
    entry = get(path, raw, task, Mapping, where)
    if entry.get("observable", TASKS[task]) != TASKS[task]:
        found = entry["observable"]
        raise ValueError(f"{path}: '{where}{task}.observable' is {found!r}; must be {TASKS[task]!r}")
    return entry


def _paths(
    path: Path, raw: Mapping[str, Any], observables: Mapping[str, Observable]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Paths by name; where a name has several, each gets its number."""
    for name, given in raw.items():
        if str(name).split(".")[0] not in observables:
            raise ValueError(f"{path}: 'paths.{name}' belongs to no observable")
        several = isinstance(given, list) and given and all(isinstance(x, list) for x in given)
        for i, one in enumerate(given if several else [given]):
            if not isinstance(one, list) or not one or not all(isinstance(x, str) for x in one):
                raise ValueError(f"{path}: 'paths.{name}' is {str(one)[:60]!r}; must be a list of components")
            yield (f"{name}.{i}" if several else str(name)), tuple(one)
