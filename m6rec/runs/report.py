"""The report of a run: nbconvert's page for each notebook, linked in order, and an index with pictures and figures.

Everything is in the pages themselves, formulas as the TeX that they are written in. Their content security policy
forbids scripts and the network, so a title that holds markup can do nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from nbconvert import HTMLExporter
from nbformat import NotebookNode

from m6rec.record import recorded
from m6rec.runs.execute import Execution, read

SHOWN = ["text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/plain"]  # no widgets, scripts
STYLE = """
body { margin: 0 auto; max-width: 60rem; padding: 0 1rem 4rem; font: 1rem/1.55 system-ui, sans-serif; }
nav { display: flex; flex-wrap: wrap; gap: 1.5rem; } a.anchor-link { display: none; }
img, svg { max-width: 100%; height: auto; background: #fff; } section img { max-width: 20rem; }
pre, table { overflow-x: auto; font-size: .85rem; } th, td { padding: .2rem .6rem; text-align: right; }
.highlight { padding: .1rem .6rem; background: #f5f6f8; } .failed { color: #c4281b; }
@media (prefers-color-scheme: dark) {
  body { background: #15181c; color: #dde1e6; } a { color: #7db7ff; }
  .highlight { filter: invert(.9) hue-rotate(180deg); }
}
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
HEAD = (
    '<!DOCTYPE html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
)
HEADLINES = 3  # of a notebook's figures that stand beside its picture


def build(folder: Path, executions: Sequence[Execution], metrics: Mapping[str, dict], *, source: Path) -> Path:
    """Write a page for each executed notebook and index.html into the folder; returns the index.

    metrics: recorded figures by name, and "run". source: the notebooks' own folder, to which their links are relative.
    """
    done = {run.path.stem: read(run.path) for run in executions if run.path.exists()}
    titles = {stem: _title(notebook, stem) for stem, notebook in done.items()}
    options = {"exclude_input_prompt": True, "exclude_output_prompt": True, "embed_images": True}
    exporter = HTMLExporter(template_name="basic", **options)
    exporter.config.NbConvertBase.display_data_priority = SHOWN

    def link(match: re.Match) -> str:
        stem = match[1].removesuffix(".ipynb")
        place = f"{stem}.html" if stem in titles else Path(os.path.relpath(source / match[1], folder)).as_posix()
        return f'href="{place}'

    for place, (stem, notebook) in enumerate(done.items()):
        body, made = exporter.from_notebook_node(notebook, resources={"metadata": {"path": str(source)}})
        body = re.sub(r'href="(?![a-z]+:|#|/)([^"#]+)', link, body)
        near = [*titles][max(0, place - 1) : place + 2]
        links = [f'<a href="{other}.html">{escape(titles[other])}</a>' for other in near if other != stem]
        nav = f'<nav><a href="index.html">all notebooks</a>{"".join(links)}</nav>'
        _write(folder / f"{stem}.html", titles[stem], nav + body, made["inlining"]["css"][0])
    run = metrics.get("run", {})
    facts = {key: run[key] for key in ("commit", "seed", "device", "cores", "platform") if key in run}
    facts |= run.get("versions", {})
    parts = [f"<h1>m6rec: the executed notebooks</h1><p>{escape(' · '.join(f'{k} {v}' for k, v in facts.items()))}</p>"]
    parts += [_section(run, titles, done) for run in executions]
    parts.append('<p>Every figure with its interval: <a href="metrics.json">metrics.json</a></p>')
    _write(folder / "index.html", "m6rec: the executed notebooks", "\n".join(parts))
    return folder / "index.html"


def headlines(run: Execution) -> str:
    """The first figures that a notebook of a run has recorded."""
    figures = [*recorded(run.path.with_suffix(".json")).values()][:HEADLINES]
    return " · ".join(f"{figure.label or figure.name} {figure}" for figure in figures)


def _title(notebook: NotebookNode, default: str) -> str:
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    found = re.search(r"^# (.+)", prose, re.MULTILINE)
    return found[1].strip() if found else default


def _section(run: Execution, titles: Mapping[str, str], done: Mapping[str, NotebookNode]) -> str:
    """One notebook in the index: its title, its seconds, what stopped it, its first figures and its first picture."""
    stem = run.path.stem
    state = f"{run.seconds:.0f} s" if run.ok else f'<span class="failed">{escape(run.error)}</span>'
    if stem not in done:
        return f"<section><h2>{escape(stem)}</h2>{state}</section>"
    outputs = [output for cell in done[stem].cells for output in cell.get("outputs", ())]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})][:1]
    images = [
        f'<img alt="{escape(one.metadata.get("image/png", {}).get("alt", ""))}" '
        f'src="data:image/png;base64,{one.data["image/png"].strip()}">'
        for one in pictures
    ]
    return (
        f'<section><h2><a href="{stem}.html">{escape(titles[stem])}</a></h2>'
        f"<p>{state} {escape(headlines(run))}</p>{''.join(images)}</section>"
    )


def _write(path: Path, title: str, body: str, style: str = "") -> None:
    page = f"{HEAD}<title>{escape(title)}</title><style>{style}{STYLE}</style><body>{body}</body></html>\n"
    path.write_text(page, encoding="utf-8")
