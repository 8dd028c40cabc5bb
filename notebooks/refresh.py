"""`make notebooks` and `make page`: notebooks executed in place and cleaned, and the page of every measured figure.

python notebooks/refresh.py [NB...]   executes all of them or those named, then writes the page
python notebooks/refresh.py --page    only writes results/README.md and its picture
"""

from __future__ import annotations

import base64
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nbformat

from m6rec.record import short
from m6rec.runs.execute import Execution, execute_all, find, read, read_all

HERE = Path(__file__).resolve().parent
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
PYTHON = {"display_name": "Python 3", "language": "python", "name": "python3"}
HEAD = """# Every measured figure
Value and 95 % interval (a bootstrap over users of the mean over seeds), the events measured on, the n users (or
examples) and the seeds behind it, and the scale, commit and day of the measurement. `make results NB=…` measures one
notebook's figures again.
"""
TABLE = """
## [{0}](../{0}.ipynb)
| figure | what | value | 95 % interval | split | n | seeds | scale | commit | date |
|---|---|---|---|---|---|---|---|---|---|"""


def refresh(paths: Sequence[Path]) -> list[Execution]:
    """Execute notebooks in place at their defaults, and clean them for committing; one that fails stays as it was."""
    done, places = [], {path.name: path for path in paths}
    with tempfile.TemporaryDirectory() as folder:
        for execution in execute_all(paths, Path(folder)):
            if execution.ok:
                nbformat.write(clean(read(execution.path)), places[execution.path.name])
            done.append(execution)
            print(execution, flush=True)
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


def main(words: Sequence[str]) -> int:
    done = [] if "--page" in words else refresh(find(HERE, words))
    print(f"{write_page(HERE)} is written")
    return int(not all(execution.ok for execution in done))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
