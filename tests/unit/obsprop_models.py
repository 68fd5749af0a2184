"""Names and observables by hand for tests of the obsprop study: prompts as token ids on tiny random models."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from lm_models import D_VOCAB, model

from bearings.stages.dumps import Dump, dump, load_dump
from bearings.stages.inputs import Inputs
from bearings.stages.prompts import Prompt
from bearings.studies.obsprop.fit import fit

# Tokens from 3 on are words. Observables as +1/-1 token ids; the tasks about names ask for the first three.
OBSERVABLES: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "n_subj": ((5,), (6,)),
    "n_obj": ((7,), (8,)),
    "n_bias": ((9, 10), (11, 12)),
    "control": ((13,), (14,)),
    "party": ((15,), (16,)),
    "code1": ((17,), (18,)),
}
ASKED = {"subj": "n_subj", "obj": "n_obj", "occ": "n_bias", "party": "party", "code1": "code1"}
NAMES = {"female": (30, 31, 32, 33), "male": (40, 41, 42, 43)}
# Tokens around the name, by task and template.
FRAMES = {
    "subj": (((1, 20), (21, 22)), ((1, 23), (24,))),
    "obj": (((1, 20, 25), (26,)), ((1, 27), (28, 22))),
    "occ": (((1, 29), (21,)), ((1, 23), (25, 26))),
}
SETTINGS: Mapping[str, Any] = {
    "layers": "all",
    "max_tokens": 64,
    "random_draws": 3,
    "paths": "search",
    "mistaken_layer": 1,
    "random_observables": 5,
    "heads": "all",
    "length": 3,
    "beam": 4,
}


def names() -> list[Prompt]:
    """Two templates of each task with four names of each gender."""
    out: list[Prompt] = []
    for task, frames in FRAMES.items():
        positive, negative = OBSERVABLES[ASKED[task]]
        for t, (before, after) in enumerate(frames):
            for label, gender in ((1, "female"), (0, "male")):
                for i, name in enumerate(NAMES[gender]):
                    ids = (*before, name, *after)
                    at = {"name": (len(before),), "bos": (0,), "end": (len(ids) - 1,)}
                    extra = {"task": task, "observable": ASKED[task], "template": t, "name": f"w{name}"}
                    extra |= {"gender": gender, "pair": t * 4 + i, "mixed": i == 3, "held_out": i == 2}
                    out.append(Prompt(len(out), "names", "", ids, label, at, positive, negative, extra=extra))
    return out


def pairs() -> list[Prompt]:
    """A linearisation pair of every task, then one row for every observable."""
    out: list[Prompt] = []
    for task, observable in ASKED.items():
        positive, negative = OBSERVABLES[observable]
        before, after = FRAMES.get(task, FRAMES["subj"])[0]
        for label, side, name in ((1, "a", 34), (0, "b", 44)):
            ids = (*before, name, *after)
            at = {"source": (len(before),), "end": (len(ids) - 1,)}
            extra = {"task": task, "observable": observable, "side": side}
            out.append(Prompt(len(out), "pair", "", ids, label, at, positive, negative, extra=extra))
    for observable, (positive, negative) in OBSERVABLES.items():
        extra = {"task": "", "observable": observable, "side": "", "paths": ""}
        out.append(
            Prompt(
                len(out), "observable", observable, (1,), None, {"end": (0,)}, positive, negative, extra=extra
            )
        )
    return out


def text(count: int = 12, length: int = 9) -> list[Prompt]:
    """Windows of random tokens, of two lengths."""
    rng = np.random.default_rng(3)
    out = []
    for i in range(count):
        ids = tuple(rng.integers(3, D_VOCAB, length - i % 2).tolist())
        at = {"tokens": tuple(range(len(ids))), "end": (len(ids) - 1,)}
        out.append(Prompt(i, "text", "", ids, None, at, (), (), extra={"document": i // 3, "window": i % 3}))
    return out


@cache
def inputs(family: str, **settings: Any) -> Inputs:
    """Everything an experiment gets, on a tiny random model."""
    given = {**SETTINGS, **settings}
    prompts = {"names": names(), "pairs": pairs(), "text": text()}
    made = model(family)
    dumps: dict[str, Dump] = {"names": run_dump(made, prompts["names"], ("name", "bos", "end"))}
    found = {m: fit(m, prompts, dumps, given, 0, made) for m in ("heads", "paths", "random")}
    return Inputs(prompts, dumps, found, given, 0, made)


def run_dump(made, prompts, positions) -> Dump:
    """The residuals of prompts at named positions."""
    import pyarrow as pa

    return load_dump(pa.concat_tables(list(dump(made, prompts, positions, 256))))
