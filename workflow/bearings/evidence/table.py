"""The claims table for people: `claims.md`, one table per study, and a few lines for the terminal."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from bearings.evidence.merge import failing
from bearings.evidence.verdicts import VERDICTS

HEAD = ("claim", "published", "scale", "measured", "seeds", "control", "verdict", "files")
PAGE = (
    "<style>body{font:14px/1.4 sans-serif;margin:1em}table{border-collapse:collapse}"
    "td,th{border:1px solid #ccc;padding:3px 6px;text-align:left;vertical-align:top}th{background:#f4f4f4}</style>"
)
SUFFIX = {"directions": "safetensors"}


def table(body: Mapping[str, Any]) -> str:
    """Markdown of all claims; links are relative to `results/`, where the file lies."""
    lines = [
        "# Claims",
        "",
        "Every published claim beside what was measured here, with 95 % intervals and numbers of rows.",
        "",
        *_legend(body),
    ]
    for study in sorted({c["study"] for c in body["claims"]}):
        claims = [c for c in body["claims"] if c["study"] == study]
        lines += [
            "",
            f"## {_text(study)}",
            "",
            _text(claims[0]["paper"]),
            "",
            _row(HEAD),
            _row(["---"] * len(HEAD)),
        ]
        for claim in claims:
            lines += [_row(cells) for cells in _rows(claim)]
        lines += ["", "### What each claim says", ""]
        for claim in claims:
            lines += _detail(claim)
    return "\n".join(lines) + "\n"


def summary(body: Mapping[str, Any]) -> str:
    """A few lines for the terminal: counts by scale and verdict, and the names of what fails."""
    lines = [f"{len(body['claims'])} claims"]
    for scale, counts in _counts(body).items():
        lines.append(f"  {scale}: " + ", ".join(f"{n} {v}" for v, n in counts.items()))
    bad = failing(body)
    lines += [f"  failing: {', '.join(bad)}"] if bad else []
    return "\n".join(lines)


def number(value: float | None) -> str:
    """Four significant digits, and no more zeros than say something; a dash for nothing."""
    if value is None:
        return "–"
    if isinstance(value, int) or float(value).is_integer() and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.4g}"


def interval(entry: Mapping[str, Any]) -> str:
    """`value [low, high]`, without the brackets where there is no interval."""
    if entry["value"] is None or entry.get("low") is None or entry.get("high") is None:
        return number(entry["value"])
    return f"{number(entry['value'])} [{number(entry['low'])}, {number(entry['high'])}]"


def anchor(claim: str) -> str:
    """HTML id of a claim."""
    return re.sub(r"[^a-z0-9]+", "-", claim.lower())


def _counts(body: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """scale -> verdict -> number of claims, verdicts in the legend's order."""
    scales: dict[str, Counter] = {}
    for claim in body["claims"]:
        for scale, entry in (claim["scales"] or {"any scale": {"verdict": "not run"}}).items():
            scales.setdefault(scale, Counter())[entry["verdict"]] += 1
    return {scale: {v: c[v] for v in VERDICTS if c[v]} for scale, c in scales.items()}


def _legend(body: Mapping[str, Any]) -> list[str]:
    counts = _counts(body)
    head = ["verdict", *counts, "meaning"]
    rows = [[v, *(str(c.get(v, 0)) for c in counts.values()), meaning] for v, meaning in VERDICTS.items()]
    return [_row(head), _row(["---"] * len(head)), *(_row(r) for r in rows)]


def _rows(claim: Mapping[str, Any]) -> Iterable[list[str]]:
    """One row per scale; a claim nobody ran has one row."""
    published = claim["published"]
    value = published["value"]
    value = (
        ", ".join(number(v) if not isinstance(v, str) else v for v in value)
        if isinstance(value, list)
        else value
    )
    value = number(value) if isinstance(value, int | float) or value is None else value
    model = published["model"]
    model = ", ".join(model) if isinstance(model, list) else model or ""
    theirs = " ".join(x for x in (value, published.get("unit", ""), f"({model})" if model else "") if x)
    name = f"[{claim['id']}](#{anchor(claim['id'])})"
    if not claim["scales"]:
        yield [name, _text(theirs), "–", "–", "", "", "not run", ""]
    for scale, entry in claim["scales"].items():
        measured = f"{interval(entry)} {entry['unit']}".strip() + f", n = {entry['n']}"
        seeds = entry["seeds"] if len(entry["seeds"]) > 1 else {}
        yield [
            name,
            _text(theirs),
            _text(f"{scale}, {entry['model']}"),
            _text(measured),
            _text(
                "; ".join(f"{s}: {number(e['value'])} {_mark(e, entry)}".strip() for s, e in seeds.items())
            ),
            _text(_control(entry)),
            _text(entry["verdict"]),
            _links(claim, scale, entry),
        ]


def _mark(seed: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    return f"({seed['verdict']})" if seed["verdict"] != entry["verdict"] else ""


def _control(entry: Mapping[str, Any]) -> str:
    parts = [interval(entry["control"])] if entry["control"] else []
    if entry["twin"]:
        parts.append(f"twin {interval(entry['twin'])}")
    return "; ".join(parts)


def _links(claim: Mapping[str, Any], scale: str, entry: Mapping[str, Any]) -> str:
    """Figure, outcome and log of the run that made an entry, relative to `results/`."""
    run, study, model = f"{scale}/seed-{entry['seed']}", claim["study"], entry["model"]
    links = []
    if claim["figure"]:
        links.append(f"[figure]({run}/figures/{study}/{claim['figure']}.png)")
    if claim["job"]:
        stage, name = claim["job"].split("/")
        links.append(f"[outcome]({run}/{stage}/{model}/{study}/{name}.{SUFFIX.get(stage, 'parquet')})")
        links.append(f"[log](../logs/results/{run}/{stage}/{model}/{study}/{name}.log)")
    else:
        links.append(f"[measures]({run}/measures/{model}/{study}.json)")
        links.append(f"[log](../logs/results/{run}/measures/{model}/{study}.log)")
    return ", ".join(links)


def _detail(claim: Mapping[str, Any]) -> list[str]:
    published = claim["published"]
    source = "; ".join(
        str(published[k])
        for k in ("spread", "evidence")
        if published.get(k) is not None and published[k] != ""
    )
    lines = [
        f'<a id="{anchor(claim["id"])}"></a>**{claim["id"]}** ({_text(claim["where"])}): '
        f"{_text(claim['statement'])}" + (f" *{_text(source)}*" if source else "")
    ]
    for scale, entry in claim["scales"].items():
        lines.append(f"- {scale}: {entry['verdict']}; {_text(entry['reason'])}{_text(_expected(entry))}")
        for model, other in entry.get("models", {}).items():
            lines.append(f"- {scale}, {_text(model)}: {interval(other)}, {other['verdict']}")
    return [*lines, ""]


def _expected(entry: Mapping[str, Any]) -> str:
    asked = entry["expectation"] or {}
    words = {"at_least": "at least", "at_most": "at most", "between": "between", "within": "within"}
    said = [
        f"{word} {' and '.join(map(number, _list(asked[key])))}"
        for key, word in words.items()
        if key in asked
    ]
    return f" (asked: {said[0]})" if said else ""


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _text(text: Any) -> str:
    """Text that stays one cell of a Markdown table and starts no HTML."""
    return " ".join(str(text).replace("|", "\\|").replace("<", "&lt;").split())


def page(text: str) -> str:
    """The table as a web page of its own, for the report."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    head = f'<meta charset="utf-8"><title>Claims</title>{PAGE}'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n'
