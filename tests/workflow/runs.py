"""Runs of the whole workflow for tests, each in a copy of the repository, never in the repository itself."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

WORLD = ("--configfile", "tests/workflow/reduced.yaml")
TARGETS = ("sentiment", "results/claims.json")
STUDIES = ("sentiment", "lrc", "obsprop", "sensitivity", "other")  # targets that only name a study's files
SEED = "results/embedded/seed-0"
# What two runs must agree on, byte by byte; claims.json is compared apart from the time it was made.
SAME = (
    "models/*/model.safetensors",
    "directions/*/*/*.safetensors",
    "interventions/*/*/*.parquet",
    "measures/*/*.json",
    "claims/*/*.json",
    "figures/*/*.png",
)


@dataclass
class Folder:
    """A copy of the repository, and Snakemake in it with this very interpreter."""

    path: Path
    env: dict[str, str] = field(default_factory=dict)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "snakemake", *arguments]

    def environment(self) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("SNAKEMAKE_")}
        here = str(Path(sys.executable).parent)
        return {**inherited, "PATH": f"{here}{os.pathsep}{os.environ['PATH']}", **self.env}

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run to the end; stdout and stderr come together in `stdout`."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.path,
            env=self.environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start in a process group of its own; the output goes to `run.log` in the copy."""
        with open(self.path / "run.log", "ab") as log:
            return subprocess.Popen(
                self.command(*arguments),
                cwd=self.path,
                env=self.environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def build(self, cores: int = 8) -> str:
        """The whole reduced world, up to the claims table."""
        done = self.snakemake(*TARGETS, *WORLD, "--cores", str(cores))
        assert done.returncode == 0, done.stdout[-4000:]
        return done.stdout

    def planned(self, *arguments: str) -> dict[str, int]:
        """Jobs that a dry run would do, by rule, without targets that do nothing themselves."""
        done = self.snakemake("-n", *arguments)
        assert done.returncode == 0, done.stdout[-4000:]
        return counts(done.stdout)


def counts(said: str) -> dict[str, int]:
    """Snakemake's table of jobs by rule."""
    if "Nothing to be done" in said:
        return {}
    table = said.split("Job stats:")[1].split("\n\n")[0]
    rows = dict(re.findall(r"^(\w+) +(\d+)$", table, flags=re.M))
    return {rule: int(n) for rule, n in rows.items() if rule not in ("total", "all", *STUDIES)}


def outputs(said: str) -> set[str]:
    """Files that a verbose dry run would write."""
    lines = re.findall(r"^    output: (.+)$", said, flags=re.M)
    return {name.split(" (")[0] for line in lines for name in line.split(", ")}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a finished run that must be the same in another."""
    root = folder / SEED
    found = {str(p.relative_to(root)): p.read_bytes() for pattern in SAME for p in root.glob(pattern)}
    table = (folder / "results/claims.json").read_text()
    found["claims.json"] = re.sub(r'"generated": "[^"]+"', '"generated": ""', table).encode()
    return found


def assert_same(one: dict[str, bytes], other: dict[str, bytes]) -> None:
    assert sorted(one) == sorted(other)
    differing = [name for name in sorted(one) if one[name] != other[name]]
    assert not differing, f"{len(differing)} of {len(one)} files differ: {differing[:10]}"


def copy_repository(root: Path, to: Path) -> Path:
    """The repository's own files, without results, as a fresh clone with the local edits."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=root, capture_output=True, check=True
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (root / name).is_file() and not name.startswith("results/"):
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, to / name)
    return to


@contextlib.contextmanager
def killed_at_end(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Whatever a test does, no run outlives it."""
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def until(condition: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 600) -> None:
    """Wait for something to happen while a run is at work."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the run ended before it was to be killed"
        assert time.monotonic() < end, f"not reached within {seconds} s"
        time.sleep(0.1)
