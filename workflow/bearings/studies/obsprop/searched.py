"""The experiment `search`: what the two prompts of every task single out, as published and over the full range."""

from __future__ import annotations

import pyarrow as pa

from bearings.lm.propagate import show_path
from bearings.stages.inputs import Inputs, Outcomes
from bearings.studies.obsprop.dense import dense
from bearings.studies.obsprop.search import CORRECTED, PUBLISHED, Found, find, settle

SCHEMA = {
    "task": pa.string(), "variant": pa.string(), "length": pa.int32(), "rank": pa.int32(),
    "path": pa.string(), "score": pa.float64(),
}  # fmt: skip
DENSE = "dense"


def search(inputs: Inputs) -> pa.Table:
    """The best paths of every task with a linearisation pair, and components with their dense end where the pair
    names a position."""
    out = Outcomes(SCHEMA)
    prompts, settings = inputs.prompts["pairs"], inputs.settings
    source = {p.extra["task"]: p.positions["source"][-1] for p in prompts if "source" in p.positions}
    for task in dict.fromkeys(p.extra["task"] for p in prompts if p.split == "pair"):
        setting = settle(inputs.model, prompts, task)
        if setting is None:
            continue
        for variant in (PUBLISHED, CORRECTED):
            for found in find(setting, settings["length"], settings["beam"], variant):
                _add(out, task, variant, found)
        if task in source:
            _add(out, task, DENSE, dense(setting, source[task])[: settings["beam"]])
    return out.table()


def _add(out: Outcomes, task: str, variant: str, found: list[Found]) -> None:
    out.add(
        task=task, variant=variant, length=len(found[0].path), rank=list(range(1, len(found) + 1)),
        path=[show_path(f.path) for f in found], score=[f.score for f in found],
    )  # fmt: skip
