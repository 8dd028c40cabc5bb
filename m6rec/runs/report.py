"""The report of a run: nbconvert's page for each notebook, and an index of them with pictures and figures.

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

from m6rec.runs.execute import Execution, read

SHOWN = ["text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/plain"]  # no widgets, scripts
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
body { margin: 0 auto; max-width: 60rem; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif; }
img, svg { max-width: 100%; height: auto; background: #fff; } section img { max-width: 20rem; }
pre, table { overflow-x: auto; font-size: .85rem; } .highlight { background: #f5f6f8; color: #000; }
a.anchor-link { display: none; }
@media (prefers-color-scheme: dark) {
  body { background: #15181c; color: #dde1e6; } a { color: #7db7ff; }
  .highlight { filter: invert(.9) hue-rotate(180deg); }
}
"""


def build(folder: Path, executions: Sequence[Execution], run: Mapping[str, dict], *, source: Path) -> Path:
    """Write a page for each executed notebook and index.html into the folder; returns the index.

    run: what they came from and ran on. source: the notebooks' own folder, to which their links are relative.
    """
    options = {"exclude_input_prompt": True, "exclude_output_prompt": True, "embed_images": True}
    exporter = HTMLExporter(template_name="basic", **options)
    exporter.config.NbConvertBase.display_data_priority = SHOWN
    stems = [run.path.stem for run in executions]

    def link(found: re.Match) -> str:
        stem = found[1].removesuffix(".ipynb")
        place = f"{stem}.html" if stem in stems else Path(os.path.relpath(source / found[1], folder)).as_posix()
        return f'href="{place}'

    facts = {key: run[key] for key in ("commit", "seed", "device", "cores", "platform") if key in run}
    facts |= run.get("versions", {})
    parts = [f"<h1>m6rec: the executed notebooks</h1><p>{escape(' · '.join(f'{k} {v}' for k, v in facts.items()))}</p>"]
    for done in executions:
        stem, title, picture = done.path.stem, done.path.stem, ""
        if done.path.exists():
            notebook = read(done.path)
            title = notebook.cells[0].source.partition("\n")[0].removeprefix("# ")
            body, made = exporter.from_notebook_node(notebook, resources={"metadata": {"path": str(source)}})
            body = re.sub(r'href="(?![a-z]+:|#|/)([^"#]+)', link, body)
            _write(folder / f"{stem}.html", title, f'<a href="index.html">index</a>{body}', made["inlining"]["css"][0])
            picture = next(re.finditer(r'<img[^>]*"data:image/png[^>]*>', body), [""])[0]
        heading = f'<h2><a href="{stem}.html">{escape(title)}</a></h2>'
        parts.append(f"<section>{heading}<p>{escape(str(done))}</p>{picture}</section>")
    parts.append('<p>Every figure with its interval: <a href="metrics.json">metrics.json</a></p>')
    _write(folder / "index.html", "m6rec: the executed notebooks", "\n".join(parts))
    return folder / "index.html"


def _write(path: Path, title: str, body: str, style: str = "") -> None:
    path.write_text(
        f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><title>{escape(title)}</title>'
        f"<style>{style}{STYLE}</style><body>{body}</body></html>\n",
        encoding="utf-8",
    )
