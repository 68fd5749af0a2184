"""The paired bootstrap against `estimate`, numpy's median and exact identities."""

from __future__ import annotations

import numpy as np
import pytest

from bearings.evidence.paired import Paired
from bearings.evidence.stats import estimate

N, K, RESAMPLES = 24, 300, 400


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.random.default_rng(0).lognormal(0, 1, (N, K))


@pytest.fixture(scope="module")
def paired() -> Paired:
    return Paired(N, seed=1, resamples=RESAMPLES)


def test_means_are_those_of_the_drawn_clusters(paired, rows):
    drawn = paired.means(rows)
    assert drawn.shape == (RESAMPLES + 1, K)
    # Sums of 24 float64 in another order: 1e-14 relative.
    np.testing.assert_allclose(drawn[0], rows.mean(0), rtol=1e-13)
    for b in (1, 7, RESAMPLES):
        whole = np.repeat(rows, paired.counts[b].astype(int), axis=0)
        assert len(whole) == N
        np.testing.assert_allclose(drawn[b], whole.mean(0), rtol=1e-13)


def test_every_resample_holds_as_many_clusters_and_the_seed_fixes_them():
    counts = Paired(N, seed=1, resamples=RESAMPLES).counts
    assert (counts.sum(1) == N).all()
    assert (counts[0] == 1).all()
    assert (counts == Paired(N, seed=1, resamples=RESAMPLES).counts).all()
    assert (counts != Paired(N, seed=2, resamples=RESAMPLES).counts).any()


def test_equal_columns_give_equal_bits_wherever_they_stand(paired, rows):
    twice = np.concatenate([rows, rows[:, ::-1], rows[:, :1]], axis=1)
    drawn = paired.means(twice)
    assert (drawn[:, :K] == drawn[:, K : 2 * K][:, ::-1]).all()
    found = paired.estimate(drawn[:, 0] / drawn[:, -1])
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)
    assert "no width" in found.reason


def test_interval_of_a_mean_is_that_of_estimate(rows):
    ours = Paired(N, seed=1, resamples=4000)
    found = ours.estimate(ours.means(rows[:, :1])[:, 0])
    other = estimate(np.mean, rows[:, 0], seed=2, resamples=4000)
    assert found.value == pytest.approx(other.value)
    # Two draws of 4000 resamples: a 2.5 % quantile is known to 0.04 sd of the mean each, and 0.2 is four of both.
    sd = rows[:, 0].std() / np.sqrt(N)
    assert found.low == pytest.approx(other.low, abs=0.2 * sd)
    assert found.high == pytest.approx(other.high, abs=0.2 * sd)


def test_a_ratio_of_paired_columns_is_far_narrower_than_of_unpaired_ones(paired, rows):
    shared = rows[:, :1]
    noisy = shared * np.random.default_rng(3).lognormal(0, 0.01, (N, 1))
    together = paired.means(np.concatenate([shared, noisy], 1))
    apart = Paired(N, seed=99, resamples=RESAMPLES).means(noisy)[:, 0]
    width = [paired.estimate(together[:, 0] / x) for x in (together[:, 1], apart)]
    narrow, wide = (e.high - e.low for e in width)
    assert narrow < wide / 10


def test_clusters_that_were_not_measured_are_left_out(paired, rows):
    some = rows[:, :2].copy()
    some[::2, 1] = np.nan
    drawn = paired.means(some)
    np.testing.assert_allclose(drawn[0, 1], rows[1::2, 1].mean(), rtol=1e-13)
    whole = np.repeat(some[:, 1], paired.counts[5].astype(int))
    np.testing.assert_allclose(drawn[5, 1], np.nanmean(whole), rtol=1e-13)
    assert np.isnan(paired.means(np.full((N, 1), np.nan))).all()


@pytest.mark.parametrize("per_cluster", [1, 2, 7])
def test_median_is_numpys(paired, per_cluster):
    values = np.random.default_rng(per_cluster).normal(size=(N, per_cluster)).round(1)  # with ties
    drawn = paired.median(values)
    for b in range(0, RESAMPLES + 1, 13):
        whole = np.repeat(values, paired.counts[b].astype(int), axis=0)
        assert drawn[b] == np.median(whole)
    values[3] = np.nan
    whole = np.repeat(values, paired.counts[9].astype(int), axis=0)
    assert paired.median(values)[9] == np.nanmedian(whole)
    assert np.isnan(paired.median(np.full((N, 2), np.nan))).all()


def test_what_is_undefined_or_censored_is_said(paired):
    drawn = np.linspace(1, 2, RESAMPLES + 1)
    lost = drawn.copy()
    lost[1:11] = np.nan
    assert paired.estimate(lost).reason == f"undefined on 10 of {RESAMPLES} resamples"
    lost[1:300] = np.nan
    assert paired.estimate(lost).low is None
    censored = drawn.copy()
    censored[-5:] = np.inf  # 1.25 %: below the tail, so the end is still known
    assert paired.estimate(censored).high is not None
    censored[-40:] = np.inf
    found = paired.estimate(censored)
    assert (found.value, found.low, found.high) == (1.0, None, None)
    assert "censored on 40" in found.reason
    assert paired.estimate(np.full(RESAMPLES + 1, np.nan), undefined="so").reason == "so"
    assert paired.estimate(drawn, n=1).low is None


def test_no_clusters_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        Paired(0, seed=0)
