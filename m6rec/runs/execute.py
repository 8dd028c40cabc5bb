"""Notebooks run headlessly by papermill: parameters are checked before anything starts; a log, a time limit.

papermill runs in a process of its own, so that each run has its own threads, environment and end.
"""

from __future__ import annotations

import ast
import difflib
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import nbformat
import papermill
import psutil
import yaml

from m6rec.errors import InputError
from m6rec.runs import notebooks

NOISE = re.compile(r"Kernel is running over TCP without encryption|^(Input|Output) Notebook: ")
GRACE = 5.0  # seconds that a stopped run has to end by itself


class Execution(NamedTuple):
    """One executed notebook: its copy with outputs, whether it ran to its end, and if not why."""

    path: Path
    ok: bool
    seconds: float
    error: str = ""


def assignments(words: Iterable[str]) -> dict[str, str]:
    """["hour=21", "seed=1"] as {"hour": "21", "seed": "1"}."""
    pairs = [word.partition("=") for word in words]
    for name, equals, _ in pairs:
        if not equals or not name.isidentifier():
            raise InputError(f"{name!r} is no parameter; write name=value, for instance seed=1.")
    return {name: value for name, _, value in pairs}


def check_parameters(notebook: Path, given: Mapping[str, object]) -> dict[str, object]:
    """The given parameters with the types of the notebook's own literals; text is read as a literal where one is due.

    InputError names the unknown one and lists the known, or names the wrong type or choice. papermill would only warn.
    """
    notebook = Path(notebook)
    notebooks.read(notebook)
    known = papermill.inspect_notebook(str(notebook))
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            lists = ", ".join(f"{name}={parameter['default']}" for name, parameter in known.items())
            raise InputError(f"{notebook.name} has no parameter {name!r}{hint}; it knows {lists or 'none'}.")
    return {name: _typed(notebook.name, known[name], value) for name, value in given.items()}


def _typed(where: str, parameter: dict[str, str], value: object) -> object:
    name, default = parameter["name"], ast.literal_eval(parameter["default"])
    if isinstance(value, str) and not isinstance(default, str):
        text = value.title() if value.lower() in ("true", "false", "none") else value  # as shells write them
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
    due = float if parameter["inferred_type_name"] == "float" else type(default)
    if due is float and type(value) is int:
        value = float(value)
    if default is not None and type(value) is not due:
        raise InputError(f"{where}: {name} is {due.__name__}, for instance {parameter['default']}, not {value!r}.")
    choices = re.match(r"[\w-]+(?: \| [\w-]+)+", parameter["help"])
    if choices and default in choices[0].split(" | ") and value not in choices[0].split(" | "):
        raise InputError(f"{where}: {name} is one of {choices[0]}, not {value!r}.")
    return value


def execute(
    notebook: Path,
    out: Path,
    parameters: Mapping[str, object] | None = None,
    *,
    log: Path | None = None,
    timeout: float | None = None,
    threads: int | None = None,
    record: Path | None = None,
    on_cell: Callable[[int], None] | None = None,
) -> Execution:
    """Run one notebook from the top into `out`, which is kept when it fails.

    log: file for everything that the cells print. timeout: seconds for the whole notebook. threads: of numpy and torch.
    record: the JSON file that `m6rec.record` writes to. on_cell: called with the number of each cell that starts.
    The notebook runs in an empty folder, since it may depend on no other. InputError for parameters that do not fit.
    """
    values = check_parameters(notebook, parameters or {})
    environment = dict(os.environ)
    if threads:
        environment.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)))
    if record:
        environment["M6REC_RECORD"] = str(record.absolute())
    out.parent.mkdir(parents=True, exist_ok=True)
    log = log or out.with_suffix(".log")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as cwd, log.open("w", encoding="utf-8") as lines:
        command = [sys.executable, "-m", "papermill", str(Path(notebook).absolute()), str(out.absolute())]
        command += ["--kernel", "python3", "--language", "python", "--log-output", "--no-progress-bar"]
        if values:
            command += ["--parameters_yaml", yaml.safe_dump(values)]
        code, stopped = _follow(command, cwd, environment, timeout, lines.write, on_cell)
    seconds = time.perf_counter() - start
    if stopped:
        return Execution(out, False, seconds, f"stopped after {timeout:g} s, the time limit")
    return Execution(out, code == 0, seconds, "" if code == 0 else _reason(out, log))


def _follow(command, cwd, environment, timeout, write, on_cell) -> tuple[int, bool]:
    """Run a command, hand its lines on as they come, and never leave it behind: (exit code, stopped by the limit)."""
    stopped = threading.Event()
    process = subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )

    def stop() -> None:
        stopped.set()
        _end(process)

    timer = threading.Timer(timeout or threading.TIMEOUT_MAX, stop)
    timer.daemon = True
    timer.start()
    try:
        for line in process.stdout:
            if on_cell and (cell := re.match(r"Executing Cell (\d+)-", line)):
                on_cell(int(cell[1]))
            if not NOISE.search(line):
                write(line)
        return process.wait(), stopped.is_set()
    finally:
        timer.cancel()
        _end(process)
        process.stdout.close()


def _end(process: subprocess.Popen) -> None:
    """End papermill and the kernel that it started, which lives in a session of its own."""
    if process.poll() is not None:
        return
    with suppress(psutil.NoSuchProcess):
        kernels = psutil.Process(process.pid).children(recursive=True)
        process.terminate()  # papermill ends its kernel itself, if it has got so far
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for left in psutil.wait_procs(kernels, timeout=1)[1]:
            left.kill()


def _reason(out: Path, log: Path) -> str:
    """Why a run failed: the error that stands in the executed copy, else the log's last line."""
    if out.exists():
        cells = [cell for cell in nbformat.read(out, as_version=4).cells if cell.cell_type == "code"]
        for number, cell in enumerate(cells, 1):
            for output in cell.outputs:
                if output.output_type == "error":
                    return f"code cell {number}: {output.ename}: {output.evalue}"
    lines = log.read_text(encoding="utf-8").strip().splitlines()
    return lines[-1] if lines else "papermill ended without a word"
