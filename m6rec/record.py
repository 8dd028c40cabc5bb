"""A run's figures, and what they came from.

M6REC_RECORD in the environment names the JSON file for the figures; without it they stay in memory."""

import json
import os
import platform
import subprocess
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from m6rec.cache import PACKAGE, code_key, whole
from m6rec.config import Array, Frame, InputError, typed
from m6rec.evaluate import mean_interval, ratio_interval

_in_memory: "dict[str, Figure]" = {}


class Figure(NamedTuple):
    """A number with its 95 % interval."""

    name: str
    value: float
    low: float | None  # None: not resampled
    high: float | None
    n: int  # users behind it, 0 if it is no mean over users
    seeds: int
    label: str = ""  # where the name does not say it
    split: str = ""  # "test" or "valid", nothing for a time or a size

    def plain(self) -> dict[str, Any]:
        """As in JSON under its name, without empty values; None for infinity."""
        values = {key: value for key, value in self._asdict().items() if key != "name" and value != ""}
        return {key: None if value in (np.inf, -np.inf) else value for key, value in values.items()}

    def __repr__(self) -> str:
        return short(self.value) if self.low is None else f"{short(self.value)} [{short(self.low)}, {short(self.high)}]"


@typed
def record(name: str, *, per_user=None, value=None, over=None, label: str = "", split: str | None = None) -> Figure:
    """Record one figure under its own name, and return it.

    per_user: (U,) or (S, U); the figure is the mean, its interval a bootstrap over users and seeds. value: one number,
    or one a seed, which has no interval. over: of the same users; the figure is then mean(per_user) /
    mean(over), paired. split: by default "test" with per_user. InputError for a recorded name, and for NaN."""
    if name in ("", "run") or name.split() != [name]:
        raise InputError(f'{name!r} cannot name a figure: take words joined by dots, like "ml100k.ndcg10.dense".')
    if (per_user is None) == (value is None):
        raise InputError(f"{name} needs either per_user=array or value=number: give one of them.")
    given = np.atleast_1d(_floats(name, value)) if per_user is None else _floats(name, per_user)
    if per_user is None and given.ndim > 1:
        raise InputError(f"{name} has the shape {given.shape}: give one number, or one a seed.")
    try:
        interval = mean_interval(given) if over is None else ratio_interval(given, np.atleast_1d(_floats(name, over)))
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    if per_user is None:
        interval = interval._replace(low=None, high=None, n=0, seeds=given.size)  # seeds alone give no interval
    split = split if split is not None else "" if per_user is None else "test"
    figure, path = Figure(name, *interval, label, split), os.environ.get("M6REC_RECORD")
    if not path:
        _in_memory[name] = figure  # a cell that runs again replaces its figure
        return figure
    if name in (figures := recorded(path)):
        raise InputError(f"{name} is recorded twice in one run: give the second figure a name of its own.")
    write_json(path, {one.name: one.plain() for one in (*figures.values(), figure)})
    return figure


def _floats(name: str, values: object) -> Array:
    with suppress(TypeError, ValueError, OverflowError):
        if np.size(values) and not np.iscomplexobj(values):
            return np.asarray(values).astype(float)
    raise InputError(f"{name}: {repr(values)[:60]} is no number, and no array of numbers: give one.")


def recorded(path: str | Path | None = None) -> dict[str, Figure]:
    """Of a run's file, or those in memory."""
    if not path:
        return dict(_in_memory)
    try:
        figures = json.loads(Path(path).read_text(encoding="utf-8")) if Path(path).exists() else {}
        return {name: Figure(name, **figure) for name, figure in figures.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} holds no figures ({error}): delete it and run again.") from error


def measured(notebook: str) -> dict[str, Figure]:
    """A notebook's full-size figures in a clone; NaN, a dash, for what it lacks."""
    path, found = PACKAGE.parent / "notebooks" / "results" / f"{notebook}.json", {}
    for name, figure in json.loads(path.read_text(encoding="utf-8")).items() if path.exists() else ():
        if name != "run":
            found[name] = Figure(name, **{key: value for key, value in figure.items() if key != "from"})
    return defaultdict(lambda: Figure("", np.nan, None, None, 0, 0), found)


def tabled(figures: Mapping[str, Figure], *starts: str) -> Frame:
    """Those whose names begin so, largest first, under what follows the second dot."""
    rows = {n.split(".", 2)[2].replace("_", " "): f[1:7] for n, f in figures.items() if n.startswith(starts)}
    columns = ["value", "low", "high", "n", "seeds", "what"]
    return Frame.from_dict(rows, "index", columns=columns).sort_values("value", ascending=False)


def write_json(path: str | Path, content: dict[str, Any]) -> None:
    with whole(path) as new:
        new.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def short(number: float | None) -> str:
    """Four significant digits, but all left of the point: 12101, .1235; a dash for none."""
    if number is None or not np.isfinite(number):
        return "–"
    places = 3 - int(np.floor(np.log10(abs(number)))) if number % 1 else 0
    return f"{number:.{max(0, places)}f}"


def environment() -> dict[str, Any]:
    """Of a figure. commit, dirty (uncommitted changes in the code): None outside a clone of m6rec."""
    clone = PACKAGE.resolve().parent

    def git(*words):
        command = ["git", "-C", str(clone), *words]
        with suppress(OSError, subprocess.SubprocessError):
            return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()

    # A wheel in somebody's clone does not take their commit.
    ours = git("rev-parse", "--show-toplevel") == str(clone)
    changed = ours and git("status", "--porcelain", "--", "m6rec", "notebooks", ":!notebooks/results")
    return {
        "commit": git("rev-parse", "--verify", "HEAD") if ours else None,
        "dirty": bool(changed) if ours else None,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "platform": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def code_hash(notebook: str | Path) -> str:
    """Of a notebook's code, without comments, and of all of the package that it can reach."""
    try:
        cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        return code_key(skip=(), source="\n".join(line for line in code.splitlines() if line[:1] not in ("%", "!")))
    except (ValueError, KeyError, TypeError, SyntaxError) as error:
        raise InputError(f"{notebook} cannot be read as a notebook in Python ({error}).") from None
