"""Steering by concepts: which edits are made of which prompts, by which methods, how strongly, and against what.

The strength is tuned per method on train prompts; as published, the authors' own value, or the best on the test.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from bearings.stages.inputs import Inputs, Outcomes
from bearings.stages.prompts import Prompt
from bearings.studies.lrc.causal import ADD, REPLACE, Edit, answer_log_probability
from bearings.studies.lrc.classify import FILES, concepts_of, methods
from bearings.studies.lrc.common import Pair, Task, answers, edits, tasks
from bearings.studies.lrc.maps import swept

EDIT = {
    "variant": pa.string(), "seed": pa.int32(), "relation": pa.string(), "category": pa.string(),
    "method": pa.string(), "stage": pa.string(), "beta": pa.float64(), "prompt": pa.int32(),
    "subject": pa.string(), "source": pa.int32(), "target": pa.int32(), "logp_source": pa.float32(),
    "logp_target": pa.float32(), "success": pa.bool_(), "source_tokens": pa.int32(), "target_tokens": pa.int32(),
}  # fmt: skip
# Methods whose whole curve over strengths is measured on the test, not only the tuned point.
CURVES = ("lrc", "first_final", "svm", "average", "centred")
# Controls of `lrc`, made at its strength.
AT_LRC = ("random",)
# Answers that begin alike may have the same smallest probability, of a shared token. Two fp32 passes round it
# differently, by some 1e-5 of a log-probability; who is ahead by less than this is not ahead.
TIE = 1e-4


@dataclass(frozen=True, eq=False)
class Row:
    """One edit of a method: where it goes is said by `vector`, `layers`, `offset` from the subject, and `how`."""

    task: Task
    method: str
    stage: str
    beta: float
    pair: Pair
    vector: np.ndarray
    layers: tuple[int, ...]
    offset: int = 0
    how: str = ADD


def edit(inputs: Inputs) -> pa.Table:
    """Every edit of the main methods and of the controls, on train prompts for tuning and on test prompts."""
    found = tasks(inputs.prompts, inputs.dumps, inputs.settings)
    grid, out = inputs.settings["betas"], Outcomes(EDIT)
    train = list(_rows(inputs, found, "train", lambda task, method: grid if method not in AT_LRC else []))
    _add(out, inputs, train)
    best = tuned(out.table().to_pandas())

    def strengths(task: Task, method: str) -> Iterable[float]:
        if task.variant == "published" or method in CURVES:
            none = [0.0] if method == "lrc" else []  # control C4
            fixed = _published(inputs) if task.variant == "published" else []
            return [*none, *(fixed or grid)]
        return [best.get((task.seed, "lrc" if method in AT_LRC else method), grid[0])]

    _add(out, inputs, list(_rows(inputs, found, "test", strengths)))
    _add(out, inputs, list(_controls(inputs, [t for t in found if t.variant == "corrected"], best)))
    return out.table()


def sweep(inputs: Inputs) -> pa.Table:
    """Edits by the concepts of every point of the sweeps, at the strength that was tuned for `lrc`.

    It is tuned here again on the same train prompts, so that no experiment waits for another.
    """
    found = [t for t in tasks(inputs.prompts, inputs.dumps, inputs.settings) if t.variant == "corrected"]
    grid, train, out = inputs.settings["betas"], Outcomes(EDIT), Outcomes(EDIT)
    _add(train, inputs, list(_rows(inputs, found, "train", lambda task, method: grid, ["lrc"])))
    best = tuned(train.table().to_pandas())

    def strength(task: Task, method: str) -> Iterable[float]:
        return [best.get((task.seed, "lrc"), grid[0])]

    points = [*swept(inputs.settings), *FILES["lre"]]
    _add(out, inputs, list(_rows(inputs, found, "test", strength, points)))
    return out.table()


def tuned(rows: pd.DataFrame) -> dict[tuple[int, str], float]:
    """Strength of each (split seed, method): the largest macro causality on train prompts; of equals the smallest."""
    train = rows[(rows["stage"] == "train") & (rows["variant"] == "corrected")]
    each = train.groupby(["seed", "method", "beta", "relation"])["success"].mean()
    # Means that differ by rounding alone are ties.
    macro = each.groupby(["seed", "method", "beta"]).mean().round(12).reset_index()
    out = {}
    for (seed, method), curve in macro.groupby(["seed", "method"]):
        best = curve[curve["success"] == curve["success"].max()]["beta"].min()
        out[int(seed), str(method)] = float(best)
    return out


def _published(inputs: Inputs) -> list[float]:
    beta = inputs.settings["published_beta"]
    return [beta] if beta > 0 else []


def _pairs(inputs: Inputs, task: Task, stage: str) -> list[Pair]:
    said, room = answers(task), inputs.model.info.n_ctx
    # The other answer may be longer than the prompt's own, and the last token is predicted, not read.
    fitting = [
        pair
        for pair in edits(task, task.test if stage == "test" else task.train)
        if pair.prompt.positions["object"][0] + len(said[pair.target]) <= room
    ]
    if stage == "test":
        return fitting
    few: dict[int, int] = {}
    chosen = []
    for pair in fitting:
        few[pair.source] = few.get(pair.source, 0) + 1
        if few[pair.source] <= inputs.settings["tune_edits"]:
            chosen.append(pair)
    return chosen


def _rows(
    inputs: Inputs, found: Sequence[Task], stage: str, strengths, only: Sequence[str] = ()
) -> Iterator[Row]:
    blocks = tuple(range(1, inputs.model.n_layers + 1))
    main = {name for file, names in FILES.items() if file != "lre" for name in names}
    for task in found:
        if stage == "train" and task.variant == "published":
            continue
        pairs = _pairs(inputs, task, stage)
        for file, method in methods(inputs):
            concepts = concepts_of(inputs, file, task, method)
            if concepts is None or method not in (only or main):
                continue
            v = concepts[0]
            along = [v[pair.target] - v[pair.source] for pair in pairs]  # shared by all strengths
            for beta in strengths(task, method):
                for pair, vector in zip(pairs, along, strict=True):
                    yield Row(task, method, stage, beta, pair, vector, blocks)


def _controls(inputs: Inputs, found: Sequence[Task], best: Mapping[tuple[int, str], float]) -> Iterator[Row]:
    """Control C5, edits at one layer, and the ceiling P2: another subject's residual put in place."""
    blocks = tuple(range(1, inputs.model.n_layers + 1))
    layer = inputs.settings["subject_layer"]
    for number, task in enumerate(found):
        v, _ = concepts_of(inputs, "lrc", task, "lrc")
        beta = best.get((task.seed, "lrc"), inputs.settings["betas"][0])
        others = [t for t in found if t.seed == task.seed and t.relation != task.relation]
        strange = concepts_of(inputs, "lrc", others[number % len(others)], "lrc")[0] if others else None
        donors: dict[int, list[Prompt]] = {}
        for p in task.test:
            donors.setdefault(task.index[p.extra["object"]], []).append(p)
        for i, pair in enumerate(_pairs(inputs, task, "test")):
            along = v[pair.target] - v[pair.source]
            yield Row(task, "reversed", "test", beta, pair, -along, blocks)
            yield Row(task, "single_layer", "test", beta, pair, along, (layer,))
            if pair.prompt.at("subject") + 1 <= pair.prompt.positions["object"][0]:
                yield Row(task, "after", "test", beta, pair, along, blocks, offset=1)
            if strange is not None:
                a, b = task.rng("strange", i).permutation(len(strange))[:2]
                yield Row(task, "other_relation", "test", beta, pair, strange[a] - strange[b], blocks)
            donor = donors[pair.target][i % len(donors[pair.target])]
            h = inputs.dumps["test"].at("subject", [donor.id], layer)[0]
            yield Row(task, "substitute", "test", 0.0, pair, h, (layer,), how=REPLACE)


def _add(out: Outcomes, inputs: Inputs, rows: Sequence[Row]) -> None:
    """Run each row twice, asked for the source's answer and for the target's."""
    if not rows:
        return
    said = {task.key: answers(task) for task in {id(row.task): row.task for row in rows}.values()}
    runs = [
        Edit(
            row.pair.prompt.ids[: row.pair.prompt.positions["object"][0] + 1],
            row.pair.prompt.at("subject") + row.offset,
            said[row.task.key][which],
            row.vector,
            row.beta,
            row.layers,
            row.how,
        )
        for row in rows
        for which in (row.pair.source, row.pair.target)
    ]
    logp = answer_log_probability(inputs.model, runs, inputs.settings["max_tokens"]).reshape(-1, 2)
    out.add(
        variant=[r.task.variant for r in rows], seed=[r.task.seed for r in rows],
        relation=[r.task.relation for r in rows], category=[r.task.category for r in rows],
        method=[r.method for r in rows], stage=[r.stage for r in rows], beta=[r.beta for r in rows],
        prompt=[r.pair.prompt.id for r in rows], subject=[r.pair.prompt.extra["subject"] for r in rows],
        source=[r.pair.source for r in rows], target=[r.pair.target for r in rows],
        logp_source=logp[:, 0], logp_target=logp[:, 1], success=logp[:, 1] > logp[:, 0] + TIE,
        source_tokens=[len(said[r.task.key][r.pair.source]) for r in rows],
        target_tokens=[len(said[r.task.key][r.pair.target]) for r in rows],
    )  # fmt: skip
