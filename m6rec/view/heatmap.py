"""Heat maps: masks, tables of numbers, and where a model attended, drawn from a `Record` of any model.

Layers and heads are counted from 1; 0 is the mean over all. Attention shows where, not why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import PowerNorm
from matplotlib.image import AxesImage
from matplotlib.patches import Patch

from m6rec.errors import InputError
from m6rec.explain.capture import Record
from m6rec.explain.explainers import rolled
from m6rec.view.picture import LINES, Picture, canvas, drawable, finish

NOTE = "where the model attended, which is not yet why"
TYPES = ("start", "profile", "history", "request", "target")
MAX_NAMES = 60  # more names than these cannot be read, and cost a second
MAX_NUMBERS = 12  # columns whose cells have room for their numbers
MAX_LINES = 40  # of a flow


def heatmap(
    ax: Axes,
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    top: float = 1.0,
    *,
    power: float = 1.0,
    breaks: Sequence[Sequence[int]] = ((), ()),
    numbers: np.ndarray | None = None,
    digits: int = 2,
) -> AxesImage:
    """Values (rows, columns) as colours from 0 to top, NaN grey, with names and, where there is room, the numbers.

    power: of the colour scale. breaks: rows and columns with a white line before them. numbers: to print instead.
    """
    ax.set_facecolor("0.88")
    norm = PowerNorm(power, 0, top)
    image = ax.imshow(np.ma.masked_invalid(values), cmap="cividis", norm=norm, aspect="auto", interpolation="nearest")
    names = [[drawable(name, 30) for name in part] if len(part) <= MAX_NAMES else [] for part in (rows, columns)]
    ax.set_yticks(range(len(names[0])), names[0], fontsize=7)
    tilt = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names[1]), default=0) > 2 else {}
    ax.set_xticks(range(len(names[1])), names[1], fontsize=7, **tilt)
    for draw, edges in zip((ax.axhline, ax.axvline), breaks, strict=True):
        for edge in edges:
            draw(edge - 0.5, color="white", linewidth=1)
    if len(columns) <= MAX_NUMBERS and values.dtype != bool:
        for (row, column), number in np.ndenumerate(values if numbers is None else numbers):
            colour = "black" if norm(values[row, column]) > 0.5 else "white"
            text = "" if np.isnan(number) else f"{number:.{digits}f}"
            ax.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    return image


def mask_map(
    masks: np.ndarray | Mapping[str, np.ndarray],
    labels: Sequence[str],
    title: str,
    *,
    keys: Sequence[str] | None = None,
) -> Picture:
    """What may be attended to: a mask (Tq, Tk) bool, queries in rows and keys in columns, or several side by side."""
    keys = labels if keys is None else keys
    data = pd.DataFrame(masks, labels, keys) if isinstance(masks, np.ndarray) else None
    masks = {"": masks} if isinstance(masks, np.ndarray) else masks
    size = 1.6 + 0.25 * len(keys) * len(masks), 1.8 + 0.25 * len(labels)
    figure, axes = canvas(*size, columns=len(masks), squeeze=False, sharey=True)
    for ax, (name, mask) in zip(axes[0], masks.items(), strict=True):
        heatmap(ax, mask, labels, keys, breaks=(range(1, len(labels)), range(1, len(keys))))
        ax.set_title(name, fontsize=9)
        ax.set_xlabel("key", fontsize=8)
    axes[0, 0].set_ylabel("query", fontsize=8)
    patches = [Patch(color=colormaps["cividis"](end), label=t) for t, end in (("may attend", 1.0), ("masked", 0.0))]
    figure.legend(handles=patches, loc="outside lower right", ncols=2, frameon=False, fontsize=8)
    shares = {name: float(np.mean(mask)) for name, mask in masks.items()}
    alt = ", ".join(f"{name} {share:.0%}".strip() for name, share in shares.items())
    data = pd.DataFrame({"visible": shares}) if data is None else data
    return finish(figure, title, data, f"Pairs of query and key that may attend: {alt}.")


def number_map(table: pd.DataFrame, title: str, label: str = "NDCG@10", *, top: float | None = None) -> Picture:
    """A table as colours with its numbers, such as NDCG@10 by modalities (rows) and method (columns).

    top: the number at which the colours end. Without it each column ends at its own largest, since columns that are
    measured on different targets cannot be compared.
    """
    values = table.to_numpy(dtype=float)
    figure, ax = canvas(2 + 1.1 * table.shape[1], 1 + 0.3 * len(table))
    shade = values / np.maximum(values.max(0) if top is None else top, 1e-9)
    heatmap(ax, shade, table.index, table.columns, numbers=values, digits=3 if top is None else 2)
    ax.set_xticks(range(table.shape[1]), [drawable(c, 26) for c in table.columns], fontsize=8, rotation=0, ha="center")
    ax.xaxis.tick_top()
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    scale = "colours by column" if top is None else f"colours from 0 to {top:g}"
    ax.set_xlabel(f"{label}, {scale}", fontsize=8)
    return finish(figure, title, table, f"{label} in {len(table)} rows and {table.shape[1]} columns, {scale}.")


def attention_rows(
    weights: np.ndarray, labels: Sequence[str], rows: Sequence[str], title: str, *, types: Sequence[str] = ()
) -> Picture:
    """Attention (rows, n), a column for each token; white lines separate their types. Colours grow as square roots."""
    weights = np.asarray(weights, dtype=float)
    below = 0.3 + 0.055 * min(26, max(map(len, labels)))  # inches, for names that stand at an angle
    height = below + 0.8 + 0.26 * len(rows)
    figure, ax = canvas(8, height, layout="none")
    figure.subplots_adjust(left=0.16, right=0.92, bottom=below / height, top=1 - 0.5 / height)
    top = _top(weights, labels)
    image = heatmap(ax, weights, rows, labels, top, power=0.5, breaks=((), _breaks(types[: len(labels)])))
    bar = figure.add_axes((0.935, below / height, 0.012, 1 - (below + 0.5) / height))
    figure.colorbar(image, cax=bar, extend="max" if weights.max() > top else "neither").ax.tick_params(labelsize=7)
    data = pd.DataFrame(weights, list(rows), list(labels))
    return _attention(ax, data, title, f"{len(rows)} rows, {len(labels)} columns")


def token_map(record: Record, title: str, *, layer: int = 0, head: int = 0) -> Picture:
    """Every token's attention to every other, in one layer and head: rows are queries, columns keys.

    Rows that no layer computes are grey; a mean leaves them out.
    """
    chosen(record, layer, head)
    n = len(record.labels)
    absent = np.diagonal(record.weights, axis1=2, axis2=3) == 1  # (L, H, n)
    # The start attends to itself in any case: its row is computed where others are.
    absent = np.where(np.arange(n) > 0, absent, absent[..., 1:-1].all(-1, keepdims=True))
    weights = np.ma.masked_array(record.weights, np.broadcast_to(absent[..., None], record.weights.shape))
    weights = weights.mean(0) if layer == 0 else weights[layer - 1]
    weights = (weights.mean(0) if head == 0 else weights[head - 1]).filled(np.nan)
    figure, ax = canvas(7.6, 5.4, layout="none")
    figure.subplots_adjust(left=0.3, right=0.99, bottom=0.1, top=0.88)
    top = _top(np.nan_to_num(weights[1:]), record.labels)  # the start can only attend to itself
    rows = [f"{i}  {label}" for i, label in enumerate(record.labels, 1)]
    # The columns have the rows' numbers, which are drawn in a tenth of the time of names.
    heatmap(ax, weights, rows, [str(i) for i in range(1, n + 1)], top, power=0.5, breaks=[_breaks(record.types)] * 2)
    ax.set_xlabel(f"key (yellow: attention of {top:.2f} or more, blue: 0, grey: not computed)", fontsize=9)
    return _attention(ax, pd.DataFrame(weights, record.labels, record.labels), title, f"{n} tokens, queries in rows")


def target_map(record: Record, title: str, *, layer: int = 0) -> Picture:
    """The target's attention: a row for each head of a layer (0: of all layers), a column for each token."""
    chosen(record, layer, 0)
    rows, weights = _heads(record.attended, layer)
    return attention_rows(weights, record.labels[:-1], rows, title, types=record.types)


def group_map(record: Record, title: str) -> Picture:
    """The target's attention by type of token, layer by layer and head by head."""
    chosen(record, 0, 0)
    types = np.array(record.types[:-1])
    columns = {t: record.attended[..., types == t].sum(-1) for t in TYPES if t in types}
    rows, weights = _heads(np.stack(list(columns.values()), -1))
    return attention_rows(weights, list(columns), rows, title)


def rollout_map(record: Record, title: str) -> Picture:
    """Attention rollout: what reaches the target of each token, after each further layer."""
    chosen(record, 0, 0)
    reach = rolled(record.weights.mean(1), residual=0.5)  # (L, H, n, n) -> (L, n, n) -> (L, n - 1)
    rows = [f"layer {a}" if a == 1 else f"layers 1 to {a}" for a in range(1, len(reach) + 1)]
    return attention_rows(reach / reach.sum(1, keepdims=True), record.labels[:-1], rows, title, types=record.types)


def flow(record: Record, title: str, *, most: int = MAX_LINES) -> Picture:
    """How attention reaches the target, on the right, from the tokens, on the left: the `most` widest lines.

    A line's width is the share of the target's attention that passes along it; the residual path is grey.
    """
    chosen(record, 0, 0)
    n, layers = len(record.labels), len(record.weights)
    here, found = np.eye(n)[-1], []
    for layer in range(layers, 0, -1):
        passes = here[:, None] * (record.weights[layer - 1].mean(0) + np.eye(n)) / 2  # (n, n): from column to row
        found += [(layer, j, i, passes[i, j]) for i, j in zip(*np.nonzero(passes > 1e-4), strict=True)]
        here = passes.sum(0)
    data = (
        pd.DataFrame(found, columns=["layer", "from", "to", "flow"]).nlargest(most, "flow").iloc[::-1]
    )  # widest on top
    figure, ax = canvas(7.6, 5.4, layout="none")
    figure.subplots_adjust(left=0.3, right=0.97, bottom=0.12, top=0.88)
    ends = data[["layer", "from", "to"]].to_numpy()
    colour = dict(zip(TYPES, LINES, strict=False))
    ax.add_collection(
        LineCollection(
            [((layer - 1, start), (layer, end)) for layer, start, end in ends],
            linewidths=0.3 + 6 * np.sqrt(data["flow"].to_numpy()),
            colors=["0.8" if start == end else colour[record.types[start]] for _, start, end in ends],
            capstyle="round",
        )
    )
    ax.set_yticks(
        range(n), [drawable(label, 30) for label in record.labels] if n <= MAX_NAMES else [""] * n, fontsize=7
    )
    ax.set_xticks(range(layers + 1), ["tokens", *(f"layer {a + 1}" for a in range(layers))], fontsize=8)
    ax.set_xlim(-0.05, layers + 0.05)
    ax.set_ylim(n - 0.5, -0.5)
    drawn = {record.types[start] for _, start, end in ends if start != end}
    patches = [Patch(color=colour[t], label=t) for t in TYPES if t in drawn] + [Patch(color="0.8", label="residual")]
    figure.legend(handles=patches, loc="lower right", ncols=len(patches), frameon=False, fontsize=7)
    words = data.assign(**{end: [record.labels[i] for i in data[end]] for end in ("from", "to")})
    return _attention(ax, words.reset_index(drop=True), title, f"{len(data)} lines between {n} tokens")


def chosen(record: Record, layer: int, head: int) -> None:
    """`InputError` for a record that is none, and for a layer or head that it does not have (0 is the mean)."""
    n, weights = len(record.labels), np.asarray(record.weights)
    if len(record.types) != n or weights.ndim != 4 or weights.shape[2:] != (n, n) or 0 in weights.shape:
        raise InputError(
            f"an attention record of {n} labels and {len(record.types)} types needs weights of the shape "
            f"(layers, heads, {n}, {n}), and these are {weights.shape}: fill it as m6rec.explain.capture.Record says."
        )
    if unknown := sorted(set(map(str, record.types)) - set(TYPES)):
        raise InputError(f"the type {unknown[0]!r} of a token is unknown: take one of {', '.join(TYPES)}.")
    if not np.isfinite(weights).all() or weights.min() < 0 or np.abs(weights.sum(-1) - 1).max() > 1e-3:
        raise InputError("an attention record's weights are 0 or more and each row sums to 1: these are not so.")
    for word, number, last in (("layer", layer, weights.shape[0]), ("head", head, weights.shape[1])):
        if not 0 <= number <= last:
            raise InputError(f"{word} {number} is not there: take 1 to {last}, or 0 for the mean over all.")


def _heads(weights: np.ndarray, layer: int = 0) -> tuple[list[str], np.ndarray]:
    """(L, H, n) -> a name and a row for each head of a layer, or of all of them (0)."""
    picked = range(len(weights)) if layer == 0 else [layer - 1]
    rows = [f"layer {a + 1}, head {h + 1}" for a in picked for h in range(weights.shape[1])]
    return rows, weights[list(picked)].reshape(len(rows), -1)


def _top(weights: np.ndarray, labels: Sequence[str]) -> float:
    """Where the colours end: a folded token would outshine all others."""
    single = [not label.endswith(" earlier events") for label in labels]
    return max(float(weights[:, single].max(initial=0)), 1e-9)


def _breaks(types: Sequence[str]) -> list[int]:
    return [i for i in range(1, len(types)) if types[i] != types[i - 1]]


def _attention(ax: Axes, data: pd.DataFrame, title: str, what: str) -> Picture:
    return finish(ax, title, data, f"Attention, {what}: {NOTE}.", f"\n({NOTE})")
