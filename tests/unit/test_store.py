"""Atomic writes, directions, documents and provenance: whole files or none, verified or refused."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bearings.store.atomic import replacing, write_text
from bearings.store.directions import read_directions, write_directions
from bearings.store.documents import read_document, read_json, write_json
from bearings.store.provenance import Refused, content_digest, describe, make_label
from bearings.store.source import reached, source_digest

RUN = {"scale": "embedded", "seed": 0}


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "results/embedded/seed-0"
    made.mkdir(parents=True)
    return made


def test_replacing_keeps_the_old_file_on_failure(tmp_path):
    path = tmp_path / "deep/a.txt"
    write_text(path, "old\n")

    def killed():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    assert path.read_text() == "old\n"
    assert os.listdir(path.parent) == ["a.txt"]


def test_replacing_a_folder_leaves_nothing_of_the_old_one(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "old.json").write_text("{}")
    with replacing(path, directory=True) as temporary:
        (temporary / "new.json").write_text("{}")
    assert os.listdir(path) == ["new.json"]
    assert os.listdir(tmp_path) == ["model"]


def test_leftovers_of_a_killed_writer_are_swept(tmp_path):
    code = (
        "import os, sys; sys.path.insert(0, 'workflow')\n"
        "from bearings.store.atomic import replacing\n"
        f"with replacing({str(tmp_path / 'a.txt')!r}) as t:\n"
        "    t.write_text('half'); os.kill(os.getpid(), 9)\n"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    subprocess.run([sys.executable, "-c", code], cwd=root, check=False)
    assert len(os.listdir(tmp_path)) == 1
    write_text(tmp_path / "a.txt", "whole")
    assert os.listdir(tmp_path) == ["a.txt"]


def test_full_disk_names_the_bytes_and_leaves_no_file(tmp_path):
    code = (
        "import resource, sys; sys.path.insert(0, 'workflow')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "from bearings.store.atomic import write_text\n"
        f"write_text({str(tmp_path / 'a.txt')!r}, 'x' * 100000)\n"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert "no room for a.txt" in last
    assert "4096 bytes written" in last
    assert os.listdir(tmp_path) == []


def directions():
    rng = np.random.default_rng(0)
    return {
        "corrected/3": rng.standard_normal(6).astype(np.float32),
        "published/0": rng.standard_normal((2, 6)),
    }


def test_directions_come_back_and_any_flip_is_refused_or_harmless(folder):
    path = folder / "das.safetensors"
    write_directions(path, directions(), describe(path, "directions", run=RUN))
    good = path.read_bytes()
    write_directions(path, dict(reversed(directions().items())), describe(path, "directions", run=RUN))
    assert path.read_bytes() == good
    refused = 0
    for at in range(0, len(good), 3):
        path.write_bytes(good[:at] + bytes([good[at] ^ (1 << at % 8)]) + good[at + 1 :])
        try:
            back = read_directions(path)
        except Refused:
            refused += 1
            continue
        assert list(back) == sorted(directions())
        assert all(np.array_equal(back[k], v) and back[k].dtype == v.dtype for k, v in directions().items())
    assert refused > 0.9 * len(range(0, len(good), 3))
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(Refused):
        read_directions(path)


@pytest.mark.parametrize("bad", [np.ones((1, 2, 3)), np.ones(3, dtype=int), np.array([1.0, np.nan])])
def test_directions_of_no_use_are_not_written(folder, bad):
    path = folder / "x.safetensors"
    with pytest.raises(ValueError, match="'a/0'"):
        write_directions(path, {"a/0": bad}, describe(path, "directions", run=RUN))
    assert not path.exists()


def test_directions_of_another_kind_or_place_are_refused(folder):
    path = folder / "das.safetensors"
    write_directions(path, directions(), describe(path, "directions", run=RUN))
    with pytest.raises(Refused, match="kind"):
        read_directions(path, kind="heads")
    (folder / "pca.safetensors").write_bytes(path.read_bytes())
    with pytest.raises(Refused, match="was written as"):
        read_directions(folder / "pca.safetensors")


BODIES = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


@given(body=BODIES)
@settings(max_examples=60, deadline=None)
def test_documents_keep_every_bit(tmp_path_factory, body):
    path = tmp_path_factory.mktemp("doc") / "results/m.json"
    write_json(path, body, describe(path, "measures", run=RUN))
    assert read_json(path, "measures") == body
    assert path.read_bytes().endswith(b"\n")


def test_documents_any_flip_is_refused_or_harmless(folder):
    path, body = folder / "m.json", {"a": {"value": 0.1 + 0.2, "n": 3, "reason": "é"}, "b": None}
    write_json(path, body, describe(path, "measures", run=RUN))
    good = path.read_bytes()
    refused = 0
    for at in range(len(good)):
        path.write_bytes(good[:at] + bytes([good[at] ^ (1 << at % 8)]) + good[at + 1 :])
        try:
            assert read_json(path, "measures") == body
        except Refused:
            refused += 1
    assert refused > 0.7 * len(good)  # the rest is indentation


@pytest.mark.parametrize("bad", [math.nan, math.inf, np.float32("nan"), {1, 2}])
def test_documents_refuse_what_json_lacks(folder, bad):
    with pytest.raises(ValueError, match="null"):
        write_json(folder / "m.json", {"a": bad}, describe(folder / "m.json", "measures", run=RUN))
    assert os.listdir(folder) == []


def test_label_cannot_be_edited(folder):
    path = folder / "m.json"
    write_json(path, {"a": np.float64(1.5), "b": np.arange(2)}, describe(path, "measures", run=RUN))
    assert read_document(path)[0] == {"a": 1.5, "b": [0, 1]}
    raw = json.loads(path.read_text())
    raw["bearings"]["provenance"]["run"]["seed"] = 1
    path.write_text(json.dumps(raw))
    with pytest.raises(Refused, match="provenance was changed"):
        read_json(path)


def test_model_folder_digest_sees_weights_and_names_only(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    before = content_digest(tmp_path)
    (tmp_path / "notes.txt").write_text("nothing")
    assert content_digest(tmp_path) == before
    (tmp_path / "model.safetensors").write_bytes(b"\x03\0\0\0\0\0\0\0{ }")
    assert content_digest(tmp_path) != before
    (tmp_path / "none").mkdir()
    with pytest.raises(Refused, match="empty folder"):
        content_digest(tmp_path / "none")


def test_data_folder_digest_sees_every_file_and_its_place(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/one.json").write_text('{"name": 1}')
    seen = {content_digest(tmp_path)}
    (tmp_path / "a/two.txt").write_text("x")
    seen.add(content_digest(tmp_path))
    (tmp_path / "a/two.txt").rename(tmp_path / "two.txt")
    seen.add(content_digest(tmp_path))
    (tmp_path / "a/one.json").write_text('{"name": 2}')
    seen.add(content_digest(tmp_path))
    assert len(seen) == 4


def test_inputs_outside_results_are_named_from_the_repository(tmp_path):
    data = tmp_path / "workflow/words.yaml"
    data.parent.mkdir()
    data.write_text("a: 1\n")
    path = tmp_path / "results/m.json"
    write_json(path, {}, describe(path, "measures", run=RUN, inputs=[data]))
    assert list(read_document(path)[1].inputs) == ["workflow/words.yaml"]
    data.write_text("a: 2\n")
    with pytest.raises(Refused, match="workflow/words.yaml"):
        read_json(path)


def test_label_seal_depends_on_every_part(tmp_path):
    provenance = describe(tmp_path / "a", "x", run=RUN)
    assert make_label(provenance, "c")["seal"] != make_label(provenance, "d")["seal"]
    assert make_label(provenance, "c")["seal"] != make_label(provenance, "c", rows=1)["seal"]


def tree(root):
    files = {
        "scripts/job.py": "import numpy\nfrom _help import x\nfrom bearings.a import f\n",
        "scripts/_help.py": "x = 1\n",
        "scripts/other.py": "",
        "bearings/__init__.py": "",
        "bearings/a/__init__.py": "def f():\n    from ..b import late\n",
        "bearings/a/words.yaml": "w: 1\n",
        "bearings/a/claims.yaml": "c: 1\n",
        "bearings/a/data/deep.yaml": "d: 1\n",
        "bearings/a/sibling.py": "",
        "bearings/b/__init__.py": "",
        "bearings/b/late.py": "import bearings.c as c\n",
        "bearings/b/late2.py": "",
        "bearings/c.py": "",
        "bearings/d.py": "",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_source_digest_changes_with_what_is_reached_and_only_then(tmp_path):
    tree(tmp_path)
    script = tmp_path / "scripts/job.py"
    known = {p.relative_to(tmp_path).as_posix() for p in reached(script, tmp_path)}
    assert known == {
        "scripts/job.py",
        "scripts/_help.py",
        "bearings/__init__.py",
        "bearings/a/__init__.py",
        "bearings/a/words.yaml",
        "bearings/a/data/deep.yaml",
        "bearings/b/__init__.py",
        "bearings/b/late.py",
        "bearings/c.py",
    }
    first = source_digest(script, tmp_path)
    for file in sorted(p for p in tmp_path.rglob("*") if p.is_file()):
        text = file.read_text()
        file.write_text(text + "# more\n")
        changed = source_digest(script, tmp_path) != first
        assert changed == (file.relative_to(tmp_path).as_posix() in known), file
        file.write_text(text)
    assert source_digest(script, tmp_path) == first
