"""Directions to compare with (section 3.3; protocol 4.6): probes and means of the subject's own residual.

All read the residual entering block `subject_layer` at the subject's last token of the known train prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bearings.stages.dumps import Dump
from bearings.stages.prompts import Prompt
from bearings.studies.lrc.common import Task, tasks
from bearings.studies.lrc.concepts import unit_rows

Found = dict[str, np.ndarray]


def subjects(task: Task, dump: Dump, layer: int) -> tuple[np.ndarray, np.ndarray]:
    """Residuals [n, d_model] (float64) and object numbers [n] of the train prompts of a task."""
    x = dump.at("subject", [p.id for p in task.train], layer).astype(np.float64)
    return x, task.labels(task.train)


def probes(
    prompts: Mapping[str, Sequence[Prompt]], dumps: Mapping[str, Dump], settings: Mapping[str, Any], seed: int
) -> Found:
    """Linear SVM as published, a fairer one (standardised input, intercepts, margins kept), logistic regression.

    The SVM is fitted at every layer of the subject sweep too: the best layer for one method need not suit another.
    """
    out: Found = {}
    for task in tasks(prompts, dumps, settings):
        x, y = subjects(task, dumps["train"], settings["subject_layer"])
        out[f"{task.key}/svm"] = unit_rows(one_against_rest(x, y, len(task.objects), _svm(seed)))
        if task.variant == "corrected":
            out[f"{task.key}/logistic"] = unit_rows(
                one_against_rest(x, y, len(task.objects), _logistic(seed))
            )
            for layer in settings["subject_layers"]:
                other, _ = subjects(task, dumps["train"], layer)
                w = unit_rows(one_against_rest(other, y, len(task.objects), _svm(seed)))
                out[f"{task.key}/svm_subject{layer}"] = w
            w, b = svm_fair(x, y, len(task.objects), seed)
            out |= {f"{task.key}/svm_fair": w, f"{task.key}/svm_fair/bias": b}
    return out


def means(
    prompts: Mapping[str, Sequence[Prompt]], dumps: Mapping[str, Dump], settings: Mapping[str, Any]
) -> Found:
    """Input averaging as published (uncentred), and the same less the relation's mean."""
    out: Found = {}
    for task in tasks(prompts, dumps, settings):
        x, y = subjects(task, dumps["train"], settings["subject_layer"])
        each = np.stack([x[y == i].mean(0) for i in range(len(task.objects))])
        out[f"{task.key}/average"] = unit_rows(each)
        if task.variant == "corrected":
            middle = each.mean(0)
            centred = unit_rows(each - middle)
            out |= {f"{task.key}/centred": centred, f"{task.key}/centred/bias": -centred @ middle}
    return {key: value.astype(np.float32) for key, value in out.items()}


def random(
    prompts: Mapping[str, Sequence[Prompt]], dumps: Mapping[str, Dump], settings: Mapping[str, Any]
) -> Found:
    """Gaussian unit vectors, one per object: control C5."""
    d = dumps["train"].width
    found = tasks(prompts, dumps, settings)
    return {
        f"{t.key}/random": unit_rows(t.rng("random").standard_normal((len(t.objects), d)))
        for t in found
        if t.variant == "corrected"
    }


def _svm(seed: int):
    from sklearn.svm import LinearSVC

    return LinearSVC(
        C=1.0, class_weight="balanced", fit_intercept=False, max_iter=1000, dual=True, random_state=seed
    )


def _logistic(seed: int):
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(
        C=1.0, class_weight="balanced", fit_intercept=False, max_iter=1000, random_state=seed
    )


def one_against_rest(x: np.ndarray, y: np.ndarray, n: int, model) -> np.ndarray:
    """Weights [n, d_model] of a binary classifier per object, the prompts of all others its negatives."""
    from sklearn.base import clone

    return np.stack([clone(model).fit(x, y == i).coef_[0] for i in range(n)])


def svm_fair(x: np.ndarray, y: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights [n, d_model] and intercepts [n] on raw residuals of an SVM with bias on standardised ones (row 12)."""
    from sklearn.svm import LinearSVC

    centre, scale = x.mean(0), x.std(0)
    scale[scale == 0] = 1.0
    z = (x - centre) / scale
    fits = [
        LinearSVC(C=1.0, class_weight="balanced", dual=True, random_state=seed).fit(z, y == i)
        for i in range(n)
    ]
    w = np.stack([f.coef_[0] for f in fits]) / scale
    b = np.array([f.intercept_[0] for f in fits]) - w @ centre
    # One length for all objects keeps the margins comparable and the edit's direction of length one on average.
    size = np.linalg.norm(w, axis=1).mean()
    return (w / size).astype(np.float32), (b / size).astype(np.float32)
