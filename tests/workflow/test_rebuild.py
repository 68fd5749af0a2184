"""What a change makes run again, and what it leaves alone: dry runs on copies of one finished run."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from runs import SEED, TARGETS, WORLD, Folder, counts, outputs

pytestmark = pytest.mark.slow

STUDY = "workflow/bearings/studies/sentiment"
BELOW_MEASURES = {"measures", "judge", "claims", "figures"}


def edit(file: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / file
        text = path.read_text()
        assert text.count(old) == 1, f"{file} has {text.count(old)} times {old!r}"
        path.write_text(text.replace(old, new))

    return change


def append(file: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with open(folder / file, "a") as stream:
            stream.write("\n# one more line\n")

    return change


def touch(*patterns: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        touched = [p for pattern in patterns for p in folder.glob(pattern)]
        assert touched
        for path in touched:
            path.touch()

    return change


def first_tolerance(folder: Path) -> None:
    path = folder / STUDY / "claims.yaml"
    text, n = re.subn(
        r"tolerance: \{absolute: [0-9.]+,", "tolerance: {absolute: 0.0123,", path.read_text(), count=1
    )
    assert n == 1
    path.write_text(text)


def forget(folder: Path) -> None:
    shutil.rmtree(folder / ".snakemake")


# Event -> exactly the rules that run again.
EVENTS: dict[str, tuple[Callable[[Path], None], set[str]]] = {
    "nothing": (lambda folder: None, set()),
    "scripts and modules touched": (
        touch("workflow/scripts/*.py", "workflow/bearings/**/*.py", "Snakefile", "workflow/rules/*.smk"),
        set(),
    ),
    "a line of steering.py": (append(f"{STUDY}/steering.py"), {"interventions", *BELOW_MEASURES}),
    "a line of measure.py": (append(f"{STUDY}/measure.py"), BELOW_MEASURES),
    "a line of draw.py": (append(f"{STUDY}/draw.py"), {"figures"}),
    "a line of fit.py": (append(f"{STUDY}/fit.py"), {"directions", "interventions", *BELOW_MEASURES}),
    "a line of the judge": (append("workflow/bearings/evidence/verdicts.py"), {"judge", "claims"}),
    "resamples": (edit(WORLD[1], "resamples: 100", "resamples: 101"), BELOW_MEASURES),
    "samples of steering": (edit(WORLD[1], "samples: 2", "samples: 3"), {"interventions", *BELOW_MEASURES}),
    "a tolerance": (first_tolerance, {"judge", "claims"}),
    "a record of another seed": (
        lambda folder: shutil.copytree(
            folder / SEED / "claims", folder / SEED.replace("-0", "-1") / "claims"
        ),
        {"claims"},
    ),
    "results without Snakemake's records": (forget, set()),
}


@pytest.fixture
def changed(finished, copy_of) -> Folder:
    return copy_of(finished)


@pytest.mark.parametrize("event", EVENTS)
def test_exactly_what_depends_on_a_change_runs_again(changed, event: str) -> None:
    change, expected = EVENTS[event]
    change(changed.path)
    assert set(changed.planned(*TARGETS, *WORLD)) == expected


def test_an_experiments_setting_runs_that_experiment_alone(changed) -> None:
    edit(WORLD[1], "samples: 2", "samples: 3")(changed.path)
    done = changed.snakemake("-n", *TARGETS, *WORLD, "--quiet", "host")
    again = {f for f in outputs(done.stdout) if "/interventions/" in f}
    models = ("world-sentiment", "world-sentiment-twin")
    assert again == {f"{SEED}/interventions/{m}/sentiment/steering.parquet" for m in models}


def test_what_a_clone_brings_does_not_pass_for_a_finished_run(changed, finished) -> None:
    results = changed.path / "results"
    shutil.rmtree(results)
    for name in ("claims.json", "claims.md"):
        results.mkdir(exist_ok=True)
        shutil.copy(finished.path / "results" / name, results / name)
    for folder in ("claims", "figures"):
        shutil.copytree(finished.path / SEED / folder, changed.path / SEED / folder)
    for folder in (".snakemake", "logs", "benchmarks"):
        shutil.rmtree(changed.path / folder)
    from_nothing = (finished.path / "run.log").read_text()
    assert changed.planned(*TARGETS, *WORLD) == counts(from_nothing)
    everything = changed.planned(*WORLD)
    assert everything == {**counts(from_nothing), "verdict": 1}
