"""What the figures of every study do alike: read a run's measures, say why a panel is empty, share one legend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bearings.stages.read import ModelRun

NOTHING: Mapping[str, Any] = {"value": None, "low": None, "high": None}
TWIN = "-twin"


def get(run: ModelRun | None, name: str) -> Mapping[str, Any]:
    """A measure of a run, or one without a value where there is no such run or measure."""
    return NOTHING if run is None else run.measures.get(name, NOTHING)


def there(run: ModelRun | None, name: str) -> bool:
    """Whether a measure has a value."""
    return get(run, name)["value"] is not None


def is_twin(run: ModelRun) -> bool:
    """Whether a run is that of an untrained twin."""
    return run.name.endswith(TWIN)


def title(run: ModelRun) -> str:
    """The model's name; a twin is called by its model's."""
    return f"{run.name.removesuffix(TWIN)}: untrained twin" if is_twin(run) else run.name


def wrap(text: str, width: int) -> list[str]:
    """Words in lines of about `width` letters."""
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + len(word) > width:
            lines, line = [*lines, line], ""
        line = f"{line} {word}".strip()
    return [*lines, line]


def said_missing(axes: Axes, why: str | None, width: int = 30) -> None:
    """Write that a panel is empty and why; axes may be shared, so ticks are hidden and not taken away."""
    lines = ["not measurable", *wrap(why or "not measured", width)]
    axes.text(0.5, 0.5, "\n".join(lines), transform=axes.transAxes, ha="center", va="center", fontsize=8)
    axes.tick_params(left=False, labelleft=False, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.grid(False)


def legend(figure: Figure, columns: int, more: Mapping[str, Artist] | None = None) -> None:
    """One legend below the panels, with every name once."""
    named: dict[str, Artist] = dict(more or {})
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        named |= {label: h for h, label in zip(handles, labels, strict=True) if label not in named}
    if named:
        figure.legend(named.values(), named, loc="outside lower center", ncols=columns, fontsize=8)
