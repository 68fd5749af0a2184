"""Shared runs: `finished` is one run of the reduced world that many tests read; who changes anything asks for a
`copy_of` it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from runs import TARGETS, WORLD, Folder, copy_repository


@pytest.fixture
def clone(root: Path, tmp_path: Path) -> Folder:
    """A fresh copy in which nothing has run."""
    return Folder(copy_repository(root, tmp_path / "clone"))


@pytest.fixture(scope="session")
def shared_runs(
    root: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[dict[str, tuple[Folder, subprocess.Popen[bytes]]]]:
    """The shared runs, started side by side: one on 8 cores and, if a test asks for it, one on 1."""
    wanted = {"finished": ("8", "1")}
    if any("on_one_core" in getattr(item, "fixturenames", ()) for item in request.session.items):
        wanted["on_one_core"] = ("1", "271828")
    started = {}
    for name, (cores, hash_seed) in wanted.items():
        folder = Folder(
            copy_repository(root, tmp_path_factory.mktemp(name) / "bearings"), {"PYTHONHASHSEED": hash_seed}
        )
        started[name] = folder, folder.start(*TARGETS, *WORLD, "--cores", cores)
    yield started
    for _, process in started.values():
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(folder: Folder, process: subprocess.Popen[bytes]) -> Folder:
    code = process.wait(timeout=1800)
    assert code == 0, (folder.path / "run.log").read_text()[-4000:]
    return folder


@pytest.fixture(scope="session")
def finished(shared_runs) -> Folder:
    """A finished run of the reduced world. Read only: it is everybody's."""
    return _wait(*shared_runs["finished"])


@pytest.fixture(scope="session")
def on_one_core(shared_runs) -> Folder:
    """The same world, run on one core, under another hash seed, in another folder."""
    return _wait(*shared_runs["on_one_core"])


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Folder], Folder]:
    """A copy of a folder with its times and Snakemake's records, to be damaged at will."""

    def copy(folder: Folder) -> Folder:
        shutil.copytree(folder.path, tmp_path / "copy", symlinks=True)
        return Folder(tmp_path / "copy", dict(folder.env))

    return copy
