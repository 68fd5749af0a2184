"""One table for every curve: the effect of a direction at each position, over rows and lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from bearings.lm.divergence import Clean, effects
from bearings.lm.load import Model
from bearings.lm.perturb import along
from bearings.studies.sensitivity.common import Length, ListTable

LISTS = ("kl", "ce", "l2")
PLAIN = {
    "sequence": pa.int32(),
    "layer": pa.string(),
    "direction": pa.string(),
    "sae": pa.string(),
    "fraction": pa.float64(),
    "length": pa.float64(),
    "cosine": pa.float32(),
    "n": pa.int32(),
}


def table() -> ListTable:
    """An empty table of curves: kl, ce (nats) and l2 at every scored position."""
    return ListTable(PLAIN, LISTS)


def add_curve(
    out: ListTable,
    model: Model,
    clean: Clean,
    sequences: Sequence[int],
    directions: Any,
    lengths: Sequence[Length],
    *,
    layer: str,
    direction: str,
    max_tokens: int,
    sae: str = "",
    cosine: Any = None,
    sizes: Sequence[int] | None = None,
) -> None:
    """Perturb all positions of the rows along directions [b, pos, d_model] and add a row per sequence and length.

    sizes [b]: how many vectors a direction was drawn from; sequences with none (0) are left out.
    """
    import torch

    directions = torch.as_tensor(directions, dtype=clean.resid.dtype)
    steps = torch.tensor([x.length for x in lengths], dtype=clean.resid.dtype)
    found = effects(model, clean, along(clean.resid, directions, steps), max_tokens=max_tokens)
    used = np.array([sizes is None or sizes[i] > 0 for i in range(len(sequences))])
    for k, step in enumerate(lengths):
        out.add(
            {name: getattr(found, name)[k].cpu().numpy()[used] for name in LISTS},
            sequence=np.asarray(sequences)[used].tolist(),
            layer=layer,
            direction=direction,
            sae=sae,
            fraction=step.fraction,
            length=step.length,
            cosine=None if cosine is None else np.asarray(cosine)[used].tolist(),
            n=None if sizes is None else np.asarray(sizes)[used].tolist(),
        )
