"""Directions that LRC is compared with: the same as scikit-learn and numpy called directly on the residuals."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from lm_models import D_MODEL
from lrc_models import SETTINGS, hand_dump, relations

from bearings.studies.lrc.common import tasks
from bearings.studies.lrc.fit import fit

LAYER = SETTINGS["subject_layer"]


@cache
def world():
    """Noise as residuals, each number of its own size and middle, the first constant: standardising must matter."""
    prompts = relations()
    rng = np.random.default_rng(0)
    scale, middle = np.exp(rng.standard_normal(D_MODEL)), rng.standard_normal(D_MODEL)
    scale[0] = 0.0
    dumps = {
        name: hand_dump(mine, lambda p, at, layer: middle + scale * rng.standard_normal(D_MODEL))
        for name, mine in prompts.items()
    }
    return prompts, dumps, tasks(prompts, dumps, SETTINGS)


@cache
def fitted(method: str):
    prompts, dumps, _ = world()
    return fit(method, prompts, dumps, SETTINGS, 5)


def data(t):
    """Residuals [n, d_model] and object numbers [n], collected row by row."""
    dump = world()[1]["train"]
    rows = [
        next(i for i in range(len(dump.prompt)) if (dump.prompt[i], dump.name[i]) == (p.id, "subject"))
        for p in t.train
    ]
    x = dump.resid[LAYER][rows].astype(np.float64)
    return x, np.array([t.objects.index(p.extra["object"]) for p in t.train])


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_svm_and_logistic_regression_are_scikit_learn_s():
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    found = fitted("probes")
    for t in world()[2]:
        x, y = data(t)
        for i in range(len(t.objects)):
            svm = LinearSVC(
                C=1, class_weight="balanced", fit_intercept=False, max_iter=1000, dual=True, random_state=5
            )
            logistic = LogisticRegression(C=1, class_weight="balanced", fit_intercept=False, max_iter=1000)
            # fp32 of the file is the only difference.
            one = unit(svm.fit(x, (y == i).astype(int)).coef_[0])
            assert np.abs(found[f"{t.key}/svm"][i] - one).max() < 1e-6
            if t.variant == "corrected":
                one = unit(logistic.fit(x, (y == i).astype(int)).coef_[0])
                assert np.abs(found[f"{t.key}/logistic"][i] - one).max() < 1e-6
        # The classifier's positive side is the object's own.
        assert (np.einsum("nd,nd->n", x, found[f"{t.key}/svm"][y]) > 0).mean() > 0.9


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_fair_svm_is_a_standardised_pipeline_but_for_one_scale():
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    found, rng = fitted("probes"), np.random.default_rng(1)
    for t in (t for t in world()[2] if t.variant == "corrected"):
        x, y = data(t)
        asked = x[:5] + rng.standard_normal((5, D_MODEL))
        asked[:, 0] = x[0, 0]
        lines = [
            make_pipeline(
                StandardScaler(), LinearSVC(C=1, class_weight="balanced", random_state=5, dual=True)
            )
            for _ in t.objects
        ]
        theirs = np.stack([one.fit(x, y == i).decision_function(asked) for i, one in enumerate(lines)], 1)
        w, b = found[f"{t.key}/svm_fair"], found[f"{t.key}/svm_fair/bias"]
        ours = asked @ w.T + b
        ratio = np.sum(ours * theirs) / np.sum(theirs**2)
        assert ratio > 0
        # fp32 of the file, on numbers that cancel by up to a hundred.
        assert np.abs(ours - ratio * theirs).max() < 1e-4 * np.abs(ours).max()
        assert np.linalg.norm(w, axis=1).mean() == pytest.approx(1, rel=1e-5)


def test_averages_are_numpy_s_and_the_centred_ones_leave_the_relation_s_mean_out():
    found = fitted("means")
    for t in world()[2]:
        x, y = data(t)
        each = np.stack(
            [
                np.mean([row for row, label in zip(x, y, strict=True) if label == i], 0)
                for i in range(len(t.objects))
            ]
        )
        assert np.abs(found[f"{t.key}/average"] - unit(each)).max() < 1e-6
        if t.variant == "corrected":
            middle = each.mean(0)
            v, b = found[f"{t.key}/centred"], found[f"{t.key}/centred/bias"]
            assert np.abs(v - unit(each - middle)).max() < 1e-6
            # The score of a residual is the centred direction's on the centred residual.
            assert np.abs((x @ v.T + b) - (x - middle) @ v.T).max() < 1e-5
    assert all(v.dtype == np.float32 for v in found.values())


def test_as_published_there_are_no_more_than_the_paper_s_own():
    for method, names in (("probes", {"svm"}), ("means", {"average"}), ("random", set())):
        for t in (t for t in world()[2] if t.variant == "published"):
            keys = {k.removeprefix(f"{t.key}/") for k in fitted(method) if k.startswith(f"{t.key}/")}
            assert keys == names


def test_random_directions_have_length_one_and_no_other_direction_s():
    found = fitted("random")
    every = np.concatenate(list(found.values()))
    assert len(found) == sum(t.variant == "corrected" for t in world()[2])
    assert np.abs(np.linalg.norm(every, axis=1) - 1).max() < 1e-6
    # Cosines of random directions spread by 1 / sqrt(d) = .18.
    assert np.abs(every @ every.T - np.eye(len(every))).max() < 0.8
