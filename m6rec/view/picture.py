"""A `Picture`: a figure that is returned, with the numbers that it draws and an alternative text."""

import base64
import html
import io
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import pandas as pd
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from PIL import Image

LINES = ("#006BA4", "#FF800E", "#595959", "#5F9ED1", "#C85200", "#898989", "#A2C8EC", "#FFBC79")  # colour-blind safe
MARKERS = "osd^vPX*"


class Picture(NamedTuple):
    """What every view returns. The last expression of a cell shows it, live or not, always as the same PNG."""

    figure: Figure
    data: pd.DataFrame  # what is drawn
    alt: str  # the picture in a sentence

    def png(self) -> bytes:
        """The picture as it is shown."""
        # Trimming draws a figure twice; one without a layout of its own has fixed margins that fit.
        trim = "tight" if self.figure.get_layout_engine() else None
        drawn, png = io.BytesIO(), io.BytesIO()
        self.figure.savefig(drawn, format="png", dpi=96, bbox_inches=trim, pil_kwargs={"compress_level": 0})
        # 256 colours are a quarter of the bytes, and quicker than packing all of them: notebooks have 400 kB.
        image = Image.open(drawn).convert("RGB")
        image.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(png, "png")
        return png.getvalue()

    def html(self) -> str:
        """The picture as a figure of a page, with its alternative text and its numbers; all data are escaped."""
        alt, image = html.escape(plain(self.alt, 400)), base64.b64encode(self.png()).decode()
        table = self.data.iloc[:60, :30].round(3)  # pandas cuts and escapes the cells
        table = table.rename(index=lambda name: plain(name, 60), columns=lambda name: plain(name, 60)).to_html(border=0)
        return (
            f'<figure style="margin:0"><img alt="{alt}" style="max-width:100%" src="data:image/png;base64,{image}">'
            f"<figcaption>{alt}</figcaption></figure><details><summary>The numbers</summary>{table}</details>"
        )

    def _repr_mimebundle_(self, **_: object) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
        png = base64.b64encode(self.png()).decode()
        return {"image/png": png, "text/plain": repr(self)}, {"image/png": {"alt": self.alt}}

    def __repr__(self) -> str:
        return f"Picture: {self.alt}"


def canvas(
    width: float,
    height: float,
    columns: int = 1,
    rows: int = 1,
    *,
    margins: Sequence[float] = (),
    bare=False,
    **options,
) -> tuple[Figure, object]:
    """An empty figure in the suite's style and its axes (one, or an array), bare of ticks and frames. All in inches.

    margins: left, right, bottom, top. Fixed ones halve the time of a picture that follows a slider.
    """
    figure = Figure(figsize=(width, height), layout=None if margins else "constrained")
    axes = figure.subplots(rows, columns, **options)
    if margins:
        left, right, bottom, top = margins
        figure.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height)
    for ax in figure.axes:
        ax.spines[list(ax.spines) if bare else ["top", "right"]].set_visible(False)
        if bare:
            ax.set(xticks=[], yticks=[])
    return figure, axes


def finish(where: Axes | Figure, title: str, data: pd.DataFrame, alt: str, note: str = "") -> Picture:
    """A picture with its title above axes or a whole figure; the alternative text is the title and then `alt`."""
    if isinstance(where, Figure):
        where.suptitle(drawable(title), x=0.01, ha="left", fontsize=10)
    else:
        where.set_title(drawable(title) + note, loc="left", fontsize=10)
    return Picture(where.get_figure(), data, f"{title}. {alt}")


def plain(text: object, length: int = 80) -> str:
    """Text from the data in one line: at most `length` characters, none that steers a terminal or turns the line."""
    line = "".join(c if c.isprintable() else " " for c in str(text)[: length + 1])
    return line if len(line) <= length else line[: length - 1] + "…"


def drawable(text: object, length: int = 160) -> str:
    """`plain`, for a figure: a dollar sign starts no formula, and what the font does not have is a box.

    Fonts for more scripts: matplotlib.rcParams["font.family"] = ["DejaVu Sans", "Noto Sans CJK JP"].
    """
    glyphs = _glyphs(tuple(rcParams["font.family"]))
    return "".join(c if ord(c) in glyphs else "□" for c in plain(text, length)).replace("$", r"\$")


def named(code: str, length: int = 40) -> str:
    """A name in code as words of a figure: "m6rec_no_prior" -> "m6rec no prior"."""
    return drawable(code.replace("_", " "), length)


@lru_cache
def _glyphs(families: tuple[str, ...]) -> frozenset[int]:
    """The characters that the figures' fonts have."""
    fonts = (get_font(findfont(FontProperties(family=[family]))) for family in families)
    return frozenset(code for font in fonts for code in font.get_charmap())
