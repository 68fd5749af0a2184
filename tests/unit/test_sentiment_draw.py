"""Figures: every one draws, from a model that does its tasks, from its untrained twin, and from nothing at all."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import yaml
from matplotlib.image import imread
from sentiment_models import STUDY, able_outcomes, unable_outcomes, world_directions, world_inputs

from bearings.evidence.figures import save, style
from bearings.stages.read import ModelRun
from bearings.studies.sentiment.common import METHODS
from bearings.studies.sentiment.draw import FIGURES, draw
from bearings.studies.sentiment.measure import measure

MANIFEST = yaml.safe_load((STUDY / "claims.yaml").read_text())["manifest"]


def made(name, outcomes, directions=None, inputs=None) -> ModelRun:
    found = measure(inputs or world_inputs(model=False), outcomes)
    measures = {k: e.to_json() for k, e in found.items()}
    return ModelRun(name, measures, outcomes, world_directions() if directions is None else directions)


@pytest.fixture(scope="module")
def runs():
    return [made("small", able_outcomes()), made("small-twin", unable_outcomes())]


@pytest.fixture(scope="module")
def nothing():
    """A model whose tokenizer has none of the words: empty tables and no directions."""
    from dataclasses import replace

    outcomes = {k: v.iloc[:0] for k, v in able_outcomes().items()}
    directions = {m: {} for m in (*METHODS, "random")}
    inputs = world_inputs(model=False)
    bare = replace(inputs, prompts={k: [] for k in inputs.prompts}, directions=directions)
    return made("wordless", outcomes, directions, bare)


def test_manifest_and_figures_agree():
    assert sorted(MANIFEST["figures"]) == sorted(FIGURES)


def drawn(figure, runs, path):
    """The picture, once every panel has been seen to hold data or words."""
    with style():
        made = draw(figure, runs, {"direction": "kmeans"})
        assert [axes.get_title(loc="left") for axes in made.axes if not (axes.has_data() or axes.texts)] == []
        save(made, path)
    assert not plt.get_fignums()
    return imread(path)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("figure", sorted(FIGURES))
def test_every_figure_draws(figure, runs, nothing, tmp_path):
    both = drawn(figure, runs, tmp_path / "both.png")
    # A model that has nothing to show comes first, so no legend may hang on the first panel.
    other = drawn(figure, [nothing, runs[0]], tmp_path / "other.png")
    for picture in (both, other):
        assert min(picture.shape[:2]) > 200
        assert picture[..., :3].std() > 0.03
    assert both.shape != other.shape or not np.array_equal(both, other)


@pytest.mark.parametrize("figure", ["ablation", "circuit"])
def test_the_same_run_gives_the_same_bytes(figure, runs, tmp_path):
    for name in ("a", "b"):
        drawn(figure, runs, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_is_missing_is_written_in_the_panel(runs):
    with style():
        figure = draw("ablation", runs, {"direction": "kmeans"})
    said = [" ".join(t.get_text().split()) for t in figure.axes[1].texts]
    assert any("too near chance" in s for s in said)
    assert not any("too near chance" in t.get_text() for t in figure.axes[0].texts)
    assert "untrained twin" in figure.axes[1].get_title(loc="left")
    plt.close(figure)


def test_bars_are_the_measures(runs):
    with style():
        figure = draw("ablation", runs[:1], {"direction": "kmeans"})
    heights = {round(bar.get_height(), 6) for bars in figure.axes[0].containers for bar in bars}
    for variant in ("published", "corrected"):
        for method in ("das", "das_all", "mean_diff", "random"):
            value = runs[0].measures[f"ablation.{variant}.{method}.all.above_lost"]["value"]
            assert round(value, 6) in heights
    plt.close(figure)
