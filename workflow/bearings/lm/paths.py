"""Paths: components of a model from the output down, read from text such as "attn13.11@5<=mlp12@5"."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bearings.lm.load import Model
from bearings.lm.parts import parallel


@dataclass(frozen=True)
class Head:
    """A head, or with None all heads of a block, reading position `position` (negative: from the end)."""

    layer: int
    head: int | None
    position: int


@dataclass(frozen=True)
class Mlp:
    """The MLP of a block, which reads and writes at `position` (negative: from the end)."""

    layer: int
    position: int


Path = tuple[Head | Mlp, ...]

_HEAD = re.compile(r"attn(\d+)\.(\d+|all)@(-?\d+)")
_MLP = re.compile(r"mlp(\d+)@(-?\d+)")


def parse_path(path: str | Sequence[str | Head | Mlp]) -> Path:
    """Components of a path: a list of texts such as "attn13.11@5", "attn0.all@3" and "mlp19@-1", or one text of
    them joined by "<=". Components that are parsed already pass through.

    Raises ValueError, one line, for an empty path and for an item that is none of these.
    """
    items = path.split("<=") if isinstance(path, str) else list(path)
    if not items or items == [""]:
        raise ValueError("a path needs at least one component, e.g. 'attn13.11@5' or 'mlp19@-1'")
    return tuple(item if isinstance(item, Head | Mlp) else _component(item) for item in items)


def show_path(path: Sequence[Head | Mlp]) -> str:
    """The text that `parse_path` reads."""
    return "<=".join(_show(step) for step in path)


def check(model: Model, path: Path, lengths: Sequence[int] = ()) -> None:
    """Raise ValueError, one line, where the model has no such path.

    Components must exist, each strictly upstream of the one above it; an MLP must lie where the one above it
    reads (the top one at the last position). lengths: tokens of the prompts, which tell what a position from
    the end is; without them 3 and -1 are taken for the same.
    """
    info = model.info
    above, reads = None, -1
    for step in path:
        if step.layer >= info.n_layers:
            raise ValueError(f"{_show(step)}: {model.name} has layers 0 to {info.n_layers - 1}")
        if isinstance(step, Head) and step.head is not None and step.head >= info.n_heads:
            raise ValueError(f"{_show(step)}: {model.name} has heads 0 to {info.n_heads - 1}")
        if any(not -length <= step.position < length for length in lengths):
            raise ValueError(f"{_show(step)}: the position lies outside a prompt of {min(lengths)} tokens")
        if above is not None and _depth(model, step) >= _depth(model, above):
            raise ValueError(f"{_show(step)} is not upstream of {_show(above)}")
        if isinstance(step, Mlp) and not _same(step.position, reads, lengths):
            raise ValueError(
                f"{_show(step)}: an MLP writes where it reads, and here position {reads} is read"
            )
        above, reads = step, step.position


def _component(item: str) -> Head | Mlp:
    text = str(item).strip()
    if found := _HEAD.fullmatch(text):
        layer, head, position = found.groups()
        return Head(int(layer), None if head == "all" else int(head), int(position))
    if found := _MLP.fullmatch(text):
        return Mlp(int(found[1]), int(found[2]))
    raise ValueError(
        f"{text!r} is no component; allowed: attnLAYER.HEAD@POSITION, attnLAYER.all@.., mlpLAYER@.."
    )


def _show(step: Head | Mlp) -> str:
    if isinstance(step, Mlp):
        return f"mlp{step.layer}@{step.position}"
    return f"attn{step.layer}.{'all' if step.head is None else step.head}@{step.position}"


def _depth(model: Model, step: Head | Mlp) -> int:
    """Components of equal depth do not see each other: attention and MLP of a parallel block."""
    return 2 * step.layer + (isinstance(step, Mlp) and not parallel(model))


def _same(one: int, other: int, lengths: Sequence[int]) -> bool:
    """Whether two positions are one token, in every prompt; without prompts only counts from one end tell."""
    if not lengths:
        return (one < 0) != (other < 0) or one == other
    return all(one % length == other % length for length in lengths)
