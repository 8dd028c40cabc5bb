"""Committed results: only a run that ended well writes them, a name has one owner, and old ones are known as such."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import refresh as results

from m6rec.config import InputError
from m6rec.record import record
from m6rec.runs.bench import SETTINGS

CLONE = Path(__file__).resolve().parents[1]
RUN = {"commit": "0123456789abcdef", "dirty": False, "code_hash": "x", "command": "make results NB=01_b",
       "date": "2026-11-29", "scale": "full"}  # fmt: skip
pytestmark = pytest.mark.usefixtures("warm")
KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}


def write(path, body, more=""):
    parameters = f'seed = 0  # a seed\nscale = "quick"  # smoke | quick | full\n{more}'
    cells = [
        nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("from m6rec.record import record"),
        nbformat.v4.new_code_cell(body),
    ]
    path.parent.mkdir(exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=KERNEL), path)
    return path


def test_a_result_says_what_was_measured_at_full_size_and_where_it_came_from(tmp_path):
    notebook = write(tmp_path / "notebooks" / "01_a.ipynb", 'record("size", value=[len(scale), 1 / 3, 1 / 3])')
    path = tmp_path / "notebooks" / "results" / "01_a.json"
    assert results.measure(notebook).ok
    found = json.loads(path.read_text())
    assert found["size"] == {"value": 1.556, "low": None, "high": None, "n": 0, "seeds": 3}  # len("full") is 4
    assert found["run"]["command"] == "make results NB=01_a" and found["run"]["cores"] >= 1
    assert {"commit", "code_hash", "versions", "seconds", "date", "scale"} <= set(found["run"])
    assert results.due(notebook.parent) == []

    write(notebook, 'record("size", value=2); 1 / 0')
    assert results.due(notebook.parent) == [notebook]
    failed = results.measure(notebook).error
    assert "ZeroDivisionError" in failed and "01_a.log" in failed
    assert json.loads(path.read_text()) == found  # the failed run has lost nothing


def test_some_figures_can_be_measured_again_and_the_others_say_what_they_came_from(tmp_path):
    body = 'record("a.x", value=1 + len(only)); record("b.y", value=1 + len(only))'
    notebook = write(tmp_path / "notebooks" / "01_a.ipynb", body, 'only = ""  # the start of a name')
    path = tmp_path / "notebooks" / "results" / "01_a.json"
    results.measure(notebook)
    first = json.loads(path.read_text())
    results.measure(notebook, only="b.")
    found = json.loads(path.read_text())
    kept = {name: first["run"][name] for name in results.ORIGIN}
    assert found["a.x"] == {"from": kept, **first["a.x"]}
    assert found["b.y"]["value"] == 3 and found["run"]["command"] == "make results NB=01_a ONLY=b."
    assert results.due(notebook.parent) == [notebook]  # for it is of two runs

    write(notebook, 'record("b.new", value=1)', 'only = ""  # the start of a name')
    with pytest.raises(InputError, match="c is not measured so, and nothing is written"):
        results.measure(notebook, only="c")
    assert json.loads(path.read_text()) == found
    results.measure(notebook, only="c.,b.")  # several beginnings
    later = json.loads(path.read_text())
    assert later["a.x"] == found["a.x"] and "from" not in later["b.new"]
    assert "b.y" not in later, "it is of other code than b.new beside it"
    results.measure(notebook)
    assert results.due(notebook.parent) == []


def test_what_the_browser_measures_stands_beside_the_notebooks_figures(tmp_path, monkeypatch):
    notebook = write(tmp_path / "notebooks" / "01_a.ipynb", 'record("a.x", value=1)')
    monkeypatch.setenv("M6REC_RECORD", str(ran := tmp_path / "figures.json"))
    record("view.hover_ms", value=12)
    results.measure(notebook, only="view.,live.", ran=ran)
    path = tmp_path / "notebooks" / "results" / "01_a.json"
    found = json.loads(path.read_text())
    assert found["view.hover_ms"]["value"] == 12 and found["run"]["command"] == "make browser"
    results.measure(notebook)
    later = json.loads(path.read_text())
    assert later["view.hover_ms"]["from"]["command"] == "make browser" and later["a.x"]["value"] == 1


def test_a_comparison_of_several_commits_is_refused_and_other_programs_rows_are_not(tmp_path):
    (tmp_path / "results").mkdir()
    old = {"from": {**RUN, "commit": "fedcba9876543210"}, "value": 0.1, "low": None, "high": None, "n": 9, "seeds": 1}
    new = {name: value for name, value in old.items() if name != "from"}
    figures = {"bench.ml100k.ndcg10.ids": new, "bench.ml100k.ndcg10.recbole_sasrec": old, "bench.cold.x": old}

    def page():
        (tmp_path / "results" / "01_b.json").write_text(json.dumps({**figures, "run": RUN}))
        return results.page(tmp_path)

    assert page().count("fedcba9") == 2
    figures["bench.ml100k.ndcg10.sasrec_ids"] = old
    with pytest.raises(InputError, match=r"01_b.*bench.ml100k from 0123456 and fedcba9: .*NB=01_b ONLY=bench.ml100k"):
        page()


def test_the_ledger_is_of_validation_alone_and_each_row_says_how_sure_it_is():
    path = CLONE / "notebooks" / "results" / "ledger.csv"
    table = pd.read_csv(path)
    columns = ["data", "change", "inputs", "seeds", "validation", "before", "standard_error", "kept"]
    assert list(table) == columns and "test" not in path.read_text(encoding="utf-8").lower()
    assert table["kept"].isin(["yes", "no"]).all() and not table["change"].duplicated().any()
    assert set(table["inputs"]) <= {name + prior for name in SETTINGS["inputs"] for prior in ("", "_prior")}
    assert table[["validation", "before", "seeds"]].gt(0).all(axis=None) and table["seeds"].dtype.kind == "i"
    assert table["standard_error"].notna().eq(table["data"] != "bazaar").all()


def test_a_name_belongs_to_one_notebook(tmp_path):
    folder = tmp_path / "notebooks" / "results"
    folder.mkdir(parents=True)
    (folder / "01_a.json").write_text(json.dumps({"size": {"value": 1}, "run": RUN}))
    with pytest.raises(InputError, match="02_b records size, which 01_a has"):
        results.measure(write(tmp_path / "notebooks" / "02_b.ipynb", 'record("size", value=2)'))
    assert not (folder / "02_b.json").exists()


def test_a_damaged_result_is_named(tmp_path):
    (tmp_path / "04_half.json").write_text('{"run": ')
    with pytest.raises(InputError, match=r"04_half.json is no results file.*make results NB=04_half"):
        results.read_all(tmp_path)


def test_an_old_results_file_is_named_with_what_to_do_and_can_be_measured_again(tmp_path):
    notebook = write(tmp_path / "notebooks" / "01_a.ipynb", 'record("size", value=1)')
    folder = tmp_path / "notebooks" / "results"
    folder.mkdir()
    (folder / "01_a.json").write_text(
        '{"size": {"value": 2}, "run": {"commit": "x", "dirty": false, "code_hash": "x"}}'
    )
    with pytest.raises(InputError, match=r"older m6rec, without command, date, scale: .*make results NB=01_a\.$"):
        results.read_all(folder)
    results.measure(notebook)
    assert results.read_all(folder)["01_a"]["size"]["value"] == 1


def test_the_page_is_what_the_committed_results_say():
    page = (CLONE / "notebooks" / "results" / "README.md").read_text(encoding="utf-8")
    assert results.page(CLONE / "notebooks") == page, "run `make page`"
    assert "(notebooks/results/README.md)" in (CLONE / "README.md").read_text(encoding="utf-8")


def test_the_readme_s_picture_is_the_committed_notebooks_own():
    shown = results.picture(CLONE / "notebooks")
    assert shown and (CLONE / "notebooks" / "results" / "readme.png").read_bytes() == shown, "run `make page`"
    assert "notebooks/results/readme.png" in (CLONE / "README.md").read_text(encoding="utf-8")


def test_every_figure_stands_on_the_page_with_what_it_was_measured_on(tmp_path):
    figures = {
        "ml100k.ndcg10.dense": {"value": 0.125, "low": 0.11, "high": 0.14, "n": 943, "seeds": 3, "split": "test"},
        "view.ms": {"from": {**RUN, "commit": None, "date": "2026-11-01"}, "value": 12.0, "low": None, "high": None,
                    "n": 0, "seeds": 1, "label": "a slider's move"},
        "run": RUN,
    }  # fmt: skip
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "01_b.json").write_text(json.dumps(figures))
    lines = results.page(tmp_path).splitlines()
    assert "## [01_b](../01_b.ipynb)" in lines
    assert (
        "| `ml100k.ndcg10.dense` |  | 0.1250 | 0.1100 to 0.1400 | test | 943 | 3 | full | 0123456 | 2026-11-29 |"
        in lines
    )
    assert "| `view.ms` | a slider's move | 12 | – | – | – | 1 | full | – | 2026-11-01 |" in lines


def test_what_is_committed_of_the_views_keeps_their_limits():
    found = json.loads((CLONE / "notebooks" / "results" / "00_quickstart.json").read_text())
    limits = {"view.redraw_ms": 150, "view.hover_ms": 50, "view.kilobytes": 150}
    limits |= {"live.max_diff": 1e-4, "live.megabytes": 2.5, "live.ms": 50}
    assert limits.keys() == found.keys() - {"run"}
    assert all(0 < found[name]["value"] <= limit for name, limit in limits.items())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--full", "02_toy"], 'notebook="02_toy" is unknown: take one of'),
        (["--full", "--only", "bench.cold"], "needs the notebook that measures it"),
        (["--full", "01_a", "--only", "bench.cold"], "no parameter 'only'"),
        (["--full"], "older m6rec"),
    ],
)
def test_bad_input_ends_with_2_and_one_sentence_before_anything_is_measured(
    tmp_path, monkeypatch, capsys, words, sentence
):
    notebook = write(tmp_path / "notebooks" / "01_a.ipynb", 'record("size", value=1)')
    (tmp_path / "notebooks" / "results").mkdir()
    if words == ["--full"]:
        (tmp_path / "notebooks" / "results" / "01_a.json").write_text('{"run": {"code_hash": "x"}}')
    monkeypatch.setattr(results, "HERE", notebook.parent)
    monkeypatch.setattr("sys.argv", ["refresh.py", *words])
    assert results.main() == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and sentence in said.err
    assert not (tmp_path / "runs").exists()
