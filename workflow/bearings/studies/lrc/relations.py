"""Relations: files of subjects and objects become samples, splits by seed, and the examples shown before a query.

The format is that of Hernandez et al. (arXiv 2308.09124): `<folder>/<file>.json`, one relation each. What a relation
is called and where it belongs is said inside the file, never by the names of files and folders.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

N_SHOWN = 4


@dataclass(frozen=True)
class Sample:
    """A subject and the object it is related to, as they stand in the file, outer blanks included."""

    subject: str
    object: str


@dataclass(frozen=True)
class Relation:
    """One relation: its templates with one `{}` each, and its distinct samples in the order of the file.

    `few_shot` templates make train prompts, `zero_shot` templates test prompts; `raw` counts the samples before
    repetitions were dropped.
    """

    name: str
    category: str
    few_shot: tuple[str, ...]
    zero_shot: tuple[str, ...]
    samples: tuple[Sample, ...]
    raw: int


def read_relations(directory: str | Path) -> tuple[Relation, ...]:
    """All relations of a directory, sorted by name.

    A JSON file with neither samples nor templates is no relation and is passed over.

    Raises:
        ValueError: a malformed file, two relations of one name, or no relation at all, in one line.
    """
    found: dict[str, tuple[Relation, Path]] = {}
    for path in sorted(Path(directory).glob("*/*.json")):
        relation = _read(path)
        if relation is None:
            continue
        if relation.name in found:
            raise ValueError(f"{path}: 'name' is {relation.name!r}, as in {found[relation.name][1]}")
        found[relation.name] = relation, path
    if not found:
        raise ValueError(f"{directory}: holds no relation (<category>/<file>.json with 'samples')")
    return tuple(relation for _, (relation, _) in sorted(found.items()))


def _read(path: Path) -> Relation | None:
    """The relation of a file, or None if the file is about something else."""
    try:
        # Two strings of the published data have the backslash of an escape doubled.
        raw = json.loads(path.read_text(encoding="utf-8").replace("\\\\u", "\\u"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({' '.join(str(error).split())})") from None
    if not isinstance(raw, Mapping) or not {"samples", "prompt_templates"} & set(raw):
        return None
    properties = _get(path, raw, "properties", Mapping)
    listed = _get(path, raw, "samples", list)
    if not listed:
        raise ValueError(f"{path}: 'samples' is empty")
    samples = [_sample(path, i, entry) for i, entry in enumerate(listed)]
    return Relation(
        name=_get(path, raw, "name", str),
        category=_get(path, properties, "relation_type", str, "properties."),
        few_shot=_templates(path, raw, "prompt_templates"),
        zero_shot=_templates(path, raw, "prompt_templates_zs"),
        samples=tuple(dict.fromkeys(samples)),
        raw=len(samples),
    )


def _get(path: Path, raw: Mapping[str, Any], key: str, kind: type, where: str = "") -> Any:
    if key not in raw:
        raise ValueError(f"{path}: no '{where}{key}'")
    if not isinstance(raw[key], kind) or (kind is str and not raw[key].strip()):
        wanted = {str: "a text", list: "a list", Mapping: "a mapping"}[kind]
        raise ValueError(f"{path}: '{where}{key}' is {str(raw[key])[:40]!r}; must be {wanted}")
    return raw[key]


def _templates(path: Path, raw: Mapping[str, Any], key: str) -> tuple[str, ...]:
    templates = _get(path, raw, key, list)
    for i, t in enumerate(templates):
        if not isinstance(t, str) or t.count("{}") != 1 or (t.count("{"), t.count("}")) != (1, 1):
            raise ValueError(f"{path}: '{key}[{i}]' is {str(t)[:60]!r}; must be a text with one {{}}")
    if not templates:
        raise ValueError(f"{path}: '{key}' is empty")
    return tuple(templates)


def _sample(path: Path, number: int, entry: Any) -> Sample:
    where = f"samples[{number}]"
    if not isinstance(entry, Mapping):
        raise ValueError(f"{path}: '{where}' is {str(entry)[:40]!r}; must be a mapping")
    return Sample(*(_get(path, entry, key, str, f"{where}.") for key in ("subject", "object")))


def one_to_one(relation: Relation) -> bool:
    """Has every object one subject only? Such a relation has no test sample."""
    pairs = {(s.subject, s.object) for s in relation.samples}
    return len({o for _, o in pairs}) == len(pairs)


def at_most(relation: Relation, limit: int) -> Relation:
    """The relation with no more than `limit` samples (0: all), in file order, chosen by a hash of the pair.

    The choice hangs on neither seed nor order, so that every split is one of the same samples.
    """
    if not limit or len(relation.samples) <= limit:
        return relation
    kept = set(sorted(relation.samples, key=_hash)[:limit])
    return replace(relation, samples=tuple(s for s in relation.samples if s in kept))


def _hash(sample: Sample) -> str:
    return hashlib.sha256(f"{sample.subject}\t{sample.object}".encode()).hexdigest()


def split(relation: Relation, seed: int) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Train and test samples: per object, shuffled, the first to train and then in turns (protocol 3.2).

    The text that seeds the shuffle names the relation as the authors' code prints it, so that the splits are theirs.
    """
    printed = (
        f"Relation(name={relation.name!r}, templates={relation.few_shot!r}, "
        f"zs_templates={relation.zero_shot!r}, category={relation.category!r})"
    )
    by_object: dict[str, list[Sample]] = {}
    for sample in relation.samples:
        by_object.setdefault(sample.object, []).append(sample)
    train: list[Sample] = []
    test: list[Sample] = []
    for name, mine in by_object.items():
        Random(f"{printed}-{name}-{seed}").shuffle(mine)
        train += mine[0::2]
        test += mine[1::2]
    return tuple(train), tuple(test)


def demonstrations(
    relation: Relation, train: Sequence[Sample], query: Sample, leak: bool
) -> tuple[Sample, ...]:
    """Up to four train samples to be shown before the query (protocol 3.3), the same for every split seed.

    As published (`leak`) the query itself may be among them and give its answer away (section 5, row 1). Without leak
    whatever has the query's subject is replaced by further draws of the same generator, put last; where nothing
    leaks, both variants show the same.
    """
    rng = Random(f"{relation.name}-{query.object}-{query.subject}-42")
    drawn = rng.sample(train, min(N_SHOWN, len(train)))
    if leak:
        return tuple(drawn)
    kept = [s for s in drawn if not same_subject(s, query)]
    missing = len(drawn) - len(kept)
    if missing:
        rest = [s for s in train if s not in drawn and not same_subject(s, query)]
        kept += rng.sample(rest, min(missing, len(rest)))
    return tuple(kept)


def same_subject(one: Sample, other: Sample) -> bool:
    """Are they about the same subject, outer blanks aside?"""
    return one.subject.strip() == other.subject.strip()
