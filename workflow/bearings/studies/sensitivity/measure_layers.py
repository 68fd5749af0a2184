"""`layers.*`: are the early, the main and the late layer alike? SAEs are compared at the same coefficient."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from bearings.studies.sensitivity.common import MAIN
from bearings.studies.sensitivity.measure_curves import COV, ISO, MAIN_LENGTH
from bearings.studies.sensitivity.measure_drawn import Drawn, Measures, combined
from bearings.studies.sensitivity.measure_study import Curve, Study
from bearings.studies.sensitivity.measure_substitute import of
from bearings.studies.sensitivity.measure_tables import together
from bearings.studies.sensitivity.summaries import log_ratio

ORDER = ("early", MAIN, "late")
# Measure at each layer -> what follows `layers.spread` for its spread.
TAILS = {
    "sae_over_iso": "",
    "sae_over_covmix": ".sae_over_covmix",
    "covmix_over_iso": ".covmix_over_iso",
}


def by_layer(study: Study) -> Measures:
    """Geometric means over the local SAEs of each layer, and the largest over the smallest of the layers."""
    out: Measures = {}
    saes, said = comparable(study)
    for key, tail in TAILS.items():
        logs = [_log(study, layer, key, saes.get(layer, ())) for layer in ORDER]
        reason = "" if key == "covmix_over_iso" else said
        for layer, drawn in zip(ORDER, logs, strict=True):
            out[f"layers.{layer}.{key}"] = drawn.then(np.exp).estimate(study.paired, "ratio", reason)
        spread = combined(lambda x: np.exp(x.max(-1) - x.min(-1)), logs, 2)
        known = [x for x, drawn in zip(ORDER, logs, strict=True) if drawn.values is not None]
        out[f"layers.spread{tail}"] = spread.estimate(study.paired, "ratio", f"over {', '.join(known)}")
    return out


def comparable(study: Study) -> tuple[dict[str, list[str]], str]:
    """Layer -> the local SAEs whose coefficient every layer with SAEs has; all of them where there is none such.

    A ladder may have fewer SAEs at one layer than at another, and its levels then count otherwise.
    """
    every = {layer: study.ladders[layer]["local"] for layer in study.layers if study.ladders[layer]["local"]}
    by = {
        layer: {c: s for s in saes if np.isfinite(c := _number(study.facts[layer, s]["coefficient"]))}
        for layer, saes in every.items()
    }
    common = sorted(set.intersection(*(set(x) for x in by.values())), reverse=True) if by else []
    if not common:
        return every, "all local SAEs of the layer"
    chosen = {layer: [x[c] for c in common] for layer, x in by.items()}
    return chosen, f"local SAEs of the coefficients {', '.join(f'{c:g}' for c in common)}"


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _log(study: Study, layer: str, key: str, saes: Sequence[str]) -> Drawn:
    """ln of a ratio at one layer, a mean over SAEs."""
    if layer not in study.layers:
        return Drawn(None, 0, f"the model has no {layer} layer of its own")
    if key == "covmix_over_iso":
        bases = (study.at(Curve(layer, d), MAIN_LENGTH) for d in (COV, ISO))
        return together(lambda a, b: log_ratio(a, b)[..., 0], *bases)
    if not saes:
        return Drawn(None, 0, f"no local SAE at the {layer} layer")
    parts = [of(study, layer, sae, key).then(np.log) for sae in saes]
    return combined(partial(np.mean, axis=-1), parts, len(saes))
