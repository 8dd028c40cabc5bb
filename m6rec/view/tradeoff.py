"""Quality against time: what each way to be faster costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from m6rec.view.picture import LINES, Picture, canvas


def tradeoff(
    ways: Mapping[str, Sequence[tuple[str, float, float]]],
    title: str,
    *,
    quality: str = "AUC",
    wanted: float | None = None,
) -> Picture:
    """One line per way of (label, milliseconds, quality): left is faster, up is better. wanted: what to stay above."""
    figure, ax = canvas(7.5, 4)
    rows = []
    for (way, points), colour, marker in zip(ways.items(), LINES, "Dos^v", strict=False):
        points = sorted(points, key=lambda point: point[1])
        ax.plot([p[1] for p in points], [p[2] for p in points], color=colour, marker=marker, label=_plain(way))
        for label, ms, value in points:
            ax.annotate(_plain(label), (ms, value), xytext=(4, 5), textcoords="offset points", fontsize=8)
            rows.append((way, label, ms, value))
    if wanted is not None:
        ax.axhline(wanted, color="0.6", linestyle=":", label="wanted")
    ax.set_xlabel("milliseconds a request")
    ax.set_ylabel(quality)
    ax.set_xlim(left=0)
    ax.legend(frameon=False, loc="lower right")
    ax.set_title(_plain(title), loc="left", fontsize=10)
    data = pd.DataFrame(rows, columns=["way", "label", "milliseconds", quality])
    return Picture(figure, data, f"{title}. {quality} against milliseconds for {', '.join(ways)}.")


def _plain(text: str) -> str:
    return text.replace("$", r"\$")
