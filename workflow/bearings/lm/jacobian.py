"""Jacobians: a held prompt becomes the affine maps from one residual to later residuals at other layers.

Hernandez et al., arXiv 2308.09124, section 3.1: F maps the residual s at one position entering block `start`
to the residual o at later positions and a later layer; W = dF/ds and b = F(s) - W s. Everything before the
position is fixed and every position from it on is recomputed. Forward mode: one pass of tangents gives every
layer and aggregation at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bearings.lm.forward import forward
from bearings.lm.load import Model
from bearings.lm.prefix import Held, hold

AGGREGATIONS = ("mean", "first")
# Tangents per pass. Enough to fill the matrix products, few enough for the activations to stay near the
# cores; fixed, because the shape of a batch decides the last bits of its results.
CHUNK = 128

Key = tuple[int, str]


@dataclass(frozen=True, eq=False)
class Linearised:
    """F at one source residual to first order: F(s + u) is about value + W u.

    W: dF/ds [d_model, d_model], row: output. value: F(s) [d_model]. source: s [d_model].
    """

    W: Tensor
    value: Tensor
    source: Tensor

    @property
    def bias(self) -> Tensor:
        """b = F(s) - W s [d_model], so that F(s) = W s + b."""
        return self.value - self.W @ self.source


def jacobians(
    model: Model,
    ids: Sequence[int],
    source: int,
    targets: Sequence[int],
    start: int,
    layers: Sequence[int],
    aggregations: Sequence[str] = AGGREGATIONS,
    chunk: int = CHUNK,
) -> dict[Key, Linearised]:
    """The maps of one unpadded prompt; `hold` and `linearise` share the prefix between several `start`.

    ids: the prompt with its answer; tokens after the last target do not matter. Otherwise as `linearise`.
    """
    if not targets or not 0 <= min(targets) <= max(targets) < len(ids):
        raise ValueError(f"targets must be 0 to {len(ids) - 1} and at least one, found {list(targets)}")
    if not 0 <= source <= min(targets):
        raise ValueError(f"source must be 0 to {min(targets)}, the first target, found {source}")
    return linearise(hold(model, ids, source, max(targets)), targets, start, layers, aggregations, chunk)


def linearise(
    held: Held,
    targets: Sequence[int],
    start: int,
    layers: Sequence[int],
    aggregations: Sequence[str] = AGGREGATIONS,
    chunk: int = CHUNK,
) -> dict[Key, Linearised]:
    """Maps from the residual at `held.source` entering block `start`, keyed by (layer, aggregation).

    targets: positions in the prompt, ascending, whose residuals are aggregated: their "mean", or the "first".
    layers: where they are read: the residual entering block `layer` (n_layers: before the final norm), each
      after `start`. In the paper's count, by block output, these are start - 1 and layer - 1.
    chunk: tangents per pass, 0 for all; it limits memory and decides the last bits.

    Results are fp32, or fp64 for an fp64 model. Raises ValueError, naming the argument.
    """
    _check(held, targets, start, layers, aggregations, chunk)
    rest = held.resid[start]
    at = [position - held.source for position in targets]

    def outputs(s: Tensor) -> dict[Key, Tensor]:
        x = torch.cat([s[None], rest[1:]])[None]
        resid = forward(held.model, held.rest, start=start, resid=x, keep=layers).resid
        return {
            (layer, how): _aggregate(resid[layer][0, at], how) for layer in layers for how in aggregations
        }

    def push(tangent: Tensor) -> tuple[dict[Key, Tensor], dict[Key, Tensor]]:
        return torch.func.jvp(outputs, (rest[0],), (tangent,))

    basis = torch.eye(rest.shape[1], dtype=rest.dtype, device=rest.device)
    with torch.no_grad():
        parts = [
            torch.func.vmap(push, out_dims=(None, 0))(tangents)
            for tangents in basis.split(chunk or len(basis))
        ]
    wide = torch.promote_types(rest.dtype, torch.float32)
    return {
        key: Linearised(
            torch.cat([part[key] for _, part in parts]).T.to(wide).contiguous(),
            value.to(wide),
            rest[0].to(wide),
        )
        for key, value in parts[0][0].items()
    }


def _aggregate(resid: Tensor, how: str) -> Tensor:
    """[target, d_model] -> [d_model]."""
    return resid.mean(0) if how == "mean" else resid[0]


def _check(
    held: Held,
    targets: Sequence[int],
    start: int,
    layers: Sequence[int],
    aggregations: Sequence[str],
    chunk: int,
) -> None:
    n = held.model.n_layers
    if not targets or list(targets) != sorted(set(targets)):
        raise ValueError(f"targets must be ascending positions, at least one, found {list(targets)}")
    if targets[0] < held.source or targets[-1] > held.last:
        raise ValueError(
            f"targets must be {held.source} (source) to {held.last} (last held), found {list(targets)}"
        )
    if not 0 <= start < n:
        raise ValueError(f"start must be 0 to {n - 1}, found {start}")
    if not layers or min(layers) <= start or max(layers) > n:
        raise ValueError(f"layers must be {start + 1} to {n}, at least one, found {list(layers)}")
    unknown = [how for how in aggregations if how not in AGGREGATIONS]
    if unknown or not aggregations:
        raise ValueError(f"aggregations must be among {', '.join(AGGREGATIONS)}, found {list(aggregations)}")
    if chunk < 0:
        raise ValueError(f"chunk must be 0 (all) or more, found {chunk}")
