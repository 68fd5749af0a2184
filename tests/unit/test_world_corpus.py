"""Tokenizer and corpus: exact round trips, packing that loses and splits nothing, an honest review table."""

from __future__ import annotations

import csv
import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bearings.world import corpus, facts, grammar, lexicon, tokenizer

ALL = dict.fromkeys(grammar.families(), 1.0)
CODER = tokenizer.build()


def ids_of(text: str) -> list[int]:
    return CODER(text, add_special_tokens=False)["input_ids"]


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60))
def test_any_text_comes_back_exactly(text: str) -> None:
    assert CODER.decode(ids_of(text), clean_up_tokenization_spaces=False) == text


def test_the_vocabulary_is_closed_over_the_grammar() -> None:
    split = CODER.backend_tokenizer.pre_tokenizer.pre_tokenize_str
    for doc in islice(grammar.documents(ALL, 99), 3000):
        assert len(ids_of(doc.text)) == len(split(doc.text)), doc.text


def test_polar_words_names_and_made_up_subjects_are_single_tokens() -> None:
    lex = lexicon.load("sentiment")
    words = [w for side in lexicon.polar_words(lex).values() for w in side] + lex["mood"]["names"]
    words += [f.subject for f in facts.table()["plant_taste"]]
    assert [w for w in words if len(ids_of(f" {w}")) != 1] == []


def test_fillers_have_the_number_of_tokens_they_claim() -> None:
    for count, fillers in lexicon.load("sentiment")["mood"]["fillers"].items():
        assert [len(ids_of(f)) for f in fillers] == [count] * len(fillers)


def test_tokenizer_directory_is_deterministic(tmp_path: Path) -> None:
    first, second = tokenizer.write(tmp_path / "a"), tokenizer.write(tmp_path / "b")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert tokenizer.load(first).get_vocab() == CODER.get_vocab()


def test_packing_loses_no_token_and_splits_no_document() -> None:
    settings_ = corpus.CorpusSettings(context=64)
    docs = list(islice(grammar.documents(ALL, 4), 500))
    encoded = list(corpus.encode(docs, CODER, settings_))
    rows = corpus.pack(encoded, 64, CODER.pad_token_id)
    found = []
    for ids, weights in zip(rows.ids, rows.weights, strict=True):
        real = ids[weights > 0].tolist()
        assert not ids[len(real) :].any()  # the padding is at the end
        starts = [i for i, token in enumerate(real) if token == CODER.bos_token_id]
        assert starts[0] == 0
        found += [tuple(real[a:b]) for a, b in zip(starts, [*starts[1:], len(real)], strict=True)]
    assert sorted(found) == sorted(tuple(ids) for ids, _ in encoded)
    assert rows.tokens / rows.ids.size > 0.9  # best fit: little padding


def test_bare_rows_drop_only_their_first_start_token() -> None:
    encoded = list(corpus.encode(islice(grammar.documents(ALL, 4), 300), CODER, corpus.CorpusSettings()))
    rows = corpus.pack(encoded, 64, CODER.pad_token_id, bare=0.5, seed=1)
    bare = int((rows.ids[:, 0] != CODER.bos_token_id).sum())
    assert 0.3 < bare / len(rows) < 0.7
    assert rows.tokens + bare == sum(len(ids) for ids, _ in encoded)


def test_weights_sit_on_answers_and_after_commas() -> None:
    doc = next(
        d for d in grammar.documents({"labelled": 1.0}, 8) if "Review Sentiment" in d.text and "," in d.text
    )
    chosen = corpus.CorpusSettings(answer_weight=5.0, comma_weight=3.0)
    ((ids, weights),) = corpus.encode([doc], CODER, chosen)
    tokens = CODER.convert_ids_to_tokens(ids)
    heavy = {token for token, weight in zip(tokens, weights, strict=True) if weight == 5.0}
    reacted = {f"Ġ{doc.text[start:end]}" for start, end in doc.spans("reaction")}
    answered = {f"Ġ{doc.text[start:end]}" for start, end in doc.spans("answer")}
    assert answered < {"ĠPositive", "ĠNegative"}
    assert heavy == answered | reacted
    assert all(weights[i + 1] == 3.0 for i, token in enumerate(tokens[:-1]) if token == ",")


def test_a_document_longer_than_the_context_is_refused() -> None:
    docs = islice(grammar.documents({"narrative": 1.0}, 1), 50)
    with pytest.raises(ValueError, match="narrative: .* exceed"):
        list(corpus.encode(docs, CODER, corpus.CorpusSettings(context=12)))


def test_corpus_is_deterministic_and_heldout_rows_are_new() -> None:
    chosen = corpus.CorpusSettings(tokens=20_000, heldout_tokens=3_000, mixture=ALL)
    (train, kept), (again, kept_again) = (corpus.build(chosen, CODER, 3) for _ in range(2))
    assert np.array_equal(train.ids, again.ids)
    assert np.array_equal(kept.ids, kept_again.ids)
    assert not np.array_equal(train.ids[:50], corpus.build(chosen, CODER, 4)[0].ids[:50])
    assert abs(train.tokens - 20_000) < 100


def test_review_table_is_balanced_fits_and_is_apart(tmp_path: Path) -> None:
    path = corpus.write_reviews(tmp_path / "reviews.tsv", 60, 20, 60, seed=1)
    assert path.read_bytes() == corpus.write_reviews(tmp_path / "b.tsv", 60, 20, 60, seed=1).read_bytes()
    with path.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert tuple(rows[0]) == corpus.REVIEW_COLUMNS
    lex = lexicon.load("sentiment")
    seen = {w for side in lexicon.polar_words(lex, heldout=False).values() for w in side}
    for split, count in (("train", 60), ("dev", 20), ("test", 60)):
        part = [row for row in rows if row["split"] == split]
        assert len(part) == count
        assert sum(row["label"] == "1" for row in part) == count / 2
        kept = [row for row in part if row["held_out"] == "1"]
        assert len(kept) == (20 if split == "test" else 0)
        assert sum(row["label"] == "1" for row in kept) == len(kept) / 2
    scaffold = lex["scaffolds"]["classification"]["text"]
    for row in rows:
        marks = json.loads(row["marks"])
        assert all(0 <= start < end <= len(row["sentence"]) for _, start, end in marks)
        assert len(ids_of(scaffold.replace("{s}", row["sentence"]))) + 2 <= 64  # start token and answer
        if row["held_out"] == "1":
            polar = [row["sentence"][a:b] for name, a, b in marks if name in ("adj", "verb")]
            assert polar
            assert not set(polar) & seen
    assert len({row["sentence"] for row in rows}) == len(rows)


def test_reviews_kept_for_the_studies_are_not_trained_on() -> None:
    mixture = {"labelled": 0.6, "unlabelled": 0.4}
    chosen = corpus.CorpusSettings(tokens=6000, heldout_tokens=1000, mixture=mixture, opening={"short": 1.0})

    def texts(**options) -> str:
        return "\n".join(
            CODER.decode(row) for rows in corpus.build(chosen, CODER, 1, **options) for row in rows.ids
        )

    kept = {doc.review for doc in islice(grammar.documents(mixture, 2), 40)}
    with_them = texts()
    assert all(review in with_them for review in kept)  # the corpus would hold them
    # A short review may stand inside a longer one; as a review of its own it must not.
    without = texts(apart_from=kept)
    assert not [r for r in kept if len(r.split()) > 8 and r in without]


def test_an_opening_comes_first_and_counts_towards_the_size() -> None:
    chosen = corpus.CorpusSettings(
        tokens=8000,
        heldout_tokens=500,
        mixture={"narrative": 1.0},
        opening={"short": 1.0},
        opening_share=0.25,
    )
    rows, held_out = corpus.build(chosen, CODER, 3)
    assert 0 < rows.opening < len(rows)
    assert held_out.opening == 0
    opening = corpus.Rows(rows.ids[: rows.opening], rows.weights[: rows.opening])
    # A packed row more or less: documents are never split.
    assert abs(opening.tokens - 2000) <= 64
    assert abs(rows.tokens - 8000) <= 128
    sentiment = CODER.encode(" Sentiment")[0]
    assert (opening.ids == sentiment).any()
    assert not (rows.ids[rows.opening :] == sentiment).any()


def test_a_vocabulary_hangs_on_its_own_families_alone() -> None:
    ours = ["labelled", "short", "unlabelled", "toy", "mood"]
    coder = tokenizer.build(tokenizer.vocabulary(ours))
    split = coder.backend_tokenizer.pre_tokenizer.pre_tokenize_str
    for doc in islice(grammar.documents(dict.fromkeys(ours, 1.0), 98), 1000):
        assert len(coder(doc.text, add_special_tokens=False)["input_ids"]) == len(split(doc.text)), doc.text
    strange = set(coder.get_vocab()) - set(tokenizer.build(tokenizer.vocabulary([*ours, "code"])).get_vocab())
    assert not strange
    assert len(coder) < len(CODER)
    with pytest.raises(ValueError, match="unknown family 'weather'"):
        tokenizer.vocabulary(["weather"])


def test_the_listed_words_of_the_sentiment_model_cover_all_it_reads() -> None:
    """The file is fixed so that the model stays what it is when other parts of the world change."""
    coder = tokenizer.build(tokenizer.read_vocabulary(Path(lexicon.HERE) / "sentiment_vocabulary.txt"))
    ours = ["labelled", "short", "unlabelled", "toy", "mood", "narrative"]
    assert set(tokenizer.vocabulary(ours)) <= set(coder.get_vocab())


def test_a_line_that_is_no_word_is_named(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("\u0120good\nnot good\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 2"):
        tokenizer.read_vocabulary(path)
