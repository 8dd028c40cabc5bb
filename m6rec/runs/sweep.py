"""Sweeps: one notebook through every combination of parameters, each run in a folder of its own, and one table of all.

A run's folder is <out>/<hash of the code>/<parameters>. done.json, its row of the table, is written last and whole: a
run that has one is finished and not repeated.
"""

import hashlib
import itertools
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pandas as pd
from joblib import cpu_count

from m6rec.cache import whole
from m6rec.errors import InputError
from m6rec.record import code_hash, environment, write_json
from m6rec.runs.execute import check_parameters, defaults, execute, side_by_side

DONE = "done.json"


class Sweep(NamedTuple):
    """What became of a sweep: the runs finished now and before, the failed ones with their errors, and the tables."""

    ran: list[Path]
    finished: list[Path]
    failed: dict[Path, str]
    tables: list[Path]


def plan(notebook: Path, grid: Mapping[str, str], out: Path) -> dict[Path, dict[str, Any]]:
    """The folder and parameters of every combination of {"width": "32,64", "seed": "0,1"}.

    InputError if a name or a type does not fit.
    """
    choices = {}
    for name, text in grid.items():
        values = [value.strip() for value in re.split(r",(?![^(\[{]*[)\]}])", text)]  # not inside [1, 2]
        if "" in values:
            raise InputError(f"{name}={text} leaves a value empty: write the values between single commas, {name}=a,b.")
        typed = [check_parameters(notebook, {name: value})[name] for value in values]
        choices[name] = [value for place, value in enumerate(typed) if value not in typed[:place]]
    out, runs = out / code_hash(notebook), {}
    for values in itertools.product(*choices.values()):
        given = dict(zip(choices, values, strict=True))
        name = quote(",".join(f"{key}={given[key]}" for key in sorted(given)) or "defaults", safe="=,+")
        if len(name) > 120:  # file systems have a limit
            name = f"{name[:100]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        runs[out / name] = given
    return runs


def sweep(notebook: Path, grid: Mapping[str, str], out: Path, *, jobs: int = 1) -> Sweep:
    """Run every combination that is not finished, `jobs` at a time with the cores shared between them.

    An interrupt ends the runs that are under way, writes the tables of the finished ones and is raised again.
    InputError, before anything starts, if the grid does not fit the notebook.
    """
    if jobs < 1:
        raise InputError(f"jobs={jobs} runs nothing: take 1 or more.")
    notebook, out = Path(notebook).absolute(), Path(out).absolute()
    runs = plan(notebook, grid, out)
    finished = [folder for folder in runs if (folder / DONE).exists()]
    todo, failed = {folder: given for folder, given in runs.items() if folder not in finished}, {}
    print(f"{len(todo)} of {len(runs)} runs are to be done")
    calls = ((notebook, *run, max(1, cpu_count() // jobs)) for run in todo.items())
    try:
        for folder, error in side_by_side(_run, calls, jobs):
            failed |= {folder: error} if error else {}
            print(f"{folder.name}: {error or 'finished'}")
    finally:
        tables = write_tables(notebook, out)
    return Sweep([folder for folder in todo if folder not in failed], finished, failed, tables)


def write_tables(notebook: Path, out: Path) -> list[Path]:
    """Gather the finished runs of today's code into results.parquet and results.csv, one row each; none of none."""
    rows = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob(f"{code_hash(notebook)}/*/{DONE}"))
    ]
    if not rows:
        return []
    parameters = [*defaults(notebook)]  # "width=64" and the default of 64 are one and the same run
    table = pd.DataFrame(rows).drop_duplicates(parameters).sort_values(parameters)
    paths = [out / "results.parquet", out / "results.csv"]
    for path, write in zip(paths, (table.to_parquet, table.to_csv), strict=True):
        with whole(path) as new:
            write(new, index=False)
    return paths


def _run(notebook: Path, folder: Path, given: Mapping[str, Any], threads: int) -> tuple[Path, str]:
    """Execute one run in an empty folder and mark it done: the folder, and why it failed or nothing."""
    if (code := code_hash(notebook)) != folder.parent.name:
        return folder, "the code has changed since the sweep began: sweep again"
    shutil.rmtree(folder, ignore_errors=True)
    origin = environment()
    done = execute(notebook, folder / notebook.name, given, threads=threads)
    if not done.ok:
        return folder, f"{done.error} (see {done.log})"
    values = {**defaults(notebook), **given}.items()
    row = {name: json.dumps(own) if isinstance(own, list | dict) else own for name, own in values}
    for name, figure in done.figures.items():
        row[name] = figure.value
        row |= {} if figure.low is None else {f"{name}.low": figure.low, f"{name}.high": figure.high}
    row |= {"seconds": round(done.seconds, 1), "commit": origin["commit"], "dirty": origin["dirty"], "code_hash": code}
    write_json(folder / DONE, row | {f"version.{name}": version for name, version in origin["versions"].items()})
    return folder, ""
