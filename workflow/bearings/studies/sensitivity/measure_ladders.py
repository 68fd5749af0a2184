"""`ladder.*`: SAEs of one kind against each other (protocol section 4.7).

`least`, `most` and `worst` (furthest from a ratio of 1) are of the SAE that is so as measured, which is named; their
interval is that SAE's. Intervals are over sequences and say nothing of other SAEs; `p` and `critical` are over SAEs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from bearings.evidence.stats import Estimate
from bearings.studies.sensitivity.common import KINDS, MAIN
from bearings.studies.sensitivity.measure_curves import CLASSES, COV, ISO, MAIN_LENGTH
from bearings.studies.sensitivity.measure_drawn import Drawn, Measures, absolute, combined, extreme, first
from bearings.studies.sensitivity.measure_setup import level
from bearings.studies.sensitivity.measure_study import Curve, Study
from bearings.studies.sensitivity.measure_substitute import of, pathology
from bearings.studies.sensitivity.measure_tables import together
from bearings.studies.sensitivity.summaries import MOST_SAES, critical, permutation_p, ratio, spearman

ERROR_LENGTH = "k21"
TRENDS = (*CLASSES, "minus", "shuffled")
# Of the ratios of substitutions, those whose largest is told, and those whose smallest is.
MOST = (
    "sae_over_iso",
    "sae_over_covmix",
    "norm_only_over_sae",
    "theta_recon_over_iso",
    "theta_true_over_iso",
)
LEAST = ("sae_over_iso", "sae_over_covmix")
# What is said of a trend, and the tail of its name.
TAILS = {"": "rho", ".p": "p", ".critical": "critical"}
# A correlation of fewer says nothing.
FEWEST = 3


def ladders(study: Study) -> Measures:
    """Everything about ladders at the main layer."""
    out: Measures = {}
    every = [sae for kind in KINDS for sae in study.ladders[MAIN][kind]]
    for kind in KINDS:
        saes = study.ladders[MAIN][kind]
        found = _errors(study, saes) | _trends(study, saes) | _classes(study, saes)
        out |= {f"ladder.{kind}.{key}": value for key, value in found.items()}
    return out | {f"ladder.all.{key}": value for key, value in _both_sides(study, every).items()}


def _errors(study: Study, saes: Sequence[str]) -> Measures:
    """Substitutions of one ladder."""
    out: Measures = {}
    for key in MOST:
        ratios = {s: of(study, MAIN, s, key) for s in saes}
        if key in LEAST:
            out[f"{key}.least"] = extreme(study.paired, ratios, -1, "ratio")
        out[f"{key}.most"] = extreme(study.paired, ratios, 1, "ratio")
    gaps = {s: pathology(study, MAIN, s) for s in saes}
    out["pathology.least"] = extreme(study.paired, gaps, -1, "ln ratio")
    mean = combined(partial(np.mean, axis=-1), list(gaps.values()))
    out["pathology.mean"] = mean.estimate(study.paired, "ln ratio", "mean over SAEs")
    out["iso2_over_iso.worst"] = _worst(study, {s: of(study, MAIN, s, "iso2_over_iso") for s in saes})
    return out


def _trends(study: Study, saes: Sequence[str]) -> Measures:
    """Rank correlations of L0 with substitutions, error directions and classes of features."""
    l0 = [level(study, MAIN, s) for s in saes]
    over = [of(study, MAIN, s, "sae_over_iso") for s in saes]
    out = {"sae_over_iso.l0": trend(study, l0, over)["rho"]}
    names = {f"err.l0_{ERROR_LENGTH}": [k(study, s, "error", ERROR_LENGTH) for s in saes]}
    names |= {f"feat.{kind}.l0_{MAIN_LENGTH}": [k(study, s, kind) for s in saes] for kind in TRENDS}
    for name, values in names.items():
        found = trend(study, l0, values)
        out |= {f"{name}{tail}": found[key] for tail, key in TAILS.items()}
    ends = f"of {saes[0]} over {saes[-1]}, at {MAIN_LENGTH}" if saes else ""
    for kind in TRENDS:
        out[f"feat.{kind}.fall"] = _fall(study, saes, kind).estimate(study.paired, "ratio", ends)
    return out


def _fall(study: Study, saes: Sequence[str], kind: str) -> Drawn:
    """K of the sparsest SAE's features over that of the densest one's, on the rows that have both."""
    if len(saes) < 2:
        return Drawn(None, 0, f"{len(saes)} SAEs of this kind: nothing falls")
    curves = (Curve(MAIN, kind, sae) for sae in (saes[0], saes[-1]))
    return together(lambda a, b: ratio(a, b)[..., 0], *(study.at(c, MAIN_LENGTH) for c in curves))


def _classes(study: Study, saes: Sequence[str]) -> Measures:
    """Classes of features of one ladder against each other and against baselines, at the main length."""
    out, paired = _both_sides(study, saes), study.paired
    sides = {s: _between(study, s, "active", "inactive") for s in saes}
    out["feat.active_over_inactive.least"] = extreme(paired, sides, -1, "ratio", f"at {MAIN_LENGTH}")
    share = combined(lambda r: (r >= 1).mean(-1), list(sides.values()))
    out["feat.active_over_inactive.share"] = share.estimate(paired, "of the SAEs", f"at {MAIN_LENGTH}")
    shuffled = {s: _between(study, s, "active_shuffled", "inactive_shuffled") for s in saes}
    out["feat.labels_shuffled"] = _worst(study, shuffled)
    for name, kind, base in (("random_over_iso", "random", ISO), ("through_over_covmix", "through", COV)):
        found = combined(partial(np.mean, axis=-1), [_over(study, s, kind, base) for s in saes])
        out[f"feat.{name}.{MAIN_LENGTH}"] = found.estimate(paired, "ratio", "mean over SAEs")
    return out


def _both_sides(study: Study, saes: Sequence[str]) -> Measures:
    """The weakest and the strongest alive features over the covariance mixture, at the main length."""
    over = {s: _over(study, s, "inactive", COV) for s in saes}
    ends = {"least": -1, "most": 1}
    name = "feat.inactive.over_covmix"
    return {
        f"{name}.{e}": extreme(study.paired, over, sign, "ratio", f"at {MAIN_LENGTH}")
        for e, sign in ends.items()
    }


def _worst(study: Study, ratios: Mapping[str, Drawn]) -> Estimate:
    """|ln ratio| of the SAE whose ratio is furthest from 1."""
    logs = {s: d.then(np.log) for s, d in ratios.items()}
    return absolute(extreme(study.paired, logs, 0, "|ln ratio|"))


def k(study: Study, sae: str, direction: str, length: str = MAIN_LENGTH) -> Drawn:
    """K of one SAE's direction at a named length."""
    return together(first, study.at(Curve(MAIN, direction, sae), length))


def _over(study: Study, sae: str, direction: str, base: str) -> Drawn:
    """K of one SAE's direction over that of a baseline, at the main length."""
    curves = Curve(MAIN, direction, sae), Curve(MAIN, base)
    return together(lambda a, b: ratio(a, b)[..., 0], *(study.at(c, MAIN_LENGTH) for c in curves))


def _between(study: Study, sae: str, one: str, other: str) -> Drawn:
    """K of one class over that of another, at the main length, on the rows that have both."""
    curves = (Curve(MAIN, kind, sae) for kind in (one, other))
    return together(lambda a, b: ratio(a, b)[..., 0], *(study.at(c, MAIN_LENGTH) for c in curves))


def trend(study: Study, x: Sequence[Drawn], y: Sequence[Drawn], what: str = "SAEs") -> dict[str, Estimate]:
    """Rank correlation over SAEs: `rho`, its exact one-sided `p`, rho less the `critical` value, both for a fall."""
    pairs = list(zip(x, y, strict=True))
    known = [p for p in pairs if all(d.values is not None and np.isfinite(d.values[0]) for d in p)]
    m, why = len(known), next((d.why for p in pairs for d in p if d.why), "")
    if m < FEWEST:
        said = f"{m} {what} have this, too few to correlate" + (f": {why}" if why else "")
        return dict.fromkeys(TAILS.values(), Estimate.missing(said, m))
    a, b = (np.stack([p[side].values for p in known], -1) for side in (0, 1))
    n = min(d.n for p in known for d in p)
    rho, said = Drawn(spearman(a, b), n), f"{m} {what}"
    undefined = "the SAEs do not differ"
    out = {"rho": rho.estimate(study.paired, "Spearman", said, undefined)}
    limit = critical(m) if m <= MOST_SAES else float("nan")
    if m > MOST_SAES or not np.isfinite(rho.values[0]):
        why = undefined if m <= MOST_SAES else f"{m} SAEs, more than are enumerated ({MOST_SAES})"
        return out | dict.fromkeys(("p", "critical"), Estimate.missing(why, m))
    out["p"] = Estimate(permutation_p(a[0], b[0]), None, None, m, "p", f"exact, over {m} SAEs, one-sided")
    no_limit = f"no correlation of {m} SAEs is below 5 % by chance"
    away = rho.then(lambda r: r - limit)
    said = f"{m} SAEs, critical value {limit:.3f}"
    out["critical"] = away.estimate(study.paired, "Spearman", said, no_limit)
    return out
