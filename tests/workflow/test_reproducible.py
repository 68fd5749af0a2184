"""The same world twice, on 8 cores and on 1, in two folders and under two hash seeds: the same bytes."""

from __future__ import annotations

import time

import pytest
from runs import TARGETS, WORLD, assert_same, contents

pytestmark = pytest.mark.slow


def test_eight_cores_and_one_give_the_same_bytes(finished, on_one_core) -> None:
    assert finished.env["PYTHONHASHSEED"] != on_one_core.env["PYTHONHASHSEED"]
    one, other = contents(finished.path), contents(on_one_core.path)
    kinds = {name.split("/")[0] for name in one}
    assert kinds == {"models", "directions", "interventions", "measures", "claims", "figures", "claims.json"}
    assert sum(name.endswith(".png") for name in one) >= 9
    assert_same(one, other)


def test_a_second_run_has_nothing_to_do(finished) -> None:
    start = time.monotonic()
    done = finished.snakemake(*TARGETS, *WORLD, "--cores", "8")
    seconds = time.monotonic() - start
    assert done.returncode == 0
    assert "Nothing to be done" in done.stdout
    # It takes 2 s on two idle cores; a minute would mean that it computes.
    assert seconds < 60


def test_a_run_leaves_logs_benchmarks_and_a_report(finished) -> None:
    results = finished.path / "results"
    assert (results / "report.html").stat().st_size > 100_000
    assert (results / "claims.md").read_text().count("|") > 100
    for kind, ending in (("logs", "log"), ("benchmarks", "tsv")):
        there = list((finished.path / kind).rglob(f"*.{ending}"))
        assert len(there) >= 60, kind
    # The reduced world is never asked for its verdict: a world that learns nothing shows no claim.
    assert not (results / "embedded/seed-0/verdict.txt").exists()
