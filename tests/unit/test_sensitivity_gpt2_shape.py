"""The sheet of the scale `gpt2` on a random model of GPT-2 small's shape with SAEs of the released sizes: it fits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sensitivity_shape import SAES

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
# The machine that everything must fit has 24 GB, part of which is others'.
MOST = 16e9


def test_the_whole_study_runs_at_the_size_of_gpt2_small_and_fits_the_memory(tmp_path: Path) -> None:
    """In a process of its own: the peak is that of the process, and other tests have one too."""
    inherited = os.environ.get("PYTHONPATH", "")
    path = os.pathsep.join([str(ROOT / "workflow"), str(ROOT / "tests/unit"), inherited])
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/unit/sensitivity_shape.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    told = json.loads(done.stdout.splitlines()[-1])
    print(f"peak {told['peak'] / 1e9:.1f} GB, {told['seconds']:.0f} s; stages (s, GB): {told['stages']}")
    assert told["peak"] < MOST
    released = {name: width for many in SAES.values() for name, _, _, width in many}
    assert told["sizes"] == released
    # A few hundred features fire at a token, some in no row: every class has members.
    assert all(50 < l0 < 2000 for l0 in told["l0"].values()), told["l0"]
    assert {"inactive", "active", "dead"} <= set(told["classes"])
    assert told["identity"] == 0
    kinds = {f"ladder.{kind}.sae_over_iso.most" for kind in ("local", "e2e", "e2e_ds")}
    assert {"setup.ce", "early.sub.bloom-2.sae_over_iso", "single.sll.sae_over_iso"} | kinds <= {
        *told["measured"]
    }
