"""Data files read key by key: what is missing or malformed is said in one line that names the file and the key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KINDS = {str: "a text", list: "a list", Mapping: "a mapping", bool: "true or false", int: "a whole number"}


def read_json(path: Path) -> Mapping[str, Any]:
    """The mapping in a JSON file."""
    try:
        raw = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(raw, Mapping):
        raise ValueError(f"{path}: must be a mapping")
    return raw


def read_text(path: Path) -> str:
    """The text of a UTF-8 file."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as text ({' '.join(str(error).split())})") from None


def texts(path: Path, raw: Mapping[str, Any], key: str, where: str = "") -> tuple[str, ...]:
    """A list of texts under a key, none of them empty; `where` is the way to the key, as errors show it."""
    found = get(path, raw, key, list, where)
    bad = [x for x in found if not isinstance(x, str) or not x.strip()]
    if bad or not found:
        raise ValueError(f"{path}: '{where}{key}' holds {str(bad[:1] or found)[:40]}; must be texts")
    return tuple(found)


def get(path: Path, raw: Mapping[str, Any], key: str, kind: type, where: str = "") -> Any:
    """What is under a key, of one of `KINDS`; texts, lists and mappings are not empty."""
    if key not in raw:
        raise ValueError(f"{path}: no '{where}{key}'")
    found = raw[key]
    wrong = not isinstance(found, kind) or (kind is int and isinstance(found, bool))
    if wrong or (kind is not bool and kind is not int and not found):
        raise ValueError(f"{path}: '{where}{key}' is {str(found)[:40]!r}; must be {KINDS[kind]}")
    return found
