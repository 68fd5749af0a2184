"""Classification (section 3.1; protocol 4.4): the concept that a zero-shot prompt's subject lies along most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from bearings.stages.inputs import Inputs, Outcomes
from bearings.stages.prompts import Prompt
from bearings.studies.lrc.common import VARIANTS, Task, concept_key, known, serves, tasks
from bearings.studies.lrc.maps import read_layer, swept

FILTER = {
    "variant": pa.string(), "seed": pa.int32(), "set": pa.string(), "relation": pa.string(),
    "category": pa.string(), "prompt": pa.int32(), "subject": pa.string(), "object": pa.string(),
    "answer_tokens": pa.int32(), "known": pa.bool_(), "used": pa.bool_(),
}  # fmt: skip
CLASSIFY = {
    "variant": pa.string(), "seed": pa.int32(), "relation": pa.string(), "category": pa.string(),
    "method": pa.string(), "prompt": pa.int32(), "subject": pa.string(), "object": pa.int32(),
    "guess": pa.int32(), "right": pa.bool_(), "answer_tokens": pa.int32(), "n_objects": pa.int32(),
    "n_train": pa.int32(),
}  # fmt: skip
FILES = {
    "lrc": (
        "lrc", "first_mid", "first_final", "transpose", "full_rank", "scrambled", "permuted",
    ),
    "probes": ("svm", "svm_fair", "logistic"),
    "means": ("average", "centred"),
    "random": ("random",),
    "lre": ("single_same", "single_other", "single_distinct"),
}  # fmt: skip


def methods(inputs: Inputs) -> Iterator[tuple[str, str]]:
    """(file, method) of everything that has concepts, sweeps at the end."""
    yield from ((file, name) for file, names in FILES.items() for name in names)
    yield from (("lrc", name) for name in swept(inputs.settings))
    yield from (("probes", f"svm_subject{layer}") for layer in inputs.settings["subject_layers"])


def concepts_of(inputs: Inputs, file: str, task: Task, method: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Concepts [n_objects, d_model] and biases [n_objects] of a method; None where a task has none."""
    found = inputs.directions[file]
    vectors = found.get(concept_key(task, method))
    if vectors is None:
        return None
    return vectors, found.get(concept_key(task, f"{method}/bias"), np.zeros(len(vectors), np.float32))


def filtered(inputs: Inputs) -> pa.Table:
    """Every prompt of every split: does the model know it (section 3), and is it used in the end?"""
    used = {
        (t.variant, t.seed, name, p.id)
        for t in tasks(inputs.prompts, inputs.dumps, inputs.settings)
        for name, mine in (("train", t.train), ("test", t.test))
        for p in mine
    }
    out = Outcomes(FILTER)
    for name in ("train", "test"):
        right = known(inputs.prompts[name], inputs.dumps[name])
        for variant in VARIANTS:
            for p in inputs.prompts[name]:
                for seed in p.extra["seeds"] if serves(p, variant) else ():
                    out.add(
                        variant=variant, seed=seed, set=name, **_about(p), object=p.extra["object"],
                        known=p.id in right, used=(variant, seed, name, p.id) in used,
                    )  # fmt: skip
    return out.table()


def _about(p: Prompt) -> dict:
    return {
        "relation": p.extra["relation"], "category": p.extra["category"], "prompt": p.id,
        "subject": p.extra["subject"], "answer_tokens": p.extra["answer_tokens"],
    }  # fmt: skip


def classify(inputs: Inputs) -> pa.Table:
    """Guess per task, method and known zero-shot prompt."""
    out = Outcomes(CLASSIFY)
    dump = inputs.dumps["test"]
    for task in tasks(inputs.prompts, inputs.dumps, inputs.settings):
        ids, labels = [p.id for p in task.test], task.labels(task.test)
        guesses = {"majority": np.full(len(ids), _majority(task))}
        for file, method in methods(inputs):
            found = concepts_of(inputs, file, task, method)
            if found is not None:
                x = dump.at("subject", ids, read_layer(method, inputs.settings))
                guesses[method] = (x @ found[0].T + found[1]).argmax(1)
        for method, guess in guesses.items():
            out.add(
                variant=task.variant, seed=task.seed, relation=task.relation, category=task.category,
                method=method, prompt=ids, subject=[p.extra["subject"] for p in task.test],
                object=labels, guess=guess, right=guess == labels,
                answer_tokens=[p.extra["answer_tokens"] for p in task.test],
                n_objects=len(task.objects), n_train=len(task.train),
            )  # fmt: skip
    return out.table()


def _majority(task: Task) -> int:
    """The object of most train prompts, the first among equals: control C3."""
    return Counter(task.labels(task.train).tolist()).most_common(1)[0][0]
