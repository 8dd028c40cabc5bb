"""The beam as a tree: which branches were kept at each digit, and which of them lead to the list."""

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection

from m6rec.errors import InputError
from m6rec.generate.beam import Step
from m6rec.view.picture import LINES, Picture, canvas, drawable, finish

COLOURS, WIDTHS = np.array(["0.8", LINES[0], LINES[1]]), np.array([0.7, 1.6, 2.4])  # others, to the list, chosen path


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
    listed, parts = steps[-1].nodes[0][:show].tolist(), []
    for level, step in enumerate(steps[:depth], 1):
        below = prod(widths[level:])
        part = pd.DataFrame({"level": level, "node": step.nodes[0].tolist(), "log_likelihood": step.scores[0].tolist()})
        part["leads_to_the_list"] = part["node"].isin([leaf // below for leaf in listed])
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
    colours = COLOURS[nodes["kind"]]
    ax.add_collection(LineCollection(branches, colors=colours, linewidths=WIDTHS[nodes["kind"]]))
    ax.scatter(nodes["level"] - 1, nodes["height"], s=14, color=colours, zorder=3)
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
    alt = f"Blue branches lead to the {len(listed)} items of the list."
    if chosen is not None:
        alt += " Orange: the path of the chosen one, with its digits and its log-likelihood so far."
    return finish(ax, title, data.drop(columns=["height", "kind"]), alt)
