"""The beam as a tree: which branches were kept at each digit, and which of them lead to the list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import pandas as pd
from matplotlib.collections import LineCollection

from m6rec.errors import InputError
from m6rec.generate.beam import Step
from m6rec.view.picture import LINES, Picture, canvas, drawable

COLUMNS = ("level", "node", "log_likelihood", "leads_to_the_list", "leaves_below")


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
    rows = _nodes(steps, widths, steps[-1].nodes[0][:show].tolist(), chosen)[lambda row: row["level"] <= depth]
    figure, ax = canvas(9, 4.2, layout="none")
    figure.subplots_adjust(left=0.02, right=0.98, bottom=0.08, top=0.9)
    ax.axis("off")
    _branches(ax, rows, widths)
    for row in rows.itertuples():
        if row.level == depth and (row.leads_to_the_list or row.on_the_path):
            digit = f"{row.node % widths[depth - 1]}, {row.log_likelihood:.2f}"
            said = drawable(leaves[row.node], 34) if depth == len(steps) else digit
            weight = "bold" if row.on_the_path else "normal"
            ax.text(depth - 0.95, row.place, said, va="center", fontsize=8, weight=weight)
        if row.on_the_path and row.level < depth:
            ax.annotate(
                f"{row.node % widths[row.level - 1]}, {row.log_likelihood:.2f}",
                (row.level - 1, row.place), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8,
            )  # fmt: skip
    for level in range(depth):
        ax.text(level, -0.06, f"digit {level + 1}", ha="center", fontsize=9, style="italic")
    ax.set_xlim(-1.1, len(steps) + 0.3)
    ax.set_ylim(-0.09, 1.02)
    ax.set_title(drawable(title), loc="left", fontsize=10)
    said = f"{title}. Blue branches lead to the {min(show, len(steps[-1].nodes[0]))} items of the list."
    said += (
        " Orange: the path of the chosen one, with its digits and its log-likelihood so far."
        if chosen is not None
        else ""
    )
    return Picture(figure, rows[list(COLUMNS)].reset_index(drop=True), said)


def _nodes(steps: Sequence[Step], widths: Sequence[int], last: Sequence[int], chosen: int | None) -> pd.DataFrame:
    """Every node that is drawn, with its place from 0 to 1; of the last level, only what is on the list."""
    rows = []
    for level, step in enumerate(steps):
        below, end = prod(widths[level + 1 :]), level + 1 == len(steps)
        winners, path = {leaf // below for leaf in last}, -1 if chosen is None else chosen // below
        kept = [
            (node, score)
            for node, score in zip(step.nodes[0].tolist(), step.scores[0].tolist(), strict=True)
            # Where fewer nodes are possible than the beam is wide, the rest of it is no node.
            if score > float("-inf") and (not end or node in winners or node == path)
        ]
        order = {node: place for place, node in enumerate(sorted(node for node, _ in kept))}
        rows += [
            (level + 1, node, score, node in winners, below, 1 - (order[node] + 0.5) / len(kept), node == path)
            for node, score in kept
        ]
    return pd.DataFrame(rows, columns=[*COLUMNS, "place", "on_the_path"])


def _branches(ax: object, rows: pd.DataFrame, widths: Sequence[int]) -> None:
    """Lines from parents to children, and the nodes: grey, blue where they lead to the list, orange on the path."""
    places = {(row.level, row.node): row.place for row in rows.itertuples()} | {(0, 0): 0.5}
    order = (rows["leads_to_the_list"] + 2 * rows["on_the_path"]).sort_values(kind="stable")  # what matters lies on top
    rows, rank = rows.loc[order.index], order.clip(upper=2)
    lines = [
        [(row.level - 2, places[row.level - 1, row.node // widths[row.level - 1]]), (row.level - 1, row.place)]
        for row in rows.itertuples()
    ]
    colours = [("0.8", LINES[0], LINES[1])[r] for r in rank]
    ax.add_collection(LineCollection(lines, colors=colours, linewidths=[(0.7, 1.6, 2.4)[r] for r in rank]))
    ax.scatter(rows["level"] - 1, rows["place"], s=14, color=colours, zorder=3)
