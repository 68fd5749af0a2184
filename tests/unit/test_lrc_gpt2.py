"""The sheet of the scale `gpt2` on the real relations and tokenizer, with a random model of GPT-2 small's shape."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
import yaml

from bearings.stages.dumps import Dump, dump, load_dump
from bearings.stages.inputs import Inputs
from bearings.stages.prompts import Encoder, Prompt, from_table

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared/data"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (SHARED / "lre").is_dir(), reason="needs the relations and GPT-2's tokenizer in ../shared/data"
    ),
]
# The sheet's own layers, ranks and strengths; fewer prompts and samples, so that it takes minutes.
CAPPED = {"samples": 1, "sweep_samples": 1, "sample_counts": [1], "ranks": [56, 768], "resamples": 50}
CAPPED |= {"object_sweep_subject_layer": 9, "object_layers": [11, 12], "subject_layers": [9], "betas": [0.1]}
CAPPED |= {"split_seeds": [42], "max_samples": 4}
EXPERIMENTS = ("filter", "classify", "edit", "sweep", "faithful")


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    path = tmp_path_factory.mktemp("models") / "gpt2-shape"
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config()).save_pretrained(path)
    for file in (SHARED / "gpt2-tokenizer").iterdir():
        if file.name.startswith(("tokenizer", "vocab", "merges")):
            shutil.copyfile(file, path / file.name)
    if not (path / "tokenizer.json").exists():
        from transformers import GPT2TokenizerFast

        GPT2TokenizerFast(str(path / "vocab.json"), str(path / "merges.txt")).save_pretrained(path)
    return path


def settings() -> dict:
    sheet = yaml.safe_load((ROOT / "workflow/scales/gpt2.yaml").read_text())["studies"]["lrc"]["settings"]
    flat = {k: v for k, v in sheet.items() if not isinstance(v, dict)}
    return {**flat, **sheet["prompts"], **sheet["fit"], **sheet["measures"], **CAPPED}


@pytest.fixture(scope="module")
def ready(directory: Path):
    """Model, prompts and dumps."""
    from bearings.lm.load import load_model
    from bearings.studies.lrc.prompts import prompts

    model, chosen = load_model(directory, threads=2), settings()
    sets, dumps = {}, {}
    for name in ("train", "test"):
        table = prompts(name, {"relations": str(SHARED / "lre")}, chosen, Encoder(directory))
        sets[name] = [p for p in from_table(table) if p.usable]
        tables = dump(
            model,
            sets[name],
            ("subject", "object"),
            chosen["max_tokens"],
            predict=True,
            layers=chosen["layers"],
        )
        dumps[name] = load_dump(pa.concat_tables(tables))
    return model, sets, dumps, chosen


def run(model, sets, dumps: dict[str, Dump], chosen) -> tuple[dict, dict]:
    """Outcomes and measures of the whole study."""
    from bearings.studies.lrc.fit import fit
    from bearings.studies.lrc.intervene import intervene
    from bearings.studies.lrc.measure import measure

    directions: dict = {}
    for method in ("lre", "lrc", "probes", "means", "random"):
        directions[method] = fit(method, sets, dumps, chosen, 0, model, directions)
    inputs = Inputs(sets, dumps, directions, chosen, 0, model)
    outcomes = {name: intervene(name, inputs).to_pandas() for name in EXPERIMENTS}
    return outcomes, measure(inputs, outcomes)


def test_where_nothing_survives_the_filter_nothing_is_measured_and_the_counts_are_said(ready) -> None:
    model, sets, dumps, chosen = ready
    assert len({p.extra["relation"] for p in sets["train"]}) == 47
    outcomes, measures = run(model, sets, dumps, chosen)
    assert not outcomes["filter"]["known"].any()  # a random model puts none of 50,257 tokens right
    for name in ("classify", "edit", "sweep", "faithful"):
        assert outcomes[name].empty
    lrc = measures["corrected.lrc.acc.macro"]
    assert lrc.value is None
    assert lrc.reason
    assert measures["counts.relations"].value == 47
    # The machine that everything must fit has 24 GB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 24e6


def test_with_a_relation_planted_as_known_the_whole_study_is_measured(ready) -> None:
    model, sets, dumps, chosen = ready
    chosen = {**chosen, "min_test": 1}
    planted = {"name gender"}
    few = {name: [p for p in mine if p.extra["relation"] in planted] for name, mine in sets.items()}
    outcomes, measures = run(model, few, {name: as_known(dumps[name], few[name]) for name in few}, chosen)
    assert set(outcomes["classify"]["relation"]) == planted
    assert measures["corrected.lrc.acc.macro"].value is not None
    assert {"lrc", "svm", "average", "first_final", "rank56", "subject9", "object12"} <= {
        *outcomes["classify"]["method"], *outcomes["sweep"]["method"]
    }  # fmt: skip


def as_known(found: Dump, prompts: list[Prompt]) -> Dump:
    """The dump, as if the model had given the answers of these prompts."""
    predicted = found.predicted.copy()
    for p in prompts:
        for row, at in zip(found.rows[p.id, "object"], p.positions["object"], strict=True):
            predicted[row] = p.ids[at + 1]
    return Dump(found.prompt, found.name, found.resid, predicted)
