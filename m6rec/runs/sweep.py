"""Sweeps: one notebook through every combination of parameters, each run in a folder of its own, and one table of all.

A run is finished when its folder holds done.json, which is written last and whole. Finished runs of the same code are
not repeated, all others are; what an older code left is set aside, never deleted.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
import re
import shutil
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

import papermill
import psutil
from rich.console import Console
from rich.markup import escape
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from m6rec.errors import InputError
from m6rec.record import code_hash, cores, environment, recorded, write_json
from m6rec.runs import notebooks
from m6rec.runs.execute import check_parameters, execute
from m6rec.runs.tables import write_tables

DONE = "done.json"


class Run(NamedTuple):
    """One combination: its folder, the parameters given to it, and all that the notebook then has."""

    folder: Path
    given: dict[str, Any]
    parameters: dict[str, Any]


class Sweep(NamedTuple):
    """What became of a sweep: the runs finished now and before, the failed ones with their errors, and the tables."""

    ran: list[Run]
    kept: list[Run]
    failed: dict[Path, str]
    tables: list[Path]


def plan(notebook: Path, grid: Mapping[str, str], out: Path) -> list[Run]:
    """Every combination of {"width": "32,64", "seed": "0,1"}; InputError if a name or a type does not fit."""
    choices = {}
    for name, text in grid.items():
        values = [value.strip() for value in re.split(r",(?![^(\[{]*[)\]}])", text)]  # not inside [1, 2]
        if "" in values:
            raise InputError(f"{name}={text} leaves a value empty: write the values between single commas, {name}=a,b.")
        typed = [check_parameters(notebook, {name: value})[name] for value in values]
        choices[name] = [value for place, value in enumerate(typed) if value not in typed[:place]]
    known = papermill.inspect_notebook(str(notebook))
    defaults = {name: ast.literal_eval(parameter["default"]) for name, parameter in known.items()}
    given = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
    return [Run(out / _name(one), one, {**defaults, **one}) for one in given]


def sweep(
    notebook: Path,
    grid: Mapping[str, str],
    out: Path,
    *,
    jobs: int = 1,
    timeout: float | None = None,
    dry_run: bool = False,
    console: Console | None = None,
) -> Sweep:
    """Run every combination that is not finished, `jobs` at a time with the cores shared between them.

    timeout: seconds for one run. An interrupt ends the runs that are under way, writes the tables of the finished ones
    and is raised again. InputError, before anything starts, if the grid does not fit the notebook.
    """
    if jobs < 1:
        raise InputError(f"jobs={jobs} runs nothing: take 1 or more.")
    console = console or Console()
    notebook, out = Path(notebook), Path(out).absolute()
    runs = plan(notebook, grid, out)
    code = code_hash(notebook)
    kept = [run for run in runs if _finished(run, code)]
    todo = [run for run in runs if run not in kept]
    if dry_run:
        for run in runs:
            state = "finished" if run in kept else "to run  "
            console.print(f"{state}  {run.folder.name}", markup=False, highlight=False, soft_wrap=True)
        return Sweep([], kept, {}, [])
    out.mkdir(parents=True, exist_ok=True)
    failed: dict[Path, str] = {}
    try:
        _run_all(notebook, todo, out, jobs, timeout, console, failed)
    finally:
        tables = write_tables(out, code)
    return Sweep([run for run in todo if run.folder not in failed], kept, failed, tables)


def _run_all(notebook, todo, out, jobs, timeout, console, failed) -> None:
    stopping = threading.Event()
    cells = len(notebooks.read(notebook).cells)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress, ThreadPoolExecutor(jobs) as pool:
        total = progress.add_task(escape(notebook.stem), total=len(todo))

        def one(run: Run) -> str:
            if stopping.is_set():
                return "not started"
            line = progress.add_task(f"  {escape(run.folder.name)}", total=cells)
            try:
                moved = lambda cell: progress.update(line, completed=cell)  # noqa: E731
                return _run(notebook, run, max(1, cores() // jobs), timeout, moved, stopping)
            finally:
                progress.remove_task(line)

        waiting = {pool.submit(one, run): run for run in todo}
        try:
            while waiting:
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    run = waiting.pop(future)
                    if error := future.result():
                        failed[run.folder] = error
                    progress.update(total, advance=1)
                    said = f"failed    {run.folder.name}: {error}" if error else f"finished  {run.folder.name}"
                    progress.console.print(said, markup=False, highlight=False, soft_wrap=True)
        except BaseException:
            stopping.set()
            while waiting:  # a run may start its process just now: look again until every thread has come back
                _stop_children(out)
                for future in wait(waiting, timeout=1).done:
                    del waiting[future]
            raise


def _run(notebook: Path, run: Run, threads: int, timeout, moved: Callable, stopping: threading.Event) -> str:
    """Execute one run in an empty folder and mark it done; why it failed, or nothing."""
    if run.folder.exists():
        _clear(run.folder)
    run.folder.mkdir()
    record = run.folder / "figures.json"
    origin = {**environment(), "threads": threads, "code_hash": code_hash(notebook)}
    done = execute(notebook, run.folder / notebook.name, run.given, log=run.folder / "log.txt", timeout=timeout,
                   threads=threads, record=record, on_cell=moved)  # fmt: skip
    if not done.ok or stopping.is_set():
        return f"{done.error or 'stopped'} (see {run.folder / 'log.txt'})"
    figures = {name: [figure.value, figure.low, figure.high] for name, figure in recorded(record).items()}
    marker = {"parameters": run.parameters, "figures": figures, "seconds": round(done.seconds, 1), "run": origin}
    write_json(run.folder / DONE, marker)
    return ""


def _finished(run: Run, code: str) -> bool:
    marker = run.folder / DONE
    if not marker.exists():
        return False
    done = json.loads(marker.read_text(encoding="utf-8"))
    return done["run"]["code_hash"] == code and done["parameters"] == json.loads(json.dumps(run.parameters))


def _clear(folder: Path) -> None:
    """Make room for a run: what failed or was interrupted goes, what finished under another code is set aside."""
    marker = folder / DONE
    if marker.exists():
        old = json.loads(marker.read_text(encoding="utf-8"))["run"]["code_hash"]
        aside = folder.with_name(f"{folder.name} (code {old})")
        shutil.rmtree(aside, ignore_errors=True)  # the same run of the same code, from before
        folder.rename(aside)
    else:
        shutil.rmtree(folder)


def _name(given: Mapping[str, Any]) -> str:
    """A folder's name from its parameters, in one order whatever the order in which they were given."""
    exact = ",".join(f"{name}={given[name]}" for name in sorted(given)) or "defaults"
    name = re.sub(r"[^\w=,.+-]", "_", exact)[:100]
    return name if name == exact else f"{name}-{hashlib.sha256(exact.encode()).hexdigest()[:8]}"


def _stop_children(out: Path) -> None:
    """End the papermill processes that write below `out`, and their kernels, which live in sessions of their own."""
    found: list[psutil.Process] = []
    for process in psutil.Process().children():
        try:
            if any(str(out) in word for word in process.cmdline()):
                found += [process, *process.children(recursive=True)]
        except psutil.Error:  # it ended in the meantime
            continue
    for signal in (psutil.Process.terminate, psutil.Process.kill):
        for process in found:
            try:
                signal(process)
            except psutil.NoSuchProcess:
                continue
        found = psutil.wait_procs(found, timeout=5)[1]
