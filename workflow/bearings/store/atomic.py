"""Whole files or none: what a writer makes gets its final name only once it is safely on disk."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def replacing(path: str | os.PathLike, directory: bool = False) -> Iterator[Path]:
    """Give a temporary name beside `path`; on success move it there, on failure remove it.

    The folder of `path` is made if need be. With `directory`, the temporary name is an empty folder that
    takes the place of the whole folder `path`.

    Raises:
        FileNotFoundError: the block ended without writing the file.
        OSError: as raised inside the block; where the disk is full, with one line saying how many bytes were
            written and how many are free.
    """
    path = Path(os.path.abspath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    temporary = path.parent / f".{path.name}.{_host()}-{os.getpid()}.part"
    try:
        if directory:
            temporary.mkdir()
        yield temporary
        _sync(temporary)
        _move(temporary, path) if directory else os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        written = _size(temporary)
        _remove(temporary)
        if _is_full(error):
            raise OSError(error.errno or errno.ENOSPC, _full(path, written)) from error
        raise


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file (UTF-8, no newline translation) atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", socket.gethostname())


def _sweep(path: Path) -> None:
    """Remove what killed writers of the same file left; a writer that still lives keeps its own."""
    own = re.compile(rf"\.{re.escape(path.name)}\.{_host()}-(\d+)\.part")
    for entry in path.parent.iterdir():
        match = own.fullmatch(entry.name)
        if match and not _alive(int(match[1])):
            _remove(entry)
    aside = path.parent / f".{path.name}.aside"
    if aside.exists():
        _remove(aside)


def _alive(pid: int) -> bool:
    # A live process of this very number is this writer again, and one process writes a file once at a time.
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _move(temporary: Path, path: Path) -> None:
    """A folder cannot replace a full folder in one step, so the old one steps aside first."""
    aside = path.parent / f".{path.name}.aside"
    if path.exists():
        os.replace(path, aside)
    os.replace(temporary, path)
    if aside.exists():
        _remove(aside)


def _sync(path: Path) -> None:
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        with open(file, "rb") as stream:
            os.fsync(stream.fileno())
    if path.is_dir():
        for folder in [*(p for p in path.rglob("*") if p.is_dir()), path]:
            _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(f.stat().st_size for f in files if f.is_file())


def _is_full(error: BaseException) -> bool:
    # Arrow's and safetensors' errors do not always carry the number, but they do carry the system's words.
    words = any(os.strerror(number) in str(error) for number in NO_ROOM)
    return getattr(error, "errno", None) in NO_ROOM or (isinstance(error, Exception) and words)


def _full(path: Path, written: int) -> str:
    free = shutil.disk_usage(path.parent).free
    return (
        f"no room for {path.name}: it needs more than the {written} bytes written, {free} bytes are free in "
        f"{path.parent.name}/ (or a file-size limit is set); make room and run the same command again"
    )
