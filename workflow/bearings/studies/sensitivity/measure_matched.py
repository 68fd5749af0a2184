"""`matched.*`: kinds of SAEs at the same L0 (protocol section 4.7), and `l2.*`: does L2 order as KL does?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bearings.evidence.stats import Estimate
from bearings.studies.sensitivity.common import KINDS, MAIN
from bearings.studies.sensitivity.measure_curves import CLASSES, COV, ISO, MAIN_LENGTH
from bearings.studies.sensitivity.measure_drawn import Drawn, Measures, first
from bearings.studies.sensitivity.measure_ladders import ERROR_LENGTH, k, trend
from bearings.studies.sensitivity.measure_setup import level
from bearings.studies.sensitivity.measure_study import Curve, Study
from bearings.studies.sensitivity.measure_substitute import replaced
from bearings.studies.sensitivity.measure_tables import together
from bearings.studies.sensitivity.summaries import matched


def matches(study: Study) -> Measures:
    """Kinds at the same L0: exp of the mean ln ratio over the common range of ln L0."""
    out: Measures = {}

    def compare(name: str, one: str, other: str, statistic: Callable[[str], Drawn]) -> None:
        out[f"matched.{name}.{one}_over_{other}"] = _match(study, one, other, statistic)

    for kind in KINDS[1:]:
        compare(f"err.{ERROR_LENGTH}", "local", kind, lambda s: k(study, s, "error", ERROR_LENGTH))
        compare(f"feat.{MAIN_LENGTH}", kind, "local", lambda s: k(study, s, "inactive"))
        compare("feat.random", kind, "local", lambda s: k(study, s, "random"))
        for which in CLASSES[1:]:
            compare(f"feat.{which}.{MAIN_LENGTH}", kind, "local", lambda s, c=which: k(study, s, c))
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


def order(study: Study) -> Measures:
    """Do KL and L2 order direction types and SAEs alike? The all-ones direction, which no read sees, is left out."""
    curves = [Curve(MAIN, d) for d in (ISO, "iso2", "cov_difference", COV, "real_difference", "real_mixture")]
    for kind in KINDS:
        for sae in study.ladders[MAIN][kind]:
            curves += [Curve(MAIN, d, sae) for d in ("error", *CLASSES)]
    kl, l2 = ([together(first, study.at(c, MAIN_LENGTH, q)) for c in curves] for q in ("kl", "l2"))
    return {"l2.order.agreement": trend(study, kl, l2, "direction types and SAEs")["rho"]}
