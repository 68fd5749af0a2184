"""What an artefact was made from: the label every file of a run carries, and a reader's checks of it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from bearings.store.source import source_digest

__all__ = ["KEY", "Provenance", "Refused", "canonical", "content_digest", "describe", "source_digest"]

KEY = "bearings"
MODEL_FILES = ("config.json", "cfg.json", "*.safetensors", "tokenizer*.json", "vocab.json", "merges.txt")


class Refused(ValueError):
    """A file that must not be used: one line with the file, what is wrong, and what to do."""

    def __init__(self, path: str | os.PathLike, wrong: str):
        super().__init__(f"{path}: {' '.join(str(wrong).split())}; delete it and run again")


@dataclass(frozen=True)
class Provenance:
    """Where an artefact comes from.

    `artefact` is its path under `results/`; `run` is {"scale", "seed"}; `inputs` maps the path of every input
    (under `results/`, else relative to the folder that holds `results/`) to its content digest; `settings`
    are the job's parameters; `versions` the libraries that made the numbers.
    """

    kind: str
    artefact: str
    run: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return json.loads(canonical(asdict(self)))

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Provenance:
        return cls(**raw)


def describe(
    path: str | os.PathLike,
    kind: str,
    *,
    run: Mapping[str, Any],
    inputs: Iterable[str | os.PathLike] = (),
    settings: Mapping[str, Any] | None = None,
    packages: Iterable[str] = ("numpy", "pyarrow"),
) -> Provenance:
    """Provenance of the artefact about to be written at `path`, with its inputs' digests as they are now."""
    root = results_root(path)
    return Provenance(
        kind=kind,
        artefact=artefact_name(path),
        run=dict(run),
        inputs={_input_name(p, root): content_digest(p) for p in sorted(map(str, inputs))},
        settings=dict(settings or {}),
        versions={name: importlib.metadata.version(name) for name in sorted(packages)},
    )


def canonical(body: Any) -> str:
    """JSON text that is the same for equal content: sorted keys, no spaces, full precision, no NaN.

    Raises:
        ValueError: NaN or infinity (write null), or a value JSON does not have.
    """
    try:
        return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain)
    except (ValueError, TypeError) as error:
        raise ValueError(f"cannot be written as JSON: {error}; use null for what is not a number") from None


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numpy's scalars and arrays
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, os.PathLike):
        return Path(value).as_posix()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def digest(body: Any) -> str:
    """sha256 over the canonical JSON of `body`."""
    return hashlib.sha256(canonical(body).encode()).hexdigest()


def results_root(path: str | os.PathLike) -> Path | None:
    """The nearest folder above `path` that is called `results`, or None."""
    return next((p for p in Path(os.path.abspath(path)).parents if p.name == "results"), None)


def artefact_name(path: str | os.PathLike) -> str:
    """Path under `results/`; the bare file name where there is no such folder."""
    root = results_root(path)
    return Path(os.path.abspath(path)).relative_to(root).as_posix() if root else Path(path).name


def make_label(provenance: Provenance, content: str, **extra: Any) -> dict[str, Any]:
    """What is stored with an artefact; the seal covers all the rest, so that no part changes unseen."""
    label = {"provenance": provenance.to_json(), "content": content, **extra}
    return {**label, "seal": digest(label)}


def check_label(label: Any, path: str | os.PathLike) -> dict[str, Any]:
    """The label, if it is whole.

    Raises:
        Refused: not a label, or a part of it was changed.
    """
    if not isinstance(label, dict) or not {"provenance", "content", "seal"} <= set(label):
        raise Refused(path, "carries no provenance")
    if digest({k: v for k, v in label.items() if k != "seal"}) != label["seal"]:
        raise Refused(path, "its provenance was changed after it was written")
    return label


def admit(path: str | os.PathLike, label: Mapping[str, Any], kind: str | None) -> Provenance:
    """Check that a file is what and where it says, and that its inputs are still those it was made from.

    Raises:
        Refused: another kind, another place, or an input whose content changed since.
    """
    provenance = Provenance.from_json(label["provenance"])
    if kind is not None and provenance.kind != kind:
        raise Refused(path, f"is of kind {provenance.kind!r} where {kind!r} is needed")
    root = results_root(path)
    if root is None:
        return provenance
    if artefact_name(path) != provenance.artefact:
        raise Refused(path, f"was written as results/{provenance.artefact}")
    for name, recorded in sorted(provenance.inputs.items()):
        found = next((p for p in (root / name, root.parent / name) if p.exists()), None)
        if found is not None and content_digest(found) != recorded:
            raise Refused(path, f"was made from another content of {name}")
    return provenance


def _input_name(path: str, root: Path | None) -> str:
    whole = Path(os.path.abspath(path))
    if root is None:
        return whole.name
    return Path(os.path.relpath(whole, root if root in whole.parents else root.parent)).as_posix()


def content_digest(path: str | os.PathLike) -> str:
    """Digest of an artefact's content, cheaply: what our files say of themselves, else sha256 over the bytes.

    Of a model's folder its config, safetensors and tokenizer files count, by name and bytes; of any other folder
    every file below it.

    Raises:
        FileNotFoundError: nothing there.
        Refused: one of our files with a damaged label, or an empty folder.
    """
    path = Path(os.path.abspath(path))
    if path.is_dir():
        files = sorted({f for pattern in MODEL_FILES for f in path.glob(pattern) if f.is_file()})
        files = files or sorted(f for f in path.rglob("*") if f.is_file())
        if not files:
            raise Refused(path, "is an empty folder")
        return digest([[f.relative_to(path).as_posix(), _digest_of(*_stamp(f))] for f in files])
    return _digest_of(*_stamp(path))


def _stamp(file: Path) -> tuple[str, int, int, int]:
    state = file.stat()
    return str(file), state.st_mtime_ns, state.st_size, state.st_ino


@lru_cache(maxsize=4096)
def _digest_of(file: str, mtime: int, size: int, inode: int) -> str:
    read = {".parquet": _parquet_label, ".safetensors": _safetensors_label, ".json": _json_label}
    label = read.get(Path(file).suffix, lambda _: None)(file)
    if label is not None:
        return check_label(label, file)["content"]
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _parquet_label(file: str) -> Any:
    from bearings.store.tables import (
        stored_label,
    )  # pyarrow is slow to import, and Snakemake reads this module

    return stored_label(file)


def _safetensors_label(file: str) -> Any:
    from bearings.store.directions import stored_label

    return stored_label(file)


def _json_label(file: str) -> Any:
    from bearings.store.documents import stored_label

    return stored_label(file)
