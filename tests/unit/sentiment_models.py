"""Tokenizers, tiny random models and prompts of the sentiment study, shared by its tests."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
import yaml

from bearings.stages.dumps import Dump, dump, dump_schema, load_dump
from bearings.stages.inputs import Inputs
from bearings.stages.prompts import Encoder, Prompt, from_table
from bearings.studies.sentiment import fit, prompts

WORLD = Path(fit.__file__).resolve().parents[2] / "world/sentiment.yaml"
STUDY = Path(fit.__file__).resolve().parent
D_MODEL, N_LAYERS, N_HEADS = 32, 3, 4
SETS = ("toy", "reviews", "mood", "negation", "steering")
PROMPT_SETTINGS = {"reviews": {"dev": 30, "test": 90}, "ablation_bos": False, "mood_names": 3}
SETTINGS: Mapping[str, Any] = {
    "layers": "all",
    "random_draws": 3,
    "sklearn_seed": 0,
    "das": {"epochs": 3, "lr": 0.05, "parametrisation": "vector"},
    "batch": 64,
    "batch_tokens": 2048,
    "pairing": "swap",
    "review_pairs": 12,
    "directions": ["das", "das_all", "mean_diff"],
    "circuit_heads": 3,
    "direction": "kmeans",
    "coefficients": [-4, -2, 0, 2, 4],
    "relative": False,
    "samples": 4,
    "new_tokens": 6,
    "top_k": 10,
    "resamples": 20,
}

_root = tempfile.TemporaryDirectory(prefix="bearings-sentiment-")


@cache
def gpt2_encoder(shared: Path) -> Encoder:
    """GPT-2's own tokenizer, from its vocabulary and merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    folder = Path(_root.name) / "gpt2-tokenizer"
    folder.mkdir()
    source = shared / "data/gpt2-tokenizer"
    core = Tokenizer(models.BPE.from_file(str(source / "vocab.json"), str(source / "merges.txt")))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.post_processor = processors.ByteLevel(trim_offsets=False)
    core.decoder = decoders.ByteLevel()
    core.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"bos_token_id": 50256, "n_positions": 1024}))
    return Encoder(folder)


def authors_lists(shared: Path) -> dict[str, Any]:
    """The authors' lists and texts in the layout that the study reads."""
    raw = yaml.safe_load((shared / "data/sentiment_lists.yaml").read_text())
    toy, mood = raw["toy_movie_review"], raw["toy_mood_story"]
    template = toy["template"]
    for plain, marked in (
        ("{ADJ},", "[adj:{ADJ}][comma:,]"),
        ("{VRB} it.", "[verb:{VRB}] it[period:.]"),
        ("This movie is", "This[sum: movie][end: is]"),
    ):
        template = template.replace(plain, marked)
    sides = ("positive", "negative")
    scaffolds = {
        name: {"text": s["text"], "positive": f" {s['positive']}", "negative": f" {s['negative']}"}
        for name, s in raw["sst"]["scaffolds"].items()
    }
    return {
        "raw": raw,
        "toy": {
            "template": template,
            "answers": {c: [f" {w}" for w in toy[f"{c}_answers"]] for c in sides},
            "verbs": {c: toy[f"{c}_verbs"] for c in sides},
            "adjectives": {
                split: {c: toy[f"{c}_adjectives_{split}"] for c in sides} for split in ("train", "test")
            },
        },
        "scaffolds": scaffolds,
        "mood": mood,
        "negation": {"items": raw["negation"]["items"]},
    }


@cache
def world_directory(family: str = "gpt_neo") -> Path:
    """A random model with the world's tokenizer, of a family whose attention is alternately local or plain."""
    import transformers as hf

    from bearings.world import tokenizer

    folder = Path(_root.name) / f"world-{family}"
    # The words come from the lexicon; the sampled texts only order them by frequency, which no test needs.
    with mock.patch.object(tokenizer, "SAMPLE", 50):
        tokenizer.write(folder)
    words = tokenizer.load(folder)
    common = {
        "vocab_size": len(words),
        "hidden_size": D_MODEL,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
    }
    if family == "gpt_neo":
        # The adjective is twelve tokens from the end: the middle layer is the one that can reach it.
        kinds = [[["local", "global", "local"], 1]]
        config = hf.GPTNeoConfig(
            num_layers=N_LAYERS, num_heads=N_HEADS, attention_types=kinds, window_size=6, **common
        )
    else:
        config = hf.LlamaConfig(
            num_hidden_layers=N_LAYERS,
            num_attention_heads=N_HEADS,
            num_key_value_heads=2,
            intermediate_size=48,
            **common,
        )
    torch.manual_seed(3)
    hf.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@cache
def world_model(family: str = "gpt_neo"):
    from bearings.lm.load import load_model

    return load_model(world_directory(family))


@cache
def world_prompts() -> dict[str, list[Prompt]]:
    """Every set of the study on the world's own texts."""
    from bearings.world.corpus import write_reviews

    reviews = Path(_root.name) / "reviews.tsv"
    write_reviews(reviews, 0, 30, 90, 5)
    data = {"lists": WORLD, "reviews": reviews}
    encoder = Encoder(world_directory())
    return {name: from_table(prompts.prompts(name, data, PROMPT_SETTINGS, encoder)) for name in SETS}


@cache
def world_dump(family: str = "gpt_neo") -> Dump:
    """Residuals of the toy prompts."""
    m = world_model(family)
    tables = list(
        dump(m, [p for p in world_prompts()["toy"] if p.usable], ("adj", "verb", "comma", "sum", "end"), 4096)
    )
    return load_dump(pa.concat_tables(tables) if tables else dump_schema(N_LAYERS, D_MODEL).empty_table())


@cache
def world_directions(family: str = "gpt_neo") -> dict[str, dict[str, np.ndarray]]:
    """Directions of every method of the manifest."""
    manifest = yaml.safe_load((STUDY / "claims.yaml").read_text())["manifest"]
    dumps = {"toy": world_dump(family)}
    return {
        m: fit.fit(m, world_prompts(), dumps, SETTINGS, 0, world_model(family)) for m in manifest["methods"]
    }


def world_inputs(family: str = "gpt_neo", model: bool = True, **settings: Any) -> Inputs:
    """What an experiment gets, with the settings of all of them."""
    return Inputs(
        prompts=world_prompts(),
        dumps={"toy": world_dump(family)},
        directions=world_directions(family),
        settings={**SETTINGS, **settings},
        seed=0,
        model=world_model(family) if model else None,
    )


@cache
def unable_outcomes() -> dict[str, pd.DataFrame]:
    """Outcomes of every experiment on a random model, which does no task."""
    from bearings.studies.sentiment import ablation, intervene

    made = {}
    with mock.patch.object(ablation, "balanced", _some_of_both):
        for name in intervene.EXPERIMENTS:
            made[name] = intervene.intervene(name, world_inputs()).to_pandas()
    return made


def _some_of_both(reviews, clean, seed):
    """Reviews with commas, equally many of each class, right or not: a random model is right by chance."""
    commas = [p for p in reviews if "comma" in p.positions]
    n = min(sum(p.label == label for p in commas) for label in (0, 1))
    chosen = [p for label in (0, 1) for p in [q for q in commas if q.label == label][:n]]
    return sorted(chosen, key=lambda p: p.id)


@cache
def able_outcomes() -> dict[str, pd.DataFrame]:
    """The same tables with the numbers of a model that does its tasks: LDs by method and layer with noise."""
    rng = np.random.default_rng(0)
    out = {name: rows.copy() for name, rows in unable_outcomes().items()}

    rows = out["patching"]
    strength = {"full": 1.0, "das": 0.8, "das2d": 0.9, "das3d": 0.95, "random": 0.0}
    keys = ["set", "split", "prompt"]
    first = rows.drop_duplicates(keys).set_index(keys)
    clean = pd.Series(2 + 0.3 * rng.standard_normal(len(first)), first.index)
    at = pd.MultiIndex.from_frame(rows[keys])
    rows["ld_clean"] = clean.loc[at].to_numpy()
    rows["ld_corrupted"] = -rows["ld_clean"] + 0.1
    share = rows["method"].map(lambda m: strength.get(m, 0.6)) * (1 - 0.1 * (rows["layer"] - 1).abs())
    patched = rows["ld_corrupted"] + share * (rows["ld_clean"] - rows["ld_corrupted"])
    rows["ld_patched"] = patched + 0.4 * rng.standard_normal(len(rows))

    rows = out["ablation"]
    clean = rows["operation"] == "clean"
    ids = rows["prompt"].unique()
    base = pd.Series(np.abs(1.5 + 0.5 * rng.standard_normal(len(ids))), ids)
    kept = set(rows[clean & rows["kept"]]["prompt"])
    lost = {"all": 1.0, "comma": 0.4}
    scale = np.where(rows["direction"] == "random", 0.0, rows["where"].map(lambda w: lost.get(w, 0.1)))
    ablated = base.loc[rows["prompt"]].to_numpy() * (1 - scale) + 0.5 * rng.standard_normal(len(rows))
    unselected = np.where(rows["prompt"].isin(kept) | (rng.random(len(rows)) < 0.8), 1, -1)
    rows["ld"] = np.where(clean, base.loc[rows["prompt"]].to_numpy() * unselected, ablated)
    rows["top10"] = np.where(clean, True, None)

    rows = out["mood"]
    ids = rows["prompt"].unique()
    base = pd.Series(1 + 0.2 * rng.standard_normal(len(ids)), ids)
    rows["ld_clean"] = base.loc[rows["prompt"]].to_numpy()
    rows["ld_corrupted"] = -rows["ld_clean"]
    rows["ld_patched"] = (
        rows["ld_clean"] * (1 - 0.02 * rows["filler"]) + 0.1 * rng.standard_normal(len(rows)) - 0.4
    )

    rows = out["circuit"]
    ids = rows["prompt"].unique()
    base = pd.Series(2 + 0.3 * rng.standard_normal(len(ids)), ids)
    rows["ld_clean"] = base.loc[rows["prompt"]].to_numpy()
    rows["ld_corrupted"] = -rows["ld_clean"]
    share = rows["kind"].map({"circuit": 0.8, "complement": 0.4}).fillna(0.1)
    rows["ld_patched"] = (
        rows["ld_corrupted"] + share * 2 * rows["ld_clean"] + 0.5 * rng.standard_normal(len(rows))
    )
    return out
