"""Statistics of resampled means on their way to estimates: formed, combined over SAEs, or missing with the reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bearings.evidence.paired import Paired
from bearings.evidence.stats import Estimate

Measures = dict[str, Estimate]
UNDEFINED = "undefined: something divided by is 0, or a logarithm is of 0"


@dataclass(frozen=True, eq=False)
class Drawn:
    """A statistic [1 + resamples] from `n` sequences; `values` is None where it could not be formed, and `why`."""

    values: np.ndarray | None
    n: int = 0
    why: str = ""

    def estimate(
        self, paired: Paired, unit: str = "", reason: str = "", undefined: str = UNDEFINED
    ) -> Estimate:
        if self.values is None:
            return Estimate.missing(self.why, self.n, unit)
        fewer = f"{self.n} of {paired.n} sequences have it" if self.n < paired.n else ""
        said = "; ".join(x for x in (reason, fewer) if x)
        return paired.estimate(self.values, self.n, unit, said, undefined)

    def then(self, function: Callable[[np.ndarray], np.ndarray]) -> Drawn:
        """A function of the statistic."""
        if self.values is None:
            return self
        with np.errstate(all="ignore"):
            return Drawn(function(self.values), self.n)


def combined(statistic: Callable[[np.ndarray], np.ndarray], parts: Sequence[Drawn], least: int = 1) -> Drawn:
    """A statistic of several [1 + resamples, m] that were measured; those that were not are left out.

    `least` is how many it takes.
    """
    known = [p for p in parts if p.values is not None and np.isfinite(p.values[0])]
    if len(known) < least:
        why = next((p.why for p in parts if p.why), UNDEFINED if parts else "there are none")
        return Drawn(None, 0, f"{len(known)} of the {least} needed can be measured: {why}")
    with np.errstate(all="ignore"):
        return Drawn(statistic(np.stack([p.values for p in known], -1)), min(p.n for p in known))


def extreme(
    paired: Paired, parts: Mapping[str, Drawn], sign: int, unit: str = "", reason: str = ""
) -> Estimate:
    """The statistic of the SAE where it is largest (sign 1), smallest (-1) or furthest from 0 (0), as measured."""
    known = {s: d for s, d in parts.items() if d.values is not None and np.isfinite(d.values[0])}
    if not known:
        return combined(first, list(parts.values())).estimate(paired, unit)

    def height(sae: str) -> float:
        value = float(known[sae].values[0])
        return sign * value if sign else abs(value)

    sae = max(known, key=height)
    which = f"{sae}, of {len(known)} SAEs"
    return known[sae].estimate(paired, unit, f"{reason}; {which}" if reason else which)


def first(values: np.ndarray) -> np.ndarray:
    """The one column of [..., 1]."""
    return values[..., 0]


def absolute(found: Estimate) -> Estimate:
    """|x| of an estimate of x: the interval of |x| that its interval allows, from 0 where it holds 0."""
    if found.value is None:
        return found
    low, high = found.low, found.high
    if low is not None and high is not None:
        ends = sorted((abs(low), abs(high)))
        low, high = (0.0 if low <= 0 <= high else ends[0]), ends[1]
    return Estimate(abs(found.value), low, high, found.n, found.unit, found.reason)
