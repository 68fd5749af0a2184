"""What the parts of the study share: which prompts the model knows, and the tasks that are left to do on them.

A task is one relation under one split of its samples; all methods of a variant do the same tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any

import numpy as np

from bearings.stages.dumps import Dump
from bearings.stages.prompts import Prompt

VARIANTS = ("published", "corrected")
EDITS_PER_OBJECT, EDITS_PER_PAIR = 5, 5


@dataclass(frozen=True, eq=False)
class Task:
    """One relation under one split: the known prompts of both kinds, and the objects that get a concept.

    `objects` are those of the known train prompts, in order of appearance; `test` has known zero-shot prompts whose
    object is among them. `variant` says how the prompts were made: as published, or corrected.
    """

    variant: str
    seed: int
    relation: str
    category: str
    objects: tuple[str, ...]
    train: tuple[Prompt, ...]
    test: tuple[Prompt, ...]

    @property
    def key(self) -> str:
        """Name of the task in files of directions."""
        return f"{self.variant}/{self.seed}/{self.relation}"

    @cached_property
    def index(self) -> dict[str, int]:
        """Number of each object, the row of its concept."""
        return {name: i for i, name in enumerate(self.objects)}

    def labels(self, prompts: Sequence[Prompt]) -> np.ndarray:
        """Object numbers [n] of prompts."""
        return np.array([self.index[p.extra["object"]] for p in prompts], dtype=np.int64)

    def rng(self, *purpose: Any) -> np.random.Generator:
        """A generator that hangs on the task and the purpose alone."""
        return np.random.default_rng(list(Random(f"{self.key} {purpose}").randbytes(16)))


@dataclass(frozen=True)
class Pair:
    """One edit to make: `prompt` shall be answered with object `target` instead of its own, `source`."""

    prompt: Prompt
    source: int
    target: int


def known(prompts: Sequence[Prompt], dump: Dump) -> set[int]:
    """Ids of prompts whose answer the model gives: protocol 3.4, teacher-forced.

    `dump.predicted` holds the argmax at each position that predicts an answer token.
    """
    out = set()
    for p in prompts:
        rows = dump.rows.get((p.id, "object"))
        if (
            p.usable
            and rows
            and all(
                dump.predicted[row] == p.ids[at + 1]
                for row, at in zip(rows, p.positions["object"], strict=True)
            )
        ):
            out.add(p.id)
    return out


def serves(prompt: Prompt, variant: str) -> bool:
    """Is it a prompt of that variant?"""
    return prompt.extra["variant"] in (variant, "both")


def tasks(
    prompts: Mapping[str, Sequence[Prompt]], dumps: Mapping[str, Dump], settings: Mapping[str, Any]
) -> list[Task]:
    """Every task that survives the filters of section 3: known prompts, and relations with enough of them.

    A relation needs `min_test` known zero-shot prompts, counted before those are restricted to objects with a
    concept, and at least two such objects: with one, there is nothing to tell apart.
    """
    fine = {name: known(prompts[name], dumps[name]) for name in ("train", "test")}
    groups: dict[tuple[str, int, str], dict[str, list[Prompt]]] = {}
    for name in ("train", "test"):
        for p in prompts[name]:
            if p.id not in fine[name]:
                continue
            for variant in VARIANTS:
                for seed in p.extra["seeds"] if serves(p, variant) else ():
                    key = (variant, seed, p.extra["relation"])
                    groups.setdefault(key, {"train": [], "test": []})[name].append(p)
    out = []
    for (variant, seed, relation), mine in sorted(groups.items()):
        objects = tuple(dict.fromkeys(p.extra["object"] for p in mine["train"]))
        if len(mine["test"]) < settings["min_test"] or len(objects) < 2:
            continue
        test = tuple(p for p in mine["test"] if p.extra["object"] in objects)
        if test:
            category = test[0].extra["category"]
            out.append(Task(variant, seed, relation, category, objects, tuple(mine["train"]), test))
    return out


def edits(task: Task, prompts: Sequence[Prompt]) -> list[Pair]:
    """Edits to make on `prompts` of a task: protocol 4.5.

    Candidates are ordered pairs of objects, up to five prompts each; five candidates per source object are drawn.
    As published the target's prompt is drawn too, though only its answer is used, so that edits repeat; corrected,
    pairs of prompt and target are distinct (section 5, row 8).
    """
    by_object: dict[int, list[Prompt]] = {}
    for p in prompts:
        by_object.setdefault(task.index[p.extra["object"]], []).append(p)
    out = []
    for source, mine in sorted(by_object.items()):
        rng = task.rng("edits", len(prompts), source)
        candidates = []
        for target, theirs in sorted(by_object.items()):
            if target == source:
                continue
            few = [mine[i] for i in rng.permutation(len(mine))[:EDITS_PER_PAIR]]
            copies = min(len(theirs), EDITS_PER_PAIR) if task.variant == "published" else 1
            candidates += [Pair(p, source, target) for p in few for _ in range(copies)]
        chosen = rng.permutation(len(candidates))[:EDITS_PER_OBJECT]
        out += [candidates[i] for i in sorted(chosen)]
    return out


def answers(task: Task) -> dict[int, tuple[int, ...]]:
    """Answer tokens of each object that has a prompt, by its number."""
    out: dict[int, tuple[int, ...]] = {}
    for p in (*task.test, *task.train):
        first = p.positions["object"][0] + 1
        out.setdefault(task.index[p.extra["object"]], p.ids[first:])
    return out


def concept_key(task: Task, method: str) -> str:
    """Name of a method's concepts [n_objects, d_model] of a task in its file."""
    return f"{task.key}/{method}"
