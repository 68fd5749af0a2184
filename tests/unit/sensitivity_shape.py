"""The whole study on a random model of GPT-2 small's shape with SAEs of the released sizes, in a process of its own.

Called with a folder to work in; the last line it prints is a JSON object with the peak memory and what came out.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

ROOT = Path(__file__).resolve().parents[2]
MODEL = "gpt2-shape"
N_WORDS, BOS, SIZE = 50256, 50256, 768
# Layer -> (name, kind, level, features): one of each kind of Braun's and one like Bloom's at layer 6, one at each
# other layer. SAEs of a kind are in memory together; the others take time alone.
SAES = {
    6: [("sll", "local", 0, 46080), ("bloom", "local", 1, 24576), ("sce", "e2e", 0, 46080),
        ("scefr", "e2e_ds", 0, 46080)],
    2: [("bloom-2", "local", 0, 24576)],
    10: [("bloom-10", "local", 0, 24576)],
}  # fmt: skip
# The sheet's settings with few rows and lengths, so that it takes minutes; what is in memory at once stays the same
# but for the batch, which has 2 rows where the sheet has 8.
CAPPED = {"rows": 6, "curve_rows": 2, "single_rows": 2, "resamples": 50, "grid": [1, 51]}
CAPPED |= {"named": [["k11", 1], ["k51", 51]]}


def settings() -> dict[str, Any]:
    sheet = yaml.safe_load((ROOT / "workflow/scales/gpt2.yaml").read_text())["studies"]["sensitivity"][
        "settings"
    ]
    flat = {k: v for k, v in sheet.items() if not isinstance(v, dict)}
    for section in ("prompts", "fit", "saes", "measures"):
        flat |= sheet[section]
    return {**flat, **sheet["interventions"]["single"], **CAPPED}


def make_model(folder: Path) -> Path:
    """Random weights, and a tokenizer of as many words as GPT-2 has tokens."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config()).save_pretrained(folder)
    words = {f"w{i}": i for i in range(N_WORDS)} | {"<bos>": BOS}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<bos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>").save_pretrained(folder)
    return folder


def make_text(path: Path, documents: int = 40) -> Path:
    rng = np.random.default_rng(0)
    lines = (" ".join(f"w{i}" for i in rng.integers(0, N_WORDS, 60)) for _ in range(documents))
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return path


def make_saes(folder: Path, norms: dict[int, float]) -> list[dict[str, Any]]:
    """Folders of random SAEs and the settings that name them; some 300 of 46,080 features fire at a token."""
    from sensitivity_models import RandomSae

    released = []
    for layer, many in SAES.items():
        for name, kind, level, width in many:
            sae = RandomSae(SIZE, width, norms[layer] / SIZE**0.5, len(released), least=2.2, most=4.0)
            sae.save_inference_model(folder / name)
            given = {"name": name, "model": MODEL, "kind": kind, "layer": layer, "level": level}
            given |= {"folder": str(folder / name), "l0": None, "revision": None, "sha256": None}
            released.append(given)
    return released


def peak() -> float:
    """Largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(folder: Path) -> None:
    start, marks = time.monotonic(), {}

    def mark(stage: str) -> None:
        marks[stage] = [round(time.monotonic() - start, 1), round(peak() / 1e9, 2)]
        print(stage, *marks[stage], flush=True)

    from sensitivity_models import write_dump

    from bearings.lm.load import load_model
    from bearings.lm.saes import write_ladder
    from bearings.stages.inputs import Inputs
    from bearings.stages.prompts import Encoder, from_table
    from bearings.stages.read import read_dumps
    from bearings.store.provenance import Provenance
    from bearings.studies.sensitivity.fit import fit
    from bearings.studies.sensitivity.intervene import NAMES, intervene
    from bearings.studies.sensitivity.measure import measure
    from bearings.studies.sensitivity.prompts import prompts
    from bearings.studies.sensitivity.saes import KINDS, train

    chosen = settings()
    directory = make_model(folder / MODEL)
    data = {"text": make_text(folder / "texts.jsonl")}
    sets = {name: from_table(prompts(name, data, chosen, Encoder(directory))) for name in ("rows", "train")}
    model = load_model(directory, processing="folded", threads=len(os.sched_getaffinity(0)))
    mark("model")
    for name, mine in sets.items():
        if mine:
            write_dump(model, mine, chosen["layers"], folder / f"{name}.parquet")
    dumps = read_dumps([str(folder / "rows.parquet")])
    directions = {"pool": fit("pool", sets, dumps, chosen, 0)}
    mark("pool")
    norms = {layer: float(directions["pool"][f"norms/{layer}"][0]) for layer in chosen["layers"]}
    chosen["released"] = make_saes(folder / "released", norms)
    for kind in KINDS:
        found = train(kind, sets, dumps, chosen, 0, model, folder / "saes" / kind)
        (folder / "saes" / kind).mkdir(parents=True, exist_ok=True)
        write_ladder(folder / "saes" / kind, found, Provenance("ladder", f"{kind}/ladder.json"))
    mark("saes")
    saes = {kind: folder / "saes" / kind for kind in KINDS}
    inputs, outcomes = Inputs(sets, dumps, directions, chosen, 0, model, saes), {}
    for name in NAMES:
        outcomes[name] = intervene(name, inputs).to_pandas()
        mark(name)
    measures = measure(inputs, outcomes)
    mark("measures")
    quality = outcomes["quality"]
    told = {
        "peak": peak(),
        "seconds": time.monotonic() - start,
        "stages": marks,
        "rows": {name: len(table) for name, table in outcomes.items()},
        "l0": {sae: float(np.mean(np.stack(mine["l0"]))) for sae, mine in quality.groupby("sae")},
        "sizes": {sae: int(mine["d_sae"].iloc[0]) for sae, mine in quality.groupby("sae")},
        "classes": sorted(set(outcomes["features"]["direction"])),
        "identity": measures["setup.identity"].value,
        "measured": [name for name, found in measures.items() if found.value is not None],
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
