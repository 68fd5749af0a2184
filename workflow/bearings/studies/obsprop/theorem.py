"""The LayerNorm theorem (protocol 4.7) and the coupling theorem (4.3): closed forms and simulations, in float64.

LayerNorm theorem: for f(x) = n . LN(x) without weights, theta is the angle between n and the gradient of f. The
gradient is n without its parts along 1 and along the centred x, times a number, so that sin(theta) is the length of
what two of d coordinates hold of the unit vector along n: only n has to be isotropic, x may be anything.

Coupling theorem: of all x of one length with the same score x . y1, the mean score x . y2 is that score times
C(y1, y2) = y1 . y2 / |y1|^2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from scipy.special import gammaln

# Numbers held at once by a simulation: 16 MB of float64 per array.
AT_ONCE = 2_000_000


def expected_angle(d: int) -> float:
    """Mean of theta in radians at width d: (sqrt(pi)/2) Gamma((d-1)/2) / Gamma(d/2)."""
    return math.sqrt(math.pi) / 2 * math.exp(gammaln((d - 1) / 2) - gammaln(d / 2))


def expected_cos(d: int) -> float:
    """Mean of cos(theta) at width d: (d-2)/(d-1)."""
    return (d - 2) / (d - 1)


def bound(d: int) -> float:
    """The paper's bound on the mean of theta for d >= 8, radians: 2 arccos(sqrt(1 - 1/(d-1)))."""
    return 2 * math.acos(math.sqrt(1 - 1 / (d - 1)))


def gradient(x: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Gradient [..., d] of n . LN(x) at x [..., d], LN without weights and epsilon."""
    n = n - n.mean(-1, keepdims=True)
    x = x - x.mean(-1, keepdims=True)
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    u = x / length
    return math.sqrt(x.shape[-1]) / length * (n - u * (u * n).sum(-1, keepdims=True))


def angle(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Angles [...] in radians between vectors [..., d]."""
    return np.arccos(np.clip(cosine(a, b), -1.0, 1.0))


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosines [...] of vectors [..., d]; NaN where one of them is zero."""
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(-1) / lengths


def angles(d: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """theta [draws] in radians for independent standard Gaussian x and n of width d."""
    out = []
    for size in _chunks(draws, d):
        x, n = rng.standard_normal((2, size, d))
        out.append(angle(n, gradient(x, n)))
    return np.concatenate(out)


def coupling(y1: np.ndarray, y2: np.ndarray) -> float:
    """C(y1, y2) = y1 . y2 / |y1|^2 of vectors [d]."""
    return float(y1 @ y2 / (y1 @ y1))


def coupling_bound(y1: np.ndarray, y2: np.ndarray, s: float, k: float) -> float:
    """How far x . y2 can be from k C for |x| = s and x . y1 = k; the standard deviation is that over sqrt(d-1)."""
    across = y2 - coupling(y1, y2) * y1
    return float(np.linalg.norm(across) * _radius(y1, s, k))


def coupling_samples(
    y1: np.ndarray, y2: np.ndarray, s: float, k: float, draws: int, rng: np.random.Generator
) -> np.ndarray:
    """x . y2 [draws] for x uniform on the part of the sphere |x| = s in R^d where x . y1 = k.

    Raises:
        ValueError: no x of that length has that score.
    """
    y1, y2 = np.asarray(y1, np.float64), np.asarray(y2, np.float64)
    radius, unit = _radius(y1, s, k), y1 / np.linalg.norm(y1)
    out = []
    for size in _chunks(draws, len(y1)):
        across = rng.standard_normal((size, len(y1)))
        across -= np.outer(across @ unit, unit)
        across *= radius / np.linalg.norm(across, axis=1, keepdims=True)
        out.append((k / np.linalg.norm(y1) * unit + across) @ y2)
    return np.concatenate(out)


def _radius(y1: np.ndarray, s: float, k: float) -> float:
    """Radius of the sphere that the plane x . y1 = k cuts out of |x| = s."""
    square = s**2 - k**2 / float(y1 @ y1)
    if square < 0:
        raise ValueError(
            f"no x of length {s} has the score {k} with a feature of length {np.linalg.norm(y1)}"
        )
    return math.sqrt(square)


def _chunks(draws: int, d: int) -> Iterator[int]:
    size = max(1, AT_ONCE // d)
    for first in range(0, draws, size):
        yield min(size, draws - first)
