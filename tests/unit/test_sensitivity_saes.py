"""The study's ladders: names, layers and levels, what is written, released SAEs, and settings that cannot be."""

from __future__ import annotations

import copy

import lm_models
import numpy as np
import pytest
import torch

from bearings.lm.forward import Tokens, forward, prepare
from bearings.lm.sae_files import WEIGHTS
from bearings.lm.saes import SaeError, load_ladder, model_digest, write_ladder
from bearings.stages.dumps import Dump
from bearings.stages.prompts import Prompt
from bearings.store.provenance import Provenance
from bearings.studies.sensitivity.saes import rows_of, train

ROWS, POS, LAYERS = 6, 10, (1, 2, 3)
LOCAL = {"samples": 120, "batch": 20, "lr": 1e-3, "init_norm": 0.3}
END = {"rows": 6, "batch_rows": 2, "lr": 1e-3}
SETTINGS = {
    "main_layer": 2,
    "early_layer": 1,
    "late_layer": 3,
    "max_tokens": 1024,
    "width": 2,
    "local": {"coefficients": [0.2, 2.0, 0.6], "side_coefficients": [0.5], **LOCAL},
    "e2e": {"coefficients": [0.1, 1.0], "kl": 1.0, "downstream": 0.0, **END},
    "e2e_ds": {"coefficients": [0.1, 1.0], "kl": 0.5, "downstream": 1.0, **END},
    "released": [],
}


@pytest.fixture(scope="module")
def model():
    return lm_models.model("gpt2")


@pytest.fixture(scope="module")
def prompts():
    where = {"tokens": tuple(range(POS)), "end": (POS - 1,)}
    rows = lm_models.prompts(1, [POS] * ROWS)
    return {"train": [Prompt(i, "train", "", tuple(r), None, where, (), ()) for i, r in enumerate(rows)]}


@pytest.fixture(scope="module")
def dumps(model, prompts):
    """What the activations job leaves, with the position `end` in it and the prompts not in their order."""
    ids = torch.tensor([p.ids for p in prompts["train"]])
    resid = forward(
        model, prepare(model, Tokens(ids, torch.ones_like(ids, dtype=torch.bool))), keep=LAYERS
    ).resid
    order = [3, 0, 5, 1, 4, 2]
    prompt = np.repeat(order, POS + 1).astype(np.int32)
    name = np.asarray((["tokens"] * POS + ["end"]) * ROWS, dtype=object)
    values = {
        layer: np.concatenate([np.r_[resid[layer][i], resid[layer][i, -1:]] for i in order])
        for layer in LAYERS
    }
    return {"train": Dump(prompt, name, values)}


def settings(**changes):
    out = copy.deepcopy(SETTINGS)
    for key, value in changes.items():
        out[key] = {**out[key], **value} if isinstance(value, dict) else value
    return out


def run(kind, prompts, dumps, model, folder, seed=3, **changes):
    return train(kind, prompts, dumps, settings(**changes), seed, model, folder)


def test_residuals_come_back_by_row_and_position(model, prompts, dumps):
    ids, resid = rows_of(prompts["train"], dumps["train"], 2)
    assert ids.tolist() == [list(p.ids) for p in prompts["train"]]
    again = forward(
        model, prepare(model, Tokens(ids, torch.ones_like(ids, dtype=torch.bool))), keep=[2]
    ).resid[2]
    assert torch.equal(resid, again)


def test_a_local_ladder_at_each_layer(model, prompts, dumps, tmp_path):
    found = run("local", prompts, dumps, model, tmp_path)
    assert [(e.name, e.layer, e.level, e.coefficient) for e in found] == [
        ("local-0", 2, 0, 2.0),
        ("local-1", 2, 1, 0.6),
        ("local-2", 2, 2, 0.2),
        ("local-0-early", 1, 0, 0.5),
        ("local-0-late", 3, 0, 0.5),
    ]
    assert {(e.kind, e.d_sae, e.published, e.folder == e.name) for e in found} == {("local", 64, False, True)}
    assert all(e.model == model_digest(model) and 0 <= e.l0_training <= 64 for e in found)
    write_ladder(tmp_path, found, Provenance("ladder", "ladder.json"))
    saes = load_ladder(tmp_path, model)
    assert [s.name for s in saes] == ["local-0-early", "local-0", "local-1", "local-2", "local-0-late"]
    x = rows_of(prompts["train"], dumps["train"], 2)[1]
    assert (saes[1].encode(x) > 0).float().sum(-1).mean().item() == pytest.approx(
        found[0].l0_training, rel=1e-6
    )


def test_no_side_layers_where_none_are_asked_for(model, prompts, dumps, tmp_path):
    found = run("local", prompts, dumps, model, tmp_path, local={"side_coefficients": []})
    assert {e.layer for e in found} == {2}


@pytest.mark.parametrize("kind", ["e2e", "e2e_ds"])
def test_end_to_end_ladders_at_the_main_layer(model, prompts, dumps, tmp_path, kind):
    found = run(kind, prompts, dumps, model, tmp_path)
    assert [(e.name, e.layer, e.coefficient) for e in found] == [(f"{kind}-0", 2, 1.0), (f"{kind}-1", 2, 0.1)]


def test_two_runs_are_the_same_files(model, prompts, dumps, tmp_path):
    """A10, down to the digest of the folders."""
    for kind in ("local", "e2e_ds"):
        digests = [
            [e.sha256 for e in run(kind, prompts, dumps, model, tmp_path / name, seed)]
            for name, seed in (("a", 3), ("b", 3), ("c", 4))
        ]
        assert digests[0] == digests[1]
        assert not set(digests[0]) & set(digests[2])


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("attention", {}, "kind of SAE 'attention' is unknown; allowed: local, e2e, e2e_ds"),
        ("local", {"local": {"coefficients": []}}, "saes.local: coefficients must be distinct and above 0"),
        ("local", {"local": {"coefficients": [1.0, 1.0]}}, "saes.local: coefficients must be distinct"),
        ("e2e", {"e2e": {"coefficients": [0.0]}}, "saes.e2e: coefficients must be distinct and above 0"),
        ("e2e", {"e2e": {"epochs": 1}}, "saes.e2e: .*'epochs'"),
        ("e2e", {"main_layer": 0}, r"holds layers \[1, 2, 3\], not 0"),
    ],
)
def test_settings_that_cannot_be(model, prompts, dumps, tmp_path, kind, changes, words):
    with pytest.raises(ValueError, match=words) as caught:
        run(kind, prompts, dumps, model, tmp_path, **changes)
    assert "\n" not in str(caught.value)


def test_without_a_block_behind_there_is_nothing_downstream(model, prompts, dumps, tmp_path):
    assert run("e2e_ds", prompts, dumps, model, tmp_path, main_layer=3) == []
    assert not list(tmp_path.iterdir())


def test_rows_that_do_not_fit(prompts, dumps):
    rows = prompts["train"]
    with pytest.raises(ValueError, match=r"must hold rows of one length .* found lengths \[\]"):
        rows_of([], dumps["train"], 2)
    with pytest.raises(ValueError, match="has 60 rows where its prompts have 50 tokens"):
        rows_of(rows[:-1], dumps["train"], 2)


@pytest.fixture(scope="module")
def released(model, prompts, dumps, tmp_path_factory):
    """A folder outside any run, as a released SAE would be, and its entry without a digest."""
    folder = tmp_path_factory.mktemp("released")
    (entry, *_) = run("e2e", prompts, dumps, model, folder)
    given = {
        "name": "wzzcimkj",
        "model": model.info.name,
        "kind": "e2e",
        "layer": 2,
        "level": 0,
        "folder": str(folder / entry.name),
    }
    return {**given, "l0": 146.8, "revision": "abc", "sha256": None}, entry.sha256


def test_released_saes_are_recorded_and_nothing_is_trained(model, released, tmp_path):
    given, digest = released
    (found,) = run("e2e", {}, {}, model, tmp_path, released=[given])
    assert (found.sha256, found.published, found.d_sae) == (digest, True, 64)
    assert (found.l0_training, found.coefficient, found.revision) == (146.8, None, "abc")
    assert run("local", {}, {}, model, tmp_path, released=[given]) == []
    assert run("e2e", {}, {}, model, tmp_path, released=[{**given, "sha256": digest}]) == [found]
    assert run("e2e", {}, {}, model, tmp_path, released=[{**given, "model": "another"}]) == []
    assert not list(tmp_path.iterdir())
    write_ladder(tmp_path, [found], Provenance("ladder", "ladder.json"))
    assert [s.name for s in load_ladder(tmp_path, model)] == ["wzzcimkj"]


def test_released_saes_that_are_not_what_they_should_be(model, released, tmp_path):
    given, digest = released
    with pytest.raises(SaeError, match=f"wzzcimkj has digest {digest}, settings say 0000"):
        run("e2e", {}, {}, model, tmp_path, released=[{**given, "sha256": "0000"}])
    with pytest.raises(SaeError, match="missing; the folder of an SAE holds"):
        run("e2e", {}, {}, model, tmp_path, released=[{**given, "folder": str(tmp_path / "none")}])
    with pytest.raises(ValueError, match="key 'revision' is missing from wzzcimkj"):
        run("e2e", {}, {}, model, tmp_path, released=[{k: v for k, v in given.items() if k != "revision"}])
    from safetensors.torch import load_file, save_file

    other = tmp_path / "other"
    other.mkdir()
    weights = load_file(f"{given['folder']}/{WEIGHTS}")
    cut = {"W_enc": weights["W_enc"][1:], "W_dec": weights["W_dec"][:, 1:], "b_dec": weights["b_dec"][1:]}
    save_file({"b_enc": weights["b_enc"], **{k: v.contiguous() for k, v in cut.items()}}, other / WEIGHTS)
    (other / "cfg.json").write_text("{}")
    with pytest.raises(SaeError, match="reads 31 numbers, gpt2 has 32"):
        run("e2e", {}, {}, model, tmp_path, released=[{**given, "folder": str(other)}])
