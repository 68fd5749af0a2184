"""SAE features as directions, by class: alive but silent in the row, active in it, dead (protocol 4.1, T5, T13, T16).

One uniform number per position chooses a feature in every class and for every length. The controls take the same way:
random unit vectors, vectors of the covariance mixture, rows dealt anew among the SAEs of a kind, and class labels
dealt anew among the features of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from bearings.lm.divergence import clean
from bearings.stages.inputs import Inputs
from bearings.studies.sensitivity import curves
from bearings.studies.sensitivity.common import (
    FIRED,
    KINDS,
    MAIN,
    in_rows,
    layers,
    length_of,
    lengths,
    saes,
    token_batch,
)
from bearings.studies.sensitivity.draws import STREAMS, Pool, normal, pool

CLASSES = ("inactive", "active", "dead")
SHUFFLED_LABELS = ("active_shuffled", "inactive_shuffled")
# Controls draw what the class `inactive` draws and replace its vector; `shuffled` draws among all that was dealt.
REPLACED = ("minus", "random", "through", "shuffled")
CONTROL_LENGTH = "k51"
# Rows encoded at once: d_sae may be 46,080.
CHUNK = 1024


def features(inputs: Inputs) -> pa.Table:
    """The whole grid for features alive but silent, named lengths for the other classes, one length for controls."""
    import torch

    out, layer = curves.table(), layers(inputs.settings)[MAIN]
    mine = pool(inputs.directions["pool"], layer)
    grids = {
        "inactive": lengths(inputs.settings, mine.norm),
        **dict.fromkeys(CLASSES[1:], lengths(inputs.settings, mine.norm, named=True)),
    }
    control = [length_of(inputs.settings, CONTROL_LENGTH, mine.norm)]
    resid = inputs.dumps["rows"].resid[layer]
    for kind in KINDS:
        ladder = saes(inputs, kinds=[kind])
        dealt = deal([sae.d_sae for sae in ladder], inputs.seed)
        alive = [alive_features(sae, resid) for sae in ladder]
        for rows in in_rows(inputs):
            x = rows.resid[MAIN]
            before = clean(inputs.model, token_batch(rows), layer, resid=x)
            uniform = [
                np.random.default_rng([inputs.seed, STREAMS["feature"], s]).random(x.shape[1])
                for s in rows.sequences
            ]
            for at, sae in enumerate(ladder):
                fired = (sae.encode(x) > FIRED).any(1).cpu().numpy()
                key = (inputs.seed, KINDS.index(kind), at)
                members = [split(alive[at], f, (*key, s)) for f, s in zip(fired, rows.sequences, strict=True)]
                for name in (*CLASSES, *SHUFFLED_LABELS, *REPLACED):
                    of = [m["inactive" if name in REPLACED else name] for m in members]
                    if name == "shuffled":  # all rows that were dealt: a few would be no mean of them
                        of = [np.arange(sae.d_sae)] * len(of)
                    sizes = [len(m) for m in of]
                    if not any(sizes):
                        continue
                    index = np.stack([pick(m, u) for m, u in zip(of, uniform, strict=True)])
                    if name in ("random", "through"):
                        vectors = torch.from_numpy(replaced(name, index, mine, key))
                    elif name == "shuffled":
                        vectors = _rows_of(ladder, dealt[at][index])
                    else:
                        vectors = sae.decoder[torch.from_numpy(index)]
                    curves.add_curve(
                        out,
                        inputs.model,
                        before,
                        rows.sequences,
                        -vectors if name == "minus" else vectors,
                        grids.get(name, control),
                        layer=MAIN,
                        direction=name,
                        sae=sae.name,
                        sizes=sizes,
                        max_tokens=inputs.settings["max_tokens"],
                    )
    return out.table()


def alive_features(sae: Any, resid: np.ndarray) -> np.ndarray:
    """Which features [d_sae] fire on any of the residuals [n, d_model]."""
    import torch

    alive = torch.zeros(sae.d_sae, dtype=torch.bool)
    for first in range(0, len(resid), CHUNK):
        piece = torch.from_numpy(np.array(resid[first : first + CHUNK]))
        alive |= (sae.encode(piece) > FIRED).any(0).cpu()
    return alive.numpy()


def split(alive: np.ndarray, fired: np.ndarray, key: Sequence[int]) -> dict[str, np.ndarray]:
    """Indices of the features of each class in one row, disjoint and covering all; `alive`, `fired` [d_sae].

    The shuffled labels say "active" of as many features that are alive, whichever they are.
    """
    active, inactive = np.flatnonzero(fired), np.flatnonzero(alive & ~fired)
    mixed = np.random.default_rng([*key, STREAMS["labels"]]).permutation(np.concatenate([active, inactive]))
    return {
        "active": active,
        "inactive": inactive,
        "dead": np.flatnonzero(~(alive | fired)),
        "active_shuffled": mixed[: len(active)],
        "inactive_shuffled": mixed[len(active) :],
    }


def pick(members: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """A member for every uniform number [pos] in [0, 1); 0 where there are none, which nobody may use."""
    if not len(members):
        return np.zeros(len(uniform), np.int64)
    return members[np.minimum((uniform * len(members)).astype(np.int64), len(members) - 1)]


def replaced(kind: str, index: np.ndarray, pool: Pool, key: Sequence[int]) -> np.ndarray:
    """A random vector for every feature, the same wherever the feature is drawn: [..., d_model] of index [...]."""
    found, back = np.unique(index, return_inverse=True)
    drawn = np.stack([normal(kind, pool.mean.shape, *key, int(i)) for i in found])
    drawn = drawn @ pool.factor.T if kind == "through" else drawn
    return drawn.astype(np.float32)[back.reshape(index.shape)]


def deal(sizes: Sequence[int], seed: int) -> list[np.ndarray]:
    """The features of all SAEs of a kind dealt anew among them: per SAE [d_sae, 2] of (SAE, feature)."""
    every = np.array([(a, i) for a, size in enumerate(sizes) for i in range(size)], np.int64).reshape(-1, 2)
    mixed = np.random.default_rng([seed, STREAMS["shuffled"]]).permutation(every)
    return np.split(mixed, np.cumsum(sizes)[:-1]) if sizes else []


def _rows_of(ladder: Sequence[Any], which: np.ndarray) -> Any:
    """Decoder rows [b, pos, d_model] of (SAE, feature) pairs [b, pos, 2]."""
    import torch

    out = torch.zeros(*which.shape[:2], ladder[0].decoder.shape[1])
    for at, sae in enumerate(ladder):
        here = torch.from_numpy(which[..., 0] == at)
        out[here] = sae.decoder[torch.from_numpy(which[..., 1])[here]]
    return out
