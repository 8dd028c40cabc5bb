"""The command line: what it exits with, and what it says to bad input: one sentence, no traceback."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

import m6rec as package
from m6rec import __main__ as cli


@pytest.fixture
def m6rec(monkeypatch, capsys):
    """Run the command line in this process: (exit code, stdout, stderr)."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["m6rec", *words])
        before = signal.getsignal(signal.SIGTERM)
        try:
            with pytest.raises(SystemExit) as end:
                cli.main()
        finally:
            signal.signal(signal.SIGTERM, before)
        return int(end.value.code or 0), *capsys.readouterr()

    return call


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder with one toy notebook in the place of the clone's."""
    import nbformat

    folder = tmp_path / "notebooks"
    folder.mkdir()
    cells = [
        nbformat.v4.new_code_cell('seed = 0\nscale = "quick"', metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("seed + 1"),
    ]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "01_toy.ipynb")
    (folder / "half.ipynb").write_text('{"cells": ')
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "m6rec" / "__main__.py"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_help_lists_every_command(m6rec):
    code, said, _ = m6rec("--help")
    assert code == 0
    for command in ("run", "sweep", "recommend"):
        assert f"\n  {command} " in said


def test_help_and_version_load_no_torch_and_names_are_those_of_the_package():
    code = "import sys; from m6rec.__main__ import app; app(sys.argv[1:], standalone_mode=False)"
    code += "; print('torch' in sys.modules)"
    for words in (["--help"], ["sweep", "--help"], ["recommend", "--help"], ["--version"]):
        said = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True).stdout
        assert said.splitlines()[-1] == "False"
    package.evaluate = sys.modules["m6rec.evaluate"]  # as the import of a submodule does
    assert callable(package.evaluate) and set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="no attribute evalute"):
        package.evalute  # noqa: B018


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["recommend"], "either --user ID or --history TITLE"),
        (["recommend", "--user", "1", "--history", "Fargo"], "give one of them"),
        (["recommend", "--user", "1", "--method", "magic"], 'method="magic" is unknown'),
        (["recommend", "--user", "1", "--checkpoint", "nowhere"], "no checkpoint at nowhere"),
        (["recommend", "--user", "1", "--data", "ml-200k"], 'folder="ml-200k" is unknown: take one of bazaar'),
        (["run", "02_toy"], "01_toy"),
        (["run", "01_toy", "sed=1"], "no parameter 'sed'"),
        (["run", "01_toy", "seed=one"], "seed='one' is of type str: give a whole number"),
        (["sweep", "01_toy", "seed=0,one"], "seed='one' is of type str: give a whole number"),
        (["sweep", "notebooks/half.ipynb"], "cannot be read as a notebook"),
        (["sweep", "01_toy", "seed"], "'seed' is no parameter"),
        (["sweep", "01_toy", "seed=1", "--jobs", "0"], "jobs=0 is too small: take 1 or more"),
    ],
)
def test_bad_input_exits_2_with_one_sentence_and_writes_nothing(m6rec, clone, words, sentence):
    code, said, complaint = m6rec(*words)
    assert code == 2 and said == ""
    assert complaint.startswith("m6rec: ") and complaint.count("\n") == 1 and sentence in complaint
    assert [path.name for path in clone.iterdir()] == ["notebooks"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--user", "99999"], "'99999' is not in circles"),
        (["--history", "Film 1", "--history", "Flim 9 (1959)"], "the nearest are 'Film 9 (1959)'"),
        (["--user", "100", "--hour", "25"], "hour=25"),
        (["--user", "100", "-k", "31"], "k=31 does not fit: only 30"),
        (["--user", "100", "-k", "0"], "k=0 does not fit"),
        (["--user", "100", "--preset", "huge"], "huge"),
    ],
)
def test_recommend_says_what_is_wrong_before_it_trains(m6rec, data, monkeypatch, words, sentence):
    monkeypatch.setattr("m6rec.load", lambda name: data)
    monkeypatch.setattr("m6rec.recommender.M6Rec.cached", lambda *_, **__: pytest.fail("it trained first"))
    code, said, complaint = m6rec("recommend", *words)
    assert code == 2 and said == "" and complaint.count("\n") == 1 and sentence in complaint


def test_recommend_prints_a_saved_models_list_with_ranks_and_titles(m6rec, data, trained, tmp_path, monkeypatch):
    monkeypatch.setattr("m6rec.load", lambda name: data)
    trained.save_pretrained(tmp_path / "saved")
    expected = trained.recommend(history=["Film 3", "Film 4"], k=5, method="dense")
    history = ["--history", "Film 3", "--history", "Film 4"]
    code, said, _ = m6rec(
        "recommend",
        *history,
        "-k",
        "5",
        "--method",
        "dense",
        "--data",
        "circles",
        "--checkpoint",
        str(tmp_path / "saved"),
    )
    places = [line.split() for line in said.splitlines() if "Film" in line and line.strip()[0].isdigit()]
    assert code == 0 and [int(words[0]) for words in places] == [1, 2, 3, 4, 5]
    assert [" ".join(words[1:-1]) for words in places] == expected["title"].tolist()
    assert [float(words[-1]) for words in places] == pytest.approx(expected["score"].tolist(), abs=6e-4)


def test_a_folder_of_ones_own_is_a_data_set_and_a_saved_model_names_what_it_lacks(m6rec, data, trained, tmp_path):
    """The model of other data is refused in a sentence that says how to give them; with them it answers."""
    raw = data.events.assign(
        user_id=data.users["user_id"].to_numpy()[data.events["user"]],
        item_id=data.items["item_id"].to_numpy()[data.events["item"]],
    )
    folder = tmp_path / "shop"
    folder.mkdir()
    events = raw[["user_id", "item_id", "timestamp", "value"]]
    for name, table in (("items", data.items), ("users", data.users), ("interactions", events)):
        table.to_csv(folder / f"{name}.csv", index=False)
    saved = str(trained.save_pretrained(tmp_path / "saved"))
    assert "circles" in (tmp_path / "saved" / "README.md").read_text()
    asked = ["recommend", "--user", "100", "-k", "3", "--checkpoint", saved]
    code, _, complaint = m6rec(*asked)
    assert code == 2 and "--data" in complaint and complaint.count("\n") == 1
    code, said, _ = m6rec(*asked, "--data", str(folder))
    assert code == 0 and all(title in said for title in trained.recommend(100, k=3)["title"])


def test_a_folder_that_cannot_be_made_is_one_sentence(m6rec, clone):
    (clone / "file").touch()
    code, _, complaint = m6rec("run", "01_toy", "--out", "file/runs")
    assert code in (1, 2) and "Traceback" not in complaint and complaint.startswith("m6rec: ")


def test_a_title_neither_styles_nor_steers_the_terminal(data, capsys):
    items = data.items.head(2).assign(title=["\x1b[31m[bold]red[/bold]\x1b[0m", "\u202egnp.live\r\n"])
    cli.print_items("a \x07 list", items)
    said = capsys.readouterr().out
    assert "[31m[bold]red[/bold] [0m" in said and "gnp.live" in said
    assert not any(c in said for c in "\x1b\x07\u202e\r")


def test_a_run_ends_on_what_was_found_in_at_most_80_columns(m6rec, clone, data, monkeypatch, capsys):
    from nbformat import v4, write

    from m6rec.runs.execute import Execution

    out = v4.new_output("execute_result", {"text/markdown": "**Finding.** " + "It is so, " * 20}, execution_count=1)
    cell = v4.new_code_cell("'**Finding'", outputs=[out])
    write(v4.new_notebook(cells=[v4.new_markdown_cell("# A"), cell]), clone / "done.ipynb")
    monkeypatch.setattr("m6rec.runs.execute.run_all", lambda *_: [Execution(clone / "done.ipynb", 1.0)])
    code, said, _ = m6rec("run", "01_toy")
    *found, last = said.splitlines()
    assert code == 0 and last.startswith("Report: ") and last.endswith("index.html")
    assert len(found) > 1 and "It is so" in found[0] and max(map(len, found)) <= 80
    items = data.items.head(2).assign(title="x" * 200, score=0.5)
    cli.print_items("y" * 200, items)
    said = capsys.readouterr().out.splitlines()
    assert max(map(len, said)) <= 80 and said[-1].endswith("0.500")


def test_a_mistyped_command_or_option_exits_2_without_a_traceback(m6rec):
    for words in (["swep"], ["sweep", "x", "--job", "2"]):
        code, _, complaint = m6rec(*words)
        assert code == 2 and "Error: No such" in complaint and "Traceback" not in complaint


def test_it_says_its_version(m6rec):
    assert m6rec("--version")[:2] == (0, f"m6rec {package.__version__}\n")
