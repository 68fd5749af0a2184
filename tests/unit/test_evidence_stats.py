"""Statistics against closed forms, exact enumerations and their nominal coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as sp

from bearings.evidence.stats import (
    Estimate,
    difference,
    estimate,
    mcnemar,
    paired_permutation,
    proportion,
    spearman,
)


def test_bootstrap_of_a_mean_is_near_the_normal_interval_and_fixed_by_the_seed():
    x = np.random.default_rng(0).normal(3, 2, 400)
    found = estimate(np.mean, x, seed=1)
    half = 1.96 * x.std() / math.sqrt(len(x))
    assert found.value == pytest.approx(x.mean())
    # 2000 resamples fix a 2.5 % quantile to 0.05 sd of the mean, 0.026 half-widths; 0.1 is four of those.
    assert found.low == pytest.approx(x.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(x.mean() + half, abs=0.1 * half)
    assert found == estimate(np.mean, x, seed=1)
    assert found.low != estimate(np.mean, x, seed=2).low


def test_coverage_is_what_it_says():
    rng = np.random.default_rng(3)
    inside = 0
    for trial in range(200):
        found = estimate(np.mean, rng.normal(0, 1, 60), seed=trial, resamples=400)
        inside += found.low <= 0 <= found.high
    # Nominal .95; the percentile bootstrap at n = 60 covers .93-.95, and three sd of 200 trials are .05.
    assert 0.88 <= inside / 200 <= 0.99


def test_rows_are_resampled_together():
    x = np.random.default_rng(0).normal(10, 3, 50)
    found = estimate(lambda a, b, axis: a.mean(axis) - b.mean(axis), x, x + 1, seed=0)
    assert found.value == pytest.approx(-1)
    assert found.low == pytest.approx(found.high) == pytest.approx(-1)


def test_clusters_widen_the_interval_and_unequal_ones_work():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(20), 10)
    x = rng.normal(0, 1, 20)[labels] + 0.01 * rng.normal(0, 1, 200)
    rows, groups = estimate(np.mean, x, seed=0), estimate(np.mean, x, seed=0, clusters=labels)
    # With rows all but equal inside clusters of 10, the true ratio of widths is sqrt(10) = 3.2.
    assert 2.5 < (groups.high - groups.low) / (rows.high - rows.low) < 4
    uneven = estimate(np.mean, x[3:], seed=0, clusters=labels[3:], resamples=300)
    assert uneven.value == pytest.approx(x[3:].mean())
    assert (uneven.high - uneven.low) == pytest.approx(groups.high - groups.low, rel=0.4)


def test_columns_of_several_values_are_kept_by_row():
    random = np.random.default_rng(0).normal(0, 1, (30, 4))
    found = estimate(lambda a, axis: a.mean(axis).mean(-1), random, seed=0)
    assert found.value == pytest.approx(random.mean())


@pytest.mark.parametrize(
    ("rows", "has_value", "says"),
    [([], False, "no rows"), ([2.0], True, "one row"), ([2.0, 2.0], True, "no width")],
)
def test_degenerate_rows_are_named(rows, has_value, says):
    found = estimate(np.mean, rows, seed=0)
    assert (found.value is not None) == has_value
    assert says in found.reason
    assert found.n == len(rows)
    assert (found.low is None) == (len(rows) < 2)


def test_undefined_statistics_are_missing_not_nan():
    def ratio(a, b, axis):
        return a.sum(axis) / b.sum(axis)

    assert "undefined" in estimate(ratio, [1.0, 2.0], [0.0, 0.0], seed=0).reason
    assert estimate(ratio, [1.0, 2.0], [0.0, 0.0], seed=0).value is None
    some = estimate(ratio, np.ones(4), np.array([0.0, 0, 0, 1]), seed=0)
    assert some.low is not None
    assert "of 2000 resamples" in some.reason
    most = estimate(ratio, np.ones(2), np.array([0.0, 1.0]), seed=0, resamples=50)
    assert math.isfinite(most.value)
    with pytest.raises(ValueError, match="NaN"):
        estimate(np.mean, [1.0, math.nan], seed=0)
    with pytest.raises(ValueError, match="lengths"):
        estimate(ratio, [1.0], [1.0, 2.0], seed=0)


def test_wilson_against_the_formula():
    found, z = proportion(8, 10), sp.norm.ppf(0.975)
    centre = (0.8 + z * z / 20) / (1 + z * z / 10)
    half = z * math.sqrt(0.8 * 0.2 / 10 + z * z / 400) / (1 + z * z / 10)
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half))
    assert proportion(8, 10, scale=100).low == pytest.approx(100 * found.low)
    assert proportion(0, 0).value is None
    assert proportion(5, 5).high == 1.0
    assert proportion(5, 5).low < 0.6
    with pytest.raises(ValueError, match="3 successes of 2"):
        proportion(3, 2)


def test_difference_takes_away_the_mean_over_draws():
    rng = np.random.default_rng(0)
    direction, random = rng.normal(2, 1, 80), rng.normal(0.5, 1, (80, 6))
    found = difference(direction, random, seed=0)
    assert found.value == pytest.approx(direction.mean() - random.mean())
    assert found.low < found.value < found.high
    one = difference(direction, random[:, 0], seed=0)
    assert one.value == pytest.approx((direction - random[:, 0]).mean())
    ratio = difference(
        (direction, direction + 1),
        (random, random + 1),
        seed=0,
        statistic=lambda a, b, axis: a.mean(axis) / b.mean(axis),
    )
    expected = direction.mean() / (direction + 1).mean() - np.mean(random.mean(0) / (random + 1).mean(0))
    assert ratio.value == pytest.approx(expected)


def test_mcnemar_is_the_exact_binomial_of_discordant_pairs():
    a = np.array([1] * 9 + [0] * 1 + [1] * 5 + [0] * 5, dtype=bool)
    b = np.array([0] * 9 + [1] * 1 + [1] * 5 + [0] * 5, dtype=bool)
    found = mcnemar(a, b)
    assert found.p == pytest.approx(2 * (1 + 10) / 2**10)
    assert found.statistic == pytest.approx(0.9)
    assert mcnemar(a, a).p == 1.0
    assert mcnemar([], []).p is None


def test_spearman_is_scipys_with_an_interval():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 6, 60).astype(float)
    y = x + rng.normal(0, 2, 60)
    found = spearman(x, y, seed=0)
    assert found.value == pytest.approx(sp.spearmanr(x, y).statistic)
    assert found.low < found.value < found.high <= 1
    assert spearman(x, np.ones(60), seed=0).value is None


def test_paired_permutation_is_exact_where_rows_are_few():
    a, b = np.array([1.0, 2, 3, 4]), np.zeros(4)
    # All four differences have one sign: 2 of the 16 exchanges are as extreme.
    assert paired_permutation(a, b, seed=0).p == pytest.approx(2 / 16)
    assert paired_permutation([1.0], [0.0], seed=0).p is None
    far = paired_permutation(np.random.default_rng(0).normal(1, 1, 100), np.zeros(100), seed=0)
    assert far.p < 0.001


def test_missing_estimate_says_why_and_how_many():
    assert Estimate.missing("no comma tokens", 3).to_json() == {
        "value": None,
        "low": None,
        "high": None,
        "n": 3,
        "unit": "",
        "reason": "no comma tokens",
    }
