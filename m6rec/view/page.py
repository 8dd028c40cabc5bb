"""What the front end, view.js, draws: a spec; and pages that carry it, once, with their views' data.

A spec is a dict of JSON: kind ("attention", "overlay", …), title, note and what the kind needs. A page
allows no request and no script but view.js, by its hash; where scripts are off, the picture stands."""

import hashlib
import json
from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from html import escape
from typing import Any

import jinja2
import numpy as np

from m6rec.cache import PACKAGE
from m6rec.config import Array

Spec = Mapping[str, Any]
FILES = jinja2.Environment(loader=jinja2.FileSystemLoader(PACKAGE / "view"), autoescape=True, trim_blocks=True)


@cache
def module() -> str:
    return (PACKAGE / "view" / "view.js").read_text(encoding="utf-8")


def base64(raw: bytes) -> str:
    return b64encode(raw).decode()


def encode(values: Array, signed: bool = False) -> dict[str, object]:
    """8 bits a value by the square root of its share of the largest, so small ones keep two digits; NaN is 255."""
    values = np.asarray(values, float)
    top = float(np.nanmax(np.abs(values), initial=0)) or 1.0
    share = np.sqrt(np.abs(np.nan_to_num(values)) / top)
    bytes_ = np.rint(127 + np.sign(values) * share * 127 if signed else share * 254)
    bytes_ = np.where(np.isnan(values), 255, bytes_).astype(np.uint8)
    return {"q": base64(bytes_.tobytes()), "top": top, "signed": signed}


def figure(png: str, alt: str, spec: Spec | None = None) -> str:
    """HTML of a picture (base64) that view.js replaces by its view; data are escaped."""
    alt = escape(alt)
    view = f' class="m6rec-view" data-view="{escape(json.dumps(spec, ensure_ascii=False))}"' if spec else ""
    picture = f'<img alt="{alt}" src="data:image/png;base64,{png}">'
    return f"<figure{view}>{picture}<figcaption>{alt}</figcaption></figure>"


def page(title: str, body: str, css: str = "", **more: object) -> str:
    """With view.js if there is a view in its body. more: for page.html.j2, which escapes all but body and css."""
    script = module() if ' class="m6rec-view"' in body else ""
    digest = base64(hashlib.sha256(script.encode()).digest())
    return FILES.get_template("page.html.j2").render(
        title=title, body=body, css=css, script=script, digest=digest, **more
    )
