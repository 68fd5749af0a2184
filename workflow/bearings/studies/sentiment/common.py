"""What the parts of the study share: which prompts belong together, and unit vectors by method and layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bearings.stages.prompts import Prompt

# Two classes of fewer words than this say nothing about a direction.
FEWEST = 4
METHODS = ("mean_diff", "kmeans", "logistic", "pca", "das", "das2d", "das3d", "das_all")


def toy(
    prompts: Sequence[Prompt], split: str, variant: str = "corrected", published: int = 15
) -> list[Prompt]:
    """Usable toy prompts of a split in the authors' order, equally many of each class.

    The variant `published` stops at 15 per class: the authors took that number from another, shorter list, so
    the rest of their training words was never used (protocol section 5, row 1).
    """
    fine = [p for p in prompts if p.usable and p.split == split and p.extra["rank"] >= 0]
    per_class = [[p for p in fine if p.label == label] for label in (1, 0)]
    n = min(map(len, per_class))
    if split == "train" and variant == "published":
        n = min(n, published)
    ranked = [sorted(side, key=lambda p: p.extra["rank"])[:n] for side in per_class]
    return [p for pair in zip(*ranked, strict=True) for p in pair]


def corrupted(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The clean list rotated by one: every prompt's partner is of the other class."""
    return [*prompts[1:], *prompts[:1]]


def enough(prompts: Sequence[Prompt]) -> bool:
    """Are there at least FEWEST usable prompts of each class?"""
    return min(sum(p.label == label for p in prompts) for label in (0, 1)) >= FEWEST


def unit(vectors: Mapping[str, np.ndarray], variant: str, layer: int) -> np.ndarray | None:
    """The unit direction [d_model] or orthonormal span [k, d_model] of a variant and layer; None if not fitted."""
    vector = vectors.get(f"{variant}/{layer}")
    if vector is None or vector.ndim == 2:
        return vector
    norm = np.linalg.norm(vector)
    return None if norm == 0 else (vector / norm).astype(np.float32)
