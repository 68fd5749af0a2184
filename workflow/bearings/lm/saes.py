"""Sparse autoencoders: loaded from their folders, verified, and ready to encode and decode.

The standard architecture is read and computed here, without importing sae-lens, which takes 10 to 17 s.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bearings.lm.load import Model
from bearings.lm.sae_files import (
    CONFIG,
    WEIGHTS,
    Entry,
    SaeError,
    d_sae_of,
    first_line,
    folder_digest,
    read_ladder,
    save_sae,
    write_ladder,
)  # fmt: skip
from bearings.store.provenance import content_digest

__all__ = [
    "Entry", "Sae", "SaeError", "check_model", "d_sae_of", "folder_digest", "load_ladder", "load_sae",
    "model_digest", "read_ladder", "save_sae", "write_ladder",
]  # fmt: skip

# Decoder rows this close to unit norm are left as they are: dividing by a rounding error only adds another.
UNIT = 1e-5


@dataclass(frozen=True, eq=False)
class Sae:
    """An SAE: f = ReLU((x - centre) W_enc + b_enc), r = f decoder + b_dec, `decoder` [d_sae, d_in] of unit rows.

    `w_enc` [d_in, d_sae], `b_enc` [d_sae], `b_dec` [d_in]; `centred`: b_dec is subtracted from x first. `other` is
    the sae-lens module that encodes and decodes in place of these, for other architectures.
    """

    entry: Entry
    decoder: Tensor
    b_dec: Tensor
    w_enc: Tensor | None = None
    b_enc: Tensor | None = None
    centred: bool = False
    other: Any = None

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def kind(self) -> str:
        return self.entry.kind

    @property
    def layer(self) -> int:
        return self.entry.layer

    @property
    def level(self) -> int:
        return self.entry.level

    @property
    def d_sae(self) -> int:
        return self.decoder.shape[0]

    @property
    def d_in(self) -> int:
        return self.decoder.shape[1]

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Feature activations [..., d_sae] of x [..., d_in]; holds one tensor of that size and no more."""
        if self.other is not None:
            return self.other.encode(x)
        flat = (x - self.b_dec if self.centred else x).reshape(-1, self.d_in)
        return torch.addmm(self.b_enc, flat, self.w_enc).relu_().view(*x.shape[:-1], self.d_sae)

    @torch.no_grad()
    def decode(self, f: Tensor) -> Tensor:
        """Reconstruction [..., d_in] of feature activations [..., d_sae]."""
        return self.other.decode(f) if self.other is not None else f @ self.decoder + self.b_dec

    def __call__(self, x: Tensor) -> Tensor:
        """Reconstruction [..., d_in] of x [..., d_in]."""
        return self.decode(self.encode(x))


def load_ladder(directory: str | Path, model: Model | None = None, device: str = "cpu") -> list[Sae]:
    """The SAEs of a ladder, for `model` where one is given.

    Raises:
        SaeError: an SAE was made for another language model, or for another processing of its weights.
    """
    entries = read_ladder(directory)
    if model is not None:
        check_model(entries, model)
    return [load_sae(entry, device) for entry in entries]


def model_digest(model: Model) -> str:
    """Content digest of a language model's folder."""
    return content_digest(model.info.path)


def check_model(entries: Sequence[Entry], model: Model) -> None:
    """Refuse, in one line, SAEs whose language model is not `model` (protocol A11)."""
    found = model_digest(model)
    for entry in entries:
        if (entry.model, entry.processing) != (found, model.processing):
            raise SaeError(
                f"SAE {entry.name} belongs to a language model with digest {entry.model[:12]} "
                f"({entry.processing}); {model.info.path} has {found[:12]} ({model.processing})"
            )


def load_sae(entry: Entry, device: str = "cpu") -> Sae:
    """An SAE as float32 tensors on `device`.

    Raises:
        SaeError: a file is missing or damaged, a weight has the wrong shape or is not finite.
    """
    folder = Path(entry.folder)
    config = _config(folder / CONFIG)
    if not _plain(config):
        return _load_other(entry, device)
    weights = _weights(folder / WEIGHTS, device)
    decoder, w_enc, b_enc = weights["W_dec"], weights["W_enc"], weights["b_enc"]
    norms = decoder.norm(dim=1)
    if (norms - 1).abs().max() > UNIT:
        norms = norms.clamp(min=1e-8)
        decoder, w_enc, b_enc = decoder / norms[:, None], w_enc * norms, b_enc * norms
    # Configs from before sae-lens 6 leave the key out and mean True.
    centred = bool(config.get("apply_b_dec_to_input", True))
    # A copy: a view would keep the whole mapped file in memory where the others were rescaled.
    return Sae(entry, decoder, weights["b_dec"].clone(), w_enc, b_enc, centred)


def _plain(config: Mapping[str, Any]) -> bool:
    """Whether a config is of the one architecture that `Sae` computes itself: ReLU, inputs as they come."""
    return (
        config.get("architecture", "standard") == "standard"
        and config.get("activation_fn", config.get("activation_fn_str", "relu")) == "relu"
        and config.get("normalize_activations") in (None, False, "none")
        and config.get("reshape_activations", "none") == "none"
        and not config.get("finetuning_scaling_factor")
        and "hook_z" not in str(config.get("hook_name", config.get("hook_point", "")))
    )


def _config(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes().decode("utf-8"))
    except OSError:
        raise SaeError(f"{path}: missing; the folder of an SAE holds {CONFIG} and {WEIGHTS}") from None
    except ValueError as error:
        raise SaeError(f"{path}: not valid JSON ({first_line(error)})") from None
    if not isinstance(content, dict):
        raise SaeError(f"{path}: must hold a JSON object, found {type(content).__name__}")
    return content


def _weights(path: Path, device: str) -> dict[str, Tensor]:
    """W_enc [d_in, d_sae], W_dec [d_sae, d_in], b_enc, b_dec, checked."""
    names = ("W_enc", "W_dec", "b_enc", "b_dec")
    try:
        with safe_open(str(path), framework="pt", device=device) as stored:
            # keys() and get_tensor() are the library's names; the handle is no mapping to loop over
            missing = sorted(set(names) - set(stored.keys()))
            if missing:
                raise SaeError(f"{path}: weight {missing[0]} is missing")
            found = {name: stored.get_tensor(name).float() for name in names}
    except (SafetensorError, OSError) as error:
        raise SaeError(f"{path}: cannot be read ({first_line(error)})") from None
    d_sae, d_in = found["W_dec"].shape if found["W_dec"].ndim == 2 else (0, 0)
    shapes = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_enc": (d_sae,), "b_dec": (d_in,)}
    for name, tensor in found.items():
        if tuple(tensor.shape) != shapes[name]:
            raise SaeError(
                f"{path}: weight {name} is {list(tensor.shape)} where W_dec asks for {list(shapes[name])}"
            )
        if not torch.isfinite(tensor).all():
            raise SaeError(f"{path}: weight {name} holds NaN or infinite numbers")
    return found


def _load_other(entry: Entry, device: str) -> Sae:
    """Any other architecture, encoded and decoded by sae-lens."""
    os.environ.setdefault("WANDB_MODE", "disabled")
    from sae_lens import SAE

    try:
        sae = SAE.load_from_disk(entry.folder, device=device, dtype="float32")
    except Exception as error:
        raise SaeError(f"{entry.folder}: sae-lens cannot load it: {first_line(error)}") from error
    decoder = sae.W_dec.detach()
    unit = decoder / decoder.norm(dim=1, keepdim=True).clamp(min=1e-8)
    return Sae(entry, unit, sae.b_dec.detach(), other=sae)
