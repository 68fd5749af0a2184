"""`base.*`, `err.*` and `feat.*`: mean KL along directions of given length (protocol sections 2.2, 2.3 and 4.7)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from bearings.evidence.stats import Estimate
from bearings.studies.sensitivity.common import MAIN
from bearings.studies.sensitivity.measure_drawn import Drawn, Measures, absolute, first
from bearings.studies.sensitivity.measure_study import NO_LENGTH, Curve, Study, prefix
from bearings.studies.sensitivity.measure_tables import Columns, together
from bearings.studies.sensitivity.summaries import area, log_ratio, monotone, ratio, threshold

ISO, COV, REAL = "iso", "cov_mixture", "real_mixture"
BASELINES = (
    ISO,
    "iso2",
    "iso_published",
    "cov_difference",
    COV,
    "real_difference",
    REAL,
    "zero",
    "ones",
)
# At the other layers.
ASIDE = (ISO, COV, REAL)
CLASSES = ("inactive", "active", "dead")
# Ways through the code of features that the classes are held against: at one named length.
CONTROLS = ("minus", "random", "through", "shuffled", "active_shuffled", "inactive_shuffled")
MAIN_LENGTH = "k51"
REFERENCES = {"over_covmix": COV, "over_iso": ISO}
THRESHOLDS = (0.1, 1)
# Lengths, in mean norms, up to which KL is expected to be quadratic (A13).
SMALL = 0.03
# The slope of ln K against ln length is between the shortest length and this one (protocol 2.2).
SLOPE_END = "k11"


def curves(study: Study) -> Measures:
    """Every statistic of every curve."""
    out: Measures = {}
    for layer in study.layers:
        for direction in BASELINES if layer == MAIN else ASIDE:
            name = f"{prefix(layer)}base.{direction}"
            out |= _prefixed(name, statistics(study, Curve(layer, direction), main=layer == MAIN))
    for layer, sae in study.named():
        if layer != MAIN:
            continue
        absent = bool(study.no_sae(layer, sae))
        for direction in ("error", *CLASSES):
            name = f"err.{sae}" if direction == "error" else f"feat.{sae}.{direction}"
            found = statistics(study, Curve(layer, direction, sae))
            # Of an SAE that another scale has, what was published and no more.
            kept = {k: v for k, v in found.items() if not absent or k in (*study.lengths, "slope")}
            out |= _prefixed(name, kept)
        for direction in CONTROLS if not absent else ():
            found = dict(at_length(study, Curve(layer, direction, sae), MAIN_LENGTH))
            out |= _prefixed(f"feat.{sae}.{direction}", found)
    return out | baselines(study)


def _prefixed(name: str, found: Measures) -> Measures:
    return {f"{name}.{key}": value for key, value in found.items()}


def statistics(study: Study, curve: Curve, main: bool = True) -> Measures:
    """Statistics of one curve by name; without `main` only those at named lengths."""
    out: Measures = {}
    for name in study.lengths:
        out |= dict(at_length(study, curve, name))
    return out | (dict(on_grid(study, curve)) if main else {})


def at_length(study: Study, curve: Curve, name: str) -> Iterator[tuple[str, Estimate]]:
    """What is said of a curve at one named length."""
    paired, here = study.paired, study.at(curve, name)
    yield name, together(first, here).estimate(paired, "nats")
    yield f"{name}.no_bos", together(first, study.at(curve, name, "kl.no_bos")).estimate(paired, "nats")
    for key, direction in REFERENCES.items():
        reference = study.at(Curve(curve.layer, direction), name)
        yield f"{key}.{name}", together(_first_ratio, here, reference).estimate(paired, "ratio")
    if name == MAIN_LENGTH:
        yield f"{name}.median", study.median(curve, name).estimate(paired, "nats")
        yield f"ce.{name}", together(first, study.at(curve, name, "ce")).estimate(paired, "nats")
        yield f"l2.{name}", together(first, study.at(curve, name, "l2")).estimate(paired, "residual norm")


def _first_ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return ratio(a, b)[..., 0]


def on_grid(study: Study, curve: Curve) -> Iterator[tuple[str, Estimate]]:
    """What is said of a whole curve: area, threshold lengths, and whether it rises."""
    paired, whole = study.paired, study.whole(curve)
    height = partial(area, lengths=study.grid)
    yield "area", together(height, whole).estimate(paired, "nats")
    yield "area.no_bos", together(height, study.whole(curve, "kl.no_bos")).estimate(paired, "nats")
    for key, direction in REFERENCES.items():
        reference = study.whole(Curve(curve.layer, direction))
        found = together(lambda a, b: ratio(height(a), height(b)), whole, reference)
        yield f"{key}.area", found.estimate(paired, "ratio")
    for level in THRESHOLDS:
        found = together(lambda k, at=level: threshold(k, study.fractions, at), whole)
        yield f"threshold.{level}", _censored(study, whole, found, level)
    yield "monotone", together(monotone, whole).estimate(paired, "of the steps")
    if SLOPE_END in study.lengths:
        place = study.lengths[SLOPE_END]
        steps = np.log(study.grid[place] / study.grid[0])
        found = together(lambda k: log_ratio(k[..., place], k[..., 0]) / steps, whole)
        yield "slope", found.estimate(paired, f"d ln K / d ln length up to {SLOPE_END}")


def _censored(study: Study, whole: Columns, found: Drawn, level: float) -> Estimate:
    """A threshold length, or why there is none on the grid."""
    if found.values is None or not np.isinf(found.values[0]):
        return found.estimate(study.paired, "mean norms")
    if found.values[0] > 0:
        most = together(lambda k: k.max(-1), whole).values[0]
        why = f"not reached: the largest mean KL is {most:.3g} nats"
    else:
        why = f"reached below the shortest length, {study.fractions[0]:.3g} mean norms"
    return Estimate.missing(why, found.n, "mean norms")


def baselines(study: Study) -> Measures:
    """What is said of baselines alone: their cosine with x, the quadratic regime, real against covariance mixture."""
    out: Measures = {}
    paired, table = study.paired, study.tables["baselines"]
    for direction in BASELINES:
        # The same vectors serve every length: the shortest says it.
        found = together(first, study.shortest(Curve(MAIN, direction), "cosine"))
        out[f"base.{direction}.cosine"] = found.estimate(paired, "cosine with x")
    out["base.iso.quadratic"] = quadratic(study)
    for name in study.lengths:
        both = (study.at(Curve(MAIN, direction), name) for direction in (REAL, COV))
        logs = together(lambda a, b: log_ratio(a, b)[..., 0], *both)
        out[f"base.real_close.{name}"] = absolute(logs.estimate(paired, "|ln ratio|"))
    nothing = table.columns([key for key in table.index if key[-1] == NO_LENGTH])
    out["base.length_0"] = (
        together(lambda k: np.abs(k).max(-1), nothing).estimate(
            paired, "nats", "the largest of all directions"
        )
        if nothing.ids
        else Estimate.missing("no direction was measured at length 0", 0, "nats")
    )
    return out


def quadratic(study: Study) -> Estimate:
    """K(2L)/K(L) of isotropic noise at the two smallest lengths of the grid that are 1 : 2 (A13: near 4)."""
    grid = study.grid
    pairs = [
        (i, j) for i in range(len(grid)) for j in range(i) if np.isclose(grid[i], 2 * grid[j], rtol=1e-3)
    ]
    pairs = [(i, j) for i, j in pairs if study.fractions[j] <= SMALL]
    if not pairs:
        return Estimate.missing(f"the grid has no length up to {SMALL} mean norms and twice that", 0, "ratio")
    double, single = min(pairs)
    found = together(lambda k: ratio(k[..., double], k[..., single]), study.whole(Curve(MAIN, ISO)))
    said = f"lengths {study.fractions[single]:.3g} and {study.fractions[double]:.3g} mean norms"
    return found.estimate(study.paired, "ratio", said)
