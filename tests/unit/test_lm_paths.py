"""Paths as text, and which of them a model has."""

from __future__ import annotations

import pytest
import torch
from lm_models import model
from lm_wide import FIRST, observable

from bearings.lm.propagate import Head, Mlp, features, parse_path, show_path
from bearings.lm.trace import trace


def test_paths_as_text():
    text = "mlp19@-1<=attn15.13@3<=attn0.all@12"
    path = parse_path(text)
    assert path == (Mlp(19, -1), Head(15, 13, 3), Head(0, None, 12))
    assert parse_path(text.split("<=")) == path
    assert parse_path("mlp19@-1 <= attn15.13@3 <= attn0.all@12") == path
    assert parse_path(path) == path
    assert show_path(path) == text
    assert len({path, parse_path(text)}) == 1


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "at least one component"),
        ([], "at least one component"),
        ("attn1@3", "'attn1@3' is no component"),
        ("attn1.2@3<=", "'' is no component"),
        (["mlp3"], "'mlp3' is no component"),
        ("attn4.0@1", "attn4.0@1: gpt2 has layers 0 to 3"),
        ("attn1.4@1", "attn1.4@1: gpt2 has heads 0 to 3"),
        ("attn1.2@3<=attn1.0@2", "attn1.0@2 is not upstream of attn1.2@3"),
        ("attn1.2@3<=mlp1@3", "mlp1@3 is not upstream of attn1.2@3"),
        ("attn2.2@3<=mlp1@2", "mlp1@2: an MLP writes where it reads, and here position 3 is read"),
        ("mlp3@3", "mlp3@3: an MLP writes where it reads, and here position -1 is read"),
        ("attn2.2@7", "attn2.2@7: the position lies outside a prompt of 7 tokens"),
        ("attn2.2@-8", "attn2.2@-8: the position lies outside a prompt of 7 tokens"),
    ],
)
def test_paths_that_are_none(path, message):
    m = model("gpt2")
    t, n = trace(m, FIRST), observable(m)[0]
    with pytest.raises(ValueError, match=message.replace(".", r"\.")) as error:
        features(m, path, n, "ignore", t, t)
    assert "\n" not in str(error.value)


def test_positions_from_either_end():
    m = model("gpt2")
    t, n = trace(m, FIRST), observable(m)[0]
    one = features(m, "mlp3@-1<=attn1.0@2", n, "scale", t, t)
    assert torch.equal(features(m, "mlp3@6<=attn1.0@-5", n, "scale", t, t), one)
    features(m, "attn3.0@5<=attn1.0@2", n)
    # Attention and MLP of one block: upstream where the MLP reads what attention wrote, not beside it.
    features(m, "mlp1@-1<=attn1.0@2", n, "ignore", t, t)
    with pytest.raises(ValueError, match="attn1.0@2 is not upstream of mlp1@-1"):
        features(model("gptj"), "mlp1@-1<=attn1.0@2", n, "ignore", t, t)
