"""Which maps the study fits: the main one, and a map for every point of every sweep, by names that files carry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, order=True)
class Map:
    """Which map: subject layer, object layer, `mean` over the object's tokens or its `first`, number of samples."""

    start: int
    layer: int
    aggregation: str
    samples: int

    @property
    def name(self) -> str:
        return f"{self.start}-{self.layer}/{self.aggregation}/{self.samples}"


def main_map(settings: Mapping[str, Any]) -> Map:
    """The map of the paper's own method."""
    return Map(settings["subject_layer"], settings["object_layer"], "mean", settings["samples"])


def first_map(settings: Mapping[str, Any], layer: int) -> Map:
    """First object token at a layer: at the last one the map of the original relational embedding."""
    return Map(settings["subject_layer"], layer, "first", settings["samples"])


def swept(settings: Mapping[str, Any]) -> dict[str, tuple[Map, int]]:
    """Every point of every sweep: its name -> the map that it reads, and the rank of the inverse."""
    few, rank = settings["sweep_samples"], settings["sweep_rank"]
    start, layer = settings["rank_sweep_subject_layer"], settings["rank_sweep_object_layer"]
    out = {f"rank{r}": (Map(start, layer, "mean", few), r) for r in settings["ranks"]}
    start = settings["object_sweep_subject_layer"]
    out |= {f"object{x}": (Map(start, x, "mean", few), rank) for x in settings["object_layers"]}
    layer = settings["subject_sweep_object_layer"]
    out |= {f"subject{x}": (Map(x, layer, "mean", few), rank) for x in settings["subject_layers"]}
    one = main_map(settings)
    counts = {f"samples{n}": (Map(one.start, one.layer, "mean", n), rank) for n in settings["sample_counts"]}
    # On a model of few layers two of them may fall together, and there is no map from a layer to itself.
    return {name: (m, r) for name, (m, r) in (out | counts).items() if m.start < m.layer}


def plan(settings: Mapping[str, Any], n_layers: int, variant: str) -> list[Map]:
    """Maps that a task needs; as published, only those of the main table."""
    one = main_map(settings)
    out = {one, first_map(settings, n_layers)}
    if variant == "corrected":
        out |= {first_map(settings, one.layer), *(m for m, _ in swept(settings).values())}
    return sorted(out)


def read_layer(method: str, settings: Mapping[str, Any]) -> int:
    """Layer at which a method's concepts are read off the subject."""
    if method.startswith("svm_subject"):
        return int(method.removeprefix("svm_subject"))
    found = swept(settings).get(method)
    return found[0].start if found else settings["subject_layer"]
