"""Published numbers of the study (protocol section 9: A12): the claims' are the table's, with the table's marks."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest
from sensitivity_outcomes import MODELS, cached, inputs
from sensitivity_published import CLASSES, DERIVED, HUB, READ, bloom, checks, others, over_saes, printed

import bearings.studies.sensitivity as study
from bearings.evidence.claims import NEAR_ENDS, load_claims
from bearings.evidence.verdicts import judge, judge_claim
from bearings.studies.sensitivity.measure import measure

CLAIMS = load_claims(Path(study.__file__).with_name("claims.yaml"))
BY_ID = {c["id"]: c for c in CLAIMS.claims}


@pytest.fixture(scope="module")
def data(shared):
    path = shared / "data/sensitivity/published.json"
    if not path.is_file():
        pytest.skip("../shared/data/sensitivity/published.json (the published numbers) is absent")
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def saes(data):
    return {s["id"]: s for s in data["saes"]}


def numeric() -> list[dict]:
    """Claims with a published number."""
    return [c for c in CLAIMS.claims if c["published"]["value"] is not None]


# --- A12: the table itself -----------------------------------------------------------------------------------------


def test_the_table_has_22_saes_of_which_five_are_on_the_hub(data, saes):
    assert (data["schema_version"], data["study"]) == (1, CLAIMS.study)
    assert len(data["saes"]) == len(saes) == 22
    assert {n for n, s in saes.items() if s["on_hub"]} == HUB
    assert Counter(s["type"] for s in saes.values()) == {"local": 9, "e2e": 6, "e2e+ds": 7}


# --- the claims' numbers -------------------------------------------------------------------------------------------


def test_published_numbers_are_those_of_the_table(data, saes):
    """To all printed digits; what is computed from several of them, to the digits that the claim gives."""
    exact = {**checks(data), **printed(saes), **bloom(data), **others(data)}
    computed = over_saes(data, saes)
    for c in numeric():
        value, mark = c["published"]["value"], c["published"]["evidence"]
        if c["id"] == "sae_error.layers.ce":  # the same measure as check.bloom.ce_ratio, of another paper
            assert (value, mark) == (data["gurnee_2024"]["ce_increase_ratio"], "third party")
            continue
        wanted, said = exact.get(c["measure"]) or computed[c["measure"]]
        assert mark == said, c["id"]
        if mark == DERIVED and isinstance(value, float):
            digits = len(str(value).partition(".")[2])
            assert value == pytest.approx(wanted, abs=0.501 * 10**-digits), c["id"]
        else:
            assert value == wanted, c["id"]
        assert c["published"]["model"] == "gpt2-small"


def test_every_table_is_claimed_whole_and_nulls_are_not_claimed(saes):
    claimed = Counter(c["measure"] for c in numeric())
    table = printed(saes)
    substituted = [s for s in saes.values() if s["substitution"]]
    assert len(substituted) == 16
    for columns in (("sae.kl",), ("sae.ce",), ("norm_only.kl",), ("iso.kl",), ("iso.ce",)):
        assert all(claimed[f"sub.{s['id']}.{x}"] == 1 for s in substituted for x in columns)
    for s in substituted:
        assert claimed[f"sae.{s['id']}.error_norm"] == 1
        assert claimed[f"sub.{s['id']}.sae_over_iso"] == claimed[f"sub.{s['id']}.ce_ratio"] == 1
    along = {m for m in claimed if m.startswith("err.") and not m.endswith(".slope")}
    every = {f"err.{n}.{k}" for n in saes for k in ("k11", "k21", "k201")}
    assert along == every | {m for m in table if m.endswith(".k51") and m[:4] == "err."} | {
        "err.jup3glm9.k31"
    }
    assert len(along) == 22 * 3 + 17 + 1
    features = {m for m in claimed if m.startswith("feat.") and not m.endswith(".token")}
    assert features == {m for m in table if m.startswith("feat.")}
    assert len(features) == 22 * 3 - 9


def test_a_null_is_named_where_it_is_skipped(saes):
    """Whoever reads the claims sees which values are missing, and why."""
    text = Path(study.__file__).with_name("claims.yaml").read_text()
    head = text.split("# --- Feature directions")[1].split("\n  - id:")[0]
    hidden = {
        n for n, s in saes.items() if None in [s["feature_direction"][k]["51"] for k in CLASSES.values()]
    }
    assert {n for n in saes if n in head} == hidden
    head = text.split("# --- Error directions")[1].split("\n  - id:")[0]
    unknown = {n for n, s in saes.items() if s["error_direction"]["kl"]["51"] is None}
    assert unknown <= {n for n in saes if n in head}


# --- the claims themselves -----------------------------------------------------------------------------------------


def test_jobs_figures_and_scales():
    assert {c["job"] for c in CLAIMS.claims} == {*CLAIMS.manifest["experiments"], "pool"}
    assert {c["figure"] for c in CLAIMS.claims} == set(CLAIMS.manifest["figures"])
    for c in CLAIMS.claims:
        assert list(c["scales"]) == ["paper", "gpt2", "embedded"], c["id"]
        assert "published_here" not in c["scales"]["embedded"], c["id"]


def test_a_published_number_is_in_its_own_tolerance():
    for c in numeric():
        low, high = c["tolerance"].get("within", (-math.inf, math.inf))
        value = c["published"]["value"]
        values = value if isinstance(value, list) else [value]
        assert all(low <= v <= high for v in values), c["id"]


def test_tolerances_follow_the_protocol():
    """10 % of a KL, 3 % of a norm; a reading adds 1 % (bars) or 0.01 nats (curves)."""
    for c in numeric():
        value, wide, mark = (
            c["published"]["value"],
            c["tolerance"].get("absolute"),
            c["published"]["evidence"],
        )
        if c["measure"].endswith(".error_norm"):
            wanted = 0.03 * value
        elif c["measure"].startswith(("err.", "feat.")) and wide is not None:
            wanted = 0.1 * value + 0.01 * (mark == READ)
        elif c["id"].startswith("substitution.") and ".kl" in c["measure"] and wide is not None:
            wanted = (0.11 if mark == READ else 0.10) * value
        else:
            continue
        assert wide == pytest.approx(wanted, rel=0.01), c["id"]


def test_every_reading_states_its_uncertainty():
    for c in numeric():
        if c["published"]["evidence"] == READ:
            assert c["published"]["spread"] in ("± 1 % of reading", "± 0.01 of reading"), c["id"]


def test_learning_expected_here_has_a_control():
    for c in CLAIMS.claims:
        if set(NEAR_ENDS) & set(c["scales"]["embedded"]) and c["kind"] == "learning":
            assert "measure" in c["control"] or c["id"].startswith("gate."), c["id"]


def test_nothing_is_claimed_of_gpt2s_own_values_here():
    """Nats of another model are no expectation."""
    for c in CLAIMS.claims:
        if any(f".{name}." in f".{c['measure']}." for name in (*HUB, "bloom-6")):
            assert set(c["scales"]["embedded"]) == {"not_expected"}, c["id"]


def test_an_sae_that_is_not_on_the_hub_is_judged_only_where_it_is_measured():
    claim = BY_ID["substitution.h9hrelni.kl_sae"]
    absent = {claim["measure"]: {"value": None, "n": 0, "reason": "no SAE 'h9hrelni'"}}
    found = judge_claim(claim, "gpt2", "gpt2-small", absent)
    assert (found["verdict"], found["reason"]) == ("not measurable", "no SAE 'h9hrelni'")
    there = {claim["measure"]: {"value": 0.19, "n": 64, "reason": ""}}
    assert judge_claim(claim, "gpt2", "gpt2-small", there)["verdict"] == "reproduced"
    there[claim["measure"]]["value"] = 0.3
    assert judge_claim(claim, "gpt2", "gpt2-small", there)["verdict"] == "not reproduced"
    assert judge_claim(claim, "embedded", "world-mixed", absent)["verdict"] == "not measurable"


# --- what the claims measure ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured():
    """Every measure of both planted models."""
    return {m: {k: e.to_json() for k, e in measure(inputs(m), cached(m)).items()} for m in MODELS}


def test_every_measure_that_a_claim_names_is_made(measured):
    named = {c["measure"] for c in CLAIMS.claims}
    named |= {c["control"]["measure"] for c in CLAIMS.claims if "measure" in c["control"]}
    assert named <= set(measured["trained"])


def test_what_is_expected_here_can_be_measured_here(measured):
    """All but the step of length 0, which the planted tables may lack, has a value on a ladder of our own."""
    found, lacking = measured["trained"], set()
    for c in CLAIMS.claims:
        if set(NEAR_ENDS) & set(c["scales"]["embedded"]):
            names = {c["measure"], c["control"].get("measure", c["measure"])}
            lacking |= {n for n in names if found[n]["value"] is None}
    assert lacking <= {"base.length_0"}


def test_claims_of_saes_that_are_not_there_say_so(measured):
    """Judged as GPT-2's, the planted ladder has none of the published SAEs: no number, and the reason names them."""
    found = judge(CLAIMS, "gpt2", "gpt2-small", measured["trained"])
    for name in ("substitution.h9hrelni.kl_sae", "error_dir.jup3glm9.k21", "feature.rb8q8czb.active"):
        assert found[name]["verdict"] == "not measurable", name
        assert f"no SAE '{name.split('.')[1]}'" in found[name]["reason"], name


def test_the_planted_random_model_holds_no_expected_claim_of_learning(measured):
    """Its K is the same along every direction; only the gate on cross-entropy, planted alike, does not see it."""
    found = judge(CLAIMS, "embedded", "world-mixed", measured["random"])
    for c in CLAIMS.claims:
        expected = set(NEAR_ENDS) & set(c["scales"]["embedded"])
        if expected and c["kind"] == "learning" and c["id"] != "gate.entropy_share":
            assert found[c["id"]]["verdict"] in ("fails", "control failed"), c["id"]
