"""Batches, dumps, inputs and outcome tables: prompts go through a model and come back in their own order."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from sentiment_models import D_MODEL, N_LAYERS, world_dump, world_inputs, world_model, world_prompts

from bearings.lm.forward import forward, pad
from bearings.stages.batch import in_batches, logit_difference, make_batch
from bearings.stages.dumps import dump, dump_schema, load_dump
from bearings.stages.inputs import Outcomes
from bearings.stages.prompts import Prompt

# Batches of another width pad differently: the same sums in another order, see lm_models.RELATIVE.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def some() -> list[Prompt]:
    """Usable reviews of different lengths."""
    return [p for p in world_prompts()["reviews"] if p.usable and p.extra["scaffold"] == "classification"][:9]


def test_positions_move_with_the_padding():
    prompts = some()
    assert len({len(p.ids) for p in prompts}) > 1
    batch = make_batch(world_model(), prompts, width=60)
    ids = batch.prepared.tokens.ids
    assert ids.shape == (9, 60)
    assert torch.equal(batch.rows, torch.full((9,), 59))
    for i, p in enumerate(prompts):
        assert ids[i, batch.mask[i]].tolist() == list(p.ids)
        for name in ("comma", "period", "sentence", "polar"):
            found = ids[i, batch.at(name)[i]].tolist()
            assert found == [p.ids[at] for at in p.positions.get(name, ())]
        assert ids[i, batch.index("period")[i]] == p.ids[p.at("period")]
    both = batch.at("comma", "period")
    assert torch.equal(both, batch.at("comma") | batch.at("period"))
    assert not batch.at("nowhere").any()


def test_width_never_cuts():
    prompts = some()
    longest = max(len(p.ids) for p in prompts)
    assert make_batch(world_model(), prompts, width=5).mask.shape[1] == longest
    assert make_batch(world_model(), prompts).mask.shape[1] == longest


def test_index_of_a_missing_position():
    lacking = [p for p in some() if "comma" not in p.positions]
    assert lacking
    with pytest.raises(KeyError):
        make_batch(world_model(), lacking).index("comma")


def test_columns_and_signs():
    batch = make_batch(world_model(), some())
    for i, p in enumerate(batch.prompts):
        assert batch.columns[i].tolist() == [*p.positive, *p.negative]
        assert batch.sign[i] == (1 if p.label else -1)
    assert set(batch.sign.tolist()) == {1, -1}


def test_logit_difference_is_the_mean_over_aligned_pairs():
    logits = torch.tensor([[1.0, 5.0, 0.0, 2.0], [0.0, 0.0, 1.0, 1.0]])
    assert logit_difference(logits).tolist() == [2.0, -1.0]


def test_batches_cover_every_prompt_once_and_agree_with_single_runs():
    prompts = some()
    model = world_model()
    seen: dict[int, float] = {}
    for group, batch in in_batches(model, prompts, 64):
        assert [p.id for p in batch.prompts] == [prompts[i].id for i in group]
        assert batch.mask.numel() <= 64 or len(group) == 1
        logits = forward(model, batch.prepared, rows=batch.rows, columns=batch.columns).logits
        seen |= dict(zip(group, (logit_difference(logits) * batch.sign).tolist(), strict=True))
    assert sorted(seen) == list(range(9))
    for i, p in enumerate(prompts):
        logits = forward(model, pad([list(p.ids)], 0), rows="all").logits[0, -1]
        single = (logits[list(p.positive)] - logits[list(p.negative)]).mean() * p.sign
        assert seen[i] == pytest.approx(single.item(), rel=1e-3, abs=1e-4)


def test_dump_holds_the_residual_of_each_position():
    prompts = [p for p in world_prompts()["toy"] if p.usable]
    found = world_dump()
    assert found.layers == list(range(N_LAYERS + 1))
    assert all(x.shape == (5 * len(prompts), D_MODEL) for x in found.resid.values())
    for p in prompts[:3] + prompts[-2:]:
        resid = forward(world_model(), pad([list(p.ids)], 0), keep=range(N_LAYERS + 1)).resid
        for layer in found.layers:
            for name in ("adj", "end"):
                theirs = resid[layer][0, p.at(name)].numpy()
                np.testing.assert_allclose(found.at(name, [p.id], layer)[0], theirs, **CLOSE)


def test_dump_gives_prompts_in_the_order_asked_for():
    ids = [p.id for p in world_prompts()["toy"] if p.usable][:4]
    found = world_dump()
    there = found.at("adj", ids, 1)
    assert np.array_equal(found.at("adj", ids[::-1], 1), there[::-1])
    with pytest.raises(KeyError):
        found.at("adj", [10_000], 1)


def test_positions_of_several_tokens_are_rows_of_their_own():
    prompts = [p for p in some() if len(p.positions.get("comma", ())) > 1][:2]
    assert prompts
    table = pa.concat_tables(dump(world_model(), prompts, ("comma",), 4096))
    assert table["position"].to_pylist() == [at for p in prompts for at in p.positions["comma"]]
    assert set(table["token"].to_pylist()) == {prompts[0].ids[prompts[0].at("comma")]}
    # Asked for one residual, a position of several tokens gives its last.
    last = load_dump(table).at("comma", [prompts[0].id], 0)[0]
    theirs = np.stack(load_dump(table).resid[0])[len(prompts[0].positions["comma"]) - 1]
    assert np.array_equal(last, theirs)


def test_dump_holds_what_the_model_predicts():
    prompts = [p for p in some() if len(p.positions.get("comma", ())) > 1][:3]
    found = load_dump(pa.concat_tables(dump(world_model(), prompts, ("comma",), 4096, predict=True)))
    for p in prompts:
        logits = forward(world_model(), pad([list(p.ids)], 0), rows="all").logits[0]
        theirs = logits[list(p.positions["comma"])].argmax(-1).tolist()
        assert found.predicted[found.rows[p.id, "comma"]].tolist() == theirs
    one = prompts[0].id
    mean = found.resid[1][found.rows[one, "comma"]].mean(0)
    np.testing.assert_allclose(found.mean_at("comma", [one], 1)[0], mean, **CLOSE)


def test_mean_over_a_position_is_one_row_per_prompt():
    """The mean is that of the position's own rows, whatever else is dumped and however wide the batch is."""
    prompts = some()
    assert {len(p.positions.get("comma", ())) for p in prompts} >= {0, 1, 3}
    model = world_model()
    names = ("end", "comma.mean", "comma", "sentence.mean")
    table = pa.concat_tables(dump(model, prompts, names, 4096))
    found, narrow = load_dump(table), load_dump(pa.concat_tables(dump(model, prompts, names, 40)))
    plain = load_dump(pa.concat_tables(dump(model, prompts, ("comma", "sentence"), 4096)))
    for p in prompts:
        for name in ("comma", "sentence"):
            rows = found.rows.get((p.id, f"{name}.mean"), [])
            assert len(rows) == (1 if p.positions.get(name) else 0)
            for layer in found.layers if rows else ():
                mean = plain.mean_at(name, [p.id], layer)
                np.testing.assert_allclose(found.at(f"{name}.mean", [p.id], layer), mean, **CLOSE)
                np.testing.assert_allclose(narrow.at(f"{name}.mean", [p.id], layer), mean, **CLOSE)
        if len(p.positions.get("comma", ())) == 1:
            one = found.at("comma", [p.id], 2)
            assert np.array_equal(found.at("comma.mean", [p.id], 2), one)
    means = np.array([name.endswith(".mean") for name in found.name])
    for column in ("position", "token"):
        values = np.asarray(table[column])
        assert (values[means] == -1).all()
        assert (values[~means] >= 0).all()
    # Beside a mean the other rows are what they are without one.
    assert np.array_equal(found.resid[1][found.name == "comma"], plain.resid[1][plain.name == "comma"])


def test_a_mean_predicts_nothing():
    prompts = [p for p in some() if p.positions.get("comma")][:3]
    names = ("comma.mean", "comma")
    found = load_dump(pa.concat_tables(dump(world_model(), prompts, names, 4096, predict=True)))
    alone = load_dump(pa.concat_tables(dump(world_model(), prompts, ("comma",), 4096, predict=True)))
    assert (found.predicted[found.name == "comma.mean"] == -1).all()
    assert np.array_equal(found.predicted[found.name == "comma"], alone.predicted)


def test_mean_of_nothing():
    assert list(dump(world_model(), some()[:2], ("nowhere.mean",), 64)) == []


def test_dump_of_nothing():
    assert list(dump(world_model(), [], ("adj",), 64)) == []
    assert list(dump(world_model(), some()[:2], ("nowhere",), 64)) == []
    empty = load_dump(dump_schema(2, 8).empty_table())
    assert empty.layers == [0, 1, 2]
    assert empty.resid[0].shape == (0, 8)


def test_layers_of_the_settings():
    assert world_inputs(model=False).layers == [0, 1, 2, 3]
    assert world_inputs(model=False, layers=[2, 0]).layers == [0, 2]


SCHEMA = {"prompt": pa.int32(), "name": pa.string(), "ld": pa.float32(), "note": pa.string()}


def test_outcomes_repeat_scalars_beside_columns():
    out = Outcomes(SCHEMA)
    out.add(prompt=[1, 2], name="a", ld=torch.tensor([0.5, 1.5]), note=None)
    out.add(prompt=3, name="b", ld=np.float32(2), note="x")
    assert out.table().to_pylist() == [
        {"prompt": 1, "name": "a", "ld": 0.5, "note": None},
        {"prompt": 2, "name": "a", "ld": 1.5, "note": None},
        {"prompt": 3, "name": "b", "ld": 2.0, "note": "x"},
    ]


def test_outcomes_refuse_what_does_not_fit():
    out = Outcomes(SCHEMA)
    with pytest.raises(ValueError, match="different lengths"):
        out.add(prompt=[1, 2], name="a", ld=[1.0, 2.0, 3.0], note=None)
    with pytest.raises(ValueError, match="are not"):
        out.add(prompt=[1], name="a", ld=[1.0])
    assert Outcomes(SCHEMA).table().num_rows == 0


def test_files_come_back_by_name_and_model(tmp_path):
    from bearings.stages.prompts import to_table
    from bearings.stages.read import read_dumps, read_models, read_prompts
    from bearings.store.directions import write_directions
    from bearings.store.documents import write_json
    from bearings.store.provenance import describe
    from bearings.store.tables import write_table

    def at(*parts):
        path = tmp_path.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return str(path)

    def made(path, kind):
        return describe(path, kind, run={"scale": "test", "seed": 0}, inputs=[], settings={})

    paths: dict[str, list[str]] = {"measures": [], "interventions": [], "directions": []}
    for value, model in enumerate(("small", "small-twin")):
        path = at("measures", model, "study.json")
        write_json(path, {"m": {"value": value}}, made(path, "measures"))
        paths["measures"].append(path)
        path = at("interventions", model, "study", "patching.parquet")
        write_table(path, pa.table({"ld": pa.array([float(value)], pa.float32())}), made(path, "outcomes"))
        paths["interventions"].append(path)
        path = at("directions", model, "study", "pca.safetensors")
        write_directions(path, {"corrected/0": np.full(3, value, np.float32)}, made(path, "directions"))
        paths["directions"].append(path)
    runs = read_models(["small-twin", "small"], *paths.values())
    assert [r.name for r in runs] == ["small-twin", "small"]
    for run, value in zip(runs, (1, 0), strict=True):
        assert run.measures["m"]["value"] == value
        assert run.outcomes["patching"]["ld"].tolist() == [value]
        assert run.directions["pca"]["corrected/0"].tolist() == [value] * 3
    prompts = some()[:2]
    path = at("prompts", "study", "reviews.parquet")
    extra = {"scaffold": pa.string(), "sentence": pa.int32(), "held_out": pa.bool_()}
    write_table(path, to_table(prompts, extra), made(path, "prompts"))
    assert read_prompts([path]) == {"reviews": prompts}
    path = at("activations", "study", "reviews.parquet")
    table = pa.concat_tables(dump(world_model(), prompts, ("period",), 4096))
    write_table(path, table, made(path, "activations"))
    found = read_dumps([path])["reviews"]
    assert np.array_equal(
        found.at("period", [prompts[1].id], 2)[0], load_dump(table).at("period", [prompts[1].id], 2)[0]
    )
