"""The study of observables on the reduced world: every stage runs on a model that has learnt next to nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from runs import SEED, WORLD, Folder, copy_repository

pytestmark = pytest.mark.slow
STUDY = "world-people/obsprop"


@pytest.fixture(scope="module")
def folder(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A run of this study alone."""
    made = Folder(copy_repository(root, tmp_path_factory.mktemp("obsprop") / "bearings"))
    only = ("--config", "studies=[obsprop]")
    done = made.snakemake("obsprop", "results/claims.json", *WORLD, *only, "--cores", "8")
    assert done.returncode == 0, done.stdout[-4000:]
    return made


def body(path: Path):
    return json.loads(path.read_text())["body"]


def test_identities_hold_on_any_model_and_what_must_be_learnt_does_not(folder: Folder) -> None:
    entries = body(folder.path / SEED / f"claims/{STUDY}.json")["entries"]
    import yaml

    claims = yaml.safe_load((folder.path / "workflow/bearings/studies/obsprop/claims.yaml").read_text())
    kinds = {claim["id"]: claim["kind"] for claim in claims["claims"]}
    held = {name for name, entry in entries.items() if entry["verdict"] == "holds"}
    assert not {name for name in held if kinds[name] == "learning"}


def test_measures_of_the_theorem_do_not_depend_on_the_model(folder: Folder) -> None:
    one, other = (
        body(folder.path / SEED / f"measures/{m}/obsprop.json") for m in ("world-people", "world-people-twin")
    )
    assert one["ln.theorem.d64.angle"] == other["ln.theorem.d64.angle"]


def test_every_figure_is_drawn_all_the_same(folder: Folder) -> None:
    figures = {p.stem for p in (folder.path / SEED / "figures/obsprop").glob("*.png")}
    assert figures == {"heads", "couplings", "learning", "readout", "layernorm", "tokens", "debias"}
