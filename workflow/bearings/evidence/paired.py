"""A paired cluster bootstrap of many statistics at once: one draw of the clusters serves every condition.

The clusters are resampled once. Every condition is a column of cluster means, so its resampled mean is a weighted sum
of that column, and a ratio, an area or a rank correlation is computed from the resampled means: what
`bearings.evidence.stats.estimate` does for one statistic, without drawing again for each.
"""

from __future__ import annotations

import numpy as np

from bearings.evidence.stats import Estimate

STREAM = 7
# Columns summed at once, so that a resampled block stays in the processor's cache.
BLOCK = 128


class Paired:
    """Which of `n` clusters each resample holds, and what follows for means, medians and intervals.

    Everything drawn has the shape [1 + resamples, ...]: the first entry is of the clusters as they are.
    """

    def __init__(self, n: int, seed: int, resamples: int = 1000, level: float = 0.95):
        if n < 1 or resamples < 1:
            raise ValueError(f"{n} clusters and {resamples} resamples; must be at least one of each")
        drawn = np.random.default_rng([seed, STREAM]).multinomial(n, np.full(n, 1 / n), size=resamples)
        self.n, self.level, self.seed = n, level, seed
        self.counts = np.vstack([np.ones((1, n)), drawn])

    def like(self, n: int) -> Paired:
        """As many resamples of `n` other clusters."""
        return self if n == self.n else Paired(n, self.seed, len(self.counts) - 1, self.level)

    def means(self, rows: np.ndarray) -> np.ndarray:
        """Means [1 + resamples, k] over clusters of columns [n, k] of cluster means.

        A cluster with NaN (or infinity) in a column is left out of that column; a resample that has none is NaN.
        """
        rows = np.asarray(rows, np.float64)
        finite = np.isfinite(rows)
        weight = self.counts @ finite  # whole numbers: exact
        known = np.where(finite, rows, 0.0)
        total = np.zeros((len(self.counts), rows.shape[1]))
        # Summed cluster by cluster, not by a matrix product: equal columns must give equal bits, so that the
        # ratio of a condition with itself is exactly 1.
        for start in range(0, rows.shape[1], BLOCK):
            block = slice(start, start + BLOCK)
            for cluster in range(self.n):
                total[:, block] += self.counts[:, cluster, None] * known[cluster, block]
        with np.errstate(invalid="ignore", divide="ignore"):
            return total / weight

    def median(self, values: np.ndarray) -> np.ndarray:
        """Medians [1 + resamples] over all values [n, per cluster] of the resampled clusters; NaN is left out."""
        values = np.asarray(values, np.float64)
        finite = np.isfinite(values)
        cluster = np.nonzero(finite)[0]
        order = np.argsort(values[finite], kind="stable")
        ordered = values[finite][order]
        if not len(ordered):
            return np.full(len(self.counts), np.nan)
        # among[j, c]: how many of cluster c's values are among the j smallest.
        among = np.zeros((len(ordered) + 1, self.n), np.int32)
        among[np.arange(1, len(ordered) + 1), cluster[order]] = 1
        np.cumsum(among, axis=0, out=among)
        total = self.counts @ among[-1]
        low = self._ranked(among, np.floor((total + 1) / 2))
        high = self._ranked(among, np.floor(total / 2) + 1)
        return np.where(total > 0, (ordered[low] + ordered[high]) / 2, np.nan)

    def _ranked(self, among: np.ndarray, rank: np.ndarray) -> np.ndarray:
        """Index of the value of that rank in each resample, by bisection."""
        low, high = np.zeros(len(rank), np.int64), np.full(len(rank), len(among) - 1)
        while (high - low > 1).any():
            middle = (low + high) // 2
            enough = np.einsum("bc,bc->b", self.counts, among[middle]) >= rank
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        return high - 1

    def estimate(
        self,
        drawn: np.ndarray,
        n: int | None = None,
        unit: str = "",
        reason: str = "",
        undefined: str = "the statistic is undefined on these rows",
    ) -> Estimate:
        """The first entry of [1 + resamples] with the percentile interval of the others.

        NaN means undefined and is left out, and counted in `reason`; infinity means censored: an interval that
        would end there is missing, since its end is unknown. `n` is the number of clusters behind it.
        """
        n = self.n if n is None else n
        value, draws = float(drawn[0]), np.asarray(drawn[1:], np.float64)
        if not np.isfinite(value):
            return Estimate.missing(undefined, n, unit)
        if n < 2:
            return Estimate(value, None, None, n, unit, _and(reason, "one cluster: no interval"))
        known = draws[~np.isnan(draws)]
        lost = len(draws) - len(known)
        said = f"undefined on {lost} of {len(draws)} resamples"
        if lost > len(draws) // 2:
            return Estimate(value, None, None, n, unit, _and(reason, f"{said}: no interval"))
        tail = (1 - self.level) / 2
        with np.errstate(invalid="ignore"):
            low, high = (float(x) for x in np.quantile(known, [tail, 1 - tail]))
        if not np.isfinite([low, high]).all():
            censored = int(np.isinf(known).sum())
            why = f"censored on {censored} of {len(draws)} resamples: no interval"
            return Estimate(value, None, None, n, unit, _and(reason, why))
        if known.min() == known.max():
            reason = _and(reason, f"all resamples of {n} clusters agree: the interval has no width")
        return Estimate(value, low, high, n, unit, _and(reason, said if lost else ""))


def _and(*reasons: str) -> str:
    return "; ".join(r for r in reasons if r)
