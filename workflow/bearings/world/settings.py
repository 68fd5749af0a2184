"""Settings: frozen dataclasses read from YAML, strict about their keys, and directories that appear whole."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, Self


class Strict:
    """Mixin for frozen dataclasses: `from_dict` refuses keys the class does not know."""

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Settings from a mapping; lists become tuples. Raises ValueError naming an unknown key."""
        known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
        unknown = sorted(set(content) - set(known))
        if unknown:
            raise ValueError(f"{cls.__name__}: unknown key '{unknown[0]}'; known: {', '.join(known)}")
        return cls(**{key: tuple(v) if isinstance(v, list) else v for key, v in content.items()})


@contextmanager
def whole_directory(out_dir: str | Path) -> Iterator[Path]:
    """A temporary directory that takes the place of `out_dir` only once all of it is written."""
    target = Path(out_dir)
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield staged
        staged.chmod(0o755)  # mkdtemp keeps others out; a model directory is no secret
        shutil.rmtree(target, ignore_errors=True)
        os.replace(staged, target)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
