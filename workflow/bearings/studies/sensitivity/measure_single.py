"""`single.*`: one position alone is changed, and the KL is followed over the next tokens (the control of T3)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd

from bearings.evidence.stats import Estimate
from bearings.studies.sensitivity.common import KINDS, MAIN
from bearings.studies.sensitivity.measure_drawn import Drawn, Measures, combined, extreme
from bearings.studies.sensitivity.measure_study import Study
from bearings.studies.sensitivity.measure_tables import stack
from bearings.studies.sensitivity.summaries import ratio

# Tokens over which the effect of one changed position is averaged, itself the first (Gurnee 2024).
FOLLOWED = 16
NONE = "no rows with one position changed"
Key = tuple[str, str]


class Single:
    """The table by (SAE, variant): resampled mean KL at the changed position, after it, and over both.

    Scored position i of a list is position i of the row.
    """

    def __init__(self, study: Study, table: pd.DataFrame):
        kl = stack("single", table["kl"])
        position = table["position"].to_numpy(np.int64)
        odd = position[(position < 0) | (position >= kl.shape[1])] if len(table) else position
        if len(odd):
            raise ValueError(
                f"outcomes 'single': position {odd[0]} is not one of the {kl.shape[1]} scored ones"
            )
        places = np.arange(kl.shape[1])[None] - position[:, None]
        before = kl[places < 0]
        self.before = float(np.abs(before[np.isfinite(before)]).max()) if np.isfinite(before).any() else None
        self.n_before = len(table)
        followed = (places >= 0) & (places < FOLLOWED)
        parts = {
            "followed": _mean(kl, followed),
            "at": _mean(kl, places == 0),
            "after": _mean(kl, followed & (places > 0)),
        }
        # More rows are perturbed here than elsewhere, since a single position says little: resampled by themselves.
        sequences = np.unique(table["sequence"].to_numpy())
        self.paired = study.paired.like(len(sequences))
        rows = pd.DataFrame(parts).assign(
            cluster=np.searchsorted(sequences, table["sequence"].to_numpy()),
            sae=table["sae"].to_numpy(),
            variant=table["variant"].to_numpy(),
        )
        # Several positions of one sequence are one row: their mean.
        means = rows.groupby(["cluster", "sae", "variant"])[list(parts)].mean().unstack(["sae", "variant"])
        self._columns = {tuple(map(str, c)): k for k, c in enumerate(means.columns)}
        self._rows = means.to_numpy(np.float64)

    def ratio(self, one: Key, other: Key, part: str = "followed", other_part: str = "followed") -> Drawn:
        """A ratio of means on the sequences that have both."""
        ids = [self._columns.get((p, *k)) for p, k in ((part, one), (other_part, other))]
        if None in ids:
            lacking = (one, other)[ids.index(None)]
            return Drawn(None, 0, f"{NONE} of {' '.join(x for x in lacking if x)}")
        rows = self._rows[:, ids]
        both = np.isfinite(rows).all(1)
        if not both.any():
            return Drawn(None, 0, "no sequence has both")
        means = self.paired.means(np.where(both[:, None], rows, np.nan))
        return Drawn(ratio(means[:, 0], means[:, 1]), int(both.sum()))


def _mean(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Means [n] of the chosen entries of rows [n, k]; NaN where there are none."""
    known = chosen & np.isfinite(values)
    return ratio(np.where(known, values, 0).sum(1), known.sum(1))


def single(study: Study) -> Measures:
    """Ratios of each SAE to noise, and that nothing happens before the changed position."""
    out: Measures = {}
    if not len(study.single):
        return dict.fromkeys(_names(study), Estimate.missing(NONE))
    table = Single(study, study.single)
    said = f"mean KL over {FOLLOWED} tokens from the changed one"
    for layer, sae in study.named():
        if layer == MAIN:
            why = study.no_sae(layer, sae)
            for key, base in (("sae_over_iso", "iso"), ("sae_over_covmix", "cov_mixture")):
                found = Drawn(None, 0, why) if why else table.ratio((sae, "sae"), (sae, base))
                out[f"single.{sae}.{key}"] = found.estimate(table.paired, "ratio", said)
    for kind in KINDS:
        parts = {s: table.ratio((s, "sae"), (s, "iso")) for s in study.ladders[MAIN][kind]}
        out[f"single.{kind}.sae_over_iso.least"] = extreme(table.paired, parts, -1, "ratio", said)
    found = table.ratio(("", "cov_fixed"), ("", "iso_fixed"))
    out["single.cov_over_iso"] = found.estimate(table.paired, "ratio", said)
    every: Sequence[str] = [s for kind in KINDS for s in study.ladders[MAIN][kind]]
    after = [table.ratio((s, "sae"), (s, "sae"), "after", "at") for s in every]
    found = combined(partial(np.mean, axis=-1), after)
    measured = sum(d.values is not None for d in after)
    out["single.after"] = found.estimate(table.paired, "ratio", f"mean over {measured} SAEs")
    out["single.before"] = (
        Estimate.missing("nothing stands before the changed position", 0, "nats")
        if table.before is None
        else Estimate(
            table.before, None, None, table.n_before, "nats", "the largest of all rows: no interval"
        )
    )
    return out


def _names(study: Study) -> list[str]:
    saes = [sae for layer, sae in study.named() if layer == MAIN]
    return [
        *(f"single.{s}.{k}" for s in saes for k in ("sae_over_iso", "sae_over_covmix")),
        *(f"single.{kind}.sae_over_iso.least" for kind in KINDS),
        *("single.cov_over_iso", "single.after", "single.before"),
    ]
