"""What the front end, view.js, draws: a spec; and pages that carry it, once, with their views' data.

A spec is a dict of JSON: kind ("attention", "heat", "moves", "tree"), title, note and what the kind needs. A page
allows no request and no script but view.js, by its hash; where scripts are off, the picture stands."""

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from html import escape
from typing import Any

import numpy as np

from m6rec.cache import PACKAGE
from m6rec.config import Array

PAGE = """<!DOCTYPE html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'{allow}">
<title>{title}</title><style>{css}{STYLE}</style><body><main>{body}</main>{script}</body></html>
"""
STYLE = """
:root { color-scheme: light dark } body { margin: auto; max-width: 60rem; padding: 1rem; font: 1rem/1.5 sans-serif }
main { overflow-wrap: anywhere } h3, p { margin-bottom: 0 } figure { margin: 1rem 0 } section { margin-top: 3rem }
img, svg, .highlight { max-width: 100%; background: #fff; color: #000 } pre, table { display: block; overflow-x: auto }
td, th { padding: 0 .5em; overflow-wrap: normal } dt { font-style: italic } a.anchor-link { display: none }
.gallery { display: grid; grid: auto / repeat(auto-fill, minmax(min(22rem, 100%), 1fr)); gap: 1rem }
#code:not(:checked) ~ .cell .input { display: none }
@media print { nav, #code, label { display: none } section { break-before: page } figure, tr { break-inside: avoid } }
"""
Spec = Mapping[str, Any]


@cache
def module() -> str:
    return (PACKAGE / "view" / "view.js").read_text(encoding="utf-8")


def encode(values: Array, signed: bool = False) -> dict[str, object]:
    """8 bits a value by the square root of its share of the largest, so small ones keep two digits; NaN is 255."""
    values = np.asarray(values, float)
    top = float(np.nanmax(np.abs(values), initial=0)) or 1.0
    share = np.sqrt(np.abs(np.nan_to_num(values)) / top)
    bytes_ = np.rint(127 + np.sign(values) * share * 127 if signed else share * 254)
    bytes_ = np.where(np.isnan(values), 255, bytes_).astype(np.uint8)
    return {"q": base64.b64encode(bytes_.tobytes()).decode(), "top": top, "signed": signed}


def figure(png: str, alt: str, spec: Spec | None = None) -> str:
    """HTML of a picture (base64) that view.js replaces by its view; all that comes from data is escaped."""
    alt = escape(alt)
    view = f' class="m6rec-view" data-view="{escape(json.dumps(spec, ensure_ascii=False))}"' if spec else ""
    picture = f'<img alt="{alt}" src="data:image/png;base64,{png}">'
    return f"<figure{view}>{picture}<figcaption>{alt}</figcaption></figure>"


def page(title: str, body: str, css: str = "") -> str:
    """With view.js if there is a view in its body."""
    allow = script = ""
    if ' class="m6rec-view"' in body:
        digest = base64.b64encode(hashlib.sha256(module().encode()).digest()).decode()
        allow, script = f"; script-src 'sha256-{digest}'", f'<script type="module">{module()}</script>'
    return PAGE.format(title=escape(title), css=css, STYLE=STYLE, body=body, allow=allow, script=script)
