"""Section 2 of the paper: one direction per layer, by six methods, from residuals at the adjective.

Every method gives keys "variant/layer": `published` fits on the authors' 15 words per class, `corrected` on all.
Vectors keep their fitted length; signs point from negative to positive words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bearings.stages.dumps import Dump
from bearings.stages.prompts import Prompt
from bearings.studies.sentiment.common import corrupted, enough, toy

VARIANTS = ("published", "corrected")
# Methods that train through the model: dimension of the span, positions patched in training, variants fitted.
TRAINED = {
    "das": (1, "adj", VARIANTS),
    "das2d": (2, "adj", ("corrected",)),
    "das3d": (3, "adj", ("corrected",)),
    "das_all": (1, "all", ("corrected",)),
}
NEEDS_MODEL = frozenset(TRAINED)


def fit(
    method: str,
    prompts: Mapping[str, Sequence[Prompt]],
    dumps: Mapping[str, Dump],
    settings: Mapping[str, Any],
    seed: int,
    model=None,
) -> dict[str, np.ndarray]:
    """Directions of one method: {"variant/layer": [d_model] or [k, d_model]}; empty if the words are too few."""
    words = prompts["toy"]
    if not enough(toy(words, "train")):
        return {}
    dump = dumps["toy"]
    layers = dump.layers if settings["layers"] == "all" else settings["layers"]
    if method == "random":
        return _random(dump.width, layers, settings["random_draws"], seed)
    if method in TRAINED:
        dims, where, variants = TRAINED[method]
        return {
            f"{variant}/{layer}": das(
                model, toy(words, "train", variant), layer, dims, where, settings["das"], seed
            )
            for variant in variants
            for layer in layers
        }
    return {
        f"{variant}/{layer}": _closed_form(
            method, *_labelled(toy(words, "train", variant), dump, layer), settings
        )
        for variant in VARIANTS
        for layer in layers
    }


def _labelled(prompts: Sequence[Prompt], dump: Dump, layer: int) -> tuple[np.ndarray, np.ndarray]:
    x = dump.at("adj", [p.id for p in prompts], layer).astype(np.float64)
    return x, np.array([p.label for p in prompts])


def _closed_form(method: str, x: np.ndarray, y: np.ndarray, settings: Mapping[str, Any]) -> np.ndarray:
    """Protocol 4.1, items 1-4, on residuals x [n, d_model] with labels y [n]."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression

    means = x[y == 1].mean(0) - x[y == 0].mean(0)
    if method == "mean_diff":
        d = means
    elif method == "kmeans":
        centres = KMeans(2, n_init=10, random_state=settings["sklearn_seed"]).fit(x).cluster_centers_
        d = centres[1] - centres[0]
    elif method == "logistic":
        model = LogisticRegression(
            solver="liblinear", C=1.0, max_iter=1000, tol=1e-4, random_state=settings["sklearn_seed"]
        )
        d = model.fit(x, y).coef_[0]
    elif method == "pca":
        d = PCA(1, svd_solver="full").fit(x).components_[0]
    else:
        raise ValueError(f"unknown method {method!r}")
    # Clusters, components and subspaces have no sign of their own.
    return (d if d @ means >= 0 else -d).astype(np.float32)


def _random(d_model: int, layers: Sequence[int], draws: int, seed: int) -> dict[str, np.ndarray]:
    """Gaussian unit vectors, one per draw and layer: control C1."""
    rng = np.random.default_rng([seed, 310])
    made = rng.standard_normal((draws, len(layers), d_model))
    made /= np.linalg.norm(made, axis=-1, keepdims=True)
    return {
        f"{draw}/{layer}": made[draw, i].astype(np.float32)
        for draw in range(draws)
        for i, layer in enumerate(layers)
    }


def das(
    model,
    prompts: Sequence[Prompt],
    layer: int,
    dims: int,
    where: str,
    settings: Mapping[str, Any],
    seed: int,
) -> np.ndarray:
    """Distributed alignment search, protocol 4.1 item 5: the span whose patching restores the clean answer.

    Minimises (LD_patched - LD_clean) / (LD_corrupted - LD_clean) over orthonormal rows R [dims, d_model], where the
    residual at `layer` becomes h_corrupted + R^T R (h_clean - h_corrupted), at the adjective or at all positions.
    At the last layer the adjective cannot reach the answer: the start vector comes back, which is control C4.

    Returns [d_model] for one dimension, else [dims, d_model].
    """
    import torch

    from bearings.lm.forward import forward
    from bearings.stages.batch import logit_difference, make_batch

    width = max(len(p.ids) for p in prompts)
    clean, other = make_batch(model, prompts, width), make_batch(model, corrupted(prompts), width)
    h_clean, h_other = (forward(model, b.prepared, keep=[layer]).resid[layer] for b in (clean, other))
    mask = (other.at("adj") if where == "adj" else other.mask)[..., None]

    def ld(resid, grad=False):
        out = forward(
            model, other.prepared, start=layer, resid=resid, rows=clean.rows, columns=clean.columns, grad=grad
        )
        return (logit_difference(out.logits) * clean.sign).mean()

    ld_clean, ld_other = ld(h_clean), ld(h_other)
    generator = torch.Generator().manual_seed(seed * 1009 + layer * 31 + dims)
    rows, parameters = _orthonormal(model.info.d_model, dims, settings["parametrisation"], generator)
    if not (where == "adj" and layer == model.n_layers):
        optimiser = torch.optim.Adam(parameters, lr=settings["lr"])
        for _ in range(settings["epochs"]):
            r = rows()
            patched = h_other + mask * ((h_clean - h_other) @ r.T @ r)
            loss = (ld(patched, grad=True) - ld_clean) / (ld_other - ld_clean)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
    with torch.no_grad():
        r = rows()
        at = other.at("adj").nonzero(as_tuple=True)
        apart = (h_clean[at] - h_other[at]) * clean.sign[:, None]
        # Each row points the way the mean difference does; a span has no other sign.
        r = r * torch.where((apart.mean(0) @ r.T) >= 0, 1.0, -1.0)[:, None]
    r = r.numpy().astype(np.float32)
    return r[0] if dims == 1 else r


def _orthonormal(d_model: int, dims: int, parametrisation: str, generator):
    """A function that gives orthonormal rows [dims, d_model], and the parameters it is made of.

    `vector` optimises the rows themselves (cheap); `matrix` the first columns of a d_model x d_model orthogonal
    matrix, exp(L - L^T) with L the part below the diagonal of a matrix that starts orthogonal, as the authors did.
    """
    import torch

    if parametrisation == "vector":
        free = torch.randn(dims, d_model, generator=generator).requires_grad_()
        if dims == 1:
            return (lambda: free / free.norm()), [free]
        return (lambda: torch.linalg.qr(free.T).Q.T), [free]
    if parametrisation == "matrix":
        # At d = 768 this start has coordinate 0 at 0.566, as the published vector that was never trained.
        free = torch.linalg.qr(torch.randn(d_model, d_model, generator=generator)).Q.clone().requires_grad_()
        return (lambda: torch.linalg.matrix_exp(free.tril(-1) - free.tril(-1).T)[:, :dims].T), [free]
    raise ValueError(f"settings fit.das.parametrisation is {parametrisation!r}; allowed: vector, matrix")
