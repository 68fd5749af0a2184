"""The theorems against simulation and autograd, and the experiment `layernorm` on tiny random models."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lm_models import D_MODEL, FAMILIES, N_LAYERS, RELATIVE, model, reference
from obsprop_models import SETTINGS, inputs

from bearings.lm.parts import attn_norm, final_norm, gain
from bearings.studies.obsprop import theorem
from bearings.studies.obsprop.layernorm import layernorm, modules
from bearings.studies.obsprop.measure_layernorm import measure
from bearings.studies.obsprop.tangents import output_of, tangent

WIDTHS = (8, 64, 128, 256, 768, 2048)
# Protocol 4.7, to its six digits.
TABLE = {
    8: (0.490874, 0.857143, 0.775193), 64: (0.158531, 0.984127, 0.252648),
    128: (0.111433, 0.992126, 0.177705), 256: (0.078563, 0.996078, 0.125327),
    768: (0.045269, 0.998696, 0.072232), 2048: (0.027705, 0.999511, 0.044209),
}  # fmt: skip
EXTRA: dict[str, Any] = {"widths": [8, 64], "draws": 200, "prompts": 6, "tangent_heads": [[1, 2]]}
OPTIONS = {"seed": 0, "resamples": 50}
FEW = 4000


@pytest.mark.parametrize("d", WIDTHS)
def test_the_closed_forms_are_those_of_the_protocol(d):
    found = theorem.expected_angle(d), theorem.expected_cos(d), theorem.bound(d)
    assert found == pytest.approx(TABLE[d], abs=6e-7)
    assert theorem.expected_angle(d) < theorem.bound(d)


@pytest.mark.parametrize("d", WIDTHS)
def test_simulated_angles_agree_with_the_closed_form(d):
    found = theorem.angles(d, FEW if d < 1000 else 1000, np.random.default_rng(d))
    # The protocol's own tolerance, four standard errors.
    for values, expected in ((found, theorem.expected_angle(d)), (np.cos(found), theorem.expected_cos(d))):
        assert abs(values.mean() - expected) < 4 * values.std(ddof=1) / len(values) ** 0.5
    assert found.mean() < theorem.bound(d)


def test_only_the_feature_has_to_be_isotropic():
    """Activations of one direction with a huge outlier give the angles of Gaussian ones; aligned ones do not."""
    d, rng = 128, np.random.default_rng(0)
    n = rng.standard_normal((FEW, d))
    x = np.tile(np.where(np.arange(d) == 3, 100.0, 1.0) + np.arange(d) / d, (FEW, 1))
    found = theorem.angle(n, theorem.gradient(x, n))
    assert abs(found.mean() - theorem.expected_angle(d)) < 4 * found.std() / FEW**0.5
    along = theorem.angle(n, theorem.gradient(n + 0.1 * rng.standard_normal(n.shape), n))
    assert along.mean() > 5 * theorem.bound(d)


def test_the_gradient_is_that_of_layer_norm():
    rng = np.random.default_rng(1)
    x, n = rng.standard_normal((2, 5, 32)) + 0.3
    at = torch.tensor(x, requires_grad=True)
    (torch.nn.functional.layer_norm(at, (32,), eps=0.0) * torch.tensor(n)).sum().backward()
    # float64; nothing but the order of sums differs.
    assert np.abs(theorem.gradient(x, n) - at.grad.numpy()).max() < 1e-12


def test_the_cosine_identity():
    """cos(y, g)^2 = 1 - cos(y, 1)^2 - cos(y, Px)^2 (protocol section 8), in float64 to 1e-6 and better."""
    x, y = np.random.default_rng(2).standard_normal((2, 40, 16)) + 0.4
    centred = x - x.mean(-1, keepdims=True)
    squares = theorem.cosine(y, np.ones_like(y)) ** 2 + theorem.cosine(y, centred) ** 2
    assert np.allclose(theorem.cosine(y, theorem.gradient(x, y)) ** 2, 1 - squares, atol=1e-12)


@pytest.mark.parametrize(("d", "k"), [(8, 1.5), (64, -3.0), (256, 0.0)])
def test_the_coupling_predicts_the_other_score(d, k):
    rng = np.random.default_rng(d)
    y1, y2 = rng.standard_normal((2, d))
    y2 = y2 + 0.5 * y1
    s = 4.0
    found = theorem.coupling_samples(y1, y2, s, k, 20_000, rng)
    limit = theorem.coupling_bound(y1, y2, s, k)
    middle = k * theorem.coupling(y1, y2)
    assert abs(found.mean() - middle) < 4 * found.std(ddof=1) / len(found) ** 0.5
    assert np.abs(found - middle).max() <= limit * (1 + 1e-12)
    # The standard deviation's own standard error is about 1 / sqrt(2n) = 0.5 %.
    assert found.std() == pytest.approx(limit / (d - 1) ** 0.5, rel=0.02)


def test_coupling_samples_lie_where_they_should():
    """Asked for x . y1 and for a coordinate of their own, samples give back what was fixed."""
    y1 = np.random.default_rng(0).standard_normal(12)
    rng = np.random.default_rng(3)
    assert np.allclose(theorem.coupling_samples(y1, y1, 3.0, 0.7, 50, rng), 0.7)
    # With k = s |y1| the sphere is cut in one point.
    only = theorem.coupling_samples(y1, np.eye(12)[0], 3.0, 3.0 * np.linalg.norm(y1) * (1 - 1e-15), 5, rng)
    assert np.allclose(only, 3.0 * y1[0] / np.linalg.norm(y1), atol=1e-6)
    with pytest.raises(ValueError, match="no x of length"):
        theorem.coupling_samples(y1, y1, 1.0, 100.0, 5, rng)


@cache
def given(family: str):
    made = inputs(family)
    return replace(made, settings={**SETTINGS, **EXTRA})


@cache
def frame(family: str) -> pd.DataFrame:
    return layernorm(given(family)).to_pandas()


def rows(family: str, quantity: str) -> pd.DataFrame:
    found = frame(family)
    return found[found["quantity"] == quantity]


def final(family: str, task: str):
    made = given(family)
    mine = [p for p in made.prompts["names"] if p.extra["task"] == task]
    x = made.dumps["names"].at("end", [p.id for p in mine], N_LAYERS)
    return mine, torch.from_numpy(x).double()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_quantity_is_there_and_finite(family):
    found = frame(family)
    assert np.isfinite(found["value"]).all()
    there = set(found["quantity"])
    expected = {"theorem_angle", "activation_angle", "aligned_angle", "final_angle", "cos_gradient"}
    assert expected | {"tangent_truth", "weight_var", "weight_ratio", "input_norm"} <= there
    assert len(rows(family, "activation_angle")) == N_LAYERS * 2 * EXTRA["prompts"]
    assert len(rows(family, "cos_gradient")) == N_LAYERS * 4 * EXTRA["prompts"]
    assert (rows(family, "aligned_angle")["value"].mean()) > 2 * rows(family, "activation_angle")[
        "value"
    ].mean()


@pytest.mark.parametrize("family", FAMILIES)
def test_head_cosines_are_those_of_a_finite_difference(family):
    made, found = given(family), rows(family, "cos_gradient")
    prompt = int(found["index"].iloc[0])
    for layer, head in ((0, 1), (N_LAYERS - 1, 3)):
        y = torch.from_numpy(made.directions["heads"][f"n_subj/{layer}"][head]).double()
        x = torch.from_numpy(made.dumps["names"].at("name", [prompt], layer)[0]).double()
        norm = attn_norm(made.model, layer)
        step = 1e-5 * torch.eye(D_MODEL, dtype=torch.float64)
        slope = ((norm(x + step) - norm(x - step)) @ y / 2e-5).numpy()
        at = (found["layer"] == layer) & (found["head"] == head) & (found["index"] == prompt)
        # Central differences of a smooth function at 1e-5: some 1e-9 of its scale.
        assert found[at]["value"].item() == pytest.approx(theorem.cosine(y.numpy(), slope), abs=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_norm_statistics_are_those_of_the_plain_model(family):
    """Lengths in front of the first and the final norm by a run of the plain network, prompt by prompt."""
    made = given(family)
    mine = [p for p in made.prompts["names"] if p.extra["task"] == "subj"]
    first = [p for p in mine if p.extra["pair"] % 4 < 3]
    network = reference(family)
    embedded = []
    final_in = {}
    name = next(n for n in ("ln_f", "final_layer_norm", "norm") if hasattr(network.base_model, n))
    for p in mine:
        seen = {}
        handle = getattr(network.base_model, name).register_forward_pre_hook(
            lambda _, args, seen=seen: seen.setdefault("x", args[0])
        )
        with torch.no_grad():
            out = network(torch.tensor([p.ids]), output_hidden_states=True, use_cache=False)
        handle.remove()
        final_in[p.id] = seen["x"][0]
        embedded.append((p, out.hidden_states[0][0]))
    lengths, variance = rows(family, "input_norm"), rows(family, "weight_var")

    def value(table, layer, module, index=-1):
        at = (table["layer"] == layer) & (table["other"] == module) & (table["index"] == index)
        return table[at]["value"].item()

    def mean(pick, prompts):
        kept = {p.id for p in prompts}
        return float(torch.cat([pick(p, x) for p, x in embedded if p.id in kept]).mean())

    close = {"rel": 20 * RELATIVE}
    whole = mean(lambda p, x: x.norm(dim=-1), first)
    assert value(lengths, 0, "ln_1", 0) == pytest.approx(whole, **close)
    behind = mean(lambda p, x: x[1:].norm(dim=-1), mine)
    assert value(lengths, 0, "ln_1", 1) == pytest.approx(behind, **close)
    assert value(lengths, 0, "ln_1", 2) == pytest.approx(mean(lambda p, x: x[:1].norm(dim=-1), mine), **close)
    last = mean(lambda p, x: final_in[p.id][1:].norm(dim=-1), mine)
    assert value(lengths, N_LAYERS, "ln_f", 1) == pytest.approx(last, **close)
    weight = getattr(network.base_model, name).weight.detach().numpy()
    assert value(variance, N_LAYERS, "ln_f") == pytest.approx(weight.var(), rel=1e-5)
    entries = mean(lambda p, x: x.abs().mean(-1), first)
    ratio = value(rows(family, "weight_ratio"), 0, "ln_1", 0)
    assert ratio == pytest.approx(value(variance, 0, "ln_1") / entries, **close)


@pytest.mark.parametrize("family", FAMILIES)
def test_block_norms_are_measured_at_their_own_inputs(family):
    made, network, seen = given(family), reference(family), {"ln_1": [], "ln_2": []}
    blocks = {"gpt_neox": "layers", "llama": "layers"}.get(family, "h")
    block = getattr(network.base_model, blocks)[2]
    names = {"ln_1": ("ln_1", "input_layernorm"), "ln_2": ("ln_2", "post_attention_layernorm")}
    handles = [
        getattr(block, name).register_forward_pre_hook(
            lambda _, args, to=seen[ours]: to.append(args[0][0, 1:].norm(dim=-1))
        )
        for ours, theirs in names.items()
        for name in theirs
        if hasattr(block, name)
    ]
    for p in made.prompts["names"]:
        if p.extra["task"] == "subj":
            with torch.no_grad():
                network(torch.tensor([p.ids]), use_cache=False)
    for handle in handles:
        handle.remove()
    table = rows(family, "input_norm")
    table = table[(table["layer"] == 2) & (table["index"] == 1)].set_index("other")["value"]
    expected = {name: float(torch.cat(x).mean()) for name, x in seen.items() if x}
    assert table.to_dict() == pytest.approx(expected, rel=20 * RELATIVE)


def test_modules_are_all_norms():
    count = {family: len(list(modules(model(family)))) for family in FAMILIES}
    # One norm serves both parts of a GPT-J block.
    assert count == {f: (N_LAYERS if f == "gptj" else 2 * N_LAYERS) + 1 for f in FAMILIES}
    assert all(gain(norm).shape == (D_MODEL,) for f in FAMILIES for _, _, norm in modules(model(f)))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_output_is_the_model_s_own_logits(family):
    mine, x = final(family, "occ")
    with torch.no_grad():
        found = output_of(model(family), mine[0])(x)
        for i in (0, 5):
            logits = reference(family)(torch.tensor([mine[i].ids]), use_cache=False).logits[0, -1]
            plain = logits[list(mine[i].positive)].sum() - logits[list(mine[i].negative)].sum()
            assert found[i].item() == pytest.approx(
                plain.item(), abs=20 * RELATIVE * logits.abs().max().item()
            )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tangent_touches_where_the_output_crosses_zero(family):
    mine, x = final(family, "subj")
    f = output_of(model(family), mine[0])
    # Far along the observable's own vector its sign is beyond doubt.
    low, high = (x[0] + sign * x[0].norm() * 5 * f.y / f.y.norm() for sign in (-1, 1))
    assert f(low) < 0 < f(high)
    found = tangent(f, low, high)
    assert torch.allclose(found.x0, low + found.t * (high - low))
    # Sixty halvings in float64 leave the rounding of the output itself.
    assert abs(f(found.x0).item()) < 1e-10
    assert found(found.x0).item() == 0
    # Off the point the error is of second order: a tenth of the step, a hundredth of the error.
    step = torch.from_numpy(np.random.default_rng(0).standard_normal(D_MODEL))
    errors = [abs((f(found.x0 + h * step) - found(found.x0 + h * step)).item()) for h in (1e-3, 1e-4)]
    assert errors[1] == pytest.approx(errors[0] / 100, rel=0.1)
    assert tangent(f, high, high) is None


def test_the_tangent_table_by_hand():
    """Rows of the experiment against the definition, on a model whose means cross in some template."""
    seen = 0
    for family in FAMILIES:
        for task in ("subj", "obj", "occ"):
            mine, x = final(family, task)
            table, t = rows(family, "tangent"), rows(family, "tangent_t")
            t = t[t["task"] == task].set_index("group")["value"]
            f = output_of(model(family), mine[0])
            for group in (0, 1):
                at = [np.array([p.extra["template"] == group and p.label == k for p in mine]) for k in (0, 1)]
                male, female = x[at[0]].mean(0), x[at[1]].mean(0)
                with torch.no_grad():
                    crosses = (f(male) < 0) != (f(female) < 0)
                assert (group in t.index) == bool(crosses)
                if not crosses:
                    continue
                seen += 1
                x0 = (1 - t[group]) * male + t[group] * female
                g = torch.autograd.functional.jacobian(f, x0)
                for j in (0, 1):
                    own = (table["task"] == task) & (table["group"] == group) & (table["other"] == str(j))
                    ids = [p.id for p in mine if p.extra["template"] == j]
                    assert table[own]["index"].tolist() == ids
                    there = x[[p.extra["template"] == j for p in mine]]
                    errors = (f(there) - (there - x0) @ g).abs().numpy()
                    # t is stored as a double, so the point is found again to its last bits.
                    assert np.allclose(table[own]["value"], errors, rtol=0, atol=1e-9)
                chance = rows(family, "tangent_random")
                chance = chance[(chance["task"] == task) & (chance["group"] == group)]
                assert len(chance) == SETTINGS["random_draws"] * sum(sum(a) for a in at)
    assert seen >= 3, "no template of any tiny model crosses zero: nothing was tested"


@pytest.mark.parametrize("family", FAMILIES)
def test_tangents_do_not_see_the_length_of_residuals(family):
    """A norm is flat along its (centred) input, up to epsilon: so is every tangent of it."""
    mine, x = final(family, "subj")
    f, norm = output_of(model(family), mine[0]), final_norm(model(family))
    u = x[0] - x[0].mean() if norm.centres else x[0]
    g = f.gradient(x[0])
    # Epsilon, 1e-5, is added to the mean square of some tens.
    assert abs(float(g @ u)) < 1e-4 * float(g.norm() * u.norm())


def test_measures_of_the_tiny_models():
    for family in ("gpt_neo", "llama"):
        found = measure(frame(family), OPTIONS)
        angles = rows(family, "activation_angle")["value"]
        assert found["ln.activation_angle"].value == pytest.approx(angles.mean())
        over = found["ln.activation_angle.over_bound"].value
        assert over == pytest.approx(angles.mean() / theorem.bound(D_MODEL))
        assert found["ln.activation_angle.worst_layer"].value >= over
        assert found["ln.aligned_angle.over_bound"].value > 2
        assert found["ln.theorem.below_bound"].value == 1
        assert found["ln.theorem.max_error_se"].value < 5
        assert found["ln.cos_gradient.min"].value <= found["ln.cos_gradient.mean"].value <= 1
        assert found["ln.weight_var"].value == pytest.approx(rows(family, "weight_var")["value"].mean())
        assert f"ln.input_norm.l{N_LAYERS - 1}.corrected" in found


def synthetic() -> pd.DataFrame:
    """Two templates: own errors 0.1, others' 0.3, random points' 1.0, outputs of 2."""
    out = []

    def add(quantity, value, group=-1, other="", index=-1, task="subj", layer=-1, head=-1):
        out.append(
            {"quantity": quantity, "task": task, "layer": layer, "head": head, "group": group, "other": other,
             "index": index, "value": value}
        )  # fmt: skip

    for i in (0, 1):
        add("tangent_t", 0.4 + i / 10, group=i)
        add("grad_norm", 1.0 + i, group=i)
        for prompt in range(10 * i, 10 * i + 10):
            add("tangent_truth", 2.0, group=i, index=prompt)
            add("tangent", 0.1, group=i, other=str(i), index=prompt)
            add("tangent", 0.3, group=1 - i, other=str(i), index=prompt)
            for draw in range(3):
                add("tangent_random", 0.5 * (draw + 1), group=i, other=str(draw), index=prompt)
    add("grad_cos", 0.99, group=0, other="1")
    add("path_cos", 0.97, task="n_subj.head", other="gradient")
    add("head_coupling", 0.9, group=0, other="1", layer=17, head=14)
    add("head_norm", 8.0, group=1, layer=17, head=14)
    return pd.DataFrame(out)


def test_measures_of_known_tangents():
    found = measure(synthetic(), OPTIONS)
    value = {name: e.value for name, e in found.items()}
    assert value["ln.tangent.subj.g0.g1"] == pytest.approx(0.3)
    assert value["ln.tangent.subj.diagonal"] == pytest.approx(0.1)
    assert value["ln.tangent.subj.off_diagonal"] == pytest.approx(0.3)
    assert value["ln.tangent.subj.random"] == pytest.approx(1.0)
    assert value["ln.tangent.subj.over_random"] == pytest.approx(0.1)
    assert value["ln.tangent.subj.zero"] == pytest.approx(2.0)
    assert value["ln.tangent.subj.crossings"] == 2
    assert value["ln.tangent.subj.g1.t"] == pytest.approx(0.5)
    assert value["ln.grad_cos.subj"] == value["ln.grad_cos.subj.g0.g1"] == pytest.approx(0.99)
    assert value["ln.grad_norm.subj.g1"] == 2
    assert value["ln.path_cos.n_subj.head.gradient"] == 0.97
    assert value["ln.head.17.14.subj.coupling.g0.g1"] == 0.9
    assert value["ln.head.17.14.subj.norm.g1"] == 8.0
    assert found["ln.tangent.obj.diagonal"].value is None
    assert "obj" in found["ln.tangent.obj.diagonal"].reason


def test_a_template_without_a_tangent_is_missing_by_name():
    table = synthetic()
    fewer = table[(table["quantity"] == "tangent_truth") | (table["group"] != 1)]
    fewer = fewer[fewer["quantity"] != "grad_cos"]
    whole, found = measure(table, OPTIONS), measure(fewer, OPTIONS)
    assert {n for n in whole if n.startswith(("ln.tangent", "ln.grad"))} <= set(found)
    assert found["ln.tangent.subj.g1.g0"].value is None
    assert "zero" in found["ln.tangent.subj.g1.g0"].reason
    assert found["ln.grad_cos.subj"].value is None
    assert found["ln.tangent.subj.g0.g0"].value == pytest.approx(0.1)


def test_an_empty_table_says_what_is_missing():
    found = measure(synthetic().iloc[:0], OPTIONS)
    assert {"ln.theorem.below_bound", "ln.activation_angle", "ln.cos_gradient.min", "ln.weight_var"} <= set(
        found
    )
    assert all(e.value is None and e.reason for e in found.values())
