"""The suite's figures. Each takes numbers and a title that states the finding, and returns a `Picture`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from m6rec.evaluate.statistics import Interval
from m6rec.view.beam import beam_tree  # noqa: F401 (notebooks call it by this place)
from m6rec.view.picture import LINES, Picture, canvas, drawable


def mask_map(mask: np.ndarray, labels: Sequence[str], title: str, *, keys: Sequence[str] | None = None) -> Picture:
    """Who may look at whom: mask (Tq, Tk) bool; rows are queries, columns keys."""
    keys = labels if keys is None else keys
    figure, ax = canvas(1.6 + 0.28 * len(keys), 1.4 + 0.28 * len(labels))
    ax.imshow(mask, cmap="cividis", vmin=0, vmax=1)
    _label(ax, labels, keys)
    ax.set_xlabel("is looked at")
    ax.set_ylabel("looks")
    ax.set_title(drawable(title), loc="left", fontsize=10)
    for edge in range(1, len(keys)):
        ax.axvline(edge - 0.5, color="white", linewidth=0.5)
    for edge in range(1, len(labels)):
        ax.axhline(edge - 0.5, color="white", linewidth=0.5)
    share = float(np.mean(mask))
    return Picture(figure, pd.DataFrame(mask, labels, keys), f"{title}. {share:.0%} of the pairs may look.")


def training_curve(epochs: Sequence[object], title: str, *, chance: float | None = None) -> Picture:
    """Losses by epoch, and the validation beside them: `epochs` are `m6rec.train.fit.Epoch` rows."""
    losses = pd.DataFrame([row.losses for row in epochs], index=pd.Index([row.epoch for row in epochs], name="epoch"))
    checked = pd.Series({row.epoch: row.validation for row in epochs if row.validation is not None})
    figure, (left, right) = canvas(9, 3, columns=2)
    for colour, marker, name in zip(LINES, "osd^v", losses, strict=False):
        left.plot(losses.index, losses[name], color=colour, marker=marker, markersize=4, label=name)
    if chance is not None:
        left.axhline(chance, color="0.6", linestyle=":", label="next, guessing")
    left.set_ylabel("loss (nats)")
    left.legend(frameon=False)
    right.plot(checked.index, checked.values, color=LINES[1], marker="s")
    right.set_ylabel("validation NDCG@10")
    right.set_ylim(bottom=0)
    for ax in (left, right):
        ax.set_xlabel("epoch")
        ax.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(drawable(title), x=0.01, ha="left", fontsize=10)
    return Picture(figure, losses.assign(validation=checked), title)


def attention_map(
    weights: np.ndarray,
    labels: Sequence[str],
    title: str,
    *,
    kinds: Sequence[str] | None = None,
    rows: Sequence[str] | None = None,
    top: float | None = None,
) -> Picture:
    """Where targets looked: weights (rows, Tk), a column per token; `kinds` groups them, rows are heads if unnamed.

    top: the weight at which the colours end, where a token that stands for many would outshine all others.
    """
    rows = [f"head {h + 1}" for h in range(len(weights))] if rows is None else rows
    figure, ax = canvas(2 + 0.3 * len(labels), 1.9 + 0.3 * len(weights))
    top = float(weights.max()) if top is None else top
    image = ax.imshow(weights, cmap="cividis", vmin=0, vmax=top, aspect="auto")
    _label(ax, rows, labels)
    if weights.shape[1] <= 16:
        for (row, column), value in np.ndenumerate(weights):
            light = value > top / 2
            ax.text(
                column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color="black" if light else "white"
            )
    for edge in range(1, len(labels)):
        if kinds is not None and kinds[edge] != kinds[edge - 1]:
            ax.axvline(edge - 0.5, color="white", linewidth=2)
    figure.colorbar(image, ax=ax, label="attention", shrink=0.8, extend="max" if weights.max() > top else "neither")
    ax.set_title(drawable(title) + "\n(where the model looked, which is not yet why)", loc="left", fontsize=10)
    data = pd.DataFrame(weights, list(rows), list(labels))
    return Picture(
        figure,
        data,
        f"{title}. Attention in {len(weights)} rows over {len(labels)} tokens: where the model looked, not why.",
    )


def rank_moves(before: Sequence[str], after: Sequence[str], names: tuple[str, str], title: str) -> Picture:
    """Two lists side by side, and a line for every item that is on both."""
    room = 0.7 + 0.3 * max(len(before), len(after))
    figure, ax = canvas(8, room, layout="none")
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0, top=1 - 0.3 / room)
    ax.axis("off")
    for x, align, titles in ((0.36, "right", before), (0.64, "left", after)):
        for rank, text in enumerate(titles, 1):
            new = text not in (after if x < 0.5 else before)
            ax.text(x, -rank, drawable(text, 34), ha=align, va="center", fontsize=9, weight="bold" if new else "normal")
    for rank, text in enumerate(before, 1):
        if text in after:
            to = after.index(text) + 1
            colour = LINES[0] if to < rank else LINES[1] if to > rank else LINES[5]
            ax.plot((0.37, 0.63), (-rank, -to), color=colour, linewidth=1.5, linestyle="-" if to <= rank else "--")
    ax.text(0.36, 0, names[0], ha="right", va="center", fontsize=9, style="italic")
    ax.text(0.64, 0, names[1], ha="left", va="center", fontsize=9, style="italic")
    ax.set_xlim(0, 1)
    ax.set_ylim(-max(len(before), len(after)) - 0.6, 0.6)
    ax.set_title(drawable(title), loc="left", fontsize=10)
    # Two films may share a title: it stands where it is met first.
    first = [{text: titles.index(text) + 1 for text in titles} for titles in (before, after)]
    places = pd.DataFrame(dict(zip(names, first, strict=True)))
    return Picture(figure, places, f"{title}. Bold: on one list only. Solid lines rise or stay, dashed lines fall.")


def tree_health(rows: Sequence[object], title: str) -> Picture:
    """A tree's health by level: `rows` are `m6rec.model.tree.Health`."""
    table = pd.DataFrame(rows).set_index("level")
    figure, axes = canvas(9, 2.6, columns=3)
    levels = [f"digit {level}" for level in table.index]
    for ax, column, label, colour in zip(
        axes,
        ("entropy", "dead", "unique"),
        ("evenness of use", "nodes without an item", "items named uniquely"),
        LINES,
        strict=False,
    ):
        bars = ax.bar(levels, table[column], color=colour, width=0.6)
        ax.bar_label(bars, fmt="%d" if column == "dead" else "%.2f", fontsize=9)
        ax.set_title(label, fontsize=9)
        ax.set_ylim(0, max(1.0, table[column].max()) * 1.15)
    figure.suptitle(drawable(title), x=0.01, ha="left", fontsize=10)
    return Picture(figure, table, title)


def agreement(x: np.ndarray, y: np.ndarray, names: tuple[str, str], title: str) -> Picture:
    """Two scores of the same items against each other."""
    figure, ax = canvas(4.6, 4)
    ax.hexbin(x, y, gridsize=45, cmap="cividis", mincnt=1, bins="log")
    low, high = min(x.min(), y.min()), max(x.max(), y.max())
    ax.plot((low, high), (low, high), color=LINES[1], linewidth=1, linestyle="--", label="equal")
    ax.set_xlabel(names[0])
    ax.set_ylabel(names[1])
    ax.legend(frameon=False, loc="upper left")
    ax.set_title(drawable(title), loc="left", fontsize=10)
    return Picture(figure, pd.DataFrame({names[0]: x, names[1]: y}), title)


def comparison(
    rows: Mapping[str, Interval], title: str, *, ours: Sequence[str] = (), label: str = "NDCG@10"
) -> Picture:
    """One figure per method with its 95 % interval, best on top; `ours` are drawn in the first colour."""
    order = sorted(rows, key=lambda name: rows[name].value)
    figure, ax = canvas(7.5, 0.8 + 0.34 * len(rows))
    for place, name in enumerate(order):
        value, low, high = rows[name][:3]
        colour, marker = (LINES[0], "D") if name in ours else (LINES[2], "o")
        ax.plot((low, high), (place, place), color=colour, linewidth=2)
        ax.plot(value, place, marker=marker, color=colour)
        ax.annotate(f"{value:.3f}", (high, place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9)
    ax.set_yticks(range(len(order)), order)
    ax.set_xlabel(f"{label}, 95 % interval over users")
    ax.set_xlim(left=0)
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.set_title(drawable(title), loc="left", fontsize=10)
    data = pd.DataFrame({name: rows[name]._asdict() for name in reversed(order)}).T
    return Picture(figure, data, title)


def _label(ax: object, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Names of the tokens; above sixty they could not be read and cost a second."""
    ax.set_yticks(
        range(len(rows)), [drawable(r, 28) for r in rows] if len(rows) <= 60 else [""] * len(rows), fontsize=8
    )
    shown = [drawable(c, 28) for c in columns] if len(columns) <= 60 else [""] * len(columns)
    ax.set_xticks(range(len(columns)), shown, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
