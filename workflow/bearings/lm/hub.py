"""Model directories: what a directory holds is read here, and refused here, before torch is ever imported.

Only local directories are known; a hub id has to be fetched, pinned and verified into one first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Where each family keeps its sizes in config.json. Every architecture listed here is held equal to the plain
# full pass by the tests; one that is not listed is refused instead of being run unchecked.
FAMILIES: dict[str, dict[str, str]] = {
    "gpt2": {"layers": "n_layer", "heads": "n_head", "width": "n_embd", "context": "n_positions"},
    "gpt_neo": {
        "layers": "num_layers",
        "heads": "num_heads",
        "width": "hidden_size",
        "context": "max_position_embeddings",
    },
    "gptj": {"layers": "n_layer", "heads": "n_head", "width": "n_embd", "context": "n_positions"},
    "gpt_neox": {
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "width": "hidden_size",
        "context": "max_position_embeddings",
    },
    "llama": {
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "width": "hidden_size",
        "context": "max_position_embeddings",
    },
}

# transformers accepts these older or foreign spellings of the sizes in config.json.
_SPELLINGS = {
    "n_layer": ("n_layer", "num_hidden_layers"),
    "n_head": ("n_head", "num_attention_heads"),
    "n_embd": ("n_embd", "hidden_size"),
    "n_positions": ("n_positions", "max_position_embeddings", "n_ctx"),
    "num_layers": ("num_layers", "num_hidden_layers"),
    "num_heads": ("num_heads", "num_attention_heads"),
}


class ModelDirError(ValueError):
    """A model directory that cannot be used; the message is one line and names the file or key."""


@dataclass(frozen=True)
class ModelInfo:
    """What config.json says of a model; sizes are counts, `n_ctx` is in tokens."""

    path: Path
    family: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_model: int
    d_head: int
    d_vocab: int
    n_ctx: int

    @property
    def name(self) -> str:
        return self.path.name


def check_model_dir(path: str | Path) -> ModelInfo:
    """Read a Hugging Face causal-LM directory's sizes without importing torch.

    Raises ModelDirError, one line, for a missing directory, config.json, tokenizer or safetensors file, for
    pickled weights alone, for remote code (`auto_map`), and for an architecture the engine is not tested on.
    """
    directory = Path(path)
    if not directory.is_dir():
        raise ModelDirError(
            f"{directory}: no such directory; a model is a local Hugging Face directory "
            "(config.json, *.safetensors, tokenizer files)"
        )
    config = _read_json(directory / "config.json")
    _refuse_remote_code(directory, config)
    family = config.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise ModelDirError(
            f"{directory / 'config.json'}: model_type {family!r} is unknown; allowed: {', '.join(FAMILIES)}"
        )
    _check_weights(directory)
    _check_tokenizer(directory)
    return _sizes(directory, family, config)


def _sizes(directory: Path, family: str, config: Mapping[str, Any]) -> ModelInfo:
    keys = FAMILIES[family]
    layers, heads, width, context = (
        _positive(directory, config, *_SPELLINGS.get(keys[size], (keys[size],)))
        for size in ("layers", "heads", "width", "context")
    )
    d_vocab = _positive(directory, config, "vocab_size")
    if config.get("head_dim") is None and width % heads:
        raise ModelDirError(
            f"{directory / 'config.json'}: {keys['width']} {width} is no multiple of {keys['heads']} {heads}"
        )
    kv_heads = heads
    if config.get("num_key_value_heads") is not None:
        kv_heads = _positive(directory, config, "num_key_value_heads")
    if heads % kv_heads:
        raise ModelDirError(
            f"{directory / 'config.json'}: num_attention_heads {heads} is not a multiple of "
            f"num_key_value_heads {kv_heads}"
        )
    d_head = width // heads if config.get("head_dim") is None else _positive(directory, config, "head_dim")
    return ModelInfo(directory, family, layers, heads, kv_heads, width, d_head, d_vocab, context)


def _positive(directory: Path, config: Mapping[str, Any], *keys: str) -> int:
    for key in keys:
        value = config.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ModelDirError(
                f"{directory / 'config.json'}: {key} must be a positive integer, found {value!r}"
            )
        return value
    raise ModelDirError(f"{directory / 'config.json'}: key {keys[0]} is missing")


def _refuse_remote_code(directory: Path, config: Mapping[str, Any]) -> None:
    tokenizer = directory / "tokenizer_config.json"
    settings = {"config.json": config, tokenizer.name: _read_json(tokenizer) if tokenizer.is_file() else {}}
    for name, content in settings.items():
        if content.get("auto_map"):
            raise ModelDirError(
                f"{directory / name}: auto_map asks for code shipped with the model, which is never run; "
                "allowed are architectures of the transformers library itself"
            )


def _check_weights(directory: Path) -> None:
    index = directory / "model.safetensors.index.json"
    if (directory / "model.safetensors").is_file():
        return
    if index.is_file():
        shards = _read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise ModelDirError(f"{index}: no weight_map; download the index again")
        absent = sorted(name for name in set(shards.values()) if not (directory / str(name)).is_file())
        if absent:
            raise ModelDirError(f"{directory / absent[0]}: listed in {index.name} but missing")
        return
    pickles = sorted(
        p.name for ending in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in directory.glob(ending)
    )
    if pickles:
        raise ModelDirError(
            f"{directory / pickles[0]}: pickled weights are never loaded; save the model as model.safetensors"
        )
    raise ModelDirError(f"{directory}: no model.safetensors (nor model.safetensors.index.json) in it")


def _check_tokenizer(directory: Path) -> None:
    if (directory / "tokenizer.json").is_file():
        return
    if (directory / "vocab.json").is_file() and (directory / "merges.txt").is_file():
        return
    raise ModelDirError(f"{directory}: no tokenizer.json (nor vocab.json with merges.txt) in it")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ModelDirError(f"{path}: missing; a model directory needs it")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelDirError(f"{path}: not valid JSON ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict):
        raise ModelDirError(f"{path}: must hold a JSON object, found {type(content).__name__}")
    return content
