"""Steering (protocol 4.10): the direction is added at several strengths, and the words that follow are judged."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import torch

from bearings.lm.edits import ResidualEdit, add
from bearings.lm.forward import Tokens
from bearings.lm.generate import sample
from bearings.stages.batch import make_batch
from bearings.stages.dumps import Dump
from bearings.stages.inputs import Inputs, Outcomes
from bearings.studies.sentiment.common import unit

SCHEMA = {
    "prompt": pa.int32(),
    "start": pa.string(),
    "method": pa.string(),
    "draw": pa.int32(),
    "coefficient": pa.float32(),
    "sample": pa.int32(),
    "text": pa.string(),
    "positive": pa.int32(),
    "negative": pa.int32(),
    "new_positive": pa.int32(),
    "new_negative": pa.int32(),
}


def steering(inputs: Inputs) -> pa.Table:
    """Continuations per strength and sample, with how many positive and negative words they hold.

    The unit layer-1 direction (the authors': k-means) is added to the output of block 0 at every position, new ones
    included. At strength 0 every direction gives the same text: the seed is the same. `new_positive` and
    `new_negative` count only words that no direction was fitted on: with tied embeddings a direction fitted on words
    makes those words likelier whatever the model has learnt.
    """
    out = Outcomes(SCHEMA)
    settings = inputs.settings
    fitted = {p.extra["word"] for p in inputs.prompts["toy"] if p.split == "train"}
    chosen = settings["direction"]
    ways = [(chosen, 0, unit(inputs.directions[chosen], "corrected", 1))] + [
        ("random", draw, unit(inputs.directions["random"], str(draw), 1))
        for draw in range(settings["random_draws"])
    ]
    coefficients, n = settings["coefficients"], settings["samples"]
    # The paper's strengths are lengths; `relative` ones are shares of the mean residual at toy words, so that a
    # model whose residuals are short (the untrained twin's) is pushed as far as one whose residuals are long.
    length = (
        float(np.linalg.norm(_early(inputs.dumps["toy"]), axis=1).mean()) if settings["relative"] else 1.0
    )
    scale = length * torch.tensor(coefficients, dtype=torch.float32).repeat_interleave(n)[:, None, None]
    for prompt in inputs.prompts["steering"]:
        new = min(settings["new_tokens"], inputs.model.info.n_ctx - len(prompt.ids))
        if not prompt.usable or new < 1:
            continue
        one = make_batch(inputs.model, [prompt]).prepared.tokens
        many = Tokens(one.ids.repeat(len(scale), 1), one.mask.repeat(len(scale), 1))
        for method, draw, direction in ways:
            if direction is None:
                continue
            generator = torch.Generator().manual_seed(inputs.seed)
            edit = ResidualEdit(1, add(torch.from_numpy(direction), scale))
            ids = sample(
                inputs.model,
                many,
                new,
                edits=[edit],
                top_k=min(settings["top_k"], inputs.model.info.d_vocab),
                temperature=1.0,
                generator=generator,
            )
            texts = [inputs.model.tokenizer.decode(row.tolist()) for row in ids]
            words = [re.findall(r"[a-z]+", text.lower()) for text in texts]
            judge = {c: set(prompt.extra[f"judge_{c}"]) for c in ("positive", "negative")}
            judge |= {f"new_{c}": words_of - fitted for c, words_of in judge.items()}
            counts = {c: [sum(w in known for w in ws) for ws in words] for c, known in judge.items()}
            out.add(
                prompt=prompt.id,
                start=prompt.extra["name"],
                method=method,
                draw=draw,
                coefficient=[c for c in coefficients for _ in range(n)],
                sample=list(range(n)) * len(coefficients),
                text=texts,
                **counts,
            )
    return out.table()


def _early(dump: Dump) -> np.ndarray:
    """Residuals behind the first block, or at the first layer after it that was dumped."""
    return dump.resid[min((layer for layer in dump.layers if layer), default=0)]
