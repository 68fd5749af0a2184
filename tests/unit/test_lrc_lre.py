"""Maps of relations: means of single Jacobians over the right prompts, and the concepts of single samples."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from lm_models import D_MODEL, N_LAYERS, model
from lrc_models import SETTINGS, claimed, inputs, relations, run_dump

from bearings.lm.forward import forward, pad
from bearings.studies.lrc.common import tasks
from bearings.studies.lrc.fit import fit
from bearings.studies.lrc.lre import sample_order
from bearings.studies.lrc.maps import plan

FAMILY = "gpt_neox"


@cache
def by_autograd(prompt_index: int, relation: str, start: int, layer: int, first: bool):
    """J and b of one train prompt by reverse mode through a whole, uncached pass."""
    t = task(relation)
    p = sample_order(t, 100)[prompt_index]
    tokens = pad([list(p.ids)], 0)
    resid = forward(model(FAMILY), tokens, keep=[start]).resid[start]
    at = p.positions["subject"][0]
    wanted = list(p.positions["object"])[: 1 if first else None]

    def f(s):
        x = torch.cat([resid[0, :at], s[None], resid[0, at + 1 :]])[None]
        return (
            forward(model(FAMILY), tokens, start=start, resid=x, keep=[layer], grad=True)
            .resid[layer][0, wanted]
            .mean(0)
        )

    s = resid[0, at]
    j = torch.autograd.functional.jacobian(f, s)
    return j.double().numpy(), (f(s) - j @ s).detach().double().numpy()


def task(relation: str, variant: str = "corrected"):
    found = tasks(inputs().prompts, inputs().dumps, SETTINGS)
    return next(t for t in found if (t.relation, t.variant) == (relation, variant))


def test_every_map_is_the_mean_of_single_jacobians():
    found = inputs().directions["lre"]
    for m in plan(SETTINGS, N_LAYERS, "corrected"):
        t = task("tool")
        each = [by_autograd(i, "tool", m.start, m.layer, m.aggregation == "first") for i in range(m.samples)]
        w, b = (np.mean([one[k] for one in each], 0) for k in (0, 1))
        # Forward against reverse mode in fp32; anything wrong (a sample, a layer, a position) shows at 1e-1.
        assert np.abs(found[f"{t.key}/map/{m.name}/W"] - w).max() < 1e-4 * np.abs(w).max(), m
        assert np.abs(found[f"{t.key}/map/{m.name}/b"] - b).max() < 1e-4 * np.abs(b).max(), m


def test_each_task_has_its_maps_and_no_other():
    found = inputs().directions["lre"]
    for t in tasks(inputs().prompts, inputs().dumps, SETTINGS):
        keys = {k.removeprefix(f"{t.key}/") for k in found if k.startswith(f"{t.key}/")}
        expected = {f"map/{m.name}/{x}" for m in plan(SETTINGS, N_LAYERS, t.variant) for x in "Wb"}
        # Four objects are more than `single_objects`.
        if t.variant == "corrected" and t.relation != "river":
            expected |= {"single_same", "single_other", "single_distinct"}
        assert keys == expected
        assert all(found[f"{t.key}/{k}"].dtype == np.float32 for k in keys)


def test_single_sample_concepts_use_the_map_of_the_right_object():
    """Rank and inverse are tested elsewhere; here it is whose map serves whom."""
    t, layer, rank = task("tool"), SETTINGS["object_layer"], SETTINGS["sweep_rank"]
    dump = inputs().dumps["train"]
    own, means = {}, []
    for i, p in enumerate(sample_order(t, len(t.objects))):
        own[t.index[p.extra["object"]]] = by_autograd(i, "tool", SETTINGS["subject_layer"], layer, True)
    for name in t.objects:
        rows = [dump.rows[p.id, "object"][0] for p in t.train if p.extra["object"] == name]
        means.append(dump.resid[layer][rows].mean(0))

    def concept(i: int, whose: int) -> np.ndarray:
        w, b = own[whose]
        u, s, vt = np.linalg.svd(w)
        v = (vt[:rank].T / s[:rank]) @ u[:, :rank].T @ (means[i] - b)
        return v / np.linalg.norm(v)

    for name, whose in (("same", [0, 1, 2]), ("other", [1, 0, 0]), ("distinct", [1, 2, 0])):
        expected = np.stack([concept(i, j) for i, j in enumerate(whose)])
        found = inputs().directions["lre"][f"{t.key}/single_{name}"]
        assert np.abs(found - expected).max() < 1e-3, name


def test_fewer_prompts_than_samples_and_more_objects_than_samples():
    prompts = relations(names=["tool"])
    dumps = {name: claimed(run_dump(FAMILY, mine), mine) for name, mine in prompts.items()}
    one = {**SETTINGS, "object_layers": [], "subject_layers": [], "ranks": []}
    # Three objects, two samples: one object would have no map of its own, however many others are drawn.
    few = fit("lre", prompts, dumps, {**one, "samples": 2, "sample_counts": [4]}, 0, model(FAMILY))
    assert not [k for k in few if "single" in k]
    # Nine prompts: a map of more samples is the mean of all nine.
    many = fit("lre", prompts, dumps, {**one, "samples": 9, "sample_counts": [50]}, 0, model(FAMILY))
    key = "corrected/42/tool/map/2-3/mean"
    for x in "Wb":
        assert np.array_equal(many[f"{key}/50/{x}"], many[f"{key}/9/{x}"])
    assert many[f"{key}/9/W"].shape == (D_MODEL, D_MODEL)


@pytest.mark.parametrize("chunk", [7])
def test_the_size_of_a_chunk_matters_to_the_last_bits_only(chunk):
    prompts = relations(names=["kin"])
    dumps = {name: claimed(run_dump(FAMILY, mine), mine) for name, mine in prompts.items()}
    settings = {**SETTINGS, "samples": 1, "sweep_samples": 1, "sample_counts": [], "chunk": chunk}
    a = fit("lre", prompts, dumps, settings, 0, model(FAMILY))
    b = fit("lre", prompts, dumps, {**settings, "chunk": 0}, 0, model(FAMILY))
    assert a.keys() == b.keys()
    for key in (k for k in a if "map" in k):
        assert np.abs(a[key] - b[key]).max() < 1e-5 * np.abs(b[key]).max()
