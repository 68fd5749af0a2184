"""Traces: one plain pass over a prompt becomes everything its components read and wrote.

Positions count the prompt's tokens from 0; activations are in the model's dtype and without graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from bearings.lm.forward import forward
from bearings.lm.load import Model
from bearings.lm.tokens import Tokens, pad


@dataclass(frozen=True, eq=False)
class Trace:
    """One prompt through the model.

    ids: [pos].
    resid: residual entering every block, and the final norm, [n_layers + 1, pos, d_model].
    mid: residual entering the norm of every MLP [n_layers, pos, d_model]; in parallel blocks the block's input.
    pattern: attention weights [n_layers, head, query, key].
    z: head outputs before W_O [n_layers, pos, head, d_head].
    v: values [n_layers, pos, kv_head, d_head].
    mlp_in: normed input of every MLP [n_layers, pos, d_model].
    mlp_out: what every MLP writes, with its bias, [n_layers, pos, d_model].
    attn_out: what every attention writes, with its bias, [n_layers, pos, d_model].

    resid[l + 1] = resid[l] + attn_out[l] + mlp_out[l].
    """

    ids: Tensor
    resid: Tensor
    mid: Tensor
    pattern: Tensor
    z: Tensor
    v: Tensor
    mlp_in: Tensor
    mlp_out: Tensor
    attn_out: Tensor


FIELDS = tuple(field.name for field in fields(Trace) if field.name != "ids")


@dataclass(frozen=True, eq=False)
class Traces:
    """A batch of prompts through the model: the fields of `Trace` behind a batch axis, or None if not wanted.

    Rows and columns of padding are left as the model computes them; `tokens.mask` says which are real.
    """

    tokens: Tokens
    resid: Tensor | None = None
    mid: Tensor | None = None
    pattern: Tensor | None = None
    z: Tensor | None = None
    v: Tensor | None = None
    mlp_in: Tensor | None = None
    mlp_out: Tensor | None = None
    attn_out: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens.ids)

    def one(self, i: int) -> Trace:
        """Prompt i without its padding. Raises ValueError when a field was not wanted."""
        absent = [name for name in FIELDS if getattr(self, name) is None]
        if absent:
            raise ValueError(f"a trace needs every field, {absent[0]} was not asked for")
        mask = self.tokens.mask[i]
        cut = {name: getattr(self, name)[i] for name in FIELDS}
        cut = {name: x[:, :, mask][..., mask] if name == "pattern" else x[:, mask] for name, x in cut.items()}
        return Trace(self.tokens.ids[i][mask], **cut)


def trace(model: Model, ids: Sequence[int] | Tensor) -> Trace:
    """Run one prompt, a list of token ids [pos], and keep everything. Raises ValueError when it is empty."""
    row = ids.tolist() if isinstance(ids, Tensor) else list(ids)
    return traces(model, pad([row], 0)).one(0)


def traces(model: Model, tokens: Tokens, want: Iterable[str] = FIELDS) -> Traces:
    """Run a batch and keep the fields in `want`, e.g. ("resid", "z"). Raises ValueError for an unknown field."""
    want = tuple(dict.fromkeys(want))
    unknown = sorted(set(want) - set(FIELDS))
    if unknown or not want:
        raise ValueError(f"want must be among {', '.join(FIELDS)}, found {list(want)}")
    layers = range(model.n_layers)
    names = {name: [_hook(model, layer, name) for layer in layers] for name in want if name != "resid"}
    keep: list[int | str] = [hook for hooks in names.values() for hook in hooks]
    if "resid" in want:
        keep += range(model.n_layers + 1)
    run = forward(model, tokens, keep=keep)
    kept = {name: torch.stack([run.hooks[hook] for hook in hooks], 1) for name, hooks in names.items()}
    if "resid" in want:
        kept["resid"] = torch.stack([run.resid[layer] for layer in range(model.n_layers + 1)], 1)
    return Traces(Tokens(tokens.ids.to(model.device), tokens.mask.to(model.device, torch.bool)), **kept)


def _hook(model: Model, layer: int, name: str) -> str:
    block = f"blocks.{layer}."
    if name == "mid":
        # One norm serves attention and MLP in GPT-J; elsewhere ln2 reads what the MLP is to read.
        shared = getattr(model.blocks[layer], "ln2", None) is None
        return block + ("ln1.hook_in" if shared else "ln2.hook_in")
    hooks = {
        "pattern": "attn.hook_pattern",
        "z": "attn.hook_z",
        "v": "attn.hook_v",
        "mlp_in": "mlp.hook_in",
        "mlp_out": "mlp.hook_out",
        "attn_out": "attn.hook_out",
    }
    return block + hooks[name]
