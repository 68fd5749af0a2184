"""The study of relations on the reduced world: every stage runs, and a model that knows nothing is said to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from runs import SEED, WORLD, Folder, copy_repository

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A run of this study alone."""
    made = Folder(copy_repository(root, tmp_path_factory.mktemp("lrc") / "bearings"))
    only = ("--config", "studies=[lrc]")
    done = made.snakemake("lrc", "results/claims.json", *WORLD, *only, "--cores", "8")
    assert done.returncode == 0, done.stdout[-4000:]
    return made


def test_nothing_is_measured_where_nothing_is_known_and_the_counts_say_so(folder: Folder) -> None:
    path = folder.path / SEED / "claims/world-relations/lrc.json"
    entries = json.loads(path.read_text())["body"]["entries"]
    verdicts = {name: entry["verdict"] for name, entry in entries.items()}
    assert verdicts["main.lrc.acc.llama2"] == "not measurable"
    assert "0 of " in entries["main.lrc.acc.llama2"]["reason"]
    assert "holds" not in verdicts.values()


def test_every_prompt_is_in_the_filters_table(folder: Folder) -> None:
    import pyarrow.parquet as pq

    root = folder.path / SEED
    table = pq.read_table(root / "interventions/world-relations/lrc/filter.parquet").to_pandas()
    for name in ("train", "test"):
        prompts = pq.read_table(root / f"prompts/world-relations/lrc/{name}.parquet").to_pandas()
        assert set(table[table["set"] == name]["prompt"]) == set(prompts["id"])
    # One-to-one relations have no test prompt at all.
    assert set(table[table["set"] == "test"]["relation"]) < set(table[table["set"] == "train"]["relation"])


def test_every_figure_is_drawn_all_the_same(folder: Folder) -> None:
    figures = {p.stem for p in (folder.path / SEED / "figures/lrc").glob("*.png")}
    assert figures == {"main", "per_relation", "rank", "layers", "beta", "samples", "counts"}
