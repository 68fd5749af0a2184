"""Model directories are read without torch, bad ones are refused in one line, good ones load frozen."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lm_models import D_MODEL, D_VOCAB, FAMILIES, N_CTX, N_LAYERS, RELATIVE, directory, gap, model, tokens

from bearings.lm import hub, weights
from bearings.lm.forward import forward, last_positions, pad
from bearings.lm.hub import ModelDirError, check_model_dir
from bearings.lm.load import load_model

ROOT = Path(__file__).parents[2]
STRANGER = ROOT.parent / "shared" / "models" / "tinystories-656k"


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(directory("llama"), tmp_path / "llama"))


def change(path: Path, **entries) -> None:
    content = json.loads(path.read_text())
    content |= entries
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes(family):
    info = check_model_dir(directory(family))
    assert (info.family, info.n_layers, info.n_heads, info.d_head) == (family, N_LAYERS, 4, 8)
    assert (info.d_model, info.d_vocab, info.n_ctx) == (D_MODEL, D_VOCAB, N_CTX)
    assert info.n_kv_heads == (2 if family == "llama" else 4)
    network = model(family).bridge.cfg
    assert (network.n_layers, network.n_heads, network.d_model) == (info.n_layers, info.n_heads, info.d_model)
    assert (network.d_head, network.d_vocab) == (info.d_head, info.d_vocab)


def test_checking_imports_no_torch():
    code = (
        "import sys; from bearings.lm.hub import check_model_dir; "
        "check_model_dir(sys.argv[1]); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, directory("gpt2")],
        env={"PYTHONPATH": str(ROOT / "workflow"), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def remove(*names):
    def act(path):
        for name in names:
            (path / name).unlink()

    return act


def pickled(path):
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def sharded(path):
    index = {"weight_map": {"lm_head.weight": "model-00001-of-00001.safetensors"}}
    (path / "model.safetensors").unlink()
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


REFUSALS = {
    "no directory": (shutil.rmtree, "no such directory"),
    "no config": (remove("config.json"), "config.json: missing"),
    "broken config": (lambda p: (p / "config.json").write_text("{"), "not valid JSON"),
    "list config": (lambda p: (p / "config.json").write_text("[]"), "JSON object"),
    "no tokenizer": (remove("tokenizer.json"), "no tokenizer.json"),
    "no weights": (remove("model.safetensors"), "no model.safetensors"),
    "pickled": (pickled, "pickled weights are never loaded"),
    "lost shard": (sharded, "listed in model.safetensors.index.json but missing"),
    "remote code": (lambda p: change(p / "config.json", auto_map={"AutoModel": "m.M"}), "auto_map"),
    "remote tokenizer": (lambda p: change(p / "tokenizer_config.json", auto_map={"A": "m.T"}), "auto_map"),
    "family": (lambda p: change(p / "config.json", model_type="bert"), "allowed: gpt2, gpt_neo, gptj"),
    "no family": (lambda p: change(p / "config.json", model_type=None), "model_type None"),
    "no layers": (
        lambda p: change(p / "config.json", num_hidden_layers=None),
        "num_hidden_layers is missing",
    ),
    "odd layers": (lambda p: change(p / "config.json", num_hidden_layers="4"), "positive integer"),
    "odd heads": (
        lambda p: change(p / "config.json", num_key_value_heads=3),
        "no multiple|is not a multiple",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_are_one_line(copy, case):
    break_it, message = REFUSALS[case]
    break_it(copy)
    with pytest.raises(ModelDirError, match=message) as error:
        check_model_dir(copy)
    assert "\n" not in str(error.value)
    assert copy.name in str(error.value)
    with pytest.raises(ModelDirError, match=message):
        load_model(copy)


def rewrite(path: Path, act) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(path / "model.safetensors")
    act(tensors)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


NORM = "model.layers.1.input_layernorm.weight"


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda t: t[NORM].__setitem__(3, float("nan")), f"{NORM} holds NaN"),
        (lambda t: t.__setitem__(NORM, torch.ones(5)), f"{NORM} has the wrong shape"),
        (lambda t: t.pop(NORM), f"{NORM} is missing"),
    ],
)
def test_bad_weights_are_refused(copy, act, message):
    rewrite(copy, act)
    with pytest.raises(ModelDirError, match=message) as error:
        load_model(copy)
    assert "\n" not in str(error.value)


def test_truncated_weights_are_refused(copy):
    weights_file = copy / "model.safetensors"
    weights_file.write_bytes(weights_file.read_bytes()[:-100])
    with pytest.raises(ModelDirError) as error:
        load_model(copy)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"processing": "centred"}, "allowed: raw, folded"),
        ({"dtype": "int8"}, "allowed: float32"),
        ({"threads": 0}, "at least 1"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        load_model(directory("gpt2"), **options)


def test_loaded_models_are_frozen_and_quiet(copy, capfd):
    m = load_model(copy, threads=1)
    assert not any(p.requires_grad for p in m.bridge.original_model.parameters())
    assert not any(module.training for module in m.bridge.original_model.modules())
    assert torch.get_num_threads() == 1
    assert (m.name, m.processing, m.dtype) == ("llama", "raw", torch.float32)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("processing", ["raw", "folded"])
def test_weights_are_the_ones_the_model_uses(family, processing):
    m, batch = model(family, processing), tokens("left")
    names = ["blocks.2.attn.hook_v", "blocks.2.attn.hook_z", "blocks.2.attn.hook_out"]
    names += ["blocks.2.mlp.hook_post", "blocks.2.mlp.hook_out"]
    run = forward(m, batch, keep=[*names, N_LAYERS], rows="all")
    v, z, attn_out, post, mlp_out = (run.hooks[name] for name in names)

    def differences(x):  # biases drop out of differences between prompts
        return x[1:] - x[:-1]

    written = torch.einsum("bqhd,hdm->bqm", z, weights.W_O(m, 2))
    assert gap(differences(written), differences(attn_out)) < RELATIVE
    written = post @ weights.W_out(m, 2)
    assert gap(differences(written), differences(mlp_out)) < RELATIVE
    norm = m.blocks[2].ln1
    with torch.no_grad():
        read = torch.einsum("bpm,hmd->bphd", norm(forward(m, batch, stop=2).resid[2]), weights.W_V(m, 2))
    assert gap(differences(read), differences(v)) < RELATIVE
    columns = torch.tensor([4, 11])
    vectors, biases = weights.unembedding(m, columns)
    with torch.no_grad():
        logits = weights.final_norm(m, run.resid[N_LAYERS]) @ vectors.T + biases
    assert gap(logits, run.logits[..., columns]) < RELATIVE
    assert weights.W_U(m).shape == (D_MODEL, D_VOCAB)


def test_families_are_named_in_the_refusal():
    assert set(hub.FAMILIES) == set(FAMILIES)


@pytest.mark.skipif(not STRANGER.is_dir(), reason="../shared/models/tinystories-656k is not there")
def test_a_pretrained_stranger():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    m = load_model(STRANGER)
    assert (m.info.n_layers, m.info.n_heads, m.info.n_kv_heads, m.info.d_vocab) == (2, 8, 4, 2048)
    tokenizer = AutoTokenizer.from_pretrained(STRANGER)
    texts = ["Once upon a time, there was a little girl named", "The dog was very happy because"]
    batch = pad([tokenizer(text)["input_ids"] for text in texts], 0)
    plain = AutoModelForCausalLM.from_pretrained(STRANGER, attn_implementation="eager").eval()
    mask = batch.mask.long()
    with torch.no_grad():
        theirs = plain(batch.ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits
    ours = forward(m, batch, keep=[1], rows="all")
    worst = gap(ours.logits[batch.mask], theirs[batch.mask])
    assert worst < RELATIVE, f"{worst:.1e}"
    resumed = forward(m, batch, start=1, resid=ours.resid[1], rows=last_positions(batch)).logits
    assert gap(resumed, ours.logits[:, -1]) < RELATIVE
    assert m.tokenizer("Once upon a time")["input_ids"] == tokenizer("Once upon a time")["input_ids"]
