"""Sweeps: one notebook through every combination of parameters, each run in a folder of its own, and one table of all.

A run is finished when its folder holds done.json, which is written last and whole. Finished runs of the same code are
not repeated, all others are; what an older code left is set aside, never deleted.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from joblib import Parallel, delayed

from m6rec.errors import InputError
from m6rec.record import code_hash, cores, environment, recorded, write_json
from m6rec.runs.execute import check_parameters, defaults, execute

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
    own = defaults(notebook)
    given = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
    return [Run(out / _name(one), one, {**own, **one}) for one in given]


def sweep(
    notebook: Path, grid: Mapping[str, str], out: Path, *, jobs: int = 1, timeout: int | None = None,
    dry_run: bool = False, say: Callable = print,
) -> Sweep:  # fmt: skip
    """Run every combination that is not finished, `jobs` at a time with the cores shared between them.

    timeout: seconds for one cell. An interrupt ends the runs that are under way, writes the tables of the finished ones
    and is raised again. InputError, before anything starts, if the grid does not fit the notebook.
    """
    if jobs < 1:
        raise InputError(f"jobs={jobs} runs nothing: take 1 or more.")
    notebook, out = Path(notebook).absolute(), Path(out).absolute()
    runs, code = plan(notebook, grid, out), code_hash(notebook)
    kept = [run for run in runs if _finished(run, code)]
    todo = [run for run in runs if run not in kept]
    if dry_run:
        for run in runs:
            say(f"{'finished' if run in kept else 'to run  '}  {run.folder.name}")
        return Sweep([], kept, {}, [])
    out.mkdir(parents=True, exist_ok=True)
    failed: dict[Path, str] = {}
    threads = max(1, cores() // jobs)
    try:
        calls = (delayed(_run)(notebook, run, threads, timeout, jobs == 1) for run in todo)
        for folder, error in Parallel(jobs, return_as="generator_unordered", batch_size=1)(calls):
            failed |= {folder: error} if error else {}
            say(f"failed    {folder.name}: {error}" if error else f"finished  {folder.name}")
    finally:
        tables = write_tables(out, code)
    return Sweep([run for run in todo if run.folder not in failed], kept, failed, tables)


def write_tables(out: Path, code: str) -> list[Path]:
    """Gather the finished runs of one code hash below `out`: results.parquet and results.csv have one row a run,
    summary.csv the mean and the standard deviation (n - 1) over seeds. Returns the files, none if no run is finished.
    """
    done = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob(f"*/{DONE}"))]
    done = [one for one in done if one["run"]["code_hash"] == code]
    if not done:
        return []
    parameters = [*done[0]["parameters"]]
    figures = [*dict.fromkeys(name for one in done for name in one["figures"])]
    # "width=64" and the default of 64 are one and the same run.
    table = pd.DataFrame(map(_row, done)).drop_duplicates(parameters).sort_values(parameters)
    groups = table.groupby([name for name in parameters if name != "seed"] or (lambda row: 0), dropna=False)
    means = {f"{name}.{end}": (name, how) for name in figures for end, how in (("mean", "mean"), ("sd", "std"))}
    summary = groups.agg(runs=("seconds", "size"), **means)
    paths = [out / name for name in ("results.parquet", "results.csv", "summary.csv")]
    parts = [path.with_name(f".{path.name}.part") for path in paths]
    table.to_parquet(parts[0], index=False)
    table.to_csv(parts[1], index=False)
    summary.reset_index().to_csv(parts[2], index=False)
    return [part.replace(path) for part, path in zip(parts, paths, strict=True)]


def _row(done: dict) -> dict[str, object]:
    lists = {name: json.dumps(value) for name, value in done["parameters"].items() if isinstance(value, list | dict)}
    row = {**done["parameters"], **lists}
    for name, (value, low, high) in done["figures"].items():
        row |= {name: value, **({} if low is None else {f"{name}.low": low, f"{name}.high": high})}
    run = done["run"]
    row |= {"seconds": done["seconds"], "commit": run["commit"], "dirty": run["dirty"], "code_hash": run["code_hash"]}
    return row | {f"version.{package}": version for package, version in run["versions"].items()}


def _run(notebook: Path, run: Run, threads: int, timeout: int | None, progress: bool) -> tuple[Path, str]:
    """Execute one run in an empty folder and mark it done: the folder, and why it failed or nothing."""
    if run.folder.exists():
        _clear(run.folder)
    run.folder.mkdir()
    record, log = run.folder / "figures.json", run.folder / "log.txt"
    origin = {**environment(), "threads": threads, "code_hash": code_hash(notebook)}
    done = execute(notebook, run.folder / notebook.name, run.given, log=log, timeout=timeout, threads=threads,
                   record=record, progress=progress)  # fmt: skip
    if not done.ok:
        return run.folder, f"{done.error} (see {log})"
    figures = {name: [figure.value, figure.low, figure.high] for name, figure in recorded(record).items()}
    marker = {"parameters": run.parameters, "figures": figures, "seconds": round(done.seconds, 1), "run": origin}
    write_json(run.folder / DONE, marker)
    return run.folder, ""


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
