"""Where a model looked, drawn from a `Record` and nothing else: any model that fills one can be looked at.

Layers and heads are counted from 1; 0 stands for the mean over all of them. No view here says why.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection

from m6rec.errors import InputError
from m6rec.explain.capture import Record
from m6rec.explain.explainers import rolled
from m6rec.view.picture import LINES, Picture, canvas, drawable

SAID = "where the model looked, which is not yet why"
KINDS = ("start", "profile", "history", "request", "target")
LABELLED = 60  # more names than these cannot be read, and cost a second
EDGES = 100  # lines of a flow: more are a thicket, and 300 kB


def token_map(record: Record, title: str, *, layer: int = 0, head: int = 0) -> Picture:
    """Every token's look at every other, in one layer and head: rows look at columns, white lines part the kinds.

    Rows that no layer computes are grey; a mean leaves them out.
    """
    chosen(record, layer, head)
    n = len(record.labels)
    unread = np.diagonal(record.weights, axis1=2, axis2=3) == 1  # (L, H, n)
    # The start sees nothing but itself in any case: its row is computed where others are.
    unread = unread & (np.arange(n) > 0) | unread[..., 1:-1].all(-1, keepdims=True) & (np.arange(n) == 0)
    weights = np.ma.masked_array(record.weights, np.broadcast_to(unread[..., None], record.weights.shape))
    weights = weights.mean(0) if layer == 0 else weights[layer - 1]
    weights = weights.mean(0) if head == 0 else weights[head - 1]
    figure, ax = canvas(7.6, 5.4, layout="none")
    figure.subplots_adjust(left=0.3, right=0.99, bottom=0.1, top=0.88)
    top = _top(weights[1:].filled(0), record.labels)  # the start can only look at itself
    ax.set_facecolor("0.88")
    ax.imshow(weights, cmap="cividis", vmin=0, vmax=top, aspect="auto", interpolation="nearest")
    _names(ax, record.labels, numbered=True)
    for edge in _edges(record.types):
        ax.axvline(edge - 0.5, color="white", linewidth=1)
        ax.axhline(edge - 0.5, color="white", linewidth=1)
    if n <= 12:
        _values(ax, weights.filled(np.nan), top)
    ax.set_xlabel(f"is looked at (yellow: {top:.2f} or more)", fontsize=9)
    data = pd.DataFrame(weights.filled(np.nan), record.labels, record.labels)
    return _picture(figure, ax, data, title, f"{n} tokens, rows look")


def target_map(record: Record, title: str, *, layer: int = 0) -> Picture:
    """Where the target looked: a row for each head of a layer (0: of all layers), a column for each token."""
    chosen(record, layer, 0)
    layers, heads = record.weights.shape[:2]
    picked = range(layers) if layer == 0 else [layer - 1]
    rows = [f"layer {a + 1}, head {h + 1}" for a in picked for h in range(heads)]
    weights = record.weights[list(picked), :, -1, :-1].reshape(len(rows), -1)  # (L', H, n - 1) -> (L'·H, n - 1)
    return strips(weights, record.labels[:-1], rows, title, kinds=record.types)


def group_map(record: Record, title: str, *, shares: np.ndarray | None = None, names: Sequence[str] = ()) -> Picture:
    """The target's attention by kind of token, layer by layer and head by head.

    shares (n, M): how much of each event's vector each modality is, `names` (M,): the history is divided by them.
    """
    chosen(record, 0, 0)
    looked, kinds = record.weights[..., -1, :], np.array(record.types)
    columns = {kind: looked[..., kinds == kind].sum(-1) for kind in KINDS if (kinds == kind).any() and kind != "target"}
    if shares is not None:
        if len(shares) != len(kinds) or shares.shape[1] != len(names):
            raise InputError(
                f"shares {shares.shape} do not fit {len(kinds)} tokens and the modalities {', '.join(names)}."
            )
        seen = looked[..., kinds == "history"] @ shares[kinds == "history"]  # (L, H, T) @ (T, M)
        del columns["history"]
        columns |= {f"history: {name}": seen[..., m] for m, name in enumerate(names)}
    layers, heads = looked.shape[:2]
    rows = [f"layer {a + 1}, head {h + 1}" for a in range(layers) for h in range(heads)]
    weights = np.stack(list(columns.values()), -1).reshape(len(rows), -1)  # (L, H, groups) -> (L·H, groups)
    return strips(weights, list(columns), rows, title)


def rollout_map(record: Record, title: str) -> Picture:
    """Attention followed through the layers: what reaches the target of each token, after each further layer."""
    chosen(record, 0, 0)
    reach = rolled(record.weights.mean(1), residual=0.5)  # (L, H, n, n) -> (L, n, n) -> (L, n - 1)
    rows = [f"layer {a}" if a == 1 else f"layers 1 to {a}" for a in range(1, len(reach) + 1)]
    return strips(reach / reach.sum(1, keepdims=True), record.labels[:-1], rows, title, kinds=record.types)


def flow(record: Record, title: str, *, edges: int = EDGES) -> Picture:
    """How attention travels from the tokens, on the left, layer by layer to the target: the widest `edges` lines.

    A line's width is what of the target's attention passes along it: its layer's weight times what its end has.
    """
    chosen(record, 0, 0)
    n, layers = len(record.labels), len(record.weights)
    here, found = np.eye(n)[-1], []
    for layer in range(layers, 0, -1):
        passes = here[:, None] * (record.weights[layer - 1].mean(0) + np.eye(n)) / 2  # (n, n): from column to row
        found += [(layer, j, i, passes[i, j]) for i, j in zip(*np.nonzero(passes > 1e-4), strict=True)]
        here = passes.sum(0)
    data = (
        pd.DataFrame(found, columns=["layer", "from", "to", "flow"]).nlargest(edges, "flow").iloc[::-1]
    )  # the widest lie on top
    figure, ax = canvas(7.6, 5.4, layout="none")
    figure.subplots_adjust(left=0.3, right=0.97, bottom=0.08, top=0.88)
    ends = data[["layer", "from", "to"]].to_numpy()
    lines = [((layer - 1, start), (layer, end)) for layer, start, end in ends]
    colours = [LINES[KINDS.index(record.types[j])] for j in data["from"]]
    widths = 0.3 + 12 * np.sqrt(data["flow"].to_numpy()) / 2
    ax.add_collection(LineCollection(lines, linewidths=widths, colors=colours, capstyle="round"))
    _names(ax, record.labels, columns=False)
    ax.set_xticks(range(layers + 1), ["tokens", *(f"layer {a + 1}" for a in range(layers))], fontsize=8)
    ax.set_xlim(-0.05, layers + 0.05)
    ax.set_ylim(n - 0.5, -0.5)
    named = data.assign(**{end: [record.labels[place] for place in data[end]] for end in ("from", "to")})
    return _picture(figure, ax, named.reset_index(drop=True), title, f"{len(data)} lines between {n} tokens")


def strips(
    weights: np.ndarray, labels: Sequence[str], rows: Sequence[str], title: str, *, kinds: Sequence[str] | None = None
) -> Picture:
    """Shares of attention (rows, n), a column for each token; white lines part their kinds."""
    weights = np.asarray(weights, dtype=float)
    below = 0.3 + 0.055 * min(26, max(map(len, labels)))  # inches, for names that stand at an angle
    room = below + 0.8 + 0.26 * len(rows)
    figure, ax = canvas(8, room, layout="none")
    figure.subplots_adjust(left=0.16, right=0.93, bottom=below / room, top=1 - 0.5 / room)
    top = _top(weights, labels)
    image = ax.imshow(weights, cmap="cividis", vmin=0, vmax=top, aspect="auto", interpolation="nearest")
    ax.set_yticks(range(len(rows)), [drawable(row, 24) for row in rows], fontsize=8)
    named = [drawable(label, 26) for label in labels] if len(labels) <= LABELLED else [""] * len(labels)
    ax.set_xticks(range(len(labels)), named, rotation=60, ha="right", rotation_mode="anchor", fontsize=7)
    for edge in _edges([] if kinds is None else kinds[: len(labels)]):
        ax.axvline(edge - 0.5, color="white", linewidth=2)
    if len(labels) <= 12:
        _values(ax, weights, top)
    bar = figure.add_axes((0.945, below / room, 0.012, 1 - (below + 0.5) / room))
    figure.colorbar(image, cax=bar, extend="max" if weights.max() > top else "neither").ax.tick_params(labelsize=7)
    return _picture(
        figure, ax, pd.DataFrame(weights, list(rows), list(labels)), title, f"{len(rows)} rows, {len(labels)} columns"
    )


def chosen(record: Record, layer: int, head: int) -> np.ndarray:
    """One layer's and head's weights (n, n), 0 for the mean over all. `InputError` for a record that is none."""
    n, weights = len(record.labels), np.asarray(record.weights)
    if len(record.types) != n or weights.ndim != 4 or weights.shape[2:] != (n, n) or 0 in weights.shape:
        raise InputError(
            f"an attention record of {n} labels and {len(record.types)} kinds needs weights of the shape "
            f"(layers, heads, {n}, {n}), and these are {weights.shape}: fill it as m6rec.explain.capture.Record says."
        )
    if unknown := sorted(set(map(str, record.types)) - set(KINDS)):
        raise InputError(f"the kind {unknown[0]!r} of a token is unknown: take one of {', '.join(KINDS)}.")
    if not np.isfinite(weights).all() or weights.min() < 0 or np.abs(weights.sum(-1) - 1).max() > 1e-3:
        raise InputError("an attention record's weights are 0 or more and each row sums to 1: these are not so.")
    for word, number, last in (("layer", layer, weights.shape[0]), ("head", head, weights.shape[1])):
        if not 0 <= number <= last:
            raise InputError(f"{word} {number} is not there: take 1 to {last}, or 0 for the mean over all.")
    weights = weights.mean(0) if layer == 0 else weights[layer - 1]
    return weights.mean(0) if head == 0 else weights[head - 1]


def _top(weights: np.ndarray, labels: Sequence[str]) -> float:
    """Where the colours end: a token that stands for many would outshine all others."""
    alone = [not label.endswith(" earlier events") for label in labels]
    return max(float(weights[:, alone].max(initial=0)), 1e-9)


def _edges(kinds: Sequence[str]) -> list[int]:
    return [place for place in range(1, len(kinds)) if kinds[place] != kinds[place - 1]]


def _names(ax: object, labels: Sequence[str], *, columns: bool = True, numbered: bool = False) -> None:
    """Names of the rows; the columns have their numbers, which are drawn in a tenth of the time."""
    if len(labels) > LABELLED:
        ax.set_yticks([])
        ax.set_xticks([])
        return
    named = [drawable(f"{place}  {label}" if numbered else label, 30) for place, label in enumerate(labels, 1)]
    ax.set_yticks(range(len(labels)), named, fontsize=7)
    if columns:
        ax.set_xticks(range(len(labels)), range(1, len(labels) + 1), fontsize=6)


def _values(ax: object, weights: np.ndarray, top: float) -> None:
    for (row, column), value in np.ndenumerate(weights):
        if not np.isnan(value):
            light = "black" if value > top / 2 else "white"
            ax.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=light)


def _picture(figure: object, ax: object, data: pd.DataFrame, title: str, what: str) -> Picture:
    ax.set_title(f"{drawable(title)}\n({SAID})", loc="left", fontsize=10)
    return Picture(figure, data, f"{title}. Attention, {what}: {SAID}.")
