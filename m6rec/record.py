"""What a run leaves behind: its figures, and what they came from.

`record` is the only way to write a result. A runner (papermill, sweep, results) names a JSON file in the environment
variable M6REC_RECORD and finds the figures there; without it they stay in memory, so a notebook that is opened by hand
writes nothing. `environment` and `code_hash` say which machine, versions and code a figure came from.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from m6rec.cache import code_key, whole
from m6rec.errors import InputError

PACKAGE = Path(__file__).resolve().parent
SHOWS = ("view",)  # it cannot change a figure
VERSIONED = ("m6rec", "torch", "numpy", "pandas", "scipy", "scikit-learn", "matplotlib", "papermill")

_in_memory: dict[str, Figure] = {}


class Figure(NamedTuple):
    """A recorded number with its 95 % interval. low and high are None where nothing was resampled (one number)."""

    name: str
    value: float
    low: float | None
    high: float | None
    n: int  # users behind it, 0 if it is not a mean over users
    seeds: int
    label: str = ""  # what it is, where the name does not say it
    split: str = ""  # the events that it was measured on: "test" or "valid", nothing for a time or a size

    def plain(self) -> dict[str, Any]:
        """As it stands in JSON under its name: without what is empty."""
        return {key: value for key, value in self._asdict().items() if key != "name" and value != ""}

    def __repr__(self) -> str:
        return short(self.value) if self.low is None else f"{short(self.value)} [{short(self.low)}, {short(self.high)}]"


def record(name: str, *, per_user=None, value=None, over=None, label: str = "", split: str | None = None) -> Figure:
    """Record one figure under a name that no other figure has, and return it.

    per_user: (U,) or (S, U), one number a user (and seed); the figure is the mean, its interval a bootstrap over users
    of the mean over seeds. value: one number, which has no interval, or a list with one a seed. over: an array of the
    same shape; the figure is then mean(per_user) / mean(over), and both meet the same resampled users.
    label: what it is, where the name does not say it. split: what it was measured on, "test" where users are behind it.
    Raises InputError for a name that this run has recorded, for both or neither of per_user and value, for NaN.
    """
    if not isinstance(name, str) or not name or name == "run" or name != "".join(name.split()):
        raise InputError(f'{name!r} cannot name a figure: take words joined by dots, like "ml100k.ndcg10.dense".')
    if (per_user is None) == (value is None):
        raise InputError(f"{name} needs either per_user=array or value=number: give one of them.")
    split = split if split is not None else "" if per_user is None else "test"
    figure = Figure(name, *_measured(name, per_user, value, over), label, split)
    _keep(figure)
    return figure


def recorded(path: str | Path | None = None) -> dict[str, Figure]:
    """The figures in a file that a run has recorded to, or without a path those in this process's memory."""
    if path is None:
        return dict(_in_memory)
    figures = json.loads(Path(path).read_text()) if Path(path).exists() else {}
    return {name: Figure(name, **figure) for name, figure in figures.items()}


def _measured(name: str, per_user, value, over) -> tuple[float, float | None, float | None, int, int]:
    # Lazy: who only reads records does not import torch, which evaluate brings along.
    from m6rec.evaluate.statistics import mean_interval, ratio_interval, seeds_interval

    given = np.asarray(value if per_user is None else per_user, dtype=np.float64)
    if over is not None and np.shape(over) != given.shape:
        raise InputError(f"{name}: over has the shape {np.shape(over)}, and what it divides {given.shape}: pair them.")
    if given.ndim > (1 if per_user is None else 2):
        raise InputError(f"{name} has the shape {given.shape}: give one number a user, a seed, or a seed and user.")
    try:
        if per_user is not None:
            return tuple(mean_interval(given) if over is None else ratio_interval(given, over))
        # A resampled quotient of seeds is a quotient of means over "users" that are the seeds.
        interval = seeds_interval(given) if over is None else ratio_interval(np.atleast_1d(given), np.atleast_1d(over))
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    if given.size == 1:
        return interval.value, None, None, 0, 1
    return interval.value, interval.low, interval.high, 0, given.size


def _keep(figure: Figure) -> None:
    path = os.environ.get("M6REC_RECORD")
    if not path:
        _in_memory[figure.name] = figure  # a cell that is run again by hand replaces its figure
        return
    figures = recorded(path)
    if figure.name in figures:
        raise InputError(f"{figure.name} is recorded twice in one run: give the second figure a name of its own.")
    figures[figure.name] = figure._replace(low=_bound(figure.low), high=_bound(figure.high))
    write_json(path, {name: figure.plain() for name, figure in figures.items()})


def _bound(value: float | None) -> float | None:
    """A quotient of rare hits can have no upper end, which JSON cannot say: then there is none."""
    return value if value is not None and math.isfinite(value) else None


def write_json(path: str | Path, content: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all: a reader, or an interrupted writer, never sees half of it."""
    with whole(path) as new:
        new.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def short(number: float | None, digits: int = 4) -> str:
    """A number as people read it: `digits` significant digits, whole numbers whole, a dash for none."""
    if number is None or not np.isfinite(number):
        return "–"
    return f"{number:.0f}" if float(number).is_integer() else f"{number:.{_places(number, digits)}f}"


def rounded(number: float, digits: int = 4) -> float:
    """Round to significant digits, but keep every digit left of the point: 12101 stays 12101, .123456 is .1235."""
    return round(number, _places(number, digits))


def _places(number: float, digits: int) -> int:
    return max(0, digits - 1 - math.floor(math.log10(abs(number)))) if number else 0


def environment() -> dict[str, Any]:
    """What a figure came from: commit, dirty (uncommitted changes in the code), versions, device, cores, threads."""
    import torch

    commit, dirty = _commit()
    versions = {"python": platform.python_version()}
    for package in VERSIONED:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "commit": commit,
        "dirty": dirty,
        "versions": versions,
        "platform": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "cores": cores(),
        "threads": torch.get_num_threads(),
    }


def cores() -> int:
    """The processor cores that this process may use, which a container makes fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def code_hash(notebook: str | Path) -> str:
    """A hash of a notebook's code cells, without comments, and of the package's code that they can reach."""
    cells = [c for c in json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    own = ["".join(c["source"]) for c in cells if "injected-parameters" not in c["metadata"].get("tags", [])]
    lines = [line for cell in own for line in cell.splitlines() if not line.startswith(("%", "!"))]
    return code_key(skip=SHOWS, source="\n".join(lines))


def _commit() -> tuple[str | None, bool | None]:
    """The clone's commit and whether its code differs from it; None where the package is not a clone of its own."""
    clone = PACKAGE.parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(clone), *words], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # A wheel inside somebody's clone (.venv/…/site-packages) must not take their commit for its own.
    if git("rev-parse", "--show-toplevel") != str(clone):
        return None, None
    changed = git("status", "--porcelain", "--", "m6rec", "notebooks", ":!notebooks/results")
    return git("rev-parse", "--verify", "HEAD"), bool(changed)
