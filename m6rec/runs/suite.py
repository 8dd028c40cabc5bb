"""The whole suite: every notebook executed into one folder with its report, or in place for committing."""

import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

import nbformat
from joblib import cpu_count
from nbconvert import HTMLExporter

from m6rec.record import code_hash, environment, write_json
from m6rec.runs.execute import Execution, check_parameters, defaults, execute, read, side_by_side

AT_ONCE = 4  # notebooks at a time, at most: one needs up to 2 GB
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
SHOWN = ["text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/plain"]  # no widgets, scripts
PAGE = """<!DOCTYPE html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title><style>{css}
body {{ margin: 0 auto; max-width: 60rem; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif; }}
img, svg {{ max-width: 100%; height: auto; background: #fff; }} section img {{ max-width: 20rem; }}
pre, table {{ overflow-x: auto; font-size: .85rem; }} .highlight {{ background: #f5f6f8; color: #000; }}
a.anchor-link {{ display: none; }}
@media (prefers-color-scheme: dark) {{
  body {{ background: #15181c; color: #dde1e6; }} a {{ color: #7db7ff; }}
  .highlight {{ filter: invert(.9) hue-rotate(180deg); }}
}}</style><body>{body}</body></html>
"""
PYTHON = {"display_name": "Python 3", "language": "python", "name": "python3"}


def run_all(paths: Sequence[Path], runs: Path, parameters: Mapping[str, object] = {}) -> list[Execution]:
    """Execute notebooks into runs/<time>/ with metrics.json and index.html, and point runs/latest at it.

    One that fails does not stop the others. InputError, before any starts, if parameters do not fit.
    """
    for path in paths:
        typed = check_parameters(path, parameters)
    folder = runs.absolute() / time.strftime("%Y-%m-%d_%H-%M-%S")
    folder.mkdir(parents=True)
    done, metrics = [], {}
    for execution in _execute(paths, folder, typed):
        figures = {name: figure.plain() for name, figure in execution.figures.items()}
        if twice := sorted(figures.keys() & metrics.keys()):
            execution = execution._replace(error=f"records {twice[0]}, which another notebook recorded")
        metrics = {**figures, **metrics}
        done.append(execution)
        print(execution, flush=True)
    done.sort(key=lambda execution: execution.path)
    origin = environment()
    metrics["run"] = {
        **origin,
        "threads": origin["threads"] if len(paths) == 1 else 1,
        "code_hash": {path.stem: code_hash(path) for path in paths},
        "seconds": {execution.path.stem: round(execution.seconds, 1) for execution in done},
        "seed": {**defaults(paths[0]), **typed}.get("seed"),
        "parameters": typed,
    }
    write_json(folder / "metrics.json", metrics)
    report(folder, done, metrics["run"], source=paths[0].parent.absolute())
    fresh = runs / f".latest.{os.getpid()}"
    fresh.symlink_to(folder.name, target_is_directory=True)
    os.replace(fresh, runs / "latest")
    return done


def report(folder: Path, executions: Sequence[Execution], run: Mapping[str, dict], *, source: Path) -> Path:
    """Write nbconvert's page of each executed notebook and index.html into the folder; returns the index.

    run: what they came from and ran on. source: the notebooks' own folder, to which their links are relative.
    Everything is in the pages, formulas as TeX; their policy forbids scripts and the network: titles may hold markup.
    """
    exporter = HTMLExporter(
        template_name="basic", embed_images=True, exclude_input_prompt=True, exclude_output_prompt=True
    )
    exporter.config.NbConvertBase.display_data_priority = SHOWN
    stems = [execution.path.stem for execution in executions]

    def link(found: re.Match) -> str:
        stem = found[1].removesuffix(".ipynb")
        place = f"{stem}.html" if stem in stems else Path(os.path.relpath(source / found[1], folder)).as_posix()
        return f'href="{place}'

    def write(name: str, title: str, body: str, css: str = "") -> Path:
        (folder / name).write_text(PAGE.format(title=escape(title), css=css, body=body), encoding="utf-8")
        return folder / name

    facts = {key: run[key] for key in ("commit", "seed", "device", "cores", "platform") if key in run}
    facts |= run.get("versions", {})
    parts = [f"<h1>m6rec: the executed notebooks</h1><p>{escape(' · '.join(f'{k} {v}' for k, v in facts.items()))}</p>"]
    for done in executions:
        name, title, picture = f"{done.path.stem}.html", done.path.stem, ""
        if done.path.exists():
            notebook = read(done.path)
            title = notebook.cells[0].source.partition("\n")[0].removeprefix("# ")
            body, made = exporter.from_notebook_node(notebook, resources={"metadata": {"path": str(source)}})
            body = re.sub(r'href="(?![a-z]+:|#|/)([^"#]+)', link, body)
            write(name, title, f'<a href="index.html">index</a>{body}', made["inlining"]["css"][0])
            picture = next(re.finditer(r'<img[^>]*"data:image/png[^>]*>', body), [""])[0]
        heading = f'<h2><a href="{name}">{escape(title)}</a></h2>'
        parts.append(f"<section>{heading}<p>{escape(str(done))}</p>{picture}</section>")
    parts.append('<p>Every figure with its interval: <a href="metrics.json">metrics.json</a></p>')
    return write("index.html", "m6rec: the executed notebooks", "\n".join(parts))


def refresh(paths: Sequence[Path]) -> list[Execution]:
    """Execute notebooks in place at their defaults, and clean them for committing; one that fails stays as it was."""
    done, places = [], {path.name: path for path in paths}
    with tempfile.TemporaryDirectory() as folder:
        for execution in _execute(paths, Path(folder)):
            if execution.ok:
                nbformat.write(clean(read(execution.path)), places[execution.path.name])
            done.append(execution)
            print(execution, flush=True)
    return done


def _execute(paths: Sequence[Path], folder: Path, parameters: Mapping[str, object] = {}) -> Iterator[Execution]:
    """Execute notebooks into a folder, a core for each, AT_ONCE at most; they come as they end.

    With a thread each, two on two cores take less time than one after the other with two, and compute the same numbers
    on every machine. What two of them train is trained by one, while the other waits.
    """
    jobs, threads = min(len(paths), cpu_count(), AT_ONCE), int(len(paths) > 1)
    return side_by_side(execute, ((path, folder / path.name, parameters, None, threads) for path in paths), jobs)


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A copy as it is committed: outputs and execution counts stay, traces of the run and of the machine go."""
    notebook = nbformat.from_dict(notebook)
    language = {key: value for key, value in notebook.metadata.get("language_info", {}).items() if key != "version"}
    notebook.metadata = nbformat.from_dict({"kernelspec": PYTHON, "language_info": language or {"name": "python"}})
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({"tags": tags} if (tags := cell.metadata.get("tags")) else {})
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                output["data"].pop(WIDGET_VIEW, None)  # the picture is its static twin
    return notebook
