"""The committed results: notebooks at full size, each with a JSON file of its figures and of what they came from.

`run` writes notebooks/results/<notebook>.json once a notebook has ended well: a failed run loses no old result. What it
trains is kept in the checkpoint cache, so a run that was interrupted goes on where it was.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from m6rec.errors import InputError
from m6rec.record import code_hash, environment, recorded, rounded, write_json


class Failed(Exception):
    """A notebook that did not end well; the message says why and where its log is."""


def run(notebook: Path, *, only: str = "", timeout: float | None = None, on_cell=None) -> Path:
    """Execute a notebook at scale=full and write its figures to results/ beside it: the path of that file.

    only: measure the figures whose names begin so, which the notebook must offer as its parameter `only`. Whatever is
    not measured stays, each figure with the code that it came from, until a whole run. The executed copy and its log
    stay under runs/results/. Raises Failed, or InputError if another notebook owns a name or nothing is measured.
    """
    from m6rec.runs.execute import execute

    place = notebook.parent.parent / "runs" / "results" / "-".join(filter(None, (notebook.stem, only)))
    record = place / "figures.json"
    record.unlink(missing_ok=True)
    origin = {**environment(), "code_hash": code_hash(notebook)}  # before the run: this is the code that it starts from
    asked = {"scale": "full", "only": only} if only else {"scale": "full"}
    done = execute(notebook, place / notebook.name, asked, log=place / "log.txt", timeout=timeout,
                   record=record, on_cell=on_cell)  # fmt: skip
    if not done.ok:
        raise Failed(f"{notebook.stem} failed, its old results stay: {done.error} (see {place / 'log.txt'})")
    figures = {
        figure.name: {
            "value": rounded(figure.value),
            "low": None if figure.low is None else rounded(figure.low),
            "high": None if figure.high is None else rounded(figure.high),
            "n": figure.n,
            "seeds": figure.seeds,
        }
        for figure in recorded(record).values()
        if figure.name.startswith(only)
    }
    path = notebook.parent / "results" / f"{notebook.stem}.json"
    kept = _others(path, only, figures)
    _check_names(figures, path)
    origin |= {"seconds": round(done.seconds, 1), "command": f"make results NB={notebook.stem}"}
    if only:
        origin |= {"only": only, "command": f"{origin['command']} ONLY={only}"}
    write_json(path, {**kept, **figures, "run": origin})
    return path


def _others(path: Path, only: str, figures: dict[str, Any]) -> dict[str, Any]:
    """The figures of an older run that a run of `only` some leaves as they are."""
    if not only:
        return {}
    if not figures:
        raise InputError(f"{only} is not measured so, and nothing is written: {path.stem} says what only may be.")
    old = read(path.parent).get(path.stem, {})
    run = old.pop("run", {})
    origin = {what: run.get(what) for what in ("commit", "dirty", "code_hash", "command")}
    return {name: {"from": origin, **figure} for name, figure in old.items() if name not in figures}


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """Every committed result by notebook: {"04_recommendations": {"<name>": {"value", …}, "run": {…}}}, in order."""
    found = {}
    for path in sorted(Path(folder).glob("*.json")):
        try:
            found[path.stem] = json.loads(path.read_text(encoding="utf-8"))
            found[path.stem]["run"]["code_hash"]
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{path} is no results file: write it with make results NB={path.stem}.") from None
    return found


def stale(folder: Path) -> list[str]:
    """The notebooks whose results are of other code than today's or of several runs, or that are gone (in results/)."""
    old = []
    for name, result in read(folder).items():
        notebook = Path(folder).parent / f"{name}.ipynb"
        if result["run"].get("only") or not notebook.exists() or result["run"]["code_hash"] != code_hash(notebook):
            old.append(name)
    return old


def _check_names(figures: dict[str, Any], path: Path) -> None:
    for owner, result in read(path.parent).items():
        if owner != path.stem and (both := sorted(set(figures) & set(result) - {"run"})):
            raise InputError(f"{path.stem} records {both[0]}, which {owner} has: rename the figure in one of them.")
