"""Which method is better: paired differences over relations and subjects, and the tests of Tables 7 and 8."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from bearings.evidence.stats import Estimate, estimate, mcnemar, proportion
from bearings.studies.lrc.common import VARIANTS
from bearings.studies.lrc.measure_counts import Measures
from bearings.studies.lrc.measure_scores import PUBLISHED_METHODS, Scored
from bearings.studies.lrc.measure_sweeps import points
from bearings.studies.lrc.metrics import matched, paired, ratio, shares, two_proportion_z

BOTH = ("acc", "caus")
# (better, worse) as the paper or its controls have it; causality alone where the second is a kind of edit.
PAIRS = (
    *((a, b, BOTH) for a, b in (("lrc", "svm"), ("lrc", "first_final"), ("svm", "average"))),
    *(("lrc", b, BOTH) for b in ("average", "svm_fair", "logistic", "centred", "first_mid", "transpose")),
    *(("lrc", b, BOTH) for b in ("full_rank", "scrambled", "permuted", "random")),
    *(("single_other", b, BOTH) for b in ("single_same", "single_distinct")),
    ("single_distinct", "single_same", BOTH),
    *(("lrc", b, ("caus",)) for b in ("reversed", "other_relation", "after", "single_layer")),
    ("substitute", "lrc", ("caus",)),
    ("lrc", "majority", ("acc",)),
)
LEVEL = 0.05
DIFFERENCE = "difference of shares"


def orders(scored: Scored) -> Measures:
    """`<variant>.<a>_minus_<b>.<acc or caus>`, over relations; `.micro` over subjects; `.share` of relations won."""
    out: Measures = {}
    for variant in VARIANTS:
        for a, b, scores in PAIRS:
            if variant == "published" and not {a, b} <= set(PUBLISHED_METHODS):
                continue
            for score in scores:
                out |= _pair(scored, variant, a, b, score)
        out |= _tokens(scored) | _best_layers(scored) if variant == "corrected" else {}
        out |= _significance(scored, variant)
    return out


def _pair(scored: Scored, variant: str, a: str, b: str, score: str) -> Measures:
    name = f"{variant}.{a}_minus_{b}.{score}"
    one, two = (scored.get(variant, score, m) for m in (a, b))
    if one is None or two is None:
        missing = scored.missing(variant, score, a, b, unit=DIFFERENCE)
        return {f"{name}{tail}": missing for tail in ("", ".micro", ".share", ".ties")}
    delta = paired(one, two)
    n, unit = len(delta), "share of relations"
    return {
        name: estimate(np.mean, delta, unit=DIFFERENCE, **scored.options),
        f"{name}.micro": _by_subject(matched(one, two), scored),
        f"{name}.share": proportion(int((delta > 0).sum()), n, unit=unit),
        f"{name}.ties": proportion(int((delta == 0).sum()), n, unit=unit),
    }


def _by_subject(both: pd.DataFrame, scored: Scored) -> Estimate:
    """Difference of micro scores, mean over split seeds; subjects are resampled, with all their prompts."""
    delta = both.assign(delta=both["hit_a"] - both["hit_b"])
    cells = delta.groupby(["relation", "subject", "seed"])["delta"].agg(["sum", "count"]).astype(float)
    wide = cells.unstack("seed").fillna(0.0).sort_index()
    found = estimate(ratio, wide["sum"], wide["count"], unit=DIFFERENCE, **scored.options)
    return replace(found, n=len(both[["relation", "prompt", "target", "copy"]].drop_duplicates()))


def _best_layers(scored: Scored) -> Measures:
    """LRC minus SVM when each reads the subject at its own best layer, both picked on the same test prompts."""
    name = "corrected.lrc_minus_svm.acc.own_layers"
    swept = [points(scored, "acc", kind) for kind in ("subject", "svm_subject")]
    if not all(swept):
        return {name: scored.missing("corrected", "acc", "lrc", "svm", unit=DIFFERENCE)}
    chosen = [max(tables.values(), key=lambda rows: shares(rows).mean(axis=None)) for tables in swept]
    return {name: estimate(np.mean, paired(*chosen), unit=DIFFERENCE, **scored.options)}


def _tokens(scored: Scored) -> Measures:
    """Mean over object tokens against the first alone, at one layer, apart for single- and multi-token objects."""
    name = "corrected.lrc_minus_first_mid.acc"
    one, two = (scored.get("corrected", "acc", m) for m in ("lrc", "first_mid"))
    if one is None or two is None:
        missing = scored.missing("corrected", "acc", "lrc", "first_mid", unit=DIFFERENCE)
        return {f"{name}.{x}": missing for x in ("single", "multi")}
    out = {}
    for x, few in (("single", True), ("multi", False)):
        delta = paired(*(rows[(rows["tokens"] == 1) == few] for rows in (one, two)))
        out[f"{name}.{x}"] = estimate(np.mean, delta, unit=DIFFERENCE, **scored.options)
    return out


def _significance(scored: Scored, variant: str) -> Measures:
    """LRC against SVM by split seed: the paper's z-test, McNemar's exact one, and how often LRC wins by each."""
    out: Measures = {}
    wins: dict[str, list[int]] = {}
    for score in BOTH:
        head = f"{variant}.lrc_minus_svm.{score}"
        one, two = (scored.get(variant, score, m) for m in ("lrc", "svm"))
        if one is None or two is None:
            missing = scored.missing(variant, score, "lrc", "svm", unit="split seeds")
            names = ("ahead", "significant_z", "significant_mcnemar", "behind_z")
            out |= {f"{head}.{x}": missing for x in names}
            continue
        tests = {int(seed): _tests(both) for seed, both in matched(one, two).groupby("seed", sort=True)}
        for seed, (p1, p2, z, exact) in tests.items():
            out[f"{head}.micro.seed{seed}"] = Estimate(p1 - p2, None, None, z.n, DIFFERENCE)
            for x, value, reason in (
                ("z", z.statistic, z.reason),
                ("z_p", z.p, z.reason),
                ("mcnemar_p", exact.p, exact.reason),
            ):
                unit = "z" if x == "z" else "p"
                out[f"{head}.{x}.seed{seed}"] = Estimate(value, None, None, z.n, unit, reason)
        found = list(tests.values())
        ahead = [p1 > p2 for p1, p2, _, _ in found]
        by_z, by_exact = ([t[k].p is not None and t[k].p < LEVEL for t in found] for k in (2, 3))
        wins[score] = [a and s for a, s in zip(ahead, by_z, strict=True)]
        exact_wins = [a and s for a, s in zip(ahead, by_exact, strict=True)]
        behind = [t[0] < t[1] and s for t, s in zip(found, by_z, strict=True)]
        for x, which in (
            ("ahead", ahead),
            ("significant_z", wins[score]),
            ("significant_mcnemar", exact_wins),
            ("behind_z", behind),
        ):
            out[f"{head}.{x}"] = Estimate(sum(which), None, None, len(which), "split seeds")
    both = [w for score in BOTH for w in wins.get(score, ())]
    out[f"{variant}.lrc_minus_svm.significant_z"] = (
        Estimate(sum(both), None, None, len(both), "tests, two per split seed")
        if len(wins) == 2
        else scored.missing(
            variant, next(s for s in BOTH if s not in wins), "lrc", "svm", unit="tests, two per split seed"
        )
    )
    return out


def _tests(both: pd.DataFrame):
    """(share of a, share of b, z-test, McNemar's test) of one split seed."""
    a, b = both["hit_a"].to_numpy() > 0, both["hit_b"].to_numpy() > 0
    p1, p2 = float(a.mean()), float(b.mean())
    return p1, p2, two_proportion_z(p1, p2, len(a)), mcnemar(a, b)
