"""Curves, lists and comparisons. Each takes numbers and a title that states the finding, and returns a `Picture`."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from math import prod

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from m6rec.errors import InputError
from m6rec.evaluate.statistics import Interval, mean_interval
from m6rec.generate.beam import Step
from m6rec.record import Figure
from m6rec.view.picture import LINES, MARKERS, Picture, canvas, drawable, finish, named

NODES, WIDTHS = np.array(["0.8", LINES[0], LINES[1]]), np.array([0.7, 1.6, 2.4])  # others, to the list, chosen path


def lines(ax: Axes, series: Mapping[str, Sequence], labels: tuple[str, str], levels: Mapping[str, float] = {}) -> None:
    """A line for each name -> (x, y) or (x, y, low, high), and dashed grey levels; labels: of both axes."""
    ax.set(xlabel=labels[0], ylabel=labels[1])
    for (name, (x, y, *band)), colour, marker in zip(series.items(), cycle(LINES), cycle(MARKERS)):
        ax.plot(x, y, color=colour, marker=marker, markersize=4, label=named(name))
        if band:
            ax.fill_between(x, *band, color=colour, alpha=0.15, linewidth=0)
    for (name, level), style, grey in zip(levels.items(), cycle((":", "--", "-.")), cycle(("0.1", "0.4", "0.6"))):
        ax.axhline(level, color=grey, linestyle=style, label=named(name))
    ax.legend(frameon=False, fontsize=8)


def training_curve(epochs: Sequence[object], title: str, *, chance: float) -> Picture:
    """Losses by epoch, and the validation beside them: `epochs` are `m6rec.train.fit.Epoch` rows."""
    data = pd.DataFrame([row.losses for row in epochs], index=pd.Index([row.epoch for row in epochs], name="epoch"))
    figure, (left, right) = canvas(9, 3, columns=2)
    lines(left, {name: (data.index, data[name]) for name in data}, ("epoch", "loss (nats)"), {"next, guessing": chance})
    data["validation"] = [row.validation for row in epochs]
    right.plot(data["validation"].dropna(), color="0.2", marker="P")
    right.set(xlabel="epoch", ylabel="validation NDCG@10", ylim=(0, None))
    for ax in (left, right):
        ax.xaxis.get_major_locator().set_params(integer=True)
    return finish(figure, title, data, f"By epoch: {', '.join(data)}.")


def validation_curves(
    curves: Mapping[str, tuple[Sequence[int], Sequence[float]]], title: str, *, levels: Mapping[str, float] = {}
) -> Picture:
    """Validation NDCG@10 against epochs, a line for each training; levels: horizontal lines."""
    _, ax = canvas(7.5, 3.5)
    lines(ax, curves, ("epoch", "validation NDCG@10"), levels)
    ax.set(ylim=(0, None))
    ax.xaxis.get_major_locator().set_params(integer=True)
    data = pd.DataFrame({name: pd.Series(y, x) for name, (x, y) in curves.items()}).rename_axis("epoch")
    return finish(ax, title, data, f"Validation NDCG@10 by epoch: {', '.join(curves)}.")


def learning_curves(
    curves: Mapping[str, Mapping[int, np.ndarray]], title: str, *, quality="AUC", levels: Mapping[str, float] = {}
) -> Picture:
    """A line per method of quality against examples: mean over seeds and range. levels: horizontal lines."""
    rows = [(name, n, np.mean(values), np.min(values), np.max(values))
            for name, points in curves.items() for n, values in sorted(points.items())]  # fmt: skip
    data, ax = _by_method(rows, ("examples", "mean", "low", "high"), ("labelled examples", quality), levels)
    ax.set_xscale("log")
    return finish(ax, title, data, f"{quality} against labelled examples for {', '.join(curves)}.")


def tradeoff(methods: Mapping[str, Sequence[tuple[str, float, float]]], title: str, *, wanted: float) -> Picture:
    """One line per method of (label, milliseconds, AUC): left is faster, up is better. wanted: the lower limit."""
    points = [(name, *point) for name, row in methods.items() for point in sorted(row, key=lambda point: point[1])]
    rows = [(name, time, auc) for name, _, time, auc in points]
    data, ax = _by_method(rows, ("milliseconds", "AUC"), ("milliseconds a request", "AUC"), {"wanted": wanted})
    for _, label, *at in points:
        ax.annotate(named(label), at, xytext=(4, 5), textcoords="offset points", fontsize=8)
    ax.set_xlim(left=0)
    data.insert(1, "label", [label for _, label, *_ in points])
    return finish(ax, title, data, f"AUC against milliseconds for {', '.join(methods)}.")


def faithfulness_curves(curves: Mapping[str, np.ndarray], title: str, *, baseline: str | None = None) -> Picture:
    """What is left as tokens go, the first named first: explainer -> (users, steps); means with 95 % bands.

    For deletion lower is better, for insertion higher. baseline: draw paired differences to this explainer.
    """
    label, levels = "probability kept", {}
    if baseline is not None:
        label, levels = f"{label}, minus {named(baseline)}'s", {baseline: 0.0}
        curves = {name: curve - curves[baseline] for name, curve in curves.items() if name != baseline}
    bands = {name: np.array([mean_interval(column)[:3] for column in curve.T]).T for name, curve in curves.items()}
    data = pd.DataFrame({name: band[0] for name, band in bands.items()})
    data.index = pd.Index(np.linspace(0, 1, len(data)), name="share of the tokens, the first named first")
    _, ax = canvas(7.2, 3.6)
    lines(ax, {name: (data.index, *band) for name, band in bands.items()}, (data.index.name, label), levels)
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    ax.set_ylim(bottom=min(0, ax.get_ylim()[0]))
    return finish(ax, title, data, f"{label} for each of {', '.join(curves)}, with 95 % bands over users.")


def agreement(x: np.ndarray, y: np.ndarray, names: tuple[str, str], title: str) -> Picture:
    """Two scores of the same items against each other, with their rank correlation (Spearman)."""
    _, ax = canvas(5.2, 4)
    data = pd.DataFrame(dict(zip(names, (x, y), strict=True)))
    correlation = f"rank correlation {data.corr('spearman').iloc[0, 1]:.2f}"
    ax.scatter(x, y, s=6, color=LINES[0], alpha=0.3, linewidth=0, label=correlation)
    ax.axline((x.max(), x.max()), slope=1, color=LINES[1], linestyle="--", label="equal")
    ax.set(xlabel=names[0], ylabel=names[1])
    ax.legend(frameon=False, loc="upper left")
    return finish(ax, title, data, f"{names[1]} against {names[0]} of {len(x)} items, {correlation}.")


def comparison(rows: Mapping[str, Interval | Figure], title: str, *, ours: Sequence[str] = ()) -> Picture:
    """NDCG@10 of each method with its 95 % interval, best on top; `ours` are drawn in the first colour."""
    data = pd.DataFrame({column: {name: getattr(rows[name], column) for name in rows} for column in Interval._fields})
    data = data.sort_values("value", kind="stable")
    _, ax = canvas(7.5, 0.8 + 0.34 * len(rows))
    for y, (name, value, low, high, *_) in enumerate(data.itertuples()):
        colour, marker = (LINES[0], "D") if name in ours else (LINES[2], "o")
        ax.plot((low, high), (y, y), color=colour, linewidth=2)
        ax.plot(value, y, marker=marker, color=colour)
        ax.annotate(f"{value:.3f}", (high, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9)
    ax.set_yticks(range(len(rows)), map(named, data.index))
    ax.set(xlabel="NDCG@10, 95 % interval over users", xlim=(0, None), ylim=(-0.6, len(rows) - 0.4))
    return finish(ax, title, data[::-1], f"NDCG@10 of {len(rows)} methods with 95 % intervals, the best on top.")


def contributions(scores: np.ndarray, labels: Sequence[str], title: str, *, show: int = 12) -> Picture:
    """What the tokens contribute (n,) (nats), largest first: orange for the item, purple against it."""
    data = pd.DataFrame({"token": labels, "contribution": scores})
    data = data.sort_values("contribution", key=lambda part: -part.abs(), kind="stable", ignore_index=True)
    top = data["contribution"][:show]
    figure, ax = canvas(7.6, 1.2 + 0.28 * len(top), margins=(2.7, 0.5, 0.5, 0.4))
    # The two ends of PuOr, so that a sign reads as in every other view.
    bars = ax.barh(range(len(top)), top, color=["#b35806" if s >= 0 else "#542788" for s in top])
    ax.bar_label(bars, [f"{s:+.3f}" for s in top], fontsize=8, padding=2)
    ax.axvline(0, color="0.4", linewidth=0.8)
    ax.set_yticks(range(len(top)), [drawable(token, 36) for token in data["token"][:show]], fontsize=8)
    ax.margins(x=0.15)  # room for the numbers beside the bars
    ax.set_xlabel("contribution to the score (nats)", fontsize=8)
    ax.invert_yaxis()
    alt = f"The {len(top)} tokens of {len(data)} that contribute most, for and against, in nats."
    return finish(figure, title, data, alt)


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


def beam_tree(
    steps: Sequence[Step],
    widths: Sequence[int],
    leaves: Mapping[int, str],
    title: str,
    *,
    depth: int | None = None,
    chosen: int | None = None,
) -> Picture:
    """The nodes that a beam kept at each digit (steps of one list), and which of them lead to the list.

    leaves: of the list, leaf -> title. depth: open so many digits only, and number their nodes. chosen: a leaf whose
    path stands out, digit by digit. InputError for another depth than 1 to the number of steps.
    """
    depth = len(steps) if depth is None else depth
    if not 1 <= depth <= len(steps):
        raise InputError(f"digit {depth} is not there: this beam has the digits 1 to {len(steps)}.")
    parts = []
    for level, step in enumerate(steps[:depth], 1):
        below = prod(widths[level:])
        part = pd.DataFrame({"level": level, "node": step.nodes[0].tolist(), "log_likelihood": step.scores[0].tolist()})
        part["leads_to_the_list"] = part["node"].isin([leaf // below for leaf in leaves])
        part["leaves_below"] = below
        # Where fewer nodes are possible than the beam is wide, the rest is no node; leaves are drawn if listed.
        part = part[(part["log_likelihood"] > -np.inf) & (part["leads_to_the_list"] | (level < len(widths)))]
        kind = part["leads_to_the_list"] * (1 + (part["node"] == (-1 if chosen is None else chosen // below)))
        parts.append(part.assign(height=1 - (part["node"].rank() - 0.5) / len(part), kind=kind))
    data = pd.concat(parts, ignore_index=True)
    nodes = data.sort_values("kind", kind="stable")  # what matters lies on top
    heights = {(row.level, row.node): row.height for row in nodes.itertuples()} | {(0, 0): 0.5}
    _, ax = canvas(9, 4.2, margins=(0.2, 0.2, 0.3, 0.4))
    ax.axis("off")
    branches = [
        [(row.level - 2, heights[row.level - 1, row.node // widths[row.level - 1]]), (row.level - 1, row.height)]
        for row in nodes.itertuples()
    ]
    ax.add_collection(LineCollection(branches, colors=NODES[nodes["kind"]], linewidths=WIDTHS[nodes["kind"]]))
    ax.scatter(nodes["level"] - 1, nodes["height"], s=14, color=NODES[nodes["kind"]], zorder=3)
    for row in nodes[nodes["kind"] > 0].itertuples():
        digit = f"{row.node % widths[row.level - 1]}, {row.log_likelihood:.2f}"
        if row.level == depth:
            text = drawable(leaves[row.node], 34) if depth == len(steps) else digit
            weight = "bold" if row.kind == 2 else "normal"
            ax.text(depth - 0.95, row.height, text, va="center", fontsize=8, weight=weight)
        elif row.kind == 2:
            ax.text(row.level - 1, row.height + 0.02, digit, ha="center", fontsize=8)
    for level in range(depth):
        ax.text(level, -0.06, f"digit {level + 1}", ha="center", fontsize=9, style="italic")
    ax.set(xlim=(-1.1, len(steps) + 0.3), ylim=(-0.09, 1.02))
    alt = f"Blue branches lead to the {len(leaves)} items of the list."
    if chosen is not None:
        alt += " Orange: the path of the chosen one, with its digits and its log-likelihood so far."
    return finish(ax, title, data.drop(columns=["height", "kind"]), alt)


def _by_method(rows: Sequence[tuple], columns: Sequence[str], *drawn: object) -> tuple[pd.DataFrame, Axes]:
    """Rows (method, x, y) or (method, x, y, low, high) as a table, and its `lines`."""
    _, ax = canvas(7.5, 4)
    data = pd.DataFrame(rows, columns=["method", *columns])
    lines(ax, {name: part.iloc[:, 1:].to_numpy(float).T for name, part in data.groupby("method", sort=False)}, *drawn)
    return data, ax
