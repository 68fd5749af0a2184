"""Protocol section 4.1: what baseline directions are drawn from, the residuals of the study's own rows.

The pool is every position but the first; BOS inside a row stays in it. It is streamed: no more than a piece, the sums
and the drawn rows are held.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bearings.stages.dumps import Dump
from bearings.stages.prompts import Prompt
from bearings.stages.read import Dumps

NEEDS_MODEL: frozenset[str] = frozenset()
SET, POSITION = "rows", "tokens"
# Added to the variance along every axis, as published, so that the covariance has a Cholesky factor.
RIDGE = 0.01
STREAM = 21  # of the reservoir's draw


class Moments:
    """Mean [d] and covariance [d, d] of rows that come in pieces, in float64 (Chan, Golub, LeVeque 1979).

    Each piece is centred on its own mean before it is squared, so that a mean far from 0 costs no digits.
    """

    def __init__(self, d: int):
        self.n, self.mean = 0, np.zeros(d)
        self._scatter = np.zeros((d, d))

    def add(self, rows: np.ndarray) -> None:
        """Take in rows [n, d]."""
        if not len(rows):
            return
        x = rows.astype(np.float64)
        n, mean = len(x), x.mean(0)
        x -= mean
        gap, total = mean - self.mean, self.n + n
        self._scatter += x.T @ x + np.outer(gap, gap) * (self.n * n / total)
        self.mean = self.mean + gap * (n / total)
        self.n = total

    @property
    def covariance(self) -> np.ndarray:
        """Unbiased: the scatter over n - 1."""
        return self._scatter / (self.n - 1)


def fit(
    method: str,
    prompts: Mapping[str, Sequence[Prompt]],
    dumps: Dumps,
    settings: Mapping[str, Any],
    seed: int,
    model=None,
) -> dict[str, np.ndarray]:
    """Arrays of the one method `pool`, for each layer that is dumped; see `pool`."""
    if method != "pool":
        raise ValueError(f"unknown method {method!r}; allowed: pool")
    return pool(dumps, settings["reservoir_rows"], seed)


def pool(dumps: Dumps, reservoir_rows: int, seed: int, rows: int = 4096) -> dict[str, np.ndarray]:
    """Statistics of the residuals at each layer l.

    `mean/<l>` [d] float64. `factor/<l>` [d, d] float32: lower, factor @ factor.T = S + 0.01 I with S the unbiased
    covariance, so that mean + factor @ z is a sample. `reservoir/<l>` [k, d] float32: k = `reservoir_rows` rows of
    the pool (all, if it has fewer), drawn without replacement, the same ones at every layer, in the order of the
    dump. `norms/<l>` [3] float64: mean and median norm of the pool's rows, and the mean norm with position 0 in it.

    `rows` are in memory at a time; the reservoir and the norms' median do not depend on it, sums but for rounding.

    Raises:
        ValueError: a pool of fewer than two rows has no covariance.
    """
    n = sum(int(_tokens(piece)[1].sum()) for piece in dumps.stream(SET, rows, layers=()))
    if n < 2:
        raise ValueError(f"{SET}: {n} rows behind position 0; a covariance needs at least 2")
    k = min(reservoir_rows, n)
    drawn = np.zeros(n, dtype=bool)
    drawn[np.random.default_rng([seed, STREAM]).choice(n, k, replace=False)] = True

    d, layers = dumps.width(SET), dumps.layers(SET)
    moments = {layer: Moments(d) for layer in layers}
    reservoir = {layer: np.empty((k, d), dtype=np.float32) for layer in layers}
    norms: dict[int, list[np.ndarray]] = {layer: [] for layer in layers}
    inner: list[np.ndarray] = []
    seen = filled = 0
    for piece in dumps.stream(SET, rows):
        everywhere, behind = _tokens(piece)
        inner.append(behind[everywhere])
        here = drawn[seen : seen + behind.sum()]
        for layer, x in piece.resid.items():
            norms[layer].append(np.linalg.norm(x[everywhere].astype(np.float64), axis=1))
            x = x[behind]
            moments[layer].add(x)
            reservoir[layer][filled : filled + here.sum()] = x[here]
        seen, filled = seen + len(here), filled + int(here.sum())

    out: dict[str, np.ndarray] = {}
    pooled = np.concatenate(inner)
    for layer in layers:
        lengths = np.concatenate(norms[layer])
        within = lengths[pooled]
        out[f"mean/{layer}"] = moments[layer].mean
        out[f"factor/{layer}"] = factor(moments[layer].covariance)
        out[f"reservoir/{layer}"] = reservoir[layer]
        out[f"norms/{layer}"] = np.array([within.mean(), np.median(within), lengths.mean()])
    return out


def factor(covariance: np.ndarray) -> np.ndarray:
    """Lower Cholesky factor [d, d] of S' = S + 0.01 I, computed in float64, kept in float32."""
    return np.linalg.cholesky(covariance + RIDGE * np.eye(len(covariance))).astype(np.float32)


def _tokens(piece: Dump) -> tuple[np.ndarray, np.ndarray]:
    """Rows [n] of a piece that are tokens, and those of them behind position 0."""
    tokens = piece.name == POSITION
    return tokens, tokens & (piece.position > 0)
