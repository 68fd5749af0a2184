"""Verdict rules, the checks of claims.yaml, the merged document, its table, and the figures' bytes."""

from __future__ import annotations

import copy
import math

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bearings.evidence.claims import ClaimsError, load_claims, parse_claims
from bearings.evidence.figures import bar_with_interval, interval_line, published_mark, save, style
from bearings.evidence.merge import failing, merge
from bearings.evidence.table import summary, table
from bearings.evidence.verdicts import VERDICTS, judge, judge_claim, meets, record

STUDY = yaml.safe_load("""
study: sentiment
title: Linear representations of sentiment
paper: {arxiv: "2310.15154", citation: "Tigges et al. 2023", title: Linear Representations}
manifest:
  sets: [reviews]
  dumps: {reviews: [end]}
  methods: [das]
  experiments: [ablation]
  figures: {ablation: what ablation costs}
claims:
  - id: ablation.all
    where: abstract
    statement: one direction carries | most
    published: {model: EleutherAI/pythia-2.8b, value: 76.1, unit: "% lost | of chance"}
    measure: all
    tolerance: {absolute: 2.4, reason: spread of draws}
    control: {measure: random, within: [-8, 8], reason: a random direction costs nothing}
    kind: learning
    figure: ablation
    job: ablation
    scales:
      embedded: {at_least: 30, reason: the world is easy}
      gpt2: {not_expected: too small}
      paper: {published_here: true}
  - id: count
    where: table 1
    statement: so many pass
    published: {model: null, value: null}
    measure: n
    tolerance: {report_only: true, reason: unknown}
    control: {none: a count}
    kind: count
    scales: {}
""")


def measure(value, low=None, high=None, n=10):
    return {
        "value": value,
        "low": low,
        "high": high,
        "n": n,
        "unit": "%",
        "reason": "" if value is not None else "few",
    }


GOOD = {"all": measure(60, 50, 70), "random": measure(0, -2, 2), "n": measure(7)}


def claim(**changes):
    return {**copy.deepcopy(STUDY["claims"][0]), **changes}


def verdict(measures, scale="embedded", model="world", twin=None, **changes):
    return judge_claim(claim(**changes), scale, model, measures, twin)["verdict"]


def test_the_main_verdicts():
    assert verdict(GOOD) == "holds"
    assert verdict({**GOOD, "all": measure(60, 29.9, 90)}) == "fails"  # the near end counts, not the mean
    assert verdict({**GOOD, "all": measure(31)}) == "holds"  # no interval: the value
    assert verdict({**GOOD, "random": measure(0, -9, 2)}) == "control failed"
    assert verdict({**GOOD, "random": measure(None)}) == "not measurable"
    assert verdict({**GOOD, "all": measure(None)}) == "not measurable"
    assert verdict({"random": measure(0)}) == "not measurable"
    assert verdict(None) == "not run"
    assert verdict(GOOD, scale="gpt2", model="gpt2") == "observed"
    assert verdict(GOOD, scale="custom") == "observed"
    assert verdict(GOOD, twin={"all": measure(60, 50, 70)}) == "control failed"
    assert verdict(GOOD, twin={"all": measure(40, 20, 70)}) == "holds"
    assert verdict(GOOD, twin={"all": measure(60, 50, 70)}, kind="identity") == "holds"


def test_the_published_model_is_judged_by_tolerance_wherever_it_runs():
    close, far = {**GOOD, "all": measure(78, 77, 79)}, {**GOOD, "all": measure(79, 70, 90)}
    for scale, model in (("paper", "pythia-2.8b"), ("custom", "Pythia-2.8B"), ("embedded", "x/pythia-2.8b")):
        assert verdict(close, scale, model) == "reproduced"
        assert verdict(far, scale, model) == "not reproduced"
    assert verdict(close, "paper", "gpt2") == "observed"
    assert judge_claim(claim(), "paper", "folder", close, published="pythia-2.8b")["verdict"] == "reproduced"
    draws = {"model": "pythia-2.8b", "value": [0.60, 0.64]}
    banded = claim(published=draws, tolerance={"absolute": 0.01, "reason": "draws"})
    found = judge_claim(banded, "paper", "pythia-2.8b", {**GOOD, "all": measure(0.62)})
    assert found["verdict"] == "reproduced"
    assert found["expectation"]["within"] == pytest.approx([0.59, 0.65])
    shy = claim(tolerance={"report_only": True, "reason": "unknown"})
    assert judge_claim(shy, "paper", "pythia-2.8b", close)["verdict"] == "observed"


NUMBER = st.floats(-100, 100)


@given(
    st.lists(NUMBER, min_size=3, max_size=3).map(sorted),
    NUMBER,
    NUMBER,
    st.sampled_from(["at_least", "at_most"]),
)
def test_an_inequality_holds_only_if_every_value_of_the_interval_meets_it(ends, bound, inside, key):
    low, value, high = ends
    assume(low <= inside <= high)
    spec = {"embedded": {key: bound, "reason": "r"}}
    found = verdict({**GOOD, "all": measure(value, low, high)}, scales=spec)
    meets_inside = inside >= bound if key == "at_least" else inside <= bound
    if found == "holds":
        assert meets_inside
    else:
        assert found == "fails"
        assert (low < bound) if key == "at_least" else (high > bound)


@given(NUMBER, st.floats(0, 20), NUMBER, st.floats(0, 20), st.floats(0, 20))
def test_reproduced_means_within_tolerance(published, absolute, value, below, above):
    one = claim(
        published={"model": "m", "value": published},
        tolerance={"absolute": absolute, "reason": "r"},
        control={"none": "r"},
    )
    found = judge_claim(one, "paper", "m", {"all": measure(value, value - below, value + above)})["verdict"]
    inside = published - absolute <= value <= published + absolute
    assert found == ("reproduced" if inside else "not reproduced")
    assert not meets(measure(value, value + 1, value + 2), {"within": [value - 1, value + 0.5]})


@given(
    st.lists(NUMBER, min_size=2, max_size=2).map(sorted), st.lists(NUMBER, min_size=2, max_size=2).map(sorted)
)
def test_no_claim_is_made_unless_the_control_stays_in_its_band(interval, band):
    control = {"measure": "random", "within": band, "reason": "r"}
    found = verdict({**GOOD, "random": measure(sum(interval) / 2, *interval)}, control=control)
    inside = band[0] <= interval[0] and interval[1] <= band[1]
    assert found == ("holds" if inside else "control failed")


@given(
    st.sampled_from(["embedded", "gpt2", "paper", "custom"]),
    st.sampled_from(["world", "pythia-2.8b"]),
    st.none() | NUMBER,
    st.none() | NUMBER,
    st.sampled_from(["learning", "identity", "count"]),
)
def test_every_case_has_one_known_verdict_and_the_contracts_keys(scale, model, value, random, kind):
    measures = {"all": measure(value), "random": measure(random)}
    found = judge_claim(claim(kind=kind), scale, model, measures, measures)
    assert found["verdict"] in VERDICTS
    assert {"model", "measure", "value", "low", "high", "n", "expectation", "control", "verdict"} <= set(
        found
    )
    assert set(found["control"]) >= {"measure", "value", "low", "high"}
    assert found["value"] == value
    # What the untrained twin shows equally is never a success of learning.
    if kind == "learning":
        assert found["verdict"] not in ("holds", "reproduced")


def broken(change):
    raw = copy.deepcopy(STUDY)
    change(raw)
    return raw


FAULTS = {
    "unknown key": (lambda r: r["claims"][0].update(colour="red"), "claim 'ablation.all'.*colour"),
    "twice": (lambda r: r["claims"][1].update(id="ablation.all"), "claim 'ablation.all': key 'id'"),
    "figure": (lambda r: r["claims"][0].update(figure="none"), "key 'figure': 'none'; allowed: ablation"),
    "job": (lambda r: r["claims"][0].update(job="none"), "key 'job'"),
    "reasonless": (lambda r: r["claims"][0]["tolerance"].pop("reason"), "key 'tolerance'.*reason"),
    "no number": (lambda r: r["claims"][0]["published"].update(value="most"), "key 'tolerance.absolute'"),
    "two asked": (
        lambda r: r["claims"][0]["scales"]["embedded"].update(at_most=1),
        "embedded.*exactly one of",
    ),
    "nothing asked": (lambda r: r["claims"][0]["scales"].update(embedded={"reason": "r"}), "embedded"),
    "empty band": (lambda r: r["claims"][0]["control"].update(within=[2, 1]), "key 'control.within'.*empty"),
    "nan": (lambda r: r["claims"][0]["scales"]["embedded"].update(at_least=math.nan), "at_least.*finite"),
    "climbs": (lambda r: r["manifest"]["sets"].append("../../etc"), "manifest.sets"),
    "control": (lambda r: r["claims"][0].update(control={}), "key 'control': needs exactly one of"),
    "dump of no set": (lambda r: r["manifest"]["dumps"].update(other=[]), "'other' is not in"),
    "kind": (lambda r: r["claims"][0].update(kind="magic"), "key 'kind'"),
    "missing": (lambda r: r.pop("claims"), "claims"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_claims_file_is_named_in_one_line(name):
    change, says = FAULTS[name]
    with pytest.raises(ClaimsError, match=says) as caught:
        parse_claims(broken(change), "sentiment/claims.yaml")
    assert "\n" not in str(caught.value)
    assert "study 'sentiment'" in str(caught.value)


@pytest.mark.parametrize("text", ["a: [", "!!python/object/apply:os.system ['true']", "", "- 1", "\x00"])
def test_a_file_that_is_no_claims_file(tmp_path, text):
    (tmp_path / "claims.yaml").write_text(text)
    with pytest.raises(ClaimsError) as caught:
        load_claims(tmp_path / "claims.yaml")
    assert "\n" not in str(caught.value)


@given(
    st.recursive(
        st.none() | st.text(max_size=4) | NUMBER, lambda i: st.lists(i) | st.dictionaries(st.text(), i)
    )
)
@settings(max_examples=50, deadline=None)
def test_any_document_is_refused_in_one_line(raw):
    with pytest.raises(ClaimsError) as caught:
        parse_claims(raw, "x/claims.yaml")
    assert "\n" not in str(caught.value)


def body():
    study = parse_claims(STUDY, "s")
    bad = {**GOOD, "all": measure(20, 10, 30)}
    runs = [("embedded", 1, "world", bad), ("embedded", 0, "world", GOOD), ("gpt2", 0, "gpt2", GOOD)]
    runs += [("paper", 0, "a-model", GOOD), ("paper", 0, "pythia-2.8b", {**GOOD, "all": measure(76, 75, 77)})]
    return merge([record(study, s, k, m, judge(study, s, m, v)) for s, k, m, v in runs], [study])


def test_merge_takes_the_lowest_seed_and_the_published_model_and_keeps_the_rest():
    first, count = body()["claims"]
    assert list(first["scales"]) == ["embedded", "gpt2", "paper"]
    embedded, paper = first["scales"]["embedded"], first["scales"]["paper"]
    assert (embedded["seed"], embedded["value"], embedded["verdict"]) == (0, 60, "holds")
    assert embedded["seeds"]["1"] == {"value": 20, "low": 10, "high": 30, "verdict": "fails"}
    assert (paper["model"], paper["verdict"], list(paper["models"])) == (
        "pythia-2.8b",
        "reproduced",
        ["a-model"],
    )
    assert first["id"] == "sentiment.ablation.all"
    assert count["scales"]["embedded"]["verdict"] == "observed"


def test_merge_does_not_depend_on_the_order_of_records():
    study = parse_claims(STUDY, "s")
    records = [
        record(study, "embedded", k, m, judge(study, "embedded", m, GOOD)) for k in (2, 0) for m in "ba"
    ]
    assert merge(records, [study]) == merge(records[::-1], [study])


def test_failing_names_what_fails_at_any_seed_or_at_one():
    assert failing(body()) == ["sentiment.ablation.all"]
    assert failing(body(), "embedded", 0) == []
    assert failing(body(), "embedded", 1) == ["sentiment.ablation.all"]
    assert failing(body(), "paper") == []
    assert failing(merge([], [parse_claims(STUDY, "s")])) == []


def test_table_has_every_claim_its_links_and_no_broken_cells():
    text = table(body())
    rows = [line for line in text.splitlines() if line.startswith("| [sentiment")]
    assert len(rows) == 6
    cells = {line.replace("\\|", "").count("|") for line in rows}
    assert cells == {9}
    assert "(embedded/seed-0/figures/sentiment/ablation.png)" in rows[0]
    assert "(../logs/results/embedded/seed-0/interventions/world/sentiment/ablation.log)" in rows[0]
    assert "60 [50, 70] %, n = 10" in rows[0]
    assert "1: 20 (fails)" in rows[0]
    assert '<a id="sentiment-ablation-all"></a>' in text
    assert "not run" in table(merge([], [parse_claims(STUDY, "s")]))
    assert "failing: sentiment.ablation.all" in summary(body())
    assert "embedded: 1 holds, 1 observed" in summary(body())


def test_figures_have_the_same_bytes_twice_and_show_what_is_missing(tmp_path):
    import matplotlib.pyplot as plt

    def draw(path, value):
        with style():
            figure, axes = plt.subplots()
            bar_with_interval(axes, 0, measure(value, 1, 3), "das", "DAS")
            bar_with_interval(axes, 1, measure(None), "twin")
            published_mark(axes, 2.5, x=0)
            published_mark(axes, 2.0)
            interval_line(axes, [0, 1, 2], [measure(1, 0, 2), measure(None), measure(2, 1, 3)], "random")
            save(figure, path)
        return path.read_bytes()

    first = draw(tmp_path / "a.png", 2.0)
    assert first == draw(tmp_path / "b.png", 2.0)
    assert first != draw(tmp_path / "c.png", 2.2)
    assert b"Software" not in first
    assert int.from_bytes(first[16:20], "big") == 900
    assert not plt.get_fignums()
