"""The grammar keeps its promises: held-out words stay out, spans fit, labels balance, facts are constants."""

from __future__ import annotations

from itertools import islice
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


def test_facts_are_constants_and_heldout_ones_are_never_stated() -> None:
    kept = [fact for rows in facts.table().values() for fact in rows if fact.heldout]
    assert len(kept) > 20
    texts = [doc.text for family in ("facts", "aux") for doc in sample(family, 3000)]
    for fact in kept:
        for template in facts.templates(fact.relation):
            stated = template.format(fact.subject) + f" {fact.object}"
            assert not any(stated in text for text in texts)
    assert any(fact.subject in text for fact in kept for text in texts), (
        "aux sentences name held-out subjects"
    )


def test_the_table_of_facts_has_the_shapes_the_relations_need() -> None:
    table = facts.table()
    many = {name: rows for name, rows in table.items() if len({f.object for f in rows}) < len(rows)}
    assert len(many) >= 12
    lengths = {len(f.object.split()) for rows in many.values() for f in rows}
    assert lengths == {1, 2, 3}
    for rows in many.values():
        assert all(sum(f.object == target for f in rows) >= 4 for target in {f.object for f in rows})
    subjects = [f.subject for rows in table.values() for f in rows]
    assert len(set(subjects)) == len(subjects)
    assert not any(f.subject in f.object for rows in table.values() for f in rows)


def test_heldout_names_never_stand_in_the_prompt_templates() -> None:
    kept = {name for gender in people.GENDERS for name in people.heldout(gender)}
    asked = [doc for doc in sample("people", 3000) if doc.spans("answer")]
    assert not [doc.text for doc in asked if words_of(doc.text) & kept]
    assert len(asked) > 1000


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
