"""Measures of the obsprop study: planted truths come back, geometry is told from learning, claims resolve."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
from obsprop_outcomes import (
    ALL_HEADS,
    D_MODEL,
    DRAWS,
    EFFECT,
    HEADS,
    KINDS,
    LAYERS,
    NAMES,
    SOURCES,
    TABLES,
    TEMPLATES,
    TOPS,
    cosines,
    directions,
    effect,
    empty,
    inputs,
    outcomes,
)
from scipy import stats

from bearings.evidence.claims import load_claims
from bearings.evidence.verdicts import judge
from bearings.studies.obsprop import measure as study
from bearings.studies.obsprop.measure import answers, measure
from bearings.studies.obsprop.measure_agreement import agreement, norms
from bearings.studies.obsprop.measure_coupling import coupling, fit
from bearings.studies.obsprop.measure_patching import effects, patching, plain, ranking, rows_of, unseen
from bearings.studies.obsprop.measure_paths import between, paths, place
from bearings.studies.obsprop.measure_search import search
from bearings.studies.obsprop.measure_weights import compared, random_cosines, weights

CLAIMS = study.__file__.replace("measure.py", "claims.yaml")
OPTIONS = {"seed": 0, "resamples": 60}
NEAR_ENDS = {"at_least", "at_most", "between"}


@pytest.fixture(scope="module")
def measured():
    return {kind: measure(inputs(kind), outcomes(kind)) for kind in KINDS}


@pytest.fixture(scope="module")
def trained(measured):
    return measured["trained"]


@cache
def claims():
    return load_claims(CLAIMS)


def named() -> set[str]:
    """Every measure that a claim or its control names."""
    found = claims().claims
    return {c["measure"] for c in found} | {
        c["control"]["measure"] for c in found if "measure" in c["control"]
    }


def expected(scale: str) -> dict[str, dict]:
    return {c["id"]: c for c in claims().claims if NEAR_ENDS & set(c["scales"][scale])}


# --- claims --------------------------------------------------------------------------------------------------------


def test_claims_are_well_formed():
    found = claims()
    assert found.study == "obsprop"
    assert set(found.manifest["experiments"]) == set(TABLES)
    # What the paper is known for: the three predicted slopes, and the cosine that heads share.
    values = [c["published"]["value"] for c in found.claims]
    assert {0.71227, 0.80108, 0.74779, 0.9882, 0.947, 0.427, 0.8990} <= {
        v for v in values if not isinstance(v, list)
    }
    jobs = {c["job"] for c in found.claims}
    assert jobs == set(TABLES)
    assert {c["figure"] for c in found.claims} == set(found.manifest["figures"])


def test_a_published_number_is_in_its_own_tolerance():
    """A tolerance that left the published value out could never be met."""
    for c in claims().claims:
        value, tolerance = c["published"]["value"], c["tolerance"]
        if isinstance(value, float | int) and tolerance.get("within") and ".error" not in c["id"]:
            low, high = tolerance["within"]
            assert low <= value <= high, c["id"]
        if (
            isinstance(value, float | int)
            and "absolute" in tolerance
            and "relative 1e-3" in tolerance["reason"]
        ):
            assert tolerance["absolute"] == pytest.approx(1e-3 * abs(value), rel=0.1), c["id"]


def test_expectations_have_reasons_and_learning_has_a_control():
    for scale in ("embedded", "gpt2"):
        for name, c in expected(scale).items():
            assert c["scales"][scale]["reason"], name
            # What the model answers, and what two prompts alone give, has the twin for its control.
            alone = name.startswith(("gate.", "paths."))
            assert alone or c["kind"] != "learning" or "measure" in c["control"], name
    # A claim whose geometry holds on any model must say so, or the twin would spoil it.
    assert expected("embedded")["coupling.top.error"]["kind"] == "identity"
    assert expected("embedded")["patch.subj.top"]["kind"] == "learning"


def test_measures_that_claims_name_are_there(trained):
    """Only what another model's layers, or its longer paths, would give has no value, and says so."""
    absent = {name for name in named() if trained[name].reason.startswith("this model has no such")}
    assert absent == {
        "ln.input_norm.l21",
        "tokens.n_bias.6_6.top_female_share",
        "tokens.n_bias.path1.top_female_share",
    }
    foreign = (
        "17.14",
        "15.13",
        "13.11",
        "18.11",
        "22.2",
        "6_6",
        "mlp1",
        "attn0",
        "alt_paths",
        "listed",
        "max_error",
    )
    for name in named() - absent:
        if trained[name].value is None:
            search_only = name.startswith(("search.", "answers.code2", "lowdata.pronoun.matched"))
            assert search_only or any(x in name for x in foreign), name
            assert trained[name].reason, name


def test_every_estimate_says_what_it_is(measured):
    for found in (*measured.values(), measure(inputs(), empty())):
        for name, e in found.items():
            assert e.value is not None or e.reason, name
            assert e.value is None or np.isfinite(e.value), name
            assert (e.low is None) == (e.high is None), name
            assert e.low is None or e.low <= e.high, name


def test_nothing_is_measured_of_no_rows():
    bare = measure(inputs(), empty())
    # Features are there without rows.
    features = ("bias.", "ln.cos.", "usable.")
    assert [n for n, e in bare.items() if e.value is not None and not n.startswith(features)] == []


def test_verdicts_tell_learning_from_geometry(measured):
    """On the trained model every expectation holds; on the random one, and only there, those of learning fail."""
    models = {k: {n: e.to_json() for n, e in found.items()} for k, found in measured.items()}
    asked = expected("embedded")
    good = judge(claims(), "embedded", "world", models["trained"], models["random"])
    bad = judge(claims(), "embedded", "world", models["random"])
    for name, c in asked.items():
        assert good[name]["verdict"] == "holds", (name, good[name]["reason"])
        if c["kind"] == "learning":
            assert bad[name]["verdict"] in ("fails", "control failed"), name
        else:
            assert bad[name]["verdict"] == "holds", (name, bad[name]["reason"])


def test_a_twin_that_learned_spoils_a_claim_of_learning(measured):
    models = {n: e.to_json() for n, e in measured["trained"].items()}
    found = judge(claims(), "embedded", "world", models, models)
    assert found["weights.head_cos.max"]["verdict"] == "control failed"
    assert found["coupling.top.error"]["verdict"] == "holds"


def test_a_control_that_keeps_the_geometry_is_noticed():
    """Scores that were meant to be shuffled and are not: C predicts them too, and nothing may be claimed."""
    table = outcomes()["coupling"]
    own = table[(table["pair"] == "subj_obj") & (table["mode"] == "scale") & (table["site"] == "own")]
    fake = own[~own["first"]].assign(pair="subj_shuffled")
    left = table[table["pair"] != "subj_shuffled"]
    found = measure(inputs(), {**outcomes(), "coupling": pd.concat([left, fake], ignore_index=True)})
    judged = judge(claims(), "embedded", "world", {n: e.to_json() for n, e in found.items()})
    assert judged["coupling.top.error"]["verdict"] == "control failed"


@pytest.mark.parametrize("name", list(TABLES))
def test_tables_have_the_columns_of_the_experiments(name):
    home = {"weights": "heads", "search": "searched"}.get(name, name)
    module = import_module(f"bearings.studies.obsprop.{home}")
    assert set(outcomes()[name]) == set(module.SCHEMA)


# --- patching ------------------------------------------------------------------------------------------------------


def test_heads_are_ranked_by_size_on_names_of_their_own():
    table = outcomes()["patching"]
    assert ranking(table, "subj")[:3] == TOPS
    assert sorted(ranking(table, "subj")) == ALL_HEADS
    number = table["pair"] - table["template"] * NAMES
    turned = table.assign(value=table["value"].where(number % 2 == 0, -1000 * table["value"]))
    assert ranking(turned, "subj") == ranking(table, "subj")
    other = table.assign(value=table["value"].where(number % 2 == 1, -1000 * table["value"]))
    assert ranking(other, "subj")[:3] == TOPS  # sizes count, not signs
    for k in (1, 2, 3):
        a, b = (patching(t, OPTIONS)[f"patch.subj.top{k}"] for t in (table, other))
        assert a.value == pytest.approx(b.value)
    # The third template has no say in the ranking.
    quiet = table["layer"].eq(0) & table["head"].eq(0) & table["template"].eq(2)
    last = table.assign(value=table["value"].where(~quiet, 1000.0))
    assert ranking(last, "subj") == ranking(table, "subj")


def test_attributions(trained):
    table = outcomes()["patching"]
    for task, planted in EFFECT.items():
        for k, (head, value) in enumerate(zip(TOPS, planted, strict=True), start=1):
            e = trained[f"patch.{task}.top{k}"]
            # A tenth of the effect is noise, over six names.
            assert e.value == pytest.approx(value, abs=3 * (0.02 + 0.1 * value) / np.sqrt(NAMES / 2))
            assert e.reason.startswith(f"head {head[0]}.{head[1]}")
            mine = table[
                (table["task"] == task) & (table["kind"] == "cross") & (table["quantity"] == "patch")
            ]
            mine = mine[
                (mine["layer"] == head[0]) & (mine["head"] == head[1]) & (mine["pair"] % NAMES % 2 == 1)
            ]
            assert e.value == pytest.approx(mine["value"].mean())


def test_intervals_are_over_names_not_prompts():
    """A name's templates are one draw: three copies of it must not narrow the interval."""
    table = outcomes()["patching"]
    one = table[table["template"] == 0]
    copies = [one.assign(template=t, pair=one["pair"] + t * NAMES) for t in range(TEMPLATES)]
    few, many = (patching(t, OPTIONS)["patch.subj.top1"] for t in (one, pd.concat(copies)))
    assert (many.value, many.low, many.high) == pytest.approx((few.value, few.low, few.high))


def test_heads_named_by_number_are_measured_on_all_pairs():
    table = outcomes()["patching"]
    renamed = {(2, 1): (17, 14), (1, 2): (13, 11), (2, 3): (15, 13), (0, 0): (13, 3), (0, 1): (22, 2)}
    heads = list(zip(table["layer"], table["head"], strict=True))
    new = [renamed.get(h, h) if c == "head" else h for h, c in zip(heads, table["component"], strict=True)]
    theirs = table.assign(layer=[h[0] for h in new], head=[h[1] for h in new])
    found = patching(theirs, OPTIONS)
    mine = rows_of(table, "subj")
    mine = mine[(mine["layer"] == 2) & (mine["head"] == 1)]
    e = found["patch.subj.17.14"]
    assert e.value == pytest.approx(mine["value"].mean())
    assert e.n == NAMES * TEMPLATES
    first = mine[(mine["template"] == 0) & (mine["name"] < 10)]
    assert found["patch.subj.first10.17.14"].value == pytest.approx(first["value"].mean())
    assert found["patch.subj.first10.17.14"].n == 10
    five = [found[f"patch.subj.{a}.{b}"].value for a, b in renamed.values()]
    assert found["patch.subj.listed"].value == pytest.approx(sum(five))
    assert found["patch.subj.18.11"].reason == "this model has no head 18.11"


def test_one_gender_moves_the_head_much_less(measured):
    assert measured["trained"]["patch.subj.within.share"].high < 0.3
    assert measured["random"]["patch.subj.within.share"].value > 0.3


def test_sizes_are_compared_since_signed_neighbours_cancel():
    """A head that tells names apart and no gender: names less their neighbours in the list add up to nothing."""
    table = outcomes("random")["patching"]
    names = np.random.default_rng(0).standard_normal(NAMES + 1)
    name = (table["pair"] - table["template"] * NAMES).to_numpy()
    to = np.where(table["kind"] == "within", name + 1, NAMES - name)
    found = patching(table.assign(value=names[name] - names[to]), OPTIONS)
    assert abs(found["patch.subj.within"].value) < found["patch.subj.within.share"].value
    assert found["patch.subj.within.share"].value > 0.5


def test_shares_of_direct_contributions(trained):
    for task in EFFECT:
        for name, share in (("direct_share", 0.6), ("mlp_share", 0.3), ("embed_share", 0.1)):
            e = trained[f"patch.{task}.{name}"]
            assert (e.value, e.low, e.high) == pytest.approx((share,) * 3)
        whole = 1.2 * sum(effect("trained", task).values())
        assert trained[f"patch.{task}.total"].value == pytest.approx(whole, rel=0.1)


def test_agreement_is_the_correlation_of_norms_with_sizes(trained):
    tables = outcomes()
    attr = effects(tables["patching"], "obj").mean().abs()
    norm = norms(tables["weights"], "n_obj", "norm_ln_corrected")
    norm = norm.loc[list(attr.index)]
    found = {"pearson": stats.pearsonr(norm, attr), "spearman": stats.spearmanr(norm, attr)}
    for kind, by_hand in found.items():
        e = trained[f"patch.agreement.obj.{kind}"]
        assert e.value == pytest.approx(by_hand.statistic)
        q95 = trained[f"patch.agreement.obj.{kind}.shuffled.q95"].value
        assert trained[f"patch.agreement.obj.{kind}.above_shuffled"].value == pytest.approx(e.value - q95)
        # The mean of 1,000 shuffles of 12 heads, whose spread is 1/sqrt(11): three standard errors.
        assert trained[f"patch.agreement.obj.{kind}.shuffled"].value == pytest.approx(
            0, abs=3 / np.sqrt(11 * 1000)
        )
    assert trained["patch.agreement.obj.overlap3"].value == 3
    assert trained["patch.agreement.obj.overlap4_3"].value == 3
    assert trained["patch.exception.obj"].value == 1


def test_agreement_is_lost_where_norms_belong_to_other_heads(measured):
    tables = outcomes()
    mixed = tables["weights"].assign(head=(HEADS - tables["weights"]["head"] - 1))
    found = agreement(tables["patching"], mixed, OPTIONS)
    assert found["patch.agreement.subj.pearson"].high < 0.5
    assert found["patch.exception.subj"].value > 3
    assert found["patch.agreement.subj.overlap3"].value < 3
    assert measured["random"]["patch.agreement.subj.pearson"].low < 0.3


# --- weights -------------------------------------------------------------------------------------------------------


def test_cosines_and_couplings(trained):
    planted = cosines("trained")
    for k, head in enumerate(TOPS, start=1):
        e = trained[f"weights.head_cos.top{k}"]
        assert e.value == planted[head]
        assert e.low is None  # weights have no sampling error
        assert trained[f"weights.coupling.top{k}"].value == pytest.approx(0.9 * planted[head])
    assert trained["weights.range_cos"].value == 0.5
    assert trained["weights.head_cos.above_output"].value == pytest.approx(planted[TOPS[0]] - 0.5)
    assert trained["weights.head_cos.bulk"].value == pytest.approx(np.median(list(planted.values())))
    assert trained["weights.head_cos.min"].value == min(planted.values())


def test_random_observables_set_the_scale(trained):
    table = outcomes()["weights"]
    draws = np.abs(random_cosines(table, TOPS[0]))
    assert len(draws) == DRAWS
    q95 = np.quantile(draws, 0.95)
    assert trained["weights.random_cos.q95"].value == pytest.approx(q95)
    assert trained["weights.head_cos.gain"].value == pytest.approx(
        cosines("trained")[TOPS[0]] - max(0.5, q95)
    )
    # Where random observables are as alike as the pronouns are, there is nothing to gain.
    alike = table.assign(value=table["value"].where(~table["other"].str.startswith("random."), 0.99))
    assert weights(alike, TOPS)["weights.head_cos.gain"].value < 0


def test_published_norms_are_taken_by_number_and_ratios_by_rank():
    table = outcomes()["weights"]
    renamed = {(2, 1): (18, 11), (1, 2): (17, 14), (2, 3): (13, 11), (0, 0): (15, 13), (0, 1): (18, 0)}
    new = [renamed.get(h, h) for h in zip(table["layer"], table["head"], strict=True)]
    theirs = table.assign(layer=[h[0] for h in new], head=[h[1] for h in new])
    found, norm = weights(theirs, []), norms(table, "n_subj", "norm")
    assert found["weights.norm.subj.18.11"].value == norm[2, 1]
    assert found["weights.norm.subj.listed"].value == pytest.approx(norm.loc[list(renamed)].sum())
    assert found["weights.norm_ln.subj.listed"].value is None  # 9::1 is not there
    ordered = norms(table, "n_subj", "norm_ln_published").sort_values(ascending=False).to_numpy()
    ratios = [found[f"weights.norm_ln.subj.ratio{k}"].value for k in range(1, 5)]
    assert ratios == pytest.approx(ordered[:4] / ordered[1:5])
    assert found["weights.norm_ln.subj.range"].value == pytest.approx(np.prod(ratios))
    assert found["weights.head_cos.top1"].value is None


def test_output_space_is_no_head():
    cosine = compared(outcomes()["weights"], "n_obj")
    assert (-1, -1) in cosine.index
    assert len(norms(outcomes()["weights"], "n_subj", "norm")) == LAYERS * HEADS


# --- coupling ------------------------------------------------------------------------------------------------------


def test_fit_is_least_squares_whatever_the_units():
    rng = np.random.default_rng(0)
    x = 3 + rng.standard_normal(500)
    y = 0.7 * x - 2 + rng.standard_normal(500)

    def sums(a, b):
        return np.array([len(a), a.sum(), b.sum(), a @ a, a @ b, b @ b])

    slope, intercept = np.polyfit(x, y, 1)
    found = fit(sums(x, y))
    assert found["slope"] == pytest.approx(slope)
    assert found["intercept"] == pytest.approx(intercept)
    assert found["r2"] == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2)
    # Sums of parts of the text add up; a longer feature has a smaller slope and the same r^2.
    parts = sums(x[:200], y[:200]) + sums(x[200:], y[200:])
    assert fit(parts)["slope"] == pytest.approx(slope)
    longer = fit(sums(5 * x, y))
    assert longer["slope"] == pytest.approx(slope / 5)
    assert longer["r2"] == pytest.approx(found["r2"])


@pytest.mark.parametrize("kind", KINDS)
def test_geometry_holds_with_and_without_learning(kind, measured):
    found, planted = measured[kind], cosines(kind)
    heads = ranking(outcomes(kind)["patching"], "subj")
    for k in (1, 2, 3):
        cos = planted[heads[k - 1]]
        name = f"coupling.top{k}"
        assert found[f"{name}.predicted"].value == pytest.approx(0.9 * cos)
        assert found[f"{name}.cos2"].value == pytest.approx(cos**2)
        # 2,400 independent tokens: three standard errors of a slope.
        se = 0.9 * np.sqrt(1 - cos**2) / np.sqrt(2400)
        assert found[f"{name}.error"].value == pytest.approx(0, abs=3 * se)
        assert found[f"{name}.error"].value == pytest.approx(
            found[f"{name}.slope"].value - found[f"{name}.predicted"].value
        )
        assert found[f"{name}.r2_error"].value == pytest.approx(0, abs=0.05)
    assert found["coupling.all.corr_slope"].value > 0.95
    assert found["coupling.all.corr_r2"].value > 0.95


def test_shuffled_scores_break_the_geometry_and_leave_the_prediction(trained):
    assert trained["coupling.shuffled.top1.predicted"].value == trained["coupling.top1.predicted"].value
    assert trained["coupling.shuffled.top1.slope"].value == pytest.approx(0, abs=0.1)
    assert trained["coupling.shuffled.top1.error"].high < -0.7
    assert trained["coupling.shuffled.top1.r2"].high < 0.05
    assert trained["coupling.random.top1.slope"].value == pytest.approx(0, abs=0.1)


def test_readings_are_not_mixed_up():
    """Every site, mode and treatment of first positions is a slope of its own."""
    table = outcomes()["coupling"].copy()
    shift = {
        ("own", "scale", False): 0.0,
        ("mistaken", "scale", False): 1.0,
        ("normed", "ignore", False): 2.0,
    }
    shift |= {("mistaken", "scale_swapped", True): 3.0, ("mistaken", "scale_swapped", False): 4.0}
    keys = zip(table["site"], table["mode"], table["first"], strict=True)
    extra = np.array([shift.get(k, 9.0) for k in keys])
    # A slope that is larger by s: y + s x.
    table["syy"] += 2 * extra * table["sxy"] + extra**2 * table["sxx"]
    table["sxy"] += extra * table["sxx"]
    table["sy"] += extra * table["sx"]
    top = table["layer"].eq(TOPS[0][0]) & table["head"].eq(TOPS[0][1])
    table.loc[top, ["layer", "head"]] = 17, 14
    found = coupling(table, [(17, 14)], OPTIONS)
    for name, s in (("top1", 0), ("mistaken.top1", 1), ("normed.top1", 2), ("published.17.14", 3)):
        assert found[f"coupling.{name}.error"].value == pytest.approx(s, abs=0.1)
    assert found["coupling.published.no_first.17.14.error"].value == pytest.approx(4, abs=0.1)
    assert found["coupling.corrected.17.14.error"].value == found["coupling.top1.error"].value
    assert found["coupling.top2.slope"].value is None
    assert found["coupling.published.max_error"].value is None


def test_covariance_of_one_half_predicts_the_other():
    table = outcomes()["coupling"]
    found = coupling(table, TOPS, OPTIONS)["coupling.all.covariance_error"]
    assert found.value < 0.05
    turned = table.assign(sxy=table["sxy"].where(table["half"] == 0, -table["sxy"]))
    turned["sy"] = turned["sy"].where(turned["half"] == 0, -turned["sy"])
    assert coupling(turned, TOPS, OPTIONS)["coupling.all.covariance_error"].value > 0.5


# --- search and paths ----------------------------------------------------------------------------------------------


def test_search(trained):
    e = trained["search.subj.length1.top1"]
    assert (e.value, e.low, e.reason) == (4.0, None, "attn2.1@3")
    assert trained["search.subj.length2.top2"].value == pytest.approx(1.0)
    assert trained["search.subj.sum10"].value == pytest.approx(4 * sum(1 / k for k in range(1, 11)))
    # The variants differ in the best path of the third length alone.
    assert trained["search.subj.same_best"].value == pytest.approx(2 / 3)
    assert trained["search.subj.length4.top1"].value is None


def test_a_path_that_reads_the_name():
    table = outcomes()["search"]
    found = search(table, SOURCES)
    assert found["search.obj.name"].reason == "attn2.1@6"
    # Ranks 1 to 4 read the name, ranks 2, 5 and 8 are MLPs: 1, 3 and 4 of the heads 1, 3, 4, 6, 7, 9, 10.
    share = sum(1 / k for k in (1, 3, 4)) / sum(1 / k for k in (1, 3, 4, 6, 7, 9, 10))
    assert found["search.obj.name_share"].value == pytest.approx(share)
    elsewhere = search(table, {**SOURCES, "obj": 1})
    assert elsewhere["search.obj.name"].value is None
    assert elsewhere["search.obj.name_share"].value == 0
    assert found["search.code1.name"].reason == "the pair of prompts names no source"


def test_a_named_path_is_found_by_its_text():
    row = {
        "task": "party",
        "variant": "published",
        "length": 1,
        "rank": 11,
        "path": "attn15.8@1",
        "score": 0.93,
    }
    other = {**row, "variant": "corrected", "score": 0.5}
    table = pd.concat([outcomes()["search"], pd.DataFrame([row, other])], ignore_index=True)
    assert search(table, SOURCES)["search.party.attn15.8@1"].value == 0.93
    assert search(outcomes()["search"], SOURCES)["search.party.attn15.8@1"].value is None


def test_path_cosines():
    arrays = directions()["paths"]
    key = {k.split("/")[0]: k for k in arrays if k.endswith("/ignore")}
    a, b = (arrays[key[n]].astype(float) for n in ("n_subj.shared", "n_bias.shared"))
    found = paths(arrays, outcomes()["weights"])
    e = found["bias.path_cos.shared"]
    assert e.value == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    q95 = np.quantile(np.abs(random_cosines(outcomes()["weights"], TOPS[0])), 0.95)
    assert found["bias.path_cos.above_random"].value == pytest.approx(e.value - q95)
    assert found["bias.path_cos.6_6"].value is None
    longer = {k: (3 if k.startswith("n_bias") else 1) * v for k, v in arrays.items()}
    assert paths(longer, outcomes()["weights"])["bias.path_cos.shared"].value == pytest.approx(e.value)


def test_features_of_different_places_are_not_compared():
    y = np.ones(D_MODEL, np.float32)
    arrays = {
        "a.x/attn2.1@3/ignore": y,
        "b.x/mlp2@3/ignore": y,
        "c.x/attn1.1@3/ignore": y,
        "d.x/attn2.0@5/ignore": y,
    }
    assert between(arrays, "a.x", "d.x").value == pytest.approx(1)
    for other in ("b.x", "c.x"):
        assert "end in different places" in between(arrays, "a.x", other).reason
    assert place("mlp19@-1<=attn0.all@3") == ("attn", 0)
    with pytest.raises(ValueError, match="does not end in a component"):
        place("attn3")


def test_published_paths_go_before_searched_ones():
    rng = np.random.default_rng(0)
    arrays = dict(directions()["paths"])
    plain_y, swapped = rng.standard_normal((2, D_MODEL))
    arrays |= {"n_subj.6_6/attn13.11@3<=attn6.6@3/ignore": plain_y}
    arrays |= {"n_subj.6_6/attn13.11@3<=attn6.6@3/scale_swapped": swapped}
    found = paths(arrays, outcomes()["weights"])
    cos = plain_y @ swapped / np.linalg.norm(plain_y) / np.linalg.norm(swapped)
    assert found["ln.cos.subj"].value == pytest.approx(cos)
    assert found["ln.cos.subj.gradient"].value is None
    assert found["ln.cos.party"].reason.startswith("party.head")


# --- what the parts are put together with --------------------------------------------------------------------------


def test_answers_of_the_pairs_are_the_outputs_of_their_own_prompts(trained):
    scores, prompts = outcomes()["scores"], inputs().prompts
    output = scores[scores["set"] == "pairs"].set_index("prompt")["output"]
    for p in prompts["pairs"]:
        if p.split == "pair":
            found = trained[f"answers.{p.extra['task']}.{p.extra['side']}"]
            assert found.value == pytest.approx(output[p.id])
    fewer = [p for p in prompts["pairs"] if p.extra["task"] != "code2"]
    assert answers({"pairs": fewer}, scores)["answers.code2.a"].reason == "the lists have no such pair"
    without = [replace(p, id=p.id + 1000) for p in prompts["pairs"]]
    assert answers({"pairs": without}, scores)["answers.subj.a"].value is None


def test_the_reading_path_is_the_best_that_ends_at_the_name(trained):
    rows = outcomes()["search"]
    mine = rows[(rows["task"] == "subj") & (rows["variant"] == "corrected")]
    last = mine["path"].str.split("<=").str[-1]
    at_name = mine[last.str.startswith("attn") & last.str.endswith(f"@{SOURCES['subj']}")]
    assert trained["search.subj.corrected.reading"].value == pytest.approx(at_name["score"].max())
    assert trained["search.subj.dense.top_head"].reason.startswith("attn")


def test_comparisons_as_published_go_by_method_alone(trained):
    for task, method, n in (
        ("pronoun", "regression", 60),
        ("code", "mean_diff", 100),
        ("party", "obsprop", 2),
    ):
        assert (
            trained[f"lowdata.{task}.published.{method}"]
            == trained[f"lowdata.{task}.published.{method}.n{n}"]
        )
    assert trained["lowdata.party.published.regression_all"].n == 60
    assert "lowdata.pronoun.like.regression" not in trained


def test_a_number_that_is_none_is_missing():
    assert plain(float("nan")).value is None
    assert plain(float("nan")).reason
    assert unseen(pd.DataFrame({"a": [1, 2, 3]}, index=[0, 1, 2])).index.tolist() == [1]


def test_a_model_that_can_use_no_prompt_has_a_reason_for_every_claim():
    """As a stranger's tokenizer leaves it: tables without rows, and prompts that say why they cannot be used."""
    given = inputs()
    barred = {
        **{
            name: [replace(p, usable=False, why="'she' is not one token") for p in mine]
            for name, mine in given.prompts.items()
        },
        "names": [replace(given.prompts["pairs"][0], usable=False, why="'she' is not one token")],
    }
    bare = replace(given, prompts=barred, directions={"heads": {}, "paths": {}, "random": {}})
    found = measure(bare, empty())
    for name in named():
        assert name in found, name
        assert found[name].value is not None or found[name].reason
    assert "0 of 1 prompts of 'names' can be used" in found["lowdata.pronoun.published.obsprop"].reason
    assert found["usable.names"].value == 0
