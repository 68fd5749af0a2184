"""Figures of the sensitivity study: each draws from a model, its twin, without SAEs and from nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.image import imread
from sensitivity_outcomes import NAMED, NORM, SETTINGS, cached, inputs, without_saes

from bearings.evidence.claims import load_claims
from bearings.evidence.figures import COLOURS, save, style
from bearings.stages.read import ModelRun
from bearings.studies.sensitivity import draw_curves, draw_data, draw_panels, draw_substitution
from bearings.studies.sensitivity.draw import FIGURES, draw
from bearings.studies.sensitivity.draw_panels import NAMES, FewLogs, pairs
from bearings.studies.sensitivity.draw_published import OTHERS, PAPER, PUBLISHED_MODEL
from bearings.studies.sensitivity.measure import measure

CLAIMS = load_claims(Path(draw_panels.__file__).with_name("claims.yaml"))
# Synthetic SAEs under published names.
IDS = {
    "local-0": "jup3glm9", "local-1": "1jy3m5j0", "local-2": "bloom-6",
    "e2e-0": "zgdpkafo", "e2e-1": "tvj2owza", "e2e_ds-0": "2lzle2f0",
}  # fmt: skip
MARKED = ("curves", "substitution", "sparsity", "layers", "tokens", "single", "quality")


def made(name, kind="trained", tables=None, **settings) -> ModelRun:
    tables = cached(kind) if tables is None else tables
    measures = {k: e.to_json() for k, e in measure(inputs(kind, **settings), tables).items()}
    return ModelRun(name, measures, tables, {})


@pytest.fixture(scope="module")
def runs():
    return [made("small"), made("small-twin", "random")]


@pytest.fixture(scope="module")
def bare():
    return made("bare", tables=without_saes(cached()))


@pytest.fixture(scope="module")
def unmeasured():
    return ModelRun("unmeasured", {}, {}, {})


@pytest.fixture(scope="module")
def released():
    """A model whose SAEs have published names: some of the synthetic ones."""
    tables = {}
    for name, table in cached().items():
        if "sae" in table:
            kept = table["sae"].isin([*IDS, ""]) | table["sae"].str.contains("early|late")
            table = table[kept].assign(sae=lambda t: t["sae"].replace(IDS))
        tables[name] = table
    return made(PUBLISHED_MODEL, tables=tables)


def picture_of(figure, runs, settings=SETTINGS):
    with style():
        return draw(figure, runs, settings)


def words(picture) -> str:
    """Everything that is written in a figure."""
    found = [t.get_text() for legend in picture.legends for t in legend.get_texts()]
    found += [picture.get_supxlabel()]
    for axes in picture.axes:
        found += [t.get_text() for t in axes.texts]
        found += [t.get_text() for t in axes.get_legend().get_texts()] if axes.get_legend() else []
        found += [axes.get_title(loc="left"), *(t.get_text() for t in axes.get_yticklabels())]
    return " ".join(" ".join(found).split())


def drawn(figure, runs, path):
    """The picture, once every panel has been seen to hold data or words, and all words to be inside."""
    with style():
        picture = draw(figure, runs, SETTINGS)
        assert [a.get_title(loc="left") for a in picture.axes if not (a.has_data() or a.texts)] == []
        save(picture, path)
        assert cut_off(picture) == []
        assert overlapping(picture) == []
    assert not plt.get_fignums()
    return imread(path)


def cut_off(picture) -> list[str]:
    """What is written beyond the left or right edge of a figure that has been laid out."""
    whole, out = picture.bbox, []
    for axes in picture.axes:
        for text in [*axes.texts, axes._left_title, axes.xaxis.label, axes.yaxis.label]:
            box = text.get_window_extent()
            if text.get_text().strip() and (box.x0 < whole.x0 - 1 or box.x1 > whole.x1 + 1):
                out.append(text.get_text())
    return out


def overlapping(picture) -> list[str]:
    """Titles that run into one another, and neighbouring labels of a panel's horizontal axis that do."""
    rows = [[axes._left_title for axes in picture.axes if axes._left_title.get_text().strip()]]
    rows += [
        [t for t in axes.get_xticklabels() if t.get_text() and t.get_visible()]
        for axes in picture.axes
        if axes.xaxis.get_tick_params().get("labelbottom", True)
    ]
    boxes = [[(t.get_text(), t.get_window_extent()) for t in row] for row in rows]
    return [
        f"{one} | {other}"
        for row in boxes
        for i, (one, box) in enumerate(row)
        for other, second in row[:i]
        if box.overlaps(second)
    ]


def marks(axes, ink, mark) -> list[tuple[float, float]]:
    """Single points of one colour and marker, in the order drawn."""
    lines = [x for x in axes.lines if len(x.get_xdata()) == 1 and x.get_marker() == mark]
    return [
        (float(x.get_xdata()[0]), float(x.get_ydata()[0]))
        for x in lines
        if to_hex(x.get_color()) == ink.lower()
    ]


def value(run, name):
    return run.measures[name]["value"]


def test_manifest_and_figures_agree():
    assert sorted(CLAIMS.manifest["figures"]) == sorted(FIGURES)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("figure", sorted(FIGURES))
def test_every_figure_draws(figure, runs, bare, unmeasured, released, tmp_path):
    both = drawn(figure, runs, tmp_path / "both.png")
    for name in ("twin.png", "again.png"):
        drawn(figure, [runs[1]], tmp_path / name)
    assert (tmp_path / "twin.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    # A model that has nothing to show comes first, so nothing may hang on the first panel.
    other = drawn(figure, [bare, runs[0]], tmp_path / "other.png")
    alone = drawn(figure, [unmeasured], tmp_path / "unmeasured.png")
    drawn(figure, [released], tmp_path / "released.png")
    for picture in (both, other):
        assert picture.shape[1] == 1350
        assert np.ptp(picture[..., :3], axis=-1).max() > 0.3
    assert both.shape != other.shape or not np.array_equal(both, other)
    assert np.ptp(alone[..., :3], axis=-1).max() == 0  # words alone, no coloured ink


def test_every_figure_draws_without_settings(runs):
    for figure in FIGURES:
        assert picture_of(figure, runs[:1], {}).axes
    plt.close("all")


def test_published_numbers_are_those_of_the_claims():
    claimed = {
        c["measure"]: c["published"]["value"]
        for c in CLAIMS.claims
        if c["published"]["model"] == PUBLISHED_MODEL
    }
    compared = {m: list(v) if isinstance(v, tuple) else v for m, v in PAPER.items()}
    assert {m: claimed.get(m) for m in compared} == compared
    ends = (".sae.kl", ".iso.kl", ".norm_only.kl", ".error_norm", ".l0", ".k11", ".k21", ".k51", ".k201")
    told = {
        m for m, v in claimed.items() if v is not None and m.endswith(ends) and not m.startswith("ladder")
    }
    # A matched ratio is of two kinds, and stands in no panel of one SAE.
    assert {m for m in told if not m.startswith("matched")} - set(PAPER) == set()
    assert set(OTHERS) <= set(claimed)


@pytest.mark.parametrize("figure", MARKED)
def test_published_values_appear_on_their_own_model_only(figure, released):
    told = "published range" if figure == "layers" else "the paper's value"
    assert told in words(picture_of(figure, [released]))
    other = replace(released, name="small")
    assert told not in words(picture_of(figure, [other]))
    plt.close("all")


def test_a_twin_stands_beside_its_model(runs, bare):
    assert pairs([runs[1], bare, runs[0]]) == [(bare, None), (runs[0], runs[1])]
    assert pairs([runs[1]]) == [(runs[1], None)]
    for figure in ("substitution", "layers", "quality"):
        assert "twin" in words(picture_of(figure, runs))
        assert "twin" not in words(picture_of(figure, runs[:1]))
    plt.close("all")


def test_curves_are_means_and_agree_with_the_measures(runs):
    run = runs[0]
    picture = picture_of("curves", runs)
    top, bottom = picture.axes[0], picture.axes[3]
    line = next(x for x in top.lines if x.get_label() == NAMES["cov_mixture"])
    heights = dict(zip(np.round(line.get_xdata(), 4), line.get_ydata(), strict=True))
    assert len(heights) == len(SETTINGS["grid"])
    for name, at in NAMED:
        assert heights[at] == pytest.approx(value(run, f"base.cov_mixture.{name}"), rel=1e-9)
    ratios = next(x for x in bottom.lines if to_hex(x.get_color()) == COLOURS["cov_mixture"].lower())
    found = dict(zip(np.round(ratios.get_xdata(), 4), ratios.get_ydata(), strict=True))
    for name, at in NAMED:
        assert found[at] == pytest.approx(value(run, f"base.cov_mixture.over_iso.{name}"), rel=1e-9)
    plt.close(picture)


def test_bands_are_paired(runs):
    iso, cov = (draw_data.curve(runs[0], name) for name in ("iso", "cov_mixture"))
    centre, low, high = draw_data.band(iso)
    assert ((low < centre) & (centre < high)).all()
    _, low, high = draw_data.band(iso, iso)
    assert (low == 1).all()
    assert (high == 1).all()
    _, low, high = draw_data.band(cov, iso)
    theirs = runs[0].measures["base.cov_mixture.over_iso.k51"]
    at = int(np.flatnonzero(np.isclose(cov.x, 0.65))[0])
    # Fewer resamples than the measures' and another seed: the ends of an interval move by a few per cent of it.
    wide = theirs["high"] - theirs["low"]
    assert low[at] == pytest.approx(theirs["low"], abs=0.25 * wide)
    assert high[at] == pytest.approx(theirs["high"], abs=0.25 * wide)


def test_a_class_that_some_sequences_lack_is_compared_on_the_others(runs):
    dead, iso = draw_data.curve(runs[0], "dead", "local-0"), draw_data.curve(runs[0], "iso")
    assert np.isnan(dead.rows).any()
    mine, theirs = draw_data.at_same_lengths(dead, iso)
    assert mine.x == pytest.approx([at for _, at in NAMED])
    ratio = draw_data.band(mine, theirs)[0]
    wanted = [value(runs[0], f"feat.local-0.dead.over_iso.{name}") for name, _ in NAMED]
    assert ratio == pytest.approx(wanted, rel=1e-9)
    assert draw_data.band(theirs, mine)[0] == pytest.approx(1 / ratio, rel=1e-9)


def test_lengths_in_the_residuals_own_units_are_found(runs):
    absolute = {"relative": False, "named": [[name, at * NORM] for name, at in NAMED]}
    assert draw_data.named_lengths(runs[0], absolute) == pytest.approx(dict(NAMED))
    assert draw_data.named_lengths(runs[0], {**absolute, "named": [["k1", 1e6]]}) == {}


def test_saes_are_chosen_by_l0(runs):
    run = runs[0]
    assert draw_data.middle(run) == "local-2"
    assert draw_data.nearest(run, "e2e", draw_data.l0(run, "local-1")) == "e2e-1"
    shown = [(kind, sae) for kind, sae, _ in draw_curves.compared(run)]
    assert shown == [("local", "local-0"), ("local", "local-2"), ("e2e", "e2e-2"), ("e2e_ds", "e2e_ds-2")]


def test_substitutions_are_the_measures(runs):
    run = runs[0]
    picture = picture_of("substitution", runs)
    for column, kind in enumerate(("local", "e2e", "e2e_ds")):
        ladder = draw_data.saes(run, kind)
        top, bottom = picture.axes[column], picture.axes[3 + column]
        for variant in draw_substitution.VARIANTS:
            name = kind if variant == "sae" else variant
            found = marks(top, COLOURS[name], draw_panels.MARKS[name])
            assert [y for _, y in found] == [value(run, f"sub.{sae}.{variant}.kl") for sae in ladder]
            # Side by side: within half a place of the SAE that they belong to.
            assert max(abs(x - i) for i, (x, _) in enumerate(found)) < 0.5
        found = marks(bottom, COLOURS["cov_mixture"], draw_panels.MARKS["cov_mixture"])
        assert [y for _, y in found] == [value(run, f"sub.{sae}.sae_over_covmix") for sae in ladder]
    plt.close(picture)


def test_sparsity_is_l0_against_the_measures(runs):
    run = runs[0]
    picture = picture_of("sparsity", runs)
    for panel, part in zip(picture.axes, ("err.{}.k21", "feat.{}.inactive.k51"), strict=False):
        for kind in ("local", "e2e", "e2e_ds"):
            wanted = [
                (value(run, f"sae.{s}.l0"), value(run, part.format(s))) for s in draw_data.saes(run, kind)
            ]
            assert marks(panel, COLOURS[kind], draw_panels.MARKS[kind]) == wanted
    # In the twin features and errors are as isotropic noise, whose line they lie on.
    twin = picture.axes[5]
    level = next(x.get_ydata()[0] for x in twin.lines if "isotropic" in str(x.get_label()))
    found = marks(twin, COLOURS["local"], draw_panels.MARKS["local"])
    assert np.log([y for _, y in found]) == pytest.approx(np.log(level), abs=0.1)
    assert "e2e: not measurable" in words(picture)  # no SAE of the kind has dead features
    plt.close(picture)


def test_mean_and_median_are_the_measures(runs):
    picture = picture_of("tokens", runs[:1])
    right = picture.axes[1]
    labels = [t.get_text() for t in right.get_yticklabels()]
    y = labels.index("covariance mixture, length 51")
    at = [x for x in right.lines if len(x.get_ydata()) == 1 and x.get_ydata()[0] == y]
    found = {x.get_marker(): float(x.get_xdata()[0]) for x in at}
    assert found["o"] == value(runs[0], "base.cov_mixture.k51.median")
    assert found["D"] == value(runs[0], "base.cov_mixture.k51")
    kl = np.concatenate(list(draw_data.chosen(
        runs[0], "baselines", layer="main", direction="cov_mixture", fraction=0.65
    )["kl"]))  # fmt: skip
    assert found["|"] == pytest.approx(np.quantile(kl, 0.99), rel=1e-6)
    plt.close(picture)


def test_one_token_is_followed_from_the_changed_one(runs):
    picture = picture_of("single", runs[:1])
    line = next(x for x in picture.axes[0].lines if to_hex(x.get_color()) == COLOURS["local"].lower())
    assert line.get_xdata()[0] == 0
    # The effect later is a quarter of that at the changed token.
    assert line.get_ydata()[1:] / line.get_ydata()[0] == pytest.approx(0.25, rel=1e-6)
    assert "before it: exactly 0" in words(picture)
    plt.close(picture)


def test_a_model_short_of_layers_is_drawn(tmp_path):
    tables = {k: t[t["layer"] != "late"] if "layer" in t else t for k, t in cached().items()}
    shallow = made("shallow", tables=tables, late_layer=2)
    drawn("layers", [shallow], tmp_path / "layers.png")
    drawn("quality", [shallow], tmp_path / "quality.png")
    assert words(picture_of("layers", [shallow])).count("not measurable") == 3
    plt.close("all")


def test_a_model_without_a_kind_of_sae_says_so(tmp_path):
    keep = lambda t: t[~t["sae"].str.startswith("e2e-")] if "sae" in t else t  # noqa: E731
    fewer = made("fewer", tables={k: keep(t) for k, t in cached().items()})
    for figure in ("curves", "substitution", "sparsity"):
        drawn(figure, [fewer], tmp_path / f"{figure}.png")
    assert "this model has no e2e SAEs" in words(picture_of("substitution", [fewer]))
    plt.close("all")


def test_only_what_is_drawn_is_stacked(runs):
    """Tables are long: lists of the other quantities, and of conditions not drawn, may be anything."""
    tables = {k: t.copy() for k, t in runs[0].outcomes.items()}
    for name in ("baselines", "errors", "features", "substitute"):
        tables[name] = tables[name].assign(ce=None, l2=None)
    odd = pd.DataFrame({"kl": [[1.0]] * len(tables["features"])}, index=tables["features"].index)["kl"]
    controls = tables["features"]["direction"].isin(["minus", "shuffled", "random", "through"])
    tables["features"] = tables["features"].assign(kl=tables["features"]["kl"].where(~controls, odd))
    for figure in FIGURES:
        assert picture_of(figure, [replace(runs[0], outcomes=tables)]).axes
    plt.close("all")


def test_colours_tell_apart_what_stands_together():
    together = (
        ("iso", "cov_mixture", "cov_difference", "real_mixture", "real_difference", "zero"),
        ("iso", "cov_mixture", "real_mixture", "norm_only", "local", "e2e", "e2e_ds"),
        ("iso", "cov_mixture", "real_mixture", "local", "active", "inactive", "dead"),
    )
    for names in together:
        assert len({COLOURS[n] for n in names}) == len(names)
    assert set(NAMES) <= set(COLOURS)


@pytest.mark.parametrize("limits", [(0.9, 1.9), (0.05, 0.11), (0.4, 12), (3e-6, 20), (0.99, 1.02)])
def test_every_logarithmic_axis_has_some_numbers_and_not_too_many(limits) -> None:
    found = FewLogs(6).tick_values(*limits)
    assert 2 <= len(found) <= 6
    assert min(found) >= limits[0]
    assert max(found) <= limits[1]
