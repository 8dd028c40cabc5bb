"""Recording: a figure is what was measured, a run never loses or mixes one, and its origin is told truly."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import nbformat
import numpy as np
import pytest

from m6rec.config import InputError
from m6rec.record import Figure, code_hash, environment, measured, record, recorded, short, write_json

module = sys.modules["m6rec.record"]  # `m6rec.record` is the function


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / "figures.json"
    monkeypatch.setenv("M6REC_RECORD", str(path))
    return path


def test_the_interval_is_of_users_and_of_seeds():
    users = np.random.default_rng(1).random(400)
    noise = np.random.default_rng(2).random(400)
    figure, one = record("a", per_user=np.stack([users + noise, users - noise])), record("b", per_user=users)
    assert figure.value == pytest.approx(one.value) and (one.n, one.seeds, figure.seeds) == (400, 1, 2)
    assert figure.high - figure.low > 0.9 * (2 * noise.mean()), "the seeds' means are so far apart"
    figure = one
    error = users.std() / 20
    assert figure.high - figure.low == pytest.approx(2 * 1.96 * error, rel=0.05)


def test_a_ratio_resamples_the_same_users_above_and_below():
    below = np.random.default_rng(1).random((3, 200))
    assert record("a", per_user=2 * below, over=below)[1:6] == pytest.approx((2, 2, 2, 200, 3))
    assert record("b", value=[2.0, 4.0, 6.0], over=[1.0, 2.0, 3.0])[1:6] == (2, None, None, 0, 3)


def test_one_number_has_no_interval_and_neither_have_seeds_alone():
    assert record("a", value=7) == Figure("a", 7.0, None, None, 0, 1)
    assert record("b", value=[1.0, 2.0, 3.0])[1:6] == (2.0, None, None, 0, 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "either per_user=array or value=number"),
        ({"value": 1, "per_user": [1.0]}, "either"),
        ({"value": float("nan")}, "NaN"),
        ({"per_user": [[[1.0]]]}, r"shape \(1, 1, 1\)"),
        ({"per_user": 0.5}, r"shape \(\)"),
        ({"per_user": [1.0, 2.0], "over": [1.0]}, "same users twice"),
    ],
)
def test_what_is_no_figure_is_refused_with_its_name(file, arguments, words):
    with pytest.raises(InputError, match=rf"ml.x.*{words}"):
        record("ml.x", **arguments)
    assert not file.exists()


@pytest.mark.parametrize("name", ["", "run", "two words"])
def test_a_name_is_one_word_and_not_the_one_of_the_provenance(name):
    with pytest.raises(InputError, match="cannot name a figure"):
        record(name, value=1)


def test_a_run_records_each_name_once_and_keeps_the_first(file):
    first, second = record("a", value=1), record("b", per_user=[0.0, 1.0])
    with pytest.raises(InputError, match="a is recorded twice"):
        record("a", value=2)
    assert recorded(file) == {"a": first, "b": second}


def test_without_a_file_figures_stay_in_memory_and_a_cell_can_be_run_again(monkeypatch):
    monkeypatch.delenv("M6REC_RECORD", raising=False)
    record("again", value=1)
    record("again", value=2)
    assert recorded()["again"].value == 2


def test_what_a_notebook_measured_at_full_size_can_be_cited_and_what_it_has_not_is_a_dash(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PACKAGE", tmp_path / "m6rec")
    figure = {"value": 0.1, "low": 0.05, "high": 0.2, "n": 9, "seeds": 3, "split": "test"}
    result = {"a": figure, "b": {"from": {"commit": "1"}, **figure}, "run": {"commit": "2"}}
    write_json(tmp_path / "notebooks" / "results" / "04.json", result)
    found = measured("04")
    assert set(found) == {"a", "b"} and f"{found['b']}" == "0.1000 [0.05000, 0.2000]"
    assert f"{found['c']}" == "–" == f"{measured('05')['a']}"


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    with pytest.raises(ValueError):
        write_json(path, {"x": float("nan")})
    assert json.loads(path.read_text()) == {"x": 1} and list(tmp_path.iterdir()) == [path]


def test_numbers_keep_four_significant_digits_and_all_before_the_point():
    said = {0.123456: "0.1235", 1.23456: "1.235", 12345.6: "12346", -0.00123456: "-0.001235", 12101: "12101"}
    assert [short(x) for x in said] == [*said.values()]
    assert [short(x) for x in (0.1, 0.99996, 270.31)] == ["0.1000", "1.0000", "270.3"]
    assert [short(x) for x in (0, None)] == ["0", "–"]
    assert repr(Figure("a", 0.12, 0.1, 0.13999, 9, 1)) == "0.1200 [0.1000, 0.1400]"
    assert repr(Figure("a", 3.0, None, None, 0, 1)) == "3"


def test_the_code_hash_follows_code_cells_and_nothing_else_of_a_notebook(tmp_path):
    path = tmp_path / "a.ipynb"
    cells = [nbformat.v4.new_code_cell("x = 1"), nbformat.v4.new_markdown_cell("prose")]
    notebook = nbformat.v4.new_notebook(cells=cells)

    def hashed():
        nbformat.write(notebook, path)
        return code_hash(path)

    before = hashed()
    cells[0].outputs = [nbformat.v4.new_output("stream", text="1")]
    cells[1].source = "other prose"
    assert hashed() == before
    cells[0].source = "x = 1  # a comment"
    assert hashed() == before
    cells[0].source = "x = 2"
    assert hashed() != before


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """The package in a folder of its own, which can be changed."""
    package = tmp_path / "clone" / "m6rec"
    shutil.copytree(module.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(module, "PACKAGE", package)
    return package


def _git(folder, *words):
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", folder, *who, *words], check=True, capture_output=True)


def test_the_commit_is_the_clones_own_and_results_do_not_make_it_dirty(copy):
    clone = copy.parent
    (clone / "notebooks" / "results").mkdir(parents=True)
    _git(clone, "init", "-q")
    _git(clone, "add", ".")
    _git(clone, "commit", "-qm", "all")
    clean = environment()
    assert len(clean["commit"]) == 40 and clean["dirty"] is False
    (clone / "notebooks" / "results" / "a.json").write_text("{}")
    assert environment()["dirty"] is False
    (copy / "config.py").write_text("# changed")
    assert environment()["dirty"] is True


def test_a_package_installed_inside_a_strangers_clone_does_not_take_their_commit(copy):
    stranger = copy.parent.parent
    _git(stranger, "init", "-q")
    _git(stranger, "commit", "-qm", "theirs", "--allow-empty")
    assert environment()["commit"] is None and environment()["dirty"] is None
