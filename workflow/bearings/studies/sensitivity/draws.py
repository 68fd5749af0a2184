"""Directions drawn once per row and position and kept for every length (protocol 4.1).

Every row has its own random stream, so that nothing hangs on which rows share a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# Streams of the random numbers; two kinds of direction never share one.
STREAMS = {
    "iso": 21, "iso2": 22, "cov_mixture": 23, "cov_difference": 24, "real_mixture": 25, "real_difference": 26,
    "orthogonal": 27, "feature": 31, "random": 32, "through": 33, "labels": 34, "shuffled": 35,
}  # fmt: skip
DRAWN = ("iso", "iso2", "iso_published", "cov_difference", "cov_mixture", "real_difference", "real_mixture")
FIXED = ("zero", "ones")


@dataclass(frozen=True, eq=False)
class Pool:
    """What the directions of a layer are drawn from; position 0 is in none of it.

    mean [d]; factor [d, d], the Cholesky factor of S'; reservoir [k, d] of residuals; mean and median norm.
    """

    layer: int
    mean: np.ndarray
    factor: np.ndarray
    reservoir: np.ndarray
    norm: float
    median_norm: float


def pool(directions: Mapping[str, np.ndarray], layer: int) -> Pool:
    """The pool of one layer, from the method `pool`."""
    mean_norm, median_norm = (float(x) for x in directions[f"norms/{layer}"][:2])
    return Pool(
        layer,
        directions[f"mean/{layer}"],
        directions[f"factor/{layer}"],
        directions[f"reservoir/{layer}"],
        mean_norm,
        median_norm,
    )


def draw(kind: str, x: np.ndarray, sequences: Sequence[int], pool: Pool, seed: int) -> np.ndarray:
    """Directions [b, pos, d_model], float32, of any length, at residuals x [b, pos, d_model].

    kind: `iso` g ~ N(0, I); `iso2` an independent second set; `iso_published` (median norm) g - x, as in the authors'
    code (T1); `cov_difference` v - x and `cov_mixture` v1 - v2 of v ~ N(mean, S'); `real_difference` x' - x and
    `real_mixture` x' - x'' of rows of the pool; `zero` -x; `ones` the all-ones vector, which layer norms remove.
    """
    if kind == "ones":
        return np.ones_like(x, np.float32)
    if kind == "zero":
        return -x.astype(np.float32)
    return np.stack([_one(kind, row, s, pool, seed) for row, s in zip(x, sequences, strict=True)])


def normal(kind: str, shape: tuple[int, ...], *key: int) -> np.ndarray:
    """Standard normal numbers of a stream of their own."""
    return np.random.default_rng([*key, STREAMS[kind]]).standard_normal(shape)


def cosines(directions: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Mean over positions 1 on of cos(d, x) [b]."""
    d, x = (np.asarray(a[:, 1:], np.float64) for a in (directions, x))
    lengths = np.linalg.norm(d, axis=-1) * np.linalg.norm(x, axis=-1)
    return ((d * x).sum(-1) / np.maximum(lengths, np.finfo(np.float64).tiny)).mean(-1)


def _one(kind: str, x: np.ndarray, sequence: int, pool: Pool, seed: int) -> np.ndarray:
    key = (seed, pool.layer, sequence)
    if kind in ("iso", "iso2"):
        found = normal(kind, x.shape, *key)
    elif kind == "iso_published":
        found = pool.median_norm * normal("iso", x.shape, *key) - x
    elif kind == "cov_mixture":
        # The difference of two samples is sqrt(2) times one sample without its mean.
        found = normal(kind, x.shape, *key) @ pool.factor.T
    elif kind == "cov_difference":
        found = pool.mean + normal(kind, x.shape, *key) @ pool.factor.T - x
    elif kind == "real_difference":
        found = pool.reservoir[_picked(kind, len(x), pool, key)] - x
    elif kind == "real_mixture":
        found = _pairs(len(x), pool, key)
    else:
        raise ValueError(f"no direction {kind!r}; allowed: {', '.join(DRAWN + FIXED)}")
    return found.astype(np.float32)


def _pairs(n: int, pool: Pool, key: tuple[int, ...]) -> np.ndarray:
    """n differences of rows of the reservoir. Equal rows, which a small vocabulary has, give no direction."""
    spare = n // 4 + 2
    picked = _picked("real_mixture", 2 * (n + spare), pool, key)
    found = pool.reservoir[picked[::2]] - pool.reservoir[picked[1::2]]
    found = found[found.any(-1)]
    if len(found) < n:
        raise ValueError(f"layer {pool.layer}: too many rows of the pool are equal to draw {n} differences")
    return found[:n]


def _picked(kind: str, n: int, pool: Pool, key: tuple[int, ...]) -> np.ndarray:
    """Rows of the reservoir, none of them twice."""
    if n > len(pool.reservoir):
        raise ValueError(
            f"key 'reservoir_rows': a row needs {n} residuals, the pool holds {len(pool.reservoir)}"
        )
    rng = np.random.default_rng([*key, STREAMS[kind]])
    return rng.choice(len(pool.reservoir), n, replace=False)
