"""JSON documents (measures, records of claims): a body with its provenance, the same bytes every time."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bearings.store.atomic import write_text
from bearings.store.provenance import (
    KEY,
    Provenance,
    Refused,
    admit,
    canonical,
    check_label,
    digest,
    make_label,
)


def write_json(path: str | os.PathLike, body: Mapping[str, Any], provenance: Provenance) -> None:
    """Write a document: sorted keys, floats in full precision, a newline at the end.

    Raises:
        ValueError: NaN or infinity in the body (write null), or a value JSON does not have.
    """
    plain = json.loads(canonical(body))
    label = make_label(provenance, digest(plain))
    write_text(path, render({"body": plain, KEY: label}))


def render(document: Any, sort_keys: bool = True) -> str:
    """The text of a JSON file as this project writes them.

    Raises:
        ValueError: NaN or infinity.
    """
    return json.dumps(document, sort_keys=sort_keys, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def read_json(path: str | os.PathLike, kind: str | None = None) -> dict[str, Any]:
    """The body of a document, verified.

    Raises:
        Refused: damaged, of another kind, from another place, or made from inputs that changed.
    """
    return read_document(path, kind)[0]


def read_document(path: str | os.PathLike, kind: str | None = None) -> tuple[dict[str, Any], Provenance]:
    """Body and provenance of a document, verified as by `read_json`."""
    document = _load(path)
    if not isinstance(document, dict) or set(document) != {"body", KEY}:
        raise Refused(path, "is no document of this project")
    label = check_label(document[KEY], path)
    if digest(document["body"]) != label["content"]:
        raise Refused(path, "its content does not match its hash")
    return document["body"], admit(path, label, kind)


def stored_label(path: str | os.PathLike) -> Any:
    """The label of one of our documents; None for any other JSON file."""
    try:
        document = _load(path)
    except Refused:
        return None  # somebody else's file, or damaged: its bytes are then its content
    ours = isinstance(document, dict) and set(document) == {"body", KEY}
    return document[KEY] if ours else None


def _load(path: str | os.PathLike) -> Any:
    try:
        return json.loads(Path(path).read_bytes().decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Refused(path, f"is not valid JSON ({error})") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
