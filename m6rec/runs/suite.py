"""The whole suite: every notebook in order into one folder with its report, in place for committing, or for a class."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import nbformat
from nbconvert.preprocessors import ClearOutputPreprocessor, TagRemovePreprocessor

from m6rec.errors import InputError
from m6rec.record import code_hash, environment, write_json
from m6rec.runs import report
from m6rec.runs.execute import Execution, check_parameters, defaults, execute, read

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
PYTHON = {"display_name": "Python 3", "language": "python", "name": "python3"}


def run_all(
    paths: Sequence[Path], runs: Path, parameters: Mapping[str, object] | None = None, say: Callable = print
) -> list[Execution]:
    """Execute notebooks in order into runs/<time>/ with metrics.json and index.html, and point runs/latest at it.

    One that fails does not stop the others: each stands alone. InputError, before any starts, if parameters do not fit.
    """
    for path in paths:
        typed = check_parameters(path, parameters or {})
    folder = runs.absolute() / time.strftime("%Y-%m-%d_%H-%M-%S")
    folder.mkdir(parents=True)
    done, metrics = [], {}
    for path in paths:
        execution = execute(path, folder / path.name, typed)
        figures = {name: figure.plain() for name, figure in execution.figures.items()}
        if twice := sorted(figures.keys() & metrics.keys()):
            execution = execution._replace(ok=False, error=f"records {twice[0]}, which an earlier notebook recorded")
        metrics = {**figures, **metrics}
        done.append(execution)
        say(execution)
    metrics["run"] = {
        **environment(),
        "code_hash": {path.stem: code_hash(path) for path in paths},
        "seconds": {execution.path.stem: round(execution.seconds, 1) for execution in done},
        "seed": {**defaults(paths[0]), **typed}.get("seed"),
        "parameters": typed,
    }
    write_json(folder / "metrics.json", metrics)
    report.build(folder, done, metrics["run"], source=paths[0].parent.absolute())
    fresh = runs / f".latest.{os.getpid()}"
    fresh.symlink_to(folder.name, target_is_directory=True)
    os.replace(fresh, runs / "latest")
    return done


def refresh(paths: Sequence[Path], say: Callable = print) -> list[Execution]:
    """Execute notebooks in place at their defaults, and clean them for committing; one that fails stays as it was."""
    done = []
    with tempfile.TemporaryDirectory() as folder:
        for path in paths:
            done.append(execution := execute(path, Path(folder) / path.name))
            if execution.ok:
                nbformat.write(clean(read(execution.path)), path)
            say(execution)
    return done


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


def write_class(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Write student copies, without solutions and outputs, into a folder; the same names, so that their links hold.

    A copy that somebody has edited is never overwritten: `InputError` names it, after the others are written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    copies, edited = [folder / path.name for path in paths], []
    for path, copy in zip(paths, copies, strict=True):
        if copy.exists() and (old := read(copy)).metadata.get("m6rec_copy") != _digest(old):
            edited.append(copy.name)
            continue
        notebook, _ = TagRemovePreprocessor(remove_cell_tags={"solution"}).preprocess(clean(read(path)), {})
        notebook, _ = ClearOutputPreprocessor().preprocess(notebook, {})
        notebook.metadata["m6rec_copy"] = _digest(notebook)
        nbformat.write(notebook, copy)
    if edited:
        raise InputError(
            f"{', '.join(edited)} in {folder} was edited and is left as it is: move it away for a new copy."
        )
    return copies


def _digest(notebook: nbformat.NotebookNode) -> str:
    """Of what a person writes in a notebook: the cells' sources, but not what running them leaves."""
    return hashlib.sha256(json.dumps([(c.cell_type, c.source) for c in notebook.cells]).encode()).hexdigest()[:16]
