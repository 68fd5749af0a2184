"""Sparse autoencoders on disk: a folder in sae-lens format for each, and `ladder.json` that names those of a ladder.

SAEs that were trained here lie in the ladder's own folder; released ones lie where the run was told.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from bearings.store.documents import read_json, render, write_json
from bearings.store.provenance import Provenance, Refused, content_digest, digest

CONFIG, WEIGHTS, LADDER = "cfg.json", "sae_weights.safetensors", "ladder.json"


class SaeError(ValueError):
    """An SAE that cannot be used; the message is one line and names the file or key."""


@dataclass(frozen=True)
class Entry:
    """One SAE of a ladder. `level` 0 is the sparsest; `coefficient` and `l0_training` are None where unknown.

    `folder` is what ladder.json says until it is read, and then the folder itself. `sha256` is the digest of the
    folder's two files; `model` that of the language model's folder, `processing` how its weights were processed.
    """

    name: str
    kind: str
    layer: int
    level: int
    folder: str
    coefficient: float | None
    l0_training: float | None
    d_sae: int
    published: bool
    sha256: str
    model: str
    processing: str = "raw"
    revision: str | None = None


def folder_digest(folder: str | Path) -> str:
    """Digest of an SAE's two files, by name and bytes.

    Raises:
        SaeError: one of them is not there, or its header is damaged.
    """
    try:
        return digest([[name, content_digest(Path(folder) / name)] for name in (CONFIG, WEIGHTS)])
    except Refused as error:
        raise SaeError(str(error)) from None
    except OSError as error:
        raise SaeError(
            f"{error.filename}: missing; the folder of an SAE holds {CONFIG} and {WEIGHTS}"
        ) from None


def save_sae(sae: Any, folder: str | Path, metadata: Mapping[str, Any]) -> None:
    """Write a trained sae-lens SAE for inference, decoder rows folded to unit norm (`sae` is changed).

    `metadata` goes to its config. sae-lens writes the config's keys in an order that differs between processes; they
    are sorted here, so that the same SAE has the same bytes.
    """
    sae.fold_W_dec_norm()
    for key, value in metadata.items():
        sae.cfg.metadata[key] = value
    sae.save_inference_model(folder)
    path = Path(folder) / CONFIG
    path.write_text(render(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")


def write_ladder(directory: str | Path, entries: Sequence[Entry], provenance: Provenance) -> None:
    """Write `ladder.json`: the entries, in the order of layer and level."""
    ordered = sorted(entries, key=lambda e: (e.layer, e.level, e.name))
    write_json(Path(directory) / LADDER, {"saes": [asdict(e) for e in ordered]}, provenance)


def read_ladder(directory: str | Path) -> list[Entry]:
    """Entries of a ladder in the order of layer and level, their folders verified against their digests.

    Raises:
        Refused: ladder.json or the folder of an SAE trained here is damaged.
        SaeError: a released SAE's folder is not the one that was recorded.
    """
    path = Path(directory) / LADDER
    known = {f.name for f in fields(Entry)}
    entries = []
    for raw in read_json(path, "ladder")["saes"]:
        if set(raw) != known:
            raise Refused(path, f"an entry has the keys {', '.join(sorted(raw))}")
        entry = Entry(**raw)
        # A released SAE lies where the run was told; one trained here lies in the ladder's own folder.
        if not entry.published:
            entry = replace(entry, folder=str(Path(directory) / entry.folder))
        if folder_digest(entry.folder) != entry.sha256:
            wrong = "its files are not those that were recorded"
            if entry.published:
                raise SaeError(f"{entry.folder}: {wrong} for {entry.name}; fetch it again")
            raise Refused(entry.folder, wrong)
        entries.append(entry)
    return sorted(entries, key=lambda e: (e.layer, e.level, e.name))


def d_sae_of(folder: str | Path) -> int:
    """Number of features, from the header of the weights."""
    path = Path(folder) / WEIGHTS
    try:
        with safe_open(str(path), framework="pt") as stored:
            return stored.get_slice("W_dec").get_shape()[0]
    except (SafetensorError, OSError) as error:
        raise SaeError(f"{path}: cannot be read ({first_line(error)})") from None


def first_line(error: Exception) -> str:
    """The first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
