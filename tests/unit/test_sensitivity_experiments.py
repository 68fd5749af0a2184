"""The study's experiments on tiny random models of several architectures: tables, identities, and what each must be.

What an experiment measures is computed once more by a plain full pass of the model with a hook at the layer, and SAEs
by a formula of the tests' own.
"""

from __future__ import annotations

from dataclasses import replace

import lm_models
import numpy as np
import pandas as pd
import pytest
import torch
from sensitivity_models import (
    CASES,
    CONTEXT,
    CURVE,
    LADDERS,
    LAYERS,
    NAMED,
    SAES,
    SETTINGS,
    WIDTH,
    inputs,
    lists,
    of,
    plain_sae,
    residuals,
    table,
)

from bearings.lm import edits
from bearings.lm.forward import forward
from bearings.lm.perturb import along
from bearings.studies.sensitivity import baselines, features, intervene, substitute
from bearings.studies.sensitivity.draws import DRAWN, FIXED, draw, pool

# Sums over vocabulary, width and features in another order: some tens of fp32 roundings (6e-8) of numbers near 1.
ROUNDING = 1e-5
LAYER_NORM = CASES[:3]
GRID, TOLD = len(SETTINGS["grid"]), len(NAMED)
every = pytest.mark.parametrize("case", CASES, ids="-".join)


def full_pass(case, changed: torch.Tensor, layer: str = "main") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """KL, cross-entropy and distance [rows, pos - 1] of a pass from the tokens whose residual a hook replaces."""
    mine = inputs(*case)
    ids = lm_models.pad([list(p.ids) for p in mine.prompts["rows"][: len(changed)]], 0)
    hook = edits.ResidualEdit(LAYERS[layer], edits.replace(changed))
    n = mine.model.n_layers
    plain, edited = (forward(mine.model, ids, edits=e, keep=[n], rows="all") for e in ((), (hook,)))
    p, q = (run.logits[:, :-1].double().log_softmax(-1) for run in (plain, edited))
    kl = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)
    ce = -q.gather(-1, ids.ids[:, 1:, None])[..., 0]
    far = (edited.resid[n] - plain.resid[n])[:, :-1].norm(dim=-1)
    return kl.numpy(), ce.numpy(), far.numpy()


def agree(frame: pd.DataFrame, expected: tuple[np.ndarray, ...]) -> None:
    for column, values in zip(("kl", "ce", "l2"), expected, strict=True):
        np.testing.assert_allclose(lists(frame, column), values, rtol=1e-4, atol=3 * ROUNDING, err_msg=column)


# --- tables ---------------------------------------------------------------------------------------------------------


@every
def test_every_table_has_the_conditions_and_numbers_it_should(case) -> None:
    aside = sum(len(SAES[name]) for name in ("early", "late"))
    main, classes = len(SAES["main"]), 2 * TOLD + len(features.SHUFFLED_LABELS) + len(features.REPLACED)
    rows = {
        "clean": CURVE,
        "baselines": CURVE * (len((*DRAWN, *FIXED)) * (GRID + 1) + 2 * len(baselines.ASIDE) * TOLD),
        "errors": CURVE * main * GRID,
        "features": CURVE * main * (GRID + classes),
        "substitute": CURVE * (3 + main * 9 + aside * 4),
        "quality": CURVE * (main + aside),
        "single": SETTINGS["single_rows"] * (2 + dict(LADDERS["local"])["main"] * 4),
    }
    for name, count in rows.items():
        found = table(case, name)
        assert len(found) == count, name
        numbers = [c for c in found if isinstance(found[c].iloc[0], np.ndarray)]
        assert numbers
        for column in numbers:
            assert lists(found, column).shape == (count, CONTEXT if name == "quality" else CONTEXT - 1)
            assert lists(found, column).dtype == np.float32
            assert np.isfinite(lists(found, column)).all(), (name, column)
        keys = [c for c in found if c not in numbers]
        assert not found[keys].duplicated().any(), name
        assert lists(found, numbers[0]).std() > 0


def test_the_columns_are_those_that_the_measures_read() -> None:
    from bearings.studies.sensitivity.measure_tables import SCHEMAS, check

    tables = {name: intervene.intervene(name, inputs(*CASES[0])) for name in intervene.NAMES}
    assert set(tables) == set(SCHEMAS)
    check({name: found.to_pandas() for name, found in tables.items()})
    for name in ("baselines", "errors", "features"):
        assert tables[name].schema.equals(tables["baselines"].schema)
        plain = tables[name].to_pandas()
        assert plain["cosine"].notna().all() == (name == "baselines")
        assert plain["n"].notna().all() == (name == "features")
    assert str(tables["baselines"].schema.field("kl").type) == "list<item: float>"
    fixed = tables["single"].to_pandas()
    assert set(fixed.loc[fixed["fraction"].notna(), "variant"]) == {"iso_fixed", "cov_fixed"}


@every
def test_lengths_are_shares_of_the_mean_norm_without_position_0(case) -> None:
    for name, layer in LAYERS.items():
        whole = residuals(case, name, count=len(inputs(*case).prompts["rows"]))
        found = of(table(case, "baselines"), layer=name)
        norm = whole[:, 1:].norm(dim=-1).mean().item()
        np.testing.assert_allclose(found["length"], found["fraction"] * norm, rtol=1e-5)
        grid = [0.0, *SETTINGS["grid"]] if name == "main" else [x for _, x in NAMED]
        assert sorted(set(found["fraction"])) == grid
        assert inputs(*case).directions["pool"][f"norms/{layer}"][0] == pytest.approx(norm, rel=1e-5)
    absolute = {"relative": False, "grid": [1, 5], "named": [["k11", 1], ["k51", 5]]}
    mine = inputs(*case)
    found = intervene.intervene("errors", replace(mine, settings={**SETTINGS, **absolute})).to_pandas()
    norm = mine.directions["pool"][f"norms/{LAYERS['main']}"][0]
    assert set(found["length"]) == {1, 5}
    np.testing.assert_allclose(found["fraction"], found["length"] / norm, rtol=1e-6)


# --- identities -----------------------------------------------------------------------------------------------------


@every
def test_what_changes_nothing_moves_nothing(case) -> None:
    still = table(case, "baselines").query("length == 0")
    ce = lists(table(case, "clean"), "ce")
    assert len(still) == CURVE * len((*DRAWN, *FIXED))
    for found in (still, table(case, "substitute").query("variant == 'identity'")):
        assert not lists(found).any()
        assert not lists(found, "l2").any()
        for at, row in zip(found["sequence"], lists(found, "ce"), strict=True):
            assert np.array_equal(row, ce[at])


@every
def test_the_all_ones_direction_is_removed_by_layer_norms_alone(case) -> None:
    """A6. The residual itself moves; a root-mean-square norm keeps the mean, and the output moves with it."""
    ones = table(case, "baselines").query("direction == 'ones' and length > 0")
    assert (lists(ones).max() < ROUNDING) == (case in LAYER_NORM)
    assert lists(table(case, "baselines").query("direction == 'iso' and length > 0")).min() > 1e-4


@every
def test_the_clean_run_is_that_of_the_whole_model(case) -> None:
    found, x = table(case, "clean"), residuals(case)
    kl, ce, _ = full_pass(case, x)
    np.testing.assert_allclose(lists(found, "ce"), ce, atol=3 * ROUNDING)
    assert kl.max() < 1e-9
    ids = np.array([p.ids for p in inputs(*case).prompts["rows"][:CURVE]])
    assert np.array_equal(lists(found, "token"), ids[:, :-1])
    for name in LAYERS:
        norms = residuals(case, name)[:, :-1].norm(dim=-1)
        np.testing.assert_allclose(lists(found, f"norm_{name}"), norms, rtol=ROUNDING)


@every
def test_substitutions_are_full_passes_with_the_residual_replaced(case) -> None:
    found = table(case, "substitute")
    for name in LAYERS:
        x = residuals(case, name)
        for sae in SAES[name]:
            xhat = plain_sae(case, sae)(x)
            agree(of(found, sae=sae, variant="sae"), full_pass(case, xhat, name))
    whole = residuals(case, count=len(inputs(*case).prompts["rows"]))
    ablated = {
        "mean": whole.mean((0, 1)).expand_as(residuals(case)),
        "zero": torch.zeros_like(residuals(case)),
    }
    for variant, changed in ablated.items():
        agree(of(found, sae="", variant=variant), full_pass(case, changed))


@every
def test_noise_and_fixed_baselines_are_full_passes_too(case) -> None:
    """Noise as long as the error at each position; `zero` at a length; the same draws in every experiment."""
    mine, x = inputs(*case), residuals(case)
    where = pool(mine.directions["pool"], LAYERS["main"])
    away = (plain_sae(case, "local-0")(x) - x).norm(dim=-1)
    noise = {k: torch.from_numpy(draw(k, x.numpy(), range(CURVE), where, 0)) for k in substitute.MATCHED}
    for variant, direction in noise.items():
        found = of(table(case, "substitute"), sae="local-0", variant=variant)
        agree(found, full_pass(case, along(x, direction, away)))
        at = of(table(case, "baselines"), direction=variant, fraction=0.65, layer="main")
        agree(at, full_pass(case, along(x, direction, 0.65 * where.norm)))
    found = table(case, "baselines").query("direction == 'zero' and fraction == 0.65")
    agree(found, full_pass(case, x - 0.65 * where.norm * x / x.norm(dim=-1, keepdim=True)))
    assert (found["cosine"] + 1).abs().max() < ROUNDING


@every
def test_one_token_alone_is_changed_and_what_is_before_it_stays(case) -> None:
    found, position, count = table(case, "single"), round(0.5 * CONTEXT), SETTINGS["single_rows"]
    assert set(found["position"]) == {position}
    assert not lists(found)[:, :position].any()
    assert (lists(found)[:, position] > 1e-6).all()
    assert (lists(found)[:, position + 1 :].max(1) > 1e-7).all()
    x = residuals(case, count=count)
    where = pool(inputs(*case).directions["pool"], LAYERS["main"])
    iso = torch.from_numpy(draw("iso", x.numpy(), range(count), where, 0))
    assert set(found["sae"]) == {"", "local-0", "local-1"}
    for sae in ("local-0", "local-1"):
        xhat = plain_sae(case, sae)(x)
        for variant, there in (("sae", xhat), ("iso", along(x, iso, (xhat - x).norm(dim=-1)))):
            changed = x.clone()
            changed[:, position] = there[:, position]
            agree_kl = lists(of(found, sae=sae, variant=variant))
            np.testing.assert_allclose(agree_kl, full_pass(case, changed)[0], rtol=1e-4, atol=3 * ROUNDING)
    changed = x.clone()
    changed[:, position] = along(x, iso, 0.65 * where.norm)[:, position]
    fixed = lists(found.query("variant == 'iso_fixed'"))
    np.testing.assert_allclose(fixed, full_pass(case, changed)[0], rtol=1e-4, atol=3 * ROUNDING)


@every
def test_quality_is_that_of_the_saes_own_formula(case) -> None:
    """Alive is what fires in any row: more than in the perturbed ones, so that these alone would not do."""
    found, rows = table(case, "quality"), len(inputs(*case).prompts["rows"])
    for name, layer in LAYERS.items():
        whole = residuals(case, name, count=rows)
        x, mean = whole[:CURVE], inputs(*case).directions["pool"][f"mean/{layer}"]
        for sae in SAES[name]:
            other, mine = plain_sae(case, sae), of(found, sae=sae)
            xhat = other(x)
            expected = {
                "l0": other.fired(x).sum(-1).float(),
                "squared_error": (xhat - x).square().sum(-1),
                "error_norm": (xhat - x).norm(dim=-1),
                "recon_norm": xhat.norm(dim=-1),
                "cosine": torch.cosine_similarity(x, xhat, dim=-1),
                "variance": (x - torch.tensor(mean)).square().sum(-1),
            }
            for column, values in expected.items():
                np.testing.assert_allclose(lists(mine, column), values, 1e-4, ROUNDING, err_msg=column)
            alive = int(other.fired(whole).flatten(0, 1).any(0).sum())
            assert set(mine["alive"]) == {alive}
            assert set(mine["d_sae"]) == {WIDTH}
    fewer = [int(plain_sae(case, s).fired(residuals(case)).flatten(0, 1).any(0).sum()) for s in SAES["main"]]
    assert fewer != found.query("layer == 'main'").drop_duplicates("sae")["alive"].tolist()
    first = found.query("sae == 'e2e-1'").iloc[0]
    assert (first["kind"], first["level"], first["l0_training"], first["coefficient"]) == ("e2e", 1, 8.5, 1.0)
