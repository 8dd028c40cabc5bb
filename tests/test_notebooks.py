"""Every notebook follows the rules, and runs at smoke scale."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
import torch
from notebook_rules import outputs, problems

from m6rec.record import recorded
from m6rec.runs.execute import execute, find, read

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
# The second digit of a number with a point, which is no time
TIMES = r" ?(?:ms|s|min|seconds|minutes|of the time)\b"
SECOND = re.compile(rf"(?<![\w.])(?:0?\.0*[1-9](\d)|[1-9]\d*\.(\d))\d*(?!{TIMES}|[\d.])")
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


def test_three_of_four_outputs_are_compared():
    cells = [cell for path in PATHS for cell in read(path).cells if cell.get("outputs")]
    ignored = [cell for cell in cells if "nbval-ignore-output" in cell.metadata.get("tags", ())]
    assert len(ignored) <= len(cells) / 4


@each_notebook
def test_no_second_digit_of_a_figure_is_lost_in_the_comparison(path):
    """What nbval replaces in outputs leaves two digits of every number, but of times."""
    rules = configparser.RawConfigParser()
    rules.read(Path(__file__).with_name("nbval_sanitize.cfg"))

    def compared(text: str) -> str:
        for name in rules.sections():
            text = re.sub(rules.get(name, "regex"), rules.get(name, "replace"), text)
        return text

    for output in outputs(read(path)):
        data = output.get("data", {})
        text = output.get("text") or data.get("text/markdown") or data.get("text/plain", "")
        for number in SECOND.finditer(text):
            place = number.start(number.lastindex)
            changed = f"{text[:place]}{(int(text[place]) + 5) % 10}{text[place + 1 :]}"
            assert compared(changed) != compared(text), number[0]


@pytest.mark.skipif(torch.__version__.startswith("2.13."), reason="test_device.py runs them at smoke")
@each_notebook
def test_it_runs_at_smoke_scale_and_records_names_of_its_own(path, fresh_home, records, monkeypatch):
    monkeypatch.setenv("M6REC_HOME", str(fresh_home))
    earlier = {name for file in records.glob("*.json") for name in recorded(file)}
    run = execute(path, records / path.name, {"scale": "smoke"})
    assert run.ok, f"{run.error}\n{run.log.read_text()[-6000:]}"
    assert [output.text for output in outputs(read(run.path)) if output.get("name") == "stderr"] == []
    assert not earlier & run.figures.keys()
