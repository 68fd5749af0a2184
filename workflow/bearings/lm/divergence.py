"""How far a changed residual moves the prediction: KL, cross-entropy and distance, many conditions in a pass.

Protocol sections 4.3 and 4.4. One clean pass per batch; every changed residual resumes at its layer, only the
scored positions are unembedded, and the vocabulary is walked through one sequence of one condition at a time:
its logits stay in the processor's cache, and their number, hence their bits, depends on no batch or chunk size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from bearings.lm import weights
from bearings.lm.forward import Prepared, Tokens, forward, prepare, repeat
from bearings.lm.load import Model

# A clean probability below 1e-38 is nothing in fp32; with y below this, what such tokens would add to a sum of
# about 1 is below 1e-20 each, so the sum over the vocabulary misses nothing, and exp(y) cannot overflow.
LARGE = 40.0


@dataclass(frozen=True, eq=False)
class Clean:
    """A clean pass of sequences of equal length without padding.

    prepared: the batch; layer: where changes will act.
    resid: residual entering block `layer` [batch, pos, d]; final: the one before the final norm.
    rows: the scored positions [r], increasing; each is scored against the token behind it.
    log_probs: [batch, r, vocab]; ce: cross-entropy of the next token [batch, r], nats.
    """

    prepared: Prepared
    layer: int
    resid: Tensor
    final: Tensor
    rows: Tensor
    log_probs: Tensor
    ce: Tensor


@dataclass(frozen=True, eq=False)
class Effect:
    """What k conditions do to the prediction at the scored positions, each [k, batch, r].

    kl: KL(P || Q) in nats, P clean, Q changed; ce: cross-entropy of the next token under Q, nats;
    l2: length of the difference of the residuals after the last block.
    """

    kl: Tensor
    ce: Tensor
    l2: Tensor


def clean(
    model: Model,
    batch: Prepared | Tokens,
    layer: int,
    rows: Tensor | None = None,
    resid: Tensor | None = None,
) -> Clean:
    """One clean pass for changes at `layer`, from the tokens or from a cached `resid` [batch, pos, d].

    rows: scored positions [r]; default all but the last, which has no next token.

    Raises ValueError for padding, a layer that is none, and rows that are not increasing and scorable.
    """
    if not 0 <= layer <= model.n_layers:
        raise ValueError(f"layer must be 0 to {model.n_layers}, found {layer}")
    prepared = batch if isinstance(batch, Prepared) else prepare(model, batch)
    ids, mask = prepared.tokens.ids, prepared.tokens.mask
    if not mask.all():
        raise ValueError("sequences must be of equal length without padding, found padded positions")
    last = ids.shape[1] - 2
    rows = torch.arange(last + 1) if rows is None else rows
    if rows.ndim != 1 or not len(rows) or rows[0] < 0 or rows[-1] > last or (rows.diff() <= 0).any():
        raise ValueError(f"rows must be increasing positions in 0 to {last}, found {rows.tolist()}")
    rows = rows.to(model.device)
    start = 0 if resid is None else layer
    through = forward(model, prepared, start=start, resid=resid, keep=[layer, model.n_layers]).resid
    final = through[model.n_layers]
    normed = weights.final_norm(model, final[:, rows])
    log_probs = normed.new_empty(*normed.shape[:2], model.info.d_vocab)
    for out, one in zip(log_probs, normed, strict=True):
        torch.log_softmax(model.bridge.unembed(one), -1, out=out)
    ce = -log_probs.gather(-1, ids[:, rows + 1, None])[..., 0]
    return Clean(prepared, layer, through[layer], final, rows, log_probs, ce)


def effects(model: Model, clean: Clean, changed: Tensor | Iterable[Tensor], *, max_tokens: int) -> Effect:
    """KL, cross-entropy and distance of k changed residuals [k, batch, pos, d] at `clean.layer`.

    changed: one tensor, or any iterable of [batch, pos, d], of which one chunk is held at a time.
    max_tokens: conditions are stacked on the batch axis up to this many tokens, at least one condition.

    Positions in front of the first changed one cannot change in a causal model: KL and distance there are
    exactly 0 and the cross-entropy is the clean one, whatever the stacked products round to.

    Raises ValueError for max_tokens below 1, residuals of another shape, and no condition at all.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, found {max_tokens}")
    batch, pos, _ = clean.resid.shape
    copies: dict[int, Prepared] = {}
    parts: list[Tensor] = []
    with torch.no_grad():
        for chunk in _chunks(changed, clean.resid.shape, max(1, max_tokens // (batch * pos))):
            n = len(chunk)
            if n not in copies:
                copies[n] = clean.prepared if n == 1 else repeat(clean.prepared, n)
            parts.append(_chunk(model, clean, copies[n], chunk))
    if not parts:
        raise ValueError("changed holds no condition")
    return Effect(*torch.cat(parts, 1))


def divergence(log_probs: Tensor, probs: Tensor, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """KL(P || Q) [r] and log P - log Q of `labels` [r], of clean rows [r, vocab] and changed `logits`.

    `logits` is overwritten and no other tensor of its size is made. With y = logits - log P - mean, the mean
    taken under P, KL = log(1 + sum P expm1(y)) - sum P y: exact, and free of the cancellation between two
    entropies that would leave a KL below 1e-6 without digits.
    """
    y = logits.sub_(log_probs)
    y.sub_(torch.linalg.vecdot(probs, y)[:, None])
    large = y.amax(-1) > LARGE
    at_label = y.gather(-1, labels[:, None])[:, 0]
    rest = torch.linalg.vecdot(probs, y)  # zero but for the rounding of the mean
    # The few rows in which Q sits where P has nothing: a plain sum of exponentials, in which P rounds nothing away.
    beyond = torch.logsumexp(y[large] + log_probs[large], -1) if large.any() else None
    normaliser = torch.log1p(torch.linalg.vecdot(probs, y.expm1_()))
    if beyond is not None:
        normaliser[large] = beyond
    return normaliser - rest, normaliser - at_label


def _chunk(model: Model, clean: Clean, prepared: Prepared, chunk: Tensor) -> Tensor:
    """KL, cross-entropy and distance [3, k, batch, r] of k conditions [k, batch, pos, d] in one pass."""
    n = model.n_layers
    end = forward(model, prepared, start=clean.layer, resid=chunk.flatten(0, 1), stop=n).resid[n]
    end = end.view(chunk.shape)[:, :, clean.rows]
    l2 = (end - clean.final[:, clean.rows]).norm(dim=-1)
    normed = weights.final_norm(model, end)
    untouched = (chunk == clean.resid).all(-1).long().cumprod(-1)[:, :, clean.rows]
    first = untouched.sum(-1).tolist()  # rows increase, so the untouched ones come first
    labels = clean.prepared.tokens.ids[:, clean.rows + 1]
    kl, ce = torch.zeros_like(l2), clean.ce.expand_as(l2).clone()
    for j, log_probs in enumerate(clean.log_probs):
        probs = log_probs.exp()
        for i in range(len(chunk)):
            rows = slice(first[i][j], None)
            l2[i, j, : rows.start] = 0
            if rows.start == len(log_probs):
                continue
            logits = model.bridge.unembed(normed[i, j, rows])
            kl[i, j, rows], rise = divergence(log_probs[rows], probs[rows], logits, labels[j, rows])
            ce[i, j, rows] += rise
    return torch.stack([kl, ce, l2])


def _chunks(changed: Tensor | Iterable[Tensor], shape: torch.Size, size: int) -> Iterator[Tensor]:
    """Conditions as [at most size, batch, pos, d]."""
    source = iter(changed)
    while items := list(islice(source, size)):
        for item in items:
            if item.shape != shape:
                raise ValueError(
                    f"changed must be [k, {', '.join(map(str, shape))}]; one condition is {list(item.shape)}"
                )
        yield torch.stack(items)
