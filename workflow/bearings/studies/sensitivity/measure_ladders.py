"""`ladder.*` and `matched.*`: SAEs of one kind against each other, and kinds at the same L0 (protocol section 4.7).

`least` and `most` are the smallest and the largest over the SAEs of a ladder, in each resample anew: an interval
that allows for which SAE it is. `worst` is of the SAE that is furthest from 1 as measured. Intervals are over
sequences and say nothing of other SAEs; `p` and `critical` are over SAEs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from bearings.evidence.stats import Estimate
from bearings.studies.sensitivity.common import KINDS, MAIN
from bearings.studies.sensitivity.measure_curves import CLASSES, COV, ISO, MAIN_LENGTH
from bearings.studies.sensitivity.measure_drawn import Drawn, Measures, absolute, combined, first
from bearings.studies.sensitivity.measure_setup import level
from bearings.studies.sensitivity.measure_study import Curve, Study
from bearings.studies.sensitivity.measure_substitute import of, pathology, replaced
from bearings.studies.sensitivity.measure_tables import together
from bearings.studies.sensitivity.summaries import (
    MOST_SAES,
    critical,
    matched,
    permutation_p,
    ratio,
    spearman,
)

ERROR_LENGTH = "k21"
TRENDS = (*CLASSES, "minus", "shuffled")
# A correlation of fewer says nothing.
FEWEST = 3
Pairs = list[tuple[Drawn, Drawn]]


def ladders(study: Study) -> Measures:
    """Everything about ladders at the main layer."""
    out: Measures = {}
    for kind in KINDS:
        saes = study.ladders[MAIN][kind]
        out |= {f"ladder.{kind}.{k}": v for k, v in (_errors(study, saes) | _features(study, saes)).items()}
    every = [sae for kind in KINDS for sae in study.ladders[MAIN][kind]]
    over = [_at(study, sae, "inactive", COV) for sae in every]
    for end, function in (("least", np.min), ("most", np.max)):
        found = combined(partial(function, axis=-1), over)
        out[f"ladder.all.feat.inactive.over_covmix.{end}"] = found.estimate(
            study.paired, "ratio", at_length()
        )
    return out | _matches(study) | _l2(study)


def at_length() -> str:
    return f"at {MAIN_LENGTH}"


def _errors(study: Study, saes: Sequence[str]) -> Measures:
    """Substitutions and error directions of one ladder."""
    out: Measures = {}
    parts = {key: [of(study, MAIN, s, key) for s in saes] for key in (
        "sae_over_iso", "sae_over_covmix", "norm_only_over_sae", "theta_recon_over_iso", "theta_true_over_iso",
    )}  # fmt: skip
    for key in ("sae_over_iso", "sae_over_covmix"):
        out[f"{key}.least"] = combined(partial(np.min, axis=-1), parts[key]).estimate(study.paired, "ratio")
    for key, drawn in parts.items():
        out[f"{key}.most"] = combined(partial(np.max, axis=-1), drawn).estimate(study.paired, "ratio")
    gaps = [pathology(study, MAIN, s) for s in saes]
    out["pathology.least"] = combined(partial(np.min, axis=-1), gaps).estimate(study.paired, "ln ratio")
    again = [of(study, MAIN, s, "iso2_over_iso").then(np.log) for s in saes]
    out["iso2_over_iso.worst"] = worst(study, again)
    l0 = [level(study, MAIN, s) for s in saes]
    out["sae_over_iso.l0"] = _trend(study, list(zip(l0, parts["sae_over_iso"], strict=True)))["rho"]
    along = [_k(study, s, "error", ERROR_LENGTH) for s in saes]
    found = _trend(study, list(zip(l0, along, strict=True)))
    out |= {f"err.l0_{ERROR_LENGTH}{k}": found[v] for k, v in TAILS.items()}
    return out


TAILS = {"": "rho", ".p": "p", ".critical": "critical"}


def _features(study: Study, saes: Sequence[str]) -> Measures:
    """Feature directions of one ladder, at the main length."""
    out: Measures = {}
    l0 = [level(study, MAIN, s) for s in saes]
    for kind in TRENDS:
        found = _trend(study, list(zip(l0, (_k(study, s, kind) for s in saes), strict=True)))
        out |= {f"feat.{kind}.l0_{MAIN_LENGTH}{k}": found[v] for k, v in TAILS.items()}
    over = [_at(study, s, "inactive", COV) for s in saes]
    for end, function in (("least", np.min), ("most", np.max)):
        found = combined(partial(function, axis=-1), over)
        out[f"feat.inactive.over_covmix.{end}"] = found.estimate(study.paired, "ratio", at_length())
    sides = [_between(study, s, "active", "inactive") for s in saes]
    smallest = combined(partial(np.min, axis=-1), sides)
    out["feat.active_over_inactive.least"] = smallest.estimate(study.paired, "ratio", at_length())
    share = combined(lambda r: (r >= 1).mean(-1), sides)
    out["feat.active_over_inactive.share"] = share.estimate(study.paired, "of the SAEs", at_length())
    shuffled = [_between(study, s, "active_shuffled", "inactive_shuffled").then(np.log) for s in saes]
    out["feat.labels_shuffled"] = worst(study, shuffled)
    for name, kind, base in (("random_over_iso", "random", ISO), ("through_over_covmix", "through", COV)):
        found = combined(partial(np.mean, axis=-1), [_at(study, s, kind, base) for s in saes])
        out[f"feat.{name}.{MAIN_LENGTH}"] = found.estimate(study.paired, "ratio", "mean over SAEs")
    return out


def _k(study: Study, sae: str, direction: str, length: str = MAIN_LENGTH) -> Drawn:
    """K of one SAE's direction at a named length."""
    return together(first, study.at(Curve(MAIN, direction, sae), length))


def _at(study: Study, sae: str, direction: str, base: str) -> Drawn:
    """K of one SAE's direction over that of a baseline, at the main length."""
    curves = Curve(MAIN, direction, sae), Curve(MAIN, base)
    return together(lambda a, b: ratio(a, b)[..., 0], *(study.at(c, MAIN_LENGTH) for c in curves))


def _between(study: Study, sae: str, one: str, other: str) -> Drawn:
    """K of one class over that of another, at the main length, on the rows that have both."""
    curves = (Curve(MAIN, kind, sae) for kind in (one, other))
    return together(lambda a, b: ratio(a, b)[..., 0], *(study.at(c, MAIN_LENGTH) for c in curves))


def worst(study: Study, logs: Sequence[Drawn]) -> Estimate:
    """|ln ratio| of the SAE whose ratio is furthest from 1."""
    known = [d for d in logs if d.values is not None and np.isfinite(d.values[0])]
    if not known:
        return combined(first, logs).estimate(study.paired, "|ln ratio|")
    furthest = max(known, key=lambda d: abs(d.values[0]))
    return absolute(furthest.estimate(study.paired, "|ln ratio|", f"the furthest of {len(known)} SAEs"))


def _trend(study: Study, pairs: Pairs, of_what: str = "SAEs") -> dict[str, Estimate]:
    """Rank correlation of L0 with a statistic over SAEs: `rho`, its exact one-sided `p`, and rho less the `critical`
    value, both for a fall."""
    known = [p for p in pairs if all(d.values is not None and np.isfinite(d.values[0]) for d in p)]
    m, why = len(known), next((d.why for p in pairs for d in p if d.why), "")
    if m < FEWEST:
        said = f"{m} {of_what} have this, too few to correlate" + (f": {why}" if why else "")
        return dict.fromkeys(TAILS.values(), Estimate.missing(said, m))
    l0, k = (np.stack([p[side].values for p in known], -1) for side in (0, 1))
    n = min(d.n for p in known for d in p)
    rho, said = Drawn(spearman(l0, k), n), f"{m} {of_what}"
    undefined = "the SAEs do not differ"
    out = {"rho": rho.estimate(study.paired, "Spearman", said, undefined)}
    limit = critical(m) if m <= MOST_SAES else float("nan")
    if m > MOST_SAES or not np.isfinite(rho.values[0]):
        why = undefined if m <= MOST_SAES else f"{m} SAEs, more than are enumerated ({MOST_SAES})"
        return out | dict.fromkeys(("p", "critical"), Estimate.missing(why, m))
    out["p"] = Estimate(permutation_p(l0[0], k[0]), None, None, m, "p", f"exact, over {m} SAEs, one-sided")
    no_limit = f"no correlation of {m} SAEs is below 5 % by chance"
    away = rho.then(lambda r: r - limit)
    said = f"{m} SAEs, critical value {limit:.3f}"
    out["critical"] = away.estimate(study.paired, "Spearman", said, no_limit)
    return out


def _matches(study: Study) -> Measures:
    """Kinds at the same L0: exp of the mean ln ratio over the common range of ln L0."""
    out: Measures = {}

    def compare(name: str, one: str, other: str, statistic: Callable[[str], Drawn]) -> None:
        out[f"matched.{name}.{one}_over_{other}"] = _match(study, one, other, statistic)

    for kind in KINDS[1:]:
        compare(f"err.{ERROR_LENGTH}", "local", kind, lambda s: _k(study, s, "error", ERROR_LENGTH))
        compare(f"feat.{MAIN_LENGTH}", kind, "local", lambda s: _k(study, s, "inactive"))
        compare("feat.random", kind, "local", lambda s: _k(study, s, "random"))
        for which in CLASSES[1:]:
            compare(f"feat.{which}.{MAIN_LENGTH}", kind, "local", lambda s, c=which: _k(study, s, c))
        compare("sub", kind, "local", lambda s: together(first, replaced(study, MAIN, s, "sae")))
    return out


def _match(study: Study, one: str, other: str, statistic: Callable[[str], Drawn]) -> Estimate:
    sides: list[np.ndarray] = []
    ns: list[int] = []
    for kind in (one, other):
        pairs = [(level(study, MAIN, s), statistic(s)) for s in study.ladders[MAIN][kind]]
        known = [p for p in pairs if all(d.values is not None and d.values[0] > 0 for d in p)]
        if len(known) < 2:
            why = next((d.why for p in pairs for d in p if d.why), "")
            said = f"{len(known)} SAEs of the kind {kind} have this, two are needed" + (
                f": {why}" if why else ""
            )
            return Estimate.missing(said, 0, "ratio")
        sides += [np.stack([p[side].values for p in known], -1) for side in (0, 1)]
        ns += [d.n for p in known for d in p]
    with np.errstate(all="ignore"):
        found = Drawn(np.exp(matched(*sides)), min(ns))
    ends = [(x[0].min(), x[0].max()) for x in (sides[0], sides[2])]
    words = " and ".join(f"{low:.3g} to {high:.3g}" for low, high in ends)
    return found.estimate(study.paired, "ratio", f"L0 {words}", f"the ranges of L0 do not overlap: {words}")


def _l2(study: Study) -> Measures:
    """Do KL and L2 order direction types and SAEs alike? The all-ones direction, which no read sees, is left out."""
    curves = [Curve(MAIN, d) for d in (ISO, "iso2", "cov_difference", COV, "real_difference", "real_mixture")]
    for kind in KINDS:
        for sae in study.ladders[MAIN][kind]:
            curves += [Curve(MAIN, d, sae) for d in ("error", *CLASSES)]
    pairs = [tuple(together(first, study.at(c, MAIN_LENGTH, q)) for q in ("kl", "l2")) for c in curves]
    return {"l2.order.agreement": _trend(study, pairs, "direction types and SAEs")["rho"]}
