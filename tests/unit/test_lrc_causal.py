"""Edits of a subject against the plain transformers model with hooks of its own, one prompt at a time."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from lm_models import D_MODEL, D_VOCAB, N_LAYERS, RELATIVE, model, reference

from bearings.studies.lrc.causal import REPLACE, Edit, answer_log_probability

FAMILIES = ("gpt2", "gpt_neox", "llama")
ALL_BLOCKS = tuple(range(1, N_LAYERS + 1))
# Log-probabilities are differences of logits, which are the largest numbers in play.
CLOSE = 20 * RELATIVE


@cache
def some_edits(strength: float = 0.7) -> tuple[Edit, ...]:
    """Prompts and answers of many lengths; the subject is anywhere, first and last token included."""
    rng = np.random.default_rng(0)
    out = []
    for i in range(14):
        n = int(rng.integers(2, 12))
        ids = (1, *rng.integers(3, D_VOCAB, n - 1).tolist())
        position = (0, n - 1)[i] if i < 2 else int(rng.integers(n))
        answer = tuple(rng.integers(3, D_VOCAB, 1 + i % 3).tolist())
        vector = rng.standard_normal(D_MODEL).astype(np.float32)
        out.append(Edit(ids, position, answer, vector / np.linalg.norm(vector), strength, ALL_BLOCKS))
    return tuple(out)


BLOCKS_OF = {"gpt2": "transformer.h", "gpt_neox": "gpt_neox.layers", "llama": "model.layers"}


def by_hand(family: str, edit: Edit) -> tuple[float, float]:
    """The answer's smallest log-probability under an edit, and the largest logit, by hooks on the plain model."""

    def hook(_, __, out):
        x = (out[0] if isinstance(out, tuple) else out).clone()
        h = x[0, edit.position].clone()
        v = torch.from_numpy(edit.vector)
        x[0, edit.position] = v if edit.how == REPLACE else h + edit.strength * h.norm() * v
        return (x, *out[1:]) if isinstance(out, tuple) else x

    network = reference(family)
    modules = network.get_submodule(BLOCKS_OF[family])
    # Layer l is what leaves block l - 1.
    handles = [modules[layer - 1].register_forward_hook(hook) for layer in edit.layers]
    try:
        with torch.no_grad():
            logits = network(torch.tensor([[*edit.ids, *edit.answer]]), use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    first = len(edit.ids) - 1
    logp = logits.log_softmax(-1)
    each = [logp[first + k, token].item() for k, token in enumerate(edit.answer)]
    return min(each), logits.abs().max().item()


def compare(family: str, edits, max_tokens: int = 10_000) -> np.ndarray:
    found = answer_log_probability(model(family), edits, max_tokens)
    expected = [by_hand(family, e) for e in edits]
    for value, (other, largest) in zip(found, expected, strict=True):
        assert abs(value - other) < CLOSE * largest
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_strength_zero_is_the_plain_model(family):
    compare(family, some_edits(0.0))
    # ... whatever the direction is, and without one: the same bits.
    edits = some_edits(0.0)
    found = answer_log_probability(model(family), edits, 10_000)
    empty = [replace(e, vector=np.zeros_like(e.vector), strength=0.7) for e in edits]
    assert np.array_equal(answer_log_probability(model(family), empty, 10_000), found)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layers", [ALL_BLOCKS, (2,), (1, N_LAYERS)])
def test_edits_move_the_residual_that_leaves_each_block(family, layers):
    edits = [replace(e, layers=layers) for e in some_edits()]
    found = compare(family, edits)
    plain = answer_log_probability(model(family), some_edits(0.0), 10_000)
    assert np.abs(found - plain).max() > 0.05


@pytest.mark.parametrize("family", FAMILIES)
def test_replacing_at_a_layer_is_patching(family):
    edits = [replace(e, vector=5 * e.vector, how=REPLACE, layers=(3,), strength=0.0) for e in some_edits()]
    found = compare(family, edits)
    plain = answer_log_probability(model(family), some_edits(0.0), 10_000)
    assert np.abs(found - plain).max() > 0.05


def test_an_edit_acts_at_its_position_alone():
    """After the last block nothing moves between positions: only a subject that is the last token matters."""
    edits = [replace(e, layers=(N_LAYERS,), answer=e.answer[:1]) for e in some_edits()]
    moved = answer_log_probability(model("llama"), edits, 10_000)
    plain = answer_log_probability(model("llama"), [replace(e, strength=0.0) for e in edits], 10_000)
    at_end = np.array([e.position == len(e.ids) - 1 for e in edits])
    assert 0 < at_end.sum() < len(edits)
    assert np.array_equal(moved[~at_end], plain[~at_end])
    assert (np.abs(moved - plain)[at_end] > 1e-3).all()


def test_neither_company_nor_order_in_a_batch_matters():
    mixed = [
        replace(e, strength=(-0.3, 0.0, 0.4)[i % 3], layers=((2,), ALL_BLOCKS)[i % 2])
        for i, e in enumerate(some_edits())
    ]
    mixed += [replace(e, vector=4 * e.vector, how=REPLACE, layers=(2,)) for e in some_edits()]
    together = compare("gpt_neox", mixed)
    alone = answer_log_probability(model("gpt_neox"), mixed, 1)
    order = np.random.default_rng(4).permutation(len(mixed))
    shuffled = answer_log_probability(model("gpt_neox"), [mixed[i] for i in order], 40)
    # The same sums in rectangles of other shapes; logits of these models stay below 30.
    assert np.abs(together - alone).max() < 30 * CLOSE
    assert np.abs(together[order] - shuffled).max() < 30 * CLOSE


def test_no_edit_at_all_is_no_error():
    assert answer_log_probability(model("llama"), [], 100).shape == (0,)
