"""The study of sensitive directions on the reduced world: every stage runs on a model that has learnt nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from runs import SEED, WORLD, Folder, copy_repository

from bearings.plan import claims_of

pytestmark = pytest.mark.slow
STUDY = "sensitivity"
MODELS = ("world-mixed", "world-mixed-twin")
# Kind -> its SAEs: a ladder at the main layer, and one local SAE at each of the others.
SAES = {
    "local": {"local-0", "local-1", "local-0-early", "local-0-late"},
    "e2e": {"e2e-0", "e2e-1"},
    "e2e_ds": {"e2e_ds-0", "e2e_ds-1"},
}
# What sae-lens finds in a folder, and what it makes of ones; a process of its own, for it takes long to import.
READ = """
import json, sys, torch
from sae_lens import SAE
found = {}
for folder in sys.argv[1:]:
    sae = SAE.load_from_disk(folder)
    unit = (sae.W_dec.norm(dim=1) - 1).abs().max().item()
    found[folder] = [sae.cfg.d_in, sae.cfg.d_sae, unit, sae(torch.ones(3, sae.cfg.d_in)).isfinite().all().item()]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def folder(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A run of this study alone."""
    made = Folder(copy_repository(root, tmp_path_factory.mktemp("sensitivity") / "bearings"))
    only = ("--config", "studies=[sensitivity]")
    done = made.snakemake(STUDY, "results/claims.json", *WORLD, *only, "--cores", "8")
    assert done.returncode == 0, done.stdout[-4000:]
    return made


def body(path: Path):
    return json.loads(path.read_text())["body"]


def measures(folder: Folder, model: str) -> dict:
    return body(folder.path / SEED / f"measures/{model}/{STUDY}.json")


@pytest.mark.parametrize("model", MODELS)
def test_every_stage_runs_on_the_model_and_its_twin(folder: Folder, model: str) -> None:
    at = folder.path / SEED
    for kind in SAES:
        entries = body(at / f"saes/{model}/{STUDY}/{kind}/ladder.json")["saes"]
        assert {entry["name"] for entry in entries} == SAES[kind]
    tables = {p.stem: pd.read_parquet(p) for p in (at / f"interventions/{model}/{STUDY}").glob("*.parquet")}
    assert set(tables) == {"clean", "baselines", "errors", "features", "substitute", "quality", "single"}
    assert all(len(table) for table in tables.values())
    assert set(tables["quality"]["sae"]) == set.union(*SAES.values())
    assert set(tables["substitute"]["layer"]) == {"main", "early", "late"}
    assert tables["single"]["sequence"].nunique() == 6


@pytest.mark.parametrize("model", MODELS)
def test_identities_hold_on_any_model(folder: Folder, model: str) -> None:
    """Exactly 0: the residual replaced by itself, and what is in front of the one token that is changed (A5, A22)."""
    found = measures(folder, model)
    for name in ("setup.identity", "single.before"):
        assert found[name]["value"] == 0, name
    # The all-ones direction passes no layer norm (A6), but every other one does: the model is not dead.
    ones, iso = (found[f"base.{kind}.k201"]["value"] for kind in ("ones", "iso"))
    assert ones < 1e-5 < iso


def test_what_must_be_learnt_does_not_hold_and_what_is_exact_does(folder: Folder) -> None:
    entries = body(folder.path / SEED / f"claims/world-mixed/{STUDY}.json")["entries"]
    kinds = {claim["id"]: claim["kind"] for claim in claims_of(STUDY)}
    assert set(entries) == set(kinds)
    held = {name for name, entry in entries.items() if entry["verdict"] == "holds"}
    assert not {name for name in held if kinds[name] == "learning"}
    # Of the identities those that no sampling of four rows can move.
    assert {f"identity.{name}" for name in ("before", "ones", "substitute", "zero_length")} <= held


def test_every_figure_is_drawn_all_the_same(folder: Folder) -> None:
    figures = {p.stem for p in (folder.path / SEED / f"figures/{STUDY}").glob("*.png")}
    assert figures == {"curves", "substitution", "sparsity", "layers", "tokens", "single", "quality"}


def test_sae_lens_reads_every_sae(folder: Folder) -> None:
    paths = [p.parent for p in (folder.path / SEED / "saes").rglob("sae_weights.safetensors")]
    assert len(paths) == len(MODELS) * sum(map(len, SAES.values()))
    done = subprocess.run(
        [sys.executable, "-c", READ, *map(str, paths)],
        text=True,
        capture_output=True,
        env=folder.environment(),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for d_in, d_sae, off, finite in json.loads(done.stdout.splitlines()[-1]).values():
        assert (d_in, d_sae) == (32, 64)
        assert off < 1e-5
        assert finite
