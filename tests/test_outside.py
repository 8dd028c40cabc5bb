"""Other people's code in the bench: what goes over is the split and nothing else, and whatever fails is told."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fixtures import small_data

import m6rec
from m6rec.errors import InputError
from m6rec.runs.bench import environments, outside

# A peer that scores every item by the target's own row, so that a mixed-up order shows.
SCORES = """
import json, sys
from pathlib import Path
import numpy as np
folder = Path(sys.argv[1])
task = json.loads((folder / "task.json").read_text())
part = [line.split(",")[3].strip() for line in (folder / "events.csv").read_text().splitlines()[1:]]
for name, which in (("scores.npy", "test"), ("valid_scores.npy", "valid")):
    rows = np.array([row for row, p in enumerate(part) if p == which], dtype=np.float32)
    np.save(folder / name, np.tile(rows[:, None], (1, task["items"])))
log = {"seconds": 1.5, "curve": [[0.5, 0.1], [1.5, 0.2]], "parameters": 7, "memory": 1000, "stopped": "cap"}
(folder / "log.json").write_text(json.dumps(log))
"""


@pytest.fixture(scope="module")
def data():
    return small_data()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("M6REC_HOME", str(tmp_path / "home"))


@pytest.fixture
def peer(tmp_path, monkeypatch):
    """A function that makes the peer "fake" of a script, run by this interpreter."""

    def make(script: str) -> str:
        path = tmp_path / "fake.py"
        path.write_text(script)
        monkeypatch.setitem(outside.PEERS, "fake", outside.Peer("fake", path, "Fake", {}))
        monkeypatch.setattr(outside, "environment", lambda name, say: Path(sys.executable))
        return "fake"

    return make


def run(peer, data, **options) -> outside.Outcome:
    return outside.run(peer, data, data.split(), say=lambda line: None, **options)


def alive(marker: str) -> bool:
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    return any(marker in line for line in listed.splitlines())


def test_the_events_that_go_over_are_the_data_set_and_its_split(data, tmp_path):
    split = data.split()
    outside.write_events(tmp_path, data, split)
    frame = pd.read_csv(tmp_path / "events.csv")
    assert list(frame.columns) == ["user", "item", "order", "part"]
    assert np.array_equal(frame[["user", "item"]], data.events[["user", "item"]])
    assert np.array_equal(np.flatnonzero(frame["part"] == "train"), np.flatnonzero(split.train))
    assert np.array_equal(np.flatnonzero(frame["part"] == "valid"), split.valid)
    assert np.array_equal(np.flatnonzero(frame["part"] == "test"), split.test)
    assert frame.groupby("user")["order"].apply(lambda order: (order.diff().dropna() == 1).all()).all()


def test_under_a_split_by_time_what_is_neither_trained_on_nor_predicted_is_history(data, tmp_path):
    split = data.split("global_time")
    outside.write_events(tmp_path, data, split)
    part = pd.read_csv(tmp_path / "events.csv")["part"]
    assert (part == "history").sum() == data.n_events - split.train.sum() - len(split.valid) - len(split.test) > 0
    assert set(part[split.train]) == {"train"}


def test_the_peers_side_reads_what_was_written_and_sees_only_what_precedes_a_target(data, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(outside.SCRIPTS))
    import exchange

    split = data.split()
    outside.write_events(tmp_path, data, split)
    (tmp_path / "task.json").write_text(json.dumps({"items": data.n_items}))
    monkeypatch.setattr(sys, "argv", ["peer", str(tmp_path)])
    task = exchange.read()
    assert sys.argv == ["peer"]
    history = data.targets(split.test).history()
    for row, past in zip(task.rows("test"), history, strict=True):
        assert np.array_equal(task.past(row), past[past >= 0])
    assert exchange.scores(task, "valid").shape == (len(split.valid), data.n_items)


def test_the_clock_keeps_the_best_epoch_and_stops_after_the_cap(monkeypatch):
    monkeypatch.syspath_prepend(str(outside.SCRIPTS))
    import exchange

    state = {"epoch": 0}
    epochs = exchange.Epochs(0.2, lambda: state)
    for state["epoch"], ndcg in enumerate((0.1, 0.3, 0.2)):
        epochs(ndcg)
    assert epochs.best == {"epoch": 1}
    assert [ndcg for _, ndcg in epochs.curve] == [0.1, 0.3, 0.2]
    assert not epochs.over
    time.sleep(0.25)
    assert epochs.over
    with pytest.raises(exchange.Capped):
        epochs(0.1)


def test_a_peers_scores_come_back_and_are_ranked_for_users_in_any_order(data, peer):
    split = data.split()
    outcome = run(peer(SCORES), data)
    assert (outcome.status, outcome.seconds, outcome.parameters) == ("capped", 1.5, 7)
    assert outcome.curve == [(0.5, 0.1), (1.5, 0.2)]
    model = outcome.model(split)
    for events in (split.test, split.valid):
        shuffled = np.random.default_rng(0).permutation(events)
        assert np.array_equal(model.scores(data.targets(shuffled))[:, 0], shuffled)
    assert m6rec.evaluate(model, data).per_user["rank"].notna().all()
    with pytest.raises(InputError, match="no scores for the target event"):
        model.scores(data.targets(split.test[:1] - 2))
    assert not list((environments.home() / "peers").glob("run-*"))


def test_a_peer_that_overruns_is_ended_with_all_that_it_started(data, peer, monkeypatch):
    monkeypatch.setattr(outside, "GRACE", 0.0)
    script = "import subprocess, sys, time\nprint('epoch 1', flush=True)\n"
    script += "subprocess.run([sys.executable, '-c', 'import time; time.sleep(61.7357)'])"
    started = time.monotonic()
    outcome = run(peer(script), data, cap=1.0)
    assert time.monotonic() - started < 8
    assert outcome.status == "failed" and outcome.scores is None
    assert "was ended after 1 s" in outcome.note and "epoch 1" in outcome.note
    assert not alive("61.7357")
    with pytest.raises(InputError, match="has no scores"):
        outcome.model(data.split())


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("raise SystemError('the moon is full')", "the moon is full"),
        ("pass", r"without a log\.json"),
        (SCORES.replace('task["items"]', "2"), "has the shape"),
        (SCORES.replace("rows[:, None]", "rows[:, None] * np.nan"), "NaN"),
    ],
)
def test_a_peer_that_fails_is_a_row_with_the_reason(data, peer, script, reason):
    outcome = run(peer(script), data)
    assert outcome.status == "failed"
    assert re.search(reason, outcome.note)


def test_a_peer_sees_so_many_threads_and_none_of_our_packages(data, peer, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/ours")
    script = "import os; raise SystemExit(os.environ['OMP_NUM_THREADS'] + str('PYTHONPATH' in os.environ))"
    assert "3False" in run(peer(script), data, threads=3).note


def test_an_unknown_peer_is_named_with_those_there_are(data):
    with pytest.raises(InputError, match="recbole_sasrec"):
        run("recbole", data)


def test_what_cannot_be_installed_is_a_row_and_leaves_nothing_half_made(data, monkeypatch, tmp_path):
    real = environments._step

    def step(command):  # this interpreter's own pip, so that no venv has to be made
        if command[1:3] == ["-m", "venv"]:
            Path(command[-1]).mkdir()
        else:
            real([sys.executable, *command[1:]])

    monkeypatch.setattr(environments, "_step", step)
    needs = environments.Requirements((str(tmp_path / "nowhere.whl"),))
    monkeypatch.setitem(environments.ENVIRONMENTS, "rectools", needs)
    outcome = run("rectools_sasrec", data)
    assert outcome.status == "failed"
    assert "cannot be installed" in outcome.note and "nowhere.whl" in outcome.note
    assert not [path for path in (environments.home() / "peers").iterdir() if path.is_dir()]


def test_a_half_made_environment_is_made_again_and_a_whole_one_is_kept(monkeypatch):
    steps = []

    def step(command):
        steps.append(command)
        if command[1:3] == ["-m", "venv"]:
            Path(command[-1]).mkdir()

    monkeypatch.setattr(environments, "_step", step)
    monkeypatch.setitem(environments.ENVIRONMENTS, "toy", environments.Requirements(("a==1",), ("b==2",)))
    made = environments.environment("toy", lambda line: None)
    folder = made.parent.parent
    assert [command[-1] for command in steps] == [str(folder), "a==1", "b==2"]
    assert "--no-deps" in steps[2] and "--no-deps" not in steps[1]

    assert environments.environment("toy", lambda line: None) == made
    assert len(steps) == 3

    (folder / "whole").unlink()
    (folder / "left over").touch()
    environments.environment("toy", lambda line: None)
    assert len(steps) == 6 and not (folder / "left over").exists()

    monkeypatch.setitem(environments.ENVIRONMENTS, "toy", environments.Requirements(("a==1.1",)))
    assert environments.environment("toy", lambda line: None) != made
