"""The committed results: notebooks at full size, a JSON file of figures and their origin for each, and a page of all.

`measure` writes notebooks/results/<notebook>.json once a notebook has ended well: a failed run loses no old result.
What it trains is kept in the checkpoint cache, so a run that was interrupted goes on where it was.
"""

import base64
import json
import time
from pathlib import Path
from typing import Any

from m6rec.errors import InputError
from m6rec.record import code_hash, environment, rounded, short, write_json
from m6rec.runs.execute import execute, find, read

ORIGIN = ("commit", "dirty", "code_hash", "command", "date", "scale")
HEAD = """# Every measured figure
Value and 95 % interval (a bootstrap over users of the mean over seeds), the events measured on, the n users (or
examples) and the seeds behind it, and the scale, commit and day of the measurement. `make results NB=…` measures one
notebook's figures again.
"""
TABLE = """
## [{0}](../{0}.ipynb)
| figure | what | value | 95 % interval | split | n | seeds | scale | commit | date |
|---|---|---|---|---|---|---|---|---|---|"""


class Failed(Exception):
    """A notebook that did not end well; the message says why and where its log is."""


def measure(notebook: Path, *, only: str = "") -> Path:
    """Execute a notebook at scale=full and write its figures to results/ beside it: the path of that file.

    only: measure the figures whose names begin so, which the notebook must offer as its parameter `only`. Whatever is
    not measured stays, each figure with the code that it came from, until a whole run. The executed copy and its log
    stay under runs/results/. Raises Failed, or InputError if another notebook owns a name or nothing is measured.
    """
    stem, folder = notebook.stem, notebook.parent / "results"
    place = notebook.parent.parent / "runs" / "results" / "-".join(filter(None, (stem, only)))
    asked = {"scale": "full"} | ({"only": only} if only else {})
    command = f"make results NB={stem}" + f" ONLY={only}" * bool(only)
    # Before the run: this is the code that it starts from.
    origin = {**environment(), "code_hash": code_hash(notebook), "command": command, **asked}
    others = read_all(folder, but="" if only else stem)
    old = others.pop(stem, {})
    done = execute(notebook, place / notebook.name, asked)
    if not done.ok:
        raise Failed(f"{stem} failed, its old results stay: {done.error} (see {done.log})")
    figures = {name: figure.plain() for name, figure in done.figures.items() if name.startswith(only)}
    if only and not figures:
        raise InputError(f"{only} is not measured so, and nothing is written: {stem} says what only may be.")
    for owner, result in others.items():
        if both := sorted(figures.keys() & result.keys()):
            raise InputError(f"{stem} records {both[0]}, which {owner} has: rename the figure in one of them.")
    for figure in figures.values():
        figure |= {key: rounded(figure[key]) for key in ("value", "low", "high") if figure[key] is not None}
    origin |= {"seconds": round(done.seconds, 1), "date": time.strftime("%Y-%m-%d")}
    source = {what: old["run"][what] for what in ORIGIN} if old else {}
    kept = {name: {"from": source, **figure} for name, figure in old.items() if name not in {*figures, "run"}}
    write_json(folder / f"{stem}.json", {**kept, **figures, "run": origin})
    return folder / f"{stem}.json"


def read_all(folder: Path, but: str = "") -> dict[str, dict[str, Any]]:
    """Every committed result by notebook: {"04_recommendations": {"<name>": {"value", …}, "run": {…}}}, in order.

    InputError for a file that is damaged or older than today's form. but: a notebook whose file is left out.
    """
    found = {}
    for path in sorted(path for path in Path(folder).glob("*.json") if path.stem != but):
        try:
            figures = found[path.stem] = json.loads(path.read_text(encoding="utf-8"))
            origins = [figures["run"], *(figure["from"] for figure in figures.values() if "from" in figure)]
            missing = [what for what in ORIGIN if any(what not in origin for origin in origins)]
            wrong = f"was written by an older m6rec, without {', '.join(missing)}" if missing else ""
        except (ValueError, KeyError, TypeError):
            wrong = "is no results file"
        if wrong:
            raise InputError(f"{path} {wrong}: measure it again with make results NB={path.stem}.")
    return found


def stale(folder: Path) -> list[str]:
    """The notebooks whose results in `folder` are of other code than today's or of several runs, or that are gone."""

    def fresh(name: str, run: dict[str, Any]) -> bool:
        path = Path(folder).parent / f"{name}.ipynb"
        return path.exists() and run["code_hash"] == code_hash(path) and not run.get("only")

    return [name for name, result in read_all(folder).items() if not fresh(name, result["run"])]


def page(folder: Path) -> str:
    """Markdown of every figure in results/*.json (folder: notebooks/), a table for each notebook."""
    lines = [HEAD]
    for stem, figures in read_all(folder / "results").items():
        lines.append(TABLE.format(stem))
        run = figures.pop("run")
        for name, figure in figures.items():
            origin = figure.get("from", run)
            interval = "–" if figure["low"] is None else f"{short(figure['low'])} to {short(figure['high'])}"
            cells = [f"`{name}`", figure.get("label", ""), short(figure["value"]), interval, figure.get("split", "–"),
                     figure["n"] or "–", figure["seeds"], origin["scale"], (origin["commit"] or "–")[:7],
                     origin["date"]]  # fmt: skip
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def write_page(folder: Path) -> Path:
    """Write results/README.md, and results/readme.png: the output of the first cell that is tagged "readme"."""
    path = folder / "results" / "README.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(page(folder), encoding="utf-8")
    if shown := picture(folder):
        path.with_name("readme.png").write_bytes(shown)
    return path


def picture(folder: Path) -> bytes | None:
    """The PNG that the README shows."""
    cells = [cell for path in find(folder) for cell in read(path).cells if "readme" in cell.metadata.get("tags", ())]
    images = [output.get("data", {}).get("image/png") for cell in cells for output in cell.outputs]
    return next((base64.b64decode(image) for image in images if image), None)
