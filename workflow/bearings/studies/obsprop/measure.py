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
# Measures that hang on heads, layers and sizes that only some models and scales have -> the prompts they rest on.
NOT_EVERYWHERE = {
    **dict.fromkeys(
        (
            *(f"ln.head.17.14.subj.{part}" for part in ("norm.g0", "coupling.g0.g1", "cos.g0.g1")),
            *("ln.grad_norm.subj.g0", "ln.input_norm.final", "ln.input_norm.l0", "ln.input_norm.l21"),
            *(f"ln.tangent.subj.g{i}.g{j}" for i in range(3) for j in range(3)),
            *(f"lowdata.pronoun.published.{m}" for m in ("obsprop", "regression", "mean_diff")),
            *(f"lowdata.pronoun.obsprop_minus_{m}.n{k}" for m in ("regression", "mean_diff") for k in (2, 8)),
            "lowdata.pronoun.like.random.n0",
        ),
        "names",
    ),
    **dict.fromkeys(
        (
            *(
                f"lowdata.party.published.{m}"
                for m in ("obsprop", "regression", "regression_all", "mean_diff")
            ),
            *("lowdata.party.obsprop_minus_regression.n2", "lowdata.party.like.random.n0"),
        ),
        "politicians",
    ),
    **dict.fromkeys(
        (
            *(f"lowdata.code.published.{m}" for m in ("obsprop", "regression", "mean_diff")),
            *("lowdata.code.obsprop_minus_regression.n50", "lowdata.code.obsprop_minus_mean_diff.n100"),
            "lowdata.code.like.random.n0",
        ),
        "code",
    ),
    **dict.fromkeys(
        (f"tokens.{name}.top_female_share" for name in ("n_bias.6_6", "n_bias.path1", "random")), "text"
    ),
}


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
    out |= {m[1] + (m[2] or ""): out[name] for name, m in found.items() if m}
    for set_name, (can, n, why) in usable(inputs.prompts).items():
        out[f"usable.{set_name}"] = plain(can, n, f"of {n} prompts", why)
    return {**absent(inputs.prompts), **out}


def usable(prompts: Mapping[str, Sequence[Prompt]]) -> dict[str, tuple[int, int, str]]:
    """Set -> (usable prompts, prompts, the first reason why one is not)."""
    return {
        name: (sum(p.usable for p in mine), len(mine), next((p.why for p in mine if not p.usable), ""))
        for name, mine in prompts.items()
    }


def absent(prompts: Mapping[str, Sequence[Prompt]]) -> Measures:
    """Measures that other models lack rows for, missing with the reason."""
    counts = usable(prompts)
    out = {}
    for name, set_name in NOT_EVERYWHERE.items():
        can, n, why = counts.get(set_name, (0, 0, "there are none"))
        said = f"{can} of {n} prompts of '{set_name}' can be used" + (f" (not all: {why})" if why else "")
        out[name] = Estimate.missing(
            f"this model has no such head, layer, path or training size; {said}", can
        )
    return out


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
