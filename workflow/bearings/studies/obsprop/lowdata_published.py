"""The comparison with small training sets as published (protocol 4.9): the methods differ in what they read and see.

ObsProp is judged on everything, its own prompts included; baselines read elsewhere and are judged on the rest of one
split in list order (traps T5 to T7).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bearings.stages.inputs import Inputs
from bearings.stages.prompts import Prompt
from bearings.studies.obsprop import baselines
from bearings.studies.obsprop.scores import Feature, clusters, has_bos

# Training rows per class: names of the first template; windows of logistic regression and of the mean difference.
NAMES, WINDOWS, MEAN_WINDOWS = 30, 25, 50
# The authors' layer of the party baselines, 17 of 24.
PARTY_LAYER = 17 / 24
Rows = dict[str, Any]
Fit = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def rows(
    inputs: Inputs, task: str, prompts: Sequence[Prompt], answer: Mapping[int, float], feature: Feature
) -> Iterator[Rows]:
    """Columns of the `lowdata` table, one dictionary per method; `part` says which rows were trained on."""
    make = {"pronoun": _pronoun, "party": _party, "code": _code}[task]
    yield from make(inputs, prompts, answer, feature)


def _pronoun(inputs: Inputs, prompts, answer, feature: Feature) -> Iterator[Rows]:
    first = min(p.extra["template"] for p in prompts)
    opening = [
        sorted((p for p in prompts if p.extra["template"] == first and p.label == y), key=_pair)
        for y in (0, 1)
    ]
    n = min(NAMES, *(len(mine) // 2 for mine in opening))
    train = {p.id for mine in opening for p in mine[:n]}
    read = _Read(inputs, "names", "name", prompts, answer, train)
    layer = _layer(inputs, "published_pronoun_layer", feature.layer)
    yield read.by("obsprop", 2, feature.layer, feature.vector)
    if n:
        yield read.fitted("regression", layer, lambda x, y, label: baselines.linear(x, y))
        yield read.fitted("mean_diff", layer, lambda x, y, label: baselines.mean_difference(x, label))


def _party(inputs: Inputs, prompts, answer, feature: Feature) -> Iterator[Rows]:
    mine = [p for p in prompts if not has_bos(p)]
    train = {p.id for p in mine if p.split == "train"}
    if mine:
        read = _Read(inputs, "politicians", "tokens.mean", mine, answer, train)
        yield read.by("obsprop", 2, feature.layer, feature.vector)
    if len({p.label for p in mine if p.id in train}) == 2:
        read = _Read(inputs, "politicians", "minus4", mine, answer, train)
        layer = _layer(inputs, "published_party_layer", PARTY_LAYER)
        yield read.fitted("regression", layer, lambda x, y, label: baselines.linear(x, y))
        yield read.fitted("mean_diff", layer, lambda x, y, label: baselines.mean_difference(x, label))


def _code(inputs: Inputs, prompts, answer, feature: Feature) -> Iterator[Rows]:
    yield _Read(inputs, "code", "tokens.mean", prompts, answer, set()).by(
        "obsprop", 2, feature.layer, feature.vector
    )
    classes = [[p.id for p in prompts if p.label == y] for y in (0, 1)]

    def logistic(x: np.ndarray, y: np.ndarray, label: np.ndarray) -> np.ndarray:
        return baselines.logistic(x, label, published=True)

    def means(x: np.ndarray, y: np.ndarray, label: np.ndarray) -> np.ndarray:
        return baselines.mean_difference(x, label)

    for method, most, fit in (("regression", WINDOWS, logistic), ("mean_diff", MEAN_WINDOWS, means)):
        n = min(most, *(len(mine) // 2 for mine in classes))
        train = {i for mine in classes for i in mine[:n]}
        if n:
            read = _Read(inputs, "code", "tokens.mean", prompts, answer, train)
            yield read.fitted(method, feature.layer, fit)


class _Read:
    """Prompts of a set at one position, with the training ones told apart."""

    def __init__(self, inputs: Inputs, name: str, position: str, prompts, answer, train: set[int]):
        self.dump, self.position = inputs.dumps[name], position
        kept = [p for p in prompts if (p.id, position) in self.dump.rows]
        self.ids = [p.id for p in kept]
        self.label = np.array([p.label for p in kept])
        self.output = np.array([answer[i] for i in self.ids])
        self.cluster = clusters(kept)
        self.train = np.array([i in train for i in self.ids], dtype=bool)

    def at(self, layer: int) -> np.ndarray:
        return self.dump.at(self.position, self.ids, layer).astype(np.float64)

    def fitted(self, method: str, layer: int, fit: Fit) -> Rows:
        """A method fitted on the training rows: fit(x, output, label) -> direction."""
        x, t = self.at(layer), self.train
        direction = fit(x[t], self.output[t], self.label[t])
        return self.by(method, int(t.sum()), layer, direction)

    def by(self, method: str, n_train: int, layer: int, direction: np.ndarray) -> Rows:
        """Scores of all rows along a direction."""
        return {
            "method": method, "n_train": n_train, "layer": layer, "prompt": self.ids, "label": self.label,
            "part": np.where(self.train, "train", "test"), "cluster": self.cluster, "output": self.output,
            "score": self.at(layer) @ baselines.unit(direction),
        }  # fmt: skip


def _layer(inputs: Inputs, key: str, otherwise: float) -> int:
    """A layer of the settings, or a share of the depth as a layer."""
    value = inputs.settings.get(key, otherwise)
    return round(value * inputs.model.n_layers) if isinstance(value, float) else int(value)


def _pair(p: Prompt) -> int:
    return p.extra["pair"]
