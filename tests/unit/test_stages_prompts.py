"""Prompts: marks become positions by characters on any tokenizer, and what cannot be used says why."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentiment_models import gpt2_encoder
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from bearings.stages.prompts import (
    COLUMNS,
    Encoder,
    Prompt,
    from_table,
    locate,
    make_prompt,
    strip_marks,
    to_table,
)

TEMPLATE = "The[adj: great] movie[comma:,] which[phrase*: I really loved][period:.]"


@pytest.fixture(scope="session")
def gpt2(shared):
    return gpt2_encoder(shared)


@pytest.fixture(scope="session")
def stories(shared):
    folder = shared / "models/tinystories-656k"
    if not folder.is_dir():
        pytest.skip("../shared/models/tinystories-656k is absent")
    return Encoder(folder)


@pytest.fixture(scope="session")
def letters(tmp_path_factory):
    """Bytes, with the few words given: everything else splits."""
    folder = tmp_path_factory.mktemp("letters")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [(a, -10.0) for a in alphabet] + [(f"Ġ{w}", -1.0) for w in ("movie", "great", "is", "a")]
    core = Tokenizer(models.Unigram(pieces, unk_id=None))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 40}))
    return Encoder(folder)


def made(encoder, template, **options) -> Prompt:
    text, spans = strip_marks(template)
    return make_prompt(encoder, 0, "test", text, spans, **options)


def spelled(encoder, prompt, name) -> list[str]:
    return [encoder.text_of(prompt.ids[i]) for i in prompt.positions[name]]


def test_strip_marks():
    text, spans = strip_marks(TEMPLATE)
    assert text == "The great movie, which I really loved."
    assert [(name, text[a:b]) for name, a, b in spans] == [
        ("adj", " great"),
        ("comma", ","),
        ("phrase*", " I really loved"),
        ("period", "."),
    ]


@given(st.lists(st.tuples(st.text("ab ,é\n", max_size=5), st.text("xy ü", max_size=5)), max_size=5))
def test_strip_marks_keeps_every_character(parts):
    text, spans = strip_marks("".join(f"{plain}[m:{marked}]" for plain, marked in parts))
    assert text == "".join(plain + marked for plain, marked in parts)
    assert [text[a:b] for _, a, b in spans] == [marked for _, marked in parts]


def test_last_token_or_all_of_them(gpt2):
    p = made(gpt2, TEMPLATE)
    assert p.usable
    assert p.why == ""
    assert spelled(gpt2, p, "adj") == [" great"]
    assert spelled(gpt2, p, "phrase") == [" I", " really", " loved"]
    assert spelled(gpt2, p, "comma") == [","]
    # Nothing marks the end here: it is the last token.
    assert spelled(gpt2, p, "end") == ["."]


def test_bos_shifts_every_position_by_one(gpt2):
    with_bos, without = (made(gpt2, TEMPLATE, bos=bos) for bos in (True, False))
    assert with_bos.ids == (gpt2.bos, *without.ids)
    assert {k: tuple(i - 1 for i in v) for k, v in with_bos.positions.items()} == without.positions


def test_offsets_of_bos_overlap_nothing(gpt2):
    ids, offsets = gpt2.encode("A movie")
    assert offsets[0] == (0, 0)
    assert ids[0] == gpt2.bos
    assert locate(offsets, "A movie", [("first", 0, 1)]) == {"first": [1]}


def test_a_word_that_splits_is_found_by_its_last_token(gpt2):
    p = made(gpt2, "It was[adj: discombobulating][end: indeed]")
    assert p.usable
    whole = made(gpt2, "It was[adj*: discombobulating][end: indeed]")
    assert len(whole.positions["adj"]) > 1
    assert "".join(spelled(gpt2, whole, "adj")) == " discombobulating"
    assert p.positions["adj"] == whole.positions["adj"][-1:]


@pytest.mark.parametrize(
    ("template", "named"),
    [("The mo[adj:v]ies were fine", "adj"), ("The[adj: movi]es", "adj"), ("The m[x:ovies]", "x")],
)
def test_a_mark_inside_a_token_is_not_usable(gpt2, template, named):
    p = made(gpt2, template)
    assert not p.usable
    assert "token boundary" in p.why
    assert f"({named})" in p.why
    assert p.positions == {"end": (len(p.ids) - 1,)}


def test_the_blank_in_front_belongs_to_the_token(gpt2):
    inside, outside = made(gpt2, "A[adj: great] movie"), made(gpt2, "A [adj:great] movie")
    assert inside.usable
    assert outside.usable
    assert inside.positions == outside.positions


def test_text_beyond_ascii(letters):
    # Each of these letters is several bytes, and here each byte is a token that covers the whole letter.
    p = made(letters, "[name:Amélie]的[adj*: café][end:!]")
    assert p.usable, p.why
    text = "Amélie的 café!"
    _, offsets = letters.encode(text)
    assert [text[slice(*offsets[i])] for i in p.positions["adj"]] == [" ", "c", "a", "f", "é", "é"]
    assert offsets[p.at("name")] == (5, 6)


def test_the_context_is_a_limit(letters):
    assert letters.n_ctx == 40
    assert made(letters, "x" * 40).usable
    p = made(letters, "x" * 41)
    assert p.why == "41 tokens do not fit a context of 40"
    assert not p.usable


def test_slot_words_and_answers_must_be_single_tokens(gpt2):
    p = made(gpt2, "It was[adj: great]", single=(" great", " discombobulating"))
    assert (p.usable, p.why) == (False, "'discombobulating' is not one token")
    p = made(gpt2, "It was[adj: great]", answers=([" good"], [" discombobulating"]))
    assert (p.usable, p.why) == (False, "'discombobulating' is not one token")
    assert len(p.positive) == 1
    assert len(p.negative) == 0


def test_a_word_is_looked_up_as_it_stands_in_text(gpt2):
    for word, token in ((" Positive", 33733), (" Negative", 36183), (" good", 922), (" bad", 2089)):
        assert gpt2.word(word) == token
    assert gpt2.word(",") == 11
    assert gpt2.word(" discombobulating") is None
    # "b" merges with the "a" before it, so it is no token of its own there.
    assert gpt2.word("b") is None


def test_tokens_longer_than_a_word(stories):
    """This tokenizer puts a blank before every text and has "One day" and "was happy" as single tokens."""
    p = made(stories, "[start:One day]")
    assert p.usable, p.why
    assert p.ids[0] == stories.bos == 1
    assert [x.strip() for x in spelled(stories, p, "start")] == ["One day"]
    p = made(stories, "One[noun: day]")
    assert p.why == "'day' (noun) does not end at a token boundary"
    p = made(stories, "[state:was happy][comma:,]")
    assert p.usable, p.why
    assert [x.strip() for x in spelled(stories, p, "state")] == ["was happy"]
    assert spelled(stories, p, "comma") == [","]
    # Behind another word " day" is the token "day" and a blank that has merged with that word.
    assert stories.word(" day") is None


def test_a_blank_before_every_text(tmp_path):
    """Encoded alone " great" is a blank and the word; in running text it is one token."""
    pieces = [("<s>", 0.0), ("▁", -9.0), *((c, -12.0) for c in "abcdefghilmorstuvw"), ("▁a", -3.0)]
    pieces += [(f"▁{w}", -2.0) for w in ("great", "movie", "was")]
    core = Tokenizer(models.Unigram(pieces, unk_id=0))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Metaspace()
    core.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps({"bos_token_id": 0}))
    encoder = Encoder(tmp_path)
    assert len(encoder.encode(" great", bos=False)[0]) == 2
    assert encoder.word(" great") == len(pieces) - 3
    p = made(encoder, "movie was[adj: great]")
    assert p.usable, p.why
    assert p.ids[p.at("adj")] == encoder.word(" great")
    assert len(p.ids) == 4


@pytest.mark.parametrize("bos", [True, False])
def test_encoder_adds_no_token_but_bos(stories, bos):
    ids, offsets = stories.encode("One day", bos=bos)
    assert len(ids) == len(offsets)
    assert (ids[0] == stories.bos) is bos
    assert stories.bos not in ids[1:]


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("name", ["letters", "stories"])
def test_many_texts_are_encoded_as_one_by_one(name, bos, request, monkeypatch):
    monkeypatch.setattr("bearings.stages.prompts.CHUNK", 2)
    encoder = request.getfixturevalue(name)
    texts = ["One day", "", "a café, a movie", "One day", "x"]
    assert list(encoder.encode_many(texts, bos=bos)) == [encoder.encode(t, bos=bos) for t in texts]
    assert list(encoder.encode_many([], bos=bos)) == []


def test_table_round_trip(gpt2):
    import pyarrow as pa

    first = made(gpt2, TEMPLATE, label=1, answers=([" good"], [" bad"]), rank=3, word="great")
    second = made(gpt2, "The mo[adj:v]ies", label=None, rank=None, word=None)
    extra = {"rank": pa.int32(), "word": pa.string()}
    table = to_table([first, second], extra)
    assert table.column_names == [*COLUMNS, *extra]
    assert from_table(table) == [first, second]
    assert from_table(to_table([], extra)) == []


def test_sign_and_position_lookup(gpt2):
    p = made(gpt2, TEMPLATE, label=0)
    assert p.sign == -1
    assert made(gpt2, TEMPLATE, label=1).sign == 1
    with pytest.raises(KeyError):
        p.at("nowhere")
