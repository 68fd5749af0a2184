"""Concepts (equation 2; protocol 4.3): a relation's map, inverted at low rank, takes objects to directions.

v_o is the unit vector along the mean over train prompts of W+_r (o - b), in the residual stream of the subject.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bearings.stages.dumps import Dump
from bearings.stages.prompts import Prompt
from bearings.studies.lrc.common import Task, tasks
from bearings.studies.lrc.maps import Map, first_map, main_map, swept


class Means:
    """Mean object residuals [n_objects, d_model] of a task's known train prompts, out of a dump."""

    def __init__(self, dump: Dump):
        self._dump = dump

    def mean(self, task: Task, layer: int, labels: np.ndarray | None = None) -> np.ndarray:
        """Each prompt's mean over the positions that predict its answer, then the mean over an object's prompts."""
        x = self._dump.mean_at("object", [p.id for p in task.train], layer)
        return _by_label(x, task.labels(task.train) if labels is None else labels, len(task.objects))

    def first(self, task: Task, layer: int) -> np.ndarray:
        """The same at the position that predicts the first answer token."""
        rows = [self._dump.rows[p.id, "object"][0] for p in task.train]
        return _by_label(self._dump.resid[layer][rows], task.labels(task.train), len(task.objects))


def _by_label(x: np.ndarray, labels: np.ndarray, n: int) -> np.ndarray:
    return np.stack([x[labels == i].mean(0, dtype=np.float64) for i in range(n)])


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Rows of length one, float32; a row of zeros stays: a map that carries nothing points nowhere."""
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    return (x / np.where(length > 0, length, 1.0)).astype(np.float32)


class Svd:
    """W = U S V^T once, in fp32 as the paper, for inverses of every rank; fp64 for an fp64 W."""

    def __init__(self, w: np.ndarray):
        self.u, self.s, self.vt = np.linalg.svd(w, full_matrices=False)

    def inverse(self, rank: int) -> np.ndarray:
        """W+_r [d_model, d_model], the Moore-Penrose inverse of the truncation to `rank`."""
        return (self.vt[:rank].T * self._inverted(rank)) @ self.u[:, :rank].T

    def scrambled(self, rank: int, rng: np.random.Generator) -> np.ndarray:
        """The inverse with random singular vectors and these singular values: control C1."""
        d, scale = len(self.s), self._inverted(rank)
        u, v = (np.linalg.qr(rng.standard_normal((d, len(scale))))[0] for _ in range(2))
        return (v * scale) @ u.T

    def _inverted(self, rank: int) -> np.ndarray:
        """1 / s of the largest `rank` singular values."""
        s = self.s[:rank]
        # A value below the rounding of the largest is noise: that direction the map has not, nor can it be
        # inverted, and 1 / noise would drown all the others.
        return np.divide(1.0, s, out=np.zeros_like(s), where=s > np.finfo(s.dtype).eps * s[0])


def inverse(w: np.ndarray, rank: int) -> np.ndarray:
    """W+_r of one map [d_model, d_model]."""
    return Svd(w.astype(np.float32)).inverse(rank)


def concepts(inverted: np.ndarray, objects: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Concepts [n_objects, d_model] of object means [n_objects, d_model]; invariant to the scale of W."""
    return unit_rows((objects - b) @ inverted.T)


def lrc(
    prompts: Mapping[str, Sequence[Prompt]],
    dumps: Mapping[str, Dump],
    settings: Mapping[str, Any],
    maps: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Concepts of every task by every method that rests on its maps, as "<task>/<method>" [n_objects, d_model].

    "<task>/spectrum" [d_model] are the singular values of the main map.
    """
    out: dict[str, np.ndarray] = {}
    means = Means(dumps["train"])
    n_layers = max(dumps["train"].layers)
    one, rank = main_map(settings), settings["rank"]
    first_mid = first_map(settings, one.layer)
    first_final = first_map(settings, n_layers)
    for task in tasks(prompts, dumps, settings):
        read = _Maps(maps, task)
        svd = read.svd(one)
        objects, b = means.mean(task, one.layer), read.b(one)
        made = {
            "lrc": concepts(svd.inverse(rank), objects, b),
            "first_final": concepts(
                read.svd(first_final).inverse(rank), means.first(task, n_layers), read.b(first_final)
            ),
        }
        if task.variant == "corrected":
            shuffled = task.rng("permuted").permutation(task.labels(task.train))
            made |= {
                "first_mid": concepts(
                    read.svd(first_mid).inverse(rank), means.first(task, one.layer), read.b(first_mid)
                ),
                "transpose": concepts(read.w(one).T, objects, b),
                "full_rank": concepts(svd.inverse(len(svd.s)), objects, b),
                "scrambled": concepts(svd.scrambled(rank, task.rng("scrambled")), objects, b),
                "permuted": concepts(svd.inverse(rank), means.mean(task, one.layer, shuffled), b),
                "spectrum": svd.s,
            }
            for name, (m, r) in swept(settings).items():
                made[name] = concepts(read.svd(m).inverse(r), means.mean(task, m.layer), read.b(m))
        out |= {f"{task.key}/{name}": value for name, value in made.items()}
    return out


class _Maps:
    """The maps of one task; each is decomposed once."""

    def __init__(self, maps: Mapping[str, np.ndarray], task: Task):
        self._maps, self._task = maps, task
        self._svd: dict[Map, Svd] = {}

    def w(self, m: Map) -> np.ndarray:
        return self._maps[f"{self._task.key}/map/{m.name}/W"]

    def b(self, m: Map) -> np.ndarray:
        return self._maps[f"{self._task.key}/map/{m.name}/b"]

    def svd(self, m: Map) -> Svd:
        if m not in self._svd:
            self._svd[m] = Svd(self.w(m))
        return self._svd[m]
