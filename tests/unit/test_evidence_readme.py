"""The README's tables: every study between its own marks, each measure once, no number typed."""

from __future__ import annotations

import pytest

from bearings.evidence.readme import END, START, block, rewrite


def claim(
    study: str, name: str, *, measure: str = "m", kind: str = "learning", value=0.5, asked=None
) -> dict:
    entry = {
        "value": value,
        "low": 0.4,
        "high": 0.6,
        "unit": "share",
        "measure": measure,
        "expectation": asked,
    }
    entry |= {"verdict": "holds" if asked else "observed", "control": {"value": 0.01}, "seed": 0}
    entry |= {"seeds": {"0": {"value": value}, "1": {"value": 0.7}}}
    published = {"model": "gpt2-xl", "value": 0.81}
    return {
        "study": study, "id": name, "kind": kind, "statement": f"{name} is so.", "published": published,
        "scales": {"embedded": entry},
    }  # fmt: skip


def page(*studies: str) -> str:
    return "Top\n" + "".join(f"{START.format(s)}\nold {s}\n{END.format(s)}\nbetween\n" for s in studies)


def test_every_study_stands_between_its_own_marks_and_nothing_else_changes():
    body = {"claims": [claim("one", "first"), claim("two", "second")]}
    text = rewrite(page("one", "two"), body)
    first, second = text.split("between", 1)
    assert "first is so." in first
    assert "second is so." not in first
    assert "second is so." in second
    assert "old" not in text
    assert text.startswith("Top\n")
    assert rewrite(text, body) == text


def test_a_row_holds_the_paper_the_interval_the_bound_the_other_seed_and_the_control():
    row = block({"claims": [claim("one", "first", asked={"at_least": 0.2})]}, "one").splitlines()[2]
    for part in (
        "0.81 (gpt2-xl)",
        "0.5 [0.4, 0.6] share",
        "asked: ≥ 0.2",
        "| 0.7 |",
        "| 0.01 |",
        "**holds**",
    ):
        assert part in row


def test_values_of_several_models_stand_in_the_order_of_the_models():
    one = claim("one", "first")
    one["published"] = {"model": ["gpt2-xl", "gpt-j-6b"], "value": [0.81, 0.84]}
    assert "| 0.81 / 0.84 (gpt2-xl / gpt-j-6b) |" in block({"claims": [one]}, "one")


def test_counts_repeats_and_what_was_not_measured_are_left_to_the_long_table():
    claims = [
        claim("one", "kept"),
        claim("one", "repeat"),
        claim("one", "count", measure="n", kind="count"),
        claim("one", "missing", measure="x", value=None),
    ]
    text = block({"claims": claims}, "one")
    assert "kept is so." in text
    assert [name for name in ("repeat", "count", "missing") if f"{name} is so." in text] == []


def test_a_study_without_marks_is_named():
    with pytest.raises(ValueError, match="claims of two"):
        rewrite(page("one"), {"claims": [claim("one", "first"), claim("two", "second")]})
