"""What the peers' scripts share: they read events.csv of a folder, and write <name>.npy and <name>.json into it.

    .venv/bin/python notebooks/peers/exchange.py ml-100k              # writes events.csv and prints the FOLDER
    uv run --script notebooks/peers/recbole_peer.py FOLDER SASRec     # and GRU4Rec, EASE; --cap: seconds of training

or, without uv, by a venv of the script's own and pip 26 or newer, which reads the same header:

    python -m venv .venv-recbole && .venv-recbole/bin/pip install -U pip
    .venv-recbole/bin/pip install --requirements-from-script notebooks/peers/recbole_peer.py
    .venv-recbole/bin/python notebooks/peers/recbole_peer.py FOLDER SASRec

<name>.npy has the scores (U, N) of the test targets, which 08_evaluation ranks as all others at full scale; <name>.json
what training cost. In the peers' environments this needs nothing but numpy.
"""

import argparse
import copy
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class TimeUp(Exception):
    """The time for training is up."""


class Task(NamedTuple):
    """What to do, and the events, user by user, each user's in time order."""

    folder: Path
    model: str
    seed: int
    threads: int
    cap: float  # seconds of training
    items: int  # N
    user: np.ndarray  # (E,) int64
    item: np.ndarray  # (E,) int64
    part: np.ndarray  # (E,) text: train, valid, test, or history where it is only what precedes a target

    def rows(self, part: str) -> np.ndarray:
        """The rows of a part: training events, or targets in the order of their scores."""
        return np.flatnonzero(self.part == part)

    def past(self, row: int) -> np.ndarray:
        """The items of the same user before an event, oldest first."""
        return self.item[np.searchsorted(self.user, self.user[row]) : row]


class Epochs:
    """Called after every epoch: notes the curve, keeps the best state, and raises TimeUp when the time is up.

    curve: (seconds since the start of training, validation NDCG@10 unmasked) of each epoch.
    """

    def __init__(self, cap: float, state: Callable[[], Any]):
        self.cap, self.state = cap, state
        self.curve: list[tuple[float, float]] = []
        self.best: Any = None
        self.spent = 0.0  # seconds that only we needed, which are not the peer's
        self.start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds of training so far."""
        return time.perf_counter() - self.start - self.spent

    @property
    def over(self) -> bool:
        """Whether the time is up: asked before every batch, since one epoch can take minutes."""
        return self.seconds > self.cap

    def __call__(self, ndcg: float) -> None:
        seconds = self.seconds
        if not self.curve or ndcg > max(value for _, value in self.curve):
            self.best = copy.deepcopy(self.state())
        self.curve.append((round(seconds, 3), float(ndcg)))
        print(f"epoch {len(self.curve)}: {seconds:.1f} s, validation NDCG@10 {ndcg:.4f} unmasked", flush=True)
        self.spent = time.perf_counter() - self.start - seconds
        if self.over:
            raise TimeUp


def read() -> Task:
    """The task that the command line gives: a folder with events.csv, a model's name, and options."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cap", type=float, default=1200.0, help="seconds of training")
    asked = parser.parse_args()
    del sys.argv[1:]  # RecBole reads what is left there as settings
    items = json.loads((asked.folder / "catalogue.json").read_text())["items"]
    columns = np.loadtxt(asked.folder / "events.csv", dtype=str, delimiter=",", skiprows=1, ndmin=2).T
    events = columns[0].astype(np.int64), columns[1].astype(np.int64), columns[2]
    return Task(asked.folder.resolve(), asked.model, asked.seed, asked.threads, asked.cap, items, *events)


def write(folder: Path, name: str, scores: np.ndarray | None = None, **log: Any) -> None:
    """Write <name>.json with what is given and this process's peak memory in bytes; <name>.npy: scores (U, N)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if scores is not None:
        np.save(folder / f"{name}.npy", scores)
    (folder / f"{name}.json").write_text(json.dumps({"name": name, **log, "memory": peak}))


def write_events(folder: Path, data: Any, split: Any) -> None:
    """events.csv: user, item and part of every event of an m6rec data set, user by user, in time order."""
    part = np.where(split.train, "train", "history").astype(object)  # history: only what precedes a target
    part[split.valid], part[split.test] = "valid", "test"
    folder.mkdir(parents=True, exist_ok=True)
    data.events[["user", "item"]].assign(part=part).to_csv(folder / "events.csv", index=False)
    (folder / "catalogue.json").write_text(json.dumps({"items": data.n_items, "catalogue": data.catalogue}))


if __name__ == "__main__":
    import m6rec
    from m6rec.data.sources import home

    loaded = m6rec.load(sys.argv[1])
    write_events(home() / "peers" / loaded.name, loaded, loaded.split())
    print(home() / "peers" / loaded.name)
