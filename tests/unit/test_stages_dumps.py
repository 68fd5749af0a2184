"""Dumps are read when they are asked for, streamed without being held, and made as if row by row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sentiment_models import D_MODEL, N_LAYERS, world_model, world_prompts

import bearings.stages.read as read
from bearings.lm.forward import forward
from bearings.stages.batch import in_batches
from bearings.stages.dumps import Dump, dump, dump_schema, load_dump
from bearings.stages.inputs import Inputs
from bearings.stages.prompts import Prompt
from bearings.stages.read import Dumps, read_dumps
from bearings.store.provenance import Refused, describe
from bearings.store.tables import TableWriter, tensor_column

D, ROWS, LAYERS = 5, 50, [0, 2]


def table(rows: int = ROWS) -> pa.Table:
    """Random residuals of prompts with two positions, `a` twice and `b` once."""
    rng = np.random.default_rng(0)
    schema = dump_schema(2, D, predict=True, layers=LAYERS)
    names, places = ("a", "a", "b"), (1, 3, 4)
    plain = [
        [i // 3 for i in range(rows)],
        [names[i % 3] for i in range(rows)],
        [places[i % 3] for i in range(rows)],
        [9] * rows,
        list(range(rows)),
    ]
    columns = [pa.array(c, f.type) for c, f in zip(plain, schema, strict=False)]
    tensors = [tensor_column(rng.normal(size=(rows, D)).astype(np.float32)) for _ in LAYERS]
    return pa.Table.from_arrays([*columns, *tensors], schema=schema)


def write(folder: Path, name: str, content: pa.Table, rows_per_group: int = 16) -> Path:
    path = folder / f"activations/study/{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    made = describe(path, "activations", run={"scale": "test", "seed": 0}, inputs=[], settings={})
    with TableWriter(path, content.schema, made, rows_per_group) as writer:
        writer.write(content)
    return path


@pytest.fixture
def counted(monkeypatch) -> list[str]:
    """Names of the files that are read whole."""
    seen: list[str] = []
    whole = read.read_table

    def counting(path, *arguments, **named):
        seen.append(Path(path).stem)
        return whole(path, *arguments, **named)

    monkeypatch.setattr(read, "read_table", counting)
    return seen


def test_a_file_is_read_when_it_is_asked_for_and_once(tmp_path, counted) -> None:
    dumps = read_dumps([str(write(tmp_path, name, table())) for name in ("one", "two")])
    assert list(dumps) == ["one", "two"]
    assert len(dumps) == 2
    assert "two" in dumps
    assert "three" not in dumps
    assert dumps.layers("two") == LAYERS
    assert dumps.width("two") == D
    assert counted == []
    first = dumps["two"]
    assert dumps["two"] is first
    assert counted == ["two"]
    assert [d.layers for d in dumps.values()] == [LAYERS, LAYERS]
    assert counted == ["two", "one"]
    with pytest.raises(KeyError):
        dumps["three"]


def test_layers_of_a_study_need_no_reading(tmp_path, counted) -> None:
    dumps = read_dumps([str(write(tmp_path, "one", table()))])
    for layers, expected in (("all", LAYERS), ([2], [2])):
        assert Inputs({}, dumps, {}, {"layers": layers}, 0).layers == expected
        assert Inputs({}, {"one": load_dump(table())}, {}, {"layers": layers}, 0).layers == expected
    assert counted == []


def test_a_damaged_file_is_refused_when_it_is_read(tmp_path) -> None:
    path = write(tmp_path, "one", table())
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 1
    path.write_bytes(data)
    dumps = read_dumps([str(path), str(write(tmp_path, "two", table()))])
    assert len(dumps["two"].prompt) == ROWS
    with pytest.raises(Refused, match=r"one\.parquet"):
        dumps["one"]
    with pytest.raises(Refused, match=r"one\.parquet"):
        list(dumps.stream("one", 7))


def same(found: Dump, expected: Dump, rows: slice) -> None:
    for field in ("prompt", "name", "position", "predicted"):
        assert np.array_equal(getattr(found, field), getattr(expected, field)[rows]), field
    assert found.layers == expected.layers
    for layer in expected.layers:
        assert np.array_equal(found.resid[layer], expected.resid[layer][rows])


@pytest.mark.parametrize("rows", [1, 7, 16, 1000])
@pytest.mark.parametrize("rows_per_group", [4, 33])
def test_pieces_of_a_stream_are_the_file(tmp_path, counted, rows, rows_per_group) -> None:
    whole = load_dump(table())
    dumps = read_dumps([str(write(tmp_path, "one", table(), rows_per_group))])
    start = 0
    for piece in dumps.stream("one", rows):
        n = len(piece.prompt)
        assert 0 < n <= rows
        same(piece, whole, slice(start, start + n))
        start += n
    assert start == ROWS
    assert counted == []


def test_a_stream_of_some_layers(tmp_path) -> None:
    dumps = read_dumps([str(write(tmp_path, "one", table()))])
    whole = load_dump(table())
    pieces = list(dumps.stream("one", 20, layers=[2]))
    assert {tuple(p.layers) for p in pieces} == {(2,)}
    assert np.array_equal(np.concatenate([p.resid[2] for p in pieces]), whole.resid[2])
    bare = list(dumps.stream("one", 20, layers=()))
    assert {tuple(p.layers) for p in bare} == {()}
    assert np.array_equal(np.concatenate([p.position for p in bare]), whole.position)
    with pytest.raises(Refused, match="resid.1"):
        list(dumps.stream("one", layers=[1]))


def test_some_layers_of_a_set_are_not_kept(tmp_path) -> None:
    dumps = read_dumps([str(write(tmp_path, "one", table()))])
    found, whole = dumps.only("one", [2]), load_dump(table())
    assert found.layers == [2]
    assert np.array_equal(found.resid[2], whole.resid[2])
    assert np.array_equal(found.position, whole.position)
    assert dumps["one"].layers == LAYERS


def test_an_empty_set(tmp_path) -> None:
    dumps = Dumps([str(write(tmp_path, "none", table(0)))])
    assert list(dumps.stream("none")) == []
    assert dumps.layers("none") == LAYERS
    found = dumps["none"]
    assert found.resid[2].shape == (0, D)
    assert len(found.name) == len(found.position) == 0
    assert (found.name == "a").sum() == 0


def row_by_row(model, prompts, names, max_tokens, predict, layers) -> pa.Table:
    """The plain definition of a dump: one prompt, one name, one index after the other."""
    schema = dump_schema(model.n_layers, model.info.d_model, predict, layers)
    chosen = [int(f.name.split(".")[1]) for f in schema if f.name.startswith("resid.")]
    rows = []
    for _, batch in in_batches(model, prompts, max_tokens):
        done = forward(model, batch.prepared, keep=range(model.n_layers + 1), rows="all")
        width = batch.mask.shape[1]
        for i, p in enumerate(batch.prompts):
            for name in names:
                where = p.positions.get(name.removesuffix(".mean"), ())
                shift = width - len(p.ids)
                values = {at: [done.resid[k][i, shift + at].numpy() for k in chosen] for at in where}
                if where and name.endswith(".mean"):
                    means = [
                        np.stack(v).mean(0, dtype=np.float64) for v in zip(*values.values(), strict=True)
                    ]
                    rows.append((p.id, name, -1, -1, -1, [m.astype(np.float32) for m in means]))
                elif not name.endswith(".mean"):
                    tops = done.logits[i].argmax(-1)
                    rows += [(p.id, name, at, p.ids[at], int(tops[shift + at]), values[at]) for at in where]
    plain = [pa.array([r[k] for r in rows], schema.field(k).type) for k in range(4 + predict)]
    tensors = [tensor_column(np.stack([r[5][k] for r in rows])) for k in range(len(chosen))]
    return pa.Table.from_arrays([*plain, *tensors], schema=schema)


def some() -> list[Prompt]:
    """Reviews of several lengths, with none, one or more commas; `tokens` are all of a prompt's."""
    usable = [p for p in world_prompts()["reviews"] if p.usable][:12]
    assert len({len(p.ids) for p in usable}) > 2
    assert len({len(p.positions.get("comma", ())) for p in usable}) > 2
    return [
        Prompt(
            p.id,
            p.split,
            p.text,
            p.ids,
            p.label,
            {**p.positions, "tokens": tuple(range(len(p.ids)))},
            p.positive,
            p.negative,
        )
        for p in usable
    ]


@pytest.mark.parametrize(
    "names", [("tokens",), ("end", "comma"), ("comma.mean", "tokens", "comma", "sentence.mean")]
)
@pytest.mark.parametrize("predict", [False, True])
@pytest.mark.parametrize("layers", [None, [2, 0]])
def test_a_dump_is_what_row_by_row_gives(names, predict, layers) -> None:
    """The same numbers to the last bit, in the same order: what is stored of a study must not change."""
    model, prompts = world_model(), some()
    found = pa.concat_tables(dump(model, prompts, names, 60, predict, layers))
    expected = row_by_row(model, prompts, names, 60, predict, layers)
    assert found.schema == expected.schema == dump_schema(N_LAYERS, D_MODEL, predict, layers)
    assert found.drop_columns([f for f in found.column_names if f.startswith("resid.")]).equals(
        expected.drop_columns([f for f in found.column_names if f.startswith("resid.")])
    )
    ours, theirs = load_dump(found), load_dump(expected)
    for layer in theirs.layers:
        assert np.array_equal(ours.resid[layer], theirs.resid[layer])
