"""Local SAEs: sae-lens's own trainer over residuals held in memory, one pass over the data for a whole ladder.

Residuals are scaled to a mean norm of sqrt(d) for training and the scale is folded into the weights afterwards, so
that one set of coefficients serves every layer. In these units a coefficient is the protocol's lambda times that
scale (section 4.6).
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Set before sae-lens is imported: it would ask for an account.
os.environ.setdefault("WANDB_MODE", "disabled")

from sae_lens import StandardTrainingSAE, StandardTrainingSAEConfig
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.training.multi_sae_trainer import MultiSAETrainer

# Rows whose mean L0 is recorded as that of the training run.
EVALUATED = 8192
HOOK = "resid"


@dataclass(frozen=True)
class Options:
    """How a ladder is trained: `samples` residuals in steps of `batch`; the rate `lr` rises over the first share
    `warmup` of the steps and falls linearly to nought over the last share `decay`. `init_norm` is the norm of the
    decoder's rows at the start, which are the encoder's columns too: near sqrt(d_in / d_sae) the sum of what fires
    is about the input, far below it nothing."""

    samples: int
    batch: int
    lr: float
    warmup: float = 0.05
    decay: float = 0.2
    init_norm: float = 0.1

    def __post_init__(self) -> None:
        if self.batch < 1 or self.samples < self.batch:
            raise ValueError(f"samples {self.samples} must be at least one batch of {self.batch}")
        check_schedule(self.lr, self.warmup, self.decay, self.init_norm)


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained SAE in the residual stream's own units, its coefficient and its mean L0 on training rows."""

    coefficient: float
    sae: StandardTrainingSAE
    l0: float


def check_schedule(lr: float, warmup: float, decay: float, init_norm: float) -> None:
    """Raise ValueError, naming the key, for a rate, a share or a norm out of range."""
    if not lr > 0:
        raise ValueError(f"lr must be above 0, found {lr}")
    if not (min(warmup, decay) >= 0 and warmup + decay <= 1):
        raise ValueError(f"warmup {warmup} and decay {decay} are shares of the steps, together at most 1")
    if not init_norm > 0:
        raise ValueError(f"init_norm must be above 0, found {init_norm}")


def scale_of(x: Tensor) -> float:
    """sqrt(d) over the mean norm of x [n, d].

    Raises:
        ValueError: no rows, or nothing but zeros.
    """
    norm = float(x.norm(dim=-1).double().mean()) if len(x) else 0.0
    if not norm > 0:
        raise ValueError(f"residuals [{x.shape[0]}, {x.shape[1]}] to train on hold nothing")
    return x.shape[-1] ** 0.5 / norm


def new_sae(
    d_in: int, d_sae: int, coefficient: float, bias: Tensor, seed: int, init_norm: float
) -> StandardTrainingSAE:
    """An untrained SAE; the seed alone decides its weights, so all of a ladder start alike.

    The input is not centred (protocol 4.6), but `bias` [d_in] is where the decoder's bias starts: the mean
    residual, which a short training would otherwise spend its steps on.
    """
    config = StandardTrainingSAEConfig(
        d_in=d_in,
        d_sae=d_sae,
        apply_b_dec_to_input=False,
        l1_coefficient=coefficient,
        decoder_init_norm=init_norm,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sae = StandardTrainingSAE(config)
    with torch.no_grad():
        sae.b_dec.copy_(bias)
    return sae


def finish(sae: StandardTrainingSAE, coefficient: float, scale: float, x: Tensor) -> Trained:
    """Fold the scale into the weights and count the features that fire on x [n, d], the first rows of it."""
    sae.eval()
    sae.fold_activation_norm_scaling_factor(scale)
    with torch.no_grad():
        l0 = float((sae.encode(x[:EVALUATED]) > 0).sum(-1).double().mean())
    return Trained(coefficient, sae, l0)


def train_ladder(
    x: Tensor, coefficients: Sequence[float], d_sae: int, options: Options, seed: int
) -> list[Trained]:
    """SAEs of the residuals x [n, d], one for each coefficient, on the same batches in the same order.

    Loss: squared error summed over d + coefficient * sum of f |W_dec row|, means over tokens, in scaled units; the
    norm of the gradient is clipped at 1 by sae-lens.
    """
    scale = scale_of(x)
    scaled = x * scale
    mean = scaled.mean(0)
    steps = options.samples // options.batch
    names = {f"{i}": c for i, c in enumerate(coefficients)}
    saes = {name: new_sae(x.shape[1], d_sae, c, mean, seed, options.init_norm) for name, c in names.items()}
    trainer = MultiSAETrainer(
        cfg=SAETrainerConfig(
            total_training_samples=steps * options.batch,
            train_batch_size_samples=options.batch,
            lr=options.lr,
            lr_end=options.lr / 10,
            lr_warm_up_steps=round(options.warmup * steps),
            lr_decay_steps=round(options.decay * steps),
            # Longer than the run: nothing is reset or logged on the way.
            feature_sampling_window=steps + 1,
            logger=LoggingConfig(log_to_wandb=False),
        ),
        saes=saes,
        hook_names=dict.fromkeys(names, HOOK),
        data_provider=({HOOK: batch} for batch in shuffled(scaled, options.batch, seed)),
    )
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
        trainer.fit()
    return [finish(saes[name], c, scale, x) for name, c in names.items()]


def shuffled(x: Tensor, batch: int, seed: int) -> Iterator[Tensor]:
    """Batches [batch, ...] of the rows of x without end, each pass over them in a new order."""
    for rows in orders(len(x), batch, seed):
        yield x[rows]


def orders(n: int, batch: int, seed: int) -> Iterator[Tensor]:
    """Indices [batch] below n without end: pass after pass, each in a new order, a batch may span two passes."""
    rng = np.random.default_rng([seed, 0])
    left = np.empty(0, dtype=np.int64)
    while True:
        while len(left) < batch:
            left = np.concatenate([left, rng.permutation(n)])
        yield torch.from_numpy(left[:batch])
        left = left[batch:]


def options_from(settings: Mapping[str, Any], kind: type, section: str) -> Any:
    """`kind` (a dataclass of options) from a section of the settings without its coefficients.

    Raises:
        ValueError: an unknown or missing key, or a value out of range; the section is named.
    """
    given = {k: v for k, v in settings.items() if not k.endswith("coefficients")}
    try:
        return kind(**given)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"settings {section}: {str(error).removeprefix(kind.__name__ + '.__init__() ')}"
        ) from None
