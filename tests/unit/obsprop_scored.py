"""Names, politicians and code by hand, with a planted direction that the answer is read from; no model is run.

The stand-in model has no final norm and unembeds a residual's own first entries, so that an output is known exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from bearings.stages.dumps import Dump
from bearings.stages.inputs import Inputs
from bearings.stages.prompts import Prompt

D, LAYERS, HEADS, VOCAB = 24, 3, 2, 8
AT = (2, 1)  # layer and head whose feature the answer follows
NOISE = 1.0
SETTINGS: dict[str, Any] = {"layers": "all", "heads": "all", "sizes": [2, 4, 8, 20], "splits": 4}
WORDS = {"n_subj": ((0,), (1,)), "n_obj": ((2,), (3,)), "n_bias": ((4, 5), (6, 7))}
WORDS |= {"party": ((0,), (2,)), "code1": ((3,), (1,))}
Answer = Callable[[np.ndarray, int, np.random.Generator], float]


def model() -> SimpleNamespace:
    unembed = SimpleNamespace(W_U=torch.eye(D, VOCAB), b_U=torch.zeros(VOCAB))
    bridge = SimpleNamespace(ln_final=lambda x: x, unembed=unembed)
    return SimpleNamespace(
        name="stand-in", n_layers=LAYERS, dtype=torch.float32, device=torch.device("cpu"), bridge=bridge
    )


def planted(observable: str) -> np.ndarray:
    """The direction of an observable that decides the answer, which is also its feature at the head `AT`."""
    v = np.random.default_rng([5, list(WORDS).index(observable)]).standard_normal(D)
    return v / np.linalg.norm(v)


def directions() -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(6)
    heads = {}
    for observable in (*WORDS, "control"):
        for layer in range(LAYERS):
            vectors = rng.standard_normal((HEADS, D))
            if observable != "control" and layer == AT[0]:
                # Any length: scores use unit vectors (trap T14).
                vectors[AT[1]] = 7.0 * planted(observable)
            heads[f"{observable}/{layer}"] = vectors.astype(np.float32)
    path = f"attn{AT[0]}.{AT[1]}@3"
    paths = {f"{name}.head/{path}/ignore": (3.0 * planted(name)).astype(np.float32) for name in WORDS}
    paths |= {f"{name}.head/{path}/scale": np.zeros(D, np.float32) for name in WORDS}
    paths["n_subj.path2/attn2.0@3<=mlp1@3/ignore"] = rng.standard_normal(D).astype(np.float32)
    random = rng.standard_normal((20, D))
    random /= np.linalg.norm(random, axis=1, keepdims=True)
    return {"heads": heads, "paths": paths, "random": {str(k): random for k in range(LAYERS)}}


def prompt(number: int, split: str, label: int, observable: str, text: str, **extra: Any) -> Prompt:
    positive, negative = WORDS[observable]
    about = {"observable": observable, **extra}
    ids = tuple(range(6))
    return Prompt(number, split, text, ids, label, {"end": (5,)}, positive, negative, extra=about)


def names(n: int = 16, tasks: tuple[str, ...] = ("subj", "obj", "occ")) -> list[Prompt]:
    out: list[Prompt] = []
    for task in tasks:
        observable = {"subj": "n_subj", "obj": "n_obj", "occ": "n_bias"}[task]
        for template in range(3):
            for label, gender in ((1, "female"), (0, "male")):
                for i in range(n):
                    name = f" {gender}{i}"
                    extra = {"task": task, "template": template, "name": name, "gender": gender}
                    extra |= {"pair": template * n + i, "mixed": i == n - 1, "held_out": False}
                    p = prompt(len(out), "names", label, observable, f"{task} {template}{name}", **extra)
                    out.append(replace(p, positions={"bos": (0,), "name": (3,), "end": (5,)}))
    return out


def politicians(n: int = 16, train: int = 12) -> list[Prompt]:
    out: list[Prompt] = []
    for bos in (False, True):
        for label in (1, 0):
            for i in range(n):
                split = "train" if i < train else "test"
                # The last one is the first one again, with something behind the name.
                person = f"person {label} 0 III" if i == n - 1 else f"person {label} {i}"
                extra = {"task": "party", "person": person, "bos": bos}
                p = prompt(len(out), split, label, "party", person, **extra)
                at = {"tokens": tuple(range(6)), "name": (3,), "minus4": (2,), "end": (5,)}
                out.append(replace(p, positions=at))
    return out


def code(files: int = 10, windows: int = 4) -> list[Prompt]:
    out: list[Prompt] = []
    for label, language in ((1, "c"), (0, "python")):
        for document in range(files):
            for window in range(windows):
                extra = {"task": "code1", "language": language, "document": document, "window": window}
                p = prompt(len(out), "code", label, "code1", "", **extra)
                out.append(replace(p, positions={"tokens": tuple(range(6)), "end": (5,)}))
    return out


def linear(score: float, label: int, rng: np.random.Generator) -> float:
    return 2.0 * score


def dumped(prompts: list[Prompt], positions: tuple[str, ...], seed: int, answer: Answer = linear) -> Dump:
    """Noise of width NOISE with the class along the planted direction at layer AT; BOS the same for all.

    A prompt has one residual at all positions but `minus4`, which knows nothing, `bos` and `end`; at the end, in the
    last layer, is the answer: answer(score of the planted direction, label, rng).
    """
    rng = np.random.default_rng(seed)
    bos = rng.standard_normal(D)
    rows, resid = [], {layer: [] for layer in range(LAYERS + 1)}
    for p in prompts:
        v = planted(p.extra["observable"])
        here = {layer: NOISE * rng.standard_normal(D) for layer in range(LAYERS + 1)}
        here[AT[0]] = here[AT[0]] + 2.0 * p.sign * v
        out = answer(float(here[AT[0]] @ v), p.label, rng)
        for name in positions:
            if name not in p.positions and name != "tokens.mean":
                continue
            rows.append((p.id, name))
            for layer in range(LAYERS + 1):
                x = {"bos": bos, "minus4": rng.standard_normal(D)}.get(name, here[layer])
                if name == "end" and layer == LAYERS:
                    x = np.zeros(D)
                    x[list(p.positive)] = out / len(p.positive)
                resid[layer].append(x)
    arrays = {layer: np.asarray(x, np.float32) for layer, x in resid.items()}
    return Dump(np.array([r[0] for r in rows]), np.array([r[1] for r in rows], dtype=object), arrays)


def inputs(answer: Answer = linear, seed: int = 0, **settings: Any) -> Inputs:
    sets = {"names": names(), "politicians": politicians(), "code": code(), "pairs": []}
    dumps = {
        "names": dumped(sets["names"], ("name", "bos", "end"), 1, answer),
        "politicians": dumped(sets["politicians"], ("name", "minus4", "tokens.mean", "end"), 2, answer),
        "code": dumped(sets["code"], ("tokens.mean", "end"), 3, answer),
    }
    return Inputs(sets, dumps, directions(), {**SETTINGS, **settings}, seed, model())
