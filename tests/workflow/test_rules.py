"""The rules' own contract: what each carries, how many jobs there are, and that a study is a folder and no rule."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

RULE = re.compile(r"^rule (\w+):\n((?:(?:[ ]+.*)?\n)+)", flags=re.M)


def rules(root: Path) -> dict[str, str]:
    found = {}
    for file in sorted((root / "workflow/rules").glob("*.smk")):
        found |= dict(RULE.findall(file.read_text() + "\n"))
    return found


def test_every_rule_logs_is_measured_has_an_environment_and_knows_its_code(root: Path) -> None:
    found = rules(root)
    assert len(found) >= 14
    for name, body in found.items():
        for directive in ("output", "log", "benchmark", "conda", "params", "script"):
            assert f"\n    {directive}:\n" in f"\n{body}", f"rule {name} has no {directive}"
        assert re.search(r"^        source=", body, flags=re.M), f"rule {name} has no params.source"
        assert re.search(r"^        run=RUN", body, flags=re.M), f"rule {name} does not know its run"


def test_every_rule_names_a_script_of_its_own_and_every_script_a_rule(root: Path) -> None:
    scripts = {name: re.search(r'"\.\./scripts/(\w+)\.py"', body) for name, body in rules(root).items()}
    assert {name: match and match[1] for name, match in scripts.items()} == {name: name for name in scripts}
    there = {p.stem for p in (root / "workflow/scripts").glob("*.py") if not p.stem.startswith("_")}
    assert there == set(scripts)


def test_both_lock_files_hold_the_same_pins(root: Path) -> None:
    pins = [
        line
        for line in (root / "requirements.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    environment = yaml.safe_load((root / "envs/bearings.yaml").read_text())
    (by_pip,) = [x["pip"] for x in environment["dependencies"] if isinstance(x, dict)]
    assert by_pip == pins
    assert "python=3.11" in environment["dependencies"]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)


def test_there_are_tens_of_jobs(clone) -> None:
    planned = clone.planned()
    sheet = yaml.safe_load((clone.path / "workflow/scales/embedded.yaml").read_text())
    assert 30 <= sum(planned.values()) <= 70 * len(sheet["studies"])
    assert planned["train"] == planned["twin"] == len(sheet["models"])


def test_a_study_is_a_folder_and_an_entry_and_no_new_rule(clone) -> None:
    before, sentiment = clone.planned(), clone.planned("sentiment")
    studies = clone.path / "workflow/bearings/studies"
    shutil.copytree(studies / "sentiment", studies / "other")
    for file in (studies / "other").iterdir():
        if file.is_file():
            file.write_text(file.read_text().replace("bearings.studies.sentiment", "bearings.studies.other"))
    claims = studies / "other/claims.yaml"
    claims.write_text(re.sub(r"^study: sentiment$", "study: other", claims.read_text(), flags=re.M))
    sheet = clone.path / "workflow/scales/embedded.yaml"
    content = yaml.safe_load(sheet.read_text())
    content["studies"]["other"] = content["studies"]["sentiment"]
    sheet.write_text(yaml.safe_dump(content, sort_keys=False))
    after = clone.planned()
    assert set(after) == set(before)
    once = {"world", "corpus", "train", "knows", "twin", "claims", "verdict"}
    assert after == {r: n + (0 if r in once else sentiment.get(r, 0)) for r, n in before.items()}
    assert clone.planned("other") == clone.planned("sentiment") == sentiment


@pytest.mark.slow
def test_lint_is_clean(clone) -> None:
    done = clone.snakemake("--lint")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "Congratulations" in done.stdout


@pytest.mark.slow
def test_rules_are_formatted(root: Path) -> None:
    formatter = Path(sys.executable).with_name("snakefmt")
    if not formatter.exists():
        pytest.skip("snakefmt (requirements-dev.txt) is not installed beside this interpreter")
    done = subprocess.run(
        [formatter, "--check", "Snakefile", "workflow/rules"], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
