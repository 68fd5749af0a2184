"""Running text: distinct documents from a stream that no corpus is built from, written whole."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from bearings.world import grammar, texts

MIXTURE = dict.fromkeys(grammar.families(), 1.0)


def read(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


def drawn(mixture: dict[str, float], stream: int, count: int) -> list[str]:
    return [doc.text for doc in islice(grammar.documents(mixture, stream), count)]


def test_as_many_texts_as_asked_for_and_no_two_the_same(tmp_path: Path) -> None:
    # Programs and parties alone repeat themselves: of so many draws, some are doubles.
    mixture, count = {"party": 0.9, "toy": 0.1}, 2000
    doubles = count - len(set(drawn(mixture, 1, count)))
    assert doubles > 100
    found = read(texts.write_texts(tmp_path / "text.jsonl", mixture, count, 3))
    assert len(found) == len(set(found)) == count


def test_the_seed_decides_the_file_and_a_longer_one_begins_alike(tmp_path: Path) -> None:
    first, again, longer, other = (
        texts.write_texts(tmp_path / f"{index}.jsonl", MIXTURE, count, seed)
        for index, (count, seed) in enumerate([(200, 3), (200, 3), (300, 3), (200, 4)])
    )
    assert first.read_bytes() == again.read_bytes()
    assert longer.read_bytes().startswith(first.read_bytes())
    assert first.read_bytes() != other.read_bytes()


def test_its_stream_is_none_of_those_of_a_corpus(tmp_path: Path) -> None:
    # Narratives hardly ever repeat: a shared stream would show as shared texts, a stream apart shares next to none.
    mixture, seed = {"narrative": 1.0}, 3
    found = set(read(texts.write_texts(tmp_path / "text.jsonl", mixture, 500, seed)))
    for stream in (2 * seed, 2 * seed + 1, -2 * seed - 1, seed):
        assert len(found & set(drawn(mixture, stream, 500))) < 5


def test_documents_come_in_the_shares_of_the_mixture(tmp_path: Path) -> None:
    # Programs end in a bracket or indent their lines; narratives stand on one line. 3 : 1 of 2000 is 1500 with a
    # standard deviation of 19; 5 of them are allowed.
    found = read(texts.write_texts(tmp_path / "text.jsonl", {"narrative": 0.75, "code": 0.25}, 2000, 3))
    kinds = Counter("code" if "\n" in text else "narrative" for text in found)
    assert abs(kinds["narrative"] - 1500) < 5 * 19


def test_no_documents_make_an_empty_file(tmp_path: Path) -> None:
    assert texts.write_texts(tmp_path / "deep" / "text.jsonl", MIXTURE, 0, 3).read_bytes() == b""


@pytest.mark.parametrize("count", [-1, 2.5, True, "10"])
def test_a_number_that_is_none_is_refused(tmp_path: Path, count: object) -> None:
    with pytest.raises(ValueError, match="documents: must be a whole number"):
        texts.write_texts(tmp_path / "text.jsonl", MIXTURE, count, 3)
    assert list(tmp_path.iterdir()) == []


def test_unknown_families_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown family 'poem'"):
        texts.write_texts(tmp_path / "text.jsonl", {"poem": 1.0}, 1, 3)


def test_families_that_run_out_are_named_and_leave_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = texts.write_texts(tmp_path / "text.jsonl", MIXTURE, 5, 3)
    before = target.read_bytes()
    monkeypatch.setattr(texts, "TRIES", 50)
    only = grammar.Document("always the same", "narrative")
    monkeypatch.setattr(grammar, "families", lambda: {"narrative": lambda _: only})
    with pytest.raises(ValueError, match="no more than 1 distinct text"):
        texts.write_texts(target, {"narrative": 1.0}, 2, 3)
    assert target.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["text.jsonl"]
