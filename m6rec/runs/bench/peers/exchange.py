"""The peers' side of the exchange folder: read the events and the task, write scores and what the training cost.

It runs in the environments of the peers, so it needs nothing but numpy.
"""

from __future__ import annotations

import copy
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Capped(Exception):
    """The time for training is up, after a whole epoch."""


class Cut(Exception):
    """The time for training is up within an epoch: what there is still has to be validated."""


class Task(NamedTuple):
    """What to do, and the events, user by user, each user's in time order."""

    folder: Path
    settings: dict[str, Any]  # model, options, items, seed, threads, cap
    user: np.ndarray  # (E,) int64
    item: np.ndarray  # (E,) int64
    part: np.ndarray  # (E,) text: train, valid, test, or history where it is only what precedes a target

    def rows(self, part: str) -> np.ndarray:
        """The rows of a part: the training events, or the targets in the order in which their scores are written."""
        return np.flatnonzero(self.part == part)

    def past(self, row: int) -> np.ndarray:
        """The items of the same user before an event, oldest first."""
        return self.item[np.searchsorted(self.user, self.user[row]) : row]


class Epochs:
    """Called after every epoch: notes the curve, keeps the best state, and raises Capped when the time is up.

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
            raise Capped


def read() -> Task:
    """The task in the folder that the command line names."""
    folder = Path(sys.argv.pop(1))  # popped: RecBole reads what is left there as settings
    settings = json.loads((folder / "task.json").read_text())
    columns = np.loadtxt(folder / "events.csv", dtype=str, delimiter=",", skiprows=1, ndmin=2).T
    return Task(folder, settings, columns[0].astype(np.int64), columns[1].astype(np.int64), columns[3])


def scores(task: Task, part: str) -> np.memmap:
    """The file for the scores (U, N) of a part's targets, to be filled; -inf where nothing is written."""
    name = "scores.npy" if part == "test" else "valid_scores.npy"
    shape = (len(task.rows(part)), task.settings["items"])
    file = np.lib.format.open_memmap(task.folder / name, mode="w+", dtype=np.float32, shape=shape)
    file[:] = -np.inf
    return file


def write(folder: Path, **log: Any) -> None:
    """Write log.json with what is given and the peak memory of this process in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    (folder / "log.json").write_text(json.dumps({**log, "memory": peak}))
