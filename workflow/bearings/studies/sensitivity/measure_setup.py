"""The run and its gates: the model on these rows, ablations, covariance and the quality of the SAEs (2, 2.1, 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bearings.evidence.stats import Estimate
from bearings.stages.inputs import Inputs
from bearings.stages.prompts import Prompt
from bearings.studies.sensitivity.common import KINDS, MAIN, layers
from bearings.studies.sensitivity.measure_drawn import Drawn, Measures, combined, extreme, first
from bearings.studies.sensitivity.measure_study import Study, prefix
from bearings.studies.sensitivity.measure_tables import together
from bearings.studies.sensitivity.summaries import entropy, levels, participation, ratio

NO_INTERVAL = "from all rows at once: no interval"


def setup(study: Study, inputs: Inputs) -> Measures:
    """`setup.*` and `gate.*`."""
    out: Measures = {}
    ce = together(first, study.clean.columns([()], "ce"))
    out["setup.ce"] = ce.estimate(study.paired, "nats")
    tokens = scored_tokens(inputs.prompts["rows"])
    unigram = entropy(tokens) if len(tokens) else float("nan")
    out["setup.entropy_share"] = ce.then(lambda v: v / unigram if unigram > 0 else v * np.nan).estimate(
        study.paired, "of the unigram entropy", f"of {unigram:.3f} nats, {len(tokens)} tokens of all rows"
    )
    out["setup.token_id"] = together(first, study.clean.columns([()], "token")).estimate(study.paired)
    for name in study.layers:
        for part in ("", ".no_bos"):
            norm = together(first, study.clean.columns([()], f"norm_{name}{part}"))
            out[f"{prefix(name)}setup.norm{part}"] = norm.estimate(study.paired, "residual norm")
    for measure, variant in (("mean_ablation", "mean"), ("zero_ablation", "zero"), ("identity", "identity")):
        found = together(first, study.substitute.columns([(MAIN, "", variant)]))
        out[f"setup.{measure}"] = found.estimate(study.paired, "nats")
    return out | gates(study, inputs)


def gates(study: Study, inputs: Inputs) -> Measures:
    """What must hold before a claim is made (protocol section 8)."""
    out: Measures = {}
    pool = inputs.directions["pool"]
    for name, layer in layers(inputs.settings).items():
        factor = np.asarray(pool[f"factor/{layer}"])
        share = participation(factor)
        out[f"{prefix(name)}gate.participation"] = Estimate(
            share, None, None, len(factor), "of the dimensions", NO_INTERVAL
        )
    local = {sae: explained(study, MAIN, sae) for sae in study.ladders[MAIN]["local"]}
    out["gate.variance"] = extreme(study.paired, local, -1, "share explained")
    for kind in KINDS:
        l0 = [level(study, MAIN, sae) for sae in study.ladders[MAIN][kind]]
        out[f"gate.levels.{kind}"] = combined(levels, l0).estimate(study.paired, "levels")
    return out


def scored_tokens(rows: Sequence[Prompt]) -> np.ndarray:
    """Ids [n] of the tokens that are predicted: all but the first of every usable row."""
    ids = [np.asarray(p.ids[1:]) for p in rows if p.usable]
    return np.concatenate(ids) if ids else np.zeros(0, np.int64)


def level(study: Study, layer: str, sae: str) -> Drawn:
    """L0 of an SAE on the study's rows."""
    return together(first, study.quality.columns([(layer, sae)], "l0", study.no_sae(layer, sae)))


def explained(study: Study, layer: str, sae: str) -> Drawn:
    """Explained variance: 1 - sum of squared errors / sum of squared distances from the mean."""
    why = study.no_sae(layer, sae)
    errors, variance = (
        study.quality.columns([(layer, sae)], quantity, why) for quantity in ("squared_error", "variance")
    )
    return together(lambda e, v: 1 - ratio(e, v)[..., 0], errors, variance)


def saes(study: Study) -> Measures:
    """`sae.<sae>.*`: what each SAE is and how well it reconstructs."""
    out: Measures = {}
    for layer, sae in study.named():
        name, why = f"{prefix(layer)}sae.{sae}", study.no_sae(layer, sae)
        out[f"{name}.l0"] = level(study, layer, sae).estimate(study.paired, "features")
        out[f"{name}.variance"] = explained(study, layer, sae).estimate(study.paired, "share explained")
        for quantity, unit in (
            ("error_norm", "residual norm"),
            ("recon_norm", "residual norm"),
            ("cosine", ""),
        ):
            found = together(first, study.quality.columns([(layer, sae)], quantity, why))
            out[f"{name}.{quantity}"] = found.estimate(study.paired, unit)
        out |= {f"{name}.{k}": v for k, v in _facts(study.facts.get((layer, sae)), why).items()}
    return out


def _facts(facts: Mapping[str, float] | None, why: str) -> Measures:
    """Numbers that an SAE has once, not per sequence."""
    units = {"dead": "of the features", "l0.training": "features", "coefficient": ""}
    if facts is None:
        return {key: Estimate.missing(why, 0, unit) for key, unit in units.items()}
    values = {
        "dead": 1 - facts["alive"] / facts["d_sae"],
        "l0.training": facts["l0_training"],
        "coefficient": facts["coefficient"],
    }
    return {
        key: Estimate.missing("not recorded for this SAE", 0, units[key])
        if value is None or not np.isfinite(value)
        else Estimate(float(value), None, None, 1, units[key], "one number per SAE: no interval")
        for key, value in values.items()
    }
