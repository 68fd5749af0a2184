"""Rows of running text: packed as the protocol says, cut at the context, and no document in two sets (section 3)."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from bearings.stages.prompts import Encoder, from_table
from bearings.studies.sensitivity.prompts import COLUMNS, packed, prompts

SETTINGS = {"context": 4, "rows": 3, "curve_rows": 1, "train_rows": 2, "max_document": 100}
BOS = "<s>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("sensitivity")


@pytest.fixture(scope="module")
def encoder(folder) -> Encoder:
    return letters(folder / "model")


def letters(folder: Path, **config) -> Encoder:
    """A tokenizer of bytes: every letter is a token; 0 is BOS."""
    folder.mkdir(exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.Unigram([(BOS, 0.0), *((x, -1.0) for x in alphabet)], unk_id=0))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"bos_token_id": 0, "n_positions": 16, **config}))
    return Encoder(folder)


def write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    return path


def rows(folder: Path, encoder: Encoder, texts: list[str], context: int = 4, longest: int = 100) -> list[str]:
    """The rows as letters, BOS as `|`."""
    path = write(folder / "rows.jsonl", texts)
    found = packed(encoder, path, {"context": context, "max_document": longest})
    return ["".join("|" if i == 0 else encoder.text_of(i) for i in row.ids) for row in found]


PACKED = {
    "a remainder opens the next row behind a new BOS": (["abcdefgh"], ["|abc", "|def"]),
    "a document that ends in a row is followed by the next": (["a", "bcd"], ["|a|b"]),
    "BOS may be the last token of a row": (["ab", "cdef"], ["|ab|", "|cde"]),
    "a document that ends with its row: two BOS in the next": (["abc", "de"], ["|abc", "||de"]),
    "also where the remainder ends with its row": (["abcdef", "gh"], ["|abc", "|def", "||gh"]),
    "an empty document is a BOS": (["", "", "ab"], ["|||a"]),
    "two BOS alone": (["abc", "", "d"], ["|abc", "|||d"]),
    "what fills no row is dropped": (["ab"], []),
}


@pytest.mark.parametrize("name", PACKED)
def test_documents_fill_rows(folder, encoder, name: str) -> None:
    texts, expected = PACKED[name]
    assert rows(folder, encoder, texts) == expected


def test_a_document_is_cut_at_its_longest_with_its_bos_counted(folder, encoder) -> None:
    assert rows(folder, encoder, ["abcdefgh", "ijklm"], longest=4) == ["|abc", "||ij"]
    assert rows(folder, encoder, ["abcdefgh", "ijklm"], longest=6) == ["|abc", "|de|", "|ijk"]


@given(
    st.lists(st.text("abcdefgh", max_size=14), max_size=12),
    st.integers(2, 7),
    st.integers(2, 12),
)
def test_every_row_begins_with_bos_and_no_letter_is_lost(folder, encoder, texts, context, longest) -> None:
    found = rows(folder, encoder, texts, context, longest)
    assert all(len(row) == context and row[0] == "|" for row in found)
    whole = "".join(t[: longest - 1] for t in texts)
    read = "".join(found).replace("|", "")
    assert whole.startswith(read)
    assert len(whole) - len(read) < context
    # Each document and each row brings one BOS, and nothing else does: a document that overflows adds the next row's.
    assert "".join(found).count("|") <= len(texts) + len(found)


@given(st.lists(st.text("abcdefgh", max_size=14), min_size=1, max_size=12), st.integers(0, 3))
def test_documents_of_a_row_are_those_it_holds(folder, encoder, texts, start) -> None:
    """Each document's letters are told apart by their case and number."""
    marked = [chr(ord("A") + i) * len(t) for i, t in enumerate(texts)]
    path = write(folder / "marked.jsonl", marked)
    for row in packed(encoder, path, {"context": 4, "max_document": 9}, start):
        inside = sorted({ord(encoder.text_of(i)) - ord("A") for i in row.ids if i})
        assert row.first >= start
        if inside:
            assert row.first <= inside[0]
            assert row.last >= inside[-1]
            # Documents between the two are empty ones, of which nothing but BOS is there.
            assert all(not marked[k] for k in range(row.first, inside[0]))
            assert all(k in inside or row.ids.count(0) > 1 for k in range(row.first, row.last + 1))


# Rows of four hold the first two documents; training begins with the third.
TEXTS = ["aaaaaa", "bbbb", "cc", "dddd", "eeeeeeee", "ffff", "gg"]


def table(folder, encoder, name="rows", texts=TEXTS, **settings) -> pa.Table:
    data = {"text": write(folder / "text.jsonl", texts)}
    return prompts(name, data, {**SETTINGS, **settings}, encoder)


def test_rows_are_prompts(folder, encoder) -> None:
    found = from_table(table(folder, encoder))
    assert [p.id for p in found] == [0, 1, 2]
    assert [p.split for p in found] == ["curve", "pool", "pool"]
    assert [p.text for p in found] == ["<s>aaa", "<s>aaa", "<s><s>bb"]
    assert [p.extra["document"] for p in found] == [0, 0, 1]
    assert table(folder, encoder).schema.field("document").type == COLUMNS["document"]
    for p in found:
        assert p.positions == {"tokens": (0, 1, 2, 3), "end": (3,)}
        assert "".join(encoder.text_of(i) for i in p.ids) == p.text
        assert (p.label, p.positive, p.negative, p.usable) == (None, (), (), True)


def test_text_covers_what_the_tokens_do(folder, encoder) -> None:
    """A letter of several bytes may lie in two rows, and is then in the text of both."""
    found = from_table(table(folder, encoder, texts=["aé", "éb", "abc"], curve_rows=2))
    assert [p.text for p in found] == ["<s>aé", "<s><s>é", "<s>b<s>a"]


def test_no_document_is_in_both_sets(folder, encoder) -> None:
    studied, trained = (from_table(table(folder, encoder, name)) for name in ("rows", "train"))
    letters = [set("".join(p.text.replace(BOS, "") for p in some)) for some in (studied, trained)]
    assert letters == [{"a", "b"}, {"c", "d"}]
    assert {p.split for p in trained} == {"train"}
    assert [p.id for p in trained] == [0, 1]
    assert min(p.extra["document"] for p in trained) > max(p.extra["document"] for p in studied)


def test_training_starts_with_the_first_document_of_which_no_row_holds_a_token(folder, encoder) -> None:
    # `abc` ends with its row: the next document is not in it. In `|ab|`, it is, with its BOS.
    for texts, first in ((["abc", "ddd", "eee"], 1), (["ab", "ddd", "eee", "fff"], 2)):
        found = from_table(table(folder, encoder, "train", texts, rows=1, train_rows=1))
        assert found[0].extra["document"] == first
        assert found[0].text == BOS + texts[first]


def test_rows_do_not_hang_on_the_training_set(folder, encoder) -> None:
    assert table(folder, encoder).equals(table(folder, encoder, train_rows=0))


def test_no_training_set_is_an_empty_table(folder, encoder) -> None:
    found = table(folder, encoder, "train", train_rows=0)
    assert found.num_rows == 0
    assert found.schema == table(folder, encoder).schema
    assert from_table(found) == []


REFUSED = {
    "too few rows": ({"rows": 99}, "fills 12 rows of 4 tokens", "'rows' asks for 99"),
    "too few to train on": (
        {"train_rows": 50},
        "behind the 2 documents of 'rows' its text fills",
        "'train_rows' asks for 50",
    ),
    "context too long": ({"context": 17}, "'context' is 17", "allowed: 2 to 16"),
    "context too short": ({"context": 1}, "'context' is 1", "allowed: 2 to 16"),
    "documents of nothing": ({"max_document": 1}, "'max_document' is 1", "at least 2"),
    "more curves than rows": ({"curve_rows": 4}, "'curve_rows' is 4", "'rows', which is 3"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(folder, encoder, why: str) -> None:
    settings, *words = REFUSED[why]
    with pytest.raises(ValueError, match=words[0]) as caught:
        table(folder, encoder, "train", **settings)
    said = str(caught.value)
    assert "\n" not in said
    for word in words:
        assert word in said


def test_a_model_without_bos_is_refused(folder) -> None:
    with pytest.raises(ValueError, match="no start token"):
        table(folder, letters(folder / "without", bos_token_id=None))


def test_a_text_that_is_none_is_refused_by_name(folder, encoder) -> None:
    (folder / "broken.jsonl").write_text('{"text": 3}\n')
    with pytest.raises(ValueError, match=r"broken.jsonl: line 1 has no 'text'"):
        prompts("rows", {"text": folder / "broken.jsonl"}, SETTINGS, encoder)
    with pytest.raises(ValueError, match="no set 'other'; allowed: rows, train"):
        prompts("other", {"text": folder / "broken.jsonl"}, SETTINGS, encoder)
