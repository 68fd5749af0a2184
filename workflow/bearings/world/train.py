"""Training: rows of the corpus become a small language model, saved as an ordinary Hugging Face directory."""

from __future__ import annotations

import json
import logging
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GPTNeoConfig, GPTNeoForCausalLM

from bearings.world.corpus import Rows
from bearings.world.settings import Strict, whole_directory

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
REPORT_SECONDS = 10.0
# The same function as gelu_new by torch's own kernel, which is several times faster: models are trained with it.
FAST_GELU = "gelu_pytorch_tanh"


@dataclass(frozen=True)
class TrainSettings(Strict):
    """Shape and optimiser of a GPT-Neo; `attention` names each layer `local` (a window) or `global`."""

    width: int = 128
    heads: int = 4
    attention: tuple[str, ...] = ("local", "local", "local", "local")
    window: int = 10
    initializer_range: float = 0.05
    learning_rate: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.05
    clip: float = 1.0
    warmup_steps: int = 100
    constant_share: float = 0.3
    batch_rows: int = 16
    activation: str = "gelu_new"  # the name that the saved model carries, by which others run it

    def __post_init__(self) -> None:
        if not self.attention or set(self.attention) - {"local", "global"}:
            raise ValueError("TrainSettings: attention must be a list of 'local' and 'global', one per layer")
        if self.activation not in ("gelu_new", FAST_GELU):
            raise ValueError(
                f"TrainSettings: activation must be gelu_new or {FAST_GELU}, two names of one function"
            )
        if self.width % self.heads:
            raise ValueError(f"TrainSettings: width {self.width} is not a multiple of heads {self.heads}")


def new_model(settings: TrainSettings, vocabulary: int, context: int, seed: int) -> GPTNeoForCausalLM:
    """An untrained model; `seed` alone decides its weights."""
    torch.manual_seed(seed)
    return GPTNeoForCausalLM(
        GPTNeoConfig(
            vocab_size=vocabulary,
            max_position_embeddings=context,
            hidden_size=settings.width,
            num_layers=len(settings.attention),
            num_heads=settings.heads,
            attention_types=[[list(settings.attention), 1]],
            window_size=settings.window,
            initializer_range=settings.initializer_range,
            activation_function=FAST_GELU,
            resid_dropout=0.0,
            embed_dropout=0.0,
            attention_dropout=0.0,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def weighted_loss(model: Any, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean cross-entropy of the next token in nats; ids, weights [row, pos]."""
    hidden = model.transformer(ids)[0]
    logits = model.lm_head(hidden[:, :-1])
    targets, mass = ids[:, 1:], weights[:, 1:]
    each = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return (each * mass.flatten()).sum() / mass.sum()


def rate(step: int, steps: int, settings: TrainSettings) -> float:
    """Learning rate at `step`: linear warm-up, constant, then linear to nought."""
    flat = settings.constant_share * steps
    decay = 1.0 if step < flat else (steps - step) / (steps - flat)
    return settings.learning_rate * min(1.0, (step + 1) / settings.warmup_steps) * decay


def _optimiser(model: Any, settings: TrainSettings) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, fused=True)


def heldout_loss(model: Any, rows: Rows) -> float:
    """Unweighted mean next-token loss in nats over the rows."""
    total = count = 0.0
    with torch.no_grad():
        for start in range(0, len(rows), 64):
            ids = torch.from_numpy(rows.ids[start : start + 64])
            mask = torch.from_numpy((rows.weights[start : start + 64] > 0).astype("float32"))
            n = float(mask[:, 1:].sum())
            total += float(weighted_loss(model, ids, mask)) * n
            count += n
    return total / count


def fit(
    model: Any, settings: TrainSettings, rows: Rows, seed: int, log: logging.Logger
) -> list[tuple[int, float]]:
    """One pass over the rows, the opening ones first, in an order drawn from `seed`.

    Returns (step, mean loss since the last).
    """
    ids, weights = torch.from_numpy(rows.ids), torch.from_numpy(rows.weights)
    generator = torch.Generator().manual_seed(seed)
    first = torch.randperm(rows.opening, generator=generator)
    order = torch.cat([first, rows.opening + torch.randperm(len(rows) - rows.opening, generator=generator)])
    steps = max(1, len(rows) // settings.batch_rows)
    optimiser, curve, recent = _optimiser(model, settings), [], []
    started = reported = time.monotonic()
    model.train()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate(step, steps, settings)
        batch = order[step * settings.batch_rows : (step + 1) * settings.batch_rows]
        loss = weighted_loss(model, ids[batch], weights[batch])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimiser.step()
        recent.append(loss.item())
        if (step + 1) % max(1, steps // 100) == 0 or step + 1 == steps:
            curve.append((step + 1, sum(recent) / len(recent)))
            recent = []
        now = time.monotonic()
        if now - reported >= REPORT_SECONDS or step + 1 == steps:
            speed = (step + 1) * batch.numel() * ids.shape[1] / (now - started)
            left = (steps - step - 1) * (now - started) / (step + 1)
            shown = curve[-1][1] if curve else loss.item()
            log.info("step %d/%d  loss %.3f  %.0f tok/s  %.0f s left", step + 1, steps, shown, speed, left)
            reported = now
    return curve


def _save(model: Any, tokenizer_dir: str | Path, staged: Path) -> None:
    model.save_pretrained(staged)
    for name in TOKENIZER_FILES:
        shutil.copyfile(Path(tokenizer_dir) / name, staged / name)


def train(
    settings: TrainSettings,
    rows: Rows,
    heldout_rows: Rows,
    tokenizer_dir: str | Path,
    out_dir: str | Path,
    seed: int,
    threads: int,
    log: logging.Logger,
) -> Path:
    """Train on `rows` and write `out_dir`: config.json, model.safetensors, tokenizer files, training.json.

    The same seed, thread count and machine class give the same bytes. Times go to `log` only.
    """
    torch.set_num_threads(threads)
    vocabulary = len(AutoTokenizer.from_pretrained(str(tokenizer_dir), local_files_only=True))
    model = new_model(settings, vocabulary, rows.ids.shape[1], seed)
    size = sum(p.numel() for p in model.parameters())
    log.info("%d parameters, %d rows, %d tokens, %d threads", size, len(rows), rows.tokens, threads)
    curve = fit(model, settings, rows, seed, log)
    model.eval()
    loss = heldout_loss(model, heldout_rows)
    log.info("held-out loss %.3f nats per token", loss)
    model.config.activation_function = settings.activation
    with whole_directory(out_dir) as staged:
        _save(model, tokenizer_dir, staged)
        record = {"seed": seed, "threads": threads, "settings": asdict(settings), "parameters": size}
        record |= {"tokens": rows.tokens, "heldout_loss": loss, "loss_curve": curve}
        (staged / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    return Path(out_dir)


def untrained_twin(model_dir: str | Path, out_dir: str | Path, seed: int) -> Path:
    """The negative control: configuration and tokenizer of any Hugging Face directory, random weights.

    Raises FileNotFoundError if `model_dir` holds no config.json.
    """
    source = Path(model_dir)
    if not (source / "config.json").is_file():
        raise FileNotFoundError(f"{source}: no config.json, not a model directory")
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(str(source), local_files_only=True))
    with whole_directory(out_dir) as staged:
        model.save_pretrained(staged)
        AutoTokenizer.from_pretrained(str(source), local_files_only=True).save_pretrained(staged)
    return Path(out_dir)
