"""Perturbations of a residual, protocol section 4.2: pure functions on x [batch, pos, d]."""

from __future__ import annotations

import torch
from torch import Tensor

NORMS = ("recon", "true")


def along(x: Tensor, direction: Tensor, length: float | Tensor) -> Tensor:
    """x + L d / |d|, every position along its own direction [batch, pos, d] (or one [d] for all).

    length: a number or [batch, pos] (such as |SAE(x) - x|) -> [batch, pos, d]; lengths [k] -> [k, batch, pos, d],
    all along the same directions. A direction of length zero leaves x as it is.
    """
    step = unit(direction)
    if not isinstance(length, Tensor):
        return x + length * step
    length = length.to(x.dtype)
    if length.ndim == 1:
        return x + length.view(-1, *[1] * x.ndim) * step
    if length.ndim and length.shape != x.shape[:-1]:
        raise ValueError(
            f"length must be a number, [k] or {list(x.shape[:-1])}, found shape {list(length.shape)}"
        )
    return x + length[..., None] * step


def norm_corrected(x: Tensor, xhat: Tensor) -> Tensor:
    """The direction of the reconstruction with the norm of x; a reconstruction of zero stays zero."""
    return unit(xhat) * x.norm(dim=-1, keepdim=True)


def norm_only(x: Tensor, xhat: Tensor) -> Tensor:
    """The direction of x with the norm of the reconstruction; x = 0 stays zero."""
    return unit(x) * xhat.norm(dim=-1, keepdim=True)


def theta(x: Tensor, xhat: Tensor, u: Tensor, norm: str = "recon") -> Tensor:
    """cos(t) x/|x| + sin(t) u, t the angle of x and xhat: as far from x as xhat is, but in a random direction.

    u: any vectors [batch, pos, d]; their part orthogonal to x is taken and scaled to length one.
    norm: the result has the norm of the reconstruction ("recon") or of x ("true").
    With the part of xhat orthogonal to x as u, "recon" gives xhat back. xhat = 0 gives zero.

    Raises ValueError for another norm.
    """
    if norm not in NORMS:
        raise ValueError(f"norm {norm!r} is unknown; allowed: {', '.join(NORMS)}")
    axis = unit(x)
    beside = unit(_orthogonal(_orthogonal(u, axis), axis))  # once more: the first leaves its own rounding
    # sin from the orthogonal part: sqrt(1 - cos^2) has no digits left at the small angles of a good SAE.
    cosine = (unit(xhat) * axis).sum(-1, keepdim=True)
    sine = _orthogonal(unit(xhat), axis).norm(dim=-1, keepdim=True)
    return (cosine * axis + sine * beside) * (xhat if norm == "recon" else x).norm(dim=-1, keepdim=True)


def only_at(x: Tensor, changed: Tensor, position: int | Tensor) -> Tensor:
    """`changed` [..., batch, pos, d] at one position (a number, or one per sequence [batch]), x elsewhere.

    Positions other than that one keep the bits of x. Raises ValueError for a position outside the sequence.
    """
    where = torch.as_tensor(position, device=x.device).expand(x.shape[0])
    if where.min() < 0 or where.max() >= x.shape[1]:
        raise ValueError(
            f"position must be 0 to {x.shape[1] - 1}, found {where.min().item()} to {where.max().item()}"
        )
    chosen = torch.arange(x.shape[1], device=x.device) == where[:, None]
    return torch.where(chosen[..., None], changed, x)


def unit(v: Tensor) -> Tensor:
    """v / |v| over the last axis; zero stays zero."""
    norm = v.norm(dim=-1, keepdim=True)
    return torch.where(norm > 0, v / norm, 0.0)


def _orthogonal(v: Tensor, axis: Tensor) -> Tensor:
    return v - (v * axis).sum(-1, keepdim=True) * axis
