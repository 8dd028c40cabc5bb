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

import pandas as pd
from nbconvert import HTMLExporter
from nbformat import NotebookNode

from m6rec.record import recorded, short
from m6rec.runs.execute import Execution, read

SHOWN = ["text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/plain"]  # no widgets, scripts
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
body { margin: 0 auto; max-width: 60rem; padding: 0 1rem 4rem; font: 1rem/1.55 system-ui, sans-serif; }
nav { display: flex; flex-wrap: wrap; gap: 1.5rem; } a.anchor-link { display: none; }
img, svg { max-width: 100%; height: auto; background: #fff; } section img { max-width: 20rem; }
pre, table { overflow-x: auto; font-size: .85rem; } th, td { padding: .2rem .6rem; text-align: right; }
.highlight { padding: .1rem .6rem; background: #f5f6f8; } .failed { color: #c4281b; } .quiet { opacity: .7; }
@media (prefers-color-scheme: dark) {
  body { background: #15181c; color: #dde1e6; } a { color: #7db7ff; }
  .highlight { filter: invert(.9) hue-rotate(180deg); }
}
"""
HEADLINES = 3  # of a notebook's figures that stand beside its picture


def build(folder: Path, executions: Sequence[Execution], metrics: Mapping[str, dict], *, source: Path) -> Path:
    """Write a page for each executed notebook and index.html into the folder; returns the index.

    metrics: recorded figures by name, and "run". source: the notebooks' own folder, to which their links are relative.
    """
    done = {run.path.stem: read(run.path) for run in executions if run.path.exists()}
    titles = {stem: title(notebook, stem) for stem, notebook in done.items()}
    exporter = HTMLExporter(
        template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True, embed_images=True
    )
    exporter.config.NbConvertBase.display_data_priority = SHOWN
    for place, (stem, notebook) in enumerate(done.items()):
        body, made = exporter.from_notebook_node(notebook, resources={"metadata": {"path": str(source)}})
        stems = [*titles][max(0, place - 1) : place + 2]
        links = [f'<a href="{s}.html">{escape(titles[s])}</a>' for s in stems if s != stem]
        nav = f'<nav><a href="index.html">all notebooks</a>{"".join(links)}</nav>'
        style = "".join(made["inlining"]["css"])
        _write(folder / f"{stem}.html", titles[stem], nav + _linked(body, titles, folder, source), style)
    run = metrics.get("run", {})
    facts = [
        f"{key} {run[key]}" for key in ("commit", "seed", "device", "cores", "platform") if run.get(key) is not None
    ]
    facts += [f"{name} {version}" for name, version in run.get("versions", {}).items()]
    parts = ["<h1>m6rec: the executed notebooks</h1>", f'<p class="quiet">{escape(" · ".join(facts))}</p>']
    parts += [_section(run, titles, done) for run in executions]
    parts += [f"<h2>{escape(name)}</h2>{table.to_html(border=0)}" for name, table in tables(metrics).items()]
    _write(folder / "index.html", "m6rec: the executed notebooks", "\n".join(parts))
    return folder / "index.html"


def tables(metrics: Mapping[str, dict]) -> dict[str, pd.DataFrame]:
    """Recorded figures as tables of text: ml100k.ndcg10.ease stands in table ml100k, row ease, column ndcg10.

    A name of one or two words has no model in it and stands in the table "other", with its whole name as the row.
    """
    cells: dict[str, dict[str, dict[str, str]]] = {}
    for name, figure in metrics.items():
        words = name.split(".", 2)
        table, column, row = words if len(words) == 3 else ("other", "value", name)
        if name != "run":
            bounds = short(figure["low"]), short(figure["high"])
            interval = "" if figure["low"] is None else " [{}, {}]".format(*bounds)
            cells.setdefault(table, {}).setdefault(column, {})[row] = short(figure["value"]) + interval
    ordered = sorted(cells, key=lambda table: (table == "other", table))
    return {table: pd.DataFrame(cells[table]).fillna("") for table in ordered}


def title(notebook: NotebookNode, default: str = "") -> str:
    """The first H1 as plain Markdown text."""
    found = re.search(
        r"^# (.+)", "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown"), re.MULTILINE
    )
    return found[1].strip() if found else default


def _section(run: Execution, titles: Mapping[str, str], done: Mapping[str, NotebookNode]) -> str:
    """One notebook in the index: its title, its seconds, what stopped it, its first figures and its first picture."""
    stem = run.path.stem
    failed = "" if run.ok else f' <span class="failed">{escape(run.error)}</span>'
    if stem not in done:
        return f"<section><h2>{escape(stem)}</h2>{failed}</section>"
    figures = [f"{f.label or f.name} {f}" for f in recorded(run.path.with_suffix(".json")).values()][:HEADLINES]
    outputs = [output for cell in done[stem].cells for output in cell.get("outputs", ())]
    picture = next((one for one in outputs if "image/png" in one.get("data", {})), None)
    shown = "" if picture is None else _image(picture)
    return (
        f'<section><h2><a href="{stem}.html">{escape(titles[stem])}</a></h2>'
        f"<p>{run.seconds:.0f} s{failed} · {escape(' · '.join(figures))}</p>{shown}</section>"
    )


def _image(output: NotebookNode) -> str:
    alt, png = output.metadata.get("image/png", {}).get("alt", ""), output["data"]["image/png"].strip()
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{png}">'


def _write(path: Path, title: str, body: str, style: str = "") -> None:
    path.write_text(
        f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width"><style>{style}{STYLE}</style><body>{body}</body></html>\n',
        encoding="utf-8",
    )


def _linked(page: str, titles: Mapping[str, str], folder: Path, source: Path) -> str:
    """A page whose links lead to the other pages, or from the run's folder to where the notebooks' links led."""

    def link(match: re.Match) -> str:
        target, anchor = match[1], match[2] or ""
        stem = target.removesuffix(".ipynb")
        place = f"{stem}.html" if stem in titles else Path(os.path.relpath(source / target, folder)).as_posix()
        return f'href="{place}{anchor}"'

    return re.sub(r'href="(?![a-z]+:|#|/)([^"#]+)(#[^"]*)?"', link, page)
