"""The paper's metrics (protocol 2, "Metrics") as statistics of columns, so that whole rows can be resampled.

Every function reduces the last axis. LD is a logit difference against the clean prompt's answers; `sign` is +1 where
the clean prompt is positive and -1 where it is negative.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def recovered(clean: Array, corrupted: Array, patched: Array, axis: int = -1) -> Array:
    """REC = 100 (LD_patched - LD_corrupted) / (LD_clean - LD_corrupted), of mean LDs."""
    clean, corrupted, patched = (x.mean(axis=axis) for x in (clean, corrupted, patched))
    clean, corrupted = _beside(clean, patched), _beside(corrupted, patched)
    return 100 * (patched - corrupted) / (clean - corrupted)


def flipped(clean: Array, corrupted: Array, patched: Array, sign: Array, axis: int = -1) -> Array:
    """FLIP = 100 (A_patched - A_corrupted) / (A_clean - A_corrupted); A is the share of centred LDs above 0."""
    a, b, c = (centred_accuracy(x, sign) for x in (clean, corrupted, patched))
    a, b = _beside(a, c), _beside(b, c)
    return 100 * (c - b) / (a - b)


def flipped_raw(clean: Array, corrupted: Array, patched: Array, axis: int = -1) -> Array:
    """FLIP without centring: literal changes of sign."""
    a, b, c = ((x > 0).mean(axis=axis) for x in (clean, corrupted, patched))
    a, b = _beside(a, c), _beside(b, c)
    return 100 * (c - b) / (a - b)


def turned(clean: Array, patched: Array, axis: int = -1) -> Array:
    """Share, in per cent, of patched LDs on the side of the mean clean LD: the circuit's flips (protocol 4.7)."""
    side = _beside(np.sign(clean.mean(axis=axis)), patched.mean(axis=axis))
    return 100 * (patched * np.expand_dims(side, axis) > 0).mean(axis=axis)


def centred_accuracy(ld: Array, sign: Array) -> Array:
    """Share of LD > 0 once the set's bias towards one class is taken out (protocol 4.4); needs balanced rows."""
    if sign.ndim < ld.ndim:
        sign = np.expand_dims(sign, -2)
    bias = (sign * ld).mean(-1, keepdims=True)
    return (ld - sign * bias > 0).mean(-1)


def above_lost(ablated: Array, clean: Array | None = None, axis: int = -1) -> Array:
    """ABOVE = 100 (ACC_clean - ACC_ablated) / (ACC_clean - 0.5); without `clean`, ACC_clean is 1 by selection."""
    accuracy = (ablated > 0).mean(axis=axis)
    whole = 1.0 if clean is None else _beside((clean > 0).mean(axis=axis), accuracy)
    return 100 * (whole - accuracy) / (whole - 0.5)


def dropped(ablated: Array, clean: Array, axis: int = -1) -> Array:
    """DROP = 100 (LD_clean - LD_ablated) / LD_clean, of mean LDs."""
    ablated, clean = ablated.mean(axis=axis), clean.mean(axis=axis)
    clean = _beside(clean, ablated)
    return 100 * (clean - ablated) / clean


def changed(patched: Array, clean: Array, axis: int = -1) -> Array:
    """TMS% = 100 (LD_patched - LD_clean) / LD_clean, of mean LDs; -200 turns every answer round."""
    return -dropped(patched, clean, axis)


def _beside(base: Array, other: Array) -> Array:
    """Line up a base [...] with draws [..., draws]."""
    return np.expand_dims(base, -1) if np.ndim(base) < np.ndim(other) else base
