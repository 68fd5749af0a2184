"""Somebody else's model, one line of config: the study runs to its end and says what it cannot measure, and why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from runs import Folder, copy_repository

from bearings.evidence.claims import load_claims

pytestmark = pytest.mark.slow

OWN = "results/custom/seed-0"
REDUCED = ("--configfile", "tests/workflow/reduced.yaml", "--cores", "8")


@pytest.fixture(scope="module")
def folder(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder(copy_repository(root, tmp_path_factory.mktemp("custom") / "bearings"))


def body(path: Path) -> dict:
    return json.loads(path.read_text())["body"]


def test_a_stranger_runs_to_the_end_and_says_what_it_cannot_measure(root, shared, folder) -> None:
    """A Llama-style model whose tokenizer merges whole phrases into one token: hardly a word of the study is one."""
    model = shared / "models/tinystories-656k"
    if not model.is_dir():
        pytest.skip("../shared/models/tinystories-656k (not ours to ship) is absent")
    arguments = ("sentiment", "results/claims.json", *REDUCED, "--config", f"models=[{model.resolve()}]")
    done = folder.snakemake(*arguments)
    assert done.returncode == 0, done.stdout[-4000:]

    claims = load_claims(root / "workflow/bearings/studies/sentiment/claims.yaml").claims
    entries = body(folder.path / OWN / f"claims/{model.name}/sentiment.json")["entries"]
    assert set(entries) == {claim["id"] for claim in claims}
    assert {e["verdict"] for e in entries.values()} <= {"not measurable", "observed"}
    unmeasured = {name: e for name, e in entries.items() if e["verdict"] == "not measurable"}
    assert len(unmeasured) > len(entries) / 2
    for name, entry in unmeasured.items():
        assert entry["reason"].strip(), name
        assert "no measure named" not in entry["reason"], f"{name}: {entry['reason']}"
    assert "single token" in entries["directions.similarity"]["reason"]

    for name in (model.name, f"{model.name}-twin"):
        usable = body(folder.path / OWN / f"measures/{name}/sentiment.json")["usable.toy"]
        assert (usable["value"], usable["n"]) == (0, 92)
    for figure in folder.path.glob(f"{OWN}/figures/sentiment/*.png"):
        assert figure.stat().st_size > 1000
    table = json.loads((folder.path / "results/claims.json").read_text())["claims"]
    for claim in table:  # the other studies were not asked for
        assert set(claim["scales"]) == ({"custom"} if claim["study"] == "sentiment" else set()), claim["id"]
    assert not (folder.path / "results/embedded").exists()


def test_a_model_that_knows_the_words_is_measured(folder, tmp_path: Path) -> None:
    """A tiny random GPT-2 with the world's own tokenizer, untrained: every word fits."""
    model = tiny_gpt2(tmp_path / "tiny-gpt2")
    target = f"{OWN}/measures/{model.name}/sentiment.json"
    done = folder.snakemake(target, *REDUCED, "--config", f"models=[{model}]")
    assert done.returncode == 0, done.stdout[-4000:]
    measures = body(folder.path / target)
    assert measures["usable.toy"]["value"] == 1
    accuracy = measures["directions.accuracy.mean_diff"]
    assert accuracy["n"] > 20
    assert accuracy["value"] is not None
    assert measures["neurons.largest"]["value"] is not None


def tiny_gpt2(path: Path) -> Path:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from bearings.world import tokenizer

    tokenizer.write(path)
    torch.manual_seed(0)
    GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer.load(path)),
            n_positions=64,
            n_embd=16,
            n_layer=2,
            n_head=2,
            bos_token_id=0,
            eos_token_id=0,
        )
    ).save_pretrained(path)
    return path
