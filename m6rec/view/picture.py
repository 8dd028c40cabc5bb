"""A `Picture`: a figure that is returned, with the numbers that it draws and words for who cannot see it."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

LINES = ("#006BA4", "#FF800E", "#595959", "#5F9ED1", "#C85200", "#898989", "#A2C8EC", "#FFBC79")  # colour-blind safe


class Picture(NamedTuple):
    """What every view returns. The last expression of a cell shows it, live or not, always as the same PNG."""

    figure: Figure
    data: pd.DataFrame  # what is drawn
    alt: str  # the picture in a sentence

    def save(self, path: str | Path) -> Path:
        """Write it as PNG (or as what the name's ending says)."""
        self.figure.savefig(path, bbox_inches="tight")
        return Path(path)

    def _repr_mimebundle_(self, **_: object) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=96, bbox_inches="tight", metadata={"Software": None})
        png = base64.b64encode(buffer.getvalue()).decode()
        return {"image/png": png, "text/plain": f"Picture: {self.alt}"}, {"image/png": {"alt": self.alt}}

    def __repr__(self) -> str:
        return f"Picture: {self.alt}"


def canvas(width: float, height: float, columns: int = 1, rows: int = 1, **options: object) -> tuple[Figure, object]:
    """An empty figure in the suite's style, in inches, and its axes (one, or an array)."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, **options)
    for ax in figure.axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes
