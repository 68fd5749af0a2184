"""Outcome tables of the obsprop study with planted truths, of a "trained" and of a "random" model, and of none.

The trained model has three heads that carry the pronoun (`TOPS`, by attribution), in which subject and object share a
feature; in the random one nothing stands out. Geometry (C against slopes, cos^2 against r^2) holds in both.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from bearings.stages.inputs import Inputs
from bearings.stages.prompts import Prompt
from bearings.studies.obsprop.theorem import expected_angle

KINDS = ("trained", "random")
LAYERS, HEADS, D_MODEL = 3, 4, 32
ALL_HEADS = [(layer, head) for layer in range(LAYERS) for head in range(HEADS)]
# Heads of the trained model by attribution, and what each is worth in logits for the three tasks.
TOPS = [(2, 1), (1, 2), (2, 3)]
EFFECT = {"subj": (5.0, 3.0, 1.5), "obj": (4.0, 2.5, 1.0), "occ": (2.0, 1.0, 0.5)}
COSINES = {"output": 0.5, "tops": (0.98, 0.97, 0.95), "rest": 0.55}
NAMES, TEMPLATES, DRAWS = 12, 3, 20
OBSERVABLES = {
    "subj": "n_subj", "obj": "n_obj", "occ": "n_bias", "party": "party", "code1": "code1", "code2": "code2",
}  # fmt: skip
NAME_TASKS = ("subj", "obj", "occ")
SOURCES = {"subj": 3, "obj": 6, "occ": 3, "party": 1}
# Id of the first prompt of each part of a set.
FIRST_ID = {("names", task, True): 1000 * k for k, task in enumerate(NAME_TASKS)}
FIRST_ID |= {
    ("politicians", "party", False): 0,
    ("politicians", "party", True): 1000,
    ("code", "code1", False): 0,
}
BLOCKS, PER_BLOCK = 40, 60
MODES = ("ignore", "scale", "scale_swapped", "gradient")
# Training rows of the comparisons as published.
PUBLISHED_SIZES = {(t, m): (60,) for t in ("pronoun", "party") for m in ("regression", "mean_diff")}
PUBLISHED_SIZES |= {("code", "regression"): (50,), ("code", "mean_diff"): (100,)}
SETTINGS: dict[str, Any] = {"resamples": 60, "layers": "all", "random_draws": DRAWS}
SEEDS = {"trained": 5, "random": 6}


def _rng(kind: str, part: int) -> np.random.Generator:
    return np.random.default_rng([SEEDS[kind], part])


def cosines(kind: str) -> dict[tuple[int, int], float]:
    """cos(n_subj, n_obj) at every head."""
    rng = _rng(kind, 0)
    out = {h: float(np.clip(COSINES["rest"] + 0.15 * rng.standard_normal(), -0.9, 0.9)) for h in ALL_HEADS}
    if kind == "trained":
        return out | dict(zip(TOPS, COSINES["tops"], strict=True))
    return {h: float(rng.uniform(-0.4, 0.4)) for h in ALL_HEADS}


def lengths(kind: str) -> dict[tuple[int, int], float]:
    """Length of n_subj at every head: in the trained model, in the order of attributions."""
    rng = _rng(kind, 1)
    out = {h: float(rng.uniform(1, 2)) for h in ALL_HEADS}
    return out | (dict(zip(TOPS, (30.0, 20.0, 10.0), strict=True)) if kind == "trained" else {})


def weights(kind: str) -> pd.DataFrame:
    rng, cosine, length = _rng(kind, 2), cosines(kind), lengths(kind)
    rows = [(-1, -1, "n_subj", "", "norm_final", 40.0)]
    others = {"n_obj": COSINES["output"], "n_bias": 0.2, "control": 0.05}
    for layer, head in [(-1, -1), *ALL_HEADS]:
        for name, value in others.items():
            if layer >= 0:
                value = cosine[layer, head] if name == "n_obj" else float(rng.uniform(-0.3, 0.3))
            rows.append((layer, head, "n_subj", name, "cos", value))
            rows.append((layer, head, "n_subj", name, "coupling", value * 0.9))
        draws = 0.2 * rng.standard_normal(DRAWS)
        rows += [(layer, head, "n_subj", f"random.{k}", "cos", x) for k, x in enumerate(draws)]
    for name in OBSERVABLES.values():
        for h in ALL_HEADS:
            norm = length[h] * float(rng.uniform(0.95, 1.05))
            rows += [(*h, name, "", "norm", norm), (*h, name, "", "norm_ln_published", 3 * norm)]
            rows.append((*h, name, "", "norm_ln_corrected", 4 * norm * float(rng.uniform(0.9, 1.1))))
    return pd.DataFrame(rows, columns=["layer", "head", "observable", "other", "quantity", "value"])


def effect(kind: str, task: str) -> dict[tuple[int, int], float]:
    """Mean attribution of every head."""
    planted = dict(zip(TOPS, EFFECT[task], strict=True)) if kind == "trained" else {}
    return dict.fromkeys(ALL_HEADS, 0.0) | planted


def patching(kind: str) -> pd.DataFrame:
    """Between genders the planted effects with a tenth of noise per name, within a gender the noise alone."""
    rng, rows = _rng(kind, 3), []
    for task in NAME_TASKS:
        planted = effect(kind, task)
        for gender in ("cross", "within"):
            for name in range(NAMES if gender == "cross" else NAMES - 1):
                own = {h: 0.02 + 0.1 * abs(planted[h]) for h in ALL_HEADS}
                drawn = {h: s * rng.standard_normal() for h, s in own.items()}
                for template in range(TEMPLATES):
                    at = (task, gender, template, template * NAMES + name)
                    held = name >= NAMES - 3
                    heads = {h: (planted[h] if gender == "cross" else 0.0) + drawn[h] for h in ALL_HEADS}
                    whole = sum(heads.values())
                    rows.append((*at, "output", -1, -1, "patch", held, 1.2 * whole))
                    rows.append((*at, "embed", -1, -1, "direct", held, 0.1 * whole))
                    rows += [(*at, "mlp", layer, -1, "direct", held, 0.1 * whole) for layer in range(LAYERS)]
                    for h, value in heads.items():
                        rows.append((*at, "head", *h, "patch", held, value))
                        rows.append((*at, "head", *h, "direct", held, 0.6 * value))
    columns = "task kind template pair component layer head quantity held_out value"
    return pd.DataFrame(rows, columns=columns.split())


def search(kind: str) -> pd.DataFrame:
    """Ten paths of each length; the first of all reads the name, and both variants agree on lengths 1 and 2."""
    rows, size = [], 4.0 if kind == "trained" else 0.02
    for task in OBSERVABLES:
        source = SOURCES.get(task, 4)
        for variant in ("published", "corrected"):
            for length in (1, 2, 3):
                for rank in range(1, 11):
                    if length == 1 and rank % 3 == 2:
                        path = f"mlp{rank % LAYERS}@-1"
                    else:
                        reads = source if rank <= 4 else source + 2
                        heads = [f"attn{LAYERS - k}.{rank % HEADS}@{reads}" for k in range(1, length + 1)]
                        path = "<=".join(heads)
                    if length == 3 and variant == "corrected" and rank == 1:
                        path = "mlp2@-1<=" + path.split("<=", 1)[1]
                    rows.append((task, variant, length, rank, path, size / rank / 2 ** (length - 1)))
        for rank in range(1, 11 if task in SOURCES else 1):
            path = f"mlp{rank}@{source}" if rank == 1 else f"attn{rank % LAYERS}.{rank % HEADS}@{source}"
            rows.append((task, "dense", 1, rank, path, 2 * size / rank))
    return pd.DataFrame(rows, columns=["task", "variant", "length", "rank", "path", "score"])


def coupling(kind: str) -> pd.DataFrame:
    """Scores of isotropic activations: slopes are C and r^2 is cos^2, but where y is another token's."""
    rng, parts = _rng(kind, 4), []
    cosine, length = cosines(kind), lengths(kind)

    def add(pair, mode, site, head, first, c, cos, shuffled=False):
        x = length[head] * rng.standard_normal((BLOCKS, PER_BLOCK))
        noise = rng.standard_normal(x.shape) * length[head] * abs(c) * np.sqrt(1 / max(cos**2, 1e-6) - 1)
        y = c * x + noise
        if shuffled:
            y = rng.permuted(y.ravel()).reshape(y.shape)
        sums = (np.full(BLOCKS, PER_BLOCK), *(v.sum(1) for v in (x, y, x * x, x * y, y * y)))
        about = {"pair": pair, "mode": mode, "site": site, "layer": head[0], "head": head[1], "first": first}
        about |= {"window": np.arange(BLOCKS), "half": np.arange(BLOCKS) % 2}
        about |= dict(zip(("n", "sx", "sy", "sxx", "sxy", "syy"), sums, strict=True))
        parts.append(pd.DataFrame(about | {"predicted": c, "cos": cos}))

    for head in ALL_HEADS:
        c, cos = 0.9 * cosine[head], cosine[head]
        for mode in ("ignore", "scale", "scale_swapped"):
            for first in (True, False):
                add("subj_obj", mode, "own", head, first, c, cos)
                add("subj_obj", mode, "normed" if mode == "ignore" else "mistaken", head, first, c, cos)
                if mode == "scale":
                    add("subj_random", mode, "own", head, first, 0.01, 0.01)
        add("subj_shuffled", "scale", "own", head, False, c, cos, shuffled=True)
    for first in (True, False):
        add("paths", "ignore", "own", TOPS[0], first, 0.95, 0.96 if kind == "trained" else 0.1)
    return pd.concat(parts, ignore_index=True)


def layernorm(kind: str) -> pd.DataFrame:
    """Angles near their expectation at the model's width, tangents that are good at home, norms by depth."""
    rng, rows = _rng(kind, 5), []

    def add(quantity: str, value: float, task="", layer=-1, head=-1, group=-1, other="", index=-1):
        rows.append((quantity, task, layer, head, group, other, index, float(value)))

    for d in (8, 32, 128):
        for i in range(50):
            add("theorem_angle", expected_angle(d) * rng.uniform(0.8, 1.2), group=d, index=i)
    for layer in range(LAYERS):
        for position in ("name", "end"):
            for i in range(20):
                at = {"task": "names", "layer": layer, "group": D_MODEL, "other": position, "index": i}
                add("activation_angle", 0.22 * rng.uniform(0.9, 1.1), **at)
                add("aligned_angle", 1.2 * rng.uniform(0.9, 1.1), **at)
        for head in range(HEADS):
            for i in range(20):
                at = {"task": "subj", "layer": layer, "head": head, "index": i}
                add("cos_gradient", 1 - 0.03 * rng.random(), **at)
        for name in ("ln_1", "ln_2"):
            _module(add, layer, name)
    _module(add, LAYERS, "ln_f")
    for name in path_names():
        for mode in MODES[1:]:
            add("path_cos", 0.99, task=name, other=mode)
    for task in NAME_TASKS:
        for i in range(20):
            add("final_angle", 0.4 * rng.uniform(0.9, 1.1), task=task, layer=LAYERS, group=D_MODEL, index=i)
        for i in range(TEMPLATES):
            add("tangent_t", 0.5, task=task, group=i)
            add("grad_norm", 0.26, task=task, group=i)
            for k in range(2 * NAMES):
                at = {"task": task, "group": i, "index": k}
                add("tangent_truth", 3 + rng.random(), **at)
                for j in range(TEMPLATES):
                    add("tangent", (0.05 if i == j else 0.2) * (1 + rng.random()), **at, other=str(j))
                for draw in range(DRAWS):
                    add("tangent_random", 4 * rng.random() + 2, **at, other=str(draw))
            for j in range(i + 1, TEMPLATES):
                add("grad_cos", 0.999, task=task, group=i, other=str(j))
        for layer, head in ((17, 14), TOPS[0]):
            for i in range(TEMPLATES):
                at = {"task": task, "layer": layer, "head": head, "group": i}
                add("head_norm", 8.8, **at)
                for j in range(i + 1, TEMPLATES):
                    add("head_cos", 0.9999, **at, other=str(j))
                    add("head_coupling", 0.97, **at, other=str(j))
    columns = ["quantity", "task", "layer", "head", "group", "other", "index", "value"]
    return pd.DataFrame(rows, columns=columns)


def _module(add, layer: int, name: str) -> None:
    add("weight_var", 0.01, layer=layer, other=name)
    for index in range(3):
        add("input_norm", 10.0 * (layer + 1), layer=layer, other=name, index=index)
        add("weight_ratio", 0.05 / (layer + 1), layer=layer, other=name, index=index)


def _answers(kind: str, label: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """n . logits [n]: of the class in the trained model, of nothing in the random one."""
    size = 3.0 if kind == "trained" else 0.05
    signal = (2 * label - 1) if kind == "trained" else np.zeros(len(label))
    return size * (signal + 0.3 * rng.standard_normal(len(label)))


def scores(kind: str) -> pd.DataFrame:
    """The reading feature follows the answer in the trained model; at BOS nothing does, random ones nowhere."""
    rng, parts = _rng(kind, 6), []
    sets = [("names", t, 2 * NAMES * TEMPLATES, True) for t in NAME_TASKS]
    sets += [
        ("politicians", "party", 80, False),
        ("politicians", "party", 80, True),
        ("code", "code1", 60, False),
    ]
    for name, task, n, bos in sets:
        i = np.arange(n)
        label = (i // NAMES + 1) % 2 if name == "names" else i % 2
        about = {"set": name, "task": task, "prompt": i + FIRST_ID[name, task, bos], "label": label}
        about["split"] = "names" if name == "names" else np.where(i < n * 3 // 4, "train", "test")
        about["template"] = i // (2 * NAMES) if name == "names" else -1
        about["cluster"] = [f"{name} {k % (2 * NAMES) if name == 'names' else k // 2}" for k in i]
        about |= {"mixed": (i % NAMES == 0) & (name == "names"), "bos": bos}
        answer = _answers(kind, label, rng)
        noise = 0.2 * answer.std()
        good = answer + noise * rng.standard_normal(n)
        top = TOPS[0]
        features = {f"head.{a}.{b}": (rng.standard_normal(n), a) for a, b in ALL_HEADS}
        features |= {f"head.{top[0]}.{top[1]}": (good, top[0])}
        features |= {"reading": (good, top[0]), f"path.{OBSERVABLES[task]}.head": (good, top[0])}
        features |= {f"control.{top[0]}.{top[1]}": (rng.standard_normal(n), top[0])}
        features |= {f"random.{k}": (rng.standard_normal(n), top[0]) for k in range(DRAWS)}
        if kind == "random":
            features = {f: (rng.standard_normal(n), layer) for f, (_, layer) in features.items()}
        where = {"names": ("name",), "politicians": ("tokens.mean", "name"), "code": ("tokens.mean",)}[name]
        for position in where:
            for feature, (score, layer) in features.items():
                own = {"feature": feature, "layer": layer, "position": position, "score": score}
                parts.append(pd.DataFrame(about | own | {"output": answer}))
        if name == "names":
            own = {"feature": "reading", "layer": top[0], "position": "bos", "score": 0.5, "output": answer}
            parts.append(pd.DataFrame(about | own))
    parts.append(_of_pairs(kind, rng))
    return pd.concat(parts, ignore_index=True)


def _of_pairs(kind: str, rng: np.random.Generator) -> pd.DataFrame:
    """The answers to the linearisation prompts, rows without a feature."""
    mine = [p for p in prompts()["pairs"] if p.split == "pair"]
    label = np.array([p.label for p in mine])
    about = {"set": "pairs", "task": [p.extra["task"] for p in mine], "prompt": [p.id for p in mine]}
    about |= {"label": label, "split": "pair", "template": -1, "cluster": [p.text for p in mine]}
    about |= {"mixed": False, "bos": True, "feature": "", "layer": -1, "position": "end", "score": 0.0}
    return pd.DataFrame(about | {"output": _answers(kind, label, rng)})


def lowdata(kind: str) -> pd.DataFrame:
    """Two prompts and a regression on many rows read the answer, on few rows less so, on shuffled ones not."""
    rng, parts = _rng(kind, 7), []
    methods = {"obsprop": 0.2, "obsprop_chosen": 0.2, "random": 9.0}
    methods |= {"regression": 0.2, "mean_diff": 0.4, "leace": 0.3, "shuffled": 9.0}
    for task in ("pronoun", "party", "code"):
        kinds = ("like", "like_name", "published") if task == "party" else ("like", "published")
        for variant in kinds:
            for split in range(5 if variant != "published" else 1):
                n = 60
                label = np.arange(n) % 2
                answer = _answers(kind, label, rng)
                for method, noise in methods.items():
                    fixed = {"obsprop": (2,), "random": (0,)}
                    sizes = (2, 8, 50, 100) if task == "code" else (2, 8, 32)
                    if variant == "published" and method != "obsprop":
                        fixed, sizes = {}, PUBLISHED_SIZES.get((task, method), ())
                    for size in fixed.get(method, sizes):
                        spread = noise * (1 + 4 / size if method not in fixed else 1) * answer.std()
                        score = answer + spread * rng.standard_normal(n)
                        if kind == "random":
                            score = rng.standard_normal(n)
                        part = np.where((np.arange(n) < 30) & (variant == "published"), "train", "test")
                        if method == "obsprop":
                            part = np.full(n, "test")
                        parts.append(
                            pd.DataFrame(
                                {
                                    "task": task, "variant": variant, "method": method, "n_train": size,
                                    "split": split, "part": part, "prompt": np.arange(n), "label": label,
                                    "cluster": [f"{task} {i}" for i in range(n)], "layer": 2, "score": score,
                                    "output": answer,
                                }
                            )
                        )  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def tokens(kind: str) -> pd.DataFrame:
    """Ten tokens at either end: female names and male words in the trained model."""
    rng, rows = _rng(kind, 8), []
    for feature in ("n_subj.head", "n_bias.head", *(f"random.2.{k}" for k in range(DRAWS))):
        for side, words, sign in (("top", [" Helen", " Rita"], 1), ("bottom", [" husband", " brother"], -1)):
            for rank in range(10):
                good = kind == "trained" and not feature.startswith("random.")
                word = words[rank % 2] if good else " the"
                # A kind of token: "female" and "male" are names of the lists, "" is anything else.
                of = "female" if good and side == "top" else ""
                score = sign * (20 - rank + rng.random())
                rows.append((feature, 2, side, rank, rank, 5, word, f"said{word}", of, score))
    columns = ["feature", "layer", "side", "rank", "window", "position", "token", "context", "kind", "score"]
    return pd.DataFrame(rows, columns=columns)


def debias(kind: str) -> pd.DataFrame:
    """The unit feature closes half the gap between genders, twice as much four times as much, random ones nothing."""
    rng, rows = _rng(kind, 9), []
    gap = 4.0 if kind == "trained" else 0.02
    closed = {"unit": 0.5, "double": 2.0, "whole": 1.0} | {f"random.{k}": 0.0 for k in range(DRAWS)}
    for template in range(TEMPLATES):
        for name in range(NAMES):
            positive, negative = rng.normal([gap / 2, -gap / 2], 0.1 * gap)
            for variant, share in closed.items():
                if kind == "random":
                    share = 1.0 if variant == "whole" else 0.02
                share += 0.02 * rng.standard_normal()
                patched = negative + share * (positive - negative)
                kl = 0.1 * share**2
                at = (variant, template, template * NAMES + name, f"name {name}")
                rows.append((*at, positive, negative, patched, kl, 0.3 * kl))
    columns = "variant template pair name positive negative patched kl_whole kl_others"
    return pd.DataFrame(rows, columns=columns.split())


TABLES = {
    "weights": weights, "patching": patching, "search": search, "coupling": coupling, "layernorm": layernorm,
    "scores": scores, "lowdata": lowdata, "tokens": tokens, "debias": debias,
}  # fmt: skip


@cache
def outcomes(kind: str = "trained") -> dict[str, pd.DataFrame]:
    """Every outcome table of one model."""
    return {name: make(kind) for name, make in TABLES.items()}


@cache
def empty() -> dict[str, pd.DataFrame]:
    """No rows at all."""
    return {name: rows.iloc[:0] for name, rows in outcomes().items()}


def path_names() -> dict[str, str]:
    """Names of the paths that a search finds, with the paths."""
    top = f"attn{TOPS[0][0]}.{TOPS[0][1]}"
    out = {}
    for task, name in OBSERVABLES.items():
        source = SOURCES.get(task, 4)
        out[f"{name}.head"] = f"{top}@{source}"
        out[f"{name}.path2"] = f"{top}@{source}<=attn{TOPS[1][0]}.{TOPS[1][1]}@{source}"
        if task in NAME_TASKS:
            out[f"{name}.shared"] = f"mlp2@-1<={top}@{source}" if task == "occ" else f"{top}@{source}"
    return out


def directions(kind: str = "trained") -> dict[str, dict[str, np.ndarray]]:
    """Features of heads and paths, and random vectors; in the trained model paths about names share one."""
    rng = _rng(kind, 10)
    shared = rng.standard_normal(D_MODEL)
    paths = {}
    for name, path in path_names().items():
        own = rng.standard_normal(D_MODEL)
        about_names = name.split(".")[0] in ("n_subj", "n_obj", "n_bias")
        y = shared + 0.25 * own if kind == "trained" and about_names else own
        for mode in MODES:
            noise = 0 if mode == "ignore" else 0.05
            paths[f"{name}/{path}/{mode}"] = (y + noise * rng.standard_normal(D_MODEL)).astype(np.float32)
    names = [*OBSERVABLES.values(), "control"]
    heads = {f"output/{n}": rng.standard_normal(D_MODEL).astype(np.float32) for n in names}
    for layer in range(LAYERS):
        heads |= {f"{n}/{layer}": rng.standard_normal((HEADS, D_MODEL)).astype(np.float32) for n in names}
    random = {str(k): rng.standard_normal((DRAWS, D_MODEL)).astype(np.float32) for k in range(LAYERS + 1)}
    return {"heads": heads, "paths": paths, "random": random}


def prompts() -> dict[str, list[Prompt]]:
    """Linearisation pairs, four of them with a source position, and the observables."""
    rows: list[Prompt] = []
    for k, (task, name) in enumerate(OBSERVABLES.items()):
        positions = {"end": (9,)} | ({"source": (SOURCES[task],)} if task in SOURCES else {})
        for side in ("a", "b"):
            extra = {"task": task, "observable": name, "side": side, "paths": None}
            label, ids = int(side == "a"), (k, ord(side), *range(8))
            rows.append(Prompt(len(rows), "pair", task, ids, label, positions, (1,), (2,), extra=extra))
    for name in OBSERVABLES.values():
        extra = {"task": None, "observable": name, "side": None, "paths": None}
        rows.append(Prompt(len(rows), "observable", name, (0,), None, {}, (1,), (2,), extra=extra))
    return {"pairs": rows}


def inputs(kind: str = "trained", **settings: Any) -> Inputs:
    """What `measure` and the figures get beside the tables."""
    return Inputs(prompts(), {}, directions(kind), {**SETTINGS, **settings}, seed=0)
