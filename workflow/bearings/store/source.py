"""What code a job runs: a hash over a script and every module of the package it can reach, never run.

Snakemake does not see an edit of an imported module; a rule that carries this hash as a parameter does.
"""

from __future__ import annotations

import ast
import hashlib
import os
from functools import lru_cache
from pathlib import Path

# Claims are a rule's input of their own: a changed tolerance judges again, it does not compute again.
NOT_CODE = {"claims.yaml"}


def source_digest(script: str | os.PathLike, package_root: str | os.PathLike) -> str:
    """sha256 over a script and all it reaches by imports, those inside functions included.

    Followed are imports of packages that lie in `package_root` (absolute and relative) and of modules beside
    the script. The YAML files of a package's folder count with the package, but for `claims.yaml`.

    Raises:
        FileNotFoundError: no such script.
        SyntaxError: a file reached does not parse; the message names it.
    """
    root = Path(os.path.abspath(package_root))
    files = reached(script, root)
    total = hashlib.sha256()
    for file in files:
        total.update(f"{os.path.relpath(file, root)}\0{_bytes_digest(*_stamp(file))}\n".encode())
    return total.hexdigest()


def reached(script: str | os.PathLike, package_root: str | os.PathLike) -> list[Path]:
    """The files behind `source_digest`, sorted: the script, its modules, their packages and data."""
    root = Path(os.path.abspath(package_root))
    first = Path(os.path.abspath(script))
    seen: set[Path] = set()
    todo = [first]
    while todo:
        file = todo.pop()
        if file in seen:
            continue
        seen.add(file)
        if file.suffix != ".py":
            continue
        for name, level in _imports(*_stamp(file)):
            todo += _files_of(name, level, file, root)
        if root in file.parents:
            todo += _packages_above(file, root)
    return sorted(seen)


def _stamp(file: Path) -> tuple[str, int, int]:
    """Key of the per-module caches: an edited file has another time or size."""
    state = file.stat()
    return str(file), state.st_mtime_ns, state.st_size


@lru_cache(maxsize=4096)
def _bytes_digest(file: str, mtime: int, size: int) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


@lru_cache(maxsize=4096)
def _imports(file: str, mtime: int, size: int) -> tuple[tuple[str, int], ...]:
    """(dotted name, relative level) of everything a file may import; `from a import b` yields a and a.b."""
    tree = ast.parse(Path(file).read_bytes(), filename=file)
    found: set[tuple[str, int]] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {(alias.name, 0) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            found.add((base, node.level))
            found |= {(f"{base}.{alias.name}".lstrip("."), node.level) for alias in node.names}
    return tuple(sorted(found))


@lru_cache(maxsize=4096)
def _files_of(name: str, level: int, importer: Path, root: Path) -> tuple[Path, ...]:
    """Files an import can mean: a module of the package or one beside the script, if any."""
    parts = [p for p in name.split(".") if p]
    if level:
        bases = [importer.parents[level - 1]]
    else:
        bases = (
            [root] if root in importer.parents and _is_package(importer.parent) else [root, importer.parent]
        )
    found = []
    for base in bases:
        target = base.joinpath(*parts)
        for file in (target.with_suffix(".py") if parts else target, target / "__init__.py"):
            if file.is_file():
                found.append(file)
    return tuple(found)


def _is_package(folder: Path) -> bool:
    return (folder / "__init__.py").is_file()


@lru_cache(maxsize=4096)
def _packages_above(file: Path, root: Path) -> tuple[Path, ...]:
    """`__init__` of every package a module sits in, and the data files of its own package's folder."""
    inside = [folder for folder in file.parents if root in folder.parents and _is_package(folder)]
    data = data_files(file.parent) if file.parent in inside else []
    return (*data, *(folder / "__init__.py" for folder in inside))


def data_files(folder: Path) -> list[Path]:
    """YAML files of a package's folder and of its subfolders that hold no module."""
    found = [p for p in folder.glob("*.yaml") if p.name not in NOT_CODE]
    for below in folder.iterdir():
        if below.is_dir() and not any(below.glob("*.py")):
            found += data_files(below)
    return found
