"""Tables: what was written comes back, however it was cut, and nothing damaged is ever returned."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bearings.store.provenance import Provenance, Refused, content_digest, describe
from bearings.store.tables import (
    TableWriter,
    as_ndarray,
    iter_batches,
    read_table,
    tensor_column,
    tensor_field,
    write_table,
)

RUN = {"scale": "embedded", "seed": 0}


def make(n: int, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "id": pa.array(range(n), pa.int32()),
            "split": pa.array([("train", "test", None)[i % 3] for i in range(n)]),
            "ids": pa.array([list(range(i % 4)) if i % 5 else None for i in range(n)], pa.list_(pa.int32())),
            "positions": pa.array(
                [[("comma", [1, i])] if i % 3 else [] for i in range(n)],
                pa.map_(pa.string(), pa.list_(pa.int32())),
            ),
            "usable": pa.array([bool(i % 2) for i in range(n)]),
            "label": pa.array([None if i % 4 == 0 else i % 2 for i in range(n)], pa.int8()),
            "resid": tensor_column(rng.standard_normal((n, 4)).astype(np.float32)),
        }
    )


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "results/embedded/seed-0"


def write(path, table=None, kind="prompts", rows=8, inputs=()):
    write_table(
        path, make(20) if table is None else table, describe(path, kind, run=RUN, inputs=inputs), rows
    )
    return path


@given(cuts=st.lists(st.integers(0, 20), max_size=5), rows=st.integers(1, 25))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_same_bytes_however_the_batches_are_cut(folder, cuts, rows):
    whole = write(folder / "a.parquet", rows=rows).read_bytes()
    table, edges = make(20), sorted({0, 20, *cuts})
    provenance = describe(folder / "a.parquet", "prompts", run=RUN)
    with TableWriter(folder / "a.parquet", table.schema, provenance, rows) as writer:
        for start, stop in zip(edges, edges[1:], strict=False):
            writer.write(table.slice(start, stop - start))
    assert (folder / "a.parquet").read_bytes() == whole
    assert read_table(folder / "a.parquet", "prompts").equals(table)


def test_batches_and_some_columns(folder):
    path = write(folder / "a.parquet")
    batches = list(iter_batches(path, "prompts", ["resid", "id"], rows=3))
    assert max(b.num_rows for b in batches) <= 3
    back = pa.Table.from_batches(batches)
    assert back.column_names == ["resid", "id"]
    assert back.equals(make(20).select(["resid", "id"]))
    assert read_table(path, columns=["label"]).equals(make(20).select(["label"]))


def test_empty_table(folder):
    path = write(folder / "a.parquet", make(0))
    assert read_table(path).equals(make(0))
    assert as_ndarray(read_table(path)["resid"]).shape == (0, 4)


def test_tensor_comes_without_a_copy_and_as_written():
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    column = tensor_column(array)
    assert np.shares_memory(as_ndarray(column), array)
    np.testing.assert_array_equal(
        as_ndarray(pa.chunked_array([column, column])), np.concatenate([array, array])
    )
    np.testing.assert_array_equal(as_ndarray(column.slice(1)), array[1:])


def test_writer_takes_arrays_and_names_a_wrong_column(folder):
    path = folder / "a.parquet"
    schema = pa.schema([pa.field("id", pa.int32()), tensor_field("resid", [4])])
    with TableWriter(path, schema, describe(path, "dump", run=RUN), 8) as writer:
        writer.write({"id": np.arange(3), "resid": np.ones((3, 4))})
        with pytest.raises(ValueError, match="'resid'"):
            writer.write({"id": [1], "resid": np.ones((1, 5))})
        with pytest.raises(ValueError, match="'resid' is missing"):
            writer.write({"id": [1]})
    assert as_ndarray(read_table(path)["resid"]).shape == (3, 4)


def test_a_failing_job_leaves_the_old_file_and_no_other(folder):
    path = write(folder / "a.parquet")
    before = path.read_bytes()

    def job():
        with TableWriter(path, make(20).schema, describe(path, "prompts", run=RUN), 8) as writer:
            writer.write(make(20))
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        job()
    assert path.read_bytes() == before
    assert [p.name for p in folder.iterdir()] == ["a.parquet"]


def outcome(path, reader):
    try:
        return reader(path)
    except Refused as refusal:
        said = str(refusal)
    assert "\n" not in said
    assert str(path) in said
    assert said.endswith("delete it and run again")
    return None


def batches(path):
    return pa.Table.from_batches(list(iter_batches(path, "prompts")))


@pytest.mark.parametrize("reader", [lambda p: read_table(p, "prompts"), batches], ids=["whole", "batches"])
def test_every_flipped_byte_is_refused_or_harmless(folder, reader):
    path = write(folder / "a.parquet")
    good, table = path.read_bytes(), make(20)
    refused = 0
    for at in range(0, len(good), 5):
        path.write_bytes(good[:at] + bytes([good[at] ^ (1 << at % 8)]) + good[at + 1 :])
        back = outcome(path, reader)
        refused += back is None
        assert back is None or back.equals(table), f"byte {at}: other content was returned"
    # A few bytes carry nothing (the library's name, encodings' statistics); most must be found.
    assert refused > 0.5 * len(range(0, len(good), 5))


def test_truncation_is_refused(folder):
    path = write(folder / "a.parquet")
    good = path.read_bytes()
    for length in range(0, len(good), 97):
        path.write_bytes(good[:length])
        with pytest.raises(Refused):
            read_table(path)


def test_refused_kind_column_place_and_changed_input(folder):
    source = write(folder / "in.parquet")
    path = write(folder / "out.parquet", inputs=[source], kind="dump")
    assert read_table(path, "dump").num_rows == 20
    with pytest.raises(Refused, match="kind 'dump' where 'prompts'"):
        read_table(path, "prompts")
    with pytest.raises(Refused, match="no column 'logits'"):
        read_table(path, columns=["logits"])
    other = folder.parent / "seed-1/out.parquet"
    other.parent.mkdir()
    other.write_bytes(path.read_bytes())
    with pytest.raises(Refused, match="was written as results/embedded/seed-0/out.parquet"):
        read_table(other)
    write(source, make(20, seed=1))
    with pytest.raises(Refused, match="another content of embedded/seed-0/in.parquet"):
        read_table(path)
    source.unlink()
    assert read_table(path).num_rows == 20


def test_a_stripped_or_foreign_table_is_refused(folder):
    import pyarrow.parquet as pq

    path = write(folder / "a.parquet")
    pq.write_table(make(20), path)
    with pytest.raises(Refused, match="no provenance"):
        read_table(path)
    with pytest.raises(FileNotFoundError):
        read_table(folder / "none.parquet")


def test_digest_follows_content_not_provenance(folder):
    a, b = write(folder / "a.parquet"), write(folder / "b.parquet", kind="other", rows=3)
    assert content_digest(a) == content_digest(b)
    assert content_digest(write(folder / "c.parquet", make(20, seed=1))) != content_digest(a)


def test_no_results_folder_no_place_check(tmp_path):
    path = tmp_path / "a.parquet"
    write_table(path, make(3), Provenance("prompts", "elsewhere.parquet"))
    assert read_table(path).num_rows == 3
