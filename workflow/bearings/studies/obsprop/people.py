"""Names of both genders and politicians of both parties: read from their files and checked (protocol section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bearings.studies.obsprop.fields import get, read_json, texts

MIXED = "share_of_other_gender_above_0.05"


@dataclass(frozen=True)
class Names:
    """Names of both genders, as many of each; `mixed` ones are often of the other gender too."""

    female: tuple[str, ...]
    male: tuple[str, ...]
    mixed: frozenset[str]
    held_out: frozenset[str]


@dataclass(frozen=True)
class Politicians:
    """Persons by party; the first `train` of each list are for training. `template` has one `{}`."""

    template: str
    democrats: tuple[str, ...]
    republicans: tuple[str, ...]
    train: int


def read_names(path: str | Path) -> Names:
    """The names of a JSON file: as many female as male ones, each once. Raises ValueError in one line."""
    path, raw = Path(path), read_json(path)
    female, male = (texts(path, raw, gender) for gender in ("female", "male"))
    if len(female) != len(male):
        raise ValueError(f"{path}: 'female' has {len(female)} names, 'male' {len(male)}; they go in pairs")
    twice = sorted({n for n in female + male if (female + male).count(n) > 1})
    if twice:
        raise ValueError(f"{path}: 'female' and 'male' name {twice[0]!r} twice")
    extra = {}
    for key in (MIXED, "held_out"):
        found = raw.get(key, [])
        if not isinstance(found, list | Mapping) or not all(name in female + male for name in found):
            raise ValueError(f"{path}: '{key}' is {str(found)[:40]!r}; must hold names of the lists")
        extra[key] = frozenset(found)
    return Names(female, male, *extra.values())


def read_politicians(path: str | Path) -> Politicians:
    """The politicians of a JSON file. Raises ValueError in one line."""
    path, raw = Path(path), read_json(path)
    template = get(path, raw, "template", str)
    if template.count("{}") != 1:
        raise ValueError(f"{path}: 'template' is {template[:60]!r}; must be a text with one {{}}")
    parties = [texts(path, raw, party) for party in ("democrats", "republicans")]
    train = get(path, raw, "train_per_party", int)
    if not 0 < train < min(map(len, parties)):
        raise ValueError(f"{path}: 'train_per_party' is {train}; must leave some of each list for testing")
    return Politicians(template, *parties, train)
