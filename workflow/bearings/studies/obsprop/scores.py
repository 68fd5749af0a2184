"""Scores of features on raw residuals, beside what the model answers (protocol 2.4, 4.8).

Features are of unit length (trap T14) and norms are left out: score = y . x with x the residual entering the block
that the feature belongs to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from bearings.stages.inputs import Inputs, Outcomes
from bearings.stages.prompts import Prompt
from bearings.studies.obsprop.baselines import unit

SCHEMA = {
    "set": pa.string(), "task": pa.string(), "prompt": pa.int32(), "label": pa.int8(), "split": pa.string(),
    "template": pa.int32(), "cluster": pa.string(), "mixed": pa.bool_(), "bos": pa.bool_(),
    "feature": pa.string(), "layer": pa.int32(), "position": pa.string(), "score": pa.float64(),
    "output": pa.float64(),
}  # fmt: skip
# Positions at which every feature is read; at BOS, where the input is the same in all prompts, only one is.
POSITIONS = {"names": ("name",), "politicians": ("tokens.mean", "name"), "code": ("tokens.mean",)}
COMPONENT = re.compile(r"(attn|mlp)(\d+)(?:\.(\d+|all))?@-?\d+")
READING, CONTROL = "reading", "control"


@dataclass(frozen=True, eq=False)
class Feature:
    """A unit vector [d_model] to score the residual entering `layer` with; `head` is -1 where it is no head's."""

    name: str
    layer: int
    head: int
    vector: np.ndarray


def last_component(path_text: str) -> tuple[int, int]:
    """(layer, head) of a path's last component, at whose input its feature lives; head -1 for an MLP or all heads.

    Raises:
        ValueError: the text is no path.
    """
    found = COMPONENT.fullmatch(path_text.split("<=")[-1].strip())
    if found is None:
        raise ValueError(f"'{path_text}' does not end in a component such as attn13.11@5 or mlp12@3")
    head = found[3]
    return int(found[2]), int(head) if head not in (None, "all") else -1


def layer_of(path_text: str) -> int:
    """Layer of the last component of a path."""
    return last_component(path_text)[0]


def path_features(inputs: Inputs, observable: str) -> dict[str, Feature]:
    """Features of an observable's paths by the path's name, norms left out.

    That of a path ending in an MLP is read at the residual entering the block, in front of its attention.
    """
    out = {}
    for key, vector in sorted(inputs.directions["paths"].items()):
        name, path, mode = key.split("/")
        if mode == "ignore" and name.split(".")[0] == observable:
            out[name] = Feature(f"path.{name}", *last_component(path), unit(vector))
    return out


def reading(inputs: Inputs, task: str, observable: str) -> Feature | None:
    """The path feature that a task is read with: the one the settings name, else the head that the search found.

    `reading` (task -> path) goes before `reading_paths`, of which the observable's first counts. None without any.
    """
    found = path_features(inputs, observable)
    named = (inputs.settings.get("reading") or {}).get(task)
    listed = [n for n in inputs.settings.get("reading_paths") or () if n.split(".")[0] == observable]
    wanted = [named] if named else [*listed[:1], f"{observable}.head", observable]
    return next((found[name] for name in wanted if name in found), None)


def head_features(inputs: Inputs, observable: str, heads: str | Sequence[Sequence[int]]) -> list[Feature]:
    """Every head's own feature of an observable, or those of the (layer, head) pairs in `heads`."""
    chosen = None if heads == "all" else {(layer, head) for layer, head in heads}
    by_layer = {
        int(key.split("/")[1]): vectors
        for key, vectors in inputs.directions["heads"].items()
        if key.split("/")[0] == observable
    }
    return [
        Feature(f"head.{layer}.{head}", layer, head, unit(vectors[head]))
        for layer, vectors in sorted(by_layer.items())
        for head in range(len(vectors))
        if chosen is None or (layer, head) in chosen
    ]


def outputs(inputs: Inputs, name: str) -> dict[int, float]:
    """n . logits at the end of every usable prompt of a set that has an observable, by prompt id.

    The logits come from the dumped final residual, so no prompt is run again.

    Raises:
        ValueError: the dump lacks the final residual.
    """
    import torch

    from bearings.lm import weights

    model, dump = inputs.model, inputs.dumps[name]
    if model.n_layers not in dump.resid:
        raise ValueError(f"the dump of '{name}' has layers {dump.layers}, not the final residual")
    groups: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
    for p in inputs.prompts[name]:
        if p.usable and p.positive and p.negative and (p.id, "end") in dump.rows:
            groups.setdefault((p.positive, p.negative), []).append(p.id)
    out: dict[int, float] = {}
    for (positive, negative), ids in groups.items():
        resid = torch.from_numpy(dump.at("end", ids, model.n_layers)).to(model.device, model.dtype)
        with torch.no_grad():
            found = weights.logits(model, resid, torch.tensor([*positive, *negative])).double().cpu().numpy()
        values = found[:, : len(positive)].sum(1) - found[:, len(positive) :].sum(1)
        out |= dict(zip(ids, values.tolist(), strict=True))
    return out


def cluster(p: Prompt) -> str:
    """What rows are independent between: a prompt's name, person or document."""
    for column in ("name", "person"):
        if p.extra.get(column) is not None:
            return p.extra[column]
    return f"{p.extra['language']} {p.extra['document']}"


def clusters(prompts: Sequence[Prompt]) -> list[str]:
    """Clusters [n] of prompts; "Joe Manchin III" is the person "Joe Manchin" where the list has both."""
    own = [cluster(p) for p in prompts]
    if not any(p.extra.get("person") is not None for p in prompts):
        return own
    known = sorted(set(own), key=len)
    first = {c: next(k for k in known if c == k or c.startswith(f"{k} ")) for c in known}
    return [first[c] for c in own]


def has_bos(p: Prompt) -> bool:
    """Whether a prompt begins with BOS: politicians are there with and without, names where their task has it."""
    return bool(p.extra["bos"]) if p.extra.get("bos") is not None else "bos" in p.positions


def groups(inputs: Inputs, name: str, known: Mapping[int, float]) -> Iterator[tuple[str, str, list[Prompt]]]:
    """(task, observable, prompts) of a set, in order of appearance, of prompts whose output is known."""
    found: dict[tuple[str, str], list[Prompt]] = {}
    for p in inputs.prompts.get(name, ()):
        if p.id in known:
            found.setdefault((p.extra["task"], p.extra["observable"]), []).append(p)
    for (task, observable), prompts in found.items():
        yield task, observable, prompts


def anchored(inputs: Inputs, task: str, observable: str) -> list[Feature]:
    """The reading feature, the control observable's at the same head, and random vectors of its layer.

    Where no path was found they are those of the head whose feature is longest.
    """
    at = reading(inputs, task, observable)
    out = [] if at is None else [Feature(READING, at.layer, at.head, at.vector)]
    if at is None:
        at = longest(inputs, observable)
    if at is None:
        return out
    control = inputs.directions["heads"].get(f"{CONTROL}/{at.layer}")
    if control is not None and at.head >= 0:
        name = f"{CONTROL}.{at.layer}.{at.head}"
        out.append(Feature(name, at.layer, at.head, unit(control[at.head])))
    random = inputs.directions["random"].get(str(at.layer), ())
    return [*out, *(Feature(f"random.{k}", at.layer, -1, unit(v)) for k, v in enumerate(random))]


def longest(inputs: Inputs, observable: str) -> Feature | None:
    """The head whose feature of an observable is longest; None where the observable has no features."""
    found = head_features(inputs, observable, "all")
    vectors = inputs.directions["heads"]
    return max(
        found,
        key=lambda f: float(np.linalg.norm(vectors[f"{observable}/{f.layer}"][f.head])),
        default=None,
    )


def scores(inputs: Inputs) -> pa.Table:
    """Every feature's score of every prompt of `names`, `politicians` and `code`, beside the model's own answer.

    Its answers to the linearisation prompts are rows without a feature.
    """
    out = Outcomes(SCHEMA)
    for name in POSITIONS:
        if not inputs.prompts.get(name):
            continue
        answer = outputs(inputs, name)
        for task, observable, prompts in groups(inputs, name, answer):
            special = anchored(inputs, task, observable)
            every = head_features(inputs, observable, inputs.settings.get("heads", "all"))
            every += [*path_features(inputs, observable).values(), *special]
            for position in POSITIONS[name]:
                _add(out, inputs, name, task, prompts, answer, position, every)
            if name == "names":
                _add(
                    out, inputs, name, task, prompts, answer, "bos", [f for f in special if f.name == READING]
                )
    _answers(out, inputs)
    return out.table()


def _answers(out: Outcomes, inputs: Inputs) -> None:
    """What the model answers to the linearisation prompts themselves: rows without a feature."""
    known = outputs(inputs, "pairs") if "pairs" in inputs.dumps else {}
    for p in inputs.prompts["pairs"] if known else ():
        if p.split == "pair" and p.id in known:
            out.add(
                set="pairs", task=p.extra["task"], position="end", prompt=p.id, label=p.label, split=p.split,
                template=-1, cluster=p.text, mixed=False, bos=has_bos(p), output=known[p.id],
                feature="", layer=-1, score=0.0,
            )  # fmt: skip


def _add(
    out: Outcomes, inputs: Inputs, name: str, task: str, prompts, answer, position: str, features
) -> None:
    dump = inputs.dumps[name]
    kept = [p for p in prompts if (p.id, position) in dump.rows]
    about = {
        "set": name, "task": task, "position": position, "prompt": [p.id for p in kept],
        "label": [p.label for p in kept], "split": [p.split for p in kept],
        "template": [_or(p.extra.get("template"), -1) for p in kept], "cluster": clusters(kept),
        "mixed": [bool(p.extra.get("mixed")) for p in kept], "bos": [has_bos(p) for p in kept],
        "output": [answer[p.id] for p in kept],
    }  # fmt: skip
    for layer in sorted({f.layer for f in features}) if kept else ():
        x = dump.at(position, about["prompt"], layer).astype(np.float64)
        for f in features:
            if f.layer == layer:
                out.add(**about, feature=f.name, layer=layer, score=x @ f.vector)


def _or(value, default):
    return default if value is None else value
