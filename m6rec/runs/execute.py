"""Notebooks executed by papermill: parameters are checked before anything starts; figures and a log beside the copy."""

import ast
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import nbformat
import papermill
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor

from m6rec.errors import InputError, did_you_mean
from m6rec.record import Figure, recorded

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # read by torch and numpy as they are loaded


class Execution(NamedTuple):
    """One executed notebook: its copy with outputs, its time, and why it did not run to its end, if it did not."""

    path: Path
    seconds: float
    error: str = ""

    @property
    def ok(self) -> bool:
        return not self.error

    @property
    def log(self) -> Path:
        """What the cells have printed."""
        return self.path.with_suffix(".log")

    @property
    def figures(self) -> dict[str, Figure]:
        """What it has recorded."""
        return recorded(self.path.with_suffix(".json"))

    def __str__(self) -> str:
        first = [f"{figure.name} {figure} {figure.label}".strip() for figure in self.figures.values()][:3]
        return (
            f"{'✓' if self.ok else '✗'} {self.path.stem:<24} {self.seconds:5.0f} s  {self.error or ' · '.join(first)}"
        )


def find(folder: Path, names: Sequence[str] | None = None) -> list[Path]:
    """The notebooks of a folder in their order, or those named ("03_context_attention", path and suffix or not)."""
    known = {path.stem: path for path in sorted(Path(folder).glob("[0-9]*.ipynb"))}
    if not known:
        raise InputError(f"{folder} holds no notebook (00_….ipynb): work in a clone of m6rec, which has them.")
    stems = [Path(name).name.removesuffix(".ipynb") for name in names or known]
    for stem in stems:
        if stem not in known:
            raise InputError(
                f"there is no notebook {stem!r}{did_you_mean(stem, known)}; {folder} holds {', '.join(known)}."
            )
    return [known[stem] for stem in stems]


def read(path: Path) -> nbformat.NotebookNode:
    """A notebook as nbformat 4; InputError if it is none."""
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise InputError(f"{path} cannot be read as a notebook ({error}).") from None


def assignments(words: Iterable[str]) -> dict[str, str]:
    """["hour=21", "seed=1"] as {"hour": "21", "seed": "1"}."""
    pairs = [word.partition("=") for word in words]
    for name, equals, _ in pairs:
        if not equals or not name.isidentifier():
            raise InputError(f"{name!r} is no parameter; write name=value, for instance seed=1.")
    return {name: value for name, _, value in pairs}


def defaults(notebook: Path) -> dict[str, object]:
    """A notebook's parameters by name, with the values of its own literals."""
    return {name: ast.literal_eval(own["default"]) for name, own in papermill.inspect_notebook(str(notebook)).items()}


def check_parameters(notebook: Path, given: Mapping[str, object]) -> dict[str, object]:
    """The given parameters with the types of the notebook's own literals; text is read as a literal where one is due.

    InputError names the unknown one and lists the known, or names the wrong type or choice. papermill would only warn.
    """
    read(notebook)
    where, known, values = Path(notebook).name, papermill.inspect_notebook(str(notebook)), {}
    for name, value in given.items():
        if name not in known:
            own = ", ".join(f"{other}={parameter['default']}" for other, parameter in known.items()) or "none"
            raise InputError(f"{where} has no parameter {name!r}{did_you_mean(name, known)}; it knows {own}.")
        default = ast.literal_eval(known[name]["default"])
        if isinstance(value, str) and not isinstance(default, str):
            with suppress(ValueError, SyntaxError):  # true, false and none as shells write them
                value = ast.literal_eval(value.title() if value.lower() in ("true", "false", "none") else value)
        due = float if known[name]["inferred_type_name"] == "float" else type(default)
        values[name] = value = float(value) if due is float and type(value) is int else value
        if default is not None and type(value) is not due:
            raise InputError(f"{where}: {name} is {due.__name__}, for instance {default!r}, not {value!r}.")
        found = re.match(r"[\w-]+(?: \| [\w-]+)+", known[name]["help"])
        if found and default in (choices := found[0].split(" | ")) and value not in choices:
            raise InputError(f"{where}: {name} is one of {found[0]}, not {value!r}.")
    return values


def execute(
    notebook: Path, out: Path, parameters: Mapping[str, object] = {}, timeout: int | None = None, threads: int = 0
) -> Execution:
    """Run one notebook from the top into `out`, kept when it fails; what it records and prints: out's .json and .log.

    timeout: seconds for one cell. threads: of numpy and torch, for one of several runs at a time: it shows no progress.
    The notebook runs in an empty folder, since it may depend on no other. InputError for parameters that do not fit.
    """
    values, error, start = check_parameters(notebook, parameters), "", time.perf_counter()
    bar = {"desc": Path(notebook).stem, "leave": False, "disable": True if threads else None}  # None: without terminal
    out.parent.mkdir(parents=True, exist_ok=True)
    record, log = (out.absolute().with_suffix(suffix) for suffix in (".json", ".log"))
    record.unlink(missing_ok=True)
    with (
        tempfile.TemporaryDirectory() as cwd,
        log.open("w", encoding="utf-8") as lines,
        patch.dict(os.environ, dict.fromkeys(THREADS * bool(threads), str(threads)) | {"M6REC_RECORD": str(record)}),
    ):
        try:
            papermill.execute_notebook(
                Path(notebook).absolute(), out.absolute(), values, kernel_name="python3", language="python", cwd=cwd,
                progress_bar=bar, stdout_file=lines, stderr_file=lines, execution_timeout=timeout,
                extra_arguments=["--log-level=CRITICAL"],  # else a kernel writes to this terminal
            )  # fmt: skip
        except papermill.PapermillExecutionError as failed:
            error = f"code cell {failed.exec_count}: {failed.ename}: {failed.evalue}"
        except TimeoutError:
            error = f"a cell was stopped after {timeout} s, the time limit"
        except RuntimeError as failed:  # nbclient's DeadKernelError, or a kernel that does not start
            error = f"the kernel ended: {failed}"
    return Execution(out, time.perf_counter() - start, error)


def side_by_side(run: Callable[..., Any], calls: Iterable[tuple], jobs: int) -> Iterator[Any]:
    """run(*arguments) of each of `calls` in processes of their own, `jobs` at a time: what they return, as they end."""
    try:
        yield from Parallel(jobs, return_as="generator_unordered", batch_size=1)(delayed(run)(*one) for one in calls)
    finally:
        get_reusable_executor().shutdown()  # a later call has processes with its own environment
