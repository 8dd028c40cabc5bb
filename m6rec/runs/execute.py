"""Notebooks executed, alone, together or with every combination of parameters."""

import ast
import json
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, product, zip_longest
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import nbformat
import pandas as pd
import papermill
from joblib import Parallel, cpu_count, delayed
from joblib.externals.loky import get_reusable_executor
from nbconvert import HTMLExporter
from traitlets.config import Config as Options

from m6rec.cache import key, locked, whole
from m6rec.config import Config, InputError, at_least, choose, conform, did_you_mean
from m6rec.record import code_hash, environment, recorded, write_json
from m6rec.view import page
from m6rec.view.figures import speak, translated

AT_ONCE = 4  # one needs up to 2 GB
SHOWN = ["text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/plain"]  # no widgets, scripts
SETTINGS = {f"config.{name}": value for name, value in {"preset": "tiny", **Config().to_dict()}.items()}
DONE = "done.json"  # a finished run's row
MARKS = re.compile(r"^\*\*\w+.?\*\*\s*|\[([^]]*)\]\([^)]*\)|[*`]")  # "**Finding.** ", links, signs of Markdown
SENTENCE = re.compile(r"(?<=[^)][.?!]) (?=[A-Z])|(?<=。)")
LIMIT = re.compile(r"\b(undecided|missed|fails?|below|cannot|(does|do|is) (not?|never)|not (measured|enough))\b")


class Execution(NamedTuple):
    """A copy with outputs, its time, and why it stopped."""

    path: Path
    seconds: float
    error: str = ""

    ok = property(lambda self: not self.error)
    log = property(lambda self: self.path.with_suffix(".log"))
    figures = property(lambda self: recorded(self.path.with_suffix(".json")))

    @property
    def findings(self) -> list[tuple[str, list[str]]]:
        """Each section's question and its finding, in sentences; that of a cell tagged "headline" first."""
        found, question = [], ""
        for cell in read(self.path).cells if self.path.exists() else ():
            if cell.cell_type == "markdown":
                question = [question, *re.findall(r"^#+ (?:\d+ · )?(.+)", cell.source, re.MULTILINE)][-1]
            elif "**Finding" in cell.source:
                said = " ".join(output.get("data", {}).get("text/markdown", "") for output in cell.outputs).split()
                at = 0 if "headline" in cell.metadata.get("tags", ()) else len(found)
                found[at:at] = [(question, SENTENCE.split(MARKS.sub(r"\1", " ".join(said))))] if said else []
        return found

    def __str__(self) -> str:
        return f"{'✓' if self.ok else '✗'} {self.path.stem:<24} {self.seconds:5.0f} s  {self.error}".rstrip()


def find(folder: Path, names: Sequence[str] | None = None) -> list[Path]:
    """A folder's notebooks in order, or those named, with or without path and suffix."""
    known = {path.stem: path for path in sorted(Path(folder).glob("[0-9]*.ipynb"))}
    if not known:
        raise InputError(f"{folder} holds no notebook (00_….ipynb): work in a clone of m6rec, which has them.")
    stems = [Path(name).name.removesuffix(".ipynb") for name in names or known]
    stems = dict.fromkeys(next((s for s in known if s.startswith(f"{stem}_")), stem) for stem in stems)  # 03 is enough
    for stem in stems:
        choose("notebook", stem, known)
    return [known[stem] for stem in stems]


def read(path: Path) -> nbformat.NotebookNode:
    """InputError if it is no notebook."""
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise InputError(f"{path} cannot be read as a notebook ({error}).") from None


def assignments(words: Iterable[str]) -> dict[str, str]:
    given = {}
    for name, equals, value in (word.partition("=") for word in words):
        if not equals or not name.removeprefix("config.").isidentifier():
            raise InputError(f"{name!r} is no parameter; write name=value, for instance seed=1.")
        if name in given:
            raise InputError(f"{name} is given twice: write {name}=a,b for several values.")
        given[name] = value
    return given


def check_parameters(notebook: Path, given: Mapping[str, object]) -> dict[str, object]:
    """With the types of the notebook's own, or of `SETTINGS` of its models. InputError for an unknown name, type or
    choice."""
    models = re.search(r"\.model\(|\.changes\b", str(read(notebook).cells))
    where, known, values = Path(notebook).name, papermill.inspect_notebook(str(notebook)), {}
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
        values[name] = value if default is None else conform(f"{where}: {name}", value, type(default))
        found = re.match(r"[\w-]+(?: \| [\w-]+)+", known[name]["help"] if name in known else "")
        if found and default in (some := found[0].split(" | ")):
            choose(f"{where}: {name}", value, some)
    settings = _settings(values)
    Config.preset(settings.pop("preset", "tiny"), **settings)  # they fit together
    return values


def _settings(values: Mapping[str, object]) -> dict[str, object]:
    return {name.removeprefix("config."): value for name, value in values.items() if name in SETTINGS}


def execute(
    notebook: Path, out: Path, parameters: Mapping[str, object] = {}, timeout: int | None = None, threads: int = 0
) -> Execution:
    """Run one notebook in an empty folder into `out`, kept when it fails; figures and output: its .json and .log.

    timeout: seconds for a cell. threads: of numpy and torch, without a progress bar."""
    values, error, start = check_parameters(notebook, parameters), "", time.perf_counter()
    out.parent.mkdir(parents=True, exist_ok=True)
    record, log = (out.absolute().with_suffix(suffix) for suffix in (".json", ".log"))
    record.unlink(missing_ok=True)
    env = {"M6REC_RECORD": str(record), "M6REC_CONFIG": json.dumps(_settings(values))}
    env |= {"JUPYTER_PREFER_ENV_PATH": "1", "JPY_SESSION_NAME": ""}  # this Python, unwatched
    env |= {f"{one}_NUM_THREADS": str(threads) for one in ("OMP", "MKL", "OPENBLAS") if threads}  # read as torch loads
    own = {n: value for n, value in values.items() if n not in SETTINGS}
    with (
        tempfile.TemporaryDirectory() as cwd, tempfile.TemporaryDirectory() as near,
        log.open("w", encoding="utf-8") as lines, patch.dict(os.environ, env),
    ):  # fmt: skip
        # Kernels race for ports; a socket's path has at most 103 characters.
        sockets = {"KernelManager": {"transport": "ipc", "ip": f"{near}/kernel"}} if len(near) < 90 else {}
        try:
            papermill.execute_notebook(
                Path(notebook).absolute(), out.absolute(), own, kernel_name="python3", language="python", cwd=cwd,
                progress_bar={"desc": out.stem, "leave": False, "disable": bool(threads) or None},  # None: no terminal
                stdout_file=lines, stderr_file=lines, execution_timeout=timeout,
                extra_arguments=["--log-level=CRITICAL"],  # not to this terminal
                config=Options(sockets),
            )  # fmt: skip
        except papermill.PapermillExecutionError as failed:
            error = f"code cell {failed.exec_count}: {failed.ename}: {failed.evalue}"
        except TimeoutError:
            error = f"a cell was stopped after {timeout} s, the time limit"
        except RuntimeError as failed:  # nbclient's DeadKernelError
            error = f"the kernel ended: {failed}"
    if "lang" in own:  # headings
        speak(own["lang"])
        for cell in (notebook := read(out)).cells:
            cell.source = re.sub(".+", lambda line: translated(line[0]), cell.source)
        nbformat.write(notebook, out)
        speak("en")
    return Execution(out, time.perf_counter() - start, error)


def side_by_side(calls: Iterable[tuple], jobs: int) -> Iterator[Execution]:
    """execute(*call), `jobs` at a time, as they end."""
    try:
        run = Parallel(jobs, return_as="generator_unordered", batch_size=1)
        yield from run(delayed(execute)(*one) for one in calls)
    finally:
        get_reusable_executor().shutdown()  # a later call has its own environment


def apart(paths: Sequence[Path]) -> list[Path]:
    """Long ones first; neighbours, of one model, apart."""
    return [*paths[::-2], *paths[len(paths) % 2 :: 2]]


def run_all(paths: Sequence[Path], runs: Path, parameters: Mapping[str, object] = {}) -> list[Execution]:
    """Execute notebooks into runs/<time>/, to which runs/latest points, with metrics.json and `report`.

    One that fails does not stop the others. InputError, before any starts, for parameters or code."""
    for path in paths:
        typed = check_parameters(path, parameters)
    origin = environment() | {"code_hash": {path.stem: code_hash(path) for path in paths}, "parameters": typed}
    threads = int(len(paths) > 1)  # with one each, they compute the same numbers on every machine
    origin |= {"threads": 1} if threads else {}
    folder = runs.absolute() / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{os.getpid()}"
    folder.mkdir(parents=True)
    done, metrics = [], {}
    calls = [(path, folder / path.name, typed, None, threads) for path in apart(paths)]
    for one in side_by_side(calls, min(len(paths), cpu_count(), AT_ONCE)):
        if twice := sorted(one.figures.keys() & metrics.keys()):
            one = one._replace(error=one.error or f"records {twice[0]}, which another notebook has recorded")
        metrics = {name: figure.plain() for name, figure in one.figures.items()} | metrics
        done.append(one)
        print(one, flush=True)
    done.sort()  # by path
    origin["seconds"] = {one.path.stem: round(one.seconds, 1) for one in done}
    write_json(folder / "metrics.json", metrics | {"run": origin})
    report(folder, done, paths[0].parent.absolute(), origin)
    fresh = runs / f".latest.{os.getpid()}"
    fresh.symlink_to(folder.name, target_is_directory=True)
    os.replace(fresh, runs / "latest")
    return done


def headlines(executions: Sequence[Execution]) -> list[str]:
    """Three findings, of notebooks far apart."""
    rounds = chain(*zip_longest(*(done.findings for done in executions)))
    said = [sentences[0] for _, sentences in filter(None, rounds)]
    return said[:: max(1, len(executions) // 3)][:3]


def report(folder: Path, executions: Sequence[Execution], source: Path, origin: Mapping[str, object] = {}) -> Path:
    """A book: index.html, which is returned, a page for each executed notebook, and gallery.html.

    They allow no network, no script but ours. source: where the notebooks' links start; those to executed ones lead to
    their pages. origin: of the run."""
    exporter = HTMLExporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    exporter.config.NbConvertBase.display_data_priority = SHOWN
    pages = {f"{done.path.stem}.ipynb": f"{done.path.stem}.html" for done in executions}
    chapters, alive, gallery = [], "", ""

    def link(found):
        return f'href="{pages.get(found[1]) or Path(os.path.relpath(source / found[1], folder)).as_posix()}'

    def write(href, title, body, **more):
        (folder / href).write_text(page.page(title, body, book=True, **more), encoding="utf-8")
        return folder / href

    for done in executions:
        title, href, findings = done.path.stem, f"{done.path.stem}.html", done.findings
        if done.path.exists():
            notebook = read(done.path)
            title, _, notebook.cells[0].source = notebook.cells[0].source.removeprefix("# ").partition("\n")
            for output in (output for cell in notebook.cells for output in cell.get("outputs", ())):
                if png := output.get("data", {}).get("image/png"):  # and its view
                    said = {"alt": title, "view": {}} | output.metadata.get("image/png", {})
                    html = page.figure(png, said["alt"], said["view"])
                    alive = alive or html * (said["view"].get("kind") == "live")
                    gallery += f'<a href="{href}">{page.figure(png, said["alt"])}</a>'
                    output["data"] = nbformat.from_dict({"text/html": html})
            body, made = exporter.from_notebook_node(notebook)
            body = re.sub(r'href="(?![a-z]+:|#|/)([^"#]+)', link, body)
            write(href, title, body, css=made["inlining"]["css"][0], findings=findings)
        limit = next((one for _, some in findings for one in some if LIMIT.search(one)), "")
        chapters.append((href, title, done.error, findings, limit))
    write("gallery.html", "Every figure", f'<div class="gallery">{gallery}</div>')
    return write("index.html", "m6rec: the executed notebooks", alive, chapters=chapters, origin=origin)


def plan(notebook: Path, grid: Mapping[str, str], out: Path) -> dict[Path, dict[str, Any]]:
    """Folder -> parameters, of every combination of {"width": "32,64", "seed": "0,1"}."""
    commas = re.compile(r"\s*,(?![^(\[{]*[)\]}])\s*")  # not inside [1, 2]
    split = {name: commas.split(text.strip()) for name, text in sorted(grid.items())}
    if empty := [name for name, values in split.items() if "" in values]:
        raise InputError(f"{empty[0]} leaves a value empty: write {empty[0]}=a,b.")
    runs = {}
    for values in product(*split.values()):
        given = check_parameters(notebook, dict(zip(split, values, strict=True)))
        name = ",".join(f"{one}={value}" for one, value in given.items()) or "defaults"
        safe = re.sub(r"[^\w=,.+-]", "_", name)[:180]
        runs[out / (safe if safe == name else f"{safe}-{key(name)}")] = given
    return runs


def best(table: pd.DataFrame, varied: Sequence[str], by: str = "") -> str:
    """Means over seeds, the best first; by: a figure, by default the first NDCG; -name: lower is better."""
    low, by = by.startswith("-"), by.removeprefix("-") or next((name for name in table if "ndcg" in name), "")
    groups = [name for name in varied if name != "seed"] or ["seed"]
    if by not in table or by in groups:
        return f"No run has the figure {by!r}{did_you_mean(by, table)}." if by else ""
    means = table.groupby(groups, dropna=False)[by].agg(mean="mean", runs="count").sort_values("mean", ascending=low)
    return f"{by}, the best first:\n{means.head().to_string(float_format='%.4f')}"


def finished(folder: Path) -> dict[str, Any] | None:
    """A run's row; None where it is missing or damaged."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        row = json.loads((folder / DONE).read_text(encoding="utf-8"))
        return row if row["code_hash"] == folder.parent.name else None


def sweep(notebook: Path, grid: Mapping[str, str], out: Path, *, jobs: int = 1, by: str = "") -> dict[Path, str]:
    """Run combinations that are not finished, `jobs` at a time; they share the cores.

    By folder, <out>/<hash of the code>/<parameters>: "finished", "finished before" or why it failed; out/results.csv
    has a row of each finished one. by: of `best`. InputError for a grid that does not fit, a foreign results.csv, and
    during another sweep."""
    at_least(1, jobs=jobs)
    notebook, out = Path(notebook).absolute(), Path(out).absolute()
    code, results = code_hash(notebook), out / "results.csv"
    runs, known = plan(notebook, grid, out / code), papermill.inspect_notebook(str(notebook))
    own = {name: ast.literal_eval(one["default"]) for name, one in known.items()}
    threads = max(1, cpu_count() // jobs)
    origin = environment() | {"code_hash": code, "threads": threads}
    with locked(results, wait=False):
        if results.exists() and "code_hash" not in results.read_text(errors="replace"):
            raise InputError(f"{results} is no table of a sweep: name another folder.")
        ends = {folder: "finished before" for folder in runs if finished(folder)}
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
                    row = {n: one if pd.api.types.is_scalar(one) else json.dumps(one) for n, one in values}
                    for name, (_, value, low, high, *_) in done.figures.items():
                        row |= {name: value} | ({} if low is None else {f"{name}.low": low, f"{name}.high": high})
                    write_json(folder / DONE, row | {"seconds": round(done.seconds, 1)} | origin)
                print(f"{folder.name}: {ends[folder]}")
        finally:
            if len(ends) < len(runs):
                print(f"interrupted: {len(ends)} of {len(runs)} runs have ended; the same command does the others")
            if rows := [row for path in sorted(out.glob(f"{code}/*/")) if (row := finished(path))]:
                # "width=64" and the default of 64 are one run.
                table = pd.json_normalize(rows)
                own = [*own, *(name for name in table if name in SETTINGS)]
                table = table.drop_duplicates(own).sort_values(own)
                with whole(results) as new:
                    table.to_csv(new, index=False)
                if ranked := best(table, [name for name in own if table[name].nunique(dropna=False) > 1], by):
                    print(ranked)
    return ends
