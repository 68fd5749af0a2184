"""Couplings over running text: the sums against plain regression, the controls, the layers that are read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lm_models import FAMILIES
from obsprop_models import inputs

from bearings.lm.forward import forward, pad, prepare
from bearings.lm.parts import attn_norm
from bearings.studies.obsprop import coupling

FAMILY = "llama"


def frame(family: str = FAMILY):
    return coupling.coupling(inputs(family)).to_pandas()


def activations(given, layer: int, first: bool) -> np.ndarray:
    """Every token's residual [token, d_model], windows one after the other, run one by one."""
    rows = []
    for p in given.prompts["text"]:
        tokens = pad([list(p.ids)], 0)
        resid = forward(given.model, prepare(given.model, tokens), keep=[layer]).resid[layer][0]
        rows.append(resid[0 if first else 1 :])
    return torch.cat(rows).double().numpy()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("first", [True, False])
def test_sums_give_the_least_squares_line(family, first):
    given, rows = inputs(family), frame(family)
    layer, head = 2, 1
    mine = rows[(rows["pair"] == "subj_obj") & (rows["mode"] == "ignore") & (rows["site"] == "own")]
    mine = mine[(mine["layer"] == layer) & (mine["head"] == head) & (mine["first"] == first)]
    n, sx, sy, sxx, sxy, _ = (mine[c].sum() for c in coupling.SUMS)
    acts = activations(given, layer, first)
    x, y = (acts @ given.directions["heads"][f"{name}/{layer}"][head] for name in ("n_subj", "n_obj"))
    assert n == len(x)
    slope = (sxy - sx * sy / n) / (sxx - sx * sx / n)
    np.testing.assert_allclose(slope, np.polyfit(x, y, 1)[0], rtol=1e-4, atol=1e-5)


def test_the_normed_site_reads_behind_the_norm():
    given, rows = inputs(FAMILY), frame()
    mine = rows[(rows["site"] == "normed") & (rows["layer"] == 1) & (rows["head"] == 0) & rows["first"]]
    acts = torch.from_numpy(activations(given, 1, True)).float()
    x = attn_norm(given.model, 1)(acts).numpy() @ given.directions["heads"]["n_subj/1"][0]
    np.testing.assert_allclose(mine["sx"].sum(), x.sum(), rtol=1e-3, atol=1e-3)


def test_shuffling_keeps_the_prediction_and_the_sums_but_not_the_products():
    rows = frame()
    at = (rows["mode"] == "scale") & (rows["site"] == "own") & ~rows["first"]
    by = ["layer", "head"]
    plain = rows[at & (rows["pair"] == "subj_obj")].groupby(by)
    shuffled = rows[at & (rows["pair"] == "subj_shuffled")].groupby(by)
    np.testing.assert_allclose(plain["predicted"].first(), shuffled["predicted"].first())
    for name in ("n", "sx", "sxx", "sy", "syy"):
        np.testing.assert_allclose(plain[name].sum(), shuffled[name].sum(), rtol=1e-6, atol=1e-8)
    assert not np.allclose(plain["sxy"].sum(), shuffled["sxy"].sum(), rtol=1e-2)


def test_random_partners_have_the_features_length():
    given = inputs(FAMILY)
    found = [p for p in coupling.found_pairs(given) if p.name == "subj_random"]
    assert len(found) == given.model.n_layers * given.model.info.n_heads
    for p in found:
        assert np.isclose(np.linalg.norm(p.x), np.linalg.norm(p.y), rtol=1e-5)
        assert np.isclose(p.predicted, p.cos, rtol=1e-4, atol=1e-6)  # of equal lengths they are the same


def test_the_mistaken_layer_is_read_for_every_head():
    rows = frame()
    mine = rows[(rows["site"] == "mistaken") & (rows["mode"] == "scale_swapped") & rows["first"]]
    assert mine.groupby(["layer", "head"]).ngroups == 16
    assert not np.allclose(
        mine[mine["layer"] == 3]["sx"].sum(),
        rows[
            (rows["site"] == "own")
            & (rows["mode"] == "scale_swapped")
            & (rows["layer"] == 3)
            & rows["first"]
            & (rows["pair"] == "subj_obj")
        ]["sx"].sum(),
        rtol=1e-3,
    )


def test_occupations_meet_the_pronoun_at_the_shared_head():
    rows = frame()
    mine = rows[rows["pair"] == "paths"]
    assert len(mine[["layer", "head"]].drop_duplicates()) == 1
    assert set(mine["mode"]) == {"ignore"}
