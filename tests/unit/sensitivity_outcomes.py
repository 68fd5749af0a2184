"""Outcome tables of the sensitivity study with planted truths, of a "trained" and of a "random" model, and of none.

K of a direction type is its constant times the squared length (in mean norms), times factors of row and sequence
whose mean is 1: every mean over all rows is known. The trained model's constants differ by type and fall with L0; the
random one's are all alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from bearings.stages.inputs import Inputs
from bearings.stages.prompts import Prompt

MODELS = ("trained", "random")
GRID = [0.0133, 0.0266, 0.07, 0.14, 0.27, 0.39, 0.65, 1.15, 2.54]
NAMED = [["k11", 0.14], ["k21", 0.27], ["k31", 0.39], ["k51", 0.65], ["k201", 2.54]]
LAYERS = {"main": 2, "early": 1, "late": 3}
LEVELS = {"local": 5, "e2e": 4, "e2e_ds": 4}
ASIDE = (1, 3)  # levels of the local ladder at the early and the late layer
NORM, D, VOCAB = 30.0, 8, 40
CE, COSINE = 1.25, -0.4
BASES = {
    "iso": 0.5, "iso2": 0.5, "iso_published": 0.52, "cov_difference": 3.0, "cov_mixture": 1.2, "real_difference": 3.1,
    "real_mixture": 1.26, "zero": 4.0, "ones": 0.0,
}  # fmt: skip
MATCHED = {"sae": 1.0, "iso": 0.4, "iso2": 0.4, "cov_mixture": 0.9, "real_mixture": 0.95}
VARIANTS = MATCHED | {"norm_corrected": 1.1, "norm_only": 0.02, "theta_recon": 0.45, "theta_true": 0.42}
ABLATIONS = {"mean": 3.0, "zero": 5.0, "identity": 0.0}
# K of a kind over that of local SAEs of the same L0.
KIND = {"local": 1.0, "e2e": 0.2, "e2e_ds": 0.5}
CLASSES = {"inactive": 2.0, "active": 2.6, "dead": 1.0}
CONTROLS = {
    "minus": 1.9, "random": None, "through": None, "shuffled": 1.5, "active_shuffled": 2.3, "inactive_shuffled": 2.3,
}  # fmt: skip
SETTINGS: dict[str, Any] = {
    "relative": True,
    "grid": GRID,
    "named": NAMED,
    "resamples": 200,
    "layers": sorted(LAYERS.values()),
    **{f"{name}_layer": layer for name, layer in LAYERS.items()},
}


@dataclass(frozen=True)
class Size:
    """How large the tables are: sequences, scored positions, SAEs by kind."""

    sequences: int = 12
    positions: int = 23
    levels: dict[str, int] = field(default_factory=lambda: dict(LEVELS))


def l0(level: int) -> float:
    """L0 of a level, the same for all kinds."""
    return 8.0 * 2**level


def fall(model: str, level: int) -> float:
    """How K goes with the level: K ~ L0^-1/2 in the trained model, not at all in the random one."""
    return (l0(level) / l0(0)) ** -0.5 if model == "trained" else 1.0


def base(model: str, direction: str) -> float:
    """K of a baseline direction at length 1."""
    return BASES[direction] if model == "trained" or direction in ("ones", "zero") else 0.5


def feature(model: str, direction: str, kind: str, level: int) -> float:
    """K of a direction of features at length 1."""
    if direction in ("random", "through"):
        return base(model, {"random": "iso", "through": "cov_mixture"}[direction])
    if model == "random":
        return 0.5
    constant = (CLASSES | CONTROLS)[direction]
    return constant if direction == "shuffled" else constant * KIND[kind] * fall(model, level)


def variant(model: str, name: str, level: int, layer: str = "main") -> float:
    """Mean KL of a substitution; error lengths, and so all of them, fall with L0."""
    if model == "random":
        return (0.02 if name == "norm_only" else 0.4) * fall("trained", level)
    steeper = {"early": 1.2, "main": 1.0, "late": 0.8}[layer] if name == "sae" else 1.0
    return VARIANTS[name] * steeper * fall(model, level) ** (1.5 if name == "sae" else 1.0)


def saes(size: Size, layer: str = "main") -> Iterator[tuple[str, str, int]]:
    """(name, kind, level) of the SAEs at a layer."""
    for kind, count in size.levels.items():
        for level in range(count):
            if layer == "main":
                yield f"{kind}-{level}", kind, level
            elif kind == "local" and level in ASIDE:
                yield f"{kind}-{level}-{layer}", kind, level


class _Maker:
    """Rows of tables. Factors of rows are shared by all conditions, those of sequences are a condition's own."""

    def __init__(self, model: str, size: Size, noise: float = 0.05):
        self.model, self.size, self.noise = model, size, noise
        self.rng = np.random.default_rng([MODELS.index(model), 17])
        self.factor = self.rng.lognormal(0, 1, (size.sequences, size.positions))
        self.factor[:, 0] = 0.1  # position 0 hardly moves the output
        self.sequences = np.arange(size.sequences) * 2 + 3  # ids need not be 0, 1, 2, ...
        self.clean = CE * self._scaled()

    def _scaled(self) -> np.ndarray:
        """Factors [sequences, positions] of mean 1."""
        mine = self.factor * self.rng.lognormal(0, self.noise, (self.size.sequences, 1))
        return mine / mine.mean()

    def curve(self, constant: float, grid: list[float], odd_empty: bool = False, **plain: Any) -> list[dict]:
        """Rows of one curve; with `odd_empty` every second sequence has none."""
        scaled, rows = self._scaled(), []
        step = 2 if odd_empty else 1
        if odd_empty:
            scaled = scaled / scaled[::2].mean()
        for length in grid:
            kl = (constant * length**2 * scaled).astype(np.float32)
            for i in range(0, self.size.sequences, step):
                rows.append(self.effect(i, kl[i]) | {"fraction": length, "length": length * NORM} | plain)
        return rows

    def effect(self, i: int, kl: np.ndarray) -> dict[str, Any]:
        ce = (self.clean[i] + kl / 2).astype(np.float32)
        return {"sequence": int(self.sequences[i]), "kl": kl, "ce": ce, "l2": 10 * np.sqrt(kl)}

    def substitutes(self, mean: float, **plain: Any) -> list[dict]:
        kl = (mean * self._scaled()).astype(np.float32)
        return [self.effect(i, kl[i]) | plain for i in range(self.size.sequences)]


NAMED_LENGTHS = [x for _, x in NAMED]


def _baselines(make: _Maker) -> list[dict]:
    rows = []
    for layer in LAYERS:
        for name in BASES if layer == "main" else ("iso", "cov_mixture", "real_mixture"):
            lengths = GRID if layer == "main" else NAMED_LENGTHS
            cosine = COSINE if name.endswith("difference") else 0.0
            rows += make.curve(
                base(make.model, name), lengths, layer=layer, direction=name, sae="", cosine=cosine, n=None
            )
    return rows


def _errors(make: _Maker) -> list[dict]:
    rows = []
    for name, kind, level in saes(make.size):
        constant = 3 * KIND[kind] * fall(make.model, level) if make.model == "trained" else 0.5
        rows += make.curve(constant, GRID, layer="main", direction="error", sae=name, cosine=None, n=None)
    return rows


def _features(make: _Maker) -> list[dict]:
    """No SAE of the kind e2e has dead features; of the others every second sequence has."""
    rows = []
    for name, kind, level in saes(make.size):
        for direction in (*CLASSES, *CONTROLS):
            if (direction, kind) == ("dead", "e2e"):
                continue
            grid = {"inactive": GRID}.get(direction, NAMED_LENGTHS if direction in CLASSES else [0.65])
            constant = feature(make.model, direction, kind, level)
            plain = {"layer": "main", "direction": direction, "sae": name, "cosine": None, "n": 9}
            rows += make.curve(constant, grid, odd_empty=direction == "dead", **plain)
    return rows


def _substitute(make: _Maker) -> list[dict]:
    rows = [
        r for k, mean in ABLATIONS.items() for r in make.substitutes(mean, layer="main", sae="", variant=k)
    ]
    for layer in LAYERS:
        for name, _, level in saes(make.size, layer):
            for k in VARIANTS if layer == "main" else ("sae", "iso", "cov_mixture", "real_mixture"):
                rows += make.substitutes(
                    variant(make.model, k, level, layer), layer=layer, sae=name, variant=k
                )
    return rows


def _quality(make: _Maker) -> list[dict]:
    """Explained variance is 0.9 + 0.01 level, L0 at every position that of the level; one position more is there."""
    rows, ones = [], np.ones(make.size.positions + 1, np.float32)
    for layer in LAYERS:
        for name, kind, level in saes(make.size, layer):
            lists = {
                "l0": l0(level) * ones, "squared_error": (0.1 - 0.01 * level) * 50 * ones, "variance": 50 * ones,
                "error_norm": 5 * ones, "recon_norm": 0.9 * NORM * ones, "cosine": 0.95 * ones,
            }  # fmt: skip
            plain = {"layer": layer, "sae": name, "kind": kind, "level": level, "d_sae": 64, "alive": 48}
            plain |= {
                "l0_training": l0(level) + 1 if kind == "local" else None,
                "coefficient": 4.0 / 2**level,
            }
            rows += [{"sequence": int(s)} | lists | plain for s in make.sequences]
    return rows


POSITION, AFTER = 10, 0.25  # the changed position; the effect at each later one


def _single(make: _Maker) -> list[dict]:
    shape = np.where(np.arange(make.size.positions) < POSITION, 0.0, AFTER)
    shape[POSITION] = 1.0
    conditions = [("", "iso_fixed", 0.65, 0.2), ("", "cov_fixed", 0.65, 0.5)]
    for name, _, level in saes(make.size):
        conditions += [
            (name, k, None, variant(make.model, k, level))
            for k in ("sae", "iso", "cov_mixture", "real_mixture")
        ]
    return [
        {"sequence": int(s), "sae": name, "variant": k, "fraction": fraction, "position": POSITION}
        | {"kl": (mean * shape).astype(np.float32)}
        for name, k, fraction, mean in conditions
        for s in make.sequences
    ]


def _clean(make: _Maker) -> list[dict]:
    """The norm of position 0 is twice that of the others."""
    norm = np.full(make.size.positions, NORM, np.float32)
    norm[0] *= 2
    tokens = _tokens(make.size)
    return [
        {"sequence": int(s), "ce": make.clean[i].astype(np.float32), "token": tokens[i, :-1]}
        | {f"norm_{name}": norm for name in LAYERS}
        for i, s in enumerate(make.sequences)
    ]


def _tokens(size: Size) -> np.ndarray:
    """Every token id is as frequent as the others, but for the remainder; rows begin with BOS (0)."""
    ids = np.arange(size.sequences * (size.positions + 1), dtype=np.int32).reshape(size.sequences, -1) % VOCAB
    ids[:, 0] = 0
    return ids


TABLES = {
    "clean": _clean, "baselines": _baselines, "errors": _errors, "features": _features, "substitute": _substitute,
    "quality": _quality, "single": _single,
}  # fmt: skip


def outcomes(model: str = "trained", size: Size | None = None) -> dict[str, pd.DataFrame]:
    """Fresh tables of a model."""
    make = _Maker(model, size or Size())
    return {name: pd.DataFrame(rows(make)) for name, rows in TABLES.items()}


@cache
def cached(model: str = "trained") -> dict[str, pd.DataFrame]:
    """The tables of a model, made once; not to be changed."""
    return outcomes(model)


def without_saes(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The tables of a run that has no SAE at all."""
    return {k: t if k == "clean" else t[t["sae"] == ""] if "sae" in t else t for k, t in tables.items()}


def inputs(model: str = "trained", size: Size | None = None, **settings: Any) -> Inputs:
    """What `measure` reads besides the tables."""
    size = size or Size()
    rows = [
        Prompt(int(3 + 2 * i), "curve", "", tuple(map(int, ids)), None, {}, (), ())
        for i, ids in enumerate(_tokens(size))
    ]
    pool = {}
    for layer in LAYERS.values():
        pool |= {
            f"mean/{layer}": np.zeros(D),
            # Two axes carry nearly all: a participation ratio near 2 of 8.
            f"factor/{layer}": np.diag([3.0, 3.0, *[0.1] * (D - 2)]).astype(np.float32),
            f"reservoir/{layer}": np.zeros((4, D), np.float32),
            f"norms/{layer}": np.array([NORM, NORM, NORM * 1.1]),
        }
    return Inputs(
        prompts={"rows": rows, "train": []},
        dumps={},
        directions={"pool": pool},
        settings=SETTINGS | settings,
        seed=3,
    )
