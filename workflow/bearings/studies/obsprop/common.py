"""What the parts of the study share: tasks and their observables, read back from the prompts.

The set `pairs` carries all that later stages need of the lists: rows of the split `pair` are linearisation prompts,
rows of the split `observable` hold an observable's tokens and the published paths of its features.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from bearings.stages.prompts import Prompt

TASKS = {
    "subj": "n_subj",
    "obj": "n_obj",
    "occ": "n_bias",
    "party": "party",
    "code1": "code1",
    "code2": "code2",
}
NAME_TASKS = ("subj", "obj", "occ")
NEEDED_PAIRS = (*NAME_TASKS, "party", "code1")
CONTROL = "control"
NEEDED_OBSERVABLES = (*(TASKS[task] for task in NEEDED_PAIRS), CONTROL)
GENDERS = ("male", "female")  # by label
Prompts = Mapping[str, Sequence[Prompt]] | Sequence[Prompt]


def observables(prompts: Prompts) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """(positive, negative) token ids of every observable whose words are one token each, in the lists' order.

    `prompts` are the study's sets by name, or the set `pairs` alone.
    """
    return {p.text: (p.positive, p.negative) for p in _rows(prompts, "observable") if p.usable}


def vector(prompts: Prompts, name: str, d_vocab: int) -> np.ndarray:
    """An observable n [d_vocab], float32: +1 for each positive token, -1 for each negative one, not normalised.

    Raises:
        ValueError: no such observable, or why it cannot be used.
    """
    found = next((p for p in _rows(prompts, "observable") if p.text == name), None)
    if found is None or not found.usable:
        raise ValueError(found.why if found else f"no observable '{name}'")
    n = np.zeros(d_vocab, np.float32)
    np.add.at(n, list(found.positive), 1)
    np.add.at(n, list(found.negative), -1)
    return n


def pair(prompts: Prompts, task: str) -> tuple[Prompt, Prompt]:
    """The linearisation prompts (A, B) of a task, A of the positive class.

    Raises:
        ValueError: the task has none, or why they cannot be used.
    """
    mine = {p.extra["side"]: p for p in _rows(prompts, "pair") if p.extra["task"] == task}
    if not mine:
        raise ValueError(f"task '{task}' has no linearisation pair")
    bad = [p for p in mine.values() if not p.usable]
    if bad:
        raise ValueError(f"task '{task}' cannot be linearised: {bad[0].why}")
    return mine["a"], mine["b"]


def has_pair(prompts: Prompts, task: str) -> bool:
    """Has the task a linearisation pair that can be used?"""
    mine = [p for p in _rows(prompts, "pair") if p.extra["task"] == task]
    return bool(mine) and all(p.usable for p in mine)


def published_paths(prompts: Prompts) -> dict[str, tuple[str, ...]]:
    """Component paths that the lists name, each from the output down; empty where the lists have none."""
    out: dict[str, tuple[str, ...]] = {}
    for p in _rows(prompts, "observable"):
        out |= {name: tuple(path) for name, path in json.loads(p.extra["paths"] or "{}").items()}
    return out


def _rows(prompts: Prompts, split: str) -> list[Prompt]:
    rows = prompts["pairs"] if isinstance(prompts, Mapping) else prompts
    return [p for p in rows if p.split == split]
