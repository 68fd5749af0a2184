"""Figures of the obsprop study: each draws, from a trained model, its twin and nothing, and holds its numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread
from obsprop_outcomes import EFFECT, TOPS, directions, empty, inputs, outcomes

from bearings.evidence.claims import load_claims
from bearings.evidence.figures import COLOURS, save, style
from bearings.stages.read import ModelRun
from bearings.studies.obsprop import draw_curves, draw_panels, draw_readout
from bearings.studies.obsprop.draw import FIGURES, draw
from bearings.studies.obsprop.draw_panels import PAPER, PUBLISHED_MODEL, pairs
from bearings.studies.obsprop.draw_tokens import _before, _shown
from bearings.studies.obsprop.measure import measure

CLAIMS = load_claims(Path(draw_panels.__file__).with_name("claims.yaml"))


def made(name: str, kind: str = "trained", tables=None) -> ModelRun:
    tables = outcomes(kind) if tables is None else tables
    measures = {k: e.to_json() for k, e in measure(inputs(kind), tables).items()}
    return ModelRun(name, measures, tables, directions(kind))


@pytest.fixture(scope="module")
def runs():
    return [made("small"), made("small-twin", "random")]


@pytest.fixture(scope="module")
def bare():
    return made("wordless", tables=empty())


@pytest.fixture(scope="module")
def unmeasured():
    return ModelRun("unmeasured", {}, empty(), {})


def picture_of(figure, runs):
    with style():
        return draw(figure, runs, {})


def words(picture) -> str:
    """Everything that is written in a figure."""
    found = [t.get_text() for legend in picture.legends for t in legend.get_texts()]
    for axes in picture.axes:
        found += [t.get_text() for t in axes.texts]
        found += [axes.get_title(loc="left"), *(t.get_text() for t in axes.get_yticklabels())]
    return " ".join(" ".join(found).split())


def drawn(figure, runs, path):
    """The picture, once every panel has been seen to hold data or words, and all words to be inside."""
    with style():
        picture = draw(figure, runs, {})
        assert [a.get_title(loc="left") for a in picture.axes if not (a.has_data() or a.texts)] == []
        save(picture, path)
        assert cut_off(picture) == []
    assert not plt.get_fignums()
    return imread(path)


def cut_off(picture) -> list[str]:
    """What is written beyond the left or right edge of a figure that has been laid out."""
    whole, out = picture.bbox, []
    for axes in picture.axes:
        for text in [*axes.texts, axes._left_title, axes.xaxis.label, axes.yaxis.label]:
            box = text.get_window_extent()
            if text.get_text() and (box.x0 < whole.x0 - 1 or box.x1 > whole.x1 + 1):
                out.append(text.get_text())
    return out


def test_manifest_and_figures_agree():
    assert sorted(CLAIMS.manifest["figures"]) == sorted(FIGURES)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("figure", sorted(FIGURES))
def test_every_figure_draws(figure, runs, bare, unmeasured, tmp_path):
    both = drawn(figure, runs, tmp_path / "both.png")
    drawn(figure, runs, tmp_path / "again.png")
    assert (tmp_path / "both.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    # A model that has nothing to show comes first, so nothing may hang on the first panel.
    other = drawn(figure, [bare, runs[0]], tmp_path / "other.png")
    alone = drawn(figure, [bare], tmp_path / "alone.png")
    drawn(figure, [unmeasured], tmp_path / "unmeasured.png")
    drawn(figure, [runs[1]], tmp_path / "twin.png")
    for picture in (both, other):
        assert min(picture.shape[:2]) > 200
        assert picture.shape[1] == 1350
        assert picture[..., :3].std() > 0.03
    assert both.shape != other.shape or not np.array_equal(both, other)
    assert alone[..., :3].std() < other[..., :3].std()


def test_published_numbers_are_those_of_the_claims():
    claimed = {
        c["measure"]: c["published"] for c in CLAIMS.claims if c["published"]["model"] == PUBLISHED_MODEL
    }
    compared = {m: p["value"] for m, p in claimed.items() if m in PAPER and isinstance(p["value"], float)}
    assert len(compared) > 20
    assert {m: PAPER[m] for m in compared} == compared
    methods = ("obsprop", "regression", "mean_diff")
    together = [PAPER[f"lowdata.code.published.{m}"] for m in methods]
    assert together == claimed["lowdata.code.published.obsprop"]["value"]
    off = [PAPER[f"ln.tangent.subj.g{i}.g{j}"] for i in range(3) for j in range(3) if i != j]
    assert np.mean(off) == pytest.approx(claimed["ln.tangent.subj.off_diagonal"]["value"], abs=5e-5)


@pytest.mark.parametrize("figure", ["learning", "readout", "layernorm"])
def test_published_values_appear_on_their_own_model_only(figure, runs):
    one, other = (
        words(picture_of(figure, [run])) for run in (runs[0], replace(runs[0], name=PUBLISHED_MODEL))
    )
    assert "the paper's value" not in one.replace("the paper's bound", "")
    assert "(the paper's)" not in one
    assert ("the paper's value" if figure != "layernorm" else "(0.050)") in other
    plt.close("all")


def test_a_twin_stands_beside_its_model(runs, bare):
    assert pairs([runs[1], bare, runs[0]]) == [(bare, None), (runs[0], runs[1])]
    assert pairs([runs[1]]) == [(runs[1], None)]
    for figure in ("heads", "readout", "debias"):
        assert "twin" in words(picture_of(figure, runs))
        assert "twin" not in words(picture_of(figure, runs[:1]))
    plt.close("all")


def test_heat_maps_hold_the_planted_heads(runs):
    picture = picture_of("heads", runs[:1])
    norm, effect = (picture.axes[i] for i in (0, 1))
    found = np.asarray(effect.images[0].get_array())
    for (layer, head), value in zip(TOPS, EFFECT["subj"], strict=True):
        assert found[layer, head] == pytest.approx(value, rel=0.2)
    framed = {(round(p.get_y() + 0.47), round(p.get_x() + 0.47)) for p in effect.patches}
    assert framed == set(TOPS)
    assert np.asarray(norm.images[0].get_array()).argmax() == TOPS[0][0] * found.shape[1] + TOPS[0][1]
    plt.close(picture)


def test_numbers_are_written_only_where_heads_are_few(runs):
    deep = pd.concat(
        [outcomes()["weights"].assign(layer=lambda t, k=k: t["layer"] + 3 * k) for k in range(8)]
    )
    deep = deep[deep["layer"] >= 0].drop_duplicates(["layer", "head", "observable", "other", "quantity"])
    other = replace(runs[0], outcomes={**runs[0].outcomes, "weights": deep})
    few, many = (picture_of("heads", [run]) for run in (runs[0], other))
    assert len(few.axes[0].texts) == 12
    assert len(many.axes[0].texts) == 0
    assert many.get_figheight() > few.get_figheight()
    plt.close("all")


def test_points_are_the_measures(runs):
    picture = picture_of("couplings", runs[:1])
    run = runs[0]
    tops = [line for line in picture.axes[0].lines if "largest attribution" in str(line.get_label())]
    assert [float(line.get_xdata()[0]) for line in tops] == [
        run.measures[f"coupling.top{k}.predicted"]["value"] for k in (1, 2, 3)
    ]
    assert [float(line.get_ydata()[0]) for line in tops] == [
        run.measures[f"coupling.top{k}.slope"]["value"] for k in (1, 2, 3)
    ]
    assert "published, GPT-Neo-1.3B" in words(picture)
    assert "published, GPT-Neo-1.3B" not in words(picture_of("couplings", runs[1:]))
    plt.close("all")


def test_bars_are_the_measures(runs):
    picture = picture_of("debias", runs)
    left, right = picture.axes
    heights = [bar.get_height() for bars in left.containers for bar in bars]
    assert heights == [runs[0].measures[f"debias.gap.{v}"]["value"] for v in draw_readout.EDITS]
    heights = [bar.get_height() for bars in right.containers for bar in bars]
    wanted = [run.measures[f"debias.kl_others.{v}"]["value"] for v in draw_readout.EDITS for run in runs]
    assert heights == wanted
    hatched = [bool(bar.get_hatch()) for bars in right.containers for bar in bars]
    assert hatched == [False, True] * len(draw_readout.EDITS)
    plt.close(picture)


def test_curves_are_the_measures(runs):
    picture = picture_of("learning", runs[:1])
    name = draw_curves.METHODS["regression"]
    line = next(line for line in picture.axes[0].lines if line.get_label() == name)
    head, measures = "lowdata.pronoun.like.regression.n", runs[0].measures
    wanted = {int(k.removeprefix(head)): m["value"] for k, m in measures.items() if k.startswith(head)}
    assert len(wanted) > 2
    assert dict(zip(line.get_xdata(), line.get_ydata(), strict=True)) == wanted
    plt.close(picture)


def test_every_method_has_a_colour_of_its_own():
    methods = [*draw_curves.METHODS, "obsprop", "random"]
    assert len({COLOURS[m] for m in methods}) == len(methods)
    inks = [ink for table in (draw_readout.KINDS, draw_readout.EDITS) for _, ink in table.values()]
    assert set(inks) <= set(COLOURS)
    assert COLOURS["female"] != COLOURS["male"]


def test_contexts_are_cut_on_the_left_and_stay_one_line():
    assert _before("When it comes to Emma", " Emma") == "When it comes to"
    assert _before(f"{'x' * 80} Emma", " Emma") == f"…{'x' * 31}"
    assert _shown("a\n\tb\u4e2d$x$") == "a↵→b·$x$"
