"""Features equal autograd through the real model with its attention held, and errors shrink as they must."""

from __future__ import annotations

import math
from dataclasses import replace as changed

import pytest
import torch
from lm_models import (
    D_MODEL,
    D_VOCAB,
    FAMILIES,
    N_LAYERS,
    RELATIVE,
    gap,
    model,
    reference,
)
from lm_wide import COLUMNS, EXACT, FIRST, REAL, SECOND, observable, random, wide

from bearings.lm import parts, weights
from bearings.lm.edits import HookEdit, ResidualEdit, frozen_attention, head_output, replace
from bearings.lm.forward import forward, pad, prepare
from bearings.lm.parts import gradient
from bearings.lm.propagate import (
    MODES,
    Mlp,
    crossing,
    features,
    parse_path,
    show_path,
    through_heads,
    zero_final,
)
from bearings.lm.trace import trace

both = pytest.mark.parametrize("processing", ["raw", "folded"])
family = pytest.mark.parametrize("family", FAMILIES)

HEADS = "attn3.1@4<=attn1.2@2"
ALL_HEADS = "attn3.3@6<=attn2.all@3<=attn0.0@2"
WITH_MLPS = "mlp3@-1<=attn2.all@5<=mlp1@5<=attn0.all@4"
INSIDE_A_BLOCK = "mlp2@6<=attn2.1@3"


class Real:
    """The real model around one prompt, its attention frozen: what one component writes when it alone reads
    something else, chained along a path, up to the logits."""

    def __init__(self, m, ids):
        self.m, self.clean = m, trace(m, ids)
        self.prepared = prepare(m, pad([ids], 0))

    def run(self, layer, edits, keep, x=None):
        frozen = frozen_attention({layer: self.clean.pattern[layer][None]})
        start = self.clean.resid[layer][None] if x is None else x
        return forward(
            self.m, self.prepared, start=layer, resid=start, edits=[*frozen, *edits], keep=[keep], grad=True
        ).hooks[keep][0]

    def at(self, position):
        mask = torch.zeros(1, len(self.clean.ids), dtype=torch.bool)
        mask[0, position] = True
        return mask

    def change(self, step, read, to, normed):
        """What `step` writes more at position `to` when it reads `read` at its own position: a residual, or if
        `normed` what lies behind its norm."""
        block, here = f"blocks.{step.layer}.", self.at(step.position)
        if isinstance(step, Mlp):
            module = self.m.blocks[step.layer]
            norm = getattr(module, "ln2", None) or module.ln1
            x = read if normed else norm(read[None, None])[0, 0]
            out = self.run(
                step.layer, [HookEdit(block + "mlp.hook_in", replace(x), here)], block + "mlp.hook_out"
            )
            return out[to] - self.clean.mlp_out[step.layer, to]
        place = HookEdit(block + "ln1.hook_out", replace(read), here)
        edit = place if normed else ResidualEdit(step.layer, replace(read), here)
        if step.head is None:
            return (
                self.run(step.layer, [edit], block + "attn.hook_out")[to]
                - self.clean.attn_out[step.layer, to]
            )
        z = self.run(step.layer, [edit], block + "attn.hook_z")
        only = head_output(step.layer, step.head, z[None], self.at(to))
        return self.run(step.layer, [only], block + "attn.hook_out")[to] - self.clean.attn_out[step.layer, to]

    def input(self, step, normed=False):
        t = self.clean
        if isinstance(step, Mlp):
            return (t.mlp_in if normed else t.mid)[step.layer, step.position]
        x = t.resid[step.layer, step.position]
        return parts.attn_norm(self.m, step.layer)(x) if normed else x

    def written(self, path, read, normed=False):
        """What the top of the path writes more at the last position when its bottom reads `read`."""
        for i in reversed(range(len(path))):
            to = path[i - 1].position if i else -1
            more = self.change(path[i], read, to, normed)
            read = self.input(path[i - 1], normed) + more if i else None
        return more

    def logit(self, path, read):
        last = self.clean.resid[-1] + self.at(-1)[0, :, None] * self.written(path, read)
        rows = torch.tensor([len(self.clean.ids) - 1])
        out = forward(
            self.m, self.prepared, start=N_LAYERS, resid=last[None], rows=rows, columns=COLUMNS, grad=True
        ).logits[0]
        return out[0] - out[1]


def paths_of(m):
    texts = [HEADS, ALL_HEADS, WITH_MLPS] + ([] if parts.parallel(m) else [INSIDE_A_BLOCK])
    return [parse_path(text) for text in texts]


@family
@both
def test_features_equal_autograd_through_the_real_model(family, processing):
    """With one prompt for both, MLPs are linearised at its point; an offset puts the final norm's zero there."""
    m = wide(family, processing)
    real, (n, bias) = Real(m, FIRST), observable(m)
    t = real.clean
    offset = -(n @ parts.final_norm(m)(t.resid[-1, -1])).item()
    for path in paths_of(m):
        ours = features(m, path, n, "gradient", t, t, offset=offset, attention=True)
        for i, step in enumerate(path):
            x = real.input(step).clone().requires_grad_()
            (slope,) = torch.autograd.grad(real.logit(path[: i + 1], x), x)
            assert gap(ours[i], slope) < REAL[family], (
                f"{show_path(path)}, row {i}: {gap(ours[i], slope):.1e}"
            )
            assert slope.norm() > 1e-7, "a zero gradient would match anything"
    assert real.logit(path, real.input(path[-1])).item() == pytest.approx(-offset + bias)


@family
@pytest.mark.parametrize("text", [HEADS, WITH_MLPS])
def test_what_is_left_out_is_of_second_order(family, text):
    m = wide(family)
    real, (n, _) = Real(m, FIRST), observable(m)
    t, path = real.clean, parse_path(text)
    offset = -(n @ parts.final_norm(m)(t.resid[-1, -1])).item()
    feature = features(m, path, n, "gradient", t, t, offset=offset, attention=True)[-1]
    x = real.input(path[-1])
    clean = real.logit(path, x).item()

    directions = torch.nn.functional.normalize(random(20, D_MODEL), dim=1) * x.norm()

    def error(size):
        """Root mean square over directions: along one of them the second order can happen to vanish."""
        missed = [
            real.logit(path, x + size * u).item() - clean - size * (feature @ u).item() for u in directions
        ]
        return math.sqrt(sum(e * e for e in missed))

    # Halved, a quadratic error is a quarter; the third order adds about the size of the step to that. The step is
    # small, and still its square times the effect is far above the rounding of the model's type.
    size = 0.1 if family == "llama" else 1e-3
    ratio = error(size) / error(size / 2)
    assert 3 < ratio < 5, f"{family}, {text}: {ratio}"


@family
@both
@pytest.mark.parametrize("text", ["attn2.1@3", HEADS, ALL_HEADS])
def test_ov_maps_alone_are_exact_at_any_distance(family, processing, text):
    m = wide(family, processing)
    real, path, y = Real(m, FIRST), parse_path(text), random(D_MODEL, seed=7)
    ours = features(m, path, y, "ignore", real.clean, attention=True)
    read = real.input(path[-1], normed=True)
    for seed in range(3):
        step = 5 * random(D_MODEL, seed=seed)
        effect = y @ real.written(path, read + step, normed=True)
        assert effect.item() == pytest.approx((ours[-1] @ step).item(), rel=REAL[family])
    # Without the attention weights the features are longer by them, and prompts are not needed.
    if all(step.head is not None for step in path):
        plain, scale, to = features(m, path, y), 1.0, -1
        for i, step in enumerate(path):
            scale *= real.clean.pattern[step.layer, step.head, to, step.position].item()
            assert gap(plain[i] * scale, ours[i]) < EXACT
            to = step.position


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo"])
def test_through_heads_equals_the_published_weights(family):
    """Protocol 4.1 read off the Hugging Face parameters, without the loader: orientation and head order."""
    m, network = model(family), reference(family)
    d, d_head, x, y = D_MODEL, D_MODEL // 4, random(D_MODEL, seed=1).float(), random(D_MODEL, seed=2).float()
    for layer in range(N_LAYERS):
        block = network.transformer.h[layer]
        if family == "gpt2":
            w_v, w_o = block.attn.c_attn.weight[:, 2 * d :].T, block.attn.c_proj.weight.T
        else:
            w_v, w_o = block.attn.attention.v_proj.weight, block.attn.attention.out_proj.weight
        ours = through_heads(m, layer, y[None])[0]
        for h in range(4):
            rows = slice(h * d_head, (h + 1) * d_head)
            written = w_o[:, rows] @ (w_v[rows] @ x)
            assert (ours[h] @ x).item() == pytest.approx((y @ written).item(), rel=1e-3, abs=1e-4)
        assert gap(ours.sum(0), (w_o @ w_v).T @ y) < 10 * RELATIVE


@family
@both
def test_through_heads_is_what_each_head_writes(family, processing):
    m = model(family, processing)
    x, y = random(D_MODEL, seed=1).float(), random(3, D_MODEL, seed=2).float()
    for layer in (0, 3):
        ours = through_heads(m, layer, y)
        assert ours.shape == (3, 4, D_MODEL)
        for h in range(4):
            written = parts.ov(m, layer, h)(x @ weights.W_V(m, layer)[parts.kv_of(m, h)])
            assert gap(ours[:, h] @ x, y @ written) < 10 * RELATIVE
        assert gap(features(m, f"attn{layer}.all@0", y[1])[0], ours[1].sum(0)) < RELATIVE
    with pytest.raises(ValueError, match=r"y must be \[k, 32\]"):
        through_heads(m, 0, y[0])


def test_centring_the_unembedding_leaves_an_observable_as_it_is():
    unembed = weights.W_U(model("gpt_neo")).double()
    n = torch.zeros(D_VOCAB, dtype=torch.float64)
    n[[5, 6, 7, 8]] = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    centred = unembed - unembed.mean(1, keepdim=True)
    assert gap(centred @ n, unembed @ n) < EXACT
    n[7] = 0
    assert gap(centred @ n, unembed @ n) > 1e-3, "an observable that does not sum to zero is changed"


@family
@both
def test_every_norm_of_a_path_by_hand(family, processing):
    """Which norm, at which residual, in which mode: the traps are here (T3)."""
    m = wide(family, processing)
    a, b, (n, bias) = trace(m, FIRST), trace(m, SECOND), observable(m)
    root = math.sqrt(D_MODEL)
    zero = zero_final(m, n, b.resid[-1, -1], bias)
    top = gradient(parts.final_norm(m), zero, n)

    def scaled(y, norm, x):
        return parts.gain(norm) * root / x.norm() * y

    def tangent(y, layer, position):
        mlp = parts.mlp(m, layer)
        ends = a.mlp_in[layer, position], b.mlp_in[layer, position]
        return gradient(mlp, crossing(lambda x: y @ mlp(x), *ends)[0], y)

    for swapped in (False, True):
        norm1, norm2 = parts.attn_norm(m, 3), parts.mlp_norm(m, 3)
        x1, x2 = a.resid[3, 4], a.mid[3, 4]
        y = through_heads(m, 3, top[None])[0, 1]
        first = scaled(y, norm2, x2) if swapped else scaled(y, norm1, x1)
        y = tangent(first, 1, 4)
        norm1, norm2, x1, x2 = parts.attn_norm(m, 1), parts.mlp_norm(m, 1), a.resid[1, 4], a.mid[1, 4]
        second = scaled(y, norm1, x1) if swapped else scaled(y, norm2, x2)
        mode = "scale_swapped" if swapped else "scale"
        ours = features(m, "attn3.1@4<=mlp1@4", n, mode, a, b, start="b", offset=bias)
        assert gap(ours[0], first) < EXACT, mode
        assert gap(ours[1], second) < EXACT, mode
    plain = features(m, "attn3.1@4<=mlp1@4", n, "ignore", a, b)
    assert gap(plain[0], through_heads(m, 3, n[None])[0, 1]) < EXACT
    assert gap(plain[1], tangent(plain[0], 1, 4)) < EXACT


@family
def test_a_prefix_of_a_path_has_the_same_features(family):
    m = model(family)
    a, b, (n, bias) = trace(m, FIRST), trace(m, SECOND), observable(m)
    path = parse_path(WITH_MLPS)
    for mode in MODES:
        whole = features(m, path, n, mode, a, b, offset=bias)
        assert whole.dtype == torch.float32
        assert torch.isfinite(whole).all()
        assert torch.equal(features(m, path[:2], n, mode, a, b, offset=bias), whole[:2])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"mode": "none"}, "mode must be one of ignore, scale, gradient, scale_swapped, found 'none'"),
        ({"start": "c"}, "start must be 'a' or 'b'"),
        ({"mode": "scale", "a": None}, "mode 'scale' needs the trace of prompt a"),
        ({"mode": "scale", "start": "b", "b": None}, "mode 'scale' needs the trace of prompt b"),
        ({"b": None}, "mlp1 needs the trace of prompt b"),
        ({"a": None, "attention": True}, "attention needs the trace of prompt a"),
    ],
)
def test_missing_prompts_are_named(asked, message):
    m = model("gpt2")
    t, n = trace(m, FIRST), observable(m)[0]
    with pytest.raises(ValueError, match=message):
        features(m, "attn3.1@4<=mlp1@4", n, **({"mode": "ignore", "a": t, "b": t} | asked))


def test_only_what_a_path_touches_matters():
    """A head's feature under "scale" reads two residuals of prompt a: its own and the final one."""
    m = model("gpt_neo")
    t, n = trace(m, FIRST), observable(m)[0]
    before = features(m, "attn2.1@3", n, "scale", t)
    resid = t.resid.clone()
    resid[3] = 0
    resid[2, :3] = 0
    assert torch.equal(features(m, "attn2.1@3", n, "scale", changed(t, resid=resid, mid=0 * t.mid)), before)
    resid[2, 3] *= 2
    after = features(m, "attn2.1@3", n, "scale", changed(t, resid=resid))
    assert gap(2 * after, before) < RELATIVE
