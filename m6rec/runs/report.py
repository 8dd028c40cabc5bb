"""An HTML report of executed notebooks: a page for each, linked in order, and an index with figures and numbers.

Everything is in the pages themselves: no script, no font, no formula renderer from the network. Their content security
policy forbids all of it, so a title that holds markup can do nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

import pandas as pd
from jinja2 import pass_context
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter

from m6rec.record import short
from m6rec.runs import notebooks
from m6rec.runs.execute import Execution

THUMBNAILS = 6
SHOWN = ["text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/plain"]
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
body { margin: 0 auto; max-width: 60rem; padding: 0 1rem 4rem; font: 1rem/1.55 system-ui, sans-serif; color: #1b1f24; }
h1, h2, h3 { line-height: 1.25; } a { color: #0b57a4; } a.anchor-link { display: none; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.5rem; padding: .8rem 0; border-bottom: 1px solid #d5d9de; }
img, svg { max-width: 100%; height: auto; } math { font-size: 1.1em; } math[display=block] { margin: 1em 0; }
pre { margin: .4rem 0; padding: .5rem .7rem; overflow-x: auto; font: .85rem/1.45 ui-monospace, monospace; }
.input pre { background: #f5f6f8; border-left: 3px solid #9fb6cf; } .output_error pre { background: #fdecea; }
.output_html, .text_cell_render, .numbers { overflow-x: auto; } code { overflow-wrap: anywhere; }
table { border-collapse: collapse; font-size: .9rem; margin: .5rem 0; } th, td { padding: .25rem .7rem; }
.numbers td, .dataframe td, .dataframe th { text-align: right; }
.numbers tbody th { text-align: left; }
tbody tr:nth-child(odd) { background: #f5f6f8; } .failed { color: #a4180b; font-weight: 600; }
section { border-top: 1px solid #d5d9de; padding: .4rem 0 1rem; } .quiet { color: #59636e; }
.thumbnails { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: .6rem; }
.thumbnails img { border: 1px solid #d5d9de; background: #fff; }
"""


def build(folder: Path, executions: Sequence[Execution], metrics: Mapping[str, dict], *, source: Path) -> Path:
    """Write a page for each executed notebook and index.html into the folder; returns the index.

    metrics: recorded figures by name, and "run". source: the notebooks' own folder, to which their links are relative.
    """
    done = {run.path.stem: notebooks.read(run.path) for run in executions if run.path.exists()}
    titles = {stem: notebooks.title(notebook, stem) for stem, notebook in done.items()}
    for stem, notebook in done.items():
        body = _neighbours(titles, stem) + _body(notebook, titles, folder, source)
        _write(folder / f"{stem}.html", titles[stem], body)
    parts = ["<h1>m6rec: the executed notebooks</h1>", f'<p class="quiet">{_provenance(metrics.get("run", {}))}</p>']
    parts += [_section(run, titles, done) for run in executions]
    parts += [f"<h2>{escape(name)}</h2>{_html(table)}" for name, table in tables(metrics).items()]
    parts.append('<p>Every number with its interval: <a href="metrics.json">metrics.json</a></p>')
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
            cells.setdefault(table, {}).setdefault(column, {})[row] = _interval(figure)
    ordered = sorted(cells, key=lambda table: (table == "other", table))
    return {table: pd.DataFrame(cells[table]).fillna("") for table in ordered}


def _interval(figure: Mapping) -> str:
    bounds = figure.get("low"), figure.get("high")
    return short(figure["value"]) + ("" if None in bounds else f" [{short(bounds[0])}, {short(bounds[1])}]")


def _html(table: pd.DataFrame) -> str:
    return f'<div class="numbers">{table.to_html(border=0, escape=True)}</div>'


def _write(path: Path, title: str, body: str) -> None:
    code = HtmlFormatter(style="default").get_style_defs(".highlight")
    path.write_text(
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}{code}</style></head>'
        f"<body>{body}</body></html>\n",
        encoding="utf-8",
    )


def _neighbours(titles: Mapping[str, str], stem: str) -> str:
    """The bar at the top of a page: the notebook before, the index, the notebook after."""
    stems = list(titles)
    place = stems.index(stem)
    before = [f'<a href="{s}.html">← {escape(titles[s])}</a>' for s in stems[max(0, place - 1) : place]]
    after = [f'<a href="{s}.html">{escape(titles[s])} →</a>' for s in stems[place + 1 : place + 2]]
    return "<nav>" + " ".join([*before, '<a href="index.html">all notebooks</a>', *after]) + "</nav>"


def _section(run: Execution, titles: Mapping[str, str], done: Mapping[str, NotebookNode]) -> str:
    """One notebook in the index: its title, its seconds, what stopped it, and its first figures."""
    stem = run.path.stem
    if stem not in done:
        return f'<section><h2>{escape(stem)}</h2><p class="failed">{escape(run.error)}</p></section>'
    state = f'{run.seconds:.0f} s <a href="{stem}.ipynb">notebook</a>'
    state += "" if run.ok else f' <span class="failed">{escape(run.error)}</span>'
    pictures = [
        f'<a href="{stem}.html#cell-id={cell.id}"><img alt="{escape(alt)}" src="data:image/png;base64,{png}"></a>'
        for cell, alt, png in list(_figures(done[stem], titles[stem]))[:THUMBNAILS]
    ]
    return (
        f'<section><h2><a href="{stem}.html">{escape(titles[stem])}</a></h2><p class="quiet">{state}</p>'
        f'<div class="thumbnails">{"".join(pictures)}</div></section>'
    )


def _figures(notebook: NotebookNode, title: str) -> Iterator[tuple[NotebookNode, str, str]]:
    """(cell, alternative text, PNG in base64) of every picture."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if png := output.get("data", {}).get("image/png"):
                alt = output.metadata.get("image/png", {}).get("alt") or f"a figure of {title}"
                yield cell, alt, png.replace("\n", "")


def _provenance(run: Mapping) -> str:
    """What the run came from and ran on, in a line."""
    changed = " with uncommitted changes" if run.get("dirty") else ""
    facts = [f"commit {run['commit'][:10]}{changed}"] if run.get("commit") else []
    facts += [f"{key} {run[key]}" for key in ("seed", "device", "cores", "platform") if key in run]
    facts += [f"{name} {version}" for name, version in run.get("versions", {}).items()]
    return escape(" · ".join(facts))


def _body(notebook: NotebookNode, titles: Mapping[str, str], folder: Path, source: Path) -> str:
    exporter = _Exporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    exporter.config.NbConvertBase.display_data_priority = SHOWN  # no widgets, no scripts: their pictures instead
    page, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"path": str(source)}})

    def link(match: re.Match) -> str:
        target, anchor = match[1], match[2] or ""
        stem = target.removesuffix(".ipynb")
        if stem in titles and target != stem:
            return f'href="{stem}.html{anchor}"'
        return f'href="{Path(os.path.relpath(source / target, folder)).as_posix()}{anchor}"'

    return re.sub(r'href="(?![a-z]+:|#|/)([^"#]+)(#[^"]*)?"', link, page)


class _Exporter(HTMLExporter):
    @pass_context
    def markdown2html(self, context, source: str) -> str:
        """As in nbconvert, with formulas as MathML, which browsers draw without a script."""
        cell, metadata = context.get("cell", {}), context.get("resources", {}).get("metadata", {})
        renderer = _MathML(
            escape=False, embed_images=True, path=metadata.get("path", ""), attachments=cell.get("attachments", {})
        )
        return MarkdownWithMath(renderer=renderer).render(source)


class _MathML(IPythonRenderer):
    def inline_math(self, body: str) -> str:
        return self._mathml(body, "inline")

    def block_math(self, body: str) -> str:
        return self._mathml(body, "block")

    def latex_environment(self, name: str, body: str) -> str:
        return self._mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", "block")

    def _mathml(self, latex: str, display: str) -> str:
        try:
            return convert(latex, display=display)
        except Exception:  # its errors have no class in common; a formula that it cannot read stays as it is written
            return f"<code>{self.escape_html(latex)}</code>"
