"""The study's experiments end to end on a tiny random model, said to know its relations; and one that knows none."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from lm_models import N_CTX, N_LAYERS, model
from lrc_models import SETTINGS, claimed, fit_all, inputs, prompt, relations, run_dump

from bearings.stages.inputs import Inputs
from bearings.studies.lrc import classify, faithful, steer
from bearings.studies.lrc.causal import ADD, REPLACE, Edit, answer_log_probability
from bearings.studies.lrc.common import answers, edits, tasks
from bearings.studies.lrc.intervene import NEEDS_MODEL, intervene
from bearings.studies.lrc.maps import read_layer, swept

FAMILY = "gpt_neox"
SCHEMAS = {
    "filter": classify.FILTER,
    "classify": classify.CLASSIFY,
    "edit": steer.EDIT,
    "sweep": steer.EDIT,
    "faithful": faithful.SCHEMA,
}
PUBLISHED = {"lrc", "first_final", "svm", "average"}
SVM_LAYERS = [f"svm_subject{layer}" for layer in SETTINGS["subject_layers"]]
CORRECTED = PUBLISHED | {"first_mid", "transpose", "full_rank", "scrambled", "permuted"}
CORRECTED |= {"svm_fair", "logistic", "centred", "random"}
SINGLE = {"single_same", "single_other", "single_distinct"}
CONTROLS = {"reversed", "single_layer", "after", "other_relation", "substitute"}
BLOCKS = tuple(range(1, N_LAYERS + 1))
KEYS = ["variant", "seed", "relation"]


@cache
def outcomes(experiment: str) -> pd.DataFrame:
    given = inputs() if experiment in NEEDS_MODEL else replace(inputs(), model=None)
    return intervene(experiment, given).to_pandas()


def found_tasks(given: Inputs | None = None):
    given = given or inputs()
    return tasks(given.prompts, given.dumps, given.settings)


def of(rows: pd.DataFrame, t) -> pd.DataFrame:
    return rows[(rows["variant"] == t.variant) & (rows["seed"] == t.seed) & (rows["relation"] == t.relation)]


@pytest.mark.parametrize("experiment", SCHEMAS)
def test_tables_have_their_columns_and_the_tasks_rows(experiment):
    rows = outcomes(experiment)
    assert list(rows.columns) == list(SCHEMAS[experiment])
    assert not rows.isna().any().any()
    corrected_only = experiment == "sweep"
    expected = {
        (t.variant, t.seed, t.relation)
        for t in found_tasks()
        if t.variant == "corrected" or not corrected_only
    }
    assert set(map(tuple, rows[KEYS].drop_duplicates().to_numpy())) == expected
    assert intervene(experiment, inputs()).equals(
        pa.Table.from_pandas(rows, SCHEMA[experiment], preserve_index=False)
    )


SCHEMA = {name: pa.schema(columns) for name, columns in SCHEMAS.items()}


@pytest.mark.parametrize("experiment", SCHEMAS)
def test_a_model_that_knows_nothing_gives_empty_tables(experiment):
    given = inputs(known=False)
    assert given.directions == {method: {} for method in given.directions}
    table = intervene(experiment, given)
    assert table.schema.equals(SCHEMA[experiment])
    if experiment == "filter":
        rows = table.to_pandas()
        assert len(rows) == len(outcomes("filter"))
        assert not rows["known"].any()
        assert not rows["used"].any()
    else:
        assert table.num_rows == 0


def test_filter_tells_for_every_prompt_whether_it_is_known_and_used():
    prompts = relations((42, 43))
    # Unknown: two train prompts, all test prompts of `kin`, and all train prompts of one object of `tool`.
    lost = {p.id for p in prompts["train"] if p.extra["object"] == "tool object 1"}
    unknown = {
        "train": {0, 1} | lost,
        "test": {p.id for p in prompts["test"] if p.extra["relation"] == "kin"},
    }
    dumps = {name: claimed(run_dump(FAMILY, mine), mine, unknown[name]) for name, mine in prompts.items()}
    rows = intervene("filter", Inputs(prompts, dumps, {}, SETTINGS, 0)).to_pandas()
    seen = Counter()
    for row in rows.itertuples():
        p = prompts[row.set][row.prompt]
        seen[row.set, row.prompt] += 1
        assert row.variant in (p.extra["variant"], "published", "corrected")
        assert row.seed in p.extra["seeds"]
        assert (row.subject, row.object, row.relation) == tuple(
            p.extra[k] for k in ("subject", "object", "relation")
        )
        known = p.id not in unknown[row.set]
        assert row.known == known
        assert row.used == (known and row.relation != "kin" and p.extra["object"] != "tool object 1")
    for name, mine in prompts.items():
        for p in mine:
            variants = 2 if p.extra["variant"] == "both" else 1
            assert seen[name, p.id] == variants * len(p.extra["seeds"])


def test_classify_has_one_guess_per_task_method_and_prompt():
    rows = outcomes("classify")
    for t in found_tasks():
        mine = of(rows, t)
        methods = {"majority"} | PUBLISHED
        if t.variant == "corrected":
            methods |= (
                CORRECTED
                | set(swept(SETTINGS))
                | set(SVM_LAYERS)
                | (SINGLE if len(t.objects) <= 3 else set())
            )
        assert set(mine["method"]) == methods
        for method, part in mine.groupby("method"):
            assert part["prompt"].tolist() == [p.id for p in t.test], method
            assert part["object"].tolist() == [t.objects.index(p.extra["object"]) for p in t.test]
        assert (mine["right"] == (mine["guess"] == mine["object"])).all()
        assert (mine["n_objects"] == len(t.objects)).all()
        assert (mine["n_train"] == len(t.train)).all()


def test_guesses_are_the_concept_with_the_largest_score_at_its_own_layer():
    rows, dump = outcomes("classify"), inputs().dumps["test"]
    files = {m: file for file, names in classify.FILES.items() for m in names}
    files |= dict.fromkeys(SVM_LAYERS, "probes")
    assert read_layer("svm_subject1", SETTINGS) == 1 != SETTINGS["subject_layer"]
    assert read_layer("subject1", SETTINGS) == 1 != SETTINGS["subject_layer"]
    for t in found_tasks():
        mine = of(rows, t)
        for method, part in mine[mine["method"] != "majority"].groupby("method"):
            vectors = inputs().directions[files.get(method, "lrc")]
            v = vectors[f"{t.key}/{method}"]
            bias = vectors.get(f"{t.key}/{method}/bias", np.zeros(len(v)))
            layer = read_layer(method, SETTINGS)
            for p, guess in zip(t.test, part["guess"], strict=True):
                (row,) = dump.rows[p.id, "subject"]
                scores = [float(dump.resid[layer][row] @ v[i] + bias[i]) for i in range(len(v))]
                assert guess == int(np.argmax(scores)), method


def test_the_majority_is_of_train_prompts_and_ties_go_to_the_first():
    prompts = relations(names=["tool"])
    for lost, expected in (((), 0), (("tool object 0",), 1)):
        gone = {p.id for o in lost for p in prompts["train"] if p.extra["object"] == o}
        # One prompt of the object is left, so that it still has a concept.
        gone -= {max(gone), max(gone) - 1} if gone else set()
        dumps = {n: claimed(run_dump(FAMILY, m), m, gone if n == "train" else ()) for n, m in prompts.items()}
        directions = {file: {} for file in classify.FILES}
        rows = intervene("classify", Inputs(prompts, dumps, directions, SETTINGS, 0)).to_pandas()
        (t, *_) = tasks(prompts, dumps, SETTINGS)
        assert set(rows["method"]) == {"majority"}
        assert {t.objects[g] for g in rows["guess"]} == {f"tool object {expected}"}


def rows_of_edits(t, stage: str) -> Counter:
    """(prompt, source, target) of the edits of a task, by `edits` itself."""
    pairs = edits(t, t.test if stage == "test" else t.train)
    return Counter((p.prompt.id, p.source, p.target) for p in pairs)


def test_every_method_does_the_same_edits_at_the_strengths_of_its_variant():
    rows = outcomes("edit")
    best = steer.tuned(rows)
    for t in found_tasks():
        mine = of(rows, t)
        corrected = t.variant == "corrected"
        assert set(mine["stage"]) == ({"train", "test"} if corrected else {"test"})
        assert set(mine["method"]) == (CORRECTED | CONTROLS if corrected else PUBLISHED)
        for (method, stage), part in mine.groupby(["method", "stage"]):
            tested = stage == "test"
            curve = set(SETTINGS["betas"]) if corrected else {SETTINGS["published_beta"]}
            if method == "lrc" and tested:
                curve |= {0.0}
            if method == "substitute":
                curve = {0.0}
            elif tested and corrected and method not in steer.CURVES:
                own = method if method in CORRECTED - {"random"} else "lrc"
                curve = {best[t.seed, own]}
            assert set(part["beta"]) == curve, method
            for _, one in part.groupby("beta"):
                done = Counter(zip(one["prompt"], one["source"], one["target"], strict=True))
                expected = rows_of_edits(t, stage)
                if stage == "train":
                    assert not done - expected
                    assert set(Counter(one["source"]).values()) == {SETTINGS["tune_edits"]}
                elif method != "after":
                    assert done == expected, method
                else:
                    # A subject that ends its prompt has nothing behind it.
                    assert {p for p, _, _ in done} == {
                        p.id for p in t.test if p.at("subject") == 3 and p.id in {k[0] for k in expected}
                    }


def edit_of(t, row, vector, beta: float, layers=BLOCKS, offset: int = 0, how: str = ADD) -> list[Edit]:
    p = inputs().prompts["train" if row.stage == "train" else "test"][row.prompt]
    said = answers(t)
    head = p.ids[: p.positions["object"][0] + 1]
    return [
        Edit(head, p.at("subject") + offset, said[o], vector, beta, layers, how)
        for o in (row.source, row.target)
    ]


def test_probabilities_are_those_of_the_edit_that_the_method_names():
    rows, concepts = outcomes("edit"), inputs().directions
    files = {m: file for file, names in classify.FILES.items() for m in names}
    runs, expected = [], []
    for t in found_tasks():
        lrc = concepts["lrc"][f"{t.key}/lrc"]
        mine = of(rows, t)
        for method, part in mine.groupby("method"):
            for row in part.iloc[:: max(1, len(part) // 3)].itertuples():
                if method in ("substitute", "other_relation"):
                    continue
                v = lrc if method in CONTROLS else concepts[files[method]][f"{t.key}/{method}"]
                along = v[row.target] - v[row.source]
                # A reversed edit is one of negative strength.
                beta = -row.beta if method == "reversed" else row.beta
                layers = (SETTINGS["subject_layer"],) if method == "single_layer" else BLOCKS
                runs += edit_of(t, row, along, beta, layers, int(method == "after"))
                expected += [row.logp_source, row.logp_target]
    found = answer_log_probability(model(FAMILY), runs, 10_000)
    assert len(runs) > 300
    # The same sums in rectangles of other shapes.
    assert np.abs(found - expected).max() < 1e-4
    assert (rows["success"] == (rows["logp_target"] > rows["logp_source"] + steer.TIE)).all()
    assert rows["success"].any()
    assert not rows["success"].all()


def test_substituting_puts_a_subject_of_the_target_object_in_place():
    rows = outcomes("edit")
    layer, dump = SETTINGS["subject_layer"], inputs().dumps["test"]
    for t in (t for t in found_tasks() if t.variant == "corrected"):
        for row in of(rows, t)[lambda r: r["method"] == "substitute"].itertuples():
            donors = [p for p in t.test if t.objects.index(p.extra["object"]) == row.target]
            each = [
                answer_log_probability(model(FAMILY), edit_of(t, row, h, 0.0, (layer,), how=REPLACE), 10_000)
                for h in (dump.resid[layer][dump.rows[p.id, "subject"][0]] for p in donors)
            ]
            assert np.abs(np.array(each) - [row.logp_source, row.logp_target]).max(1).min() < 1e-4


def test_tuning_takes_the_smallest_strength_of_the_largest_macro_causality():
    def row(relation, beta, success, method="lrc", seed=42, stage="train", variant="corrected"):
        return locals()

    rows = [row("a", 0.1, x) for x in (1, 1, 1, 0)] + [row("b", 0.1, 0)]  # macro .375, micro .6
    rows += [row("a", 0.2, x) for x in (1, 0, 0, 0)] + [row("b", 0.2, 1)]  # macro .625, micro .4
    rows += [row("a", 0.3, x) for x in (1, 0, 0, 0)] + [row("b", 0.3, 1)]  # the same
    rows += [
        row("a", 0.3, 1, stage="test"),
        row("b", 0.1, 1, stage="test"),
        row("b", 0.1, 1, variant="published"),
    ]
    rows += [row("a", 0.3, 1, "svm", 43), row("a", 0.1, 0, "svm", 43)]
    assert steer.tuned(pd.DataFrame(rows)) == {(42, "lrc"): 0.2, (43, "svm"): 0.3}
    assert steer.tuned(intervene("edit", inputs(known=False)).to_pandas()) == {}


def test_sweeps_are_done_at_the_strength_tuned_for_lrc():
    rows, best = outcomes("sweep"), steer.tuned(outcomes("edit"))
    assert set(rows["variant"]) == {"corrected"}
    assert set(rows["stage"]) == {"test"}
    for t in (t for t in found_tasks() if t.variant == "corrected"):
        mine = of(rows, t)
        assert set(mine["beta"]) == {best[t.seed, "lrc"]}
        assert set(mine["method"]) == set(swept(SETTINGS)) | (SINGLE if len(t.objects) <= 3 else set())
        for method, part in mine.groupby("method"):
            done = Counter(zip(part["prompt"], part["source"], part["target"], strict=True))
            assert done == rows_of_edits(t, "test")
            v = inputs().directions["lre" if method in SINGLE else "lrc"][f"{t.key}/{method}"]
            row = next(part.itertuples())
            runs = edit_of(t, row, v[row.target] - v[row.source], row.beta)
            found = answer_log_probability(model(FAMILY), runs, 10_000)
            assert np.abs(found - [row.logp_source, row.logp_target]).max() < 1e-4


def test_edits_that_do_not_fit_the_context_are_left_out():
    """A prompt that fills the context with its own answer has no room for a longer one."""
    made: dict[str, list] = {"train": [], "test": []}
    for name, mine in made.items():
        for i in range(8):
            # Of an answer of three tokens two are read: the first prompt is one too long for it, the second is not.
            head = [1, 20 + i, *[3] * {0: N_CTX - 3, 1: N_CTX - 4}.get(i, 3)]
            mine.append(prompt(i, name, head, 1, [6, 7, 8] if i in (3, 5, 7) else [5]))
    dumps = {name: claimed(run_dump(FAMILY, mine), mine) for name, mine in made.items()}
    settings = {**SETTINGS, "ranks": [], "object_layers": [], "subject_layers": [], "sample_counts": []}
    given = Inputs(made, dumps, fit_all(made, dumps, settings, FAMILY), settings, 0, model(FAMILY))
    rows = intervene("edit", given).to_pandas()
    done = rows[(rows["variant"] == "corrected") & (rows["stage"] == "test")]
    assert set(done["prompt"]) == set(range(1, 8))
