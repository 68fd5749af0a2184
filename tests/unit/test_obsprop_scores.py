"""Scores of features and what they tell of the answer: planted directions, exact outputs, honest choices."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from obsprop_scored import AT, LAYERS, WORDS, code, inputs, planted, politicians

from bearings.studies.obsprop.measure_readout import auc, best_head, halves, measure, r, r2, view
from bearings.studies.obsprop.scores import clusters, last_component, layer_of, outputs, reading, scores

OPTIONS = {"seed": 0, "resamples": 200}


@cache
def table() -> pd.DataFrame:
    return scores(inputs()).to_pandas()


@cache
def measured():
    return measure(table(), OPTIONS)


@pytest.mark.parametrize(
    ("text", "layer", "head"),
    [
        ("attn13.11@5", 13, 11),
        ("attn13.11@5<=mlp12@3", 12, -1),
        ("mlp19@-1<=attn0.all@3", 0, -1),
        ("attn13.11@3<=attn9.1@3<=attn6.6@3", 6, 6),
    ],
)
def test_a_feature_lives_at_the_last_component_of_its_path(text, layer, head):
    assert last_component(text) == (layer, head)
    assert layer_of(text) == layer


def test_what_is_no_path_is_refused():
    with pytest.raises(ValueError, match="does not end in a component"):
        layer_of("attn13")


def test_outputs_are_differences_of_summed_logits():
    given = inputs()
    dump = given.dumps["names"]
    found = outputs(given, "names")
    for p in given.prompts["names"][::17]:
        x = dump.at("end", [p.id], LAYERS)[0]
        want = sum(x[i] for i in p.positive) - sum(x[i] for i in p.negative)
        assert found[p.id] == pytest.approx(want, rel=1e-6)
    # The occupations have several words: a mean would have a third of the difference.
    assert len(WORDS["n_bias"][0]) > 1


def test_outputs_leave_out_unusable_prompts_and_need_the_final_residual():
    given = inputs()
    prompts = [replace(p, usable=p.id != 3) for p in given.prompts["code"]]
    found = outputs(replace(given, prompts={**given.prompts, "code": prompts}), "code")
    assert set(found) == {p.id for p in prompts} - {3}
    dump = given.dumps["code"]
    short = replace(dump, resid={0: dump.resid[0]})
    with pytest.raises(ValueError, match="not the final residual"):
        outputs(replace(given, dumps={"code": short}), "code")


def test_outputs_are_those_of_the_model_itself():
    """On a real network: the dumped final residual answers as a full pass does."""
    import torch
    from lm_models import RELATIVE, directory, model
    from lm_models import prompts as token_ids
    from transformers import AutoModelForCausalLM

    from bearings.stages.dumps import dump, load_dump
    from bearings.stages.prompts import Prompt

    made = [
        Prompt(i, "names", "", tuple(ids), 1, {"end": (len(ids) - 1,)}, (4, 9), (7, 30), extra={})
        for i, ids in enumerate(token_ids())
    ]
    found = load_dump(pa.concat_tables(list(dump(model("gpt_neo"), made, ("end",), 64))))
    given = replace(inputs(), prompts={"names": made}, dumps={"names": found}, model=model("gpt_neo"))
    network = AutoModelForCausalLM.from_pretrained(directory("gpt_neo"), attn_implementation="eager").eval()
    answers = outputs(given, "names")
    with torch.no_grad():
        for p in made:
            logits = network(torch.tensor([p.ids])).logits[0, -1]
            want = float(logits[[4, 9]].sum() - logits[[7, 30]].sum())
            # Four logits are added, each off by some roundings of the largest.
            assert answers[p.id] == pytest.approx(want, abs=8 * RELATIVE * float(logits.abs().max()))


def test_every_row_is_a_unit_feature_on_the_raw_residual():
    rows, given = table(), inputs()
    one = rows[(rows["feature"] == f"head.{AT[0]}.{AT[1]}") & (rows["set"] == "names")]
    for row in one.iloc[::31].itertuples():
        x = given.dumps["names"].at(row.position, [row.prompt], AT[0])[0].astype(float)
        v = planted(next(p for p in given.prompts["names"] if p.id == row.prompt).extra["observable"])
        assert row.score == pytest.approx(x @ v, abs=1e-5)
        assert row.layer == AT[0]
    # The reading feature is the same head's, found by the two prompts, whatever its length.
    same = rows.pivot_table(index=["set", "prompt", "position"], columns="feature", values="score")
    both = same[["reading", f"head.{AT[0]}.{AT[1]}"]].dropna()
    np.testing.assert_allclose(both.iloc[:, 0], both.iloc[:, 1], atol=1e-5)


def test_the_table_has_every_feature_once_per_prompt_and_position():
    rows = table()
    assert not rows.duplicated(["set", "task", "prompt", "feature", "position"]).any()
    subj = rows[(rows["task"] == "subj") & (rows["position"] == "name")]
    heads = {f for f in subj["feature"].unique() if f.startswith("head.")}
    assert len(heads) == LAYERS * 2
    assert sum(f.startswith("random.") for f in subj["feature"].unique()) == 20
    assert {"path.n_subj.head", "path.n_subj.path2", f"control.{AT[0]}.{AT[1]}"} <= set(subj["feature"])
    assert set(rows[rows["position"] == "bos"]["feature"]) == {"reading"}
    assert subj[subj["feature"] == "path.n_subj.path2"]["layer"].unique().tolist() == [1]


def test_the_control_is_the_control_observable_s_feature_at_the_same_head():
    rows, given = table(), inputs()
    name = f"control.{AT[0]}.{AT[1]}"
    one = rows[(rows["feature"] == name) & (rows["set"] == "code")]
    x = given.dumps["code"].at("tokens.mean", one["prompt"].tolist(), AT[0]).astype(float)
    v = given.directions["heads"][f"control/{AT[0]}"][AT[1]].astype(float)
    np.testing.assert_allclose(one["score"], x @ v / np.linalg.norm(v), atol=1e-6)


def test_heads_can_be_listed():
    rows = scores(inputs(heads=[[0, 1]])).to_pandas()
    assert {f for f in rows["feature"] if f.startswith("head.")} == {"head.0.1"}


def test_the_settings_name_the_path_to_read_at():
    given = inputs(reading_paths=["n_subj.path2"])
    assert reading(given, "subj", "n_subj").layer == 1
    assert reading(given, "party", "party").layer == AT[0]
    given = inputs(reading={"pronoun": "n_subj.path2"})
    assert reading(given, "pronoun", "n_subj").name == "path.n_subj.path2"
    bare = replace(given, directions={**given.directions, "paths": {}})
    assert reading(bare, "pronoun", "n_subj") is None


def test_without_a_path_there_are_still_heads_and_random_vectors():
    given = inputs()
    rows = scores(replace(given, directions={**given.directions, "paths": {}})).to_pandas()
    features = set(rows["feature"])
    assert "reading" not in features
    assert {f"head.{AT[0]}.{AT[1]}", "random.0"} <= features
    found = measure(rows, OPTIONS)
    assert found["scores.subj.reading.r2"].value is None
    assert found["scores.subj.best_head.r2"].value is not None


def test_people_with_one_name_are_one_cluster():
    who = dict(zip((p.extra["person"] for p in politicians()), clusters(politicians()), strict=True))
    assert who["person 1 0 III"] == "person 1 0"
    # "person 1 1" does not swallow "person 1 10".
    assert who["person 1 10"] == "person 1 10"
    assert len(set(clusters(code()))) == 20


def test_auc_is_scikit_learn_s_and_r_numpy_s():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, (3, 40)).astype(float), rng.integers(0, 2, 40).astype(float)
    np.testing.assert_allclose(auc(x, y), [roc_auc_score(y, row) for row in x], atol=1e-12)
    np.testing.assert_allclose(r(x, y), [np.corrcoef(row, y)[0, 1] for row in x], atol=1e-12)
    assert np.isnan(auc(x[0], np.ones(40)))


def test_the_planted_head_is_found_and_explains_everything():
    found = measured()
    for task in ("subj", "obj", "occ", "party"):
        assert found[f"scores.{task}.reading.r2"].value == pytest.approx(1, abs=1e-5)
        assert found[f"scores.{task}.reading.r"].value > 0
        e = found[f"scores.{task}.best_head.r2"]
        assert e.value == pytest.approx(1, abs=1e-5)
        assert f"head.{AT[0]}.{AT[1]}" in e.reason
        assert found[f"scores.{task}.random.r2"].value < found[f"scores.{task}.random.r2.q95"].value < 0.8
        # The answer is twice the score.
        assert found[f"scores.{task}.reading.slope"].value == pytest.approx(2, abs=1e-4)
    # Two classes 4 apart with noise of width 1: AUC = Phi(4 / sqrt 2) = 0.998.
    assert found["scores.code1.reading.auc"].value > 0.97
    assert found["scores.code1.best_head.auc"].value > 0.95
    assert 0.3 < found["scores.code1.random.auc"].value < 0.7


def test_a_turned_feature_keeps_r2_and_loses_its_sign():
    given = inputs()
    paths = {k: -v for k, v in given.directions["paths"].items()}
    found = measure(
        scores(replace(given, directions={**given.directions, "paths": paths})).to_pandas(), OPTIONS
    )
    assert found["scores.subj.reading.r2"].value == pytest.approx(1, abs=1e-5)
    assert found["scores.subj.reading.r"].value == pytest.approx(-1, abs=1e-5)
    assert found["scores.code1.reading.auc"].value < 0.03


def test_bos_says_nothing_and_the_reason_says_why():
    e = measured()["scores.subj.bos.r2"]
    assert e.value is None
    assert "constant" in e.reason


def test_the_gate_is_the_mean_answer_by_gender():
    rows = table()
    one = rows[(rows["task"] == "subj") & (rows["feature"] == "reading") & (rows["position"] == "name")]
    found = measured()
    for gender, label in (("female", 1), ("male", 0)):
        want = one[one["label"] == label]["output"].mean()
        assert found[f"scores.subj.logit_difference.{gender}"].value == pytest.approx(want)
    assert found["scores.subj.logit_difference.female"].value > 3
    assert found["scores.subj.logit_difference.male"].value < -3
    hits = ((one["output"] > 0) == (one["label"] == 1)).mean()
    assert found["scores.subj.accuracy"].value == pytest.approx(hits)


@pytest.mark.parametrize("left_out", ["mixed", "template2"])
def test_subsets_leave_out_mixed_names_and_the_gendered_template(left_out):
    """Where those prompts' answers are noise, only leaving them out finds the line."""
    rows = table()[table()["set"] == "names"]
    mask = rows["mixed"] if left_out == "mixed" else rows["template"] == 2
    noisy = rows.loc[mask, "prompt"].unique()
    wrong = dict(zip(noisy, 30 * np.random.default_rng(1).standard_normal(len(noisy)), strict=True))
    found = measure(rows.assign(output=rows["prompt"].map(wrong).where(mask, rows["output"])), OPTIONS)
    for feature in ("reading", "best_head"):
        assert found[f"scores.occ.{feature}.r2.without_{left_out}"].value == pytest.approx(1, abs=1e-5)
        assert found[f"scores.occ.{feature}.r2"].value < 0.8


def test_the_best_head_is_not_judged_on_what_it_was_chosen_on():
    """With noise for scores the best of many heads looks good where it is chosen, and like chance where judged."""
    rng = np.random.default_rng(2)
    n, heads = 60, 200
    rows = pd.DataFrame(
        [
            {"task": "subj", "prompt": i, "position": "name", "feature": f"head.{k}.0", "label": i % 2,
             "cluster": f"n{i}", "mixed": False, "template": 0, "bos": True}
            for i in range(n) for k in range(heads)
        ]
    )  # fmt: skip
    output = rng.standard_normal(n)
    rows["output"] = output[rows["prompt"]]
    rows["score"] = rng.standard_normal(len(rows))
    v = view(rows, "subj", "name")
    chosen_on, judged_on = (v.part(m) for m in halves(v))
    assert not set(chosen_on.about["cluster"]) & set(judged_on.about["cluster"])
    assert len(chosen_on.about) == len(judged_on.about) == n // 2
    flattering = max(r2(chosen_on.score[h].to_numpy(), chosen_on.about["output"].to_numpy()) for h in v.score)
    honest = best_head("subj", v, r2, "r2", OPTIONS, "output").value
    assert flattering > 0.2
    # r^2 of noise over 30 rows exceeds 0.2 in about one case of a hundred.
    assert honest < 0.2


def test_halves_keep_a_name_s_prompts_together():
    v = view(table(), "subj", "name")
    first, second = halves(v)
    assert not set(v.about["cluster"][first]) & set(v.about["cluster"][second])
    assert v.about["label"][first].mean() == 0.5


def test_what_has_no_rows_is_missing_with_a_reason():
    found = measure(table().iloc[:0], OPTIONS)
    assert set(found) <= set(measured())
    assert all(e.value is None and e.reason for e in found.values())
