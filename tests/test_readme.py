"""The README says what was measured, and nothing that was not."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest

from m6rec.errors import InputError
from m6rec.runs.readme import PICTURE, picture, render_readme

CLONE = Path(__file__).resolve().parents[1]
MARKS = "before\n<!-- results -->\nold\n<!-- /results -->\n<!-- notebooks -->\n<!-- /notebooks -->\nafter\n"


def test_the_readme_is_what_the_committed_results_and_notebooks_render_to():
    text = (CLONE / "README.md").read_text(encoding="utf-8")
    assert render_readme(text, CLONE / "notebooks") == text, "run `make readme`"


def test_the_readme_s_picture_is_the_committed_notebooks_own():
    shown = picture(CLONE / "notebooks")
    assert shown and (CLONE / "notebooks" / PICTURE).read_bytes() == shown, "run `make readme`"
    assert f"notebooks/{PICTURE}" in (CLONE / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def notebooks(tmp_path):
    opening = "# A\n**You will** see a | b.\n\n**You need** nothing. **Time**: 40 s · **Level** easy"
    for name in ("00_a", "01_b"):
        cells = [nbformat.v4.new_markdown_cell(opening), nbformat.v4.new_code_cell("1")]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / f"{name}.ipynb")
    (tmp_path / "results").mkdir()
    figures = {
        "ml100k.ndcg10.dense": {"value": 0.125, "low": 0.11, "high": 0.14, "n": 943, "seeds": 3},
        "new.one": {"value": 12.0, "low": None, "high": None, "n": 0, "seeds": 1},
        "run": {"code_hash": "x", "seconds": 130.0, "command": "make results NB=01_b"},
    }
    (tmp_path / "results" / "01_b.json").write_text(json.dumps(figures))
    return tmp_path


def test_every_recorded_figure_stands_in_the_table_with_its_command(notebooks):
    lines = render_readme(MARKS, notebooks).splitlines()
    assert "| M6-Rec, dense head | 0.1250 | 0.1100 to 0.1400 | 3 | `make results NB=01_b` |" in lines
    assert "| `new.one` | 12 | – | 1 | `make results NB=01_b` |" in lines
    assert lines[0] == "before" and lines[-1] == "after" and "old" not in lines
    assert not any("SASRec" in line or "HR@10" in line for line in lines)  # neither was measured here


def test_one_figure_of_a_notebook_stands_first_with_what_it_is_held_against(notebooks):
    path = notebooks / "results" / "01_b.json"
    of = {"low": None, "high": None, "n": 0, "seeds": 1}
    figures = json.loads(path.read_text()) | {
        "late.ratio": {"value": 0.2, **of},
        "late.auc_loss": {"value": 0.01, **of},
    }
    path.write_text(json.dumps(figures))
    lines = render_readme("<!-- headlines -->\n<!-- /headlines -->\n" + MARKS, notebooks).splitlines()
    link = f"[01_b]({notebooks.name}/01_b.ipynb)"
    assert lines[3] == f"| {link} | time of a cached request / the whole pass | **0.2000** (–) | AUC lost 0.01000 |"
    assert lines[4] == "<!-- /headlines -->"  # what is not measured has no line


def test_the_notebooks_table_says_what_the_notebooks_say(notebooks):
    text = render_readme(MARKS, notebooks)
    folder = notebooks.name
    assert rf"| [00_a]({folder}/00_a.ipynb) | see a \| b. | 40 s | [01_b]({folder}/01_b.ipynb) |" in text
    assert rf"| [01_b]({folder}/01_b.ipynb) | see a \| b. | 40 s | – |" in text


def test_rendering_twice_changes_nothing(notebooks):
    once = render_readme(MARKS, notebooks)
    assert render_readme(once, notebooks) == once


def test_a_readme_without_the_marks_is_refused(notebooks):
    with pytest.raises(InputError, match="<!-- results -->"):
        render_readme("nothing", notebooks)
