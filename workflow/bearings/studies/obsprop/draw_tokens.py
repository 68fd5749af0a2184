"""Which tokens of running text does a feature score highest and lowest (protocol 2.4)? Shown as a table."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bearings.evidence.figures import WIDTH, colour
from bearings.stages.panels import get, said_missing
from bearings.stages.read import ModelRun
from bearings.studies.obsprop.draw_panels import Runs, pairs

OBSERVABLES = {"n_subj": "subject pronoun", "n_obj": "object pronoun", "n_bias": "occupations"}
# The feature that is shown of an observable: the published path's, or else that of the best single head.
ROLES = ("6_6", "head")
SIDES = {"top": ("highest", "female"), "bottom": ("lowest", "male")}
LINES = 8
# Columns in characters of a fixed width: score, context to the left of the token, token.
BEFORE, WIDE = 32, 14
PER_CHARACTER = 0.0152  # share of a panel's width
SIGNS = {"female": "♀", "male": "♂", "": " "}


def tokens(runs: Runs) -> Figure:
    """One row per feature, its highest tokens on the left, its lowest on the right, in their context."""
    rows = [(run, twin, name) for run, twin in pairs(runs) for name in OBSERVABLES]
    size = (WIDTH * 1.5, 1.72 * len(rows) + 0.3)
    figure, axes = plt.subplots(len(rows), len(SIDES), figsize=size, squeeze=False)
    for (run, twin, name), panels in zip(rows, axes, strict=True):
        feature = _feature(run, name)
        for panel, side in zip(panels, SIDES, strict=True):
            panel.set_axis_off()
            _side(panel, run, twin, name, feature, side)
    key = "score · what stands before · token scored          ♀ female name   ♂ male name of the lists"
    figure.supxlabel(key, fontsize=8, color="#444444")
    return figure


def _feature(run: ModelRun, observable: str) -> str | None:
    found = set(run.outcomes["tokens"]["feature"])
    return next((f"{observable}.{role}" for role in ROLES if f"{observable}.{role}" in found), None)


def _side(
    panel: Axes, run: ModelRun, twin: ModelRun | None, observable: str, feature: str | None, side: str
) -> None:
    word, kind = SIDES[side]
    about = f"{OBSERVABLES[observable]}, {word} tokens"
    if feature is None:
        panel.set_title(f"{run.name}: {about}", fontsize=9)
        said_missing(panel, "no feature of this observable was read on text")
        return
    end = f"_{kind}_share"
    shares = [_percent(run, f"tokens.{feature}.{side}{end}"), _percent(run, f"tokens.random.{side}{end}")]
    said = f"{kind} names: {shares[0]}; random vectors {shares[1]}"
    other = _feature(twin, observable) if twin is not None else None
    if other is not None:
        said += f"; twin {_percent(twin, f'tokens.{other}.{side}{end}')}"
    path = _path(run, feature) if side == "top" else ""
    model = f"{run.name}, " if side == "top" else ""
    panel.set_title(f"{model}{about}{path}\n{said}", fontsize=8.5)
    table = run.outcomes["tokens"]
    _lines(panel, table[(table["feature"] == feature) & (table["side"] == side)].sort_values("rank"))


def _percent(run: ModelRun, measure: str) -> str:
    value = get(run, measure)["value"]
    return "not measurable" if value is None else f"{100 * value:.0f} %"


def _path(run: ModelRun, feature: str) -> str:
    """Where the feature is read, as its direction's name has it."""
    found = (key.split("/")[1] for key in run.directions.get("paths", {}) if key.startswith(f"{feature}/"))
    path = next(found, "")
    return f" at {path}" if len(path) < 20 else ""


def _lines(panel: Axes, rows: pd.DataFrame) -> None:
    """One line per different token and context, as often as it occurs; signs and colours by kind of name."""
    rows = rows.assign(before=[_before(r.context, r.token) for r in rows.itertuples()])
    again = rows.groupby(["before", "token"])["rank"].transform("size")
    rows = rows.assign(again=again).drop_duplicates(["before", "token"]).head(LINES)
    text = {"fontsize": 7.5, "family": "DejaVu Sans Mono", "va": "top", "parse_math": False}
    for k, r in enumerate(rows.itertuples()):
        y = 1 - k / LINES
        panel.text(0, y, f"{r.score:6.1f}", color="#444444", **text)
        edge = (8 + BEFORE) * PER_CHARACTER
        panel.text(edge, y, r.before, color="#777777", ha="right", **text)
        token = _shown(r.token).strip() or "␣"
        token = token if len(token) <= WIDE else f"{token[: WIDE - 1]}…"
        many = f" ×{r.again}" if r.again > 1 else ""
        ink = colour(r.kind) if r.kind else "black"
        said = f"{SIGNS[r.kind]}{token}"
        panel.text(edge + PER_CHARACTER, y, said, color=ink, weight="bold", **text)
        if many:
            panel.text(edge + (2 + len(said)) * PER_CHARACTER, y, many, color="#777777", **text)


def _before(context: str, token: str) -> str:
    """The end of what stands before the token, cut to the column."""
    before = _shown(context.removesuffix(token)).rstrip()
    return before if len(before) <= BEFORE else f"…{before[1 - BEFORE :]}"


def _shown(text: str) -> str:
    """Line ends as signs, and a dot for what the figure's letters do not have."""
    marks = {"\n": "↵", "\t": "→", "\r": ""}
    return "".join(
        marks.get(c, c if c.isprintable() and ord(c) < 0x250 else "·") for c in text.replace("    ", " ")
    )
