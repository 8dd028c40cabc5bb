"""Curves, lists and comparisons. Each takes numbers and a title that states the finding, and returns a `Picture`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from m6rec.evaluate.statistics import Interval
from m6rec.record import Figure
from m6rec.view.picture import LINES, MARKERS, Picture, canvas, drawable, finish, named


def lines(ax: Axes, series: Mapping[str, Sequence], xlabel: str, ylabel: str, levels: Mapping[str, float] = {}) -> None:
    """A line for each name -> (x, y) or (x, y, low, high), and dashed grey levels, with labels and a legend."""
    for (name, (x, y, *band)), colour, marker in zip(series.items(), cycle(LINES), cycle(MARKERS)):
        ax.plot(x, y, color=colour, marker=marker, markersize=4, label=named(name))
        if band:
            ax.fill_between(x, *band, color=colour, alpha=0.15, linewidth=0)
    for (name, level), style, grey in zip(levels.items(), cycle((":", "--", "-.")), cycle(("0.1", "0.4", "0.6"))):
        ax.axhline(level, color=grey, linestyle=style, label=named(name))
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.legend(frameon=False, fontsize=8)


def training_curve(epochs: Sequence[object], title: str, *, chance: float | None = None) -> Picture:
    """Losses by epoch, and the validation beside them: `epochs` are `m6rec.train.fit.Epoch` rows."""
    data = pd.DataFrame([row.losses for row in epochs], index=pd.Index([row.epoch for row in epochs], name="epoch"))
    figure, (left, right) = canvas(9, 3, columns=2)
    levels = {} if chance is None else {"next, guessing": chance}
    lines(left, {name: (data.index, data[name]) for name in data}, "epoch", "loss (nats)", levels)
    data["validation"] = [row.validation for row in epochs]
    right.plot(data["validation"].dropna(), color="0.2", marker="P")
    right.set(xlabel="epoch", ylabel="validation NDCG@10", ylim=(0, None))
    for ax in (left, right):
        ax.xaxis.get_major_locator().set_params(integer=True)
    return finish(figure, title, data, f"By epoch: {', '.join(data)}.")


def rank_moves(before: Sequence[str], after: Sequence[str], names: tuple[str, str], title: str) -> Picture:
    """Two lists side by side, and a line for every item that is on both."""
    most = max(len(before), len(after))
    _, ax = canvas(8, 0.7 + 0.3 * most, margins=(0.1, 0.1, 0, 0.3))
    ax.axis("off")
    sides = (0.36, "right", names[0], before, after), (0.64, "left", names[1], after, before)
    for x, align, name, titles, others in sides:
        ax.text(x, 0, drawable(name, 60), ha=align, va="center", fontsize=9, style="italic")
        for rank, text in enumerate(titles, 1):
            weight = "normal" if text in others else "bold"
            ax.text(x, -rank, drawable(text, 34), ha=align, va="center", fontsize=9, weight=weight)
    for rank, text in enumerate(before, 1):
        if text in after:
            to = after.index(text) + 1
            colour = LINES[0] if to < rank else LINES[1] if to > rank else LINES[5]
            ax.plot((0.37, 0.63), (-rank, -to), color=colour, linewidth=1.5, linestyle="-" if to <= rank else "--")
    ax.set(xlim=(0, 1), ylim=(-most - 0.6, 0.6))
    # Two items may share a title: its first rank counts.
    first = [{text: titles.index(text) + 1 for text in titles} for titles in (before, after)]
    ranks = pd.DataFrame(dict(zip(names, first, strict=True)))
    return finish(ax, title, ranks, "Bold: on one list only. Solid lines rise or stay, dashed lines fall.")


def agreement(x: np.ndarray, y: np.ndarray, names: tuple[str, str], title: str) -> Picture:
    """Two scores of the same items against each other."""
    figure, ax = canvas(5.2, 4)
    figure.colorbar(ax.hexbin(x, y, gridsize=45, cmap="cividis", mincnt=1, bins="log"), ax=ax, label="items in a cell")
    ends = min(x.min(), y.min()), max(x.max(), y.max())
    ax.plot(ends, ends, color=LINES[1], linewidth=1, linestyle="--", label="equal")
    ax.set(xlabel=names[0], ylabel=names[1])
    ax.legend(frameon=False, loc="upper left")
    data = pd.DataFrame({names[0]: x, names[1]: y})
    return finish(figure, title, data, f"{names[1]} against {names[0]} of {len(x)} items.")


def comparison(
    rows: Mapping[str, Interval | Figure], title: str, *, ours: Sequence[str] = (), label: str = "NDCG@10"
) -> Picture:
    """One figure per method with its 95 % interval, best on top; `ours` are drawn in the first colour."""
    data = pd.DataFrame({column: {name: getattr(rows[name], column) for name in rows} for column in Interval._fields})
    data = data.sort_values("value", kind="stable")
    _, ax = canvas(7.5, 0.8 + 0.34 * len(rows))
    for y, (name, value, low, high, *_) in enumerate(data.itertuples()):
        colour, marker = (LINES[0], "D") if name in ours else (LINES[2], "o")
        ax.plot((low, high), (y, y), color=colour, linewidth=2)
        ax.plot(value, y, marker=marker, color=colour)
        ax.annotate(f"{value:.3f}", (high, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9)
    ax.set_yticks(range(len(rows)), map(named, data.index))
    ax.set(xlabel=f"{label}, 95 % interval over users", xlim=(0, None), ylim=(-0.6, len(rows) - 0.4))
    return finish(ax, title, data[::-1], f"{label} of {len(rows)} methods with 95 % intervals, the best on top.")


def learning_curves(
    curves: Mapping[str, Mapping[int, np.ndarray]],
    title: str,
    *,
    quality: str = "AUC",
    levels: Mapping[str, float] = {},
) -> Picture:
    """A line per method of quality against examples: mean over seeds and range. levels: horizontal lines."""
    _, ax = canvas(7.5, 4)
    rows = [
        (name, n, *(f(points[n]) for f in (np.mean, np.min, np.max)))
        for name, points in curves.items()
        for n in sorted(points)
    ]
    data = pd.DataFrame(rows, columns=["method", "examples", "mean", "low", "high"])
    series = {name: part.iloc[:, 1:].to_numpy(float).T for name, part in data.groupby("method", sort=False)}
    lines(ax, series, "labelled examples", quality, levels)
    ax.set_xscale("log")
    return finish(ax, title, data, f"{quality} against labelled examples for {', '.join(curves)}.")


def tradeoff(
    methods: Mapping[str, Sequence[tuple[str, float, float]]],
    title: str,
    *,
    quality: str = "AUC",
    wanted: float | None = None,
) -> Picture:
    """One line per method of (label, milliseconds, quality): left is faster, up is better. wanted: the lower limit."""
    _, ax = canvas(7.5, 4)
    rows = [(name, *point) for name, points in methods.items() for point in sorted(points, key=lambda point: point[1])]
    data = pd.DataFrame(rows, columns=["method", "label", "milliseconds", quality])
    series = {name: (part["milliseconds"], part[quality]) for name, part in data.groupby("method", sort=False)}
    lines(ax, series, "milliseconds a request", quality, {} if wanted is None else {"wanted": wanted})
    for _, label, time, value in rows:
        ax.annotate(named(label), (time, value), xytext=(4, 5), textcoords="offset points", fontsize=8)
    ax.set_xlim(left=0)
    return finish(ax, title, data, f"{quality} against milliseconds for {', '.join(methods)}.")
