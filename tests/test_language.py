"""Titles and findings in Chinese: templates fit their sentences, notebooks have one for each, and no box is drawn."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from matplotlib import font_manager, rcParams
from matplotlib.font_manager import FontProperties
from nbformat import write
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from refresh import PYTHON
from test_prose import rendered

from m6rec.config import InputError
from m6rec.runs.execute import execute, read
from m6rec.view import figures
from m6rec.view.figures import NUMBER, drawable, speak, translated

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
CHINESE = json.loads((NOTEBOOKS / "lang" / "zh.json").read_text(encoding="utf-8"))
PATHS = [path for path in sorted(NOTEBOOKS.glob("*.ipynb")) if '"lang: str = ' in path.read_text(encoding="utf-8")]


@pytest.fixture
def chinese():
    speak("zh")
    yield
    speak("en")


def test_every_template_has_the_numbers_of_its_sentence():
    for sentence, template in CHINESE.items():
        found = {int(place) for place in re.findall(r"\{(\d+)\}", template)}
        assert found <= set(range(sentence.count("#"))), sentence
        assert re.search(r"[一-鿿]", template), sentence


def test_numbers_are_filled_in_and_what_has_no_template_stays(chinese):
    assert translated("4 of 12 heads attend mostly to purchases").startswith("12 个注意力头中有 4 个")
    assert translated("NDCG@10 of MovieLens-100K") == "NDCG@10 of MovieLens-100K"
    assert figures.curves({"a": ([1], [2])}, "One user, two hours", ("x", "y")).alt.startswith("同一用户")
    with pytest.raises(InputError, match='lang="zz" is unknown: take one of en, zh'):
        speak("zz")


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_what_a_notebook_prints_has_a_template(path):
    notebook = read(path)
    said = [text for text in rendered(notebook) if text.startswith("**Finding")]
    shown = [output["data"]["text/plain"] for cell in notebook.cells for output in cell.get("outputs", ())
             if "image/png" in output.get("data", {})]  # fmt: skip
    titles = [NUMBER.sub("#", text).partition(": ")[2] for text in shown]
    missing = [text for text in said if NUMBER.sub("#", text) not in CHINESE]
    missing += [title for title in titles if not title.startswith(tuple(CHINESE))]
    assert len(missing) <= 1, missing  # a word may follow the figures, as the best baseline's name


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_s_headings_have_a_template(path):
    prose = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    headings = re.findall(r"^#+ .+", prose, re.MULTILINE)
    assert [NUMBER.sub("#", one) for one in headings if NUMBER.sub("#", one) not in CHINESE] == []


def test_an_executed_copy_has_chinese_headings_and_the_next_run_has_not(tmp_path):
    cells = [new_code_cell('lang: str = "en"  # en | zh', metadata={"tags": ["parameters"]})]
    write(
        new_notebook(
            metadata={"kernelspec": PYTHON}, cells=[*cells, new_markdown_cell("## 2 · What is attention?\nAs it was.")]
        ),
        tmp_path / "a.ipynb",
    )
    done = execute(tmp_path / "a.ipynb", tmp_path / "out" / "a.ipynb", {"lang": "zh"})
    assert done.ok and read(done.path).cells[-1].source == "## 2 · 什么是注意力？\nAs it was."
    assert translated("One user, two hours") == "One user, two hours"


def test_chinese_is_drawn_without_boxes(caplog):
    if not set(figures.CHINESE) & figures._installed and "CI" not in os.environ:
        pytest.skip("no Chinese font: apt install fonts-wqy-microhei")
    text = "".join(CHINESE.values())
    assert "□" not in drawable(text, len(text)), "a font lacks characters"
    font_manager.findfont(FontProperties(family=rcParams["font.family"][-1:], weight="bold", size=7.3))
    assert not caplog.records, "a font without a bold face writes to stderr"
