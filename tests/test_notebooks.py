"""Every notebook follows the rules, and runs at smoke scale."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from notebook_rules import outputs, problems

from m6rec.record import recorded
from m6rec.runs.execute import execute, find, read

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


@pytest.fixture(scope="session")
def records(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("records")


def test_the_folder_holds_the_numbered_notebooks_and_no_others():
    assert PATHS, f"{FOLDER} holds no notebook"
    assert find(FOLDER) == PATHS


@each_notebook
def test_it_follows_the_rules(path):
    assert problems(path) == []


@pytest.mark.skipif(torch.__version__.startswith("2.13."), reason="test_device.py runs them at smoke")
@each_notebook
def test_it_runs_at_smoke_scale_and_records_names_of_its_own(path, fresh_home, records, monkeypatch):
    monkeypatch.setenv("M6REC_HOME", str(fresh_home))
    earlier = {name for file in records.glob("*.json") for name in recorded(file)}
    run = execute(path, records / path.name, {"scale": "smoke"})
    assert run.ok, f"{run.error}\n{run.log.read_text()[-6000:]}"
    assert [output.text for output in outputs(read(run.path)) if output.get("name") == "stderr"] == []
    assert not earlier & run.figures.keys()
