"""What an experiment's tables may hang on and what not: batches, seeds, missing SAEs, models with few layers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sensitivity_models import CASES, CURVE, LAYERS, SAES, SETTINGS, inputs, lists, of

from bearings.lm.saes import SaeError
from bearings.studies.sensitivity import common
from bearings.studies.sensitivity.draws import DRAWN
from bearings.studies.sensitivity.intervene import NAMES, NEEDS_MODEL, intervene

# Products of other numbers of rows are summed in another order: some tens of roundings of numbers near 1.
ROUNDING = 1e-5


def run(
    case: tuple[str, str], name: str, seed: int = 0, saes: dict | None = None, **settings: Any
) -> pd.DataFrame:
    mine = inputs(*case)
    given = {**SETTINGS, **settings}
    mine = replace(mine, settings=given, seed=seed, saes=mine.saes if saes is None else saes)
    found = intervene(name, mine).to_pandas()
    keys = [c for c in found if not len(found) or not isinstance(found[c].iloc[0], np.ndarray)]
    return found.sort_values(keys, kind="stable").reset_index(drop=True)


def numbers(found: pd.DataFrame) -> list[str]:
    return [c for c in found if isinstance(found[c].iloc[0], np.ndarray)]


def assert_close(one: pd.DataFrame, other: pd.DataFrame) -> None:
    plain = [c for c in one if c not in numbers(one)]
    pd.testing.assert_frame_equal(one[plain], other[plain], rtol=ROUNDING)
    for column in numbers(one):
        np.testing.assert_allclose(lists(one, column), lists(other, column), rtol=1e-4, atol=ROUNDING)


@pytest.mark.parametrize("name", NAMES)
def test_tables_do_not_hang_on_the_batches(name) -> None:
    """The same draws, features and rows whatever the batch; numbers but for the order of sums."""
    one = run(CASES[0], name, batch_rows=1)
    for other in ({"batch_rows": 3, "max_tokens": 1}, {"batch_rows": 100, "max_tokens": 10**6}):
        assert_close(one, run(CASES[0], name, **other))


@pytest.mark.parametrize("name", NAMES)
def test_the_same_run_again_is_the_same_bit_for_bit(name) -> None:
    """A10."""
    one, other = (intervene(name, inputs(*CASES[0])) for _ in range(2))
    assert one.equals(other)


@pytest.mark.parametrize(
    ("name", "column", "fixed"),
    [
        ("baselines", "direction", {"zero", "ones"}),
        ("errors", "direction", {"error"}),
        ("features", "direction", set()),
        ("substitute", "variant", {"sae", "norm_corrected", "norm_only", "mean", "zero", "identity"}),
        ("single", "variant", {"sae"}),
        ("clean", None, {None}),
        ("quality", None, {None}),
    ],
)
def test_another_seed_is_another_draw_and_nothing_else(name, column, fixed) -> None:
    one, other = (run(CASES[0], name, seed=seed) for seed in (0, 1))
    assert len(one) == len(other)
    for kind in {None} if column is None else set(one[column]):
        parts = [x if column is None else x[x[column] == kind] for x in (one, other)]
        parts = [x[x["length"] > 0] if "length" in x else x for x in parts]
        a, b = (lists(x, numbers(x)[0]) for x in parts)
        assert np.array_equal(a, b) == (kind in fixed), kind


def test_twice_the_length_moves_the_end_twice_as_far_while_it_is_short() -> None:
    """A13, in the distance, which has digits where KL has none left."""
    base = run(CASES[0], "baselines", grid=[1e-4, 2e-4], named=[["k11", 1e-4], ["k51", 2e-4]])
    for kind in DRAWN:
        short, long = (of(base, direction=kind, fraction=f, layer="main") for f in (1e-4, 2e-4))
        a, b = lists(short, "l2"), lists(long, "l2")
        assert np.median(b / np.maximum(a, 1e-12)) == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_kinds_without_saes_are_passed_over(name) -> None:
    whole = inputs(*CASES[0]).saes
    kind = "local" if name == "single" else "e2e"  # which looks at local ones alone
    full, some = run(CASES[0], name), run(CASES[0], name, saes={kind: whole[kind]})
    if "sae" not in full:
        pd.testing.assert_frame_equal(full, some)
        return
    mine = {f"{kind}-0", f"{kind}-1", ""}
    assert set(some["sae"]) == mine & set(full["sae"])
    shuffled = full["direction"].isin(["shuffled"]) if "direction" in full else pd.Series(False, full.index)
    same = full[full["sae"].isin(mine) & ~shuffled].reset_index(drop=True)
    other = some[~some["direction"].isin(["shuffled"])] if "direction" in some else some
    assert_close(same, other.reset_index(drop=True))
    none = run(CASES[0], name, saes={})
    assert set(none["sae"]) == {""} & set(full["sae"])
    assert list(none) == list(full)


def test_saes_of_another_model_are_refused() -> None:
    """A11: also those of the same weights, processed another way."""
    one, other = inputs(*CASES[0]), inputs(*CASES[1])
    with pytest.raises(SaeError, match="belongs to a language model with digest"):
        intervene("errors", replace(one, saes=other.saes))


def test_quality_needs_no_language_model() -> None:
    mine = inputs(*CASES[0])
    assert "quality" not in NEEDS_MODEL
    assert intervene("quality", replace(mine, model=None)).equals(intervene("quality", mine))


def test_saes_come_by_layer_and_kind_sparsest_first() -> None:
    mine = inputs(*CASES[0])
    for layer, names in SAES.items():
        found = common.saes(mine, layer)
        assert [s.name for s in found] == names
        assert {s.layer for s in found} == {LAYERS[layer]}
    assert [s.name for s in common.saes(mine, kinds=["e2e"])] == ["e2e-0", "e2e-1"]


@pytest.mark.parametrize("name", NAMES)
def test_a_model_in_which_two_layers_are_one(name) -> None:
    """The main layer keeps what it has, and no SAE is counted twice."""
    full, found = run(CASES[0], name), run(CASES[0], name, early_layer=LAYERS["main"])
    if name == "clean":
        for column in ("norm_main", "norm_early"):
            assert np.array_equal(lists(found, column), lists(full, "norm_main"))
        assert np.array_equal(lists(found, "norm_late"), lists(full, "norm_late"))
        return
    kept = full[full["layer"] != "early"] if "layer" in full else full
    pd.testing.assert_frame_equal(found, kept.reset_index(drop=True))


def test_only_usable_rows_of_the_split_curve_are_perturbed() -> None:
    mine = inputs(*CASES[0])
    rows = [replace(p, usable=p.id != 1) for p in mine.prompts["rows"]]
    without = replace(mine, prompts={"rows": rows})
    assert set(intervene("errors", without)["sequence"].to_pylist()) == set(range(CURVE)) - {1}
    assert set(intervene("single", without)["sequence"].to_pylist()) == {0, 2, 3, 4, 5, 6}
    none = replace(mine, prompts={"rows": [p for p in rows if p.split == "pool"]})
    with pytest.raises(ValueError, match="no usable row of the split 'curve'"):
        intervene("clean", none)


@pytest.mark.parametrize("name", ["single", "features"])
def test_a_length_that_has_no_name_is_refused(name) -> None:
    with pytest.raises(ValueError, match="key 'named' has no 'k51'; it has k11"):
        run(CASES[0], name, named=[["k11", 0.14]])
