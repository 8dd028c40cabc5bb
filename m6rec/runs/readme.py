"""The parts of the README that are measured, rendered from notebooks/results/ and from the notebooks themselves.

Each stands between two comments, <!-- results --> and <!-- /results -->; make readme writes what is between them, and
copies the picture of the notebook cell that is tagged "readme" to notebooks/results/readme.png.
"""

from __future__ import annotations

import base64
import re
from pathlib import Path

from m6rec.errors import InputError
from m6rec.record import short
from m6rec.runs import notebooks, results
from m6rec.runs.layout import HEADLINES, LAYOUT

PICTURE = "results/readme.png"


def render_readme(text: str, folder: Path) -> str:
    """The README's text with its measured parts as they are now (folder: notebooks/). InputError without the marks."""
    parts = {"headlines": headlines_table(folder), "notebooks": notebooks_table(folder)}
    text = _between(text, "results", results_table(folder / "results"))
    for mark, content in parts.items():
        text = _between(text, mark, content) if f"<!-- {mark} -->" in text else text
    return text


def write_readme(folder: Path) -> bool:
    """Bring the README beside notebooks/ and its picture up to date; whether the text changed."""
    path = folder.parent / "README.md"
    if not path.exists():
        raise InputError(f"{path} is missing: make readme fills its results table, and writes no README of its own.")
    old = path.read_text(encoding="utf-8")
    new = render_readme(old, folder)
    if new != old:
        path.write_text(new, encoding="utf-8")
    if shown := picture(folder):
        (folder / "results").mkdir(exist_ok=True)
        (folder / PICTURE).write_bytes(shown)
    return new != old


def picture(folder: Path) -> bytes | None:
    """The PNG that the README shows: the output of the first cell that is tagged "readme"."""
    for path in notebooks.find(folder):
        for cell in notebooks.tagged(notebooks.read(path), "readme"):
            for output in cell.outputs:
                if shown := output.get("data", {}).get("image/png"):
                    return base64.b64decode(shown)
    return None


def results_table(folder: Path) -> str:
    """Markdown: each recorded figure with its 95 % interval, seeds and the command that measures it."""
    figures = {
        name: (figure, figure.get("from", result["run"])["command"])
        for result in results.read(folder).values()
        for name, figure in result.items()
        if name != "run"
    }
    placed = {name for names in LAYOUT.values() for name in names}
    rest = {name: f"`{name}`" for name in figures if name not in placed}
    lines = ["| | value | 95 % interval | seeds | command |", "|---|---|---|---|---|"]
    for group, names in {**LAYOUT, "Also recorded": rest}.items():
        rows = [_row(label, *figures[name]) for name, label in names.items() if name in figures]
        lines += [f"| **{group}** | | | | |", *rows] if rows else []
    return "\n".join(lines) if figures else "Nothing is recorded yet: `make results`."


def headlines_table(folder: Path) -> str:
    """Markdown: one figure of each notebook with its interval, and what it is to be held against."""
    read = results.read(folder / "results")
    by_name = {name: (file, figure) for file, result in read.items() for name, figure in result.items()}
    lines = ["| notebook | figure | value | beside it |", "|---|---|---|---|"]
    for label, name, other, its_name in HEADLINES:
        if name not in by_name:
            continue
        file, figure = by_name[name]
        beside = f"{other} {short(by_name[its_name][1]['value'])}" if its_name in by_name else "–"
        link = _link(folder, folder / f"{file}.ipynb")
        lines.append(f"| {link} | {label} | **{short(figure['value'])}** ({_interval(figure)}) | {beside} |")
    return "\n".join(lines)


def notebooks_table(folder: Path) -> str:
    """Markdown: each notebook, its aim and time as its own opening says, and what comes next."""
    paths = notebooks.find(folder)
    lines = ["| notebook | you will | time | next |", "|---|---|---|---|"]
    for path, after in zip(paths, [*paths[1:], None], strict=True):
        opening = "\n".join(cell.source for cell in notebooks.read(path).cells[:2])
        cells = [_link(folder, path), _said(opening, "You will"), _said(opening, "Time")]
        lines.append("| " + " | ".join([*cells, _link(folder, after) if after else "–"]) + " |")
    return "\n".join(lines)


def _row(label: str, figure: dict, command: str) -> str:
    return f"| {label} | {short(figure['value'])} | {_interval(figure)} | {figure['seeds']} | `{command}` |"


def _interval(figure: dict) -> str:
    return "–" if figure["low"] is None else f"{short(figure['low'])} to {short(figure['high'])}"


def _link(folder: Path, path: Path) -> str:
    return f"[{path.stem}]({folder.name}/{path.name})"


def _said(opening: str, words: str) -> str:
    """What an opening says after the bold words: "**Time** 40 s" is "40 s"."""
    found = re.search(rf"\*\*{words}\W*\*\*\W*(.+?)\s*(?:· \*\*|\n|$)", opening)
    return found[1].replace("|", r"\|") if found else "–"


def _between(text: str, mark: str, content: str) -> str:
    start, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    before, found, rest = text.partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise InputError(f"the README has no {start} followed by {end}: put each on its own line, then make readme.")
    return f"{before}{start}\n{content}\n{end}{after}"
