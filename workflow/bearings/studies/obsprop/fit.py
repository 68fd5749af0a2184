"""The study's features by method: of heads from the weights alone, of paths from two prompts, and random vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bearings.stages.dumps import Dump
from bearings.stages.prompts import Prompt

NEEDS_MODEL = frozenset({"heads", "paths"})


def fit(
    method: str,
    prompts: Mapping[str, Sequence[Prompt]],
    dumps: Mapping[str, Dump],
    settings: Mapping[str, Any],
    seed: int,
    model=None,
) -> dict[str, np.ndarray]:
    """Arrays of one method: `heads` by "<observable>/<layer>" [n_heads, d_model] and "output/<observable>" [d_model],
    `paths` by "<name>/<path>/<mode>" [d_model], `random` by "<layer>" [draws, d_model]."""
    if method == "random":
        return random(dumps, settings["random_draws"], seed)
    # Only these pay for torch.
    from bearings.studies.obsprop import heads, paths

    if method == "heads":
        return heads.features(model, prompts["pairs"])
    if method == "paths":
        return paths.features(model, prompts["pairs"], settings)
    raise ValueError(f"unknown method {method!r}")


def random(dumps: Mapping[str, Dump], draws: int, seed: int) -> dict[str, np.ndarray]:
    """Unit vectors [draws, d_model] by layer, what every direction is compared with."""
    rng = np.random.default_rng([seed, 11])
    dump = dumps["names"]
    out = {}
    for layer in dump.layers:
        vectors = rng.standard_normal((draws, dump.width))
        out[str(layer)] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return out
