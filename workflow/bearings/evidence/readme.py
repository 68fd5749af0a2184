"""The README's tables of verdicts, written from `claims.json` between marks, so that no number in them is typed.

`python -m bearings.evidence.readme README.md results/claims.json` rewrites it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bearings.evidence.table import interval, number
from bearings.store.atomic import write_text

START, END = "<!-- claims of {}: written by `make readme` -->", "<!-- /claims of {} -->"
HEAD = "| claim | paper | here, embedded world | other seeds | random or other control | verdict |"


def block(body: Mapping[str, Any], study: str) -> str:
    """Markdown of what the embedded scale measured for a study's claims: expected ones first.

    Left to `results/claims.md`: counts, and claims that another model's value is published for but the same measure.
    """
    rows, shown = {"expected": [], "observed": []}, set()
    for claim in body["claims"]:
        entry = claim["scales"].get("embedded") if claim["study"] == study else None
        if entry is None or entry["value"] is None or claim["kind"] == "count" or entry["measure"] in shown:
            continue
        shown.add(entry["measure"])
        rows["expected" if entry["expectation"] else "observed"].append(_row(claim, entry))
    lines = [HEAD, "|---|---|---|---|---|---|", *rows["expected"]]
    lines += [
        "",
        "Measured without an expectation at this scale (the reasons are in `results/claims.md`):",
        "",
    ]
    return "\n".join([*lines, HEAD, "|---|---|---|---|---|---|", *rows["observed"]])


def _row(claim: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    published, control = claim["published"], entry["control"]
    value = published["value"]
    theirs = "–" if value is None else " / ".join(map(_plain, value if isinstance(value, list) else [value]))
    models = published["model"] if isinstance(published["model"], list) else [published["model"]]
    theirs += f" ({' / '.join(map(str, models))})" if value is not None else ""
    others = [f"{number(e['value'])}" for s, e in sorted(entry["seeds"].items()) if int(s) != entry["seed"]]
    bound = _bound(entry["expectation"])
    cells = [
        claim["statement"].replace("|", "/"),
        theirs,
        f"{interval(entry)} {entry['unit']}{bound}",
        ", ".join(others) or "–",
        number(control["value"]) if control else "–",
        f"**{entry['verdict']}**" if entry["expectation"] else entry["verdict"],
    ]
    return "| " + " | ".join(cells) + " |"


def _plain(value: Any) -> str:
    return number(value) if isinstance(value, int | float) else str(value)


def _bound(asked: Mapping[str, Any] | None) -> str:
    if not asked:
        return ""
    words = {"at_least": "≥", "at_most": "≤", "between": "in"}
    said = [f"{sign} {asked[key]}" for key, sign in words.items() if key in asked]
    return f"; asked: {said[0]}" if said else ""


def rewrite(text: str, body: Mapping[str, Any]) -> str:
    """The README with the table of every study renewed.

    Raises:
        ValueError: the marks of a study are missing.
    """
    for study in dict.fromkeys(claim["study"] for claim in body["claims"]):
        start, end = START.format(study), END.format(study)
        if start not in text or end not in text:
            raise ValueError(f"README.md: the marks {start!r} and {end!r} are missing")
        before, rest = text.split(start, 1)
        text = f"{before}{start}\n{block(body, study)}\n{end}{rest.split(end, 1)[1]}"
    return text


if __name__ == "__main__":
    page, claims = map(Path, sys.argv[1:3])
    write_text(
        page, rewrite(page.read_text(encoding="utf-8"), json.loads(claims.read_text(encoding="utf-8")))
    )
