"""Figures of the LRC study: every one draws, from a model that knows enough, from its twin, and from nothing."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import yaml
from lrc_outcomes import empty, full, inputs, nothing
from matplotlib.image import imread

from bearings.evidence.figures import COLOURS, save, style
from bearings.stages.read import ModelRun
from bearings.studies.lrc import measure as study
from bearings.studies.lrc.draw import FIGURES, draw
from bearings.studies.lrc.draw_panels import NAMES, PAPER
from bearings.studies.lrc.measure import measure


def made(name, outcomes, directions=None) -> ModelRun:
    measures = {k: e.to_json() for k, e in measure(inputs(), outcomes).items()}
    return ModelRun(name, measures, outcomes, inputs().directions if directions is None else directions)


@pytest.fixture(scope="module")
def runs():
    return [made("small", full()), made("small-twin", nothing(), {"lrc": {}})]


@pytest.fixture(scope="module")
def bare():
    return made("wordless", empty(), {"lrc": {}})


def test_manifest_and_figures_agree():
    from pathlib import Path

    manifest = yaml.safe_load(Path(study.__file__).with_name("claims.yaml").read_text())["manifest"]
    assert sorted(manifest["figures"]) == sorted(FIGURES)


def drawn(figure, runs, path):
    """The picture, once every panel has been seen to hold data or words."""
    with style():
        picture = draw(figure, runs, {})
        assert [a.get_title(loc="left") for a in picture.axes if not (a.has_data() or a.texts)] == []
        save(picture, path)
    assert not plt.get_fignums()
    return imread(path)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("figure", sorted(FIGURES))
def test_every_figure_draws(figure, runs, bare, tmp_path):
    both = drawn(figure, runs, tmp_path / "both.png")
    # A model that has nothing to show comes first, so nothing may hang on the first panel.
    other = drawn(figure, [bare, runs[0]], tmp_path / "other.png")
    alone = drawn(figure, [bare], tmp_path / "alone.png")
    for picture in (both, other):
        assert min(picture.shape[:2]) > 200
        assert picture[..., :3].std() > 0.03
    assert both.shape != other.shape or not np.array_equal(both, other)
    assert alone[..., :3].std() < other[..., :3].std()


@pytest.mark.parametrize("figure", ["main", "per_relation"])
def test_the_same_run_gives_the_same_bytes(figure, runs, tmp_path):
    for name in ("a", "b"):
        drawn(figure, runs, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def said(axes) -> str:
    return " ".join(" ".join(t.get_text().split()) for t in axes.texts)


@pytest.mark.parametrize("figure", sorted(set(FIGURES) - {"counts"}))
def test_a_twin_that_knows_nothing_says_so(figure, runs):
    with style():
        picture = draw(figure, runs[1:], {})
    assert all("not measurable 0 of 432 test prompts" in said(axes) for axes in picture.axes)
    assert "untrained twin" in picture.axes[0].get_title(loc="left")
    plt.close(picture)


def test_bars_are_the_measures():
    # Relations of unequal size, so that macro and micro scores differ.
    fewer = {k: v[(v["relation"] != "letter") | (v["prompt"] % 5 == 0)] for k, v in full().items()}
    run = made("small", fewer)
    with style():
        picture = draw("main", [run], {})
    for axes, score in zip(picture.axes, ("acc", "caus"), strict=True):
        heights = [bar.get_height() for bars in axes.containers for bar in bars]
        methods = [m for m in NAMES if (score, m) != ("caus", "majority")]
        assert heights == [run.measures[f"corrected.{m}.{score}.macro"]["value"] for m in methods]
    plt.close(picture)


def test_published_values_appear_on_their_own_model_only(runs):
    theirs = made("llama-2-7b", full())
    with style():
        for figure in ("main", "samples"):
            one, other = (draw(figure, [run], {}) for run in (runs[0], theirs))
            counts = [sum("paper" in text for text in words(picture)) for picture in (one, other)]
            assert counts[0] == 0
            assert counts[1] > 0
            plt.close(one)
            plt.close(other)
    assert PAPER["gpt-j-6b"]["caus", "first_final"] == 0.86


def words(picture) -> list[str]:
    legends = [t.get_text() for legend in picture.legends for t in legend.get_texts()]
    return legends + [t.get_text() for axes in picture.axes for t in axes.texts]


def test_relations_are_sorted_by_the_difference(runs):
    with style():
        picture = draw("per_relation", runs[:1], {})
    for axes in picture.axes:
        points = {
            line.get_label(): line.get_xdata() for line in axes.lines if line.get_label() in ("LRC", "SVM")
        }
        delta = np.asarray(points["LRC"]) - np.asarray(points["SVM"])
        assert (np.diff(delta) >= 0).all()
        assert len(delta) == 8
    plt.close(picture)


def test_every_method_has_a_colour_of_its_own():
    used = [COLOURS[m] for m in NAMES]
    assert len(set(used)) == len(used)
