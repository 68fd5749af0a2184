"""The pool of residuals: moments of a stream are those of the whole array, and the reservoir hangs on no cut (A8)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from bearings.stages.dumps import dump_schema
from bearings.stages.read import Dumps
from bearings.store.directions import read_directions, write_directions
from bearings.store.provenance import describe
from bearings.store.tables import TableWriter, tensor_column
from bearings.studies.sensitivity.fit import NEEDS_MODEL, Moments, factor, fit, pool

D, CONTEXT, COUNT, LAYERS = 6, 5, 40, [1, 3]
# Sums of a few hundred float64 taken in another order: some hundred roundings of 1e-16 of the largest number.
ROUNDING = 1e-12


def residuals(seed: int = 0) -> dict[int, np.ndarray]:
    """Correlated residuals [COUNT, CONTEXT, D] far from 0, and longest at position 0, as a language model's are."""
    rng = np.random.default_rng(seed)
    out = {}
    for layer in LAYERS:
        x = rng.normal(size=(COUNT, CONTEXT, D)) @ rng.normal(size=(D, D)) + 20
        x[:, 0] += 1000
        out[layer] = x.astype(np.float32)
    return out


def written(
    folder: Path, resid: dict[int, np.ndarray], rows_per_group: int = 64, ends: bool = False
) -> Dumps:
    """A dump of the set `rows`, of every token in order; with `ends` each prompt's last stands in it twice."""
    count, context, d = next(iter(resid.values())).shape
    schema = dump_schema(4, d, layers=list(resid))
    path = folder / "activations/study/rows.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    made = describe(path, "activations", run={"scale": "test", "seed": 0}, inputs=[], settings={})
    places = list(range(context)) + ([context - 1] if ends else [])
    with TableWriter(path, schema, made, rows_per_group) as writer:
        for i in range(count):
            columns = [
                [i] * len(places),
                ["tokens"] * context + ["end"] * (len(places) - context),
                places,
                [7] * len(places),
            ]
            plain = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=False)]
            tensors = [tensor_column(resid[layer][i, places]) for layer in sorted(resid)]
            writer.write(pa.Table.from_arrays([*plain, *tensors], schema=schema))
    return Dumps([str(path)])


@pytest.fixture(scope="module")
def resid() -> dict[int, np.ndarray]:
    return residuals()


@pytest.fixture(scope="module")
def dumps(tmp_path_factory, resid) -> Dumps:
    return written(tmp_path_factory.mktemp("pool"), resid)


@pytest.mark.parametrize("cut", [1, 3, 7, 50, 1000])
def test_moments_of_pieces_are_those_of_the_array(cut: int) -> None:
    x = np.random.default_rng(1).normal(size=(100, 4)) @ np.diag([1.0, 5, 0.1, 2]) + [0, 10, -3, 1e6]
    found = Moments(4)
    for start in range(0, 100, cut):
        found.add(x[start : start + cut])
        found.add(x[:0])
    assert found.n == 100
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=ROUNDING)
    # A mean of 1e6 leaves 1e-10 of a spread of 1; sums of squares without a shift would keep some 1e-4 of it.
    np.testing.assert_allclose(found.covariance, np.cov(x, rowvar=False), rtol=1e-8, atol=1e-8)


def test_pool_is_numpys_over_the_whole_array_without_position_0(dumps, resid) -> None:
    found = pool(dumps, 10, seed=0)
    assert set(found) == {
        f"{name}/{layer}" for name in ("mean", "factor", "reservoir", "norms") for layer in LAYERS
    }
    for layer in LAYERS:
        x = resid[layer][:, 1:].reshape(-1, D).astype(np.float64)
        np.testing.assert_allclose(found[f"mean/{layer}"], x.mean(0), rtol=ROUNDING)
        mine = found[f"factor/{layer}"].astype(np.float64)
        assert np.array_equal(mine, np.tril(mine))
        expected = np.cov(x, rowvar=False) + 0.01 * np.eye(D)
        # The factor is kept in float32: 6e-8 of its largest entries, twice in the product.
        assert np.abs(mine @ mine.T - expected).max() < 1e-6 * np.abs(expected).max()
        lengths = np.linalg.norm(resid[layer].astype(np.float64), axis=-1)
        expected = [lengths[:, 1:].mean(), np.median(lengths[:, 1:]), lengths.mean()]
        np.testing.assert_allclose(found[f"norms/{layer}"], expected, rtol=ROUNDING)
        assert found[f"norms/{layer}"][2] > 2 * found[f"norms/{layer}"][0]
        kinds = {name: found[f"{name}/{layer}"].dtype for name in ("mean", "factor", "reservoir", "norms")}
        assert kinds == {
            "mean": np.float64,
            "factor": np.float32,
            "reservoir": np.float32,
            "norms": np.float64,
        }


@pytest.mark.parametrize("rows", [1, 13, 64, 10_000])
@pytest.mark.parametrize("rows_per_group", [5, 77])
def test_the_cut_of_the_stream_changes_nothing(tmp_path, dumps, resid, rows, rows_per_group) -> None:
    whole = pool(dumps, 30, seed=3)
    cut = pool(written(tmp_path, resid, rows_per_group), 30, seed=3, rows=rows)
    for key, array in whole.items():
        if key.startswith("reservoir"):
            assert np.array_equal(cut[key], array), key
        else:
            # The factor in float32 may round to the neighbouring number.
            np.testing.assert_allclose(cut[key], array, rtol=1e-6 if "factor" in key else ROUNDING, atol=1e-9)


def places(reservoir: np.ndarray, x: np.ndarray) -> list[int]:
    """Which rows of x [n, d] those of the reservoir are."""
    index = {row.tobytes(): i for i, row in enumerate(x)}
    assert len(index) == len(x)
    return [index[row.tobytes()] for row in reservoir]


def test_reservoir_rows_are_of_the_pool_and_none_is_there_twice(dumps, resid) -> None:
    found = pool(dumps, 50, seed=0)
    drawn = []
    for layer in LAYERS:
        at = places(found[f"reservoir/{layer}"], resid[layer].reshape(-1, D))
        assert len(set(at)) == 50
        assert all(i % CONTEXT for i in at)
        assert at == sorted(at)
        drawn.append(at)
    assert drawn[0] == drawn[1]
    other = pool(dumps, 50, seed=1)
    assert places(other["reservoir/1"], resid[1].reshape(-1, D)) != drawn[0]
    everything = pool(dumps, 10_000, seed=0)
    assert np.array_equal(everything["reservoir/3"], resid[3][:, 1:].reshape(-1, D))


def test_every_row_is_drawn_equally_often(dumps, resid) -> None:
    """100 draws of 80 of 160 rows: each is there 50 times, with a standard deviation of 5."""
    x = resid[1].reshape(-1, D)
    counts = np.zeros(len(x))
    for seed in range(100):
        counts[places(pool(dumps, 80, seed)["reservoir/1"], x)] += 1
    inside = counts.reshape(COUNT, CONTEXT)[:, 1:]
    assert inside.sum() == 100 * 80
    # Six standard deviations: beyond chance for 160 rows.
    assert inside.min() > 50 - 6 * 5
    assert inside.max() < 50 + 6 * 5


def test_bos_inside_a_row_stays_in_the_pool(tmp_path, resid) -> None:
    """Only the index decides, not the token: every token of the dump is the same one."""
    changed = {layer: x.copy() for layer, x in resid.items()}
    changed[1][4, 2] += 500
    found = pool(written(tmp_path, changed), 10_000, seed=0)
    assert changed[1][4, 2].tolist() in found["reservoir/1"].tolist()
    assert found["norms/1"][0] > 1.01 * np.linalg.norm(resid[1][:, 1:], axis=-1).mean()


def test_other_positions_than_the_tokens_are_no_part_of_it(tmp_path, dumps, resid) -> None:
    twice = pool(written(tmp_path, resid, ends=True), 30, seed=0)
    for key, array in pool(dumps, 30, seed=0).items():
        assert np.array_equal(twice[key], array), key


def test_differences_of_samples_have_twice_the_covariance(dumps, resid) -> None:
    """A8: of n draws, to a relative Frobenius error of 2 sqrt((PR + 1) / n), PR the participation ratio."""
    n = 20_000
    found = pool(dumps, 10, seed=0)
    rng = np.random.default_rng(5)
    for layer in LAYERS:
        lower = found[f"factor/{layer}"]
        z1, z2 = rng.standard_normal((2, n, D))
        drawn = (found[f"mean/{layer}"] + z1 @ lower.T) - (found[f"mean/{layer}"] + z2 @ lower.T)
        expected = 2 * (np.cov(resid[layer][:, 1:].reshape(-1, D), rowvar=False) + 0.01 * np.eye(D))
        ratio = np.trace(expected) ** 2 / np.trace(expected @ expected)
        off = np.linalg.norm(np.cov(drawn, rowvar=False) - expected) / np.linalg.norm(expected)
        assert off < 2 * np.sqrt((ratio + 1) / n)
        # The mean's standard error is sqrt(tr / n) in length; three times that is beyond chance.
        assert np.linalg.norm(drawn.mean(0)) < 3 * np.sqrt(np.trace(expected) / n)


def test_a_covariance_without_full_rank_has_a_factor() -> None:
    lower = factor(np.zeros((3, 3))).astype(np.float64)
    np.testing.assert_allclose(lower @ lower.T, 0.01 * np.eye(3), rtol=1e-6)


def test_fit_writes_what_the_store_takes(tmp_path, dumps) -> None:
    found = fit("pool", {}, dumps, {"reservoir_rows": 12}, 0)
    path = tmp_path / "directions/model/study/pool.safetensors"
    path.parent.mkdir(parents=True)
    made = describe(path, "directions", run={"scale": "test", "seed": 0}, inputs=[], settings={})
    write_directions(path, found, made)
    for key, array in read_directions(path).items():
        assert np.array_equal(array, found[key])
        assert array.dtype == found[key].dtype
    assert not NEEDS_MODEL
    with pytest.raises(ValueError, match="unknown method 'other'; allowed: pool"):
        fit("other", {}, dumps, {"reservoir_rows": 12}, 0)


def test_a_pool_of_nothing_is_refused(tmp_path) -> None:
    nothing = {layer: x[:0] for layer, x in residuals().items()}
    with pytest.raises(ValueError, match="0 rows behind position 0"):
        pool(written(tmp_path / "none", nothing), 10, seed=0)
    bos = {layer: x[:, :1] for layer, x in residuals().items()}
    with pytest.raises(ValueError, match="0 rows behind position 0"):
        pool(written(tmp_path / "bos", bos), 10, seed=0)


def test_no_more_than_a_piece_is_held(tmp_path, monkeypatch) -> None:
    """The whole file is never read at once."""
    import bearings.stages.read as read

    def refuse(*_):
        raise AssertionError("the file is read whole")

    dumps = written(tmp_path, residuals())
    monkeypatch.setattr(read, "read_table", refuse)
    assert pool(dumps, 5, seed=0, rows=16)["reservoir/1"].shape == (5, D)


def test_fitting_imports_no_torch(root) -> None:
    code = "import sys; import bearings.studies.sensitivity.fit; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(root / "workflow")}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
