"""Heat maps: masks, tables of numbers, and where a model attended, drawn from a `Record` of any model.

Layers and heads are counted from 1; 0 is the mean over all. Attention shows where, not why.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.image import AxesImage
from matplotlib.patches import Patch

from m6rec.errors import InputError
from m6rec.explain.explainers import TYPES, Record, rolled
from m6rec.view.picture import Picture, canvas, drawable, finish

NOTE = "where the model attended, which is not yet why"
GROUPS = ("start", *TYPES, "target")
MAX_NAMES = 60  # more names than these cannot be read, and cost a second
MAX_NUMBERS = 12  # columns whose cells have room for their numbers


def heatmap(
    ax: Axes, table: pd.DataFrame, top: float = 1.0, *, groups: Sequence = ((), ()), numbers=None, digits: int = 2
) -> AxesImage:
    """A table as colours from 0 to top, NaN grey, with names and, where there is room, numbers: its own or others.

    groups: of rows and of columns, with a white line between two. Beyond MAX_NUMBERS columns colours grow as square
    roots, or most cells would be dark. A mask has no numbers.
    """
    few, values = table.shape[1] <= MAX_NUMBERS, np.ma.masked_invalid(table.to_numpy(float))
    image = ax.imshow(values, "cividis", PowerNorm(1 if few else 0.5, 0, top), aspect="auto", interpolation="nearest")
    ax.set_facecolor("0.88")
    left, below = ([drawable(n, 30) for n in part] if len(part) <= MAX_NAMES else [] for part in table.axes)
    tilt = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"} if max(map(len, below), default=0) > 2 else {}
    ax.set_yticks(range(len(left)), left, fontsize=8 if few else 7)
    ax.set_xticks(range(len(below)), below, fontsize=8 if few else 7, **tilt)
    for draw, group in zip((ax.axhline, ax.axvline), groups, strict=True):
        for at in range(1, len(group)):
            if group[at] != group[at - 1]:
                draw(at - 0.5, color="white", linewidth=1)
    shown = (table if numbers is None else numbers).to_numpy()
    for (row, column), shade in np.ma.ndenumerate(values) if few and shown.dtype != bool else ():
        colour = "black" if shade > top / 2 else "white"
        ax.text(column, row, f"{shown[row, column]:.{digits}f}", ha="center", va="center", fontsize=7, color=colour)
    return image


def mask_map(
    masks: np.ndarray | Mapping[str, np.ndarray], labels: Sequence[str], title: str, *, keys: Sequence[str] = ()
) -> Picture:
    """What may be attended to: a mask (Tq, Tk) bool, queries in rows and keys in columns, or several side by side."""
    masks = masks if isinstance(masks, Mapping) else {"": masks}
    tables = {name: pd.DataFrame(mask, labels, keys or labels) for name, mask in masks.items()}
    rows, columns = next(iter(tables.values())).shape
    figure, axes = canvas(1.6 + 0.25 * columns * len(masks), 1.8 + 0.25 * rows, len(masks), squeeze=False, sharey=True)
    for ax, (name, table) in zip(axes[0], tables.items(), strict=True):
        heatmap(ax, table, groups=(range(rows), range(columns)))
        ax.set_title(name, fontsize=9)
        ax.set_xlabel("key", fontsize=8)
    axes[0, 0].set_ylabel("query", fontsize=8)
    patches = [Patch(color=colormaps["cividis"](end), label=t) for t, end in (("may attend", 1.0), ("masked", 0.0))]
    figure.legend(handles=patches, loc="outside lower right", ncols=2, frameon=False, fontsize=8)
    alt = ", ".join(f"{name} {np.mean(mask):.0%}".strip() for name, mask in masks.items())
    data = pd.concat(tables, axis=1) if len(tables) > 1 else table
    return finish(figure, title, data, f"Pairs of query and key that may attend: {alt}.")


def number_map(table: pd.DataFrame, title: str, label: str = "NDCG@10", *, top: float | None = None) -> Picture:
    """A table as colours with its numbers, such as NDCG@10 by modalities (rows) and method (columns).

    top: the number at which the colours end; by default each column's largest, since targets may differ by column.
    """
    figure, ax = canvas(2 + 1.1 * table.shape[1], 1 + 0.3 * len(table))
    heatmap(ax, table / (table.max() if top is None else top), numbers=table, digits=3 if top is None else 2)
    ax.xaxis.tick_top()
    ax.set_xticks(range(table.shape[1]), ax.get_xticklabels(), rotation=0, ha="center")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    scale = "colours by column" if top is None else f"colours from 0 to {top:g}"
    ax.set_xlabel(f"{label}, {scale}", fontsize=8)
    return finish(figure, title, table, f"{label} in {len(table)} rows and {table.shape[1]} columns, {scale}.")


def attention_rows(table: pd.DataFrame, title: str, types: Sequence[str] = ()) -> Picture:
    """Attention in rows, a column for each token; white lines separate their types."""
    below = 0.3 + 0.055 * min(26, max(map(len, table.columns)))  # inches, for names that stand at an angle
    figure, ax = canvas(8, below + 0.8 + 0.26 * len(table), margins=(1.3, 0.65, below, 0.5))
    top = _top(table)
    image = heatmap(ax, table, top, groups=((), types))
    bar = ax.inset_axes((1.02, 0, 0.016, 1))
    more = "max" if table.to_numpy().max() > top else "neither"
    figure.colorbar(image, cax=bar, extend=more).ax.tick_params(labelsize=7)
    return finish(ax, title, table, f"Attention, {len(table)} rows, {table.shape[1]} columns: {NOTE}.", f"\n({NOTE})")


def attention_map(record: Record, title: str, view: str = "tokens", *, layer: int = 0, head: int = 0) -> Picture:
    """A record as a heat map. view, each with a column for each token:

    "tokens": every token's attention (queries in rows) in one layer and head; grey where no layer computes a row.
    "target": the target's, a row for each head of a layer; "groups": the same of all layers, summed by type of token.
    "rollout": what reaches the target of each token after each further layer. InputError as of `check`.
    """
    check(record, layer, head)
    if view == "tokens":
        return _token_map(record, title, layer, head)
    names, types, weights = record.labels[:-1], record.types[:-1], record.attended  # (L, H, n - 1)
    if view == "rollout":
        weights = rolled(record.weights.mean(1), residual=0.5)  # (L, H, n, n) -> (L, n, n) -> (L, n - 1)
        rows = ["layer 1", *(f"layers 1 to {a}" for a in range(2, len(weights) + 1))]
        return attention_rows(pd.DataFrame(weights / weights.sum(1, keepdims=True), rows, names), title, types)
    if view == "groups":
        names = [t for t in GROUPS if t in types]
        weights, types = np.stack([weights[..., np.array(types) == t].sum(-1) for t in names], -1), ()
    layers = [layer - 1] if layer and view == "target" else range(len(weights))
    rows = [f"layer {a + 1}, head {h + 1}" for a in layers for h in range(weights.shape[1])]
    return attention_rows(pd.DataFrame(weights[list(layers)].reshape(len(rows), -1), rows, names), title, types)


def _token_map(record: Record, title: str, layer: int, head: int) -> Picture:
    n = len(record.labels)
    absent = np.diagonal(record.weights, axis1=2, axis2=3) == 1  # (L, H, n)
    # The start attends to itself in any case: its row is computed where others are.
    absent = np.where(np.arange(n) > 0, absent, absent[..., 1:-1].all(-1, keepdims=True))
    weights = np.ma.masked_array(record.weights, np.broadcast_to(absent[..., None], record.weights.shape))
    for number in (layer, head):  # a mean leaves out what no layer computes
        weights = weights[number - 1] if number else weights.mean(0)
    table = pd.DataFrame(weights.filled(np.nan), record.labels, record.labels)
    _, ax = canvas(7.6, 5.4, margins=(2.3, 0.1, 0.55, 0.65))
    top = _top(table.iloc[1:])  # the start can only attend to itself
    # The columns have the rows' numbers, which are drawn in a tenth of the time of names.
    rows, columns = [f"{i}  {label}" for i, label in enumerate(record.labels, 1)], list(map(str, range(1, n + 1)))
    heatmap(ax, table.set_axis(rows).set_axis(columns, axis=1), top, groups=[record.types] * 2)
    scale = "" if n <= MAX_NUMBERS else ", square-root scale"
    ax.set_xlabel(f"key (yellow: attention of {top:.2f} or more, blue: 0, grey: not computed{scale})", fontsize=9)
    return finish(ax, title, table, f"Attention, {n} tokens, queries in rows: {NOTE}.", f"\n({NOTE})")


def check(record: Record, layer: int = 0, head: int = 0) -> None:
    """`InputError` for a record that is none, and for a layer or head that it does not have (0 is the mean)."""
    n, weights, unknown = len(record.labels), np.asarray(record.weights), set(record.types) - set(GROUPS)
    fits = len(record.types) == n and weights.ndim == 4 and weights.shape[2:] == (n, n) and weights.size and not unknown
    if not fits or not (weights.min() >= 0 and np.abs(weights.sum(-1) - 1).max() <= 1e-3):  # NaN is neither
        raise InputError(
            f"an attention record of {n} labels needs weights of the shape (layers, heads, {n}, {n}), 0 or more, where "
            f"each row sums to 1, and {n} types out of {', '.join(GROUPS)}; these are {weights.shape}, "
            f"{len(record.types)} types: {', '.join(sorted(set(record.types)))}."
        )
    for word, number, last in (("layer", layer, weights.shape[0]), ("head", head, weights.shape[1])):
        if not 0 <= number <= last:
            raise InputError(f"{word} {number} is not there: take 1 to {last}, or 0 for the mean over all.")


def _top(table: pd.DataFrame) -> float:
    """Where the colours end: a folded token would outshine all others."""
    single = [not label.endswith(" earlier events") for label in table.columns]
    return max(float(np.nan_to_num(table.loc[:, single]).max(initial=0)), 1e-9)
