"""Inverses and concepts: identities of linear algebra, and a world in which the map is linear by construction."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
from lm_models import D_MODEL, N_LAYERS
from lrc_models import SETTINGS, hand_dump, prompt, relations

from bearings.stages.inputs import Inputs
from bearings.studies.lrc.common import tasks
from bearings.studies.lrc.concepts import Svd, concepts
from bearings.studies.lrc.fit import fit
from bearings.studies.lrc.intervene import intervene
from bearings.studies.lrc.maps import Map, first_map, main_map, plan, read_layer, swept

NO_SWEEPS = {**SETTINGS, "ranks": [], "object_layers": [], "subject_layers": [], "sample_counts": []}
# fp64 rounds at 1e-16; a product of three matrices of condition below 1e4 keeps all but 6 of its 16 digits.
FP64 = 1e-10


def with_values(s: np.ndarray, seed: int = 0) -> np.ndarray:
    """A random matrix with these singular values."""
    rng = np.random.default_rng(seed)
    u, v = (np.linalg.qr(rng.standard_normal((len(s), len(s))))[0] for _ in range(2))
    return (u * s) @ v.T


@pytest.mark.parametrize("rank", [1, 5, 23, 24])
def test_inverse_meets_the_four_conditions_of_penrose(rank):
    w = with_values(np.geomspace(10, 1e-2, 24))
    svd = Svd(w)
    a = (svd.u[:, :rank] * svd.s[:rank]) @ svd.vt[:rank]
    x = svd.inverse(rank)
    assert np.linalg.norm(a - w, 2) == pytest.approx(np.sort(np.append(svd.s, 0))[::-1][rank], abs=1e-12)
    for left, right in ((a @ x @ a, a), (x @ a @ x, x), (a @ x, (a @ x).T), (x @ a, (x @ a).T)):
        assert np.abs(left - right).max() < FP64 * np.abs(right).max()
    assert np.linalg.matrix_rank(x) == rank


def test_inverse_at_full_rank_and_above_inverts():
    w = with_values(np.geomspace(10, 1e-2, 24))
    for rank in (24, 100):
        assert np.abs(Svd(w).inverse(rank) @ w - np.eye(24)).max() < FP64


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_directions_that_a_map_has_not_are_left_out_of_its_inverse(kind):
    # Half of the values are zero, which arithmetic turns into noise of 1e-7 or 1e-16 of the largest.
    s = np.append(np.linspace(4, 1, 12), np.zeros(12))
    x = Svd(with_values(s).astype(kind)).inverse(24)
    assert np.linalg.norm(x, 2) == pytest.approx(1.0, rel=1e-4)
    assert np.linalg.matrix_rank(x, tol=1e-3) == 12
    scrambled = Svd(with_values(s).astype(kind)).scrambled(24, np.random.default_rng(0))
    assert np.linalg.norm(scrambled, 2) == pytest.approx(1.0, rel=1e-4)
    assert not Svd(np.zeros((4, 4), kind)).inverse(4).any()


@pytest.mark.parametrize("rank", [1, 7, 24, 30])
def test_scrambled_keeps_the_singular_values_and_no_direction(rank):
    svd = Svd(with_values(np.geomspace(10, 1e-1, 24)))
    a, b = svd.inverse(rank), svd.scrambled(rank, np.random.default_rng(1))
    values = [np.linalg.svd(x, compute_uv=False) for x in (a, b)]
    assert np.abs(values[0] - values[1]).max() < FP64 * values[0].max()
    cosine = np.sum(a * b) / np.sum(a * a)
    # Of random maps of d x d the cosine is about 1 / d.
    assert abs(cosine) < 0.3


def test_concepts_have_length_one_and_forget_the_scale_of_the_map():
    rng = np.random.default_rng(2)
    w, objects, b = (
        with_values(np.geomspace(5, 0.1, 16)),
        rng.standard_normal((5, 16)),
        rng.standard_normal(16),
    )
    one = concepts(Svd(w).inverse(6), objects, b)
    assert one.dtype == np.float32
    assert np.abs(np.linalg.norm(one, axis=1) - 1).max() < 1e-6
    for c in (1e-3, 7.0):
        assert np.abs(concepts(Svd(c * w).inverse(6), objects, b) - one).max() < 1e-6
    assert np.abs(concepts(Svd(-w).inverse(6), objects, b) + one).max() < 1e-6


def test_sweeps_name_a_map_and_a_rank_and_skip_what_is_no_map():
    settings = {
        **SETTINGS,
        "object_sweep_subject_layer": 2,
        "object_layers": [2, 4],
        "subject_layers": [1, 3],
    }
    points = swept(settings)
    assert points == {
        "rank2": (Map(1, 3, "mean", 2), 2),
        f"rank{D_MODEL}": (Map(1, 3, "mean", 2), D_MODEL),
        "object4": (Map(2, 4, "mean", 2), 4),
        "subject1": (Map(1, 3, "mean", 2), 4),
        "samples1": (Map(2, 3, "mean", 1), 4),
        "samples3": (Map(2, 3, "mean", 3), 4),
    }
    assert [read_layer(m, settings) for m in ("rank2", "subject1", "object4", "lrc", "svm")] == [
        1,
        1,
        2,
        2,
        2,
    ]
    main, last = main_map(settings), first_map(settings, N_LAYERS)
    assert (main, last) == (Map(2, 3, "mean", 4), Map(2, 4, "first", 4))
    assert plan(settings, N_LAYERS, "published") == sorted([main, last])
    everything = {main, last, first_map(settings, 3), *(m for m, _ in points.values())}
    assert plan(settings, N_LAYERS, "corrected") == sorted(everything)


def test_concepts_are_the_paper_s_formula_prompt_by_prompt():
    prompts = relations()
    dumps = {name: hand_dump(mine) for name, mine in prompts.items()}
    found, rng = tasks(prompts, dumps, SETTINGS), np.random.default_rng(3)
    maps = {}
    for t in found:
        for m in plan(SETTINGS, N_LAYERS, t.variant):
            maps[f"{t.key}/map/{m.name}/W"] = rng.standard_normal((D_MODEL, D_MODEL)).astype(np.float32)
            maps[f"{t.key}/map/{m.name}/b"] = rng.standard_normal(D_MODEL).astype(np.float32)
    out = fit("lrc", prompts, dumps, SETTINGS, 0, built={"lre": maps})
    wanted = {
        "lrc": (main_map(SETTINGS), 4),
        "first_final": (first_map(SETTINGS, N_LAYERS), 4),
        "first_mid": (first_map(SETTINGS, 3), 4),
        "full_rank": (main_map(SETTINGS), D_MODEL),
        "transpose": (main_map(SETTINGS), None),
        **swept(SETTINGS),
    }
    for t in found:
        if t.variant == "published":
            assert {k for k in out if k.startswith(t.key)} == {f"{t.key}/lrc", f"{t.key}/first_final"}
        for name, (m, rank) in wanted.items():
            if t.variant == "published" and name not in ("lrc", "first_final"):
                continue
            w = maps[f"{t.key}/map/{m.name}/W"].astype(np.float64)
            u, s, vt = np.linalg.svd(w)
            back = np.linalg.pinv((u[:, :rank] * s[:rank]) @ vt[:rank], rcond=1e-9) if rank else w.T
            resid = dumps["train"].resid[m.layer].astype(np.float64)
            pushed = []
            for p in t.train:
                rows = dumps["train"].rows[p.id, "object"]
                o = resid[rows].mean(0) if m.aggregation == "mean" else resid[rows[0]]
                pushed.append(back @ (o - maps[f"{t.key}/map/{m.name}/b"]))
            labels = [t.objects.index(p.extra["object"]) for p in t.train]
            mean = [
                np.mean([x for x, y in zip(pushed, labels, strict=True) if y == i], 0)
                for i in range(len(t.objects))
            ]
            expected = np.array(mean) / np.linalg.norm(mean, axis=1, keepdims=True)
            # An fp32 decomposition; at full rank a random matrix has a condition of some hundreds.
            assert np.abs(out[f"{t.key}/{name}"] - expected).max() < (2e-3 if rank == D_MODEL else 1e-4), name


# --- a world whose map is linear: z = W h + b ------------------------------------------------------------------

N_RELATIONS, N_OBJECTS, N_TRAIN, N_TEST, RANK = 10, 12, 4, 3, 16


@cache
def planted(kind: str) -> pd.DataFrame:
    """Guesses in the planted world; `kind`: the map is well conditioned, or hides noise in its small directions.

    A subject's residual is its object's direction and a little noise; the object's is the relation's map of it.
    """
    rng = np.random.default_rng(11)
    s = np.linspace(2, 1, D_MODEL)
    if kind == "noisy":
        s[RANK:] = 1e-3
    prompts: dict[str, list] = {"train": [], "test": []}
    maps, subject, target = {}, {}, {}
    settings = {**NO_SWEEPS, "rank": RANK if kind == "noisy" else D_MODEL}
    settings |= {"ranks": [RANK, D_MODEL], "rank_sweep_subject_layer": 2}
    for r in range(N_RELATIONS):
        w, b = with_values(s, seed=r), rng.standard_normal(D_MODEL)
        u, _, vt = np.linalg.svd(w)
        # Objects lie along directions that the map keeps.
        own = np.linalg.qr(rng.standard_normal((RANK, RANK)))[0][:N_OBJECTS] @ vt[:RANK]
        for name, n in (("train", N_TRAIN), ("test", N_TEST)):
            for i in range(N_OBJECTS * n):
                extra = {"relation": f"r{r}", "object": f"o{i % N_OBJECTS}", "variant": "corrected"}
                p = prompt(len(prompts[name]), name, [1, 20, 3], 1, [5], **extra)
                prompts[name].append(p)
                h = 3 * own[i % N_OBJECTS] + 0.1 * rng.standard_normal(D_MODEL)
                noise = u[:, RANK:] @ rng.standard_normal(D_MODEL - RANK) if kind == "noisy" else 0
                subject[name, p.id], target[name, p.id] = h, w @ h + b + noise
        for m in plan(settings, N_LAYERS, "corrected"):
            maps[f"corrected/42/r{r}/map/{m.name}/W"] = w.astype(np.float32)
            maps[f"corrected/42/r{r}/map/{m.name}/b"] = b.astype(np.float32)
    dumps = {
        name: hand_dump(mine, lambda p, at, layer, n=name: (subject if at == "subject" else target)[n, p.id])
        for name, mine in prompts.items()
    }
    found = {"lrc": fit("lrc", prompts, dumps, settings, 0, built={"lre": maps})}
    directions = {"probes": {}, "means": {}, "random": {}, "lre": {}, **found}
    return intervene("classify", Inputs(prompts, dumps, directions, settings, 0)).to_pandas()


def accuracy(kind: str) -> pd.Series:
    rows = planted(kind)
    assert len(rows[rows["method"] == "lrc"]) == N_RELATIONS * N_OBJECTS * N_TEST
    return rows.groupby("method")["right"].mean()


# Test prompts of one object are guessed alike: what is by chance is by chance once per object and relation.
# Four standard deviations are passed once in 30 000 times.
CHANCE = 1 / N_OBJECTS
NEAR_CHANCE = CHANCE + 4 * np.sqrt(CHANCE * (1 - CHANCE) / (N_OBJECTS * N_RELATIONS))


def test_lrc_reads_a_planted_map_without_a_mistake_and_its_controls_by_chance():
    found = accuracy("plain")
    assert NEAR_CHANCE < 0.2
    for method in ("lrc", "full_rank", "first_mid", "first_final", f"rank{D_MODEL}"):
        assert found[method] == 1.0, method
    assert found["scrambled"] < NEAR_CHANCE
    assert found["permuted"] < NEAR_CHANCE
    assert found["majority"] == pytest.approx(CHANCE)


def test_low_rank_is_needed_where_noise_sits_in_small_directions():
    found = accuracy("noisy")
    assert found["lrc"] == found[f"rank{RANK}"] == found["first_final"] == 1.0
    # The noise is divided by 1e-3: concepts are noise of length 500 and a signal of 3.
    assert found["full_rank"] < NEAR_CHANCE
    assert found[f"rank{D_MODEL}"] < NEAR_CHANCE
    assert found["scrambled"] < NEAR_CHANCE
    assert found["permuted"] < NEAR_CHANCE


def test_a_map_that_carries_nothing_points_nowhere():
    """Local attention may keep a subject from its object for some layers: the Jacobian then is zero."""
    nothing = concepts(Svd(np.zeros((4, 4), np.float32)).inverse(2), np.eye(3, 4), np.zeros(4))
    assert np.array_equal(nothing, np.zeros((3, 4)))
