"""The whole suite: every notebook in order, into one folder with its report or in place for committing."""

from __future__ import annotations

import ast
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import nbformat
import papermill
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from m6rec.record import code_hash, environment, recorded, write_json
from m6rec.runs import notebooks, report
from m6rec.runs.execute import Execution, check_parameters, execute


class Suite(NamedTuple):
    """A run of notebooks: its folder, what became of each, and every recorded number under its name, with "run"."""

    folder: Path
    executions: list[Execution]
    metrics: dict[str, dict]

    @property
    def ok(self) -> bool:
        return all(execution.ok for execution in self.executions)


def run_all(
    paths: Sequence[Path], runs: Path, parameters: Mapping[str, object] | None = None, *, console: Console | None = None
) -> Suite:
    """Execute notebooks in order into runs/<time>/ with metrics.json and index.html, and point runs/latest at it.

    One that fails does not stop the others: each stands alone. InputError, before any starts, if parameters do not fit.
    """
    console = console or Console()
    for path in paths:
        typed = check_parameters(path, parameters or {})
    folder = runs.absolute() / time.strftime("%Y-%m-%d_%H-%M-%S")
    folder.mkdir(parents=True)
    executions, metrics = [], {}
    for path in paths:
        record = folder / f"{path.stem}.json"
        execution = _follow(console, path, folder / path.name, typed, record)
        figures = {name: _plain(figure) for name, figure in recorded(record).items()}
        if twice := sorted(figures.keys() & metrics.keys()):
            execution = execution._replace(ok=False, error=f"records {twice[0]}, which an earlier notebook recorded")
        metrics.update({name: figure for name, figure in figures.items() if name not in metrics})
        executions.append(execution)
    metrics["run"] = {
        **environment(),
        "code_hash": {path.stem: code_hash(path) for path in paths},
        "seconds": {execution.path.stem: round(execution.seconds, 1) for execution in executions},
        "seed": _seed(paths[0], typed),
        "parameters": typed,
    }
    write_json(folder / "metrics.json", metrics)
    report.build(folder, executions, metrics, source=paths[0].parent.absolute())
    _point(runs / "latest", folder)
    return Suite(folder, executions, metrics)


def refresh(paths: Sequence[Path], *, console: Console | None = None) -> list[Execution]:
    """Execute notebooks in place at their defaults, in order, and clean them for committing.

    One that fails stays as it was; what it printed stands in its Execution's error.
    """
    console, executions = console or Console(), []
    with tempfile.TemporaryDirectory() as folder:
        for path in paths:
            execution = _follow(console, path, Path(folder) / path.name, None, Path(folder) / f"{path.stem}.json")
            if execution.ok:
                nbformat.write(notebooks.clean(notebooks.read(execution.path)), path)
            executions.append(execution._replace(path=path))
    return executions


def closing(console: Console, suite: Suite) -> None:
    """The last words of a run: the recorded numbers, the model's beside the baselines', and where the report is."""
    for name, table in report.tables(suite.metrics).items():
        console.print(_printed(name, table))
    for execution in suite.executions:
        if not execution.ok:
            console.print(f"{execution.path.name} failed: {execution.error}", style="red", markup=False)
    console.print(f"Report: {suite.folder.parent / 'latest' / 'index.html'}", markup=False, soft_wrap=True)


def _follow(console: Console, path: Path, out: Path, parameters: Mapping | None, record: Path) -> Execution:
    """Execute one notebook under a line that moves with its cells; without a terminal only its end is printed."""
    cells = len(notebooks.read(path).cells)
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("cell {task.completed}/{task.total}")
    hidden = not console.is_terminal
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task(path.stem, total=cells)
        moved = lambda cell: progress.update(task, completed=min(cell, cells))  # noqa: E731
        execution = execute(path, out, parameters, record=record, on_cell=moved)
    console.print(f"{'✓' if execution.ok else '✗'} {path.stem:<24} {execution.seconds:5.0f} s", highlight=False)
    if not execution.ok:
        console.print(f"  {execution.error}", style="red", markup=False)
    return execution


def _plain(figure) -> dict:
    return {field: value for field, value in figure._asdict().items() if field != "name"}


def _seed(path: Path, parameters: Mapping[str, object]) -> object:
    known = papermill.inspect_notebook(str(path))
    return parameters.get("seed", ast.literal_eval(known["seed"]["default"]) if "seed" in known else None)


def _point(link: Path, folder: Path) -> None:
    """Turn the link `latest` to a folder beside it, in one step."""
    fresh = link.with_name(f".{link.name}.{os.getpid()}")
    fresh.symlink_to(folder.name, target_is_directory=True)
    os.replace(fresh, link)


def _printed(name: str, table) -> Table:
    # A narrow terminal may break the figures, never the names that tell the rows apart.
    names = Column("", no_wrap=True, min_width=max(map(len, table.index)))
    printed = Table(names, *table.columns, title=Text(name), title_justify="left", box=None)
    for row, values in table.iterrows():
        printed.add_row(*map(Text, (row, *values)))  # Text: an interval's brackets are no markup
    return printed
