"""Relations by hand for tests of the LRC study: prompts as token ids, dumps with or without a model, settings."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
from lm_models import D_MODEL, D_VOCAB, N_LAYERS, model

from bearings.lm.load import Model
from bearings.stages.dumps import Dump, dump, load_dump
from bearings.stages.inputs import Inputs
from bearings.stages.prompts import Prompt
from bearings.studies.lrc.fit import fit

METHODS = ("lre", "lrc", "probes", "means", "random")
# relation -> category and the answer tokens of its objects; those of `kin` begin alike.
RELATIONS: dict[str, tuple[str, tuple[tuple[int, ...], ...]]] = {
    "river": ("factual", ((5,), (6,), (7, 8), (9, 10, 11))),
    "tool": ("commonsense", ((12,), (13,), (14, 15))),
    "kin": ("bias", ((16, 17), (16, 18))),
}
SUBJECTS = 6  # of an object; three in the train and three in the test half of a split
SETTINGS: Mapping[str, Any] = {
    "layers": "all",
    "max_tokens": 256,
    "min_test": 2,
    "subject_layer": 2,
    "object_layer": 3,
    "rank": 4,
    "samples": 4,
    "sweep_samples": 2,
    "sweep_rank": 4,
    "rank_sweep_subject_layer": 1,
    "rank_sweep_object_layer": 3,
    "ranks": [2, D_MODEL],
    "object_sweep_subject_layer": 1,
    "object_layers": [2, 4],
    "subject_sweep_object_layer": 3,
    "subject_layers": [1, 2],
    "sample_counts": [1, 3],
    "single_objects": 3,
    "chunk": 0,
    "betas": [0.1, 0.3],
    "published_beta": 0.2,
    "tune_edits": 2,
}


def prompt(
    number: int, split: str, head: Sequence[int], subject: int, answer: Sequence[int], /, **extra: Any
) -> Prompt:
    """A prompt of tokens `head` with its answer; `subject` is the index of the subject's last token."""
    at = range(len(head) - 1, len(head) + len(answer) - 1)
    about = {"variant": "both", "seeds": [42], "relation": "river", "category": "factual", "template": 0}
    about |= {"subject": f"s{number}", "object": f"o{answer[0]}", "answer_tokens": len(answer)}
    positions = {"subject": (subject,), "object": tuple(at)}
    return Prompt(number, split, "", (*head, *answer), None, positions, (), (), extra={**about, **extra})


def relations(
    seeds: Sequence[int] = (42,), names: Collection[str] = tuple(RELATIONS), subjects: int = SUBJECTS
) -> dict[str, list[Prompt]]:
    """Both sets: subjects of two tokens, of which every second is trained on, by turns of the split seeds.

    Train prompts have something in front and are other ones in each variant; test prompts serve both.
    """
    out: dict[str, list[Prompt]] = {"train": [], "test": []}
    for relation in names:
        category, answers = RELATIONS[relation]
        rng = np.random.default_rng(list(RELATIONS).index(relation))
        for number, answer in enumerate(answers):
            for j in range(subjects):
                tokens = rng.integers(20, D_VOCAB, 2).tolist()
                about = {"relation": relation, "category": category}
                about |= {"subject": f"{relation} {number} {j}", "object": f"{relation} object {number}"}
                for variant in ("published", "corrected"):
                    before = rng.integers(20, D_VOCAB, int(rng.integers(3, 9))).tolist()
                    mine = [s for k, s in enumerate(seeds) if (j + k) % 2 == 0]
                    if mine:
                        extra = {**about, "variant": variant, "seeds": mine}
                        head = [1, *before, *tokens, 3]
                        out["train"].append(
                            prompt(len(out["train"]), "train", head, len(before) + 2, answer, **extra)
                        )
                rest = [s for k, s in enumerate(seeds) if (j + k) % 2]
                if rest:
                    # Of the two kinds of test prompts one ends with its subject.
                    head = [1, *tokens] if j % 4 == 1 else [1, 4, *tokens, 3]
                    subject = 2 if j % 4 == 1 else 3
                    extra = {**about, "variant": "both", "seeds": rest}
                    out["test"].append(prompt(len(out["test"]), "test", head, subject, answer, **extra))
    return out


def hand_dump(
    prompts: Sequence[Prompt],
    residual=None,
    unknown: Collection[int] = (),
    layers: int = N_LAYERS,
    d_model: int = D_MODEL,
) -> Dump:
    """A dump without a model: `residual(prompt, name, layer)` [d_model], or noise, at every position.

    The model is said to know every prompt but `unknown`, of which it has the last token wrong.
    """
    rng = np.random.default_rng(7)
    rows = [(p, name, at) for p in prompts for name in ("subject", "object") for at in p.positions[name]]
    resid = {}
    for layer in range(layers + 1):
        noise = rng.standard_normal((len(rows), d_model))
        values = [residual(p, name, layer) for p, name, _ in rows] if residual else noise
        resid[layer] = np.asarray(values, np.float32)
    made = Dump(
        np.array([p.id for p, _, _ in rows]), np.array([name for _, name, _ in rows], dtype=object), resid
    )
    return claimed(made, prompts, unknown)


def claimed(dump: Dump, prompts: Sequence[Prompt], unknown: Collection[int] = ()) -> Dump:
    """The dump of a model that says every answer, but for the last token of the `unknown` ones."""
    predicted = np.full(len(dump.prompt), -1, np.int32)
    for p in prompts:
        at = [p.ids[i + 1] for i in p.positions["object"]]
        if p.id in unknown:
            at[-1] = (at[-1] + 1) % D_VOCAB
        predicted[dump.rows[p.id, "object"]] = at
    return replace(dump, predicted=predicted)


def _model(family: str | Model) -> Model:
    return model(family) if isinstance(family, str) else family


def run_dump(family: str | Model, prompts: Sequence[Prompt], max_tokens: int = 256) -> Dump:
    """The dump of a tiny random model, or of one that is given."""
    tables = dump(_model(family), prompts, ("subject", "object"), max_tokens, predict=True)
    return load_dump(pa.concat_tables(list(tables)))


def fit_all(
    prompts, dumps, settings: Mapping[str, Any], family: str | Model
) -> dict[str, dict[str, np.ndarray]]:
    """Directions of every method, in the order that they build on each other."""
    out: dict[str, dict[str, np.ndarray]] = {}
    for method in METHODS:
        built = {"built": {"lre": out["lre"]}} if method == "lrc" else {}
        out[method] = fit(method, prompts, dumps, settings, 0, _model(family), **built)
    return out


@cache
def inputs(family: str = "gpt_neox", known: bool = True) -> Inputs:
    """All that an experiment needs, on a tiny random model that is said to know every prompt, or none."""
    prompts = relations()
    dumps = {}
    for name, mine in prompts.items():
        unknown = () if known else {p.id for p in mine}
        dumps[name] = claimed(run_dump(family, mine), mine, unknown)
    directions = fit_all(prompts, dumps, SETTINGS, family)
    return Inputs(prompts, dumps, directions, SETTINGS, 0, model(family))
