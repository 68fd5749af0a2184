"""Directions and features as they are drawn: from what, by which stream, and what they do not hang on."""

from __future__ import annotations

from functools import cache

import lm_models
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensitivity_models import CASES, CURVE, LAYERS, inputs, residuals

from bearings.lm.divergence import clean
from bearings.studies.sensitivity import curves
from bearings.studies.sensitivity.common import Length, layers
from bearings.studies.sensitivity.draws import DRAWN, FIXED, Pool, draw, pool
from bearings.studies.sensitivity.features import deal, pick, replaced, split

D, POS = 12, 16


def a_pool(reservoir: np.ndarray | None = None, rows: int = 400) -> Pool:
    rng = np.random.default_rng(0)
    factor = np.tril(rng.standard_normal((D, D))).astype(np.float32)
    if reservoir is None:
        reservoir = rng.standard_normal((rows, D)).astype(np.float32)
    return Pool(2, 5 * rng.standard_normal(D), factor, reservoir, 3.0, 2.5)


def some_x(rows: int = 3) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((rows, POS, D)).astype(np.float32)


@pytest.mark.parametrize("kind", DRAWN + FIXED)
def test_a_rows_directions_hang_on_its_number_alone(kind) -> None:
    x, where = some_x(), a_pool()
    together = draw(kind, x, [4, 7, 9], where, 0)
    assert together.dtype == np.float32
    assert together.shape == x.shape
    assert np.array_equal(together[1:2], draw(kind, x[1:2], [7], where, 0))
    assert np.array_equal(together[::-1], draw(kind, x[::-1], [9, 7, 4], where, 0))
    others = [draw(kind, x, [4, 7, 10], where, 0)[2], draw(kind, x, [4, 7, 9], where, 1)[2]]
    others.append(draw(kind, x, [4, 7, 9], Pool(3, *list(vars(where).values())[1:]), 0)[2])
    for other in others:
        assert np.array_equal(together[2], other) == (kind in FIXED)


def test_no_two_kinds_share_their_numbers() -> None:
    """`iso_published` is 121 g - x of the very g of `iso` (T1); of the others no two are alike."""
    x, where = some_x(), a_pool()
    found = {kind: draw(kind, x, [0, 1, 2], where, 0) for kind in DRAWN}
    np.testing.assert_allclose(found["iso_published"], 2.5 * found["iso"] - x, rtol=1e-5, atol=1e-6)
    noise = found["cov_difference"] + x - where.mean
    plain = [found["iso"], found["iso2"], np.linalg.solve(where.factor, found["cov_mixture"][..., None])[..., 0],
             np.linalg.solve(where.factor, noise[..., None])[..., 0]]  # fmt: skip
    for i, one in enumerate(plain):
        # 576 standard normal numbers: mean and correlation are 0 to 0.04, the spread 1 to 0.03
        assert abs(one.mean()) < 0.2
        assert 0.85 < one.std() < 1.15
        for other in plain[:i]:
            assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.2
    picked = (found["real_difference"] + x).reshape(-1, 1, D)
    assert np.abs(picked - where.reservoir).max(-1).min(-1).max() < 1e-5


def test_samples_have_the_covariance_and_the_mean_of_the_pool() -> None:
    """A8: cov-mixture is without the mean, cov-difference with it; 6,400 draws, 0.03 of the norm each."""
    where, x = a_pool(), np.zeros((400, POS, D), np.float32)
    wanted = where.factor @ where.factor.T
    for kind, mean in (("cov_mixture", 0 * where.mean), ("cov_difference", where.mean)):
        found = draw(kind, x, range(400), where, 0).reshape(-1, D)
        assert np.linalg.norm(np.cov(found.T) - wanted) / np.linalg.norm(wanted) < 0.1
        assert np.abs(found.mean(0) - mean).max() < 0.2


def test_a_difference_of_two_rows_of_the_pool_is_never_zero() -> None:
    """Sixty rows of twenty different ones, as a small vocabulary gives: one pair in thirty is of equal rows."""
    distinct = np.random.default_rng(2).standard_normal((20, D)).astype(np.float32)
    where = a_pool(np.repeat(distinct, 3, 0))
    found = draw("real_mixture", some_x(200), range(200), where, 0)
    assert np.linalg.norm(found, axis=-1).min() > 0.1
    apart = (distinct[:, None] - distinct[None]).reshape(-1, D)
    assert np.abs(found[0][:, None] - apart).max(-1).min(-1).max() < 1e-6
    with pytest.raises(ValueError, match="too many rows of the pool are equal"):
        draw("real_mixture", some_x(1), [0], a_pool(np.ones((60, D), np.float32)), 0)
    with pytest.raises(ValueError, match="'reservoir_rows': a row needs 44 residuals, the pool holds 20"):
        draw("real_mixture", some_x(1), [0], a_pool(distinct), 0)


def test_rows_of_the_pool_are_drawn_without_replacement() -> None:
    reservoir = np.arange(44.0, dtype=np.float32)[:, None] * np.ones(D, np.float32)
    picked = draw("real_difference", np.zeros((1, 44, D), np.float32), [0], a_pool(reservoir), 0)[0, :, 0]
    assert sorted(picked) == list(range(44))


def test_an_unknown_direction_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no direction 'sideways'; allowed: iso"):
        draw("sideways", some_x(), [0, 1, 2], a_pool(), 0)


# --- features -------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40), st.integers(0, 9))
def test_classes_are_disjoint_and_cover_all_features(flags, seed) -> None:
    alive, fired = np.array(flags).T
    found = split(alive, fired, (0, 1, 2, seed))
    classes = [found[k] for k in ("active", "inactive", "dead")]
    assert sorted(np.concatenate(classes)) == list(range(len(flags)))
    assert fired[found["active"]].all()
    assert not fired[np.concatenate(classes[1:])].any()
    assert alive[found["inactive"]].all()
    assert not alive[found["dead"]].any()
    mixed = [found["active_shuffled"], found["inactive_shuffled"]]
    assert [len(m) for m in mixed] == [len(c) for c in classes[:2]]
    assert sorted(np.concatenate(mixed)) == sorted(np.concatenate(classes[:2]))


def test_shuffled_labels_hang_on_the_row_and_are_shuffled() -> None:
    alive, fired = np.ones(200, bool), np.arange(200) < 80
    one, again, other = (split(alive, fired, (0, 1, 2, s))["active_shuffled"] for s in (4, 4, 5))
    assert np.array_equal(one, again)
    assert not np.array_equal(np.sort(one), np.sort(other))
    assert 10 < (one < 80).sum() < 60  # 32 expected, spread 4.4


@given(st.integers(1, 50), st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=20))
def test_a_member_is_chosen_for_every_number_below_1(size, uniform) -> None:
    """A9: also of the largest number below 1, which times the size rounds up to it."""
    members, u = 3 * np.arange(size), np.array([*uniform, np.nextafter(1, 0)])
    found = pick(members, u)
    assert np.array_equal(found, 3 * np.minimum(np.floor(u * size), size - 1))
    assert not pick(members[:0], u).any()


def test_every_member_of_a_class_is_chosen_as_often() -> None:
    counts = np.bincount(pick(np.arange(8), np.random.default_rng(0).random(8000)), minlength=8)
    assert counts.min() > 880  # 1,000 each, spread 30
    assert counts.max() < 1120


@given(st.lists(st.integers(1, 30), max_size=5), st.integers(0, 5))
def test_dealt_rows_are_a_permutation_of_all_rows_of_a_kind(sizes, seed) -> None:
    found = deal(sizes, seed)
    assert [len(x) for x in found] == sizes
    every = [(a, i) for a, size in enumerate(sizes) for i in range(size)]
    assert sorted(tuple(x) for part in found for x in part.tolist()) == every


def test_dealt_rows_are_mixed_between_the_saes() -> None:
    first = deal([300, 300], 0)[0]
    assert 120 < (first[:, 0] == 0).sum() < 180
    assert not np.array_equal(first, deal([300, 300], 1)[0])


@pytest.mark.parametrize("kind", ["random", "through"])
def test_what_replaces_a_feature_is_one_vector_wherever_it_is_drawn(kind) -> None:
    where, index = a_pool(), np.array([[3, 5, 3], [5, 9, 3]])
    found = replaced(kind, index, where, (0, 1, 2))
    assert found.dtype == np.float32
    assert found.shape == (2, 3, D)
    for i in (3, 5, 9):
        assert len(np.unique(found[index == i], axis=0)) == 1
    assert len(np.unique(found.reshape(-1, D), axis=0)) == 3
    assert np.array_equal(found[1, 1], replaced(kind, np.array([[9]]), where, (0, 1, 2))[0, 0])
    assert not np.array_equal(found, replaced(kind, index, where, (0, 1, 3)))
    many = replaced(kind, np.arange(3000), where, (0, 1, 2))
    wanted = np.eye(D) if kind == "random" else where.factor @ where.factor.T
    assert np.linalg.norm(np.cov(many.T) - wanted) / np.linalg.norm(wanted) < 0.12


# --- curves ---------------------------------------------------------------------------------------------------------


@cache
def before():
    """A clean pass of the first rows of a tiny model, and the pool of its main layer."""
    mine = inputs(*CASES[0])
    ids = lm_models.pad([list(p.ids) for p in mine.prompts["rows"][:CURVE]], 0)
    found = clean(mine.model, ids, LAYERS["main"], resid=residuals(CASES[0]))
    return found, pool(mine.directions["pool"], LAYERS["main"])


def curve(directions: np.ndarray, **named) -> pa.Table:
    out, (found, where) = curves.table(), before()
    steps = [Length(0.1, 0.1 * where.norm), Length(0.65, 0.65 * where.norm)]
    named |= {"layer": "main", "direction": "iso", "max_tokens": 64}
    curves.add_curve(out, inputs(*CASES[0]).model, found, range(CURVE), directions, steps, **named)
    return out.table()


def test_how_long_a_direction_is_makes_no_difference() -> None:
    """Times a power of two bit for bit, times another number but for the rounding of its length."""
    found = draw("iso", residuals(CASES[0]).numpy(), range(CURVE), before()[1], 0)
    assert curve(found).equals(curve(4 * found))
    plain, longer = (np.stack(curve(d)["kl"].to_numpy()) for d in (found, 7.3 * found))
    assert np.abs(plain - longer).max() < 1e-5 < plain.mean()
    assert not curve(found).equals(curve(-found))


def test_a_row_whose_class_is_empty_is_left_out_and_the_others_stay() -> None:
    found = draw("iso", residuals(CASES[0]).numpy(), range(CURVE), before()[1], 0)
    full, some = (curve(found, sizes=sizes).to_pandas() for sizes in ([3, 1, 2, 7], [3, 0, 2, 7]))
    assert full["n"].tolist() == [3, 1, 2, 7] * 2
    assert some.equals(full[full["sequence"] != 1].reset_index(drop=True))


@pytest.mark.parametrize(
    ("early", "late", "names"),
    [
        (1, 3, ["main", "early", "late"]),
        (2, 3, ["main", "late"]),
        (1, 1, ["main", "early"]),
        (2, 2, ["main"]),
    ],
)
def test_a_layer_that_is_another_one_is_left_out(early, late, names) -> None:
    found = layers({"main_layer": 2, "early_layer": early, "late_layer": late})
    assert list(found) == names
