"""Loading: a checked directory becomes a frozen model in evaluation mode, its hooks those of TransformerLens.

The only module that imports transformers and transformer_lens (7-9 s), and only when a model is loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bearings.lm.hub import ModelDirError, ModelInfo, check_model_dir

PROCESSINGS = ("raw", "folded")
DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded model: its sizes, how its weights were processed, the TransformerBridge that runs it.

    `processing` is part of the model's identity: "raw" are the published weights; "folded" has norms folded
    into the next map, writing weights and unembedding centred, value biases folded: another basis, same
    predictions.
    """

    info: ModelInfo
    processing: str
    dtype: torch.dtype
    device: torch.device
    bridge: Any
    tokenizer: Any
    hook_points: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        return self.info.name if self.processing == "raw" else f"{self.info.name}-{self.processing}"

    @property
    def n_layers(self) -> int:
        return self.info.n_layers

    @property
    def blocks(self) -> Any:
        return self.bridge.blocks


def load_model(
    path: str | Path,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    processing: str = "raw",
    threads: int = 1,
) -> Model:
    """Load a local Hugging Face directory for inference; parameters need no gradient.

    `threads` sets torch's thread count for the process: it changes the order of sums, hence bits, so it is a
    parameter of the run and not the number of cores at hand. Raises ModelDirError (one line) for what
    `check_model_dir` refuses and for missing, misshapen or non-finite weights; ValueError for the options.
    """
    if processing not in PROCESSINGS:
        raise ValueError(f"processing {processing!r} is unknown; allowed: {', '.join(PROCESSINGS)}")
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is unknown; allowed: {', '.join(DTYPES)}")
    if threads < 1:
        raise ValueError(f"threads must be at least 1, found {threads}")
    info = check_model_dir(path)
    torch.set_num_threads(threads)
    with _quiet():
        network, tokenizer = _from_directory(info, DTYPES[dtype])
        _check_weights(info, network)
        bridge = _bridge(info, network, tokenizer, device, DTYPES[dtype])
        if processing == "folded":
            bridge.enable_compatibility_mode(disable_warnings=True)
    bridge.eval()
    bridge.requires_grad_(False)
    for parameter in bridge.original_model.parameters():
        parameter.requires_grad_(False)
    return Model(info, processing, DTYPES[dtype], torch.device(device), bridge, tokenizer)


def _from_directory(info: ModelInfo, dtype: torch.dtype) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        network, report = AutoModelForCausalLM.from_pretrained(
            info.path,
            dtype=dtype,
            use_safetensors=True,
            attn_implementation="eager",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, by name
            **local,
        )
        tokenizer = AutoTokenizer.from_pretrained(info.path, **local)
    except Exception as error:
        raise ModelDirError(f"{info.path}: transformers cannot load it: {_one_line(error)}") from error
    # transformers fills a weight that is absent with random numbers and only warns.
    for kind in ("missing_keys", "mismatched_keys"):
        names = sorted(str(key if isinstance(key, str) else key[0]) for key in report.get(kind, ()))
        if names:
            trouble = "is missing from the weights" if kind == "missing_keys" else "has the wrong shape"
            raise ModelDirError(f"{info.path}: {names[0]} {trouble} ({len(names)} such)")
    return network, tokenizer


def _check_weights(info: ModelInfo, network: Any) -> None:
    for name, parameter in network.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ModelDirError(f"{info.path}: weight {name} holds NaN or infinite numbers")


def _bridge(info: ModelInfo, network: Any, tokenizer: Any, device: str, dtype: torch.dtype) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    try:
        return TransformerBridge.boot_transformers(
            str(info.path), hf_model=network.to(device), tokenizer=tokenizer, device=device, dtype=dtype
        )
    except Exception as error:
        raise ModelDirError(f"{info.path}: TransformerLens cannot run it: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the libraries print while loading: their bars and reports do not belong in a job's log."""
    from transformers.utils import logging as hf_logging

    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    root = logging.getLogger()
    root_level = root.level
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(root_level)
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()
