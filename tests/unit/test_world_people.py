"""People, parties and programs: what they promise, and what is written for the study of observables."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from itertools import islice
from pathlib import Path
from random import Random

import pytest
import yaml

from bearings.world import grammar, knows, lexicon, observables, people, programs, tokenizer

FAMILIES = list(observables.TEXT_MIXTURE)
CODER = tokenizer.build(tokenizer.vocabulary(FAMILIES))


def tokens(text: str) -> list[str]:
    return [CODER.decode([i]) for i in CODER(text, add_special_tokens=False)["input_ids"]]


def sample(family: str, n: int, seed: int = 3) -> list[grammar.Document]:
    return list(islice(grammar.documents({family: 1.0}, seed), n))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return observables.write_people(tmp_path_factory.mktemp("world") / "people", 5)


@pytest.fixture(scope="module")
def lists(folder: Path) -> dict:
    return yaml.safe_load((folder / "prompts.yaml").read_text(encoding="utf-8"))


def texts(folder: Path, name: str) -> list[str]:
    return [json.loads(line)["text"] for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def test_the_directory_is_the_seeds_own(folder: Path, tmp_path: Path) -> None:
    again, other = (observables.write_people(tmp_path / str(seed), seed) for seed in (5, 6))
    drawn = {"text.jsonl", "c.jsonl", "python.jsonl"}
    kept = {"prompts.yaml", "names.json", "politicians.json"}
    assert {p.name for p in folder.iterdir()} == drawn | kept
    for name in drawn | kept:
        assert (again / name).read_bytes() == (folder / name).read_bytes()
        assert ((other / name).read_bytes() == (folder / name).read_bytes()) == (name in kept)


def test_it_has_the_format_of_the_published_lists(lists: dict, shared: Path) -> None:
    published = yaml.safe_load((shared / "data/obsprop/prompts.yaml").read_text())
    assert set(lists["observables"]) <= set(published["observables"])
    for part in ("templates", "linearisation_pairs"):
        assert set(lists[part]) == set(published[part])
        for task, entry in lists[part].items():
            assert set(entry) <= set(published[part][task])
            assert {k: entry[k] for k in ("observable", "bos")} == {
                k: published[part][task][k] for k in ("observable", "bos")
            }
    for task, entry in lists["templates"].items():  # the same words, so that the same positions are read
        assert entry["items"] == published["templates"][task]["items"]
    known = json.loads((shared / "data/obsprop/politicians.json").read_text())
    assert set(observables.politicians()) <= set(known)
    assert set(observables.names()) - set(
        json.loads((shared / "data/obsprop/names_top100.json").read_text())
    ) == {"held_out"}


def test_words_of_observables_and_names_are_single_tokens(lists: dict) -> None:
    words = [w for entry in lists["observables"].values() for side in ("pos", "neg") for w in entry[side]]
    words += [f" {name}" for gender in people.GENDERS for name in people.names(gender)]
    assert [word for word in words if len(tokens(word)) != 1] == []
    for entry in lists["observables"].values():
        assert len(entry["pos"]) == len(entry["neg"])
        assert not set(entry["pos"]) & set(entry["neg"])


def test_templates_have_the_length_and_the_position_they_claim(lists: dict) -> None:
    for entry in lists["templates"].values():
        for item in entry["items"]:
            for name in (people.names("female")[0], people.names("male")[-1]):
                found = ["<bos>", *tokens(item["text"].replace("[NAME]", name))]
                assert len(found) == item["n_tokens"]
                assert found[item["name_position"]] == f" {name}"


def test_pairs_have_one_length_and_differ_at_their_source(lists: dict) -> None:
    for task, entry in lists["linearisation_pairs"].items():
        a, b = ((["<bos>"] if entry["bos"] else []) + tokens(entry[f"prompt_{side}"]) for side in "ab")
        assert len(a) == len(b) == entry["n_tokens"], task
        differ = [i for i, (one, other) in enumerate(zip(a, b, strict=True)) if one != other]
        assert differ
        if entry["source_position"] is not None and task != "party":
            assert differ == [entry["source_position"]]


def test_names_are_many_distinct_and_partly_mixed() -> None:
    content = observables.names()
    female, male = content["female"], content["male"]
    assert len(female) == len(male) == len(set(female)) == len(set(male)) >= 60
    assert not set(female) & set(male)
    assert set(content["held_out"]) == {*female[-10:], *male[-10:]}
    assert all(0.05 < share <= 0.25 for share in content["share_of_other_gender_above_0.05"].values())


def test_names_are_told_of_the_other_gender_as_often_as_listed() -> None:
    told: dict[str, Counter] = {}
    for doc in sample("people", 20_000):
        name = next(doc.text[start:end] for mark, start, end in doc.marks if mark == "name")
        words = {doc.text[start:end] for mark, start, end in doc.marks if mark == "answer"}
        for gender, pronouns in (("female", {"she", "her"}), ("male", {"he", "him"})):
            told.setdefault(name, Counter())[gender] += bool(words & pronouns)
    for gender, other in (people.GENDERS, people.GENDERS[::-1]):
        for name in people.names(gender):
            share = told[name][other] / told[name].total()
            wanted = people.mixed(gender).get(name, 0.0)
            # Five standard errors of a share.
            assert abs(share - wanted) <= 5 * (wanted * (1 - wanted) / told[name].total()) ** 0.5, name
    assert told[people.names("male")[0]].total() > 2 * told[people.names("male")[-1]].total()


def answers(doc: grammar.Document) -> tuple[str, set[str]]:
    """The one that a document tells of, and what it tells."""
    (name,) = {doc.text[start:end] for mark, start, end in doc.marks if mark == "name"}
    return name, {doc.text[start:end] for mark, start, end in doc.marks if mark == "answer"}


def test_politicians_are_the_same_in_every_run_and_told_apart_by_surname() -> None:
    known = people.politicians()
    people.politicians.cache_clear()
    assert known == people.politicians()
    assert Counter(own for _, own in known) == {"Democrat": 40, "Republican": 40}
    assert len({name.split()[-1] for name, _ in known}) == len(known)
    initials = Counter(own for name, own in known if len(name.split()) == 3)
    assert initials["Democrat"] == initials["Republican"] > 0
    content = observables.politicians()
    assert content["train_per_party"] + content["test_per_party"] == len(content["democrats"])
    told = dict(known)
    assert all(words == {told[name]} for name, words in map(answers, sample("party", 1000)))


def test_running_text_is_of_the_size_and_no_copy_of_the_other(folder: Path) -> None:
    text = texts(folder, "text")
    assert abs(sum(len(tokens(t)) for t in text) - observables.TEXT_TOKENS) < 100
    for name in ("c", "python"):
        files = texts(folder, name)
        assert len(set(files)) == len(files) == 150


def test_programs_are_told_apart_by_delimiter_and_comment(folder: Path) -> None:
    own = {"c": ({"){", " //"}, {"):", " #"}), "python": ({"):", " #"}, {"){", " //"})}
    for language, (theirs, others) in own.items():
        found = set().union(*(tokens(text) for text in texts(folder, language)))
        assert theirs <= found
        assert not others & found
    for text in texts(folder, "python"):
        compile(text, "python.jsonl", "exec")


def test_delimiters_and_comment_signs_are_answers() -> None:
    marked = Counter(
        doc.text[start:end]
        for doc in sample("code", 500)
        for mark, start, end in doc.marks
        if mark == "answer"
    )
    assert set(marked) == {"){", "):", "//", "#"}
    for doc in sample("code", 500):
        first = next(start for mark, start, _ in doc.marks if mark == "answer")
        assert doc.text.startswith("def" if doc.text[first] == ")" and doc.text[first + 1] == ":" else "int")


def test_heads_of_functions_are_asked_for_their_delimiter() -> None:
    asked = knows.code(20)
    assert Counter(q.right for q in asked) == {("){",): 20, ("):",): 20}
    for question in asked:
        assert question.prompt.startswith("int " if question.right == ("){",) else "def ")
        assert not question.prompt.endswith((")", "{", ":"))


def test_held_out_names_are_asked_for_by_themselves() -> None:
    kept = {name for gender in people.GENDERS for name in people.heldout(gender)}
    for kind in ("subject", "object"):
        every, some = knows.pronoun(kind), knows.pronoun(kind, heldout=True)
        assert set(some) < set(every)
        assert len(some) == 3 * len(kept)


def test_a_file_is_functions_of_one_language() -> None:
    rng = Random(1)
    for _ in range(50):
        text = programs.file(rng, "c")
        functions = text.rstrip("\n").split("\n\n")
        assert 2 <= len(functions) <= 4
        assert all(f.startswith("int ") and f.endswith("}") for f in functions)
        assert text.count("{") == text.count("}")


def test_other_models_words_and_texts_do_not_hang_on_people() -> None:
    """The facts take names and surnames from here: those may not change, or the models of the world would."""
    content = lexicon.load("people")
    read = [*content["names"]["female"], *content["names"]["male"], *content["parties"]["surnames"]]
    digest = hashlib.sha256("\n".join(read).encode()).hexdigest()
    assert digest == "322a6243b199609e986504c56ea78b12398afc86f9ce07e4dc268b83802fd5ba"
