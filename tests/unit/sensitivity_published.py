"""What the published table of the sensitivity study says of every measure: its value and its mark of evidence."""

from __future__ import annotations

import math
from typing import Any

KINDS = {"local": "local", "e2e": "e2e", "e2e+ds": "e2e_ds"}
HUB = {"jup3glm9", "1jy3m5j0", "zgdpkafo", "tvj2owza", "2lzle2f0"}
PRINTED, READ, DERIVED = "repo notebook output", "figure, read off", "derived"
CLASSES = {"inactive": "kl_alive_inactive", "active": "kl_active", "dead": "kl_dead"}
# Measure of a substitution -> its key in the table.
SUBSTITUTED = {
    "sae.kl": "kl_sae",
    "sae.ce": "ce_sae",
    "norm_only.kl": "kl_cos_corrected",
    "iso.kl": "kl_eps_iso",
    "iso.ce": "ce_eps_iso",
    "theta_recon.kl": "kl_theta_recon_norm",
    "theta_true.kl": "kl_theta_true_norm",
    "sae_over_iso": "ratio_kl_sae_over_eps_iso",
    "ce_ratio": "ratio_dce_sae_over_eps_iso",
}
CHECKS = {
    "setup.ce": "baseline_ce",
    "setup.norm": "mean_norm_layer6",
    "setup.token_id": "mean_token_id",
    "setup.mean_ablation": "mean_ablation_kl",
}


def printed(saes: dict[str, Any]) -> dict[str, tuple[float, str]]:
    """(value, mark) by measure of everything that the table has of single SAEs; unknown values are left out."""
    out: dict[str, tuple[float | None, str]] = {}
    for name, s in saes.items():
        out[f"sae.{name}.l0"] = (s["l0_here"], PRINTED)
        out[f"sae.{name}.error_norm"] = (s["error_norm"], PRINTED)
        along, features = s["error_direction"], s["feature_direction"]
        out |= {f"err.{name}.k{n}": (v, along["kl_evidence"][n]) for n, v in along["kl"].items()}
        out |= {f"feat.{name}.{c}.k51": (features[k]["51"], features["evidence"]) for c, k in CLASSES.items()}
        found = s["substitution"] or {"evidence": {}}
        out |= {
            f"sub.{name}.{m}": (found.get(k), found["evidence"].get(k, "")) for m, k in SUBSTITUTED.items()
        }
    return {m: v for m, v in out.items() if v[0] is not None}


def bloom(data: dict[str, Any]) -> dict[str, tuple[float, str]]:
    """The same of Bloom's SAE."""
    found = data["bloom"]["substitution_1600_sequences"]
    mark, kl = found["evidence"], found["kl"]
    out = {f"sub.bloom-6.{v}.kl": (kl[v]["mean"], mark) for v in ("sae", "norm_corrected")}
    for ours, theirs in (("iso", "eps_iso"), ("norm_only", "cos_corrected")):
        out[f"sub.bloom-6.{ours}.kl"] = (kl[theirs]["mean"], mark)
    for norm in ("recon", "true"):
        mean = kl[f"theta_{norm}_norm"]["mean"]
        out[f"sub.bloom-6.theta_{norm}.kl"] = (mean, mark)
        out[f"sub.bloom-6.theta_{norm}_over_iso"] = (mean / kl["eps_iso"]["mean"], DERIVED)
    for ours, theirs in (("sae", "sae"), ("iso", "eps_iso")):
        out[f"sub.bloom-6.{ours}.kl.median"] = (kl[theirs]["median"], mark)
        by_position = data["bloom"]["kl_by_position"][theirs]
        out[f"sub.bloom-6.{ours}.kl.no_bos"] = (math.fsum(by_position[1:]) / 126, DERIVED)
    derived = {"sae_over_iso": "kl_ratio_sae_over_eps_iso", "sae_over_iso.median": "kl_median_ratio"}
    for ours, theirs in {**derived, "ce_ratio": "dce_ratio"}.items():
        out[f"sub.bloom-6.{ours}"] = (found["derived"][theirs], DERIVED)
    return out


def over_saes(data: dict[str, Any], saes: dict[str, Any]) -> dict[str, tuple[float, str]]:
    """What is derived from several SAEs, computed anew from the table."""

    def sub(name, key):
        return saes[name]["substitution"][key]

    def k21(name):
        return saes[name]["error_direction"]["kl"]["21"]

    by_kind = {k: [s for s in saes.values() if s["type"] == t] for t, k in KINDS.items()}
    ratios = {
        k: [sub(s["id"], "ratio_kl_sae_over_eps_iso") for s in v if s["substitution"]]
        for k, v in by_kind.items()
    }
    # In the table local SAEs stand in the order of L0.
    assert ratios["local"] == sorted(ratios["local"], reverse=True)
    only = {n: sub(n, "kl_cos_corrected") / sub(n, "kl_sae") for n in saes if saes[n]["substitution"]}
    out = {
        "ladder.local.sae_over_iso.least": min(ratios["local"]),
        "ladder.local.sae_over_iso.l0": -1.0,
        "ladder.e2e.sae_over_iso.most": max(ratios["e2e"]),
        "ladder.e2e_ds.sae_over_iso.most": max(ratios["e2e_ds"]),
        "ladder.local.norm_only_over_sae.most": max(v for n, v in only.items() if saes[n]["type"] == "local"),
        "sub.tvj2owza.norm_only_over_sae": only["tvj2owza"],
        "matched.err.k21.local_over_e2e": k21("jup3glm9") / k21("tvj2owza"),
        "matched.err.k21.local_over_e2e_ds": k21("jup3glm9") / k21("2lzle2f0"),
        "matched.sub.e2e_over_local": sub("tvj2owza", "kl_sae") / sub("jup3glm9", "kl_sae"),
        "matched.sub.e2e_ds_over_local": sub("2lzle2f0", "kl_sae") / sub("jup3glm9", "kl_sae"),
        "layers.spread": 4.5 / 2.2,
    }
    kl = saes["jup3glm9"]["error_direction"]["kl"]
    out["err.jup3glm9.slope"] = math.log(kl["11"] / kl["1"]) / math.log(11)
    for norm in ("recon", "true"):
        mean = sub("jup3glm9", f"kl_theta_{norm}_norm")
        out[f"sub.jup3glm9.theta_{norm}_over_iso"] = mean / sub("jup3glm9", "kl_eps_iso")
    for theirs, ours in KINDS.items():
        found = data["derived"]["spearman"][theirs]
        out[f"ladder.{ours}.err.l0_k21"] = found["spearman_l0_vs_error_kl21"]
        for c, key in CLASSES.items():
            out[f"ladder.{ours}.feat.{c}.l0_k51"] = found[f"spearman_l0_vs_feature_kl51_{key[3:]}"]
        pairs = [(_at_51(s, "active", 0), _at_51(s, "alive_inactive", 1)) for s in by_kind[ours]]
        out[f"ladder.{ours}.feat.active_over_inactive.share"] = sum(a >= b for a, b in pairs) / len(pairs)
    return {m: (v, DERIVED) for m, v in out.items()}


def _at_51(s, name, end):
    """A value at length 51; where a line is hidden, the bound that speaks against the claim."""
    found = s["feature_direction"]
    value = found[f"kl_{name}"]["51"]
    return found["hidden_line_bounds_at_51"][name][end] if value is None else value


def others(data: dict[str, Any]) -> dict[str, tuple[object, str]]:
    """Gurnee's ranges, the example token, and ranges that the protocol reads from interpolated figures."""
    found, token = data["gurnee_2024"], data["example_token"]
    wide, third = found["ratio_kl_sae_over_eps_random_all_layers"], "third party"
    out: dict[str, tuple[object, str]] = {
        f"layers.{x}.sae_over_iso": (wide, third) for x in ("early", "main", "late")
    }
    out["layers.attention.sae_over_iso"] = (found["attention_output_saes_ratio"], third)
    out["single.bloom-6.sae_over_iso"] = (found["single_position_ratio_at_least"], third)
    for ours, theirs in (("inactive", "alive_inactive"), ("active", "active"), ("dead", "dead")):
        out[f"feat.{token['sae_id']}.{ours}.k51.token"] = (token["kl"][theirs]["51"], token["evidence"])
    # Protocol section 2, `feature.e2e_not_stronger`.
    out["matched.feat.k51.e2e_over_local"] = ([0.55, 0.70], DERIVED)
    out["matched.feat.k51.e2e_ds_over_local"] = ([0.66, 0.92], DERIVED)
    return out


def checks(data: dict[str, Any]) -> dict[str, tuple[float, str]]:
    """The run itself."""
    found = data["check_values"]
    return {m: (found[k], found["evidence"]) for m, k in CHECKS.items()}
