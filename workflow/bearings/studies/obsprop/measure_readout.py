"""Scores become measures: how well a feature tells what the model answers (protocol 2.4, 2.7, 4.8, section 8's gate).

r^2 hides the sign, so signed r stands beside it (trap T20). Code is told apart by its area under the ROC curve.
Intervals draw names, persons or files, not prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from bearings.evidence.stats import Estimate, Statistic, estimate

Options = Mapping[str, Any]
CLASSES = {
    "subj": ("male", "female"), "obj": ("male", "female"), "occ": ("male", "female"),
    "party": ("republican", "democrat"), "code1": ("python", "c"),
}  # fmt: skip
NAMES = ("subj", "obj", "occ")
# "His cousin [NAME]" has a gendered word for both genders (trap T15).
GENDERED = {"occ": 2}
# A score that varies this little beside the same feature's at the name is rounding.
CONSTANT = 1e-4


def r(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    """Pearson correlation over the last axis; x may have more axes in front of it than y has."""
    x, y = (v - v.mean(-1, keepdims=True) for v in (x, y))
    return (x * y).sum(-1) / np.sqrt((x * x).sum(-1) * (y * y).sum(-1))


def r2(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    """Share of the variance of y that a line in x explains."""
    return r(x, y) ** 2


def auc(x: np.ndarray, label: np.ndarray, axis: int = -1) -> np.ndarray:
    """Area under the ROC curve over the last axis, ties counting half; NaN where a class is absent."""
    label = np.broadcast_to(label > 0.5, x.shape)
    ones = label.sum(-1)
    zeros = label.shape[-1] - ones
    with np.errstate(all="ignore"):
        return ((rankdata(x, axis=-1) * label).sum(-1) - ones * (ones + 1) / 2) / (ones * zeros)


def slope(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    """Slope of the least-squares line of y on x."""
    x, y = (v - v.mean(-1, keepdims=True) for v in (x, y))
    return (x * y).sum(-1) / (x * x).sum(-1)


@dataclass(frozen=True, eq=False)
class View:
    """A task's prompts at one position: `score` [prompt x feature], and `about` [prompt x what is known of it]."""

    score: pd.DataFrame
    about: pd.DataFrame

    def part(self, keep: Any) -> View:
        """The prompts for which the mask [prompt] holds."""
        return View(self.score[keep], self.about[keep])

    def features(self, prefix: str) -> list[str]:
        return [name for name in self.score if name.startswith(prefix)]


def view(frame: pd.DataFrame, task: str, position: str, bos: bool | None = None) -> View:
    """Rows of a task at a position, of prompts with or without BOS if that is asked for."""
    rows = frame[(frame["task"] == task) & (frame["position"] == position)]
    if bos is not None:
        rows = rows[rows["bos"] == bos]
    about = rows.drop_duplicates("prompt").set_index("prompt").sort_index()
    score = rows.pivot(index="prompt", columns="feature", values="score").reindex(about.index)
    return View(score, about[["label", "cluster", "mixed", "template", "output"]])


def measure(frame: pd.DataFrame, options: Options) -> dict[str, Estimate]:
    """Measures `scores.*` of the `scores` table; what a model has no rows for is missing.

    Args:
        options: `seed` and `resamples` of the bootstrap.
    """
    out: dict[str, Estimate] = {}
    for task in CLASSES:
        position = "name" if task in NAMES else "tokens.mean"
        whole = view(frame, task, position, False if task == "party" else None)
        found = {
            **answers(task, whole, options),
            **readings(task, whole, options),
            **controls(task, whole, options),
        }
        if task in NAMES:
            found["bos.r2"] = at_bos(whole, view(frame, task, "bos"), options)
            found |= subsets(task, whole, options)
        if task == "party":
            named = view(frame, task, "name", True)
            found["reading.r2.name_bos"] = of(named, "reading", r2, "r2", options)
            found["reading.r.name_bos"] = of(named, "reading", r, "r", options)
        out |= {f"scores.{task}.{name}": e for name, e in found.items()}
    return out


def answers(task: str, v: View, options: Options) -> dict[str, Estimate]:
    """The model's own logit difference by class, and how often its sign is the class's."""
    about, out = v.about, {}
    for label, name in enumerate(CLASSES[task]):
        mine = about[about["label"] == label]
        out[f"logit_difference.{name}"] = estimate(
            np.mean, mine["output"], clusters=mine["cluster"], unit="logits", **options
        )
    right = ((about["output"] > 0) == (about["label"] == 1)).astype(float)
    out["accuracy"] = estimate(np.mean, right, clusters=about["cluster"], unit="share of prompts", **options)
    return out


def scoring(task: str) -> dict[str, tuple[Statistic, str]]:
    """name -> (statistic, column of the prompts that the scores are held against)."""
    return {"auc": (auc, "label")} if task == "code1" else {"r2": (r2, "output"), "r": (r, "output")}


def of(
    v: View, feature: str, statistic: Statistic, unit: str, options: Options, target: str = "output"
) -> Estimate:
    """A statistic of one feature's scores and what is held against them, clusters drawn together."""
    if feature not in v.score:
        return Estimate.missing(f"no scores of the feature '{feature}'", 0, unit)
    return estimate(
        statistic, v.score[feature], v.about[target], clusters=v.about["cluster"], unit=unit, **options
    )


def readings(task: str, v: View, options: Options) -> dict[str, Estimate]:
    """The reading feature, the task's path features by role, and the best head."""
    roles = {"reading": "reading"}
    roles |= {name.split(".", 2)[-1]: name for name in v.features("path.") if name.count(".") > 1}
    out = {}
    for name, (statistic, target) in scoring(task).items():
        out |= {f"{role}.{name}": of(v, f, statistic, name, options, target) for role, f in roles.items()}
        out[f"best_head.{name}"] = best_head(task, v, statistic, name, options, target)
    if task != "code1":
        out["reading.slope"] = of(v, "reading", slope, "logits per unit of score", options)
    return out


def halves(v: View) -> tuple[np.ndarray, np.ndarray]:
    """Masks [prompt] of two halves that share no cluster: every second one of each class, in the prompts' order."""
    first: set[str] = set()
    for _, mine in v.about.groupby("label"):
        first |= set(pd.unique(mine["cluster"])[::2])
    mask = v.about["cluster"].isin(first).to_numpy(bool)
    return mask, ~mask


def best_head(task: str, v: View, statistic: Statistic, unit: str, options: Options, target: str) -> Estimate:
    """The head that is best on one half of the names, measured on the other: nothing is chosen on what is judged."""
    heads = v.features("head.")
    chosen_on, judged_on = (v.part(mask) for mask in halves(v))
    if not heads or chosen_on.about.empty or judged_on.about.empty:
        return Estimate.missing("no heads, or fewer than two names, persons or files of a class", 0, unit)
    choose, column = next(iter(scoring(task).values()))
    with np.errstate(all="ignore"):
        found = choose(chosen_on.score[heads].to_numpy().T, chosen_on.about[column].to_numpy(float))
    if not np.isfinite(found).any():
        return Estimate.missing("no head's scores vary", len(v.about), unit)
    name = heads[int(np.nanargmax(found))]
    e = of(judged_on, name, statistic, unit, options, target)
    return replace(e, reason="; ".join(filter(None, [f"{name}, chosen on the other half", e.reason])))


def controls(task: str, v: View, options: Options) -> dict[str, Estimate]:
    """Random vectors of the reading feature's layer (mean and 95 % quantile), the control observable's feature."""
    name, (statistic, target) = next(iter(scoring(task).items()))
    random = v.features("random.")
    out = {}
    for suffix, reduce in (("", _mean), (".q95", _q95)):
        key = f"random.{name}{suffix}"
        if random:
            columns = v.score[random].to_numpy(), v.about[target]
            over = _over(statistic, reduce)
            out[key] = estimate(over, *columns, clusters=v.about["cluster"], unit=name, **options)
        else:
            out[key] = Estimate.missing("no random vectors", 0, name)
    control = next(iter(v.features("control.")), "control")
    out[f"control.{name}"] = of(v, control, statistic, name, options, target)
    return out


def _mean(values: np.ndarray) -> np.ndarray:
    return values.mean(-1)


def _q95(values: np.ndarray) -> np.ndarray:
    return np.quantile(values, 0.95, axis=-1)


def _over(statistic: Statistic, reduce) -> Statistic:
    """A statistic of scores [..., draws, n] and target [..., n], reduced over the draws."""
    return lambda x, y, axis=-1: reduce(statistic(x, y[..., None, :]))


def at_bos(v: View, bos: View, options: Options) -> Estimate:
    """The reading feature at BOS, which no name can reach: missing where, as it must be, its score is constant."""
    if "reading" not in bos.score or "reading" not in v.score:
        return Estimate.missing("no scores at BOS", 0, "r2")
    if bos.score["reading"].std() <= CONSTANT * v.score["reading"].std():
        return Estimate.missing("constant input: every prompt has the same BOS", len(bos.about), "r2")
    return of(bos, "reading", r2, "r2", options)


def subsets(task: str, v: View, options: Options) -> dict[str, Estimate]:
    """r^2 without the names of both genders, and without the template that has a gendered word (trap T15)."""
    kept = {"without_mixed": ~v.about["mixed"].astype(bool)}
    if task in GENDERED:
        kept[f"without_template{GENDERED[task]}"] = v.about["template"] != GENDERED[task]
    out = {}
    for name, mask in kept.items():
        part = v.part(mask.to_numpy(bool))
        out[f"reading.r2.{name}"] = of(part, "reading", r2, "r2", options)
        out[f"best_head.r2.{name}"] = best_head(task, part, r2, "r2", options, "output")
    return out
