"""Sampling: greedy equals full passes, seeds repeat, top-k holds, edits steer generated tokens too."""

from __future__ import annotations

import pytest
import torch
from lm_models import D_MODEL, D_VOCAB, FAMILIES, N_LAYERS, model, prompts, reference, tokens

from bearings.lm import weights
from bearings.lm.edits import ResidualEdit, add, frozen_attention
from bearings.lm.forward import forward, pad, patterns
from bearings.lm.generate import sample

family = pytest.mark.parametrize("family", FAMILIES)


@family
def test_greedy_equals_full_passes(family):
    got = sample(model(family), tokens("left"), 5, temperature=0)
    for prompt, new in zip(prompts(), got.tolist(), strict=True):
        ids = list(prompt)
        for token in new:
            with torch.no_grad():
                logits = reference(family)(torch.tensor([ids])).logits[0, -1]
            # Two nearly equal logits may swap on rounding, so the chosen one has to be best to 1e-4 only.
            assert logits[token] > logits.max() - 1e-4
            ids.append(token)


def test_seed_decides():
    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return sample(model("gpt2"), tokens("left"), 6, top_k=10, generator=generator)

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))


def test_top_k_and_temperature():
    m, batch = model("gpt2"), tokens("none")
    best = forward(m, batch, rows="all").logits[:, -1].topk(3).indices
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack(
        [sample(m, batch, 1, top_k=3, temperature=5.0, generator=generator)[:, 0] for _ in range(40)]
    )
    assert (draws[:, :, None] == best).any(-1).all()
    assert len(draws[:, 0].unique()) == 3, "40 draws at temperature 5 must meet all three"
    cold = sample(m, batch, 4, temperature=1e-4, generator=generator)
    assert torch.equal(cold, sample(m, batch, 4, temperature=0))


@family
def test_steering_acts_on_generated_positions(family):
    """A push along one token's unembedding at the last layer makes it every new token, not only the first."""
    m, token = model(family), 17
    push = ResidualEdit(N_LAYERS, add(weights.W_U(m)[:, token] - weights.W_U(m).mean(1), 1e4))
    steered = sample(m, tokens("left"), 4, edits=[push], temperature=0)
    plain = sample(m, tokens("left"), 4, temperature=0)
    assert (steered == token).float().mean() > (plain == token).float().mean() + 0.5
    zero = ResidualEdit(1, add(torch.ones(D_MODEL), 0.0))
    assert torch.equal(sample(m, tokens("left"), 4, edits=[zero], temperature=0), plain)


def test_early_steering_reaches_every_step():
    """Each step must equal a full pass over the grown text with the edit at all its positions."""
    m, batch = model("gpt_neo"), tokens("none")
    push = ResidualEdit(1, add(torch.randn(D_MODEL, generator=torch.Generator().manual_seed(1)), 3.0))
    new = sample(m, batch, 4, edits=[push], temperature=0)
    for i in range(4):
        grown = pad(torch.cat([batch.ids, new[:, :i]], 1).tolist(), 0)
        assert torch.equal(forward(m, grown, edits=[push], rows="all").logits[:, -1].argmax(-1), new[:, i])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_new": 0}, "n_new must be"),
        ({"n_new": 60}, "more than its context of 64"),
        ({"temperature": -1.0}, "temperature must be"),
        ({"temperature": 1.0}, "seeded torch.Generator"),
        ({"top_k": D_VOCAB + 1}, "top_k must be 1 to 61"),
        ({"edits": [ResidualEdit(0, lambda x: x, torch.ones(5, 9) > 0)]}, "no positions"),
    ],
)
def test_refusals(options, message):
    options = {"n_new": 2, "temperature": 0} | options
    with pytest.raises(ValueError, match=message):
        sample(model("gpt2"), tokens("left"), **options)


def test_right_padding_and_frozen_patterns_are_refused():
    m = model("gpt2")
    with pytest.raises(ValueError, match="padded on the left"):
        sample(m, tokens("right"), 2, temperature=0)
    with pytest.raises(ValueError, match="no frozen pattern"):
        sample(m, tokens("left"), 2, temperature=0, edits=frozen_attention(patterns(m, tokens("left"))))
