"""Tiny models in float64 and the prompts that the tests of propagation share."""

from __future__ import annotations

from functools import cache

import torch
from lm_models import FAMILIES, directory, prompts

from bearings.lm import weights
from bearings.lm.load import load_model

FIRST, SECOND = prompts(3, [7])[0], prompts(4, [7])[0]
COLUMNS = torch.tensor([5, 9])

# fp64 rounds at 1e-16; anything wrong (a transposed map, a missed norm, a wrong position) shows at 1e-1.
EXACT = 1e-9
# The norm of a Llama rounds to float32 whatever the model's type: 6e-8 of its output in every norm passed.
REAL = dict.fromkeys(FAMILIES, EXACT) | {"llama": 2e-6}


@cache
def wide(family, processing="raw"):
    """The tiny model in float64, where a derivative can be compared to more than three digits."""
    m = load_model(directory(family), processing=processing, dtype="float64")
    m.bridge.double()  # folding leaves a few of the new parameters of GPT-Neo and GPT-J in float32
    return m


def observable(m):
    """n in front of the unembedding, W_U n, and n on its bias, for the logit of one token minus another's."""
    vectors, biases = weights.unembedding(m, COLUMNS)
    return vectors[0] - vectors[1], (biases[0] - biases[1]).item()


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
