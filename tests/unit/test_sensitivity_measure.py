"""Measures of the sensitivity study: closed forms (A14), planted truths, what is missing, what is refused."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from functools import cache
from itertools import permutations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import stats
from sensitivity_outcomes import (
    ABLATIONS,
    AFTER,
    BASES,
    CE,
    CLASSES,
    CONTROLS,
    COSINE,
    GRID,
    KIND,
    LEVELS,
    NAMED,
    NORM,
    Size,
    base,
    cached,
    fall,
    inputs,
    l0,
    outcomes,
    saes,
    variant,
    without_saes,
)

from bearings.studies.sensitivity.measure import measure
from bearings.studies.sensitivity.summaries import (
    area,
    critical,
    entropy,
    levels,
    log_ratio,
    matched,
    monotone,
    participation,
    permutation_p,
    ratio,
    spearman,
    threshold,
)

# Outcomes are float32: means of them are known to 1e-7, and ratios, areas and roots of such to a few of those.
CLOSE = 1e-6
K = dict(NAMED)


@cache
def measured(model: str = "trained"):
    return measure(inputs(model), cached(model))


def value(name: str, model: str = "trained") -> float:
    found = measured(model)[name]
    assert found.value is not None, found.reason
    return found.value


def changed(name: str, **columns):
    """The trained model's tables, one of them with other columns."""
    return {k: t.assign(**columns) if k == name else t for k, t in cached().items()}


# --- closed forms --------------------------------------------------------------------------------------------------


def test_area_of_a_line_and_of_a_parabola():
    x = np.array([0.5, 1.0, 3.0])
    assert area(2 * x, x) == pytest.approx(3.0)  # a line from 0 to 6: half its end
    assert area(np.ones(3), x) == pytest.approx((0.25 + 0.5 + 2) / 3)  # up from 0, then level
    assert area(np.stack([x, 2 * x]), x).tolist() == pytest.approx([1.5, 3.0])


def test_threshold_is_exact_on_a_power_law_and_says_what_is_censored():
    x = np.array([0.1, 0.2, 0.5, 1.0, 2.0])
    curves = np.stack([3 * x**2, 0.7 * x**1.3, 1e-3 * x, 10 + x])
    found = threshold(curves, x, 0.3)
    assert found[0] == pytest.approx(math.sqrt(0.1))
    assert found[1] == pytest.approx((0.3 / 0.7) ** (1 / 1.3))
    assert found[2] == math.inf  # never reached
    assert found[3] == -math.inf  # already there at the first length
    assert threshold(np.array([[0.1, 0.3, 0.2, 0.4, 0.5]]), x, 0.3) == pytest.approx(
        0.2
    )  # first, though it falls
    assert np.isnan(threshold(np.array([[0.0, 1, 1, 1, 1]]), x, 0.3))  # no logarithm of 0
    assert np.isnan(threshold(np.array([[0.1, np.nan, 1, 1, 1]]), x, 0.3))


def test_spearman_is_scipys_with_ties_over_the_last_axis():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 4, (2, 30, 7)).astype(float)
    found = spearman(x, y)
    expected = [stats.spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert spearman(np.arange(5.0), -(np.arange(5.0) ** 3)) == -1
    assert np.isnan(spearman(np.ones(4), np.arange(4.0)))


def test_permutation_p_is_exact():
    x = np.arange(5.0)
    assert permutation_p(x, -x) == pytest.approx(1 / 120)
    assert permutation_p(x, x) == 1
    rng = np.random.default_rng(1)
    for y in (rng.permutation(6).astype(float), np.array([1.0, 1, 2, 5, 4, 2])):
        a = np.arange(6.0)
        rhos = np.array([stats.spearmanr(a, p).statistic for p in permutations(y)])
        expected = (rhos <= stats.spearmanr(a, y).statistic + 1e-9).mean()
        assert permutation_p(a, y) == pytest.approx(expected)
    with pytest.raises(ValueError, match="at most 14"):
        permutation_p(range(15), range(15))


def test_critical_values_are_those_of_the_protocol():
    # Section 4.7, given to two digits.
    printed = {4: -1.0, 5: -0.90, 6: -0.83, 7: -0.71, 8: -0.64, 9: -0.60}
    for n, expected in printed.items():
        assert critical(n) == pytest.approx(expected, abs=0.005)
    assert math.isnan(critical(3))  # 1 order of 6 is 17 %


@pytest.mark.parametrize("n", [4, 5, 6, 7])
def test_a_correlation_at_the_critical_value_equals_it(n):
    x = np.arange(n, dtype=float)
    rhos = spearman(x, np.array(list(permutations(x))))
    # Neighbouring values of rho are 1e-2 apart or more: 1e-9 takes equal ones together, however they are rounded.
    rare = [r for r in np.unique(rhos) if (rhos <= r + 1e-9).mean() <= 0.05]
    assert max(rare) == critical(n)  # to the last bit: a bound of 0 judges it


def test_matched_is_exact_on_power_laws_and_only_within_the_common_range():
    a, b = np.array([[64.0, 8, 16, 32]]), np.array([[20.0, 40, 160]])
    assert matched(a, 6 * a**-0.5, b, 2 * b**-0.5) == pytest.approx(math.log(3))
    assert matched(a, a**-1.0, b, b**-0.5) == pytest.approx(-0.5 * (math.log(20) + math.log(64)) / 2)
    assert np.isnan(matched(a, a, 100 * b, b))
    assert np.isnan(matched(a, a, b, 0 * b))


def test_levels_count_what_is_a_tenth_apart():
    l0s = np.array([[1.0, 1.05, 1.1, 1.2, 2.0], [3.0, 3, 3, 3, 3], [0.0, 0, 1, 2, 3]])
    assert levels(l0s).tolist() == [3, 1, 3]  # 1, 1.1 and 2: each from the one counted last


def test_small_summaries():
    assert np.isnan(ratio(np.array(1.0), np.array(0.0)))
    assert np.isnan(log_ratio(np.array(-1.0), np.array(2.0)))
    assert monotone(np.array([1.0, 2, 1.5, 3])) == pytest.approx(2 / 3)
    assert entropy(np.repeat(np.arange(8), 5)) == pytest.approx(math.log(8))
    assert participation(np.eye(6)) == pytest.approx(1.0)
    assert participation(np.diag([2.0, 0, 0, 0])) == pytest.approx(0.25)


# --- planted truths ------------------------------------------------------------------------------------------------


def test_curves_come_back():
    weights = area(np.array(GRID) ** 2, GRID)
    for direction, constant in BASES.items():
        for name, length in K.items():
            assert value(f"base.{direction}.{name}") == pytest.approx(constant * length**2, rel=CLOSE)
        assert value(f"base.{direction}.area") == pytest.approx(constant * weights, rel=CLOSE)
        assert value(f"base.{direction}.over_iso.k51") == pytest.approx(constant / 0.5, rel=CLOSE)
        assert value(f"base.{direction}.over_covmix.area") == pytest.approx(constant / 1.2, rel=CLOSE)
    for sae, kind, level in saes(Size()):
        constant = 3 * KIND[kind] * fall("trained", level)
        assert value(f"err.{sae}.k21") == pytest.approx(constant * 0.27**2, rel=CLOSE)
        assert value(f"err.{sae}.over_iso.k21") == pytest.approx(constant / 0.5, rel=CLOSE)
        assert value(f"err.{sae}.slope") == pytest.approx(2, abs=1e-5)


def test_thresholds_come_back_or_say_why_not():
    for direction in ("iso", "cov_mixture", "zero"):
        for level in (0.1, 1):
            expected = math.sqrt(level / BASES[direction])
            assert value(f"base.{direction}.threshold.{level}") == pytest.approx(expected, rel=CLOSE)
    never = measured()["base.ones.threshold.0.1"]
    assert never.value is None
    assert "not reached: the largest mean KL is 0 nats" in never.reason


def test_position_0_the_median_and_other_quantities():
    table = cached()["baselines"]
    rows = table[(table["direction"] == "iso") & (table["layer"] == "main") & (table["fraction"] == 0.65)]
    kl, l2, ce = (np.stack(rows[c].to_list()).astype(float) for c in ("kl", "l2", "ce"))
    assert value("base.iso.k51.no_bos") == pytest.approx(kl[:, 1:].mean())
    assert value("base.iso.k51.no_bos") > value("base.iso.k51")
    assert value("base.iso.k51.median") == pytest.approx(np.median(kl))
    assert value("base.iso.l2.k51") == pytest.approx(l2.mean())
    assert value("base.iso.ce.k51") == pytest.approx(ce.mean())
    assert value("base.iso.ce.k51") == pytest.approx(CE + value("base.iso.k51") / 2, rel=CLOSE)


def test_baselines_have_cosines_the_quadratic_regime_and_a_close_pair():
    assert value("base.cov_difference.cosine") == pytest.approx(COSINE)
    assert value("base.cov_mixture.cosine") == pytest.approx(0)
    assert value("base.iso.quadratic") == pytest.approx(4, rel=1e-5)
    assert value("base.iso.monotone") == 1
    close = measured()["base.real_close.k51"]
    assert close.value == pytest.approx(math.log(1.26 / 1.2), abs=CLOSE)
    assert 0 <= close.low <= close.value <= close.high
    assert (
        measured("random")["base.real_close.k51"].low == 0
    )  # no difference: the interval of |x| begins at 0


def test_a_curve_against_itself_is_exactly_1_with_no_width():
    for name in ("base.iso.over_iso", "base.cov_mixture.over_covmix"):
        for tail in (*K, "area"):
            found = measured()[f"{name}.{tail}"]
            assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


def test_pairing_holds_between_tables():
    copied = cached()["baselines"].query("layer == 'main' and direction == 'iso'")
    sae = copied.assign(direction="error", sae="local-0")
    rest = cached()["errors"].query("sae != 'local-0'")
    found = measure(inputs(), {**cached(), "errors": pd.concat([rest, sae], ignore_index=True)})
    same = found["err.local-0.over_iso.k51"]
    assert (same.value, same.low, same.high) == (1.0, 1.0, 1.0)


def test_substitutions_come_back():
    for sae, _, level in saes(Size()):
        kl = {
            k: variant("trained", k, level) for k in ("sae", "iso", "cov_mixture", "norm_only", "theta_true")
        }
        for k, mean in kl.items():
            assert value(f"sub.{sae}.{k}.kl") == pytest.approx(mean, rel=CLOSE)
        assert value(f"sub.{sae}.sae_over_iso") == pytest.approx(kl["sae"] / kl["iso"], rel=CLOSE)
        assert value(f"sub.{sae}.norm_only_over_sae") == pytest.approx(kl["norm_only"] / kl["sae"], rel=CLOSE)
        gap = math.log(kl["sae"] / kl["iso"]) - abs(math.log(kl["sae"] / kl["cov_mixture"]))
        assert value(f"sub.{sae}.pathology") == pytest.approx(gap, abs=CLOSE)
        assert value(f"sub.{sae}.ce_increase") == pytest.approx(kl["sae"] / 2, rel=1e-5)
        assert value(f"sub.{sae}.ce_ratio") == pytest.approx(kl["sae"] / kl["iso"], rel=1e-5)
    assert value("sub.local-0.sae_over_iso.median") != value("sub.local-0.sae_over_iso")
    early = variant("trained", "sae", 1, "early") / variant("trained", "iso", 1)
    assert value("early.sub.local-1-early.sae_over_iso") == pytest.approx(early, rel=CLOSE)


def test_the_run_and_its_gates():
    for name, mean in (("mean_ablation", "mean"), ("zero_ablation", "zero"), ("identity", "identity")):
        assert value(f"setup.{name}") == pytest.approx(ABLATIONS[mean], rel=CLOSE)
    assert value("setup.ce") == pytest.approx(CE, rel=CLOSE)
    tokens = np.concatenate([p.ids[1:] for p in inputs().prompts["rows"]])
    p = np.bincount(tokens) / len(tokens)
    assert value("setup.entropy_share") == pytest.approx(CE / -(p[p > 0] @ np.log(p[p > 0])), rel=CLOSE)
    positions = Size().positions
    assert value("setup.norm") == pytest.approx(NORM * (positions + 1) / positions)
    assert value("early.setup.norm.no_bos") == pytest.approx(NORM)
    assert value("gate.variance") == pytest.approx(0.9)
    assert value("gate.levels.local") == LEVELS["local"]
    variances = np.array([9.0, 9, *[0.01] * 6])
    share = variances.sum() ** 2 / (variances**2).sum() / 8
    assert value("gate.participation") == pytest.approx(share, rel=CLOSE)


def test_saes_come_back():
    for sae, kind, level in saes(Size()):
        assert value(f"sae.{sae}.l0") == pytest.approx(l0(level))
        assert value(f"sae.{sae}.variance") == pytest.approx(0.9 + 0.01 * level)
        assert value(f"sae.{sae}.dead") == 0.25
        training = measured()[f"sae.{sae}.l0.training"]
        assert training.value == (l0(level) + 1 if kind == "local" else None)
    assert value("late.sae.local-3-late.l0") == pytest.approx(l0(3))


def test_ladders_of_the_trained_model_fall_and_of_the_random_one_do_not():
    for kind, count in LEVELS.items():
        for what in ("err.l0_k21", "feat.inactive.l0_k51", "feat.active.l0_k51", "feat.minus.l0_k51"):
            assert value(f"ladder.{kind}.{what}") == -1
            assert value(f"ladder.{kind}.{what}.p") == pytest.approx(1 / math.factorial(count))
            assert value(f"ladder.{kind}.{what}.critical") == -1 - critical(count)
        # Their constants are equal: in some resamples the order is another.
        assert measured()[f"ladder.{kind}.feat.shuffled.l0_k51.critical"].high > 0
        assert value(f"ladder.{kind}.sae_over_iso.l0") == -1
        ratios = [variant("trained", "sae", x) / variant("trained", "iso", x) for x in range(count)]
        assert value(f"ladder.{kind}.sae_over_iso.least") == pytest.approx(min(ratios), rel=CLOSE)
        assert value(f"ladder.{kind}.sae_over_iso.most") == pytest.approx(max(ratios), rel=CLOSE)
        over = [CLASSES["inactive"] * KIND[kind] * fall("trained", x) / 1.2 for x in range(count)]
        assert value(f"ladder.{kind}.feat.inactive.over_covmix.most") == pytest.approx(max(over), rel=CLOSE)
        assert value(f"ladder.{kind}.feat.active_over_inactive.least") == pytest.approx(1.3, rel=CLOSE)
        assert value(f"ladder.{kind}.feat.active_over_inactive.share") == 1
        assert value(f"ladder.{kind}.feat.random_over_iso.k51") == pytest.approx(1, rel=CLOSE)
        assert value(f"ladder.{kind}.feat.through_over_covmix.k51") == pytest.approx(1, rel=CLOSE)
        for name in ("iso2_over_iso.worst", "feat.labels_shuffled"):
            found = measured()[f"ladder.{kind}.{name}"]
            assert found.value == pytest.approx(0, abs=CLOSE)
            assert found.low == 0
    random = measured("random")["ladder.local.feat.inactive.l0_k51.critical"]
    assert random.high > 0  # not significant on every resample
    everything = [value(f"ladder.{k}.feat.inactive.over_covmix.least") for k in LEVELS]
    assert value("ladder.all.feat.inactive.over_covmix.least") == min(everything)


def test_the_extreme_of_a_ladder_is_named_and_lies_in_its_interval():
    least, most = (measured()[f"ladder.local.sae_over_iso.{end}"] for end in ("least", "most"))
    assert least.reason == "local-4, of 5 SAEs"
    assert most.reason == "local-0, of 5 SAEs"
    assert "local-0, of 5 SAEs" in measured()["gate.variance"].reason
    for kind in LEVELS:
        # All SAEs of a ladder share this ratio, so that the largest is so by rounding alone.
        found = measured()[f"ladder.{kind}.theta_recon_over_iso.most"]
        assert found.value == pytest.approx(0.45 / 0.4, rel=CLOSE)
        assert found.low < found.value < found.high


def test_kinds_are_compared_at_the_same_l0():
    assert value("matched.err.k21.local_over_e2e") == pytest.approx(1 / KIND["e2e"], rel=CLOSE)
    assert value("matched.feat.k51.e2e_ds_over_local") == pytest.approx(KIND["e2e_ds"], rel=CLOSE)
    assert value("matched.feat.active.k51.e2e_over_local") == pytest.approx(KIND["e2e"], rel=CLOSE)
    assert value("matched.feat.random.e2e_over_local") == pytest.approx(1, rel=CLOSE)
    assert value("matched.sub.e2e_over_local") == pytest.approx(1, rel=CLOSE)
    assert value("l2.order.agreement") > 0.9
    apart = cached()["quality"]
    far = apart["l0"].where(apart["kind"] != "e2e", apart["l0"] * 1000)
    found = measure(inputs(resamples=10), changed("quality", l0=far))["matched.feat.k51.e2e_over_local"]
    assert found.value is None
    assert "do not overlap" in found.reason


def test_layers_are_compared_at_the_same_coefficient():
    steps = [variant("trained", "sae", x) / variant("trained", "iso", x) for x in (1, 3)]
    for layer, factor in (("early", 1.2), ("main", 1.0), ("late", 0.8)):
        expected = factor * math.sqrt(steps[0] * steps[1])
        assert value(f"layers.{layer}.sae_over_iso") == pytest.approx(expected, rel=CLOSE)
        assert value(f"layers.{layer}.covmix_over_iso") == pytest.approx(2.4, rel=CLOSE)
    assert value("layers.spread") == pytest.approx(1.5, rel=CLOSE)
    assert value("layers.spread.covmix_over_iso") == pytest.approx(1, rel=CLOSE)
    unknown = measure(inputs(resamples=10), changed("quality", coefficient=None))["layers.main.sae_over_iso"]
    assert "all local SAEs" in unknown.reason
    shallow = measure(inputs(resamples=10, late_layer=2), cached())
    assert "no late layer" in shallow["layers.late.sae_over_iso"].reason
    assert shallow["layers.spread"].value == pytest.approx(1.2, rel=CLOSE)


def test_one_changed_position():
    assert value("single.before") == 0
    assert value("single.after") == pytest.approx(AFTER)
    assert value("single.cov_over_iso") == pytest.approx(2.5)
    for sae, _, level in saes(Size()):
        expected = variant("trained", "sae", level) / variant("trained", "iso", level)
        assert value(f"single.{sae}.sae_over_iso") == pytest.approx(expected, rel=CLOSE)
    least = variant("trained", "sae", 4) / variant("trained", "iso", 4)
    assert value("single.local.sae_over_iso.least") == pytest.approx(least, rel=CLOSE)
    table = cached()["single"]
    leaks = table["kl"].map(lambda kl: np.where(np.arange(len(kl)) == 3, -2e-3, kl))
    assert measure(inputs(resamples=10), changed("single", kl=leaks))["single.before"].value == pytest.approx(
        2e-3
    )


def test_classes_that_only_some_rows_have_are_compared_on_those():
    found = measured()["feat.local-0.dead.over_covmix.k51"]
    assert found.n == Size().sequences // 2
    assert "6 of 12 sequences have it" in found.reason
    ours, theirs = (
        np.stack(t["kl"].to_list()).astype(float)
        for t in (
            cached()["features"].query("sae == 'local-0' and direction == 'dead' and fraction == 0.65"),
            cached()["baselines"].query(
                "layer == 'main' and direction == 'cov_mixture' and fraction == 0.65"
            ),
        )
    )
    assert found.value == pytest.approx(ours.mean() / theirs[::2].mean())


# --- what is missing -----------------------------------------------------------------------------------------------


def test_nothing_is_nan_and_everything_missing_says_why():
    for model in ("trained", "random"):
        for name, found in measured(model).items():
            numbers = [x for x in (found.value, found.low, found.high) if x is not None]
            assert all(isinstance(x, float) and math.isfinite(x) for x in numbers), (name, asdict(found))
            assert found.value is not None or found.reason, name
            assert (found.low is None) == (found.high is None), name
            assert found.low is None or found.low <= found.high, name


def test_missing_conditions_say_what_there_is():
    found = measured()
    absent = found["sub.jup3glm9.sae_over_iso"]
    assert absent.value is None
    assert "no SAE 'jup3glm9'" in absent.reason
    assert "local-0 to local-4" in absent.reason
    assert "no row has a feature of the class 'dead'" in found["feat.e2e-0.dead.k51"].reason
    assert found["feat.local-0.active.area"].reason == "measured at 5 of 9 lengths"
    assert "too few to correlate" in found["ladder.e2e.feat.dead.l0_k51"].reason
    assert "attention outputs" in found["layers.attention.sae_over_iso"].reason
    assert found["base.length_0"].value is None


def test_length_0_is_a_control_and_not_of_the_grid():
    table = cached()["baselines"]
    nothing = table[table["fraction"] == 0.65].assign(fraction=0.0, length=0.0)
    nothing["kl"] = nothing["kl"].map(lambda kl: 0 * kl + 1e-7)
    tables = {**cached(), "baselines": pd.concat([table, nothing], ignore_index=True)}
    found = measure(inputs(resamples=20, grid=[0, *GRID]), tables)
    assert found["base.length_0"].value == pytest.approx(1e-7)
    assert found["base.iso.area"].value == pytest.approx(value("base.iso.area"))
    assert found["base.iso.quadratic"].value == pytest.approx(4, rel=1e-5)


def test_absolute_lengths_are_matched_on_lengths():
    settings = {
        "relative": False,
        "grid": [x * NORM for x in GRID],
        "named": [[k, x * NORM] for k, x in NAMED],
    }
    found = measure(inputs(resamples=20, **settings), cached())
    for name in ("base.iso.k51", "base.iso.area", "base.iso.threshold.0.1", "err.local-0.over_covmix.k21"):
        assert found[name].value == pytest.approx(value(name))
    assert found["base.iso.threshold.0.1"].unit == "mean norms"


def test_names_that_the_settings_lack_are_missing_and_the_rest_is_measured():
    found = measure(inputs(resamples=10, named=[["k11", 0.14]]), cached())
    assert found["base.iso.k11"].value == pytest.approx(0.5 * 0.14**2, rel=CLOSE)
    assert (
        "no length 'k51'" in found["l2.order.agreement"].reason or found["l2.order.agreement"].value is None
    )
    assert found["ladder.local.feat.inactive.l0_k51"].value is None


def test_rows_that_were_not_measured_are_left_out():
    table = cached()["errors"].copy()
    kl = table["kl"].to_list()
    kl[0], kl[1], kl[2] = None, np.array([], np.float32), np.full_like(kl[2], np.nan)
    found = measure(inputs(resamples=20), changed("errors", kl=kl))
    place = table.iloc[0]
    assert (table["sae"].iloc[:3] == place["sae"]).all()
    assert found[f"err.{place['sae']}.slope"].n == Size().sequences - 3


def test_no_saes_at_all_still_measures_baselines():
    found = measure(inputs(resamples=20), without_saes(cached()))
    assert found["base.cov_mixture.over_iso.k51"].value == pytest.approx(2.4, rel=CLOSE)
    assert found["setup.identity"].value == 0
    for name in ("ladder.local.sae_over_iso.least", "gate.variance", "gate.levels.e2e", "layers.spread"):
        assert found[name].value is None
        assert found[name].reason
    assert found["single.after"].value is None


def test_tables_read_from_files_give_the_same():
    stored = {k: pa.Table.from_pandas(t).to_pandas() for k, t in cached().items()}
    assert measure(inputs(resamples=20), stored) == measure(inputs(resamples=20), cached())


def test_one_sequence_has_values_and_no_intervals():
    one = {k: t[t["sequence"] == 3] for k, t in cached().items()}
    found = measure(inputs(resamples=10), one)
    assert found["base.iso.k51"].value is not None
    assert found["base.iso.k51"].low is None
    assert "no interval" in found["base.iso.k51"].reason


# --- what is refused -----------------------------------------------------------------------------------------------


def replaced(name: str, column: str, old, new):
    return changed(name, **{column: cached()[name][column].replace(old, new)})


def twice(name: str):
    table = cached()[name]
    return {**cached(), name: pd.concat([table, table.iloc[:1]], ignore_index=True)}


def cut(name: str):
    kl = cached()[name]["kl"].to_list()
    return changed(name, kl=[kl[0][:5], *kl[1:]])


REFUSED = {
    "no table 'single'": lambda: {k: t for k, t in cached().items() if k != "single"},
    "'errors': no column 'direction'": lambda: {
        **cached(),
        "errors": cached()["errors"].drop(columns="direction"),
    },
    "'clean': no rows": lambda: {**cached(), "clean": cached()["clean"].iloc[:0]},
    "'baselines': length 0.2 is not on the grid": lambda: replaced("baselines", "fraction", 0.14, 0.2),
    "'features': two rows for sequence '3', layer 'main'": lambda: twice("features"),
    "'substitute': sequence 4 is not in the table 'clean'": lambda: replaced("substitute", "sequence", 3, 4),
    "'errors': SAE 'x' .main. has no row in 'quality'": lambda: replaced("errors", "sae", "local-0", "x"),
    "'quality': kind 'topk'": lambda: changed("quality", kind="topk"),
    "'errors': lists of 'kl' have lengths": lambda: cut("errors"),
    "position 23 is not one of the 23 scored": lambda: changed("single", position=23),
}


@pytest.mark.parametrize("said", REFUSED)
def test_tables_that_are_not_as_written_are_refused(said):
    tables = REFUSED[said]()
    with pytest.raises(ValueError, match=said):
        measure(inputs(resamples=2), tables)


def test_a_named_length_must_be_on_the_grid():
    with pytest.raises(ValueError, match="'named': k11 = 0.15 is not on the grid"):
        measure(inputs(named=[["k11", 0.15]]), cached())


# --- the whole -----------------------------------------------------------------------------------------------------


def test_every_measure_of_the_study_is_there():
    curve = [*K, *(f"over_{b}.{k}" for b in ("covmix", "iso") for k in (*K, "area")), "area", "area.no_bos"]
    curve += ["k51.median", "k51.no_bos", "k21.no_bos", "threshold.0.1", "threshold.1", "ce.k51", "l2.k51"]
    sub = [
        "sae_over_iso",
        "sae_over_covmix",
        "sae_over_realmix",
        "norm_only_over_sae",
        "theta_recon_over_iso",
    ]
    sub += ["theta_true_over_iso", "iso2_over_iso", "ce_increase", "ce_ratio", "pathology"]
    sub += ["sae_over_iso.no_bos", "sae_over_covmix.no_bos", "sae_over_iso.median"]
    quantities = ("kl", "ce", "l2", "kl.median", "kl.no_bos")
    sub += [
        f"{v}.{q}" for v in ("sae", "iso", "cov_mixture", "norm_corrected", "theta_true") for q in quantities
    ]
    quality = ["l0", "l0.training", "variance", "dead", "error_norm", "recon_norm", "cosine", "coefficient"]
    ladder = ["sae_over_iso.least", "sae_over_iso.most", "sae_over_covmix.least", "sae_over_covmix.most"]
    ladder += [
        "pathology.least",
        "norm_only_over_sae.most",
        "theta_recon_over_iso.most",
        "theta_true_over_iso.most",
    ]
    ladder += ["iso2_over_iso.worst", "sae_over_iso.l0", "err.l0_k21", "feat.labels_shuffled"]
    trends = ("inactive", "active", "dead", "minus", "shuffled")
    ladder += [f"feat.{c}.l0_k51{t}" for c in trends for t in ("", ".p", ".critical")]
    ladder += [
        "feat.inactive.over_covmix.least",
        "feat.inactive.over_covmix.most",
        "feat.active_over_inactive.least",
    ]
    ladder += ["feat.active_over_inactive.share", "feat.random_over_iso.k51", "feat.through_over_covmix.k51"]
    asked = {
        *(f"setup.{x}" for x in ("ce", "entropy_share", "norm", "norm.no_bos", "token_id", "mean_ablation")),
        *("setup.zero_ablation", "setup.identity", "gate.participation", "gate.variance"),
        *(f"gate.levels.{k}" for k in LEVELS),
        *(f"base.{d}.{s}" for d in BASES for s in (*curve, "cosine", "monotone")),
        *(f"{side}.base.cov_mixture.over_iso.k51" for side in ("early", "late")),
        *(f"base.real_close.{k}" for k in ("k11", "k21", "k31", "k51")),
        *("base.iso.quadratic", "l2.order.agreement", "single.before", "single.after"),
        *("single.local.sae_over_iso.least", "ladder.all.feat.inactive.over_covmix.least"),
        *(f"err.{sae}.{s}" for sae, _, _ in saes(Size()) for s in curve),
        *(f"feat.{sae}.{c}.{s}" for sae, _, _ in saes(Size()) for c in CLASSES for s in curve),
        *(f"feat.{sae}.{c}.k51" for sae, _, _ in saes(Size()) for c in CONTROLS),
        *(f"sub.{sae}.{s}" for sae, _, _ in saes(Size()) for s in sub),
        *(f"sae.{sae}.{s}" for sae, _, _ in saes(Size()) for s in quality),
        *(f"single.{sae}.{s}" for sae, _, _ in saes(Size()) for s in ("sae_over_iso", "sae_over_covmix")),
        *(f"ladder.{kind}.{s}" for kind in LEVELS for s in ladder),
        *(f"matched.err.k21.local_over_{k}" for k in ("e2e", "e2e_ds")),
        *(
            f"matched.{w}.{k}_over_local"
            for w in ("feat.k51", "feat.random", "sub")
            for k in ("e2e", "e2e_ds")
        ),
        *(f"layers.{x}.{m}" for x in ("early", "main", "late") for m in ("sae_over_iso", "sae_over_covmix")),
        "layers.spread",
    }
    assert not asked - measured().keys()
    mostly = [name for name in asked if measured()[name].value is None]
    allowed = ("feat.e2e-", ".dead.", ".area", ".threshold.", ".l0.training", "ladder.e2e.feat.dead")
    assert not [name for name in mostly if not any(part in name for part in allowed)]


def test_the_random_model_shows_no_difference():
    assert value("base.cov_mixture.over_iso.k51", "random") == pytest.approx(
        base("random", "cov_mixture") / base("random", "iso"), rel=CLOSE
    )
    found = measured("random")["matched.feat.k51.e2e_over_local"]
    assert found.low < 1 < found.high


def test_two_runs_agree_and_another_seed_does_not():
    one, two = (measure(inputs(resamples=20), cached()) for _ in range(2))
    assert one == two
    other = inputs(resamples=20)
    object.__setattr__(other, "seed", 4)
    assert measure(other, cached())["base.iso.k51"].low != one["base.iso.k51"].low


def test_a_full_study_is_measured_in_seconds():
    size = Size(32, 63, {"local": 7, "e2e": 7, "e2e_ds": 6})
    tables = outcomes("trained", size)
    start = time.process_time()
    found = measure(inputs("trained", size, resamples=1000), tables)
    # 5 s here; ten times the resamples, or a bootstrap per measure, would take a minute.
    assert time.process_time() - start < 20
    assert len(found) > 3000
