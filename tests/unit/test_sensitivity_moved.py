"""What the experiments hand to the engine: every residual that a curve or a substitution moves, and to where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from sensitivity_models import CASES, CURVE, LAYERS, SAES, inputs, plain_sae, residuals

from bearings.studies.sensitivity import baselines, curves, errors, features, substitute
from bearings.studies.sensitivity.common import saes
from bearings.studies.sensitivity.draws import pool

ROUNDING = 1e-5
# All rows in one batch, and lengths whose vectors differ from x by far more than x rounds.
GIVEN = {"batch_rows": CURVE, "grid": [0.27, 0.65], "named": [["k11", 0.27], ["k51", 0.65]]}
every = pytest.mark.parametrize("case", CASES, ids="-".join)


@dataclass(frozen=True, eq=False)
class Call:
    """One curve: what it is of, the lengths asked for and what was added to the residual [k, rows, pos, d]."""

    direction: str
    layer: str
    sae: str
    lengths: tuple[float, ...]
    moved: torch.Tensor
    cosine: Any
    sizes: Any

    @property
    def unit(self) -> torch.Tensor:
        """Directions [rows, pos, d]."""
        return self.moved[-1] / self.lengths[-1]


def curves_of(monkeypatch, run: Callable, case: tuple[str, str]) -> list[Call]:
    calls: list[Call] = []
    moved: list[torch.Tensor] = []
    add, effects = curves.add_curve, curves.effects

    def watched(model, clean, changed, **options):
        moved.append(changed - clean.resid)
        return effects(model, clean, changed, **options)

    def adding(out, model, clean, sequences, directions, lengths, **named):
        add(out, model, clean, sequences, directions, lengths, **named)
        steps = tuple(x.length for x in lengths)
        parts = (named["direction"], named["layer"], named.get("sae", ""), steps, moved.pop())
        calls.append(Call(*parts, named.get("cosine"), named.get("sizes")))

    monkeypatch.setattr(curves, "effects", watched)
    monkeypatch.setattr(curves, "add_curve", adding)
    mine = inputs(*case)
    run(replace(mine, settings={**mine.settings, **GIVEN}))
    monkeypatch.undo()
    return calls


@every
@pytest.mark.parametrize("run", [baselines.baselines, errors.errors, features.features])
def test_directions_have_their_length_and_stay_the_same_over_lengths(case, run, monkeypatch) -> None:
    """A2 and A3. A row of the pool may be the residual itself (T14): one difference to it is no direction."""
    found = curves_of(monkeypatch, run, case)
    assert found
    for call in found:
        norm = pool(inputs(*case).directions["pool"], LAYERS[call.layer]).norm
        there = call.moved[-1].norm(dim=-1) > 0
        assert (~there).sum() <= (2 if call.direction == "real_difference" else 0)
        grid = [0.65] if len(call.lengths) == 1 else [0.27, 0.65]
        whole = run is baselines.baselines and call.layer == "main"
        np.testing.assert_allclose(call.lengths, np.array([0, *grid] if whole else grid) * norm, rtol=1e-6)
        for step, vectors in zip(call.lengths, call.moved, strict=True):
            # The difference of two fp32 numbers of the size of x and of the step: 1e-4 of the step is far above it.
            np.testing.assert_allclose(vectors[there].norm(dim=-1), step, rtol=1e-4)
            if step:
                assert (vectors / step - call.unit).abs().max() < ROUNDING


@every
def test_baselines_point_where_they_say(case, monkeypatch) -> None:
    found = {(c.layer, c.direction): c for c in curves_of(monkeypatch, baselines.baselines, case)}
    for layer, number in LAYERS.items():
        x, where = residuals(case, layer), pool(inputs(*case).directions["pool"], number)
        for call in found.values():
            if call.layer == layer:
                cosine = torch.cosine_similarity(call.unit, x, dim=-1)[:, 1:].mean(1)
                np.testing.assert_allclose(call.cosine, cosine, atol=1e-4)
        rows = torch.from_numpy(np.array(where.reservoir))
        apart = torch.nn.functional.normalize(rows[:, None] - rows[None], dim=-1).flatten(0, 1)
        real = found[layer, "real_mixture"].unit.flatten(0, 1)
        assert (real @ apart.T).max(1).values.min() > 1 - ROUNDING  # the difference of two rows of the pool
    x = residuals(case)
    for kind, cosine in (("iso_published", -0.5), ("cov_difference", -0.2), ("real_difference", -0.2)):
        # T1 and baseline.difference_flawed; 121 g - x is nearly g only where d is large: cosine -1/sqrt(d + 1)
        assert found["main", kind].cosine.mean() < (0 if kind == "iso_published" else cosine)
    assert torch.cosine_similarity(found["main", "zero"].unit, x, dim=-1).max() < -1 + ROUNDING
    ones = found["main", "ones"].unit
    assert (ones - ones.mean()).abs().max() < ROUNDING * 10
    drawn = [found["main", kind].unit for kind in ("iso", "iso2", "cov_mixture", "real_mixture")]
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert (
                torch.cosine_similarity(one, other, dim=-1).mean().abs() < 0.25
            )  # 36 rows of 32 numbers: 0.03


@every
def test_errors_point_from_the_residual_to_the_reconstruction(case, monkeypatch) -> None:
    found, x = curves_of(monkeypatch, errors.errors, case), residuals(case)
    assert [c.sae for c in found] == SAES["main"]
    for call in found:
        error = plain_sae(case, call.sae)(x) - x
        assert torch.cosine_similarity(call.unit, error, dim=-1).min() > 1 - ROUNDING


@every
def test_features_are_decoder_rows_of_their_class_chosen_by_one_uniform_number(case, monkeypatch) -> None:
    """A9: every direction is the unit decoder row of a member; its place in the class is that of one number u."""
    rows = len(inputs(*case).prompts["rows"])
    by_sae: dict[str, dict[str, Call]] = {}
    for call in curves_of(monkeypatch, features.features, case):
        by_sae.setdefault(call.sae, {})[call.direction] = call
    assert list(by_sae) == SAES["main"]
    places: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {s: [] for s in range(CURVE)}
    for sae, found in by_sae.items():
        other = plain_sae(case, sae)
        alive = other.fired(residuals(case, count=rows)).flatten(0, 1).any(0)
        fired = other.fired(residuals(case)).any(1)
        decoder = torch.nn.functional.normalize(other.w["W_dec"], dim=-1).float()
        for name in features.CLASSES:
            near = found[name].unit @ decoder.T
            index = near.argmax(-1).numpy()
            for s in range(CURVE):
                classes = {"active": fired[s], "inactive": alive & ~fired[s], "dead": ~alive}
                members = np.flatnonzero(classes[name].numpy())
                assert found[name].sizes[s] == len(members)
                if len(members):
                    assert near[s].max(-1).values.min() > 1 - ROUNDING
                    place = np.searchsorted(members, index[s])
                    assert (members[place] == index[s]).all()
                    places[s].append((place / len(members), (place + 1) / len(members)))
        assert (found["minus"].unit + found["inactive"].unit).abs().max() < ROUNDING
        every_row = {
            k: plain_sae(case, k).w["W_dec"] for k in SAES["main"] if k.split("-")[0] == sae.split("-")[0]
        }
        together = torch.nn.functional.normalize(torch.cat(list(every_row.values())).float(), dim=-1)
        assert (found["shuffled"].unit @ together.T).max(-1).values.min() > 1 - ROUNDING
        assert (found["shuffled"].unit - found["inactive"].unit).norm(dim=-1).max() > 0.1
        for name in ("random", "through"):
            assert (found[name].unit @ together.T).max() < 0.95  # no decoder row
    bounds = []
    for s, found in places.items():
        assert len(found) > 2 * len(SAES["main"]), s
        low, high = (np.stack(x) for x in zip(*found, strict=True))
        bounds.append((low.max(0), high.min(0)))
        assert (bounds[s][0] < bounds[s][1]).all()  # some u lies in the interval of every class and SAE
    for s, (low, _) in enumerate(bounds):
        assert (low > bounds[s - 1][1]).any()  # and it is another one in another row


def test_alive_is_what_fires_in_any_piece_of_the_rows(monkeypatch) -> None:
    """As many pieces as there are rows, or one."""
    mine = inputs(*CASES[0])
    resid = mine.dumps["rows"].resid[LAYERS["main"]]
    for sae in saes(mine):
        fired = plain_sae(CASES[0], sae.name).fired(torch.tensor(resid))
        assert not torch.equal(fired[-1], fired.any(0))
        for chunk in (1, 7, 1024):
            monkeypatch.setattr(features, "CHUNK", chunk)
            assert np.array_equal(features.alive_features(sae, resid), fired.any(0))


@every
def test_controls_of_features_have_one_vector_per_feature(case, monkeypatch) -> None:
    """As a dictionary would: the same feature at two places is the same vector, in `random` and in `through`."""
    found = {(c.sae, c.direction): c for c in curves_of(monkeypatch, features.features, case)}
    for sae in SAES["main"]:
        decoder = torch.nn.functional.normalize(plain_sae(case, sae).w["W_dec"], dim=-1).float()
        index = (found[sae, "inactive"].unit @ decoder.T).argmax(-1).flatten()
        same = index[:, None] == index[None]
        assert same.sum() > len(index)  # some feature is drawn twice
        for name in ("random", "through"):
            flat = found[sae, name].unit.flatten(0, 1)
            assert torch.equal(torch.cdist(flat, flat) < 0.01, same)
    one, other = (found["local-0", k].unit for k in ("random", "through"))
    factor = torch.tensor(inputs(*case).directions["pool"][f"factor/{LAYERS['main']}"])
    assert _spread(other, factor) > 1.5 * _spread(one, factor)


def _spread(vectors: torch.Tensor, factor: torch.Tensor) -> float:
    """Mean share of variance along unit vectors [..., d] under the covariance factor @ factor.T."""
    return (vectors @ factor).square().sum(-1).mean().item()


@every
def test_variants_are_as_far_as_the_error_or_as_long_as_they_say(case, monkeypatch) -> None:
    """A2 and A7, for every SAE of every layer."""
    seen: list[dict[str, torch.Tensor]] = []
    real = substitute.variants

    def variants(*arguments):
        seen.append(real(*arguments))
        return seen[-1]

    monkeypatch.setattr(substitute, "variants", variants)
    mine = inputs(*case)
    substitute.substitute(replace(mine, settings={**mine.settings, **GIVEN}))
    names = [(layer, sae) for layer in LAYERS for sae in SAES[layer]]
    assert len(seen) == len(names)
    for (layer, sae), of in zip(names, seen, strict=True):
        x = residuals(case, layer)
        xhat = plain_sae(case, sae)(x)
        assert len(of) == (9 if layer == "main" else 4)
        for kind in set(of) & set(substitute.MATCHED):
            np.testing.assert_allclose((of[kind] - x).norm(dim=-1), (xhat - x).norm(dim=-1), rtol=1e-4)
            assert torch.cosine_similarity(of[kind] - x, xhat - x, dim=-1).mean() < 0.9
        np.testing.assert_allclose(of["sae"], xhat, rtol=1e-4, atol=1e-4)
        if layer != "main":
            continue
        cosine = torch.cosine_similarity(x, xhat, dim=-1)
        for kind in ("theta_recon", "theta_true"):
            assert (torch.cosine_similarity(of[kind], x, dim=-1) - cosine).abs().max() < ROUNDING
            assert (of[kind] - xhat).norm(dim=-1).min() > 0.1  # in a direction of its own
        for kind in ("theta_recon", "norm_only"):
            np.testing.assert_allclose(of[kind].norm(dim=-1), xhat.norm(dim=-1), rtol=1e-4)
        for kind in ("theta_true", "norm_corrected"):
            np.testing.assert_allclose(of[kind].norm(dim=-1), x.norm(dim=-1), rtol=1e-4)
        assert torch.cosine_similarity(of["norm_only"], x, dim=-1).min() > 1 - ROUNDING
        assert torch.cosine_similarity(of["norm_corrected"], xhat, dim=-1).min() > 1 - ROUNDING
