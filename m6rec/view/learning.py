"""Learning curves: what each method makes of ten, a hundred or all examples."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from m6rec.view.picture import LINES, Picture, canvas


def learning_curves(
    curves: Mapping[str, Mapping[int, np.ndarray]],
    title: str,
    *,
    quality: str = "AUC",
    levels: Mapping[str, float] | None = None,
) -> Picture:
    """A line per method of quality against examples: its mean over seeds and the range. levels: horizontal lines."""
    figure, ax = canvas(7.5, 4)
    rows = []
    for place, (name, points) in enumerate(curves.items()):
        x = sorted(points)
        values = [np.atleast_1d(points[n]) for n in x]
        colour, marker = LINES[place % len(LINES)], "Dos^vPX"[place % 7]
        ax.plot(x, [v.mean() for v in values], color=colour, marker=marker, markersize=5, label=_plain(name))
        ax.fill_between(x, [v.min() for v in values], [v.max() for v in values], color=colour, alpha=0.15, linewidth=0)
        rows += [(name, n, v.mean(), v.min(), v.max()) for n, v in zip(x, values, strict=True)]
    for (name, level), style in zip((levels or {}).items(), (":", "--", "-."), strict=False):
        ax.axhline(level, color="0.5", linestyle=style, label=_plain(name))
    ax.set_xscale("log")
    ax.set_xlabel("labelled examples")
    ax.set_ylabel(quality)
    ax.legend(frameon=False, fontsize=8, ncols=2)
    ax.set_title(_plain(title), loc="left", fontsize=10)
    data = pd.DataFrame(rows, columns=["method", "examples", "mean", "low", "high"])
    return Picture(figure, data, f"{title}. {quality} against labelled examples for {', '.join(curves)}.")


def _plain(text: str) -> str:
    return text.replace("$", r"\$")
