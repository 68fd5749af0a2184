"""Hooks: the only place that installs them on a model, and it always removes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from bearings.lm.edits import Edit, FrozenAttention, HookEdit, ResidualEdit, apply
from bearings.lm.load import Model

HookFunction = Callable[[Tensor, dict[int, Tensor]], Tensor | None]

# These compute attention in their own code: TransformerLens shows the pattern but cannot change it.
READ_ONLY = ("gpt_neo", "gptj")
READ_ONLY_HOOKS = (".attn.hook_pattern", ".attn.hook_attn_scores")


@contextmanager
def hooked(model: Model, edits: Iterable[Edit] = (), keep: Sequence[str] = ()) -> Iterator[dict[str, Tensor]]:
    """Install hook edits, keep the named activations (as edited) in the yielded dict, and remove every hook.

    Raises ValueError for a residual edit (those are no hooks), an unknown hook name, an edit the architecture
    would ignore, and a hook that the code run inside never reached: an edit either acts or is an error.
    """
    kept: dict[str, Tensor] = {}
    edits = tuple(edits)
    cells: dict[int, Tensor] = {}
    reached: set[str] = set()
    handles = []

    def run(name: str, function: HookFunction, x: Tensor) -> Tensor | None:
        reached.add(name)
        return function(x, cells)

    installs = [*_frozen_outputs(edits), *_named(model, edits), *_frozen_values(edits)]
    installs += [(name, lambda x, _, n=name: kept.__setitem__(n, x)) for name in keep]
    try:
        for name, function in installs:
            handles.append(_install(model, name, lambda x, hook, n=name, f=function: run(n, f, x)))
        yield kept
    finally:
        for point, handle in reversed(handles):
            handle.hook.remove()
            point.fwd_hooks = [other for other in point.fwd_hooks if other is not handle]
    missed = sorted({name for name, _ in installs} - reached)
    if missed:
        raise ValueError(f"{model.name}: hook {missed[0]!r} was never reached")


def _named(model: Model, edits: Iterable[Edit]) -> list[tuple[str, HookFunction]]:
    for e in edits:
        if isinstance(e, ResidualEdit):
            raise ValueError(
                "residual edits act between blocks, in forward(edits=...), and not through hooks"
            )
        if isinstance(e, HookEdit) and model.info.family in READ_ONLY and e.hook.endswith(READ_ONLY_HOOKS):
            raise ValueError(
                f"{e.hook}: {model.info.family} ignores edits of its attention pattern; use frozen_attention"
            )
    return [(e.hook, lambda x, _, e=e: apply(e, x)) for e in edits if isinstance(e, HookEdit)]


def _frozen_values(edits: Iterable[Edit]) -> list[tuple[str, HookFunction]]:
    """Read the values last, after whatever edits them."""
    return [
        (f"blocks.{e.layer}.attn.hook_v", lambda v, cells, e=e: cells.__setitem__(e.layer, v))
        for e in edits
        if isinstance(e, FrozenAttention)
    ]


def _frozen_outputs(edits: Iterable[Edit]) -> list[tuple[str, HookFunction]]:
    """Overwrite the head outputs first, before whatever edits them."""
    return [
        (f"blocks.{e.layer}.attn.hook_z", lambda z, cells, e=e: attend(e.pattern, cells[e.layer]))
        for e in edits
        if isinstance(e, FrozenAttention)
    ]


def attend(pattern: Tensor, v: Tensor) -> Tensor:
    """Head outputs z [batch, query, head, d_head] of a pattern [batch, head, query, key] on values
    [batch, key, kv_head, d_head]; grouped value heads are repeated for the heads that share them."""
    if pattern.shape[0] != v.shape[0] or pattern.shape[3] != v.shape[1] or pattern.shape[1] % v.shape[2]:
        raise ValueError(
            f"a pattern {list(pattern.shape)} does not fit values {list(v.shape)}; "
            "patterns are [batch, head, query, key] of the same batch"
        )
    by_head = v.repeat_interleave(pattern.shape[1] // v.shape[2], dim=2).transpose(1, 2)
    return (pattern.to(v.dtype) @ by_head).transpose(1, 2)


def _install(model: Model, name: str, function: Callable[..., Tensor | None]) -> tuple:
    point = model.hook_points.get(name)
    if point is None:
        point = model.bridge.get_hook_point(name) or model.bridge.hook_dict.get(name)
        if point is None:
            raise ValueError(
                f"{model.name} has no hook {name!r}; e.g. blocks.0.attn.hook_z, blocks.0.mlp.hook_out"
            )
        model.hook_points[name] = point
    point.add_hook(function)
    return point, point.fwd_hooks[-1]
