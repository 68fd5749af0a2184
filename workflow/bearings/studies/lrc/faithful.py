"""Faithfulness (background, arXiv 2308.09124): does the map itself, W s + b, unembed to the object's first token?"""

from __future__ import annotations

import pyarrow as pa
import torch

from bearings.lm import weights
from bearings.stages.inputs import Inputs, Outcomes
from bearings.studies.lrc.common import tasks
from bearings.studies.lrc.maps import first_map

SCHEMA = {
    "variant": pa.string(), "seed": pa.int32(), "relation": pa.string(), "category": pa.string(),
    "set": pa.string(), "prompt": pa.int32(), "right": pa.bool_(),
}  # fmt: skip


def faithful(inputs: Inputs) -> pa.Table:
    """One row per known prompt of a task: is the argmax of the unembedded W s + b the first answer token?"""
    out = Outcomes(SCHEMA)
    model, settings = inputs.model, inputs.settings
    last = first_map(settings, model.n_layers)
    for task in tasks(inputs.prompts, inputs.dumps, settings):
        w, b = (inputs.directions["lre"][f"{task.key}/map/{last.name}/{x}"] for x in "Wb")
        for name, prompts in (("train", task.train), ("test", task.test)):
            s = inputs.dumps[name].at("subject", [p.id for p in prompts], last.start)
            o = torch.from_numpy(s @ w.T + b).to(model.device, model.dtype)
            tops = weights.logits(model, o).argmax(-1).tolist()
            first = [p.ids[p.positions["object"][0] + 1] for p in prompts]
            out.add(
                variant=task.variant, seed=task.seed, relation=task.relation, category=task.category,
                set=name, prompt=[p.id for p in prompts],
                right=[x == y for x, y in zip(tops, first, strict=True)],
            )  # fmt: skip
    return out.table()
