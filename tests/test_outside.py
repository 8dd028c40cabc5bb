"""Other people's code beside 08: what goes over is the split and nothing else, and its scripts say what they need."""

from __future__ import annotations

import json
import re
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fixtures import small_data

PEERS = Path(__file__).parents[1] / "notebooks" / "peers"


@pytest.fixture(scope="module")
def data():
    return small_data()


@pytest.fixture
def exchange(monkeypatch):
    monkeypatch.syspath_prepend(str(PEERS))
    import exchange

    return exchange


def test_the_events_that_go_over_are_the_data_set_and_its_split(data, tmp_path, exchange):
    split = data.split()
    exchange.write_events(tmp_path, data, split)
    frame = pd.read_csv(tmp_path / "events.csv")
    assert list(frame.columns) == ["user", "item", "part"]
    assert np.array_equal(frame[["user", "item"]], data.events[["user", "item"]])
    assert np.array_equal(np.flatnonzero(frame["part"] == "train"), np.flatnonzero(split.train))
    assert np.array_equal(np.flatnonzero(frame["part"] == "valid"), split.valid)
    assert np.array_equal(np.flatnonzero(frame["part"] == "test"), split.test)


def test_under_a_split_by_time_what_is_neither_trained_on_nor_predicted_is_history(data, tmp_path, exchange):
    split = data.split("global_time")
    exchange.write_events(tmp_path, data, split)
    part = pd.read_csv(tmp_path / "events.csv")["part"]
    assert (part == "history").sum() == data.n_events - split.train.sum() - len(split.valid) - len(split.test) > 0
    assert set(part[split.train]) == {"train"}


def test_a_peer_reads_what_was_written_and_sees_only_what_precedes_a_target(data, tmp_path, exchange, monkeypatch):
    split = data.split()
    exchange.write_events(tmp_path, data, split)
    monkeypatch.setattr(sys, "argv", ["peer", str(tmp_path), "SASRec", "--cap", "5"])
    task = exchange.read()
    assert sys.argv == ["peer"] and (task.model, task.cap, task.items) == ("SASRec", 5, data.n_items)
    history = data.targets(split.test).history()
    for row, past in zip(task.rows("test"), history, strict=True):
        assert np.array_equal(task.past(row), past[past >= 0])
    scores = np.zeros((len(task.rows("test")), task.items), np.float32)
    exchange.write(tmp_path, "peer", scores, seconds=1.5)
    assert np.load(tmp_path / "peer.npy").shape == (len(split.test), data.n_items)
    log = json.loads((tmp_path / "peer.json").read_text())
    assert log["seconds"] == 1.5 and log["memory"] > 0


def test_the_clock_keeps_the_best_epoch_and_stops_after_the_cap(exchange):
    state = {"epoch": 0}
    epochs = exchange.Epochs(0.2, lambda: state)
    for state["epoch"], ndcg in enumerate((0.1, 0.3, 0.2)):
        epochs(ndcg)
    assert epochs.best == {"epoch": 1}
    assert [ndcg for _, ndcg in epochs.curve] == [0.1, 0.3, 0.2]
    assert not epochs.over
    time.sleep(0.25)
    assert epochs.over
    with pytest.raises(exchange.TimeUp):
        epochs(0.1)


@pytest.mark.parametrize("script", sorted(PEERS.glob("*_peer.py")), ids=lambda path: path.stem)
def test_every_script_pins_what_it_imports(script):
    """In a PEP 723 header, which `uv run --script` and pip read."""
    text = script.read_text()
    header = re.match(r"# /// script\n((?:#.*\n)+?)# ///\n", text)
    needs = tomllib.loads(re.sub("(?m)^# ?", "", header[1]))["dependencies"]
    assert all(re.fullmatch(r"[\w-]+(\[\w+\])?==[\d.]+", need) for need in needs)
    pinned = {re.split(r"[\[=]", need)[0].replace("-", "_") for need in needs}
    imported = set(re.findall(r"(?m)^(?:import|from) (\w+)", text)) - set(sys.stdlib_module_names) - {"exchange"}
    assert imported <= pinned
