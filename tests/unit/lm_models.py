"""Tiny random models of the five architectures, saved as Hugging Face directories, for the lm tests."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import torch

from bearings.lm.forward import Tokens, pad
from bearings.lm.load import Model, load_model

FAMILIES = ("gpt2", "gpt_neo", "gptj", "gpt_neox", "llama")
SIDES = ("left", "right", "none")
D_VOCAB, D_MODEL, N_LAYERS, N_CTX = 61, 32, 4, 64
LENGTHS = (9, 4, 7, 2, 8)

# fp32 rounds at 6e-8; the same sums taken in another order over d = 32 and four blocks differ by some 10 to
# 100 roundings of the largest number in play. Anything wrong (mask, position, a missed edit) shows at 1e-2.
RELATIVE = 5e-6

_root = tempfile.TemporaryDirectory(prefix="bearings-lm-")


def config(family: str, n_layers: int = N_LAYERS):
    import transformers as hf

    # A spread of 0.2 instead of 0.02: at the usual start every block adds almost nothing, and a test that
    # compares outputs would pass with half of the model missing.
    common = {"vocab_size": D_VOCAB, "initializer_range": 0.2, "bos_token_id": 1, "eos_token_id": 2}
    if family == "gpt2":
        return hf.GPT2Config(n_positions=N_CTX, n_embd=D_MODEL, n_layer=n_layers, n_head=4, **common)
    if family == "gptj":
        return hf.GPTJConfig(
            n_positions=N_CTX, n_embd=D_MODEL, n_layer=n_layers, n_head=4, rotary_dim=4, **common
        )
    common |= {"hidden_size": D_MODEL, "max_position_embeddings": N_CTX}
    if family == "gpt_neo":
        # A window shorter than the prompts, so that local layers differ from global ones.
        kinds = [[["global", "local"], n_layers // 2]]
        return hf.GPTNeoConfig(
            num_layers=n_layers, num_heads=4, attention_types=kinds, window_size=4, **common
        )
    common |= {"num_hidden_layers": n_layers, "num_attention_heads": 4, "intermediate_size": 48}
    if family == "gpt_neox":
        return hf.GPTNeoXConfig(rotary_pct=0.5, **common)
    return hf.LlamaConfig(num_key_value_heads=2, **common)


def save(family: str, path: Path, seed: int = 0, n_layers: int = N_LAYERS) -> Path:
    """Write a random model and word-level tokenizer; norms and biases are random too, or folding is idle."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    network = AutoModelForCausalLM.from_config(config(family, n_layers))
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    network.save_pretrained(path)
    words = {
        word: i for i, word in enumerate(["<pad>", "<s>", "</s>", *(f"w{i}" for i in range(3, D_VOCAB))])
    }
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<pad>"
    ).save_pretrained(path)
    return path


@cache
def directory(family: str) -> Path:
    return save(family, Path(_root.name) / family)


@cache
def model(family: str, processing: str = "raw") -> Model:
    return load_model(directory(family), processing=processing)


@cache
def reference(family: str):
    """The plain transformers model, loaded on its own."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory(family), attn_implementation="eager").eval()


def prompts(seed: int = 0, lengths=LENGTHS) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, D_VOCAB, (n,), generator=generator).tolist() for n in lengths]


def tokens(side: str, seed: int = 0) -> Tokens:
    if side == "none":
        return pad(prompts(seed, [max(LENGTHS)] * len(LENGTHS)), 0)
    return pad(prompts(seed), 0, side)


def arguments(batch: Tokens) -> dict[str, torch.Tensor]:
    """What a plain pass needs beside the ids: the mask, and positions that count real tokens only.

    No cache: filling one changes the memory layout of keys and values, and with it the last bit of sums.
    """
    mask = batch.mask.long()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return {"attention_mask": mask, "position_ids": positions, "use_cache": False}


def gap(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest absolute difference, relative to the largest absolute entry."""
    return ((a - b).abs().max() / b.abs().max()).item()
