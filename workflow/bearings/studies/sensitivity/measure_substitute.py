"""`sub.*`: what replacing the residual by the SAE's costs, against noise as far away (protocol 2.1 and 4.2)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bearings.studies.sensitivity.common import MAIN
from bearings.studies.sensitivity.measure_drawn import Drawn, Measures, first
from bearings.studies.sensitivity.measure_study import Study, prefix
from bearings.studies.sensitivity.measure_tables import Columns, together
from bearings.studies.sensitivity.summaries import log_ratio, ratio

ASIDE = ("sae", "iso", "cov_mixture", "real_mixture")
VARIANTS = (*ASIDE, "iso2", "norm_corrected", "norm_only", "theta_recon", "theta_true")
# Ratio -> the variants it is of.
RATIOS: Mapping[str, tuple[str, str]] = {
    "sae_over_iso": ("sae", "iso"),
    "sae_over_covmix": ("sae", "cov_mixture"),
    "sae_over_realmix": ("sae", "real_mixture"),
    "norm_only_over_sae": ("norm_only", "sae"),
    "theta_recon_over_iso": ("theta_recon", "iso"),
    "theta_true_over_iso": ("theta_true", "iso"),
    "iso2_over_iso": ("iso2", "iso"),
}
ASIDE_RATIOS = ("sae_over_iso", "sae_over_covmix", "sae_over_realmix")
NO_BOS = ("sae_over_iso", "sae_over_covmix")


def substitutions(study: Study) -> Measures:
    """Every variant of every SAE, and their ratios."""
    out: Measures = {}
    for layer, sae in study.named():
        name, paired = f"{prefix(layer)}sub.{sae}", study.paired
        for variant in VARIANTS if layer == MAIN else ASIDE:
            for quantity, unit in (
                ("kl", "nats"),
                ("ce", "nats"),
                ("l2", "residual norm"),
                ("kl.no_bos", "nats"),
            ):
                found = together(first, replaced(study, layer, sae, variant, quantity))
                out[f"{name}.{variant}.{quantity}"] = found.estimate(paired, unit)
            why = replaced(study, layer, sae, variant).why
            median = study.substitute.median((layer, sae, variant), "kl", why)
            out[f"{name}.{variant}.kl.median"] = median.estimate(paired, "nats")
        for key in RATIOS if layer == MAIN else ASIDE_RATIOS:
            out[f"{name}.{key}"] = of(study, layer, sae, key).estimate(paired, "ratio")
        for key in NO_BOS:
            found = of(study, layer, sae, key, "kl.no_bos")
            out[f"{name}.{key}.no_bos"] = found.estimate(paired, "ratio")
        out[f"{name}.sae_over_iso.median"] = _medians(study, layer, sae).estimate(paired, "ratio")
        out[f"{name}.pathology"] = pathology(study, layer, sae).estimate(paired, "ln ratio")
        out |= {f"{name}.{k}": v for k, v in _cross_entropy(study, layer, sae).items()}
    return out


def replaced(study: Study, layer: str, sae: str, variant: str, quantity: str = "kl") -> Columns:
    """One variant of one SAE."""
    why = study.no_sae(layer, sae) or f"the variant '{variant}' was not measured at the {layer} layer"
    return study.substitute.columns([(layer, sae, variant)], quantity, why)


def of(study: Study, layer: str, sae: str, key: str, quantity: str = "kl") -> Drawn:
    """One of `RATIOS`, a ratio of means."""
    columns = (replaced(study, layer, sae, variant, quantity) for variant in RATIOS[key])
    return together(lambda a, b: ratio(a, b)[..., 0], *columns)


def pathology(study: Study, layer: str, sae: str) -> Drawn:
    """ln(SAE / iso) - |ln(SAE / covariance mixture)|: above 0 where the mixture explains the error better."""

    def gap(sae: np.ndarray, iso: np.ndarray, cov: np.ndarray) -> np.ndarray:
        return (log_ratio(sae, iso) - np.abs(log_ratio(sae, cov)))[..., 0]

    return together(gap, *(replaced(study, layer, sae, v) for v in ("sae", "iso", "cov_mixture")))


def _medians(study: Study, layer: str, sae: str) -> Drawn:
    """The median over rows with the SAE over that with isotropic noise."""
    both = [
        study.substitute.median((layer, sae, v), "kl", replaced(study, layer, sae, v).why)
        for v in ("sae", "iso")
    ]
    if any(d.values is None for d in both):
        return next(d for d in both if d.values is None)
    return Drawn(ratio(*(d.values for d in both)), min(d.n for d in both))


def _cross_entropy(study: Study, layer: str, sae: str) -> Measures:
    """The increase of the cross-entropy, and its ratio to that of isotropic noise."""
    ours, noise = (replaced(study, layer, sae, v, "ce") for v in ("sae", "iso"))
    clean = study.clean.columns([()], "ce")
    increase = together(lambda a, c: (a - c)[..., 0], ours, clean)
    compared = together(lambda a, b, c: ratio(a - c, b - c)[..., 0], ours, noise, clean)
    return {
        "ce_increase": increase.estimate(study.paired, "nats"),
        "ce_ratio": compared.estimate(study.paired, "ratio"),
    }
