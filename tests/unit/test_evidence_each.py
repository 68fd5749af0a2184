"""One entry of a claims file that stands for many."""

from __future__ import annotations

import pytest

from bearings.evidence.each import expand
from bearings.plan import claims_of, claims_shown, known_studies, manifest

ENTRY = {
    "id": "k.{sae}",
    "published": {"value": "{value}", "note": "about {value}"},
    "bands": [["{low}", 2]],
    "each": [{"sae": "a", "value": 0.5, "low": 1}, {"sae": "b", "value": 2, "low": 0}],
}


def test_every_item_gives_an_entry_and_numbers_stay_numbers() -> None:
    first, second = expand([ENTRY])
    assert first == {"id": "k.a", "published": {"value": 0.5, "note": "about 0.5"}, "bands": [[1, 2]]}
    assert second["id"] == "k.b"
    assert second["published"]["value"] == 2


def test_entries_without_a_list_are_as_they_are_and_order_is_kept() -> None:
    plain = {"id": "x", "statement": "'){' less '):' in {braces}"}
    assert [c["id"] for c in expand([plain, ENTRY, plain])] == ["x", "k.a", "k.b", "x"]
    assert expand([plain]) == [plain]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"each": []}, "must be a list of mappings"),
        ({"each": ["a"]}, "must be a list of mappings"),
        ({"each": [{"sae": "a", "low": 1}]}, "names {value}; its 'each' has sae, low"),
    ],
)
def test_what_cannot_be_written_out_is_said_in_one_line(change: dict, said: str) -> None:
    with pytest.raises(ValueError, match="claim 'k.{sae}'") as caught:
        expand([ENTRY | change])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_schema_refuses_what_is_no_list() -> None:
    assert expand("claims") == "claims"
    assert expand([1]) == [1]


@pytest.mark.parametrize("study", known_studies())
def test_a_figure_names_every_claim_it_answers(study: str) -> None:
    """One by one, or where an entry stands for many, how many."""
    for figure in manifest(study)["figures"]:
        shown = claims_shown(study, figure)
        several = [int(s.split("(")[1].split()[0]) for s in shown if s.endswith(" of them)")]
        every = [c for c in claims_of(study) if c.get("figure") == figure]
        assert len(shown) - len(several) + sum(several) == len(every)
        assert len(set(shown)) == len(shown)
