"""Sweeps on a toy notebook: what is finished stays, what is not is run, and an interrupt leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest
from faults import die, forked

from m6rec.cache import locked
from m6rec.config import InputError
from m6rec.recommender import scale
from m6rec.record import code_hash
from m6rec.runs.execute import best, finished, plan, sweep

PARAMETERS = 'seed = 0  # a seed\nwidth = 32\nrate = 0.5\nkind = "plain"  # plain | fancy\nlayers = [1, 2]'
# The toy leaves a file for each time that it ran, fails where a file of that name asks for it, and may take its time.
BODY = """
import json, os, pathlib, time
place = pathlib.Path(os.environ["TOY"])
name = f"{width}-{seed}"
(place / f"ran-{name}-{time.time_ns()}").write_text(str(os.getpid()))
assert not (place / f"fail-{name}").exists(), "as asked"
print("threads", os.environ["OMP_NUM_THREADS"])
while (place / f"wait-{name}").exists():
    time.sleep(0.1)
figure = {"value": width + seed, "low": None, "high": None, "n": 0, "seeds": 1}
pathlib.Path(os.environ["M6REC_RECORD"]).write_text(json.dumps({"toy.sum": figure}))
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A notebook in a folder that also holds its traces and orders."""
    cells = [
        nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(BODY),
    ]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "toy.ipynb")
    monkeypatch.setenv("TOY", str(tmp_path))
    return tmp_path / "toy.ipynb"


def ran(toy: Path, name: str = "") -> int:
    return len(list(toy.parent.glob(f"ran-{name}*")))


def quietly(toy: Path, grid: dict, **options):
    return sweep(toy, grid, toy.parent / "out", **options)


def test_failed_runs_are_repeated_finished_ones_are_not_and_the_table_holds_all(toy, warm):
    (toy.parent / "fail-64-1").touch()
    grid, out = {"width": "32,64", "seed": "0,1"}, toy.parent / "out"

    def killed() -> None:
        with locked(out / "results.csv"):
            die()

    if hasattr(os, "fork"):
        forked(killed)
        assert list(out.glob(".*"))  # the lock of a killed sweep holds nobody up
    first = quietly(toy, grid, jobs=2)
    runs = out / code_hash(toy)
    assert list(first.values()).count("finished") == 3
    assert "AssertionError: as asked" in first[runs / "seed=1,width=64"]
    assert not (runs / "seed=1,width=64" / "done.json").exists()
    assert len(pd.read_csv(out / "results.csv")) == 3
    shared = str(max(1, len(os.sched_getaffinity(0)) // 2))
    assert f"threads {shared}" in (runs / "seed=0,width=32" / "toy.log").read_text()

    (toy.parent / "fail-64-1").unlink()
    (runs / "seed=0,width=64" / "done.json").write_text('{"width"')  # damaged
    second, anew = quietly(toy, grid), (runs / "seed=0,width=64", runs / "seed=1,width=64")
    assert second == dict.fromkeys(first, "finished before") | dict.fromkeys(anew, "finished")
    assert ran(toy) == 6 and ran(toy, "64-1") == 2 and not list(out.glob(".*"))

    table = pd.read_csv(out / "results.csv")
    assert table[["width", "seed", "toy.sum"]].values.tolist() == [[32, 0, 32], [64, 0, 64], [32, 1, 33], [64, 1, 65]]
    assert set(table["rate"]) == {0.5} and set(table["layers"]) == {"[1, 2]"}  # the defaults stand in the table too
    assert {"seconds", "commit", "code_hash", "versions.torch"} <= set(table.columns)

    # Another code makes another run; what the old one found stays, and is no row of the new table.
    toy.write_text(toy.read_text().replace("width + seed", "width - seed"))
    third = quietly(toy, {"width": "64", "seed": "1"})
    assert [*third.values()] == ["finished"] and pd.read_csv(out / "results.csv")["toy.sum"].tolist() == [63]
    assert (
        code_hash(toy) != runs.name
        and json.loads((runs / "seed=1,width=64" / "done.json").read_text())["toy.sum"] == 65
    )


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({"seed": "0", "width": "32,wide"}, "width='wide' is of type str: give a whole number"),
        ({"rate": "0.1,fast"}, "rate='fast' is of type str: give a finite number"),
        ({"kind": "plain,odd"}, r"kind=\"odd\" is unknown: take one of plain, fancy"),
        ({"wdth": "32"}, "no parameter 'wdth'.*did you mean width.*seed=0"),
        ({"width": "32,"}, "leaves a value empty"),
    ],
)
def test_what_does_not_fit_the_notebook_is_refused_before_anything_starts(toy, grid, words):
    with pytest.raises(InputError, match=words):
        quietly(toy, grid)
    assert ran(toy) == 0 and not (toy.parent / "out").exists()


def test_values_take_the_notebooks_types_and_each_combination_a_folder_of_its_own(toy):
    runs = plan(toy, {"seed": "1,0,1", "rate": "1,1e-4", "layers": "[1, 2],[3]"}, Path("out"))
    first = next(iter(runs.values()))
    assert len(runs) == 8 and first == {"seed": 1, "rate": 1.0, "layers": [1, 2]} and isinstance(first["rate"], float)
    swapped = plan(toy, {"rate": "1", "seed": "1"}, Path("out"))
    again = plan(toy, {"seed": "1", "rate": "1"}, Path("out"))
    assert [*swapped] == [*again] == [Path("out") / "rate=1.0,seed=1"]


def test_any_setting_of_the_models_is_swept_and_only_where_the_notebook_makes_them(toy, monkeypatch):
    with pytest.raises(InputError, match=r"no parameter 'config.preset'"):
        plan(toy, {"preset": "small"}, Path("out"))
    toy.write_text(toy.read_text().replace('\\"as asked\\"', '\\"as asked\\"  # size.model(data)'))
    runs = plan(toy, {"preset": "tiny,small", "config.dropout": "0.1,0", "config.modalities": "['text']"}, Path("out"))
    assert len(runs) == 4 and {run["config.dropout"] for run in runs.values()} == {0.1, 0.0}
    assert all(run["config.modalities"] == ["text"] for run in runs.values())
    for grid, words in (
        ({"config.width": "33"}, "did you mean width"),  # the notebook's own parameter
        ({"config.heads": "3"}, "cannot be split into heads=3"),
        ({"config.dropot": "0.1"}, r"did you mean config.dropout"),
        ({"config.dropout": "2"}, "dropout=2.0 is outside its range: take 0 to 0.9999"),
        ({"preset": "huge"}, "huge"),
    ):
        with pytest.raises(InputError, match=words):
            plan(toy, grid, Path("out"))
    monkeypatch.setenv("M6REC_CONFIG", json.dumps({"preset": "small", "dropout": 0.1}))
    assert scale("quick").preset == "small" and scale("quick").changes == {"dropout": 0.1}


def test_the_best_combination_is_by_the_mean_over_its_seeds():
    rows = {"config.dropout": [0.1, 0.1, 0.3, 0.3], "seed": [0, 1, 0, 1], "x.ndcg10": [0.9, 0.1, 0.6, 0.6]}
    table = pd.DataFrame(rows)
    first = best(table, ["config.dropout", "seed"]).splitlines()[3].split()
    assert first == ["0.3", "0.6000", "2"]
    assert best(table, ["config.dropout", "seed"], "-x.ndcg10").splitlines()[3].split()[1] == "0.5000"
    assert "did you mean x.ndcg10" in best(table, ["seed"], "x.ndcg")


def test_values_that_look_alike_in_a_folder_name_stay_apart(toy):
    toy.write_text(toy.read_text().replace("# plain | fancy", "# any word"))
    names = [folder.name for folder in plan(toy, {"kind": "a/b,a b,../b"}, Path("out"))]
    assert len(set(names)) == 3 and not any("/" in name for name in names)
    long = plan(toy, {"kind": ",".join("x" * 300 + end for end in "ab")}, Path("out"))
    assert len(long) == 2 and all(len(folder.name) < 200 for folder in long)


def test_a_second_sweep_in_a_folder_and_a_table_of_somebody_else_are_refused_at_once(toy):
    out = toy.parent / "out"
    with locked(out / "results.csv"), pytest.raises(InputError, match=r"another process writes .*results.csv: wait"):
        quietly(toy, {"seed": "0"})
    (out / "results.csv").write_text("mine\n1\n")
    with pytest.raises(InputError, match=r"results.csv is no table of a sweep: name another folder"):
        quietly(toy, {"seed": "0"})
    assert ran(toy) == 0 and (out / "results.csv").read_text() == "mine\n1\n" and not list(out.glob(".*"))


@pytest.mark.parametrize("row", ["", "[", "3", "[]", "{}", '{"code_hash": "of other code"}', "\udcff", None])
def test_a_damaged_row_is_no_finished_run(tmp_path, row):
    if row is not None:
        (tmp_path / "done.json").write_text(row, encoding="utf-8", errors="surrogateescape")
    assert finished(tmp_path) is None
    (tmp_path / "done.json").write_text(json.dumps({"seed": 1, "code_hash": tmp_path.parent.name}))
    assert finished(tmp_path)["seed"] == 1


@pytest.mark.parametrize("send", [lambda pid: os.killpg(pid, signal.SIGINT), lambda pid: os.kill(pid, signal.SIGTERM)])
def test_ctrl_c_or_a_schedulers_signal_ends_every_process_and_keeps_what_was_finished(toy, send, python):
    out, orders = toy.parent / "out", toy.parent
    (orders / "wait-32-1").touch()
    command = [*python, "-m", "m6rec", "sweep", toy, "seed=0,1,2", "--out", out]
    started: list[psutil.Process] = []
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # As at a terminal: what a shell starts in the background inherits a SIGINT that is ignored, this test too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            while not (kernels := [path for path in orders.glob("ran-32-1-*") if path.read_text()]):
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.1)
            started = [psutil.Process(int(kernels[0].read_text())), psutil.Process(process.pid)]
            started += started[1].children(recursive=True)
            send(process.pid)
            said = process.communicate(timeout=60)[1]
            alive = psutil.wait_procs(started, timeout=20)[1]
        finally:  # where the sweep leaves something behind, this test does not
            process.kill()
            for one in psutil.wait_procs(started, timeout=0)[1]:
                one.kill()
    assert process.returncode == 130 and "Traceback" not in said and alive == []
    assert [path.parent.name for path in out.glob("*/*/done.json")] == ["seed=0"]
    assert pd.read_csv(out / "results.csv")["toy.sum"].tolist() == [32] and ran(toy, "32-2") == 0
    assert not list(out.glob(".*"))
