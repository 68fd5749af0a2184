"""Acceptance checks on the published data of the study (protocol section 9: items 1 to 3 and 7)."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from fractions import Fraction

import pytest
import yaml
from sentiment_models import gpt2_encoder

from bearings.stages.prompts import from_table
from bearings.studies.obsprop import common
from bearings.studies.obsprop.prompts import prompts
from bearings.studies.obsprop.texts import cut

SETTINGS = {"window": 128, "code_windows": 4, "text_tokens": 3000}
CSV_SHA256 = "dbc78ccbb23d5ee5238a59611cd290be48456180c53fc14c50a50dccc14a7bcd"


@pytest.fixture(scope="module")
def folder(shared):
    path = shared / "data/obsprop"
    if not path.is_dir():
        pytest.skip("../shared/data/obsprop (the published lists, not ours to ship) is absent")
    return path


@pytest.fixture(scope="module")
def gpt2(shared):
    if not (shared / "data/gpt2-tokenizer").is_dir():
        pytest.skip("../shared/data/gpt2-tokenizer (GPT-2's vocabulary, not ours to ship) is absent")
    return gpt2_encoder(shared)


@pytest.fixture(scope="module")
def raw(folder):
    return yaml.safe_load((folder / "prompts.yaml").read_text())


@pytest.fixture(scope="module")
def listed(folder):
    return json.loads((folder / "names_top100.json").read_text())


@pytest.fixture(scope="module")
def sets(folder, gpt2):
    data = {"lists": folder / "prompts.yaml", "names": folder / "names_top100.json"}
    data["politicians"] = folder / "politicians.json"
    names = ("names", "pairs", "politicians")
    return {name: from_table(prompts(name, data, SETTINGS, gpt2)) for name in names}


def bare(sets):
    """Politicians without a start token, as published."""
    return [p for p in sets["politicians"] if not p.extra["bos"]]


# --- item 1: tokens ------------------------------------------------------------------------------------------------


def test_everything_is_usable(sets):
    assert [p.why for found in sets.values() for p in found if not p.usable] == []
    assert {name: len(found) for name, found in sets.items()} == {
        "names": 1800,
        "pairs": 12 + 10,
        "politicians": 160,
    }


def test_names_are_the_published_tokens(sets, listed):
    for gender in ("female", "male"):
        for task in common.NAME_TASKS:
            for template in range(3):
                mine = [
                    p
                    for p in sets["names"]
                    if (p.extra["gender"], p.extra["task"], p.extra["template"]) == (gender, task, template)
                ]
                assert [p.extra["name"] for p in mine] == listed[gender]
                assert [p.ids[p.at("name")] for p in mine] == listed[f"{gender}_token_ids"]
    mixed = {p.extra["name"] for p in sets["names"] if p.extra["mixed"]}
    assert mixed == {"Willie", "Terry", "Jordan", "Logan", "Kelly", "Jean", "Alexis"}


def test_lengths_and_positions_of_the_templates(sets, raw):
    for task, entry in raw["templates"].items():
        mine = [p for p in sets["names"] if p.extra["task"] == task]
        for t, item in enumerate(entry["items"]):
            found = {(len(p.ids), p.at("name"), p.at("bos")) for p in mine if p.extra["template"] == t}
            assert found == {(item["n_tokens"], item["name_position"], 0)}
        assert sum(len(p.ids) for p in mine) == entry["total_tokens_600_prompts"]
    totals = Counter()
    for p in sets["names"]:
        totals[p.extra["task"]] += len(p.ids)
    assert totals == {"subj": 6600, "obj": 9200, "occ": 5400}
    assert {p.ids[0] for p in sets["names"]} == {50256}


def test_observables_are_the_published_tokens(sets, raw):
    wanted = {name: (tuple(x["pos_ids"]), tuple(x["neg_ids"])) for name, x in raw["observables"].items()}
    assert common.observables(sets) == wanted
    n = common.vector(sets, "case", 50257)
    assert {int(i): n[i] for i in n.nonzero()[0]} == {683: 1, 606: 1, 502: 1, 339: -1, 484: -1, 314: -1}


def test_linearisation_pairs_are_the_published_tokens(sets, raw):
    assert list(raw["linearisation_pairs"]) == list(common.TASKS)
    for task, entry in raw["linearisation_pairs"].items():
        a, b = common.pair(sets, task)
        assert (list(a.ids), list(b.ids)) == (entry["ids_a"], entry["ids_b"])
        assert len(a.ids) == len(b.ids) == entry["n_tokens"]
        for p in (a, b):
            assert p.positions.get("source", (None,)) == (entry["source_position"],)
            assert p.extra["observable"] == entry["observable"]
    assert [len(common.pair(sets, task)[0].ids) for task in ("code1", "code2")] == [10, 11]


def test_paths_end_where_their_pair_is_read(sets, raw):
    """Heads of a pronoun path read the name; what reads the last position is at -1."""
    found = common.published_paths(sets)
    assert len(found) == 11 + 6 + 5
    for name, path in found.items():
        task = next(t for t, observable in common.TASKS.items() if observable == name.split(".")[0])
        if task in common.NAME_TASKS:
            source = common.pair(sets, task)[0].at("source")
            assert path[-1].endswith(f"@{source}")
    assert found["n_bias.6_6"] == tuple(raw["paths"]["n_bias.6_6"])


# --- item 2: the list of names -------------------------------------------------------------------------------------


def test_the_names_come_from_the_table(folder, listed, gpt2):
    path = folder / "name_gender_dataset.csv"
    if not path.is_file():
        pytest.skip("name_gender_dataset.csv is absent")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == CSV_SHA256
    chosen: dict[str, list[tuple[int, str]]] = {"M": [], "F": []}
    with path.open(encoding="utf-8-sig", newline="") as lines:
        for row, entry in enumerate(csv.DictReader(lines)):
            mine = chosen[entry["Gender"]]
            if len(mine) < 100 and gpt2.word(f" {entry['Name']}") is not None:
                mine.append((row, entry["Name"]))
    assert row + 1 == 147_269
    for letter, gender in (("M", "male"), ("F", "female")):
        assert [name for _, name in chosen[letter]] == listed[gender]
        assert [at for at, _ in chosen[letter]] == listed[f"{gender}_csv_rows"]
    assert (chosen["M"][-1], chosen["F"][-1]) == ((213, "Bradley"), (209, "Tammy"))


# --- item 3: politicians -------------------------------------------------------------------------------------------


def test_position_minus_four_is_often_the_first(sets, folder, gpt2):
    file = json.loads((folder / "politicians.json").read_text())
    found = bare(sets)
    first = [p for p in found if p.at("minus4") == 0]
    assert Counter(p.label for p in first) == {1: 17, 0: 20}
    assert Counter(p.split for p in found) == {"train": 60, "test": 20}
    assert Counter(p.split for p in first) == {"train": 28, "test": 9}
    tokens = file["democrats_tokens"] + file["republicans_tokens"]
    for p, fact in zip(found, tokens, strict=True):
        assert len(p.ids) == fact["n_tokens"]
        assert gpt2.text_of(p.ids[p.at("minus4")]) == fact["pos_minus4"]
        assert (p.at("minus4") == 0) is fact["pos_minus4_is_position0"]
        # Trap T5: the last token of the name is one further on.
        assert p.at("name") == len(p.ids) - 3


def test_three_ricks_look_the_same(sets):
    """What a causal model has seen at position -4 is the same for them; with a start token too."""
    for bos in (False, True):
        ricks = [
            p
            for p in sets["politicians"]
            if p.extra["bos"] is bos and p.extra["person"] in ("Rick Santorum", "Rick Perry", "Rick Scott")
        ]
        assert len(ricks) == 3
        seen = {p.ids[: p.at("minus4") + 1] for p in ricks}
        assert len(seen) == 1
        assert len({p.ids[: p.at("name") + 1] for p in ricks}) == 3


def test_known_oddities_of_the_politicians(sets):
    persons = {p.extra["person"]: p for p in bare(sets)}
    assert {"Kevn McCarthy", "Donald Rumsfield"} <= set(persons)
    assert (persons["Joe Manchin"].split, persons["Joe Manchin III"].split) == ("train", "test")
    for p in common.pair(sets, "party"):
        assert persons[p.text.removesuffix(" is a")].ids == p.ids


# --- item 7: published areas under the curve -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wins", "windows", "printed"),
    [(89165, 299, 0.9973602085), (75402, 275, 0.9970512397), (56575, 250, 0.9052)],
)
def test_published_areas_are_fractions_of_pairs(wins, windows, printed):
    """An area under the curve counts pairs of windows, so the printed number tells how many there were."""
    area = Fraction(wins, windows**2)
    assert abs(area - Fraction(str(printed))) < Fraction(1, 2 * 10**10)
    # The neighbouring counts of pairs print differently.
    assert all(abs(Fraction(w, windows**2) - Fraction(str(printed))) > 1e-6 for w in (wins - 1, wins + 1))


# --- running text --------------------------------------------------------------------------------------------------


def test_windows_of_real_text(shared, folder, gpt2):
    path = shared / "corpora/wikitext2-valid-test/wikitext2-valid-test.parquet"
    if not path.is_file():
        pytest.skip("../shared/corpora/wikitext2-valid-test (real text, not ours to ship) is absent")
    data = {"lists": folder / "prompts.yaml", "text": path}
    found = from_table(prompts("text", data, SETTINGS, gpt2))
    sizes = [len(p.ids) for p in found]
    assert sum(sizes) > SETTINGS["text_tokens"] >= sum(sizes[:-1])
    assert max(sizes) == 128
    by_document = {}
    for p in found:
        by_document.setdefault(p.extra["document"], []).append(p)
    for mine in by_document.values():
        assert all(len(p.ids) == 128 for p in mine[:-1])
    for p in found:
        assert "".join(gpt2.text_of(t) for t in p.ids) == p.text or "\ufffd" in map(gpt2.text_of, p.ids)
        assert 50256 not in p.ids
    assert next(cut(gpt2, path, 128)).ids == found[0].ids
