"""Verdicts: one claim at one scale is judged from its measure, its control and its untrained twin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bearings.evidence.claims import NEAR_ENDS, StudyClaims, _numbers, is_published

VERDICTS = {
    "reproduced": "same model as published: the value lies within the tolerance",
    "not reproduced": "same model as published: the value lies outside the tolerance",
    "holds": "the inequality expected at this scale holds at the near end of the interval",
    "fails": "it does not",
    "control failed": "the control, or the untrained twin, shows it too: nothing is claimed",
    "not measurable": "too little survives the paper's own filters, or the measure is undefined",
    "observed": "measured with its interval; no expectation at this scale",
    "not run": "nobody ran it",
}
FAILING = ("fails", "not reproduced", "control failed")

Measure = Mapping[str, Any]


def judge(
    study: StudyClaims,
    scale: str,
    model: str,
    measures: Mapping[str, Measure] | None,
    twin_measures: Mapping[str, Measure] | None = None,
    published: str | None = None,
) -> dict[str, dict[str, Any]]:
    """Entry by claim id (without the study's prefix), as `claims.json` holds it for one scale.

    Args:
        measures: measure name -> {"value", "low", "high", "n", "unit", "reason"}; None where nothing was run.
        twin_measures: the same for the untrained twin of the model.
        published: the model's name in the papers, where it is one of theirs under another name.

    Rules, in this order:
        1. no measures: `not run`; no value: `not measurable`, with the reason and n;
        2. what is asked: on a published model the tolerance (unless it only reports), else the scale's
           inequality; if nothing is asked: `observed`, whatever the control shows;
        3. the control's interval (its value, where it has none) lies inside its band, else `control failed`;
           a control that could not be measured makes the claim `not measurable`;
        4. a claim of learning that the twin meets as well: `control failed`;
        5. tolerance: `reproduced` if the value lies in the band and its interval overlaps the band;
           inequality: `holds` if the interval's near end meets it (or its value), else `fails`.
    """
    return {
        claim["id"]: judge_claim(claim, scale, model, measures, twin_measures, published)
        for claim in study.claims
    }


def judge_claim(
    claim: Mapping[str, Any],
    scale: str,
    model: str,
    measures: Mapping[str, Measure] | None,
    twin_measures: Mapping[str, Measure] | None = None,
    published: str | None = None,
) -> dict[str, Any]:
    """One claim's entry; see `judge`."""
    ran = measures is not None
    measure = _find(measures, claim["measure"]) if ran else _find({}, "")
    asked, why_not = _asked(claim, scale, published or model)
    control = _control(claim, measures) if ran else None
    twin = _find(twin_measures, claim["measure"]) if twin_measures is not None else None
    if not ran:
        verdict, reason = "not run", "nobody ran it"
    elif measure["value"] is None:
        verdict, reason = "not measurable", measure["reason"] or "no value"
    elif asked is None:
        verdict, reason = "observed", why_not
    else:
        verdict, reason = _verdict(claim, measure, asked, control, twin)
    return {
        "model": model,
        "measure": claim["measure"],
        **{key: measure[key] for key in ("value", "low", "high", "n", "unit")},
        "expectation": asked,
        "control": control and {k: control[k] for k in ("measure", "value", "low", "high", "within")},
        "twin": twin and {key: twin[key] for key in ("value", "low", "high")},
        "verdict": verdict,
        "reason": reason,
    }


def record(
    study: StudyClaims,
    scale: str,
    seed: int,
    model: str,
    entries: Mapping[str, Mapping[str, Any]],
    published: str | None = None,
) -> dict[str, Any]:
    """One run's entries of one study and model, as the record files hold them."""
    return {
        "scale": scale,
        "seed": seed,
        "study": study.study,
        "model": model,
        "published": published,
        "entries": dict(entries),
    }


def meets(measure: Measure, asked: Mapping[str, Any]) -> bool:
    """Whether a measure meets a tolerance (`within`) or an inequality; no value meets nothing."""
    value = measure["value"]
    if value is None:
        return False
    low, high = ends(measure)
    if "within" in asked:
        return asked["within"][0] <= value <= asked["within"][1] and overlap((low, high), asked["within"])
    least, most = asked.get("between", (asked.get("at_least", low), asked.get("at_most", high)))
    return low >= least and high <= most


def ends(measure: Measure) -> tuple[float, float]:
    """The interval of a measure; its value twice where there is none."""
    value = measure["value"]
    low, high = measure.get("low"), measure.get("high")
    return (value if low is None else low, value if high is None else high)


def overlap(interval: tuple[float, float], band: Any) -> bool:
    return interval[0] <= band[1] and interval[1] >= band[0]


def _verdict(
    claim: Mapping[str, Any],
    measure: Measure,
    asked: Mapping[str, Any],
    control: Measure | None,
    twin: Measure | None,
) -> tuple[str, str]:
    if control is not None:
        name = control["measure"]
        if control["value"] is None:
            return "not measurable", f"its control {name} is missing: {control['reason'] or 'no value'}"
        low, high = ends(control)
        least, most = control["within"]
        if not (least <= low and high <= most):
            return "control failed", f"control {name} [{low:g}, {high:g}] leaves [{least:g}, {most:g}]"
    if claim["kind"] == "learning" and twin is not None and meets(twin, asked):
        return "control failed", "the untrained twin shows it too"
    good = meets(measure, asked)
    if "within" in asked:
        return ("reproduced" if good else "not reproduced"), asked["reason"]
    return ("holds" if good else "fails"), asked["reason"]


def _asked(claim: Mapping[str, Any], scale: str, model: str) -> tuple[dict[str, Any] | None, str]:
    """What the claim must meet at this scale on this model; None, with the reason, where nothing is asked."""
    tolerance, spec = claim["tolerance"], claim["scales"].get(scale, {})
    theirs = is_published(claim, model)
    if theirs and "report_only" not in tolerance:
        return {"within": _band(claim), "reason": tolerance["reason"]}, ""
    if any(key in spec for key in NEAR_ENDS):
        return dict(spec), ""
    if "not_expected" in spec:
        return None, f"not expected: {spec['not_expected']}"
    if theirs:
        return None, tolerance["reason"]
    if "published_here" in spec:
        return None, f"published for {claim['published']['model']}, run on {model}"
    return None, "no expectation at this scale"


def _band(claim: Mapping[str, Any]) -> list[float]:
    """The tolerance as a band: as given, or the published values (all draws) widened by `absolute`."""
    tolerance = claim["tolerance"]
    if "within" in tolerance:
        return list(tolerance["within"])
    values = _numbers(claim["published"]["value"])
    return [min(values) - tolerance["absolute"], max(values) + tolerance["absolute"]]


def _control(claim: Mapping[str, Any], measures: Mapping[str, Measure]) -> dict[str, Any] | None:
    control = claim["control"]
    if "none" in control:
        return None
    return {**_find(measures, control["measure"]), "measure": control["measure"], "within": control["within"]}


def _find(measures: Mapping[str, Measure], name: str) -> dict[str, Any]:
    empty = {
        "value": None,
        "low": None,
        "high": None,
        "n": 0,
        "unit": "",
        "reason": f"no measure named {name!r}",
    }
    found = measures.get(name)
    if found is None:
        return empty
    return {**empty, "reason": "", **(found.to_json() if hasattr(found, "to_json") else found)}
