"""Claims: a study's `claims.yaml` is read and checked, and every claim gets its verdict at one scale."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from bearings.evidence.each import expand

SCHEMA = Path(__file__).resolve().parents[2] / "schemas/claims.schema.yaml"
STAGES = {
    "experiments": "interventions",
    "methods": "directions",
    "saes": "saes",
    "dumps": "activations",
    "sets": "prompts",
}
NEAR_ENDS = ("at_least", "at_most", "between")


class ClaimsError(ValueError):
    """One line naming the study, the claim and the key."""


@dataclass(frozen=True)
class StudyClaims:
    """A study's claims as `claims.yaml` has them, checked."""

    study: str
    title: str
    paper: Mapping[str, str]
    manifest: Mapping[str, Any]
    claims: tuple[Mapping[str, Any], ...]

    def stage_of(self, job: str | None) -> str | None:
        """The stage of the pipeline that runs a claim's job."""
        return next((stage for key, stage in STAGES.items() if job in self.manifest.get(key, ())), None)


@cache
def _validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(yaml.safe_load(SCHEMA.read_text()))


def load_claims(path: str | Path) -> StudyClaims:
    """Read and check a study's `claims.yaml`.

    Raises:
        ClaimsError: the first fault, in one line with study, claim and key.
    """
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ClaimsError(
            f"{path.parent.name}/{path.name}: not valid YAML ({' '.join(str(error).split())})"
        ) from None
    return parse_claims(raw, f"{path.parent.name}/{path.name}")


def parse_claims(raw: Any, where: str) -> StudyClaims:
    """Check a parsed `claims.yaml`; `where` names it in errors. Raises `ClaimsError`."""
    study = raw.get("study") if isinstance(raw, dict) else None
    where = f"{where}: study {study!r}" if isinstance(study, str) else where
    if isinstance(raw, dict):
        try:
            raw = {**raw, "claims": expand(raw["claims"])} if "claims" in raw else raw
        except ValueError as error:
            raise ClaimsError(f"{where}: {error}") from None
    errors = sorted(_validator().iter_errors(raw), key=lambda e: [str(x) for x in e.absolute_path])
    for error in errors[:1]:
        raise ClaimsError(f"{where}: {_place(raw, list(error.absolute_path))}{_said(error)}")
    for place, wrong in _faults(raw):
        raise ClaimsError(f"{where}: {_place(raw, place)}{wrong}")
    return StudyClaims(study, raw["title"], raw["paper"], raw["manifest"], tuple(raw["claims"]))


def _place(raw: Any, path: list[Any]) -> str:
    """`claim 'id': key 'a.b': ` for a path into the document."""
    words = []
    if path[:1] == ["claims"] and len(path) > 1:
        claim = raw["claims"][path[1]]
        words.append(f"claim {claim.get('id', path[1]) if isinstance(claim, dict) else path[1]!r}")
        path = path[2:]
    if path:
        words.append(f"key '{'.'.join(map(str, path))}'")
    return "".join(f"{w}: " for w in words)


def _said(error: jsonschema.ValidationError) -> str:
    if error.validator in ("oneOf", "anyOf"):
        needs = [o["required"] for o in error.validator_value if "required" in o]
        if needs:
            return "needs exactly one of: " + "; ".join(" + ".join(n) for n in needs)
    return " ".join(error.message.split())[:300]


def _faults(raw: Mapping[str, Any]) -> Iterator[tuple[list[Any], str]]:
    """What a schema cannot say: names that point nowhere, empty bands, numbers that are none."""
    twice = [name for name, k in Counter(c["id"] for c in raw["claims"]).items() if k > 1]
    manifest = raw["manifest"]
    jobs = {name for key in STAGES for name in manifest.get(key, ())}
    for name in sorted(set(manifest["dumps"]) - set(manifest["sets"])):
        yield ["manifest", "dumps"], f"{name!r} is not in 'manifest.sets'"
    for name in sorted(set(manifest.get("predictions", ())) - set(manifest["dumps"])):
        yield ["manifest", "predictions"], f"{name!r} is not in 'manifest.dumps'"
    order = {name: i for i, name in enumerate(manifest["methods"])}
    for name, others in manifest.get("builds_on", {}).items():
        for other in (name, *others):
            if other not in order:
                yield ["manifest", "builds_on"], f"{other!r} is not in 'manifest.methods'"
            elif other != name and order[other] > order[name] or name in others:
                yield ["manifest", "builds_on"], f"{name!r} builds on {other!r}, which must stand before it"
    for i, claim in enumerate(raw["claims"]):
        at = ["claims", i]
        if claim["id"] in twice:
            yield [*at, "id"], "two claims have this id"
        if "figure" in claim and claim["figure"] not in manifest["figures"]:
            yield [*at, "figure"], f"{claim['figure']!r}; allowed: {', '.join(manifest['figures'])}"
        if "job" in claim and claim["job"] not in jobs:
            yield [*at, "job"], f"{claim['job']!r}; allowed: {', '.join(sorted(jobs))}"
        if "absolute" in claim["tolerance"] and not _numbers(claim["published"]["value"]):
            yield (
                [*at, "tolerance", "absolute"],
                "needs a published value that is a number or a list of numbers",
            )
        for path, value in _leaves(claim):
            if isinstance(value, float) and not math.isfinite(value):
                yield [*at, *path], f"is {value}; must be a finite number"
        for key, band in _bands(claim):
            if band[0] > band[1]:
                yield [*at, *key], f"{band} is empty; the smaller bound comes first"


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(value, Mapping | list):
        for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _leaves(inner, (*path, key))
    else:
        yield path, value


def _bands(claim: Mapping[str, Any]) -> Iterator[tuple[list[str], list[float]]]:
    for key in ("tolerance", "control"):
        if "within" in claim[key]:
            yield [key, "within"], claim[key]["within"]
    for scale, spec in claim["scales"].items():
        if "between" in spec:
            yield ["scales", scale, "between"], spec["between"]


def _numbers(value: Any) -> list[float]:
    values = value if isinstance(value, list) else [value]
    good = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    return values if good else []


def is_published(claim: Mapping[str, Any], model: str) -> bool:
    """Whether `model` (a name, a hub id or a folder) is one the claim was published for."""
    published = claim["published"]["model"]
    names = published if isinstance(published, list) else [published]
    return model.rstrip("/").split("/")[-1].lower() in {str(n).split("/")[-1].lower() for n in names if n}
