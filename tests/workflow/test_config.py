"""A bad config stops before any job, in one line that names the key and what is allowed."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bearings.plan import ConfigError, at_depth, make_plan

ROOT = Path(__file__).resolve().parents[2]
GOOD = {"scale": "embedded", "seed": 0, "studies": ["all"], "models": [], "threads": 1, "settings": {}}
LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_size": 8,
    "max_position_embeddings": 64,
    "vocab_size": 100,
}


def sentiment(**values):
    return {"settings": {"sentiment": values}}


def world(**values):
    return {"settings": {"world": values}}


# Change of the config -> words that the one line must hold: the key, and what is allowed.
BAD = {
    "unknown key": ({"sede": 1}, "sede", "allowed: models, scale, seed", "did you mean 'seed'?"),
    "unknown key, nothing like it": ({"xyzzy": 1}, "xyzzy", "allowed: models, scale, seed"),
    "wrong type": ({"seed": "one"}, "'seed'", "integer"),
    "a float seed": ({"seed": 1.0}, "'seed'", "integer"),
    "bool for int": ({"seed": True}, "'seed'", "integer"),
    "bool for threads": ({"threads": True}, "'threads'", "integer"),
    "negative seed": ({"seed": -1}, "'seed'", "at least 0"),
    "no threads": ({"threads": 0}, "'threads'", "at least 1"),
    "null": ({"seed": None}, "'seed'", "integer"),
    "studies no list": ({"studies": "sentiment"}, "'studies'", "array"),
    "studies empty": ({"studies": []}, "'studies'", "at least 1"),
    "unknown study": ({"studies": ["sentimental"]}, "'studies'", "sentimental", "allowed", "sentiment"),
    "unknown scale": ({"scale": "gpt3"}, "'scale'", "gpt3", "allowed: embedded"),
    "scale no text": ({"scale": ["embedded"]}, "'scale'", "allowed: embedded"),
    "settings null": ({"settings": None}, "'settings'", "object"),
    "settings of a study null": ({"settings": {"sentiment": None}}, "settings.sentiment", "object"),
    "settings of unknown study": ({"settings": {"truth": {}}}, "'truth'", "'settings'", "allowed: world"),
    "typo in a setting": (
        sentiment(random_drawz=3),
        "settings.sentiment.random_drawz",
        "did you mean 'random_draws'?",
    ),
    "typo far down": (
        sentiment(interventions={"steering": {"sampels": 2}}),
        "settings.sentiment.interventions.steering.sampels",
        "did you mean 'samples'?",
    ),
    "setting where there are none": (
        sentiment(interventions={"mood": {"x": 1}}),
        "interventions.mood.x",
        "allowed: none",
    ),
    "number for text": (sentiment(layers=3), "settings.sentiment.layers", "allowed: text"),
    "text for number": (sentiment(random_draws="many"), "settings.sentiment.random_draws", "a whole number"),
    "bool for number": (sentiment(random_draws=True), "settings.sentiment.random_draws", "a whole number"),
    "float for count": (sentiment(random_draws=2.5), "settings.sentiment.random_draws", "a whole number"),
    "negative count": (sentiment(random_draws=-2), "settings.sentiment.random_draws", "at least 0"),
    "no draws": (sentiment(random_draws=0), "settings.sentiment.random_draws", "at least 1"),
    "not a number": (
        sentiment(fit={"das": {"lr": float("nan")}}),
        "settings.sentiment.fit.das.lr",
        "a number",
    ),
    "number for mapping": (sentiment(prompts=3), "settings.sentiment.prompts", "a mapping"),
    "list for number": (sentiment(max_tokens=[1]), "settings.sentiment.max_tokens", "a whole number"),
    "empty list": (
        sentiment(interventions={"steering": {"coefficients": []}}),
        "steering.coefficients",
        "at least one",
    ),
    "text in a list of numbers": (
        sentiment(interventions={"steering": {"coefficients": [0, "strong"]}}),
        "steering.coefficients",
        "'strong'",
        "number",
    ),
    "layer out of range": (sentiment(layers=[0, 5]), "settings.sentiment.layers", "[5]", "layers 0 to 4"),
    "negative layer": (sentiment(layers=[-1]), "settings.sentiment.layers", "[-1]", "layers 0 to 4"),
    "layer no number": (sentiment(layers=["last"]), "settings.sentiment.layers", "layers 0 to 4"),
    "no layers": (sentiment(layers=[]), "settings.sentiment.layers", "layers 0 to 4"),
    "layers as a word": (sentiment(layers="last"), "settings.sentiment.layers", "'all'"),
    "family of the world": (
        world(corpus={"mixture": {"labeled": 1}}),
        "settings.world.corpus.mixture.labeled",
        "allowed: labelled",
    ),
    "share of the world": (
        world(corpus={"mixture": {"labelled": "most"}}),
        "settings.world.corpus.mixture.labelled",
        "share",
    ),
    "attention": (
        world(training={"attention": ["globl"]}),
        "world.training.attention",
        "allowed: local, global",
    ),
    "heads": (world(training={"heads": 3}), "world.training.width", "multiples of heads"),
    "models no list": ({"models": "gpt2"}, "'models'", "array"),
    "missing model": ({"models": ["no/such/model"]}, "'models'", "no/such/model", "no such directory"),
    "scale without its models": ({"scale": "gpt2"}, "models.gpt2-small.path", "models=[FOLDER]"),
}


def refused(config) -> str:
    with pytest.raises(ConfigError) as caught:
        make_plan(config, ROOT)
    said = str(caught.value)
    assert said
    assert "\n" not in said
    assert len(said) < 1000
    return said


@pytest.mark.parametrize("name", BAD)
def test_a_bad_config_is_refused_in_one_line(name: str) -> None:
    change, *words = BAD[name]
    said = refused({**GOOD, **change})
    for word in words:
        assert word in said


@pytest.mark.parametrize("missing", ["seed", "studies", "threads"])
def test_a_missing_key_is_named(missing: str) -> None:
    assert missing in refused({k: v for k, v in GOOD.items() if k != missing})


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"seed": 7, "studies": ["sentiment"], "threads": 2},
        sentiment(layers=[0, 4]),
        sentiment(layers="all", random_draws=1),
        sentiment(prompts={"reviews": {"train": 0, "dev": 5}}),
        sentiment(interventions={"steering": {"coefficients": [-1, 0.5]}}),
        sentiment(fit={"das": {"lr": 1, "epochs": 0}}),
        world(training={"attention": ["global", "local"]}, corpus={"mixture": {"toy": 0.5}}),
        world(require={"toy held-out": 0.9}),
    ],
)
def test_a_good_config_passes(change) -> None:
    plan = make_plan({**GOOD, **change}, ROOT)
    assert "sentiment" in plan.studies
    assert plan.with_twins("sentiment") == ["world-sentiment", "world-sentiment-twin"]


def test_a_share_of_the_depth_is_a_layer_of_each_model() -> None:
    given = {"a_layer": 0.5, "b_layers": [0.0, 0.1, 3, 0.99, 1.0], "layers": "all", "rank": 0.5}
    assert at_depth(given, 12) == {"a_layer": 6, "b_layers": [0, 1, 3, 12], "layers": "all", "rank": 0.5}
    assert at_depth(given, 2)["b_layers"] == [0, 3, 2]


def test_a_study_has_the_same_settings_at_every_scale() -> None:
    """A key that one sheet lacks would be found missing by a job, hours into a run."""
    sheets = {
        p.stem: yaml.safe_load(p.read_text())["studies"] for p in (ROOT / "workflow/scales").glob("*.yaml")
    }
    for study, entry in sheets["embedded"].items():
        for scale, others in sheets.items():
            if study in others:
                assert set(others[study]["settings"]) == set(entry["settings"]), (scale, study)
                assert set(others[study]["data"]) == set(entry["data"]), (scale, study)


def test_the_defaults_pass(root: Path) -> None:
    plan = make_plan(yaml.safe_load((root / "config.yaml").read_text()), ROOT)
    assert plan.root == "results/embedded/seed-0"


def test_nested_values_of_the_command_line_are_text_and_become_numbers() -> None:
    given_as_text = {
        "random_draws": "50",
        "layers": ["0", "2"],
        "fit": {"das": {"lr": "1e-3"}},
        "prompts": {"ablation_bos": "true"},
        "interventions": {"steering": {"coefficients": ["-1", "0.5"]}},
    }
    read = make_plan({**GOOD, **sentiment(**given_as_text)}, ROOT).studies["sentiment"].settings
    assert read["random_draws"] == 50
    assert read["layers"] == [0, 2]
    assert read["fit"]["das"] == {"epochs": 64, "lr": 0.001, "parametrisation": "vector"}
    assert read["prompts"]["ablation_bos"] is True
    assert read["interventions"]["steering"]["coefficients"] == [-1, 0.5]


@pytest.mark.parametrize(
    "text", ["", "nan", "inf", "1e999", "0x10", "1_000", "9" * 5000, "--1", "1.2.3", "१"]
)
def test_text_that_is_no_plain_number_stays_text(text: str) -> None:
    assert "settings.sentiment.random_draws" in refused({**GOOD, **sentiment(random_draws=text)})


def model_folder(path: Path, *files: str, **config) -> Path:
    path.mkdir()
    for name in files:
        (path / name).write_text("{}")
    (path / "config.json").write_text(json.dumps({**LLAMA, **config}))
    return path


WHOLE = ("model.safetensors", "tokenizer.json")
BAD_MODELS = {
    "no config": (WHOLE, {}, "config.json", "missing"),
    "pickled weights": (
        ("pytorch_model.bin", "tokenizer.json"),
        {},
        "pytorch_model.bin",
        "model.safetensors",
    ),
    "no weights": (("tokenizer.json",), {}, "no model.safetensors"),
    "no tokenizer": (("model.safetensors",), {}, "no tokenizer.json"),
    "another architecture": (WHOLE, {"model_type": "mamba"}, "mamba", "allowed: gpt2"),
    "architecture no text": (WHOLE, {"model_type": ["llama"]}, "model_type", "allowed: gpt2"),
    "remote code": (WHOLE, {"auto_map": {"AutoModel": "x.py"}}, "auto_map"),
    "no layers": (WHOLE, {"num_hidden_layers": 0}, "num_hidden_layers"),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_a_model_that_cannot_be_used_is_refused(tmp_path: Path, name: str) -> None:
    files, config, *words = BAD_MODELS[name]
    folder = model_folder(tmp_path / "stranger", *files, **config)
    if name == "no config":
        (folder / "config.json").unlink()
    said = refused({**GOOD, "models": [str(folder)]})
    for word in ("'models'", "stranger", *words):
        assert word in said


def test_own_models_get_twins_and_their_own_folder(tmp_path: Path) -> None:
    models = [str(model_folder(tmp_path / "stranger", *WHOLE))]
    plan = make_plan({**GOOD, "models": models}, ROOT)
    assert plan.root == "results/custom/seed-0"
    assert plan.with_twins("sentiment") == ["stranger", "stranger-twin"]
    said = refused({**GOOD, "models": models, **sentiment(layers=[3])})
    assert "layers 0 to 2 of stranger" in said


@pytest.mark.parametrize("second", ["a/stranger", "stranger-twin", "b c", "line\nbreak"])
def test_model_names_must_be_distinct_and_plain(tmp_path: Path, second: str) -> None:
    model_folder(tmp_path / "stranger", *WHOLE)
    (tmp_path / second).parent.mkdir(exist_ok=True)
    shutil.copytree(tmp_path / "stranger", tmp_path / second)
    models = [str(tmp_path / name) for name in ("stranger", second)]
    assert "distinct names" in refused({**GOOD, "models": models})


def test_what_json_cannot_hold_is_refused() -> None:
    loop: dict = {}
    loop["self"] = loop
    assert "config" in refused({**GOOD, "settings": loop})
    assert "config" in refused({**GOOD, "settings": {("a", "b"): {}}})


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.dates()
junk = st.recursive(
    leaves,
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=8), x, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(
    ["sentiment", "world", "layers", "prompts", "fit", "corpus", "training", "interventions"]
)
nested = st.dictionaries(keys, st.recursive(junk, lambda x: st.dictionaries(keys, x, max_size=3)), max_size=3)


@pytest.mark.parametrize("key", [*GOOD, "other"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(value=junk | st.lists(junk, max_size=2))
def test_junk_is_never_anything_but_a_config_error(key: str, value) -> None:
    with contextlib.suppress(ConfigError):  # one line by construction
        make_plan({**GOOD, key: value}, ROOT)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(value=nested)
def test_junk_in_settings_is_never_anything_but_a_config_error(value) -> None:
    with contextlib.suppress(ConfigError):  # one line by construction
        make_plan({**GOOD, "settings": value}, ROOT)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sede=1",), ("sede", "did you mean 'seed'?")),
        (("models=[no/such/model]",), ("'models'", "no such directory")),
        (("settings={sentiment: {layers: [9]}}",), ("settings.sentiment.layers", "0 to 4")),
    ],
)
def test_snakemake_says_it_in_one_line_and_writes_nothing(clone, arguments, words) -> None:
    done = clone.snakemake("--cores", "1", "--config", *arguments)
    assert done.returncode != 0
    said = [line for line in done.stdout.splitlines() if line.startswith("config: ")]
    assert len(said) == 1
    for word in words:
        assert word in said[0]
    assert "Traceback" not in done.stdout
    assert "Exception" not in done.stdout
    for folder in ("results", "logs", "benchmarks"):
        assert not (clone.path / folder).exists()


def test_snakemake_takes_numbers_in_nested_settings(clone) -> None:
    done = clone.snakemake(
        "-n", "--config", "settings={sentiment: {random_draws: 50, fit: {das: {lr: 0.01}}}}"
    )
    assert done.returncode == 0, done.stdout[-2000:]
