"""What goes wrong on real machines: runs are killed, files are damaged or put in the wrong place, jobs fail."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import (
    SEED,
    TARGETS,
    WORLD,
    Folder,
    assert_same,
    contents,
    copy_repository,
    killed_at_end,
    until,
)

MODEL, TWIN = "world-sentiment", "world-sentiment-twin"


def kill_group(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bytes_after_the_same_command(root, tmp_path, finished) -> None:
    """Twice kill -9 of the whole process group, then the very same command: no --unlock, no --rerun-incomplete."""
    folder = Folder(copy_repository(root, tmp_path / "killed"), {"PYTHONHASHSEED": "3"})
    moments = random.Random()
    command = (*TARGETS, *WORLD, "--cores", "8")
    log = folder.path / "run.log"

    first = folder.start(*command)
    with killed_at_end(first):
        until(lambda: log.exists() and " steps (" in log.read_text(), first)
        second = folder.snakemake(*command)
        assert second.returncode != 0
        assert (
            len(re.findall(r"^another run \(process \d+\) is at work in this folder", second.stdout, re.M))
            == 1
        )
        assert first.poll() is None, "a second run must not disturb the first"
        pause = moments.uniform(0, 8)
        time.sleep(pause)
        kill_group(first)

    outcomes = folder.path / SEED / "interventions"
    third = folder.start(*command)
    with killed_at_end(third):
        until(lambda: bool(list(outcomes.rglob("*.parquet"))), third)
        late = moments.uniform(0, 8)
        time.sleep(late)
        assert third.poll() is None, "the run ended before it was to be killed"
        kill_group(third)

    done = folder.snakemake(*command)
    assert done.returncode == 0, f"killed after {pause:.2f} s and {late:.2f} s\n{done.stdout[-4000:]}"
    assert_same(contents(finished.path), contents(folder.path))
    assert not list(folder.path.glob("results/**/*.part")), "a killed writer's file was never swept away"


JOB = """
import sys, time
sys.path.insert(0, sys.argv[1])
import _job
_job._die_with_run()
print("up", flush=True)
time.sleep(60)
"""
RUN = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", *sys.argv[1:]], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(
    sys.platform != "linux", reason="jobs outlive a killed run where the kernel cannot tell them"
)
def test_a_job_does_not_outlive_its_run(root: Path) -> None:
    command = [sys.executable, "-c", RUN, JOB, str(root / "workflow/scripts")]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    job = int(run.stdout.readline())
    os.kill(job, 0)
    run.kill()
    run.wait()
    run.stdout.close()
    end = time.monotonic() + 10
    while _lives(job) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _lives(job)


def _lives(pid: int) -> bool:
    """A process that is there and no mere entry that nobody has collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def flip(path: Path) -> None:
    """Turn one bit in the middle of a file; size and times stay, so that Snakemake sees nothing."""
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


# Kind -> the damaged file, a file made from it, and the rule that reads it.
DAMAGED = {
    "activations": (
        f"{SEED}/activations/{MODEL}/sentiment/toy.parquet",
        f"{SEED}/directions/{MODEL}/sentiment/mean_diff.safetensors",
        "directions",
    ),
    "directions": (
        f"{SEED}/directions/{MODEL}/sentiment/kmeans.safetensors",
        f"{SEED}/interventions/{MODEL}/sentiment/neurons.parquet",
        "interventions",
    ),
    "measures": (
        f"{SEED}/measures/{MODEL}/sentiment.json",
        f"{SEED}/claims/{MODEL}/sentiment.json",
        "judge",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", DAMAGED)
def test_a_flipped_bit_is_refused_and_deleting_the_file_repairs_it(finished, copy_of, kind: str) -> None:
    folder = copy_of(finished)
    damaged, made, rule = DAMAGED[kind]
    flip(folder.path / damaged)
    done = folder.snakemake(made, *WORLD, "--cores", "1", "--force")
    assert done.returncode != 0
    refused(done.stdout, rule, damaged)
    log = folder.path / "logs" / made.removesuffix(Path(made).suffix)
    text = log.with_suffix(".log").read_text() if rule != "judge" else judged(folder)
    assert "Traceback (most recent call last)" in text
    assert f"{Path(damaged).name}: " in text

    (folder.path / damaged).unlink()
    done = folder.snakemake(made, *WORLD, "--cores", "2")
    assert done.returncode == 0, done.stdout[-4000:]
    for file in (damaged, made):
        assert (folder.path / file).read_bytes() == (finished.path / file).read_bytes()
    if kind == "measures":  # little lies below: to the end, table and figures
        folder.build(cores=2)
        assert_same(contents(finished.path), contents(folder.path))


def judged(folder: Folder) -> str:
    return (folder.path / f"logs/{SEED}/judge/{MODEL}/sentiment.log").read_text()


def refused(said: str, rule: str, file: str) -> None:
    """One line on the terminal: the job, the file, and what to do; the traceback is for the log alone."""
    lines = [line for line in said.splitlines() if line.startswith(f"{rule}: ")]
    assert len(lines) == 1, said[-3000:]
    assert file in lines[0]
    assert lines[0].endswith("; delete it and run again")
    assert "Traceback" not in said


@pytest.mark.slow
def test_another_models_outcomes_are_refused(finished, copy_of) -> None:
    folder = copy_of(finished)
    mine, other = (folder.path / SEED / f"interventions/{m}/sentiment/neurons.parquet" for m in (MODEL, TWIN))
    shutil.copy2(other, mine)
    done = folder.snakemake(f"{SEED}/measures/{MODEL}/sentiment.json", *WORLD, "--cores", "1", "--force")
    assert done.returncode != 0
    refused(done.stdout, "measures", f"interventions/{MODEL}/sentiment/neurons.parquet")
    assert f"was written as {SEED}/interventions/{TWIN}/sentiment/neurons.parquet" in done.stdout


@pytest.mark.slow
def test_a_failing_job_says_so_in_one_line_and_keeps_its_traceback(finished, copy_of) -> None:
    folder = copy_of(finished)
    made = f"{SEED}/figures/sentiment/neurons.png"
    with open(folder.path / "workflow/bearings/studies/sentiment/draw.py", "a") as stream:
        stream.write('\n\ndef draw(figure, runs, settings):\n    raise ValueError("no ink\\nleft")\n')
    done = folder.snakemake(made, *WORLD, "--cores", "1")
    assert done.returncode != 0
    assert [line for line in done.stdout.splitlines() if "no ink" in line] == ["figures: no ink left"]
    assert "Traceback" not in done.stdout
    log = (folder.path / f"logs/{SEED}/figures/sentiment/neurons.log").read_text()
    assert "Traceback (most recent call last)" in log
    assert "ValueError: no ink" in log
