"""Do paths of different observables end in one feature (protocol 2.4), and what do norms change of it (2.6)?

All from features alone: no interval. A path's feature lives at the input of its last component; a cosine of two that
live in different layers is undefined here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd

from bearings.evidence.stats import Estimate
from bearings.studies.obsprop.measure_patching import Measures, plain
from bearings.studies.obsprop.measure_weights import random_cosines

# Roles of paths: published ones, and those that the search gives.
ROLES = ("6_6", "mlp1", "attn0", "shared", "head", "path2", "path3")
ALTERNATIVES = {"1": "n_bias.6_6", "2": "n_bias.6_6_alt2", "3": "n_bias.6_6_alt3"}
# Whose norms are looked at -> names that the path may have, published first.
LN = {
    "subj": ("n_subj.6_6", "n_subj.path2", "n_subj.head"),
    "obj": ("n_obj.6_6", "n_obj.path2", "n_obj.head"),
    "party": ("party", "party.head"),
    "code1": ("code1", "code1.head"),
}
# Norms left out against: the other norm of the block at one prompt (as published), the right one, its exact gradient.
MODES = {"": "scale_swapped", ".scale": "scale", ".gradient": "gradient"}
LAST = re.compile(r"(attn|mlp)(\d+)(?:\.(\d+|all))?@-?\d+")
UNIT = "cosine"
Found = tuple[str, np.ndarray]


def paths(arrays: Mapping[str, np.ndarray], weights: pd.DataFrame) -> Measures:
    """`bias.*` of pairs of paths and `ln.cos.*` of pairs of modes, from arrays "<name>/<path>/<mode>" [d_model]."""
    out: Measures = {}
    for role in ROLES:
        where = f"bias.path_cos.{role}"
        out[where] = between(arrays, f"n_subj.{role}", f"n_bias.{role}")
        out[f"bias.obj_cos.{role}"] = between(arrays, f"n_subj.{role}", f"n_obj.{role}")
    for a, b in ("12", "23", "13"):
        one, other = ALTERNATIVES[a], ALTERNATIVES[b]
        out[f"bias.alt_paths.{a}{b}"] = between(arrays, one, other, "scale_swapped")
        out[f"bias.alt_paths.corrected.{a}{b}"] = between(arrays, one, other, "gradient")
    for name, mode in (("", "scale_swapped"), (".corrected", "gradient")):
        out[f"bias.subj_obj{name}.6_6"] = between(arrays, "n_subj.6_6", "n_obj.6_6", mode)
    return out | _random(arrays, weights, out) | _norms(arrays)


def find(arrays: Mapping[str, np.ndarray], name: str, mode: str) -> Found | None:
    """(path, feature) of a name in a mode."""
    for key, vector in arrays.items():
        if key.startswith(f"{name}/") and key.endswith(f"/{mode}"):
            return key.split("/")[1], np.asarray(vector, np.float64)
    return None


def place(path: str) -> tuple[str, int]:
    """("attn" or "mlp", layer) that a path's feature is the input of."""
    found = LAST.fullmatch(path.split("<=")[-1])
    if found is None:
        raise ValueError(f"{path!r} does not end in a component such as attn13.11@5 or mlp12@3")
    return found[1], int(found[2])


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def between(arrays: Mapping[str, np.ndarray], one: str, other: str, mode: str = "ignore") -> Estimate:
    """Cosine of two paths' features in one mode."""
    both = [find(arrays, name, mode) for name in (one, other)]
    absent = [name for name, found in zip((one, other), both, strict=True) if found is None]
    if absent:
        return Estimate.missing(f"no path {' or '.join(absent)} on this model", 0, UNIT)
    (path, a), (path_b, b) = both
    if place(path) != place(path_b):
        return Estimate.missing(f"{path} and {path_b} end in different places", 0, UNIT)
    return plain(cosine(a, b), 1, UNIT, f"{path} and {path_b}")


def _random(arrays: Mapping[str, np.ndarray], weights: pd.DataFrame, found: Measures) -> Measures:
    """The spread of random observables at the head where the shared path ends, and how far the cosine is above it."""
    names = ("bias.path_cos.random.mean", "bias.path_cos.random.q95", "bias.path_cos.above_random")
    role = next((r for r in ("6_6", "shared") if found[f"bias.path_cos.{r}"].value is not None), None)
    if role is None:
        return dict.fromkeys(
            names, Estimate.missing("no path of both observables ends at one place", 0, UNIT)
        )
    last = LAST.fullmatch(find(arrays, f"n_subj.{role}", "ignore")[0].split("<=")[-1])
    numbered = last[1] == "attn" and last[3] not in (None, "all")
    draws = np.abs(random_cosines(weights, (int(last[2]), int(last[3])))) if numbered else np.array([])
    if not len(draws):
        return dict.fromkeys(names, Estimate.missing("no random observables at that place", 0, UNIT))
    q95 = float(np.quantile(draws, 0.95))
    values = (draws.mean(), q95, found[f"bias.path_cos.{role}"].value - q95)
    return {name: plain(v, len(draws), UNIT) for name, v in zip(names, values, strict=True)}


def _norms(arrays: Mapping[str, np.ndarray]) -> Measures:
    """Cosine of one path's feature with norms left out and with them."""
    out: Measures = {}
    for task, names in LN.items():
        name = next((n for n in names if find(arrays, n, "ignore")), names[0])
        for tail, mode in MODES.items():
            both = [find(arrays, name, m) for m in ("ignore", mode)]
            where = f"ln.cos.{task}{tail}"
            if None in both:
                out[where] = Estimate.missing(f"no path {name} on this model", 0, UNIT)
            else:
                out[where] = plain(cosine(both[0][1], both[1][1]), 1, UNIT, f"{name}, {both[0][0]}")
    return out
