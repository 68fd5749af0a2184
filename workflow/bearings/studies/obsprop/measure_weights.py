"""What the weights alone say (protocol 2.1): norms, cosines and couplings of heads' features. No data, no intervals.

`top1` to `top3` are the heads of the largest |attribution| for the subject pronoun; see `measure_patching`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from bearings.evidence.stats import Estimate
from bearings.studies.obsprop.measure_agreement import norms
from bearings.studies.obsprop.measure_patching import TOP, Head, Measures, missing, named, plain

# Heads with published numbers (protocol 2.1): the five of the largest norms, and what stands there with LayerNorm.
NORMS: dict[str, tuple[Head, ...]] = {
    "subj": ((18, 11), (17, 14), (13, 11), (15, 13), (18, 0)),
    "obj": ((18, 11), (17, 14), (13, 11), (15, 13), (14, 10)),
}
LN_NORMS = {"subj": (*NORMS["subj"][:4], (9, 1)), "obj": NORMS["obj"][:4]}
COSINES: tuple[Head, ...] = ((17, 14), (18, 11), (15, 13), (13, 11), (22, 2))
COUPLINGS: tuple[Head, ...] = ((17, 14), (15, 13), (13, 11))
QUANTITIES = {"norm": "norm", "norm_ln": "norm_ln_published", "norm_ln.corrected": "norm_ln_corrected"}
RATIOS = 4
COS, C = "cosine", "coupling coefficient"


def weights(table: pd.DataFrame, ranks: Sequence[Head]) -> Measures:
    """`weights.*`; `ranks` are the heads by attribution, largest first."""
    out = _cosines(table, list(ranks)[:TOP]) | _random(table, list(ranks)[:1])
    for task in NORMS:
        out |= _norms(table, task, f"n_{task}")
    cosine, coupled = (compared(table, "n_obj", q) for q in ("cos", "coupling"))
    listed = {h: _at(cosine, h, COS) for h in COSINES}
    out |= {f"weights.head_cos.{a}.{b}": listed[a, b] for a, b in COSINES}
    out["weights.head_cos.listed"] = _together(listed.values(), "sum of cosines")
    out |= {f"weights.coupling.{a}.{b}": _at(coupled, (a, b), C) for a, b in COUPLINGS}
    tops = list(ranks)[:TOP]
    for k in range(TOP):
        out[f"weights.coupling.top{k + 1}"] = _ranked(coupled, tops, k, C)
    final = table.loc[table["quantity"] == "norm_final", "value"]
    out["weights.norm_final"] = (
        plain(final.iloc[0], 1, "length")
        if len(final)
        else Estimate.missing("no pair of prompts for the subject")
    )
    return out


def compared(table: pd.DataFrame, other: str, quantity: str = "cos") -> pd.Series:
    """Cosine or coupling of n_subj with another observable by (layer, head); (-1, -1) is the output space."""
    rows = table[
        (table["quantity"] == quantity) & (table["observable"] == "n_subj") & (table["other"] == other)
    ]
    return rows.set_index(["layer", "head"])["value"].sort_index()


def random_cosines(table: pd.DataFrame, head: Head) -> np.ndarray:
    """Cosines [draws] of n_subj with observables of two random tokens at one head."""
    rows = table[(table["quantity"] == "cos") & table["other"].str.startswith("random.")]
    return rows.loc[(rows["layer"] == head[0]) & (rows["head"] == head[1]), "value"].to_numpy(float)


def _cosines(table: pd.DataFrame, tops: Sequence[Head]) -> Measures:
    """cos(n_subj, n_obj) at the output, at the heads that carry the pronoun, and at all others."""
    cosine = compared(table, "n_obj")
    heads = cosine[cosine.index.get_level_values("layer") >= 0]
    out = {"weights.range_cos": _at(cosine, (-1, -1), COS)}
    for other in ("bias", "control"):
        name = "n_bias" if other == "bias" else other
        out[f"weights.range_cos.{other}"] = _at(compared(table, name), (-1, -1), COS)
    for k in range(TOP):
        out[f"weights.head_cos.top{k + 1}"] = _ranked(cosine, tops, k, COS)
    names = [f"weights.head_cos.{x}" for x in ("mean_top3", "above_output", "max", "min", "bulk")]
    if len(tops) < TOP or any(h not in heads for h in tops) or out["weights.range_cos"].value is None:
        return out | missing(names, "heads have no ranks, or no cosines", COS)
    best = float(heads.loc[tops[0]])
    values = (
        float(heads.loc[list(tops)].mean()),
        best - out["weights.range_cos"].value,
        heads.max(),
        heads.min(),
        heads.median(),
    )
    notes = ("", named(tops[0]), named(heads.idxmax()), named(heads.idxmin()), "")
    for name, value, note in zip(names, values, notes, strict=True):
        out[name] = plain(value, len(heads), COS, note)
    return out


def _random(table: pd.DataFrame, top: Sequence[Head]) -> Measures:
    """The spread of random observables at the largest head, which is what a cosine there is to be judged by."""
    names = ["weights.control_cos.top1", "weights.random_cos.mean", "weights.random_cos.q95"]
    names += ["weights.head_cos.above_random", "weights.control_cos.above_random", "weights.head_cos.gain"]
    draws = np.abs(random_cosines(table, top[0])) if top else np.array([])
    if not len(draws):
        return missing(names, "no random observables, or no largest head", COS)
    q95 = float(np.quantile(draws, 0.95))
    control = _at(compared(table, "control"), top[0], COS)
    shared = _at(compared(table, "n_obj"), top[0], COS)
    out = {
        names[0]: control,
        names[1]: plain(draws.mean(), len(draws), "|cosine|"),
        names[2]: plain(q95, len(draws), "|cosine|"),
    }
    for name, found in ((names[3], shared), (names[4], control)):
        value = np.nan if found.value is None else found.value
        value = value if name == names[3] else abs(value)
        out[name] = plain(value - q95, len(draws), COS)
    # A model that learned nothing has its largest head anywhere: that must not count as more than the output has.
    output = _at(compared(table, "n_obj"), (-1, -1), COS)
    both = None in (shared.value, output.value)
    out[names[5]] = plain(np.nan if both else shared.value - max(output.value, q95), len(draws), COS)
    return out


def _norms(table: pd.DataFrame, task: str, observable: str) -> Measures:
    """Norms of the published heads, ratios between the largest ones, and what the mended weighting changes (T4)."""
    out: Measures = {}
    by = {name: norms(table, observable, quantity) for name, quantity in QUANTITIES.items()}
    for name, found in by.items():
        heads = NORMS[task] if name == "norm" else LN_NORMS[task]
        each = {h: _at(found, h, "length") for h in heads}
        out |= {f"weights.{name}.{task}.{a}.{b}": each[a, b] for a, b in heads}
        out[f"weights.{name}.{task}.listed"] = _together(each.values(), "sum of lengths")
    ordered = by["norm_ln"].sort_values(ascending=False, kind="stable")
    for k in range(RATIOS):
        where = f"weights.norm_ln.{task}.ratio{k + 1}"
        out[where] = Estimate.missing("too few heads", 0, "ratio of lengths")
        if len(ordered) > k + 1:
            note = f"{named(ordered.index[k])} over {named(ordered.index[k + 1])}"
            out[where] = plain(ordered.iloc[k] / ordered.iloc[k + 1], 1, "ratio of lengths", note)
    where = f"weights.norm_ln.{task}.range"
    out[where] = Estimate.missing("too few heads", 0, "ratio of lengths")
    if len(ordered) > RATIOS:
        out[where] = plain(ordered.iloc[0] / ordered.iloc[RATIOS], 1, "largest length over the fifth")
    where, both = f"weights.norm_ln.{task}.agreement", (by["norm_ln"], by["norm_ln.corrected"])
    out[where] = Estimate.missing("too few heads", 0, "Spearman")
    if len(ordered) > 2:
        rho = stats.spearmanr(*(x.to_numpy(float) for x in both)).statistic
        out[where] = plain(rho, len(ordered), "Spearman of published and corrected norms")
    return out


def _together(each: Iterable[Estimate], unit: str) -> Estimate:
    """The numbers of several heads added up; missing with the first that is."""
    each = list(each)
    absent = next((e for e in each if e.value is None), None)
    return absent or plain(sum(e.value for e in each), len(each), unit)


def _at(values: pd.Series, head: Head, unit: str) -> Estimate:
    if head in values.index:
        return plain(values.loc[head], 1, unit)
    return Estimate.missing(
        "not in the table" if head[0] < 0 else f"this model has no {named(head)}", 0, unit
    )


def _ranked(values: pd.Series, tops: Sequence[Head], k: int, unit: str) -> Estimate:
    if k >= len(tops):
        return Estimate.missing("no such head: heads have no ranks", 0, unit)
    found = _at(values, tops[k], unit)
    return found if found.value is None else plain(found.value, 1, unit, named(tops[k]))
