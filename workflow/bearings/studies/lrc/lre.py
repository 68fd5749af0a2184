"""Linear relational embeddings (section 2, equation 1; protocol 4.2): one affine map per relation, from Jacobians.

A map takes the residual at the subject's last token, entering block l_s, to the object's residual entering block l_o:
W and b are means over a few train prompts of each prompt's own Jacobian and intercept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any

import numpy as np
from tqdm import tqdm

from bearings.stages.dumps import Dump
from bearings.stages.prompts import Prompt
from bearings.studies.lrc.common import Task, tasks
from bearings.studies.lrc.concepts import Means, inverse, unit_rows
from bearings.studies.lrc.maps import Map, main_map, plan

SAMPLE_SEED = 42  # the authors' main benchmark never passes the split seed on


def sample_order(task: Task, n: int) -> list[Prompt]:
    """Train prompts for Jacobians: objects in turn, so that each comes once before any comes twice (protocol 4.2)."""
    by_object: dict[str, list[Prompt]] = {}
    for p in task.train:
        by_object.setdefault(p.extra["object"], []).append(p)
    objects = sorted(by_object)
    Random(SAMPLE_SEED).shuffle(objects)
    for name in objects:
        Random(f"{SAMPLE_SEED}{name}").shuffle(by_object[name])
    rounds = max(map(len, by_object.values()))
    turns = [by_object[name][r] for r in range(rounds) for name in objects if r < len(by_object[name])]
    return turns[:n]


def lre(
    prompts: Mapping[str, Sequence[Prompt]], dumps: Mapping[str, Dump], settings: Mapping[str, Any], model
) -> dict[str, np.ndarray]:
    """Maps of every task as "<task>/map/<map>/W" [d_model, d_model] and "b" [d_model], fp32; and Table 6's concepts.

    Table 6 asks for one sample of the concept's own object, or of another: its maps serve one object each and are
    not kept, only "<task>/single_same" and the like [n_objects, d_model].
    """
    out: dict[str, np.ndarray] = {}
    means = Means(dumps["train"])
    found = _Jacobians(model, plan(settings, model.n_layers, "published"), settings["chunk"])
    # The variants of a relation follow each other: most of their prompts are the same.
    work = sorted(tasks(prompts, dumps, settings), key=lambda t: (t.seed, t.relation, t.variant))
    for task in tqdm(work, desc="lre", unit="task", ascii=True):
        found.begin((task.seed, task.relation))
        wanted = plan(settings, model.n_layers, task.variant)
        alone: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        sums = {m: [0.0, 0.0] for m in wanted}
        order = sample_order(task, max(m.samples for m in wanted))
        one = main_map(settings)
        singles = task.variant == "corrected" and len(task.objects) <= min(
            settings["single_objects"], one.samples, len(order)
        )
        for number, p in enumerate(order):
            for m, w, b in found.of(p, [m for m in wanted if number < m.samples]):
                sums[m][0], sums[m][1] = sums[m][0] + w, sums[m][1] + b
                mine = (one.start, one.layer, "first")
                if singles and number < len(task.objects) and (m.start, m.layer, m.aggregation) == mine:
                    alone[task.index[p.extra["object"]]] = (w, b)
        for m, (w, b) in sums.items():
            n = min(m.samples, len(order))
            out[f"{task.key}/map/{m.name}/W"] = (w / n).astype(np.float32)
            out[f"{task.key}/map/{m.name}/b"] = (b / n).astype(np.float32)
        if singles:
            objects = means.first(task, one.layer)
            out |= {f"{task.key}/{k}": v for k, v in _singles(alone, objects, settings["sweep_rank"]).items()}
    return out


class _Jacobians:
    """Jacobians and intercepts by prompt; those of the `kept` maps serve both variants of a relation."""

    def __init__(self, model, kept: Sequence[Map], chunk: int):
        self._model, self._chunk = model, chunk
        self._keep = {_kind(m) for m in kept}
        self._relation: tuple = ()
        self._found: dict[tuple, tuple[np.ndarray, np.ndarray]] = {}

    def begin(self, relation: tuple) -> None:
        """Forget what was found for another relation, or the other split."""
        if relation != self._relation:
            self._relation, self._found = relation, {}

    def of(self, prompt: Prompt, maps: Sequence[Map]) -> Iterator[tuple[Map, np.ndarray, np.ndarray]]:
        """Jacobian [d_model, d_model] and intercept [d_model] for every map, fp64; the prefix is run once."""
        missing = [m for m in maps if (prompt.id, _kind(m)) not in self._found]
        new = dict(self._computed(prompt, missing)) if missing else {}
        self._found |= {(prompt.id, kind): value for kind, value in new.items() if kind in self._keep}
        for m in maps:
            value = new.get(_kind(m)) or self._found[prompt.id, _kind(m)]
            yield m, *value

    def _computed(self, prompt: Prompt, maps: Sequence[Map]):
        from bearings.lm.jacobian import linearise
        from bearings.lm.prefix import hold

        held = hold(self._model, prompt.ids, prompt.at("subject"), prompt.at("object"))
        for start in sorted({m.start for m in maps}):
            mine = [m for m in maps if m.start == start]
            layers, how = sorted({m.layer for m in mine}), sorted({m.aggregation for m in mine})
            found = linearise(held, prompt.positions["object"], start, layers, how, self._chunk)
            for kind in {_kind(m) for m in mine}:
                one = found[kind[1:]]
                yield kind, (one.W.double().cpu().numpy(), one.bias.double().cpu().numpy())


def _kind(m: Map) -> tuple[int, int, str]:
    """What a map's Jacobian hangs on; the number of samples only says over how many the mean goes."""
    return m.start, m.layer, m.aggregation


def _singles(
    alone: Mapping[int, tuple[np.ndarray, np.ndarray]], objects: np.ndarray, rank: int
) -> dict[str, np.ndarray]:
    """Concepts [n_objects, d_model] from maps of one sample each (Table 6, section 5 row 15, control C8).

    `single_same`: every concept by the map of its own object. `single_other`, as published: by the map of the first
    object, and that object's own by the second's. `single_distinct`: by the next object's map, all different.
    """
    n = len(objects)
    inverses = {i: (inverse(w, rank), b) for i, (w, b) in alone.items()}
    source = {
        "single_same": list(range(n)),
        "single_other": [1] + [0] * (n - 1),
        "single_distinct": [(i + 1) % n for i in range(n)],
    }
    return {
        name: unit_rows(
            np.stack([inverses[j][0] @ (objects[i] - inverses[j][1]) for i, j in enumerate(whose)])
        )
        for name, whose in source.items()
    }
