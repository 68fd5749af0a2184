"""Training: one seed, the same bytes; the twin keeps all but the weights; knowledge is required."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from bearings.world import corpus, knows, tokenizer, train

LOG = logging.getLogger("test")
TINY = train.TrainSettings(width=32, heads=2, attention=("local", "global"), window=8, warmup_steps=5)
CORPUS = corpus.CorpusSettings(
    tokens=12_000, heldout_tokens=2_000, mixture={"labelled": 0.6, "toy": 0.2, "mood": 0.2}
)


@pytest.fixture(scope="module")
def coder_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokenizer.write(tmp_path_factory.mktemp("world") / "tokenizer")


@pytest.fixture(scope="module")
def model_dir(coder_dir: Path) -> Path:
    return run(coder_dir, coder_dir.parent / "model", 3)


def run(coder_dir: Path, out: Path, seed: int) -> Path:
    rows, kept = corpus.build(CORPUS, tokenizer.load(coder_dir), seed)
    return train.train(TINY, rows, kept, coder_dir, out, seed, 1, LOG)


def test_same_seed_same_bytes_other_seed_other_bytes(
    coder_dir: Path, model_dir: Path, tmp_path: Path
) -> None:
    again, other = run(coder_dir, tmp_path / "again", 3), run(coder_dir, tmp_path / "other", 4)
    for name in ("model.safetensors", "config.json", "training.json", "tokenizer.json"):
        assert (again / name).read_bytes() == (model_dir / name).read_bytes()
    assert (other / "model.safetensors").read_bytes() != (model_dir / "model.safetensors").read_bytes()


def test_directory_is_an_ordinary_one(model_dir: Path) -> None:
    config = AutoConfig.from_pretrained(str(model_dir))
    assert config.activation_function == "gelu_new"
    assert config.attention_layers == ["local", "global"]
    model = AutoModelForCausalLM.from_pretrained(str(model_dir))
    coder = AutoTokenizer.from_pretrained(str(model_dir))
    logits = model(**coder("I loved it.", return_tensors="pt", return_token_type_ids=False)).logits
    assert logits.shape[-1] == len(coder)
    assert torch.isfinite(logits).all()
    assert sorted(p.name for p in model_dir.parent.iterdir() if p.name.startswith(".")) == []


def test_training_lowers_the_loss_and_writes_no_times(model_dir: Path) -> None:
    record = json.loads((model_dir / "training.json").read_text())
    curve = [loss for _, loss in record["loss_curve"]]
    assert curve[-1] < curve[0] - 0.5  # even 12 steps leave the uniform loss of ln V = 7.8
    assert not {"seconds", "time"} & set(record)
    assert record["heldout_loss"] < curve[0]


def test_twin_keeps_configuration_and_tokenizer_but_no_weight(model_dir: Path, tmp_path: Path) -> None:
    twin = train.untrained_twin(model_dir, tmp_path / "twin", seed=1)
    ours, theirs = (AutoConfig.from_pretrained(str(d)).to_dict() for d in (model_dir, twin))
    assert {k: v for k, v in ours.items() if k != "_name_or_path"} == {
        k: v for k, v in theirs.items() if k != "_name_or_path"
    }
    text = "I thought it was great, ünï."
    assert (
        AutoTokenizer.from_pretrained(str(twin))(text).input_ids
        == AutoTokenizer.from_pretrained(str(model_dir))(text).input_ids
    )
    a, b = (AutoModelForCausalLM.from_pretrained(str(d)).state_dict() for d in (model_dir, twin))
    assert a.keys() == b.keys()
    drawn = [name for name in a if a[name].dim() == 2]
    assert not [name for name in drawn if torch.equal(a[name], b[name])]
    again = train.untrained_twin(model_dir, tmp_path / "again", seed=1)
    assert (again / "model.safetensors").read_bytes() == (twin / "model.safetensors").read_bytes()
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        train.untrained_twin(tmp_path, tmp_path / "no", seed=1)


def test_weighted_loss_weighs_targets() -> None:
    model = train.new_model(TINY, 50, 16, seed=0)
    ids = torch.arange(16)[None] % 50
    weights = torch.ones(1, 16)
    weights[0, 8:] = 0
    short = train.weighted_loss(model, ids[:, :8], torch.ones(1, 8))
    torch.testing.assert_close(train.weighted_loss(model, ids, weights), short)


def test_learning_rate_rises_holds_and_falls_to_nought() -> None:
    rates = [train.rate(step, 1000, train.TrainSettings(warmup_steps=100)) for step in range(1000)]
    assert rates[0] < rates[50] < rates[99] == rates[250] == 2e-3
    assert rates[299] > rates[600] > rates[-1] > 0


def test_settings_name_what_they_do_not_know() -> None:
    with pytest.raises(ValueError, match="TrainSettings: unknown key 'depth'"):
        train.TrainSettings.from_dict({"depth": 4})
    with pytest.raises(ValueError, match="'local' and 'global'"):
        train.TrainSettings.from_dict({"attention": ["sliding"]})
    assert train.TrainSettings.from_dict({"attention": ["local"]}).attention == ("local",)


def test_knowledge_is_measured_on_the_families_of_the_mixture(model_dir: Path) -> None:
    table = knows.measure(model_dir, CORPUS.mixture)
    assert {"ablation", "toy_test", "mood"} <= set(table)
    assert "facts" not in table
    assert all(0 <= score.accuracy <= 1 and score.n >= 20 for score in table.values())
    assert (
        table["ablation"].accuracy < 0.75
    )  # 12 steps teach no sentiment: the measure must be able to say so


def test_require_says_in_one_line_what_is_missing() -> None:
    table = {"mood": knows.Score(0.8, 1.0, 24)}
    knows.require(table, {"mood": 0.75})
    with pytest.raises(knows.Unlearnt, match=r"mood 0\.80 < 0\.90, facts not measured") as raised:
        knows.require(table, {"mood": 0.9, "facts": 0.9})
    assert "\n" not in str(raised.value)


def test_every_question_asks_for_known_single_tokens(coder_dir: Path) -> None:
    coder = tokenizer.load(coder_dir)
    for family, tests in knows.FAMILIES.items():
        for ask in tests.values():
            for question in ask():
                tokens = [
                    coder(text, add_special_tokens=False)["input_ids"]
                    for text in (question.prompt, *question.right, *question.wrong)
                ]
                if family == "facts":  # asked for whole, however many words; a list needs a longer context
                    assert len(tokens[1]) == len(question.right[0].split())
                    assert len(tokens[0]) + len(tokens[1]) + 1 <= 80
                else:
                    assert len(tokens[0]) + 1 <= 64
                    assert [len(part) for part in tokens[1:]] == [1] * (len(tokens) - 1)


def test_facts_are_asked_for_alone_and_after_four_others() -> None:
    alone, after = knows.fact(), knows.fact(4)
    assert len(alone) == 2 * len(after)
    assert {q.prompt.count("\n") for q in alone} == {0}
    assert {q.prompt.count("\n") for q in after} == {4}
    for question in after:
        *shown, asked = question.prompt.split("\n")
        assert not [line for line in shown if line.startswith(asked)], "the query gives no answer away"


def test_recall_is_the_least_margin_over_the_whole_answer(coder_dir: Path) -> None:
    coder = tokenizer.load(coder_dir)
    right, other = (coder(f" {word}", add_special_tokens=False)["input_ids"] for word in ("Haven", "Zealand"))
    (new,) = coder(" New", add_special_tokens=False)["input_ids"]

    class Fixed(torch.nn.Module):
        """Says " New" after anything, and after " New" " Haven" by a margin of 2."""

        def forward(self, input_ids: torch.Tensor) -> SimpleNamespace:
            logits = torch.zeros(*input_ids.shape, len(coder))
            logits[..., new] = 5.0
            logits[input_ids == new] = 0.0
            logits[..., right[0]] = torch.where(input_ids == new, 2.0, 0.0)
            return SimpleNamespace(logits=logits)

    def asked(*answers: str) -> list[float]:
        questions = [knows.Question("The birthplace of Nobody is", (text,), ()) for text in answers]
        return knows.recall(Fixed(), coder, questions)

    assert asked(" New Haven", " New Zealand", " Paris", " New") == [2.0, -2.0, -5.0, 5.0]
    assert other != right
