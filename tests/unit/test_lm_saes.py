"""SAEs on disk: read as sae-lens reads them, verified, refused in one line, and bound to their language model."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import lm_models
import pytest
import torch
from safetensors.torch import load_file, save_file

from bearings.lm.saes import (
    Entry,
    SaeError,
    check_model,
    d_sae_of,
    folder_digest,
    load_ladder,
    load_sae,
    model_digest,
    read_ladder,
    save_sae,
    write_ladder,
)
from bearings.store.provenance import Provenance, Refused

D_IN, D_SAE = 32, 80
# Two libraries add the same 32 or 80 products in another order: some tens of fp32 roundings (6e-8) of the largest.
RELATIVE = 1e-5


@pytest.fixture(scope="module")
def x():
    return 3 * torch.randn(5, 7, D_IN, generator=torch.Generator().manual_seed(1))


def trained(centred=False, seed=0):
    """A sae-lens SAE in training form with random weights, its decoder rows far from unit norm."""
    from sae_lens import StandardTrainingSAE, StandardTrainingSAEConfig

    torch.manual_seed(seed)
    sae = StandardTrainingSAE(StandardTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, apply_b_dec_to_input=centred))
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return sae


def entry_of(folder, **other):
    plain = {
        "name": folder.name,
        "kind": "local",
        "layer": 2,
        "level": 0,
        "folder": str(folder),
        "coefficient": 1.0,
        "l0_training": 9.0,
        "d_sae": D_SAE,
        "published": False,
        "sha256": folder_digest(folder),
        "model": "m",
    }
    return Entry(**{**plain, **other})


def same_as_lens(sae, folder, x):
    """Features, reconstruction and unit decoder rows against sae-lens's own reading of the folder."""
    from sae_lens import SAE

    theirs = SAE.load_from_disk(str(folder), fold_W_dec_norm=True)
    with torch.no_grad():
        assert lm_models.gap(sae.encode(x), theirs.encode(x)) < RELATIVE
        assert lm_models.gap(sae(x), theirs(x)) < RELATIVE
        assert lm_models.gap(sae.decoder, theirs.W_dec) < RELATIVE
        assert sae.encode(x).count_nonzero() > 0


@pytest.mark.parametrize("centred", [False, True])
def test_a_saved_sae_is_what_sae_lens_reads(tmp_path, x, centred):
    source = trained(centred)
    with torch.no_grad():
        before = source.decode(source.encode(x))
    save_sae(source, tmp_path / "a", {"hook_name": "blocks.2.hook_resid_pre"})
    sae = load_sae(entry_of(tmp_path / "a"))
    same_as_lens(sae, tmp_path / "a", x)
    # A9: folding the norm of the decoder's rows into the encoder changes nothing but the features' units.
    assert lm_models.gap(sae(x), before) < RELATIVE
    assert (sae.decoder.norm(dim=1) - 1).abs().max() < 1e-5
    assert (sae.d_in, sae.d_sae, sae.centred, d_sae_of(tmp_path / "a")) == (D_IN, D_SAE, centred, D_SAE)


def test_a_released_sae_of_before_sae_lens_6_with_decoder_rows_of_any_norm(tmp_path, x):
    """Configs of then have other keys and no architecture; b_dec is subtracted unless they say otherwise."""
    folder = tmp_path / "released"
    trained().save_inference_model(folder)
    old = {
        "d_in": D_IN,
        "d_sae": D_SAE,
        "dtype": "float32",
        "device": "cpu",
        "model_name": "gpt2-small",
        "hook_point": "blocks.6.hook_resid_pre",
        "hook_point_layer": 6,
        "activation_fn_str": "relu",
        "normalize_activations": "none",
        "context_size": 128,
    }
    (folder / "cfg.json").write_text(json.dumps(old))
    sae = load_sae(entry_of(folder, published=True))
    assert sae.centred
    assert load_file(folder / "sae_weights.safetensors")["W_dec"].norm(dim=1).max() > 1.2
    same_as_lens(sae, folder, x)


def test_another_architecture_goes_through_sae_lens(tmp_path, x):
    from sae_lens import SAE, JumpReLUSAE, JumpReLUSAEConfig

    torch.manual_seed(3)
    source = JumpReLUSAE(JumpReLUSAEConfig(d_in=D_IN, d_sae=D_SAE, apply_b_dec_to_input=False))
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    source.save_model(tmp_path / "j")
    sae = load_sae(entry_of(tmp_path / "j"))
    theirs = SAE.load_from_disk(str(tmp_path / "j"))
    with torch.no_grad():
        assert torch.equal(sae.encode(x), theirs.encode(x))
        assert torch.equal(sae(x), theirs(x))
    assert (sae.decoder.norm(dim=1) - 1).abs().max() < 1e-5


def test_rows_taken_apart_give_the_same(tmp_path, x):
    save_sae(trained(), tmp_path / "a", {})
    sae = load_sae(entry_of(tmp_path / "a"))
    apart = torch.cat([sae.encode(part) for part in x.flatten(0, 1).split(4)]).view(*x.shape[:-1], -1)
    assert lm_models.gap(apart, sae.encode(x)) < RELATIVE


def test_the_standard_architecture_needs_no_sae_lens(tmp_path, root):
    save_sae(trained(), tmp_path / "a", {})
    entry = entry_of(tmp_path / "a")
    code = (
        "import sys; from bearings.lm.saes import Entry, load_sae; "
        f"sae = load_sae({entry!r}); print(sae.d_sae, 'sae_lens' in sys.modules)"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=root / "workflow", capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == [str(D_SAE), "False"]


def test_the_same_sae_has_the_same_bytes(tmp_path):
    for name in "ab":
        save_sae(trained(), tmp_path / name, {"context_size": 64})
    assert folder_digest(tmp_path / "a") == folder_digest(tmp_path / "b")
    keys = list(json.loads((tmp_path / "a/cfg.json").read_text()))
    assert keys == sorted(keys)  # sae-lens itself writes them in an order that changes between processes
    save_sae(trained(seed=1), tmp_path / "c", {"context_size": 64})
    assert folder_digest(tmp_path / "a") != folder_digest(tmp_path / "c")


@pytest.fixture
def ladder(tmp_path):
    """A ladder of two SAEs trained here, the denser one named first."""
    entries = []
    for level in (1, 0):
        save_sae(trained(seed=level), tmp_path / f"local-{level}", {})
        entry = entry_of(tmp_path / f"local-{level}", level=level)
        entries.append(replace(entry, folder=entry.name))
    write_ladder(tmp_path, entries, Provenance("ladder", "ladder.json"))
    return tmp_path


def test_a_ladder_comes_back_by_level(ladder):
    found = read_ladder(ladder)
    assert [(e.name, e.level) for e in found] == [("local-0", 0), ("local-1", 1)]
    assert [sae.name for sae in load_ladder(ladder)] == ["local-0", "local-1"]


def test_changed_weights_and_lists_are_refused(ladder):
    weights = ladder / "local-1/sae_weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(Refused, match="local-1: its files are not those that were recorded; delete it and"):
        read_ladder(ladder)
    weights.write_bytes(whole[:20])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        read_ladder(ladder)
    weights.unlink()
    with pytest.raises(SaeError, match="sae_weights.safetensors: missing"):
        read_ladder(ladder)
    weights.write_bytes(whole)
    assert len(read_ladder(ladder)) == 2
    listed = ladder / "ladder.json"
    listed.write_text(listed.read_text().replace('"level": 0', '"level": 7'))
    with pytest.raises(Refused, match="content does not match"):
        read_ladder(ladder)


def test_a_released_folder_that_changed_is_told_to_be_fetched(tmp_path):
    folder = tmp_path / "elsewhere"
    save_sae(trained(), folder, {})
    entry = entry_of(folder, published=True)
    write_ladder(tmp_path, [entry], Provenance("ladder", "ladder.json"))
    assert read_ladder(tmp_path) == [entry]
    save_sae(trained(seed=1), folder, {})
    with pytest.raises(SaeError, match="not those that were recorded for elsewhere; fetch it again"):
        read_ladder(tmp_path)


def damaged(folder, name, change):
    weights = load_file(folder / "sae_weights.safetensors")
    changed = change(weights[name])
    del weights[name]
    if changed is not None:
        weights[name] = changed.contiguous()
    save_file(weights, folder / "sae_weights.safetensors")


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("b_enc", lambda w: None, "weight b_enc is missing"),
        ("W_enc", lambda w: w[:, 1:], r"W_enc is \[32, 79\] where W_dec asks for \[32, 80\]"),
        ("b_dec", lambda w: w * float("nan"), "b_dec holds NaN"),
    ],
)
def test_weights_that_cannot_be_an_sae_are_refused(tmp_path, name, change, words):
    save_sae(trained(), tmp_path / "a", {})
    entry = entry_of(tmp_path / "a")
    damaged(tmp_path / "a", name, change)
    with pytest.raises(SaeError, match=words) as caught:
        load_sae(entry)
    assert "\n" not in str(caught.value)


def test_a_config_that_is_no_config_is_refused(tmp_path):
    save_sae(trained(), tmp_path / "a", {})
    entry = entry_of(tmp_path / "a")
    for text, words in (("{", "not valid JSON"), ("[]", "must hold a JSON object")):
        (tmp_path / "a/cfg.json").write_text(text)
        with pytest.raises(SaeError, match=words):
            load_sae(entry)


def test_another_language_model_is_refused(ladder):
    """A11: by the digest of its folder, and by how its weights were processed."""
    model = lm_models.model("gpt2")
    saes = read_ladder(ladder)
    with pytest.raises(SaeError, match="local-0 belongs to a language model with digest m "):
        load_ladder(ladder, model)
    right = [replace(e, model=model_digest(model)) for e in saes]
    check_model(right, model)
    with pytest.raises(SaeError, match="belongs to"):
        check_model(right, lm_models.model("gpt_neo"))
    with pytest.raises(SaeError, match=r"\(raw\).*\(folded\)"):
        check_model(right, lm_models.model("gpt2", "folded"))
