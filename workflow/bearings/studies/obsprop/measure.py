"""Outcomes become named measures with intervals (protocol sections 2 and 6). The first part of a name says which part
of the study: `answers`, `weights`, `patch`, `search`, `coupling`, `bias`, `ln`, `scores`, `lowdata`, `tokens` or
`debias`.

A head is named by its rank of |attribution| for the subject pronoun (`top1`), since numbers mean nothing on another
model, and by its number (`17.14`) where the paper published something of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pandas as pd

from bearings.evidence.stats import Estimate
from bearings.stages.inputs import Inputs
from bearings.stages.prompts import Prompt
from bearings.studies.obsprop import measure_debias, measure_layernorm, measure_lowdata, measure_readout
from bearings.studies.obsprop.common import TASKS
from bearings.studies.obsprop.measure_agreement import agreement
from bearings.studies.obsprop.measure_coupling import coupling
from bearings.studies.obsprop.measure_patching import Measures, patching, plain, ranking
from bearings.studies.obsprop.measure_paths import paths
from bearings.studies.obsprop.measure_search import search
from bearings.studies.obsprop.measure_weights import weights

# Comparisons as published have one training size per method, which hangs on how much data there is.
PUBLISHED = re.compile(r"(lowdata\.\w+\.published\.\w+)\.n\d+(\.r)?")


def measure(inputs: Inputs, outcomes: Mapping[str, pd.DataFrame]) -> Measures:
    """Every measure of the study on one model, by name."""
    options = {"seed": inputs.seed, "resamples": inputs.settings["resamples"]}
    ranks = ranking(outcomes["patching"], "subj")
    out = {
        **answers(inputs.prompts, outcomes["scores"]),
        **weights(outcomes["weights"], ranks),
        **patching(outcomes["patching"], options),
        **agreement(outcomes["patching"], outcomes["weights"], options),
        **search(outcomes["search"], sources(inputs.prompts)),
        **coupling(outcomes["coupling"], ranks, options),
        **paths(inputs.directions["paths"], outcomes["weights"]),
        **measure_layernorm.measure(outcomes["layernorm"], options),
        **measure_readout.measure(outcomes["scores"], options),
        **measure_lowdata.measure(outcomes["lowdata"], options),
        **measure_debias.measure_tokens(outcomes["tokens"], options),
        **measure_debias.measure(outcomes["debias"], options),
    }
    found = {name: PUBLISHED.fullmatch(name) for name in out}
    return out | {m[1] + (m[2] or ""): out[name] for name, m in found.items() if m}


def sources(prompts: Mapping[str, Sequence[Prompt]]) -> dict[str, int]:
    """Task -> position of the name in its linearisation pair, where the pair names one."""
    return {p.extra["task"]: p.at("source") for p in prompts["pairs"] if "source" in p.positions}


def answers(prompts: Mapping[str, Sequence[Prompt]], scores: pd.DataFrame) -> Measures:
    """`answers.<task>.<a or b>`: n . logits of the linearisation prompts themselves."""
    known = scores[scores["set"] == "pairs"].set_index("prompt")["output"]
    asked = {(p.extra["task"], p.extra["side"]): p for p in prompts["pairs"] if p.split == "pair"}
    out = {}
    for task in TASKS:
        for side in ("a", "b"):
            p, where = asked.get((task, side)), f"answers.{task}.{side}"
            if p is not None and p.id in known.index:
                out[where] = plain(known.loc[p.id], 1, "logits", p.text)
            else:
                why = "the lists have no such pair" if p is None else p.why or "its output was not kept"
                out[where] = Estimate.missing(why, 0, "logits")
    return out
