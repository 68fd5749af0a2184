"""Rows of random tokens and random SAEs, in the files a run would have them in, for tests of the experiments."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from lm_models import D_VOCAB, model
from safetensors.torch import load_file, save_file

from bearings.lm.forward import forward, pad
from bearings.lm.load import Model
from bearings.lm.saes import Entry, folder_digest, model_digest, save_sae, write_ladder
from bearings.stages.dumps import dump
from bearings.stages.inputs import Inputs
from bearings.stages.prompts import Prompt
from bearings.stages.read import read_dumps
from bearings.store.provenance import Provenance
from bearings.store.tables import write_table
from bearings.studies.sensitivity.fit import fit
from bearings.studies.sensitivity.intervene import intervene

BOS, CONTEXT, ROWS, CURVE = 1, 9, 12, 4
WIDTH = 96  # features of an SAE
LAYERS = {"main": 2, "early": 1, "late": 3}
NAMED = [["k11", 0.14], ["k21", 0.27], ["k51", 0.65]]
SETTINGS: Mapping[str, Any] = {
    **{f"{name}_layer": layer for name, layer in LAYERS.items()},
    "layers": sorted(LAYERS.values()),
    "max_tokens": 64,
    "batch_rows": 3,
    "relative": True,
    "grid": [0.14, 0.27, 0.65, 2.54],
    "named": NAMED,
    "reservoir_rows": 80,
    "position": 0.5,
    "single_rows": 6,
}
# Kind -> (layer, number of SAEs) of its ladders.
LADDERS: Mapping[str, Sequence[tuple[str, int]]] = {
    "local": (("main", 2), ("early", 1), ("late", 1)),
    "e2e": (("main", 2),),
    "e2e_ds": (("main", 1),),
}
# Norms of several kinds, blocks in a row and side by side, positions added and rotated.
CASES = [("gpt2", "raw"), ("gpt2", "folded"), ("gpt_neox", "raw"), ("llama", "raw")]
# Names of the SAEs by layer.
SAES = {
    name: [f"{kind}-{i}" + ("" if name == "main" else f"-{name}")
           for kind, parts in LADDERS.items() for layer, n in parts if layer == name for i in range(n)]
    for name in LAYERS
}  # fmt: skip
_root = tempfile.TemporaryDirectory(prefix="bearings-sensitivity-")


class RandomSae:
    """Random weights, handed to `save_sae` as a trainer hands its own over: decoder rows are of any norm.

    A feature fires where its input, of spread `scale`, is above a threshold: between `least` and `most` spreads.
    """

    def __init__(self, d_in: int, d_sae: int, scale: float, seed: int, least: float = 0.0, most: float = 4.5):
        draw = torch.Generator().manual_seed(seed)
        self.cfg = SimpleNamespace(metadata={})
        self.w_enc = torch.randn(d_in, d_sae, generator=draw) / d_in**0.5
        self.b_enc = -scale * (least + (most - least) * torch.rand(d_sae, generator=draw))
        self.w_dec = (0.5 + torch.rand(d_sae, 1, generator=draw)) * torch.randn(d_sae, d_in, generator=draw)
        self.b_dec = 0.1 * scale * torch.randn(d_in, generator=draw)

    def fold_W_dec_norm(self) -> None:
        norms = self.w_dec.norm(dim=1)
        self.w_dec, self.w_enc, self.b_enc = (
            self.w_dec / norms[:, None],
            self.w_enc * norms,
            self.b_enc * norms,
        )

    def save_inference_model(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        d_in, d_sae = self.w_enc.shape
        plain = {
            "architecture": "standard",
            "d_in": d_in,
            "d_sae": d_sae,
            "dtype": "float32",
            "device": "cpu",
        }
        plain |= {
            "apply_b_dec_to_input": False,
            "normalize_activations": "none",
            "reshape_activations": "none",
        }
        (folder / "cfg.json").write_text(json.dumps({**plain, "metadata": self.cfg.metadata}))
        weights = {"W_enc": self.w_enc, "W_dec": self.w_dec, "b_enc": self.b_enc, "b_dec": self.b_dec}
        save_file({k: v.contiguous() for k, v in weights.items()}, folder / "sae_weights.safetensors")


class Plain:
    """An SAE computed here from its file, by another way than the study's."""

    def __init__(self, folder: Path):
        self.w = {k: v.double() for k, v in load_file(Path(folder) / "sae_weights.safetensors").items()}

    def fired(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("...d,df->...f", x.double(), self.w["W_enc"]) + self.w["b_enc"] > 1e-8

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        before = torch.einsum("...d,df->...f", x.double(), self.w["W_enc"]) + self.w["b_enc"]
        return (torch.einsum("...f,fd->...d", before.clamp(min=0), self.w["W_dec"]) + self.w["b_dec"]).float()


def rows(count: int = ROWS, curve: int = CURVE, context: int = CONTEXT) -> list[Prompt]:
    """Rows of random tokens; one of the pool has a second BOS inside."""
    rng = np.random.default_rng(5)
    at = {"tokens": tuple(range(context)), "end": (context - 1,)}
    out = []
    for i in range(count):
        ids = [BOS, *rng.integers(3, D_VOCAB, context - 1).tolist()]
        ids[4] = BOS if i == count - 1 else ids[4]
        split = "curve" if i < curve else "pool"
        out.append(Prompt(i, split, "", tuple(ids), None, at, (), (), extra={"document": i}))
    return out


def write_dump(made: Model, prompts: Sequence[Prompt], layers: Sequence[int], path: Path) -> None:
    tables = list(dump(made, prompts, ("tokens",), 256, layers=layers))
    write_table(path, pa.concat_tables(tables), Provenance("activations", path.name))


def write_ladders(
    made: Model,
    scales: Mapping[int, float],
    folder: Path,
    ladders: Mapping[str, Sequence[tuple[str, int]]] = LADDERS,
    layers: Mapping[str, int] = LAYERS,
) -> dict[str, Path]:
    """Kind -> folder of its ladder; `scales` are the spreads of the residuals' entries by layer."""
    for kind, parts in ladders.items():
        entries = []
        for name, count in parts:
            for level in range(count):
                called = f"{kind}-{level}" + ("" if name == "main" else f"-{name}")
                layer, seed = layers[name], 1000 * len(entries) + len(kind)
                sae = RandomSae(made.info.d_model, WIDTH, scales[layer], seed)
                save_sae(sae, folder / kind / called, {"hook_name": f"blocks.{layer}.hook_resid_pre"})
                digest = folder_digest(folder / kind / called)
                entries.append(
                    Entry(called, kind, layer, level, called, 2.0 / (level + 1), 7.5 + level, WIDTH, False, digest,
                          model_digest(made), made.processing)
                )  # fmt: skip
        write_ladder(folder / kind, entries, Provenance("ladder", f"{kind}/ladder.json"))
    return {kind: folder / kind for kind in ladders}


@cache
def inputs(family: str, processing: str) -> Inputs:
    """Everything an experiment gets, on a tiny random model."""
    made, prompts = model(family, processing), {"rows": rows()}
    folder = Path(_root.name) / f"{family}-{processing}"
    folder.mkdir()
    write_dump(made, prompts["rows"], sorted(LAYERS.values()), folder / "rows.parquet")
    dumps = read_dumps([str(folder / "rows.parquet")])
    directions = {"pool": fit("pool", prompts, dumps, SETTINGS, 0)}
    scales = {
        layer: directions["pool"][f"norms/{layer}"][0] / made.info.d_model**0.5 for layer in LAYERS.values()
    }
    return Inputs(prompts, dumps, directions, SETTINGS, 0, made, write_ladders(made, scales, folder / "saes"))


@cache
def table(case: tuple[str, str], name: str) -> pd.DataFrame:
    """Outcomes of one experiment."""
    return intervene(name, inputs(*case)).to_pandas()


def of(frame: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """The rows with these values."""
    for column, value in values.items():
        frame = frame[frame[column] == value]
    return frame


def lists(frame: pd.DataFrame, column: str = "kl") -> np.ndarray:
    """A column of lists as [rows, positions]."""
    return np.stack(frame[column].to_numpy())


def residuals(case: tuple[str, str], layer: str = "main", count: int = CURVE) -> torch.Tensor:
    """The residual of the first rows [count, pos, d], by a pass from the tokens."""
    mine = inputs(*case)
    ids = pad([list(p.ids) for p in mine.prompts["rows"][:count]], 0)
    return forward(mine.model, ids, keep=[LAYERS[layer]]).resid[LAYERS[layer]]


def plain_sae(case: tuple[str, str], sae: str) -> Plain:
    return Plain(inputs(*case).saes[sae.split("-")[0]] / sae)
