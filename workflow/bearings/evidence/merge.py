"""All verdicts in one document: records of scales, seeds and models become the body of `claims.json`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bearings.evidence.claims import StudyClaims, is_published
from bearings.evidence.verdicts import FAILING

SCALES = ("embedded", "reviews", "gpt2", "paper")
SHORT = ("value", "low", "high", "verdict")


def merge(
    records: Iterable[Mapping[str, Any]], studies: Iterable[StudyClaims], generated: str = ""
) -> dict[str, Any]:
    """Body of `claims.json`: every claim of every study, with what each scale says of it.

    A scale's entry comes from the lowest seed there is; `seeds` holds value, interval and verdict of all.
    Where several models ran at one scale, the entry is the published model's, else the first by name, and
    `models` holds the others' at that seed. A claim nobody ran has no scales.
    """
    records = list(records)
    claims = []
    for study in sorted(studies, key=lambda s: s.study):
        mine = [r for r in records if r["study"] == study.study]
        for claim in study.claims:
            stage = study.stage_of(claim.get("job"))
            claims.append(
                {
                    "id": f"{study.study}.{claim['id']}",
                    "study": study.study,
                    "paper": f"{study.paper['citation']}, arXiv {study.paper['arxiv']}",
                    "where": claim["where"],
                    "statement": claim["statement"],
                    "kind": claim["kind"],
                    "published": dict(claim["published"]),
                    "figure": claim.get("figure"),
                    "job": f"{stage}/{claim['job']}" if stage else None,
                    "scales": _scales(claim, mine),
                }
            )
    return {"generated": generated, "claims": claims}


def _scales(claim: Mapping[str, Any], records: list[Mapping[str, Any]]) -> dict[str, Any]:
    ran = [r for r in records if r["entries"].get(claim["id"], {}).get("verdict", "not run") != "not run"]
    there = {r["scale"] for r in ran}
    order = [s for s in SCALES if s in there] + sorted(there - set(SCALES))
    return {scale: _scale(claim, [r for r in ran if r["scale"] == scale]) for scale in order}


def _scale(claim: Mapping[str, Any], records: list[Mapping[str, Any]]) -> dict[str, Any]:
    def rank(record: Mapping[str, Any]) -> tuple[bool, str]:
        return not is_published(claim, record.get("published") or record["model"]), record["model"]

    by_seed: dict[int, list[Mapping[str, Any]]] = {}
    for one in sorted(records, key=lambda r: (r["seed"], rank(r))):
        by_seed.setdefault(one["seed"], []).append(one)
    first, *others = by_seed[min(by_seed)]
    # Seeds are compared on one model; a seed at which it did not run has nothing to compare.
    same = {s: next((r for r in rs if r["model"] == first["model"]), None) for s, rs in by_seed.items()}
    entry = {
        **first["entries"][claim["id"]],
        "seed": first["seed"],
        "seeds": {str(s): _short(r, claim["id"]) for s, r in same.items() if r is not None},
    }
    if others:
        entry["models"] = {r["model"]: _short(r, claim["id"]) for r in others}
    return entry


def _short(record: Mapping[str, Any], claim: str) -> dict[str, Any]:
    return {key: record["entries"][claim][key] for key in SHORT}


def failing(body: Mapping[str, Any], scale: str | None = None, seed: int | None = None) -> list[str]:
    """Ids of the claims that fail at any scale, or at one; with `seed`, judged on that seed's verdict.

    Every seed recorded counts where no seed is named: a claim that only seed 0 shows does not pass.
    """
    found = []
    for claim in body["claims"]:
        for name, entry in claim["scales"].items():
            verdicts = {s: e["verdict"] for s, e in entry["seeds"].items()}
            chosen = list(verdicts.values()) if seed is None else [verdicts.get(str(seed))]
            if scale in (None, name) and any(v in FAILING for v in chosen) and claim["id"] not in found:
                found.append(claim["id"])
    return found
