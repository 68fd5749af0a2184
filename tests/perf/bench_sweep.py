"""Bench of the perturbation sweep: resumed and stacked, against TransformerLens hooks from the tokens.

    PYTHONPATH=workflow:tests/unit python tests/perf/bench_sweep.py results

Random models of GPT-2 small's shape and of the embedded world's. The peer runs the same stacked chunks through
`run_with_hooks`, with a full log-softmax and kl_div at every position: the published protocol, written plainly.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from interleaved import compare, write
from lm_models import directory
from torch.nn.functional import kl_div

from bearings.lm import perturb
from bearings.lm.divergence import Clean, clean, effects
from bearings.lm.load import Model, load_model
from bearings.lm.tokens import Tokens


@dataclass(frozen=True)
class Shape:
    """A model and a sweep: `sequences` of `context` tokens, changed at `layer` along 23 lengths."""

    name: str
    blocks: int
    width: int
    vocab: int
    context: int
    sequences: int
    layer: int
    max_tokens: int
    repeats: int


SHAPES = (
    Shape("world, 4 blocks, layer 2", 4, 128, 2048, 64, 4, 2, 2048, 9),
    Shape("GPT-2 small, layer 6", 12, 768, 50257, 128, 1, 6, 1024, 4),
)
LENGTHS = 23
# KL in fp32 by two routes: the log-probabilities of rare tokens round at 1e-6.
TOLERANCE = 1e-5


def build(shape: Shape, folder: Path) -> Model:
    """A random model of this shape."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    heads = shape.width // (64 if shape.width > 128 else 32)
    GPT2LMHeadModel(
        GPT2Config(
            vocab_size=shape.vocab, n_positions=shape.context, n_embd=shape.width, n_layer=shape.blocks,
            n_head=heads, bos_token_id=1, eos_token_id=2,
        )
    ).save_pretrained(folder)  # fmt: skip
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((directory("gpt2") / name).read_bytes())
    return load_model(folder)


def hooked(model: Model, base: Clean, changed: torch.Tensor, max_tokens: int) -> torch.Tensor:
    """KL [k, batch, pos - 1] by `run_with_hooks` from the tokens."""
    ids, hook = base.prepared.tokens.ids, f"blocks.{base.layer}.hook_resid_pre"
    parts = []
    with torch.no_grad():
        log_p = model.bridge(ids, use_cache=False)[:, :-1].log_softmax(-1)
        for chunk in changed.split(max(1, max_tokens // ids.numel())):
            new = chunk.flatten(0, 1)
            logits = model.bridge.run_with_hooks(
                ids.repeat(len(chunk), 1), fwd_hooks=[(hook, lambda x, hook, new=new: new)], use_cache=False
            )
            log_q = logits[:, :-1].log_softmax(-1).view(len(chunk), *log_p.shape)
            parts.append(kl_div(log_q, log_p.expand_as(log_q), log_target=True, reduction="none").sum(-1))
    return torch.cat(parts)


def share(shape: Shape) -> float:
    """Multiply-adds of the blocks from `layer` on and the scored rows' unembedding, over those of all of it."""
    block = 12 * shape.width**2 + 2 * shape.context * shape.width
    unembed = shape.width * shape.vocab
    scored = unembed * (shape.context - 1) / shape.context
    return ((shape.blocks - shape.layer) * block + scored) / (shape.blocks * block + unembed)


def bench(shape: Shape, folder: Path) -> dict:
    model = build(shape, folder)
    ids = torch.randint(3, shape.vocab, (shape.sequences, shape.context))
    tokens = Tokens(ids, torch.ones_like(ids, dtype=torch.bool))
    base = clean(model, tokens, shape.layer)
    norm = base.resid.norm(dim=-1).mean()
    changed = perturb.along(
        base.resid, torch.randn(base.resid.shape), norm * torch.linspace(0.0133, 1.15, LENGTHS)
    )

    def ours() -> torch.Tensor:
        again = clean(model, tokens, shape.layer)  # the peer pays for its clean pass too
        return effects(model, again, changed, max_tokens=shape.max_tokens).kl

    return compare(
        f"{LENGTHS} lengths x {shape.sequences} x {shape.context} tokens, KL at all positions: {shape.name}",
        ours,
        lambda: hooked(model, base, changed, shape.max_tokens),
        name="TransformerLens run_with_hooks",
        repeats=shape.repeats,
        tolerance=TOLERANCE,
        note=f"ours also gives cross-entropy and distance; by multiply-adds alone {1 / share(shape):.2f}",
    )


def main(results: str) -> None:
    torch.set_num_threads(1)
    for shape in SHAPES:
        with tempfile.TemporaryDirectory(prefix="bearings-bench-") as folder:
            row = bench(shape, Path(folder))
        print(row, flush=True)
        write([row], Path(results))


if __name__ == "__main__":
    main(sys.argv[1])
