"""Two prompts against small training sets (protocol 2.7, 4.9): directions from n labelled rows, judged on others.

In the `like` variants all methods read the same residuals and are judged on the same held-out rows; a name, a person
or a file is never on both sides, and what the features' own two prompts are about is on neither (trap T6, T7).
Regression and the other baselines may learn from n rows, ObsProp from none of them, or (`obsprop_chosen`) only which
head to read.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import pyarrow as pa

from bearings.stages.inputs import Inputs, Outcomes
from bearings.studies.obsprop import baselines, lowdata_published
from bearings.studies.obsprop.scores import (
    Feature,
    clusters,
    groups,
    has_bos,
    head_features,
    outputs,
    reading,
)  # fmt: skip

log = logging.getLogger(__name__)
SCHEMA = {
    "task": pa.string(), "variant": pa.string(), "method": pa.string(), "n_train": pa.int32(),
    "split": pa.int32(), "part": pa.string(), "prompt": pa.int32(), "label": pa.int8(),
    "cluster": pa.string(), "layer": pa.int32(), "score": pa.float64(), "output": pa.float64(),
}  # fmt: skip
# What ObsProp itself is made from, and random vectors.
PROMPTS, NONE = 2, 0
# Rows (names, persons, windows) per class that must be left to judge on.
MIN_TEST = 5


@dataclass(frozen=True, eq=False)
class Data:
    """Rows of one task at one position.

    x [n, d_model] residuals at the reading feature's layer, own [n, n_heads] every head's own feature's score and
    size [n_heads] its length, label [n] 0 or 1, output [n] the logit difference, cluster [n] name, person or file.
    `classes`: the task is to tell the labels, not to predict the output.
    """

    task: str
    variant: str
    ids: tuple[int, ...]
    x: np.ndarray
    own: np.ndarray
    size: np.ndarray
    label: np.ndarray
    output: np.ndarray
    cluster: np.ndarray
    classes: bool

    @property
    def target(self) -> np.ndarray:
        return self.label.astype(np.float64) if self.classes else self.output


def lowdata(inputs: Inputs) -> pa.Table:
    """Scores of held-out rows by every method, training size and resplit, and as published."""
    out = Outcomes(SCHEMA)
    for name, wanted in (("names", "subj"), ("politicians", "party"), ("code", "code1")):
        if not inputs.prompts.get(name):
            continue
        answer = outputs(inputs, name)
        for task, observable, prompts in groups(inputs, name, answer):
            label = {"subj": "pronoun", "party": "party", "code1": "code"}.get(task)
            feature = reading(inputs, label, observable) if task == wanted else None
            if task == wanted and feature is None:
                log.warning("%s: no path of %s to read at, nothing compared", label, observable)
            if feature is None:
                continue
            for data in like(inputs, name, label, observable, prompts, answer, feature):
                _resplits(out, inputs, data, feature)
            for row in lowdata_published.rows(inputs, label, prompts, answer, feature):
                out.add(task=label, variant="published", split=0, **row)
    return out.table()


def like(
    inputs: Inputs, name: str, task: str, observable: str, prompts, answer, feature: Feature
) -> Iterator[Data]:
    """The rows of a task, once per position that all methods read at; the pairs' own clusters are left out.

    Politicians are read at the mean over tokens without BOS, as the paper's feature is, and at the name's last token
    with BOS (trap T5).
    """
    kinds = {
        "pronoun": (("like", "name", None),),
        "party": (("like", "tokens.mean", False), ("like_name", "name", True)),
        "code": (("like", "tokens.mean", None),),
    }[task]
    dump, features = inputs.dumps[name], head_features(inputs, observable, "all")
    pairs = (p for p in inputs.prompts.get("pairs", ()) if p.split == "pair")
    taken = {p.text for p in pairs if p.extra["observable"] == observable}
    for variant, position, bos in kinds:
        mine = [p for p in prompts if (p.id, position) in dump.rows and (bos is None or has_bos(p) == bos)]
        who = np.array(clusters(mine), dtype=object)
        seen = {c for c, p in zip(who, mine, strict=True) if p.text in taken}
        kept = [i for i, c in enumerate(who) if c not in seen]
        if not kept:
            continue
        mine = [mine[i] for i in kept]
        ids = tuple(p.id for p in mine)
        columns = [dump.at(position, ids, f.layer).astype(np.float64) @ f.vector for f in features]
        yield Data(
            task, variant, ids, dump.at(position, ids, feature.layer).astype(np.float64),
            np.stack(columns, 1), lengths(inputs, observable, features),
            np.array([p.label for p in mine]), np.array([answer[i] for i in ids]), who[kept], task == "code",
        )  # fmt: skip


def lengths(inputs: Inputs, observable: str, features: Sequence[Feature]) -> np.ndarray:
    """Lengths [n] of head features before they were made unit vectors."""
    found = inputs.directions["heads"]
    return np.array([np.linalg.norm(found[f"{observable}/{f.layer}"][f.head]) for f in features])


def _resplits(out: Outcomes, inputs: Inputs, data: Data, feature: Feature) -> None:
    sizes = inputs.settings.get("code_sizes" if data.classes else "sizes") or inputs.settings["sizes"]
    single = data.task != "code"
    most = largest(data.label, data.cluster, single)
    short = [n for n in sizes if n // 2 > most or n < 2]
    if short:
        log.warning(
            "%s, %s: sizes %s are not available, of %d", data.task, data.variant, short, len(data.ids)
        )
    sizes = sorted({n - n % 2 for n in sizes if n not in short})
    for split in range(inputs.settings["splits"]) if sizes else ():
        key = [inputs.seed, crc32(f"{data.task} {data.variant}".encode()), split]
        rng = np.random.default_rng(key)
        pools, test = resplit(data.label, data.cluster, sizes[-1] // 2, single, rng)
        for method, n, score in curve(data, feature, pools, test, sizes, rng):
            out.add(
                task=data.task, variant=data.variant, method=method, n_train=n, split=split, part="test",
                prompt=[data.ids[i] for i in test], label=data.label[test], cluster=list(data.cluster[test]),
                layer=feature.layer, score=score, output=data.output[test],
            )  # fmt: skip


def curve(
    data: Data, feature: Feature, pools: Mapping[int, np.ndarray], test: np.ndarray, sizes, rng
) -> Iterator[tuple[str, int, np.ndarray]]:
    """(method, n_train, scores of the test rows) of one resplit; a smaller training set is part of every larger."""
    yield "obsprop", PROMPTS, data.x[test] @ feature.vector
    yield "random", NONE, data.x[test] @ baselines.unit(rng.standard_normal(data.x.shape[1]))
    for n in sizes:
        train = np.concatenate([pools[0][: n // 2], pools[1][: n // 2]])
        for method, direction in fitted(data, train, rng).items():
            yield method, n, data.x[test] @ baselines.unit(direction)
        yield "obsprop_chosen", n, data.own[test, choose(data, train)]


def fitted(data: Data, train: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Directions [d_model] of every baseline from the training rows; `shuffled` regresses on permuted targets."""
    x, label, target = data.x[train], data.label[train], data.target[train]

    def regression(y: np.ndarray) -> np.ndarray:
        return baselines.logistic(x, y, published=False) if data.classes else baselines.linear(x, y)

    return {
        "regression": regression(target),
        "shuffled": regression(rng.permutation(target)),
        "mean_diff": baselines.mean_difference(x, label),
        "leace": baselines.leace(x, label),
    }


def choose(data: Data, train: np.ndarray) -> int:
    """The head whose own feature correlates most, with its sign, with the target of the training rows.

    Ties, of which two rows make many, go to the longest feature.
    """
    x, y = data.own[train], data.target[train]
    x, y = x - x.mean(0), y - y.mean()
    scale = np.sqrt((x * x).sum(0) * (y @ y))
    r = np.where(scale > 0, y @ x / np.where(scale > 0, scale, 1.0), 0.0)
    # Correlations that differ by rounding alone are ties.
    return max(range(len(r)), key=lambda i: (round(float(r[i]), 9), data.size[i]))


def units(
    label: np.ndarray, cluster: np.ndarray, single: bool
) -> dict[int, dict[str, tuple[np.ndarray, int]]]:
    """class -> cluster -> (rows, how many training rows it can give): one where `single`, else all."""
    out: dict[int, dict[str, tuple[np.ndarray, int]]] = {0: {}, 1: {}}
    for c in dict.fromkeys(cluster.tolist()):
        for y in (0, 1):
            rows = np.flatnonzero((cluster == c) & (label == y))
            if len(rows):
                out[y][c] = rows, 1 if single else len(rows)
    return out


def largest(label: np.ndarray, cluster: np.ndarray, single: bool, min_test: int = MIN_TEST) -> int:
    """Training rows per class that any resplit can have, with at least `min_test` units per class left over."""
    each = [[n for _, n in found.values()] for found in units(label, cluster, single).values()]
    # The last cluster taken may give more than was asked for.
    return min(sum(n) - (max(n) - 1) - min_test if n else 0 for n in each)


def resplit(
    label: np.ndarray, cluster: np.ndarray, per_class: int, single: bool, rng: np.random.Generator
) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """Training rows by class, in random order, at least `per_class` of each, and the rows of all other clusters.

    `single`: a training cluster gives one row, drawn from its own (a name in one of its templates).
    """
    pools, used = {}, set()
    for y, found in units(label, cluster, single).items():
        names, rows = list(found), []
        for i in rng.permutation(len(names)):
            if len(rows) >= per_class:
                break
            mine, n = found[names[i]]
            rows += rng.choice(mine, n, replace=False).tolist()
            used.add(names[i])
        pools[y] = rng.permutation(np.array(rows, dtype=np.int64))
    return pools, np.flatnonzero(~np.isin(cluster, list(used)))
