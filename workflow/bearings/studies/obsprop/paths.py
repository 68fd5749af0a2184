"""Features of paths from two prompts: which paths, and with the norms handled in which ways (protocol 4.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bearings.lm.propagate import MODES, Head, parse_path, show_path
from bearings.stages.prompts import Prompt
from bearings.studies.obsprop.common import NAME_TASKS, TASKS, published_paths
from bearings.studies.obsprop.search import Component, Found, Setting, composed, find, settle, singles

TASK_OF = {observable: task for task, observable in TASKS.items()}


def features(model, prompts: Sequence[Prompt], settings: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Path features [d_model] by "<name>/<path>/<mode>".

    Setting `paths`: `published` takes the paths of the lists, `search` finds them on each task's own two prompts,
    among those that end with a head reading the source position (any, where the pair names none): `path1`, `path2`,
    ... are the best of their lengths, `head` is the best of all, and for the tasks about names `shared` is the best
    that ends with the subject's head.
    """
    traced = {task: settle(model, prompts, task) for task in TASKS}
    if settings["paths"] == "published":
        chosen = {name: parse_path(path) for name, path in published_paths(prompts).items()}
    else:
        chosen = searched(traced, prompts, settings["length"], settings["beam"])
    out = {}
    for name, path in chosen.items():
        setting = traced[TASK_OF[name.split(".")[0]]]
        if setting is not None:
            out |= {f"{name}/{show_path(path)}/{mode}": composed(setting, path, mode) for mode in MODES}
    return out


def searched(
    traced: Mapping[str, Setting | None], prompts: Sequence[Prompt], length: int, beam: int
) -> dict[str, tuple[Component, ...]]:
    """The paths by name that the two prompts of each task single out."""
    settings = {task: s for task, s in traced.items() if s is not None}
    source = {p.extra["task"]: p.positions["source"][-1] for p in prompts if "source" in p.positions}
    readers = {task: reading(s, source.get(task), length, beam) for task, s in settings.items()}
    out: dict[str, tuple[Component, ...]] = {}
    for task, rows in readers.items():
        for k in range(1, length + 1):
            out |= _best(f"{TASKS[task]}.path{k}", [f for f in rows if len(f.path) == k])
        out |= _best(f"{TASKS[task]}.head", rows)
    end = out["n_subj.head"][-1] if "n_subj.head" in out else None
    for task in NAME_TASKS if end else ():
        rows = readers.get(task, ())
        here = [f for f in rows if (f.path[-1].layer, f.path[-1].head) == (end.layer, end.head)]
        out |= _best(f"{TASKS[task]}.shared", here)
    return out


def reading(setting: Setting, source: int | None, length: int, beam: int) -> list[Found]:
    """Paths that end with a head reading the source position (None: any position): those of the beam, and every
    single head, which for a model without the task may all lie outside of it."""
    rows = [f for found in find(setting, length, beam) for f in found]
    rows += [f for f in singles(setting) if f.path not in {g.path for g in rows}]
    return [f for f in rows if isinstance(f.path[-1], Head) and source in (None, f.path[-1].position)]


def _best(name: str, rows: Sequence[Found]) -> dict[str, tuple[Component, ...]]:
    return {name: max(rows, key=lambda f: f.score).path} if rows else {}
