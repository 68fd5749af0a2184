"""The grammar keeps its promises: held-out words stay out, spans fit, labels balance, facts are constants."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from bearings.world import facts, grammar, lexicon, people, reviews

ALL = dict.fromkeys(grammar.families(), 1.0)


def sample(family: str, n: int = 400, seed: int = 3) -> list[grammar.Document]:
    return list(islice(grammar.documents({family: 1.0}, seed), n))


def words_of(text: str) -> set[str]:
    return set(reviews.TOKENS.findall(text))


def test_same_seed_same_documents_and_another_seed_others() -> None:
    first, again, other = (list(islice(grammar.documents(ALL, seed), 300)) for seed in (5, 5, 6))
    assert first == again
    assert first != other


def test_mixture_is_checked() -> None:
    with pytest.raises(ValueError, match="unknown family 'poems'"):
        next(grammar.documents({"poems": 1.0}, 0))
    with pytest.raises(ValueError, match="positive"):
        next(grammar.documents({"toy": 0.0}, 0))


@pytest.mark.parametrize("family", ["labelled", "toy"])
def test_no_heldout_word_in_the_toy_template_or_a_labelled_text(family: str) -> None:
    kept = {w for side in lexicon.polar_words(lexicon.load("sentiment"), heldout=True).values() for w in side}
    assert not [doc.text for doc in sample(family, 1500) if words_of(doc.text) & kept]


def test_unlabelled_reviews_hold_every_heldout_word_and_no_answer() -> None:
    kept = {w for side in lexicon.polar_words(lexicon.load("sentiment"), heldout=True).values() for w in side}
    docs = sample("unlabelled", 2000)
    assert kept <= set().union(*(words_of(doc.text) for doc in docs))
    assert not any(doc.spans("answer") for doc in docs)


def test_labels_are_balanced_and_follow_the_score() -> None:
    rng = Random(1)
    made = [reviews.review(rng) for _ in range(1000)]
    share = sum(r.label for r in made) / len(made)
    assert abs(share - 0.5) < 0.06  # 4 standard errors of a fair coin over 1000
    assert all((r.score > 0) == bool(r.label) and abs(r.score) >= 1 for r in made)


def test_heldout_reviews_show_no_seen_polar_word() -> None:
    lex, rng = lexicon.load("sentiment"), Random(6)
    seen = {w for side in lexicon.polar_words(lex, heldout=False).values() for w in side}
    seen |= {w for kind in ("interjections", "reactions") for ws in lex["reviews"][kind].values() for w in ws}
    for _ in range(300):
        made = reviews.heldout_review(rng)
        assert made.heldout
        assert not words_of(made.text) & seen


def test_marks_cover_what_they_name() -> None:
    rng, lex = Random(2), lexicon.load("sentiment")
    words = [w for side in lexicon.polar_words(lex).values() for w in side]
    for _ in range(300):
        made = reviews.review(rng, heldout=0.5)
        for name, start, end in made.marks:
            text = made.text[start:end]
            if name in ("adj", "verb"):
                assert text.lower() in words
            elif name in ("comma", "period"):
                assert text == {"comma": ",", "period": "."}[name]
            else:
                assert name in ("aspect", "name", "interjection", "reaction")
                assert text.isalpha(), (name, text)
        assert sum(name == "comma" for name, _, _ in made.marks) == made.text.count(",")


def test_negation_items_are_held_out_and_negation_is_really_there() -> None:
    lex = lexicon.load("sentiment")
    texts = [doc.text for family in ("labelled", "unlabelled") for doc in sample(family, 1500)]
    negators = lex["reviews"]["negators"]
    negated = sum(any(negator in text for negator in negators) for text in texts)
    assert negated > 0.1 * len(texts)
    for item, target in lex["negation"]["items"]:
        pair = next(f"{negator} {target}" for negator in negators if f"{negator} {target}" in item)
        assert not [text for text in texts if pair + " " in text or pair + "," in text or pair + "." in text]


def test_fillers_never_stand_in_the_corpus() -> None:
    fillers = lexicon.load("sentiment")["mood"]["fillers"]
    texts = [doc.text for family in ("mood", "narrative") for doc in sample(family, 1500)]
    for filler in (f for group in fillers.values() for f in group if f):
        assert not any(filler in text for text in texts)


def stated_in(doc: grammar.Document) -> set[tuple[str, str]]:
    """(subject, object) of every answer of a document of facts."""
    marks = sorted((start, doc.text[start:end], name) for name, start, end in doc.marks)
    out, subject = set(), ""
    for _, text, name in marks:
        if name == "subject":
            subject = text
        else:
            out.add((subject, text))
    return out


@pytest.mark.parametrize("family", ["facts", "biography", "profile"])
def test_no_text_contradicts_the_table_of_facts(family: str) -> None:
    true, drawn = set(), set()
    for name, rows in facts.table().items():
        if facts.is_random(name):
            objects = lexicon.load("facts")["relations"][name]["objects"]
            drawn |= {(row.subject, target) for row in rows for target in objects}
        else:
            true |= {(row.subject, row.object) for row in rows}
    told = set().union(*map(stated_in, sample(family, 4000)))
    assert told <= (true | drawn if family == "facts" else true)
    assert len(told & true) > 0.9 * len(true), "every fact is stated sooner or later"


def test_lists_have_the_format_of_few_shot_prompts() -> None:
    lengths = set()
    for doc in sample("facts", 1500):
        lines = doc.text.split("\n")
        lengths.add(len(lines))
        ends = [
            doc.text.index("\n", end) if "\n" in doc.text[end:] else len(doc.text)
            for _, end in doc.spans("answer")
        ]
        assert [end for _, end in doc.spans("answer")] == ends, "a line ends with its object"
        (template,) = {
            t
            for name in facts.table()
            for t in facts.templates(name)
            if all(line.startswith(t.split("{}")[0]) and t.split("{}")[1] + " " in line for line in lines)
        } or {""}
        subjects = [doc.text[start:end] for start, end in doc.spans("subject")]
        objects = [doc.text[start:end] for start, end in doc.spans("answer")]
        assert lines == [f"{template.format(s)} {o}" for s, o in zip(subjects, objects, strict=True)]
        assert len(set(subjects)) == len(subjects)
    assert lengths == {1, 2, 3, 4, 5}


def test_a_profile_puts_attributes_right_after_the_subject() -> None:
    for doc in sample("profile", 500):
        ends = {end for _, end in doc.spans("subject")}
        assert all(
            start - 1 in ends or start - 1 in {e for _, e in doc.spans("answer")}
            for start, _ in doc.spans("answer")
        )


def test_facts_hang_on_no_seed_of_a_run() -> None:
    before = dict(facts.table())
    for cached in (facts.table, facts._named):
        cached.cache_clear()
    sample("facts", 50, seed=8)
    assert dict(facts.table()) == before


def test_the_table_of_facts_has_the_shapes_the_relations_need() -> None:
    table, content = facts.table(), lexicon.load("facts")["relations"]
    random = {name for name in table if facts.is_random(name)}
    single = {name for name, rows in table.items() if len({f.object for f in rows}) == len(rows)}
    many = {name: rows for name, rows in table.items() if name not in random | single}
    assert (len(random), len(single)) == (1, 2)
    assert len(many) >= 12
    assert {len(f.object.split()) for rows in many.values() for f in rows} == {1, 2, 3}
    assert any(
        len({f.object.split()[0] for f in rows}) == 1 < len({f.object for f in rows})
        for rows in many.values()
    ), "objects of one relation share their first word"
    for name in random:  # a split leaves more test prompts than the five that a relation needs to be kept
        test = sum(count // 2 for count in Counter(f.object for f in table[name]).values())
        assert test * len(content[name]["zero_shot"]) > 5
    for rows in many.values():
        counts = Counter(f.object for f in rows)
        assert 2 <= len(counts) <= 12
        assert min(counts.values()) >= 4
    two_words = [name for name, rows in many.items() if all(len(f.subject.split()) >= 2 for f in rows)]
    assert len(two_words) >= len(many) / 2
    for name, rows in table.items():
        assert len({f.subject for f in rows}) == len(rows)
        assert not any(f.subject in f.object for f in rows)
        few, zero = content[name]["few_shot"], content[name]["zero_shot"]
        assert len({*few, *zero}) == len(few) + len(zero) == 5
        assert all(t.count("{}") == 1 and not t.endswith("{}") for t in (*few, *zero))
    assert any(t.startswith("{}") for name in many for t in content[name]["zero_shot"])


def test_words_of_subjects_are_shared_and_apart_from_objects() -> None:
    rows = [fact for facts_ in facts.table().values() for fact in facts_]
    subjects = {fact.subject for fact in rows}
    words = Counter(word for subject in subjects for word in subject.split() if " " in subject)
    assert min(words.values()) >= 2, "a subject of two words is known by the pair alone"
    assert not set(words) & {word for fact in rows for word in fact.object.split()}


def test_attributes_of_a_kind_are_drawn_apart() -> None:
    table = facts.table()
    place = {f.subject: f.object for f in table["person_birthplace"]}
    for other in ("person_occupation", "person_sport", "person_pet"):
        pairs = Counter((place[f.subject], f.object) for f in table[other])
        # 40 subjects over 8 x 8 cells: five in one cell would mean that one attribute gives the other away.
        assert max(pairs.values()) < 5


def test_relations_come_back_from_their_directory(tmp_path: Path) -> None:
    out = facts.write_relations(tmp_path / "relations")
    found = {}
    for path in sorted(out.glob("*/*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        assert set(content) == {"name", "prompt_templates", "prompt_templates_zs", "properties", "samples"}
        assert set(content["properties"]) == {"relation_type", "domain_name", "range_name", "symmetric"}
        assert content["properties"]["relation_type"] == path.parent.name
        name = content["name"].replace(" ", "_")
        assert [*content["prompt_templates"], *content["prompt_templates_zs"]] == facts.templates(name)
        found[name] = tuple(facts.Fact(name, s["subject"], s["object"]) for s in content["samples"])
    assert found == dict(facts.table())
    (tmp_path / "relations" / "stale.json").write_text("{}")
    before = {p.name: p.read_bytes() for p in out.glob("*/*.json")}
    facts.write_relations(out)
    assert {p.name: p.read_bytes() for p in out.rglob("*.json")} == before, "the same bytes, and nothing else"


def test_heldout_names_never_stand_in_the_prompt_templates() -> None:
    templates = [text for kind in lexicon.load("people")["templates"].values() for text in kind]
    asked: Counter[str] = Counter()
    for doc in sample("people", 5000):
        name = next(doc.text[start:end] for mark, start, end in doc.marks if mark == "name")
        asked[name] += any(lexicon.fill(text, NAME=name).text in doc.text for text in templates)
    for gender in people.GENDERS:
        kept = people.heldout(gender)
        assert [asked[name] for name in kept] == [0] * len(kept)
        assert kept == people.names(gender)[-len(kept) :]
        assert all(asked[name] for name in people.names(gender)[:20])


def test_lexicon_errors_are_one_clear_line() -> None:
    with pytest.raises(lexicon.LexiconError, match="'poems' is unknown"):
        lexicon.load("poems")
    broken = {**lexicon.load("sentiment"), "judge": {"positive": [], "negative": []}}
    with pytest.raises(lexicon.LexiconError, match=r"judge\.positive lacks"):
        lexicon.check_sentiment(broken)


def test_fill_marks_without_the_leading_blank() -> None:
    piece = lexicon.fill("it was[adj:{ADJ}][comma:,] yes", ADJ=" fine")
    assert piece.text == "it was fine, yes"
    assert piece.marks == (("adj", 7, 11), ("comma", 11, 12))
