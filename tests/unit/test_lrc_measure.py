"""Measures of the LRC study: planted truths come back, what a model does not know stays missing, claims resolve."""

from __future__ import annotations

from functools import cache
from math import comb

import numpy as np
import pandas as pd
import pytest
from lrc_outcomes import (
    ACC,
    BETAS,
    CATEGORY,
    CAUS,
    CONTROLS,
    D_MODEL,
    PUBLISHED,
    SEEDS,
    SWEPT_ACC,
    SWEPT_CAUS,
    empty,
    full,
    inputs,
    nothing,
    prompts,
)

from bearings.evidence.claims import load_claims
from bearings.studies.lrc import measure as study
from bearings.studies.lrc.measure import measure
from bearings.studies.lrc.measure_counts import counts, one_to_one, reasons, table
from bearings.studies.lrc.measure_orders import orders
from bearings.studies.lrc.measure_scores import score as hits_of
from bearings.studies.lrc.measure_sweeps import no_edit, sweeps
from bearings.studies.lrc.metrics import best, macro, micro, rank_correlation, ratio, two_proportion_z

CLAIMS = study.__file__.replace("measure.py", "claims.yaml")
OPTIONS = {"seed": 0, "resamples": 400}
# Three standard errors of a share of the 256 test prompts or edits of a split seed, averaged over three seeds.
NEAR = 3 * 0.5 / np.sqrt(256 * 3)


@pytest.fixture(scope="module")
def measured():
    return measure(inputs(), full())


@pytest.fixture(scope="module")
def unknown():
    return measure(inputs(), nothing())


@pytest.fixture(scope="module")
def bare():
    return measure(inputs(), empty())


def scored(outcomes, published_beta=None):
    """Hits and strengths alone, which take less time than every measure."""
    return hits_of(outcomes, reasons(outcomes["filter"], 5), published_beta, {"seed": 0, "resamples": 20})


# --- claims --------------------------------------------------------------------------------------------------------


@cache
def claims():
    return load_claims(CLAIMS)


def named() -> set[str]:
    """Every measure that a claim or its control names."""
    found = claims().claims
    return {c["measure"] for c in found} | {
        c["control"]["measure"] for c in found if "measure" in c["control"]
    }


def test_claims_are_well_formed():
    found = claims()
    assert found.study == "lrc"
    assert {c["published"]["value"] for c in found.claims if c["id"].startswith("main.")} >= {
        0.81,
        0.55,
        0.86,
    }


@pytest.mark.parametrize("run", ["measured", "unknown", "bare"])
def test_no_claim_points_at_nothing(run, request):
    there = request.getfixturevalue(run)
    assert {name for name in named() if name not in there} == set()
    for name, e in there.items():
        assert e.value is not None or e.reason, name
        assert (e.low is None) == (e.high is None), name
        assert e.low is None or e.low <= e.high, name


def test_every_claim_is_measured_where_the_model_knows_enough(measured):
    missing = {name for name in named() if measured[name].value is None}
    assert missing == {name for name in named() if name.startswith("elsewhere.")}


def test_nothing_is_measured_of_a_model_that_knows_nothing(unknown):
    for name in named():
        if name.startswith("counts.") or ".counts." in name:
            assert unknown[name].value is not None, name
        else:
            assert unknown[name].value is None, name
    said = "0 of 432 test prompts are answered right; 0 of 9 relations keep 5"
    for name in ("published.lrc.acc.macro", "corrected.lrc_minus_svm.caus", "corrected.beta0.single"):
        assert unknown[name].reason == said
    assert unknown["corrected.counts.test.known_share"].value == 0
    assert unknown["corrected.counts.test.used.prompts"].value == 0


# --- scores --------------------------------------------------------------------------------------------------------


def by_hand(rows: pd.DataFrame, hit: str, kind: str) -> list[float]:
    """The per-seed scores, written out."""
    out = []
    for seed in SEEDS:
        mine = rows[rows["seed"] == seed]
        each = [mine[mine["relation"] == r][hit].mean() for r in sorted(set(mine["relation"]))]
        out.append(float(np.mean(each)) if kind == "macro" else float(mine[hit].sum() / len(mine)))
    return out


@pytest.mark.parametrize("variant", ["published", "corrected"])
@pytest.mark.parametrize("kind", ["macro", "micro"])
def test_accuracy_by_hand(measured, variant, kind):
    rows = full()["classify"]
    for method in PUBLISHED if variant == "published" else ("lrc", "svm_fair", "scrambled", "majority"):
        mine = rows[(rows["variant"] == variant) & (rows["method"] == method)]
        scores = by_hand(mine, "right", kind)
        found = measured[f"{variant}.{method}.acc.{kind}"]
        assert found.value == pytest.approx(np.mean(scores))
        assert measured[f"{variant}.{method}.acc.{kind}.sd"].value == pytest.approx(np.std(scores, ddof=1))
        assert found.value == pytest.approx(ACC[method], abs=NEAR)
        assert found.low < found.value < found.high
        assert found.n == (len(CATEGORY) if kind == "macro" else mine["prompt"].nunique())
        assert measured[f"{variant}.{method}.acc.{kind}.seed43"].value == pytest.approx(scores[1])


def test_accuracy_of_sweeps_and_relations_of_unequal_size(measured):
    for method, share in SWEPT_ACC.items():
        assert measured[f"corrected.{method}.acc.macro"].value == pytest.approx(share, abs=NEAR)
    # One relation of 90 prompts always right, one of 10 never: macro is one half, micro nine tenths.
    rows = pd.DataFrame({"seed": 42, "relation": ["a"] * 90 + ["b"] * 10, "hit": [1.0] * 90 + [0.0] * 10})
    rows = rows.assign(subject=[str(i) for i in range(100)], prompt=range(100), target=-1, copy=0)
    assert macro(rows, OPTIONS, "").value == pytest.approx(0.5)
    assert micro(rows, OPTIONS, "").value == pytest.approx(0.9)


def test_a_subjects_prompts_are_drawn_together():
    """Each subject has four prompts that agree: the interval is that of 25 subjects, not of 100 prompts."""
    hit = np.repeat(np.arange(25) % 2, 4).astype(float)
    rows = pd.DataFrame(
        {"seed": 42, "relation": "a", "hit": hit, "prompt": range(100), "target": -1, "copy": 0}
    )
    together, apart = (
        micro(rows.assign(subject=[str(i // k) for i in range(100)]), {**OPTIONS, "resamples": 2000}, "")
        for k in (4, 1)
    )
    ratio_of_widths = (together.high - together.low) / (apart.high - apart.low)
    # Twice as wide in theory; quantiles of 2,000 resamples of a discrete share are within a fifth of theirs.
    assert ratio_of_widths == pytest.approx(2, rel=0.2)


def test_a_seed_without_a_relation_is_left_out_of_the_mean():
    hits, counts = np.array([[3.0, 1.0], [0.0, 0.0]]), np.array([[4.0, 4.0], [0.0, 0.0]])
    assert ratio(hits, counts) == pytest.approx(0.5)


# --- strengths -----------------------------------------------------------------------------------------------------


def test_strength_is_tuned_on_training_prompts(measured):
    """LRC's planted optimum is 0.2 on training and 0.4 on test edits; the published variant takes the test's."""
    assert [measured[f"corrected.lrc.beta.seed{s}"].value for s in SEEDS] == [0.2] * 3
    assert measured["corrected.lrc.beta"].value == 0.2
    assert measured["corrected.lrc.beta.best"].value == 0.4
    assert measured["published.lrc.beta"].value == 0.4
    assert measured["corrected.svm.beta"].value == 0.4
    assert measured["corrected.average.beta"].value == 0.1
    test = full()["edit"].query("variant == 'corrected' and method == 'lrc' and stage == 'test'")
    for beta in BETAS:
        expected = np.mean(by_hand(test[test["beta"] == beta], "success", "macro"))
        assert measured[f"corrected.lrc.caus.beta.{beta:g}"].value == pytest.approx(expected)
    assert measured["corrected.lrc.caus.macro"].value == measured["corrected.lrc.caus.beta.0.2"].value
    assert measured["published.lrc.caus.macro"].value == measured["published.lrc.caus.beta.0.4"].value


def test_ties_go_to_the_smaller_strength():
    edit = full()["edit"]
    flat = edit.assign(success=edit["success"].where(edit["method"] != "svm", edit["beta"] > 0))
    found = scored({**full(), "edit": flat.iloc[::-1]}).betas
    assert set(found["corrected", "svm"].values()) == {0.1}
    assert set(found["published", "svm"].values()) == {0.1}


def test_the_papers_strength_is_used_as_it_is():
    edit = full()["edit"]
    theirs = scored(full(), 0.1)
    assert theirs.betas["published", "lrc"] == dict.fromkeys(SEEDS, 0.1)
    at = (edit["variant"] == "published") & (edit["method"] == "lrc") & (edit["beta"] == 0.1)
    expected = edit[at & (edit["stage"] == "test")]["success"].mean()
    assert theirs.get("published", "caus", "lrc")["hit"].mean() == pytest.approx(expected)
    assert theirs.betas["corrected", "lrc"] == dict.fromkeys(SEEDS, 0.2)
    # A strength that nobody ran is not replaced by another; 0 stands for none.
    absent = scored(full(), 0.05)
    assert absent.get("published", "caus", "lrc") is None
    assert absent.missing("published", "caus", "lrc").reason == "no edits of lrc in the published variant"
    assert scored(full(), 0).betas["published", "lrc"] == dict.fromkeys(SEEDS, 0.4)


def test_without_training_edits_a_method_is_read_at_the_strength_it_was_run_at():
    edit = full()["edit"]
    found = scored({**full(), "edit": edit[edit["stage"] == "test"]})
    assert found.betas["corrected", "centred"] == dict.fromkeys(SEEDS, 0.2)
    assert found.betas["corrected", "lrc"] == {}
    there = {m: found.get("corrected", "caus", m) is not None for m in ("centred", "lrc", "substitute")}
    assert there == {"centred": True, "lrc": False, "substitute": True}


@pytest.mark.parametrize("method", ["lrc", "svm", "average", "first_final", "transpose", "single_layer"])
def test_causality(measured, method):
    # LRC's best strength on test edits is another than that of the training edits, where it is tuned.
    share = CAUS[method] * (0.8 if method == "lrc" else 1.0)
    assert measured[f"corrected.{method}.caus.macro"].value == pytest.approx(share, abs=NEAR)


def test_controls_are_read_at_the_strength_of_lrc(measured):
    for method, share in CONTROLS.items():
        assert measured[f"corrected.{method}.caus.macro"].value == pytest.approx(share, abs=NEAR)
    assert measured["corrected.substitute.caus.macro"].value == pytest.approx(0.95, abs=NEAR)


# --- orderings -----------------------------------------------------------------------------------------------------


def test_orderings(measured):
    for a, b, score, truth in (
        ("lrc", "svm", "acc", 0.2),
        ("lrc", "full_rank", "acc", 0.65),
        ("svm", "average", "acc", 0.1),
        ("single_other", "single_same", "caus", 0.3),
        ("lrc", "random", "caus", 0.85 * 0.8 - 0.04),
    ):
        found = measured[f"corrected.{a}_minus_{b}.{score}"]
        assert found.value == pytest.approx(truth, abs=2 * NEAR)
        assert found.low > 0
        assert found.n == len(CATEGORY)
    # LRC is best at the last of the layers, the SVM at the second.
    own = measured["corrected.lrc_minus_svm.acc.own_layers"]
    assert own.value == pytest.approx(0.9 - 0.7, abs=2 * NEAR)
    assert measured["corrected.lrc_minus_svm.acc.share"].value == 1
    assert measured["corrected.lrc_minus_svm.acc.ties"].value == 0


def test_a_difference_is_paired_and_averaged_over_seeds_first(measured):
    rows = full()["classify"].query("variant == 'corrected'")
    delta = []
    for relation in CATEGORY:
        each = []
        for seed in SEEDS:
            cell = rows[(rows["relation"] == relation) & (rows["seed"] == seed)]
            a, b = (cell.loc[cell["method"] == m, "right"].mean() for m in ("lrc", "svm_fair"))
            each.append(a - b)
        delta.append(np.mean(each))
    assert measured["corrected.lrc_minus_svm_fair.acc"].value == pytest.approx(np.mean(delta))
    share = measured["corrected.lrc_minus_svm_fair.acc.share"]
    assert share.value == pytest.approx(np.mean(np.array(delta) > 0))


def test_swapping_two_methods_turns_every_sign(measured):
    names = {"lrc": "svm", "svm": "lrc"}
    turned = {k: v.assign(method=v["method"].replace(names)) for k, v in full().items() if "method" in v}
    found = orders(scored({**full(), **turned}))
    for tail in ("", ".micro"):
        name = f"corrected.lrc_minus_svm.acc{tail}"
        assert found[name].value == pytest.approx(-measured[name].value)
    assert found["corrected.lrc_minus_svm.acc.share"].value == 0
    assert found["corrected.lrc_minus_svm.acc.ahead"].value == 0
    assert found["corrected.lrc_minus_svm.acc.behind_z"].value == 3
    assert found["corrected.lrc_minus_svm.acc.significant_mcnemar"].value == 0
    assert found["published.lrc_minus_svm.significant_z"].value == 0


def test_equals_are_ties_and_not_won():
    rows = full()["classify"]
    lrc = rows[rows["method"] == "lrc"]
    found = orders(scored({**full(), "classify": pd.concat([lrc, lrc.assign(method="svm")])}))
    head = "corrected.lrc_minus_svm.acc"
    assert [found[f"{head}{x}"].value for x in ("", ".micro", ".share", ".ties", ".ahead")] == [0, 0, 0, 1, 0]
    assert found[f"{head}.mcnemar_p.seed42"].value == 1


def test_mcnemar_by_hand(measured):
    rows = full()["classify"].query("variant == 'corrected' and seed == 43")
    wide = rows.pivot(index="prompt", columns="method", values="right")
    only_a = int((wide["lrc"] & ~wide["svm"]).sum())
    only_b = int((wide["svm"] & ~wide["lrc"]).sum())
    n = only_a + only_b
    expected = min(1.0, 2 * sum(comb(n, k) for k in range(min(only_a, only_b) + 1)) / 2**n)
    assert measured["corrected.lrc_minus_svm.acc.mcnemar_p.seed43"].value == pytest.approx(expected)
    difference = wide["lrc"].mean() - wide["svm"].mean()
    assert measured["corrected.lrc_minus_svm.acc.micro.seed43"].value == pytest.approx(difference)
    assert measured["corrected.lrc_minus_svm.acc.significant_mcnemar"].value == 3


# n / LRC / SVM / published p of Tables 7 and 8, split seeds 42 to 46: Llama-2 accuracy and causality, then GPT-J's.
TABLES = (
    *("3324/.842/.811/9e-4", "3326/.845/.804/1e-5", "3319/.839/.808/9e-4", "3354/.838/.816/.016"),
    *("3335/.843/.803/2e-5", "1527/.762/.652/3e-11", "1533/.733/.606/7e-14", "1517/.740/.633/2e-10"),
    *("1497/.764/.607/3e-20", "1497/.723/.627/2e-8", "2181/.825/.793/.007", "2129/.803/.800/.818"),
    *("2176/.784/.816/.008", "2173/.789/.791/.882", "2236/.812/.789/.0517", "1049/.699/.546/6e-13"),
    *("1054/.733/.602/1e-10", "1088/.716/.581/4e-11", "1014/.735/.570/7e-15", "1097/.718/.560/1e-14"),
)


def as_printed(p: float, like: str) -> float:
    """p rounded to as many digits as the paper prints."""
    if "e" in like:
        return float(f"{p:.{len(like.split('e')[0]) - 1}e}")
    return round(p, len(like.split(".")[1]))


@pytest.mark.parametrize("cell", TABLES)
def test_the_papers_p_values(cell):
    n, a, b, p = cell.split("/")
    # Both proportions are rounded to three digits, so either may be off by 0.0005.
    gap = abs(float(a) - float(b))
    middle = (float(a) + float(b)) / 2
    wide, narrow = (
        two_proportion_z(middle + g / 2, middle - g / 2, int(n)).p for g in (gap + 0.001, max(gap - 0.001, 0))
    )
    assert as_printed(wide, p) <= float(p) <= as_printed(narrow, p)


def test_z_by_hand():
    found = two_proportion_z(0.6, 0.5, 200)
    assert found.statistic == pytest.approx(0.1 / np.sqrt(0.55 * 0.45 * 2 / 200))
    assert two_proportion_z(0.5, 0.6, 200).statistic == pytest.approx(-found.statistic)
    # GPT-J, split seed 44, favours the SVM; the printed shares may be off by 0.0005 each, which is 0.08 of z.
    assert two_proportion_z(0.784, 0.816, 2176).statistic == pytest.approx(-2.65, abs=0.08)
    assert two_proportion_z(1.0, 1.0, 10).p is None
    assert two_proportion_z(0.5, 0.5, 0).p is None


# --- sweeps --------------------------------------------------------------------------------------------------------


def test_peaks_and_layers(measured):
    assert measured["corrected.rank.peak.acc"].value == 4 / 64
    assert measured["corrected.rank.peak.caus"].value == 16 / 64
    assert measured["corrected.subject_layer.spearman.acc"].value == pytest.approx(1)
    assert measured["corrected.subject_layer.spearman.caus"].value == pytest.approx(-1)
    assert measured["corrected.subject_layer.spearman.acc"].n == 4
    assert measured["corrected.samples.spearman.acc"].value == pytest.approx(1)
    for method, share in SWEPT_CAUS.items():
        assert measured[f"corrected.{method}.caus.macro"].value == pytest.approx(share, abs=NEAR)


def test_object_layer_by_tokens(measured):
    """The last layer loses a tenth on objects of one token and four tenths on the others."""
    head = "corrected.object_layer"
    assert measured[f"{head}.mid"].value == 3
    for score in ("acc", "caus"):
        single, multi = (measured[f"{head}.{x}.{score}"] for x in ("single", "multi"))
        assert single.value == pytest.approx(0.1, abs=2 * NEAR)
        assert multi.value == pytest.approx(0.4, abs=2 * NEAR)
        assert measured[f"{head}.gap.{score}"].value == pytest.approx(multi.value - single.value)
        assert measured[f"{head}.gap.{score}"].low > 0
    assert measured["corrected.object4.acc.multi"].value == pytest.approx(0.5, abs=2 * NEAR)


def test_object_layer_is_the_studys_own_if_it_was_swept():
    hits = scored(full())
    for own, mid in ((2, 2), (3, 3), (4, 3), (9, 3), (None, 3)):
        assert sweeps(hits, {"object_layer": own}, D_MODEL)["corrected.object_layer.mid"].value == mid


def test_object_layer_of_data_without_long_answers():
    classify = full()["classify"]
    short = scored({**full(), "classify": classify[classify["answer_tokens"] == 1]})
    found = sweeps(short, {"object_layer": 3}, D_MODEL)
    assert found["corrected.object_layer.multi.acc"].value is None
    assert found["corrected.object_layer.gap.acc"].reason == "no relation has objects of several tokens"
    assert found["corrected.object_layer.single.acc"].value is not None


def test_peak_takes_the_first_of_equals_and_correlation_of_a_flat_curve_is_undefined():
    curve = np.array([[0.1, 0.5, 0.5], [0.3, 0.5, 0.5]])
    assert best([1, 2, 3], curve, OPTIONS, "").value == 2
    assert best([1, 2, 3], curve, OPTIONS, "", scale=0.5).value == 1
    assert rank_correlation([1, 2, 3], np.full((2, 3), 0.5), OPTIONS).value is None
    assert rank_correlation([1, 2, 3], curve[:, ::-1], OPTIONS).value == pytest.approx(-np.sqrt(0.75))


def test_relations_without_two_objects_are_told_apart_from_unknown_ones():
    rows = full()["filter"].assign(used=False)
    said = "384 of 432 test prompts are answered right; 8 of 9 relations keep 5, none with two objects to tell apart"
    assert reasons(rows, 5)["corrected"] == said
    assert reasons(full()["filter"], 5) == {"published": "", "corrected": ""}


# --- counts and controls -------------------------------------------------------------------------------------------


def test_counts(measured):
    assert measured["counts.relations"].value == 10
    assert measured["counts.samples"].value == 9 * 24 + 7
    assert measured["counts.many.relations"].value == 9
    assert measured["counts.many.samples.factual"].value == 4 * 24
    assert measured["counts.many.samples.linguistic"].value == 24
    # Four objects a relation, of 1, 1, 2 and 3 tokens, and seven capitals.
    assert measured["counts.objects.tokens1"].value == 9 * 2 + 7
    assert measured["counts.objects.tokens3"].value == 9
    assert measured["counts.objects.tokens5plus"].value == 0
    # Two of three samples are held out by each split, with two templates.
    assert measured["corrected.counts.test.all.prompts"].value == 9 * 16 * 2
    assert measured["corrected.counts.test.used.prompts"].value == 8 * 16 * 2
    assert measured["corrected.counts.test.used.subjects"].value == 8 * 16
    assert measured["corrected.counts.test.used.relations"].value == 8
    assert measured["published.counts.tokens1"].value == 8 * 16
    assert measured["corrected.counts.test.known_share"].value == pytest.approx(8 / 9)


def test_one_object_of_two_subjects_is_enough_for_a_test_split():
    rows = [
        ("a", "s", "x"),
        ("a", "t", "x"),
        ("a", "u", "y"),
        ("b", "s", "x"),
        ("b", "t", "y"),
        ("b", "t", "y"),
    ]
    assert one_to_one(pd.DataFrame(rows, columns=["relation", "subject", "object"])) == {"b"}


def test_what_must_vanish():
    data, rows = table(prompts()), full()["filter"]

    def left(filtered, *named):
        found = counts(data, filtered, named)["corrected.must_vanish.used"]
        return found.value, found.n, found.reason

    assert left(rows, "noise") == (0, 2, "")
    assert left(rows, "noise", "river", "absent") == (1, 3, "river")
    # A one-to-one relation that has test prompts after all is caught by what it is, without being named.
    wrong = rows["relation"] == "capital"
    slipped = rows.assign(set=rows["set"].where(~wrong, "test"), used=rows["used"] | wrong)
    assert left(slipped) == (1, 1, "capital")
    # Where nothing is kept, nothing was put to the test.
    assert left(nothing()["filter"], "noise") == (None, 0, "no relation is kept at all")


def test_no_edit(measured):
    assert measured["corrected.beta0.single"].value == 0
    assert measured["corrected.beta0.single"].low is None  # exact: the claim is about every edit
    edit = full()["edit"]
    zero = (edit["beta"] == 0) & (edit["method"] == "lrc") & (edit["stage"] == "test")
    lucky = edit.assign(success=edit["success"] | (zero & (edit["source_tokens"] > 1)))
    found = no_edit(scored({**full(), "edit": lucky}))
    assert found["corrected.beta0.single"].value == 0
    assert found["corrected.beta0.multi"].value == 1


def test_chance_and_faithfulness(measured):
    assert measured["corrected.chance.acc.macro"].value == pytest.approx(0.25)
    assert measured["corrected.scrambled.acc.above_chance"].value == pytest.approx(0, abs=NEAR)
    above = measured["corrected.lrc.acc.above_chance"].value
    assert above == pytest.approx(measured["corrected.lrc.acc.macro"].value - 0.25)
    assert measured["corrected.faithful.macro"].value == pytest.approx(0.8, abs=NEAR)
    assert measured["corrected.faithful.over_60"].value == 1
    for score in ("acc", "caus"):
        assert measured[f"corrected.lrc.{score}.category.linguistic"].n == 1
        assert measured[f"corrected.lrc.{score}.category.factual"].n == 3
