"""Notebooks executed, alone, together or with every combination of parameters."""

import ast
import json
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import nbformat
import pandas as pd
import papermill
from joblib import Parallel, cpu_count, delayed
from joblib.externals.loky import get_reusable_executor
from nbconvert import HTMLExporter

from m6rec.cache import key, whole
from m6rec.config import Config, InputError, at_least, did_you_mean
from m6rec.record import code_hash, environment, recorded, write_json

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # read by torch and numpy as they are loaded
AT_ONCE = 4  # one needs up to 2 GB
SHOWN = ["text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/plain"]  # no widgets, scripts
PAGE = """<!DOCTYPE html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title><style>{css}
:root {{ color-scheme: light dark }} body {{ margin: auto; max-width: 60rem; padding: 1rem; font-family: sans-serif }}
img, svg, .highlight {{ max-width: 100%; background: #fff; color: #000 }} pre {{ overflow-x: auto }}
a.anchor-link {{ display: none }}
</style><body>{body}</body></html>
"""
SETTINGS = {f"config.{name}": value for name, value in {"preset": "tiny", **Config().to_dict()}.items()}
DONE = "done.json"  # a finished run's row of the table: written last and whole


class Execution(NamedTuple):
    """A copy with outputs, its time, and why it stopped, if it did."""

    path: Path
    seconds: float
    error: str = ""

    ok = property(lambda self: not self.error)
    log = property(lambda self: self.path.with_suffix(".log"))

    figures = property(lambda self: recorded(self.path.with_suffix(".json")))

    def __str__(self) -> str:
        first = " · ".join(f"{f.name} {f} {f.label}".strip() for f in [*self.figures.values()][:3])
        return f"{'✓' if self.ok else '✗'} {self.path.stem:<24} {self.seconds:5.0f} s  {self.error or first}"


def find(folder: Path, names: Sequence[str] | None = None) -> list[Path]:
    """A folder's notebooks in order, or those named, with or without path and suffix."""
    known = {path.stem: path for path in sorted(Path(folder).glob("[0-9]*.ipynb"))}
    if not known:
        raise InputError(f"{folder} holds no notebook (00_….ipynb): work in a clone of m6rec, which has them.")
    stems = dict.fromkeys(Path(name).name.removesuffix(".ipynb") for name in names or known)
    stems = [next((full for full in known if full.startswith(f"{stem}_")), stem) for stem in stems]  # 03 is enough
    if wrong := [stem for stem in stems if stem not in known]:
        near = did_you_mean(wrong[0], known)
        raise InputError(f"there is no notebook {wrong[0]!r}{near}; {folder} holds {', '.join(known)}.")
    return [known[stem] for stem in stems]


def read(path: Path) -> nbformat.NotebookNode:
    """InputError if it is no notebook."""
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise InputError(f"{path} cannot be read as a notebook ({error}).") from None


def assignments(words: Iterable[str]) -> dict[str, str]:
    pairs = [word.partition("=") for word in words]
    if wrong := [name for name, equals, _ in pairs if not equals or not name.removeprefix("config.").isidentifier()]:
        raise InputError(f"{wrong[0]!r} is no parameter; write name=value, for instance seed=1.")
    names = [name for name, *_ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"{twice[0]} is given twice: write {twice[0]}=a,b for several values.")
    return {name: value for name, _, value in pairs}


def check_parameters(notebook: Path, given: Mapping[str, object]) -> dict[str, object]:
    """With the types of the notebook's own. InputError for an unknown name, type or choice.

    preset and config.<name> are settings of the models that `m6rec.scale` makes."""
    code = "\n".join(cell.source for cell in read(notebook).cells if cell.cell_type == "code")
    where, known, values = Path(notebook).name, papermill.inspect_notebook(str(notebook)), {}
    models = re.search(r"\.model\(|\.changes\b", code)
    choices = [*known, *(name for name in SETTINGS if models and name.removeprefix("config.") not in known)]
    for name, value in given.items():
        name = "config.preset" if name == "preset" and name not in known else name
        if name not in choices:
            near = did_you_mean(name.removeprefix("config."), choices)
            own = ", ".join(f"{other}={parameter['default']}" for other, parameter in known.items()) or "none"
            raise InputError(f"{where} has no parameter {name!r}{near}; it knows {own}.")
        default = ast.literal_eval(known[name]["default"]) if name in known else SETTINGS[name]
        if isinstance(value, str) and not isinstance(default, str):
            with suppress(ValueError, SyntaxError):  # true, false and none as shells write them
                value = ast.literal_eval(value.title() if value.lower() in ("true", "false", "none") else value)
        due = float if name in known and known[name]["inferred_type_name"] == "float" else type(default)
        value = tuple(value) if due is tuple and isinstance(value, list) else value
        values[name] = value = float(value) if due is float and type(value) is int else value
        if default is not None and type(value) is not due:
            raise InputError(f"{where}: {name} is {due.__name__}, for instance {default!r}, not {value!r}.")
        found = re.match(r"[\w-]+(?: \| [\w-]+)+", known[name]["help"] if name in known else "")
        if found and default in (some := found[0].split(" | ")) and value not in some:
            raise InputError(f"{where}: {name} is one of {found[0]}, not {value!r}.")
    if settings := _settings(values):
        Config.preset(**{"name": settings.pop("preset", "tiny"), **settings})  # they fit together
    return values


def _settings(values: Mapping[str, object]) -> dict[str, object]:
    return {name.removeprefix("config."): value for name, value in values.items() if name in SETTINGS}


def execute(
    notebook: Path, out: Path, parameters: Mapping[str, object] = {}, timeout: int | None = None, threads: int = 0
) -> Execution:
    """Run one notebook in an empty folder into `out`, kept when it fails; figures and output: its .json and .log.

    timeout: seconds for a cell. threads: of numpy and torch, for one of several runs, without a progress bar."""
    values, error, start = check_parameters(notebook, parameters), "", time.perf_counter()
    bar = {"desc": Path(notebook).stem, "leave": False, "disable": True if threads else None}  # None: without terminal
    out.parent.mkdir(parents=True, exist_ok=True)
    record, log = (out.absolute().with_suffix(suffix) for suffix in (".json", ".log"))
    record.unlink(missing_ok=True)
    env = {"M6REC_RECORD": str(record), "M6REC_CONFIG": json.dumps(_settings(values))}
    env |= {"JUPYTER_PREFER_ENV_PATH": "1", "JPY_SESSION_NAME": ""}  # this Python, unwatched
    env |= dict.fromkeys(THREADS if threads else (), str(threads))
    own = {name: value for name, value in values.items() if name not in SETTINGS}
    with tempfile.TemporaryDirectory() as cwd, log.open("w", encoding="utf-8") as lines, patch.dict(os.environ, env):
        try:
            papermill.execute_notebook(
                Path(notebook).absolute(), out.absolute(), own, kernel_name="python3", language="python", cwd=cwd,
                progress_bar=bar, stdout_file=lines, stderr_file=lines, execution_timeout=timeout,
                extra_arguments=["--log-level=CRITICAL"],  # else a kernel writes to this terminal
            )  # fmt: skip
        except papermill.PapermillExecutionError as failed:
            error = f"code cell {failed.exec_count}: {failed.ename}: {failed.evalue}"
        except TimeoutError:
            error = f"a cell was stopped after {timeout} s, the time limit"
        except RuntimeError as failed:  # such as nbclient's DeadKernelError
            error = f"the kernel ended: {failed}"
    return Execution(out, time.perf_counter() - start, error)


def side_by_side(calls: Iterable[tuple], jobs: int) -> Iterator[Execution]:
    """Yields execute(*call), `jobs` at a time, as they end."""
    try:
        run = Parallel(jobs, return_as="generator_unordered", batch_size=1)
        yield from run(delayed(execute)(*one) for one in calls)
    finally:
        get_reusable_executor().shutdown()  # a later call has its own environment


def execute_all(paths: Sequence[Path], folder: Path, parameters: Mapping[str, object] = {}) -> Iterator[Execution]:
    """Execute notebooks into a folder, a core for each; yields them as they end.

    With a thread each, they compute the same numbers on every machine."""
    jobs, threads = min(len(paths), cpu_count(), AT_ONCE), int(len(paths) > 1)
    apart = [*paths[::-2], *paths[len(paths) % 2 :: 2]]  # the long ones first, neighbours, of one model, not at a time
    return side_by_side([(path, folder / path.name, parameters, None, threads) for path in apart], jobs)


def run_all(paths: Sequence[Path], runs: Path, parameters: Mapping[str, object] = {}) -> list[Execution]:
    """Execute notebooks into runs/<time>/ with metrics.json and index.html; runs/latest points at it.

    One that fails does not stop the others. InputError, before any starts, for parameters or code."""
    for path in paths:
        typed = check_parameters(path, parameters)
    origin = environment() | {"code_hash": {path.stem: code_hash(path) for path in paths}, "parameters": typed}
    origin |= {} if len(paths) == 1 else {"threads": 1}
    folder = runs.absolute() / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{os.getpid()}"
    folder.mkdir(parents=True)
    done = []
    for execution in execute_all(paths, folder, typed):
        done.append(execution)
        print(execution, flush=True)
    done.sort()  # by path
    origin["seconds"] = {one.path.stem: round(one.seconds, 1) for one in done}
    metrics = {}
    for place, one in enumerate(done):
        figures = {name: figure.plain() for name, figure in one.figures.items()}
        if twice := sorted(figures.keys() & metrics.keys()):
            done[place] = one._replace(error=one.error or f"records {twice[0]}, which an earlier notebook recorded")
            print(done[place], flush=True)
        metrics = figures | metrics
    write_json(folder / "metrics.json", metrics | {"run": origin})
    report(folder, done, paths[0].parent.absolute())
    fresh = runs / f".latest.{os.getpid()}"
    fresh.symlink_to(folder.name, target_is_directory=True)
    os.replace(fresh, runs / "latest")
    return done


def report(folder: Path, executions: Sequence[Execution], source: Path) -> Path:
    """A page for each executed notebook, and index.html, which is returned. They allow no script, no network.

    source: where the notebooks' links start; those to executed ones lead to their pages."""
    exporter = HTMLExporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    exporter.config.NbConvertBase.display_data_priority = SHOWN
    pages = {f"{done.path.stem}.ipynb": f"{done.path.stem}.html" for done in executions}
    index = "<h1>The executed notebooks</h1>"

    def link(found):
        return f'href="{pages.get(found[1]) or Path(os.path.relpath(source / found[1], folder)).as_posix()}'

    def write(stem, title, body, css=""):
        page = folder / f"{stem}.html"
        page.write_text(PAGE.format(title=escape(title), css=css, body=body), encoding="utf-8")
        return page

    for done in executions:
        stem = title = done.path.stem
        if done.path.exists():
            notebook = read(done.path)
            title = notebook.cells[0].source.partition("\n")[0].removeprefix("# ")
            body, made = exporter.from_notebook_node(notebook)
            body = re.sub(r'href="(?![a-z]+:|#|/)([^"#]+)', link, body)
            write(stem, title, f'<a href="index.html">index</a>{body}', made["inlining"]["css"][0])
        index += f'<h2><a href="{stem}.html">{escape(title)}</a></h2><p>{escape(str(done))}</p>'
    index += '<p>Every figure with its interval, and what it came from: <a href="metrics.json">metrics.json</a></p>'
    return write("index", "m6rec: the executed notebooks", index)


def plan(notebook: Path, grid: Mapping[str, str], out: Path) -> dict[Path, dict[str, Any]]:
    """Folder -> parameters, of every combination of {"width": "32,64", "seed": "0,1"}."""
    runs, combinations = {}, [{}]
    for name, text in sorted(grid.items()):
        values = [value.strip() for value in re.split(r",(?![^(\[{]*[)\]}])", text)]  # not inside [1, 2]
        if "" in values:
            raise InputError(f"{name}={text} leaves a value empty: write {name}=a,b.")
        typed = [check_parameters(notebook, {name: value}) for value in values]
        combinations = [one | other for one in combinations for other in typed]
    for given in combinations:
        check_parameters(notebook, given)  # together
        name = ",".join(f"{one}={value}" for one, value in given.items()) or "defaults"
        safe = re.sub(r"[^\w=,.+-]", "_", name)[:180]
        runs[out / (safe if safe == name else f"{safe}-{key(name)}")] = given
    return runs


def best(table: pd.DataFrame, varied: Sequence[str], by: str = "") -> str:
    """Means over seeds, the best first; by: a figure, by default the first NDCG; -name: lower is better."""
    low, by = by.startswith("-"), by.removeprefix("-") or next((name for name in table if "ndcg" in name), "")
    groups = [name for name in varied if name != "seed"] or ["seed"]
    if by not in table or by in groups:
        return f"No run has the figure {by!r}{did_you_mean(by, table)}, so none is the best." if by else ""
    means = table.groupby(groups, dropna=False)[by].agg(["mean", "count"]).sort_values("mean", ascending=low)
    return f"{by}, the best first:\n{means.rename(columns={'count': 'runs'}).head().to_string(float_format='%.4f')}"


def sweep(notebook: Path, grid: Mapping[str, str], out: Path, *, jobs: int = 1, by: str = "") -> dict[Path, str]:
    """Run combinations that are not finished, `jobs` at a time; they share the cores.

    By folder, <out>/<hash of the code>/<parameters>: "finished", "finished before" or why it failed; out/results.csv
    has a row of each finished one, after an interrupt, too. by: of `best`. InputError for a grid that does not fit."""
    at_least(1, jobs=jobs)
    notebook, out = Path(notebook).absolute(), Path(out).absolute()
    code = code_hash(notebook)
    runs, known = plan(notebook, grid, out / code), papermill.inspect_notebook(str(notebook))
    own = {name: ast.literal_eval(parameter["default"]) for name, parameter in known.items()}
    origin = {"code_hash": code, **{what: environment()[what] for what in ("commit", "dirty", "versions")}}
    ends = {folder: "finished before" for folder in runs if (folder / DONE).exists()}
    threads = max(1, cpu_count() // jobs)
    todo = [(notebook, f / notebook.name, given, None, threads) for f, given in runs.items() if f not in ends]
    print(f"{len(todo)} of {len(runs)} runs are to be done")
    try:
        for done in side_by_side(todo, jobs):
            folder = done.path.parent
            ends[folder] = "finished" if done.ok else f"{done.error} (see {done.log})"
            if code_hash(notebook) != code:
                ends[folder] = "the code has changed since the sweep began: sweep again"
            elif done.ok:
                values = (own | runs[folder]).items()
                row = {name: json.dumps(one) if isinstance(one, list | tuple | dict) else one for name, one in values}
                for name, figure in done.figures.items():
                    interval = {f"{name}.low": figure.low, f"{name}.high": figure.high}
                    row |= {name: figure.value} | (interval if figure.low is not None else {})
                write_json(folder / DONE, {**row, "seconds": round(done.seconds, 1), **origin})
            print(f"{folder.name}: {ends[folder]}")
    except KeyboardInterrupt:
        print(f"interrupted: {len(ends)} of {len(runs)} runs have ended; the same command does the others")
        raise
    finally:
        if rows := [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob(f"{code}/*/{DONE}"))]:
            # "width=64" and the default of 64 are one run.
            table = pd.json_normalize(rows)
            own = [*own, *(name for name in table if name in SETTINGS)]
            table = table.drop_duplicates(own).sort_values(own)
            with whole(out / "results.csv") as new:
                table.to_csv(new, index=False)
            if ranked := best(table, [name for name in own if table[name].nunique(dropna=False) > 1], by):
                print(ranked)
    return ends
