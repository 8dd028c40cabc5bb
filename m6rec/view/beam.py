"""The beam as a tree: which branches were kept at each digit, and which of them lead to the list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import pandas as pd
from matplotlib.collections import LineCollection

from m6rec.errors import InputError
from m6rec.generate.beam import Step
from m6rec.view.picture import LINES, Picture, canvas, drawable, finish

COLUMNS = ["level", "node", "log_likelihood", "leads_to_the_list", "leaves_below"]
COLOURS, WIDTHS = ("0.8", LINES[0], LINES[1]), (0.7, 1.6, 2.4)  # others, to the list, the chosen path


def beam_tree(
    steps: Sequence[Step],
    widths: Sequence[int],
    leaves: Mapping[int, str],
    title: str,
    *,
    show: int = 10,
    depth: int | None = None,
    chosen: int | None = None,
) -> Picture:
    """The nodes kept at each level (steps of one list); the best `show` leaves have names: leaf -> title.

    depth: open so many levels only, and number their nodes. chosen: a leaf whose path stands out, digit by digit.
    """
    depth = len(steps) if depth is None else depth
    if not 1 <= depth <= len(steps):
        raise InputError(f"digit {depth} is not there: this beam has the digits 1 to {len(steps)}.")
    listed = steps[-1].nodes[0][:show].tolist()
    rows = _nodes(steps[:depth], widths, listed, chosen)
    _, ax = canvas(9, 4.2, margins=(0.2, 0.2, 0.3, 0.4))
    ax.axis("off")
    # Lines from parents to children: what matters lies on top.
    heights = {(row.level, row.node): row.height for row in rows.itertuples()} | {(0, 0): 0.5}
    rows = rows.sort_values("rank", kind="stable")
    branches = [
        [(row.level - 2, heights[row.level - 1, row.node // widths[row.level - 1]]), (row.level - 1, row.height)]
        for row in rows.itertuples()
    ]
    colours = [COLOURS[r] for r in rows["rank"]]
    ax.add_collection(LineCollection(branches, colors=colours, linewidths=[WIDTHS[r] for r in rows["rank"]]))
    ax.scatter(rows["level"] - 1, rows["height"], s=14, color=colours, zorder=3)
    for row in rows[rows["rank"] > 0].itertuples():
        digit = f"{row.node % widths[row.level - 1]}, {row.log_likelihood:.2f}"
        if row.level == depth:
            text = drawable(leaves[row.node], 34) if depth == len(steps) else digit
            weight = "bold" if row.rank == 2 else "normal"
            ax.text(depth - 0.95, row.height, text, va="center", fontsize=8, weight=weight)
        elif row.rank == 2:
            above = {"xytext": (0, 6), "textcoords": "offset points", "ha": "center"}
            ax.annotate(digit, (row.level - 1, row.height), fontsize=8, **above)
    for level in range(depth):
        ax.text(level, -0.06, f"digit {level + 1}", ha="center", fontsize=9, style="italic")
    ax.set(xlim=(-1.1, len(steps) + 0.3), ylim=(-0.09, 1.02))
    alt = f"Blue branches lead to the {len(listed)} items of the list."
    if chosen is not None:
        alt += " Orange: the path of the chosen one, with its digits and its log-likelihood so far."
    return finish(ax, title, rows.sort_index()[COLUMNS], alt)


def _nodes(steps: Sequence[Step], widths: Sequence[int], listed: Sequence[int], chosen: int | None) -> pd.DataFrame:
    """Every node that is drawn, with its height from 0 to 1 and rank; of the last level, only what is on the list."""
    rows = []
    for level, step in enumerate(steps):
        below, last = prod(widths[level + 1 :]), level + 1 == len(widths)
        winners, path = {leaf // below for leaf in listed}, None if chosen is None else chosen // below
        kept = [
            (node, score, 2 if node == path else int(node in winners))
            for node, score in zip(step.nodes[0].tolist(), step.scores[0].tolist(), strict=True)
            if score > float("-inf")  # where fewer nodes are possible than the beam is wide, the rest of it is no node
        ]
        kept = [row for row in kept if row[2] or not last]
        order = {node: i for i, node in enumerate(sorted(node for node, _, _ in kept))}
        rows += [
            (level + 1, node, score, node in winners, below, 1 - (order[node] + 0.5) / len(kept), rank)
            for node, score, rank in kept
        ]
    return pd.DataFrame(rows, columns=[*COLUMNS, "height", "rank"])
