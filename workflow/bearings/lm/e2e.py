"""End-to-end SAEs: trained so that the model behind them says the same (protocol 4.6), with the model frozen.

The model is resumed from cached residuals at the SAE's layer. One clean pass of a batch serves a whole ladder, whose
SAEs are stacked on the batch axis; each has its own optimiser, and none sees another's gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bearings.lm.forward import ALL, Prepared, Tokens, forward, prepare, repeat
from bearings.lm.ladder import Trained, check_schedule, finish, new_sae, orders, scale_of
from bearings.lm.load import Model

# A run is some hundred steps, fewer than the thousand over which Adam's usual 0.999 averages.
BETAS = (0.9, 0.98)


@dataclass(frozen=True)
class E2eOptions:
    """How a ladder is trained: `rows` rows of tokens in steps of `batch_rows`, and the rate as for local SAEs.

    `kl` is the weight c_kl of the divergence, `downstream` the weight c_ds that the layers behind share, in units of
    the squared scaled residual; `clip` bounds the norm of each SAE's gradient.
    """

    rows: int
    batch_rows: int
    lr: float
    warmup: float = 0.05
    decay: float = 0.2
    kl: float = 1.0
    downstream: float = 0.0
    clip: float = 10.0
    init_norm: float = 0.1

    def __post_init__(self) -> None:
        if self.batch_rows < 1 or self.rows < self.batch_rows:
            raise ValueError(f"rows {self.rows} must be at least one batch of {self.batch_rows}")
        if self.kl < 0 or self.downstream < 0 or self.kl + self.downstream == 0:
            raise ValueError(
                f"kl {self.kl} and downstream {self.downstream} are weights, at least one above 0"
            )
        if not self.clip > 0:
            raise ValueError(f"clip must be above 0, found {self.clip}")
        check_schedule(self.lr, self.warmup, self.decay, self.init_norm)


@dataclass(frozen=True, eq=False)
class Terms:
    """The three terms of the loss without their weights: KL(P||Q) in nats, the sum of f |W_dec row| over d_in, and
    the squared error of the residuals behind, mean over dims, tokens and layers; one number for each SAE."""

    kl: Tensor
    sparsity: Tensor
    downstream: Tensor


@dataclass(frozen=True, eq=False)
class Target:
    """A batch's clean pass: probabilities [b, pos, vocab], their negative entropy in nats, residuals by layer."""

    prepared: Prepared
    resid: Tensor
    probs: Tensor
    negentropy: Tensor
    behind: dict[int, Tensor]


def target(model: Model, ids: Tensor, resid: Tensor, layer: int, downstream: bool) -> Target:
    """The clean pass of tokens ids [b, pos] resumed at `layer` from resid [b, pos, d]."""
    prepared = prepare(model, Tokens(ids, torch.ones_like(ids, dtype=torch.bool)))
    keep = range(layer + 1, model.n_layers) if downstream else ()
    clean = forward(model, prepared, start=layer, resid=resid, keep=keep, rows=ALL)
    log_probs = clean.logits.log_softmax(-1)
    probs = log_probs.exp()
    negentropy = (probs * log_probs).sum(-1).mean()
    return Target(prepared, resid, probs, negentropy, {k: clean.resid[k] for k in keep})


def terms(model: Model, saes: Sequence, goal: Target, layer: int, scale: float) -> Terms:
    """The loss terms of each SAE, every position replaced; gradients flow to the SAEs alone."""
    n, d = len(saes), goal.resid.shape[-1]
    x = goal.resid * scale
    features = [sae.encode(x) for sae in saes]
    # The mean over tokens first: the norms are the same for every token.
    sparsity = [(f.mean((0, 1)) * s.W_dec.norm(dim=1)).sum() / d for f, s in zip(features, saes, strict=True)]
    changed = torch.cat([s.decode(f) for f, s in zip(features, saes, strict=True)]) / scale
    out = forward(
        model, repeat(goal.prepared, n), start=layer, resid=changed, keep=goal.behind, rows=ALL, grad=True
    )
    log_q = out.logits.log_softmax(-1).view(n, *goal.probs.shape)
    kl = goal.negentropy - (goal.probs * log_q).sum(-1).mean((1, 2))
    errors = [
        (scale * (out.resid[k].view(n, *clean.shape) - clean)).square().mean((1, 2, 3))
        for k, clean in goal.behind.items()
    ]
    downstream = torch.stack(errors).mean(0) if errors else torch.zeros_like(kl)
    return Terms(kl, torch.stack(sparsity), downstream)


def train_e2e(
    model: Model,
    ids: Tensor,
    resid: Tensor,
    layer: int,
    coefficients: Sequence[float],
    d_sae: int,
    options: E2eOptions,
    seed: int,
    max_tokens: int,
) -> list[Trained]:
    """SAEs of layer `layer`, one for each coefficient lambda, on the same batches in the same order.

    ids [rows, pos] tokens, resid [rows, pos, d] the residuals that enter the layer. At most `max_tokens` tokens are
    resumed at once (or one SAE's batch). Loss per SAE: c_kl KL(P||Q) + lambda sparsity + c_ds downstream.
    """
    if options.downstream and layer + 1 >= model.n_layers:
        raise ValueError(
            f"layer {layer} of {model.n_layers} has no layers behind it to hold downstream terms to"
        )
    flat = resid.flatten(0, 1)
    scale = scale_of(flat)
    bias = flat.mean(0) * scale
    saes = [new_sae(flat.shape[1], d_sae, c, bias, seed, options.init_norm) for c in coefficients]
    optimisers = [torch.optim.Adam(sae.parameters(), lr=options.lr, betas=BETAS, fused=True) for sae in saes]
    steps = options.rows // options.batch_rows
    together = max(1, max_tokens // (options.batch_rows * ids.shape[1]))
    batches = orders(len(ids), options.batch_rows, seed)
    for step in range(steps):
        rows = next(batches)
        goal = target(model, ids[rows], resid[rows], layer, options.downstream > 0)
        for first in range(0, len(saes), together):
            group = slice(first, first + together)
            found = terms(model, saes[group], goal, layer, scale)
            weights = torch.tensor(coefficients[group])
            # A sum over SAEs: each parameter belongs to one of them, so this is each one's own gradient.
            loss = options.kl * found.kl + weights * found.sparsity + options.downstream * found.downstream
            loss.sum().backward()
        for sae, optimiser in zip(saes, optimisers, strict=True):
            for rates in optimiser.param_groups:
                rates["lr"] = options.lr * share(step, steps, options.warmup, options.decay)
            torch.nn.utils.clip_grad_norm_(sae.parameters(), options.clip)
            optimiser.step()
            optimiser.zero_grad()
    return [finish(sae, c, scale, flat) for sae, c in zip(saes, coefficients, strict=True)]


def share(step: int, steps: int, warmup: float, decay: float) -> float:
    """The rate at `step` as a share of its largest: a linear rise, a plateau, a linear fall towards nought."""
    rise = min(1.0, (step + 1) / max(1.0, warmup * steps))
    fall = min(1.0, (steps - step) / max(1.0, decay * steps))
    return rise * fall
