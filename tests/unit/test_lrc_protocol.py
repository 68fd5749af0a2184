"""Acceptance checks on the published relations (protocol section 9: items 1 to 3, and the positions of item 7)."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest
from sentiment_models import gpt2_encoder

from bearings.stages.prompts import from_table
from bearings.studies.lrc.prompts import prompts, queries
from bearings.studies.lrc.relations import at_most, demonstrations, one_to_one, read_relations, split

SEEDS = (42, 43, 44, 45, 46)
BARE = {"published": False, "corrected": False}
CATEGORIES = {"factual": (26, 9675), "commonsense": (8, 369), "bias": (7, 212), "linguistic": (6, 793)}
MANY_TO_ONE = {"commonsense": (7, 337), "bias": (7, 212), "factual": (21, 9462), "linguistic": (4, 660)}
TEST_SPLIT = {
    42: "92e289da7b4c6a644df1781315bbd429fddaae5e6e4ad66f3c17e679d1c33794",
    43: "9a798fa7d033f0d4045c72f67305ea8910c74fb7fec6db854615653aa088ad27",
    44: "619d85b64b6d805aba370d01a7b45e6eaf849561083cfb3555e56ede2e66e913",
    45: "be545794044516691cdc7e86eb36f929a50c1f0a8ae348a334e6e75c370296c9",
    46: "5f6c50a23f4c1163a4febfac018d6d2063daff53c1be372725ce5b597383dfb1",
}
TRAIN_PROMPTS = {
    42: "8e7effddc73d0f46930270c2bdc968aac6ddaee2e820ed2d1559dba977c19e2d",
    43: "1a8fceee35de0645e799bd41993edf01e5cd4d432561bc9b945b1679037440b4",
    44: "c9b839ad05d30e826dbac6704f86986195b2f918cfd5eb088ba183ba4940bf62",
    45: "52f66c1f8f866f829ca8f475207412ad22e874020743ff27bce8038cae54a93e",
    46: "7a25372858d8561b8a05a6f838e7c6d235dbeedfd8c57df68b60f9c1e36b7d38",
}


@pytest.fixture(scope="module")
def folder(shared):
    path = shared / "data/lre"
    if not path.is_dir():
        pytest.skip("../shared/data/lre (the published relations, not ours to ship) is absent")
    return path


@pytest.fixture(scope="module")
def relations(folder):
    return read_relations(folder)


@pytest.fixture(scope="module")
def gpt2(shared):
    if not (shared / "data/gpt2-tokenizer").is_dir():
        pytest.skip("../shared/data/gpt2-tokenizer (GPT-2's vocabulary, not ours to ship) is absent")
    return gpt2_encoder(shared)


def table(name, folder, encoder, bos=BARE):
    """One set of split seed 42."""
    settings = {"split_seeds": [42], "bos": bos, "max_samples": 0, "relations": "all"}
    return from_table(prompts(name, {"relations": folder}, settings, encoder))


@pytest.fixture(scope="module")
def first(folder, gpt2):
    """Both sets, without BOS as published."""
    return {name: table(name, folder, gpt2) for name in ("train", "test")}


@pytest.fixture(scope="module")
def made(relations):
    """All queries of all split seeds, before any tokenizer."""
    return {n: [q for r in relations for q in queries(r, n, SEEDS, BARE)] for n in ("train", "test")}


def served(found, variant, seed):
    return [q for q in found if q.variant in (variant, "both") and seed in q.seeds]


def digest(lines):
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


# --- item 1: files -------------------------------------------------------------------------------------------------


def test_the_files_are_the_published_ones(folder):
    listed = (folder / "SHA256SUMS").read_bytes()
    known = "15177144977de3617a385ea3b03a7965867c22a273067abbfed95820cc33bf63"
    assert hashlib.sha256(listed).hexdigest() == known
    for line in listed.decode().splitlines():
        wanted, name = line.split(maxsplit=1)
        assert hashlib.sha256((folder / name.lstrip("*")).read_bytes()).hexdigest() == wanted, name


def test_counts(relations):
    assert len(relations) == 47
    assert sum(r.raw for r in relations) == 11_089
    assert sum(len(r.samples) for r in relations) == 11_049
    assert (sum(len(r.few_shot) for r in relations), sum(len(r.zero_shot) for r in relations)) == (60, 97)
    kept = [r for r in relations if not one_to_one(r)]
    assert (len(kept), sum(len(r.samples) for r in kept)) == (39, 10_671)
    for found, wanted in ((relations, CATEGORIES), (kept, MANY_TO_ONE)):
        mine = {
            c: (
                sum(r.category == c for r in found),
                sum(len(r.samples) for r in found if r.category == c),
            )
            for c in wanted
        }
        assert mine == wanted
    assert {s.object for r in relations for s in r.samples} >= {"Brasília", "Bogotá", "Bon Jovi "}


def test_fewer_samples(relations):
    """Section 7: what is left when each relation gives at most 100 or 150 samples."""
    assert [sum(len(at_most(r, n).samples) for r in relations) for n in (100, 150)] == [2940, 3690]


# --- item 2: splits and train prompts ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_splits_are_the_authors(relations, seed):
    parts = {r.name: split(r, seed) for r in relations}
    assert sum(len(train) for train, _ in parts.values()) == 7196
    assert sum(len(test) for _, test in parts.values()) == 3853
    lines = [f"{name}\t{s.subject}\t{s.object}\n" for name, (_, test) in parts.items() for s in test]
    assert digest(lines) == TEST_SPLIT[seed]
    assert {r.name for r in relations if not parts[r.name][1]} == {r.name for r in relations if one_to_one(r)}


@pytest.mark.parametrize("seed", SEEDS)
def test_train_prompts_are_the_authors(made, seed):
    mine = served(made["train"], "published", seed)
    assert len(mine) == 9270
    assert digest([f"{q.prompt}\x1f{q.sample.object}\x1e" for q in mine]) == TRAIN_PROMPTS[seed]
    assert len(served(made["train"], "corrected", seed)) == 9270
    assert len(served(made["test"], "published", seed)) == 7846


def test_a_small_case(relations):
    names = next(r for r in relations if r.name == "name gender")
    train, test = split(names, 42)
    by_object = {o: [s.subject for s in test if s.object == o] for o in ("woman", "man")}
    assert by_object == {
        "woman": ["Lisa", "Sofia", "Natalie"],
        "man": ["Lucas", "Connor", "Michael", "Oliver", "Caleb"],
    }
    query = next(s for s in train if s.subject == "Scarlett")
    shown = demonstrations(names, train, query, leak=True)
    assert [s.subject for s in shown] == ["Evan", "Benjamin", "William", "Hannah"]


def test_test_prompts_are_stored_once(made):
    found = made["test"]
    assert {q.variant for q in found} == {"both"}
    assert len({(q.relation.name, q.sample, q.template) for q in found}) == len(found)
    assert sum(len(q.seeds) for q in found) == 5 * 7846
    assert len(found) < 2.5 * 7846


def test_how_often_a_query_gives_itself_away(relations):
    """Section 5, row 1, at the digits printed there."""
    leaks, same, counts = {}, {}, Counter()
    for r in relations:
        train, _ = split(r, 42)
        shown = {s: demonstrations(r, train, s, leak=True) for s in train}
        mine = [s in d for s, d in shown.items()]
        like = [any(x.object == s.object for x in d) for s, d in shown.items()]
        leaks[r.name], same[r.name] = sum(mine) / len(mine), sum(like) / len(like)
        counts.update(leaks=sum(mine), same=sum(like), samples=len(train))
    assert round(counts["leaks"] / counts["samples"], 3) == 0.024
    assert round(counts["same"] / counts["samples"], 2) == 0.28
    printed = {
        "name religion": 0.31,
        "occupation gender": 0.30,
        "name birthplace": 0.29,
        "food from country": 0.27,
        "fruit inside color": 0.20,
    }
    assert {name: round(leaks[name], 2) for name in printed} == printed
    assert same["occupation gender"] == 1


def test_the_corrected_variant_differs_only_where_something_leaks(made):
    for seed in SEEDS:
        published, corrected = (served(made["train"], v, seed) for v in ("published", "corrected"))
        leaking = 0
        for old, new in zip(published, corrected, strict=True):
            assert (old.sample, old.template) == (new.sample, new.template)
            subject = new.sample.subject.strip()
            assert subject not in [s.subject.strip() for s in new.shown]
            assert len(new.shown) == len(old.shown) == 4
            if subject in [s.subject.strip() for s in old.shown]:
                leaking += 1
                assert new.text != old.text
            else:
                assert new.text == old.text
        assert leaking > 200


# --- item 3: GPT-2's vocabulary ------------------------------------------------------------------------------------


def test_tokens_of_the_prompts(first):
    assert [p.why for found in first.values() for p in found if not p.usable] == []
    published = [p for p in first["train"] if p.extra["variant"] in ("published", "both")]
    test = first["test"]
    assert (len(published), len(test)) == (9270, 7846)
    lengths = Counter(min(p.extra["answer_tokens"], 5) for p in test)
    assert [lengths[k] for k in range(1, 6)] == [7433, 244, 56, 69, 44]
    # Section 3.3 counts a test prompt without its answer, a train prompt with it.
    bare = [p.positions["object"][0] + 1 for p in test]
    whole = [len(p.ids) for p in published]
    assert (round(sum(bare) / len(bare), 1), max(bare)) == (11.3, 26)
    assert (round(sum(whole) / len(whole), 1), max(whole)) == (56.8, 112)


def test_words_of_one_token(relations, gpt2):
    objects = {(r.name, s.object) for r in relations for s in r.samples}
    assert (len(objects), sum(gpt2.word(f" {o.strip()}") is not None for _, o in objects)) == (3623, 911)
    assert sum(gpt2.word(f" {s.subject.strip()}") is not None for r in relations for s in r.samples) == 1060


# --- item 7: positions ---------------------------------------------------------------------------------------------


def test_answers_are_predicted_from_the_prompts_last_token_on(first, gpt2):
    for p in [*first["test"], *first["train"]]:
        at = p.positions["object"]
        assert at == tuple(range(len(p.ids) - 1 - len(at), len(p.ids) - 1))
        assert len(at) == p.extra["answer_tokens"]
    for p in first["test"][::50]:
        assert "".join(gpt2.text_of(p.ids[i + 1]) for i in p.positions["object"]) == f" {p.extra['object']}"


def test_subject_index_is_that_of_a_search_but_for_few(made, first, gpt2):
    """Section 5, row 3, over all seeds: at most ten prompts a seed, of the subjects that the protocol names."""
    moved = {"prompt": Counter(), "text": Counter()}
    for q in made["test"]:
        subject = q.sample.subject.strip()
        for where, text in (("prompt", q.prompt), ("text", q.text)):
            if text.rindex(subject) + len(subject) != q.subject_end:
                moved[where].update(q.seeds)
                contained = where == "text" and subject in q.sample.object
                assert contained or subject in ("fish", "flower", "neutral")
    assert all(0 < moved["prompt"][seed] <= moved["text"][seed] <= 10 for seed in SEEDS)
    # The same index in tokens, by the tokens' own characters.
    for p in first["test"][::10]:
        query = p.text.rindex(p.extra["subject"].strip()) + len(p.extra["subject"].strip())
        before, seen = (len("".join(map(gpt2.text_of, p.ids[: p.at("subject") + more]))) for more in (0, 1))
        odd = not p.text.isascii() or p.extra["subject"] in ("fish", "flower", "neutral")
        assert odd or p.extra["subject"] in p.extra["object"] or before < query <= seen


def test_subjects_at_the_very_start(folder, first, gpt2):
    """Section 5, row 2: as published some subjects are the first token of all, behind BOS none is."""
    assert sum(p.at("subject") == 0 for p in first["test"]) == 42
    after = table("test", folder, gpt2, {"published": True, "corrected": True})
    assert [p.at("subject") for p in after] == [p.at("subject") + 1 for p in first["test"]]
    assert {p.ids[0] for p in after} == {gpt2.bos}


def test_punctuation_in_the_subjects_last_token(relations, gpt2):
    """Section 3.3: in 42 pairs of sample and template, `Inc.?` and the like, the token goes on behind the subject."""
    every = [(s, t) for r in relations for s in r.samples for t in r.zero_shot]
    coded = gpt2.encode_many([t.format(s.subject) for s, t in every], bos=False)
    found = 0
    for (sample, template), (_, offsets) in zip(every, coded, strict=True):
        end = template.index("{}") + len(sample.subject.strip())
        found += end not in {b for _, b in offsets}
    assert found == 42
