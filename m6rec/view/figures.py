"""Views: functions of numbers and a title that states the finding, which return a `Picture`.

Layers and heads count from 1; 0 is the mean over all.
"""

import base64
import html
import io
import textwrap
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import cycle
from math import prod
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib import colormaps, rcParams
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.image import AxesImage
from matplotlib.patches import Patch
from PIL import Image

from m6rec.data import image, sound
from m6rec.data.dataset import Dataset
from m6rec.data.features import Features
from m6rec.errors import InputError
from m6rec.evaluate.statistics import Interval, mean_interval
from m6rec.explain.explainers import TYPES, Reconstruction, Record, rolled
from m6rec.generate.beam import Step

LINES = ("#006BA4", "#FF800E", "#595959", "#5F9ED1", "#C85200", "#898989", "#A2C8EC", "#FFBC79")  # colour-blind safe
MARKERS = "osd^vPX*"


class Picture(NamedTuple):
    """A figure that a cell shows as a PNG."""

    figure: Figure
    data: pd.DataFrame
    alt: str  # the picture in a sentence

    def png(self) -> bytes:
        # Trimming draws twice; fixed margins need none.
        trim = "tight" if self.figure.get_layout_engine() else None
        drawn, png = io.BytesIO(), io.BytesIO()
        self.figure.savefig(drawn, format="png", dpi=96, bbox_inches=trim, pil_kwargs={"compress_level": 0})
        # 256 colours are a quarter of the bytes.
        image = Image.open(drawn).convert("RGB")
        image.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(png, "png")
        return png.getvalue()

    def html(self) -> str:
        """Figure, alternative text and numbers; all data are escaped."""
        alt, image = html.escape(plain(self.alt, 400)), base64.b64encode(self.png()).decode()
        table = self.data.iloc[:60, :30].round(3)  # pandas cuts and escapes the cells
        table = table.rename(index=lambda name: plain(name, 60), columns=lambda name: plain(name, 60)).to_html(border=0)
        return (
            f'<figure style="margin:0"><img alt="{alt}" style="max-width:100%" src="data:image/png;base64,{image}">'
            f"<figcaption>{alt}</figcaption></figure><details><summary>The numbers</summary>{table}</details>"
        )

    def _repr_mimebundle_(self, **_: object) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
        png = base64.b64encode(self.png()).decode()
        return {"image/png": png, "text/plain": repr(self)}, {"image/png": {"alt": self.alt}}

    def __repr__(self) -> str:
        return f"Picture: {self.alt}"


def canvas(
    width: float,
    height: float,
    columns: int = 1,
    rows: int = 1,
    *,
    margins: Sequence[float] = (),
    bare=False,
    **options,
) -> tuple[Figure, object]:
    """A figure and its axes (one, or an array). bare: without ticks and frames.

    In inches. margins: left, right, bottom, top; fixed ones halve the time of a redraw.
    """
    figure = Figure(figsize=(width, height), layout=None if margins else "constrained")
    axes = figure.subplots(rows, columns, **options)
    if margins:
        left, right, bottom, top = margins
        figure.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height)
    for ax in figure.axes:
        ax.spines[list(ax.spines) if bare else ["top", "right"]].set_visible(False)
        if bare:
            ax.set(xticks=[], yticks=[])
    return figure, axes


def finish(where: Axes | Figure, title: str, data: pd.DataFrame, alt: str, note: str = "") -> Picture:
    if isinstance(where, Figure):
        where.suptitle(drawable(title), x=0.01, ha="left", fontsize=10)
    else:
        where.set_title(drawable(title) + note, loc="left", fontsize=10)
    return Picture(where.get_figure(), data, f"{title}. {alt}")


def plain(text: object, length: int = 80) -> str:
    """At most `length` characters in one line; what could steer a terminal becomes a space."""
    line = "".join(c if c.isprintable() else " " for c in str(text)[: length + 1])
    return line if len(line) <= length else line[: length - 1] + "…"


def drawable(text: object, length: int = 160) -> str:
    """For a figure: no formulas; what rcParams["font.family"] lacks is a box."""
    glyphs = _glyphs(tuple(rcParams["font.family"]))
    return "".join(c if ord(c) in glyphs else "□" for c in plain(text, length)).replace("$", r"\$")


def named(code: str) -> str:
    """Underscores become spaces."""
    return drawable(code.replace("_", " "), 40)


@lru_cache
def _glyphs(families: tuple[str, ...]) -> frozenset[int]:
    fonts = (get_font(findfont(FontProperties(family=[family]))) for family in families)
    return frozenset(code for font in fonts for code in font.get_charmap())


NODES, WIDTHS = np.array(["0.8", LINES[0], LINES[1]]), np.array([0.7, 1.6, 2.4])  # others, to the list, chosen path


def lines(ax: Axes, series: Mapping[str, Sequence], labels: tuple[str, str], levels: Mapping[str, float] = {}) -> None:
    """name -> (x, y) or (x, y, low, high); levels: grey lines."""
    ax.set(xlabel=labels[0], ylabel=labels[1])
    for (name, (x, y, *band)), colour, marker in zip(series.items(), cycle(LINES), cycle(MARKERS)):
        ax.plot(x, y, color=colour, marker=marker, markersize=4, label=named(name))
        if band:
            ax.fill_between(x, *band, color=colour, alpha=0.15, linewidth=0)
    for (name, level), style, grey in zip(levels.items(), cycle((":", "--", "-.")), cycle(("0.1", "0.4", "0.6"))):
        ax.axhline(level, color=grey, linestyle=style, label=named(name))
    ax.legend(frameon=False, fontsize=8)


def training_curve(epochs: Sequence[object], title: str, *, chance: float) -> Picture:
    """Losses and validation of `m6rec.train.fit.Epoch` rows."""
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
    """A line for each training; levels: horizontal lines."""
    _, ax = canvas(7.5, 3.5)
    lines(ax, curves, ("epoch", "validation NDCG@10"), levels)
    ax.set(ylim=(0, None))
    ax.xaxis.get_major_locator().set_params(integer=True)
    data = pd.DataFrame({name: pd.Series(y, x) for name, (x, y) in curves.items()}).rename_axis("epoch")
    return finish(ax, title, data, f"Validation NDCG@10 by epoch: {', '.join(curves)}.")


def learning_curves(
    curves: Mapping[str, Mapping[int, np.ndarray]], title: str, *, quality="AUC", levels: Mapping[str, float] = {}
) -> Picture:
    """method -> examples -> qualities of the seeds: mean and range. levels: horizontal lines."""
    rows = [(name, n, np.mean(values), np.min(values), np.max(values))
            for name, points in curves.items() for n, values in sorted(points.items())]  # fmt: skip
    data, ax = _by_method(rows, ("examples", "mean", "low", "high"), ("labelled examples", quality), levels)
    ax.set_xscale("log")
    return finish(ax, title, data, f"{quality} against labelled examples for {', '.join(curves)}.")


def tradeoff(methods: Mapping[str, Sequence[tuple[str, float, float]]], title: str, *, wanted: float) -> Picture:
    """A line for each method of (label, milliseconds, AUC). wanted: the lower limit."""
    points = [(name, *point) for name, row in methods.items() for point in sorted(row, key=lambda point: point[1])]
    rows = [(name, time, auc) for name, _, time, auc in points]
    data, ax = _by_method(rows, ("milliseconds", "AUC"), ("milliseconds a request", "AUC"), {"wanted": wanted})
    for _, label, *at in points:
        ax.annotate(named(label), at, xytext=(4, 5), textcoords="offset points", fontsize=8)
    ax.set_xlim(left=0)
    data.insert(1, "label", [label for _, label, *_ in points])
    return finish(ax, title, data, f"AUC against milliseconds for {', '.join(methods)}.")


def faithfulness_curves(curves: Mapping[str, np.ndarray], title: str, *, baseline: str | None = None) -> Picture:
    """Probability kept: explainer -> (users, steps). baseline: draw paired differences to this explainer."""
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
    """Two scores of the same items."""
    _, ax = canvas(5.2, 4)
    data = pd.DataFrame(dict(zip(names, (x, y), strict=True)))
    correlation = f"rank correlation {data.corr('spearman').iloc[0, 1]:.2f}"
    ax.scatter(x, y, s=6, color=LINES[0], alpha=0.3, linewidth=0, label=correlation)
    ax.axline((x.max(), x.max()), slope=1, color=LINES[1], linestyle="--", label="equal")
    ax.set(xlabel=names[0], ylabel=names[1])
    ax.legend(frameon=False, loc="upper left")
    return finish(ax, title, data, f"{names[1]} against {names[0]} of {len(x)} items, {correlation}.")


def comparison(rows: Mapping[str, Interval], title: str, *, ours: Sequence[str] = ()) -> Picture:
    """The best on top; `ours` have the first colour."""
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
    """Of tokens (n,) in nats, largest first: orange for the item, purple against it."""
    data = pd.DataFrame({"token": labels, "contribution": scores})
    data = data.sort_values("contribution", key=lambda part: -part.abs(), kind="stable", ignore_index=True)
    top = data["contribution"][:show]
    figure, ax = canvas(7.6, 1.2 + 0.28 * len(top), margins=(2.7, 0.5, 0.5, 0.4))
    # The two ends of PuOr.
    bars = ax.barh(range(len(top)), top, color=["#b35806" if s >= 0 else "#542788" for s in top])
    ax.bar_label(bars, [f"{s:+.3f}" for s in top], fontsize=8, padding=2)
    ax.axvline(0, color="0.4", linewidth=0.8)
    ax.set_yticks(range(len(top)), [drawable(token, 36) for token in data["token"][:show]], fontsize=8)
    ax.margins(x=0.15)
    ax.set_xlabel("contribution to the score (nats)", fontsize=8)
    ax.invert_yaxis()
    alt = f"The {len(top)} tokens of {len(data)} that contribute most, for and against, in nats."
    return finish(figure, title, data, alt)


def rank_moves(before: Sequence[str], after: Sequence[str], names: tuple[str, str], title: str) -> Picture:
    """Two lists of titles side by side."""
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
    """The nodes that a beam kept at each digit, and which of them lead to the list.

    leaves: leaf -> title. depth: digits opened. chosen: a leaf whose path stands out. InputError for an unknown depth.
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
        # A beam wider than its nodes is padded with -inf; leaves are drawn if listed.
        part = part[(part["log_likelihood"] > -np.inf) & (part["leads_to_the_list"] | (level < len(widths)))]
        kind = part["leads_to_the_list"] * (1 + (part["node"] == (-1 if chosen is None else chosen // below)))
        parts.append(part.assign(height=1 - (part["node"].rank() - 0.5) / len(part), kind=kind))
    data = pd.concat(parts, ignore_index=True)
    nodes = data.sort_values("kind", kind="stable")
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
    """Rows (method, x, y) or (method, x, y, low, high): their table and axes."""
    _, ax = canvas(7.5, 4)
    data = pd.DataFrame(rows, columns=["method", *columns])
    lines(ax, {name: part.iloc[:, 1:].to_numpy(float).T for name, part in data.groupby("method", sort=False)}, *drawn)
    return data, ax


NOTE = "where the model attended, which is not yet why"
GROUPS = ("start", *TYPES, "target")
MAX_NAMES = 60  # more cannot be read, and cost a second
MAX_NUMBERS = 12  # columns whose cells have room for numbers


def heatmap(
    ax: Axes, table: pd.DataFrame, top: float = 1.0, *, groups: Sequence = ((), ()), numbers=None, digits: int = 2
) -> AxesImage:
    """A table as colours from 0 to top, NaN grey; few columns have numbers: its own or others.

    groups: of rows and of columns, with white lines between. Beyond MAX_NUMBERS columns the scale is a square root.
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
    """A mask (Tq, Tk) bool, or several side by side."""
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
    """top: where the colours end, by default each column's largest number."""
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
    """A column for each token; white lines separate types."""
    below = 0.3 + 0.055 * min(26, max(map(len, table.columns)))  # inches for tilted names
    figure, ax = canvas(8, below + 0.8 + 0.26 * len(table), margins=(1.3, 0.65, below, 0.5))
    top = _top(table)
    image = heatmap(ax, table, top, groups=((), types))
    bar = ax.inset_axes((1.02, 0, 0.016, 1))
    more = "max" if table.to_numpy().max() > top else "neither"
    figure.colorbar(image, cax=bar, extend=more).ax.tick_params(labelsize=7)
    return finish(ax, title, table, f"Attention, {len(table)} rows, {table.shape[1]} columns: {NOTE}.", f"\n({NOTE})")


def attention_map(record: Record, title: str, view: str = "tokens", *, layer: int = 0, head: int = 0) -> Picture:
    """view "tokens": every token's attention in one layer and head; grey where no layer computes a row.

    "target": the target's, a row for each head. "groups": the same of all layers, summed by type. "rollout": what
    reaches the target after each layer. InputError as of `check`.
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
    # The start only attends to itself: its row is computed where others are.
    absent = np.where(np.arange(n) > 0, absent, absent[..., 1:-1].all(-1, keepdims=True))
    weights = np.ma.masked_array(record.weights, np.broadcast_to(absent[..., None], record.weights.shape))
    for number in (layer, head):  # a mean leaves out what no layer computes
        weights = weights[number - 1] if number else weights.mean(0)
    table = pd.DataFrame(weights.filled(np.nan), record.labels, record.labels)
    _, ax = canvas(7.6, 5.4, margins=(2.3, 0.1, 0.55, 0.65))
    top = _top(table.iloc[1:])
    # Columns have numbers: names take ten times as long to draw.
    rows, columns = [f"{i}  {label}" for i, label in enumerate(record.labels, 1)], list(map(str, range(1, n + 1)))
    heatmap(ax, table.set_axis(rows).set_axis(columns, axis=1), top, groups=[record.types] * 2)
    scale = "" if n <= MAX_NUMBERS else ", square-root scale"
    ax.set_xlabel(f"key (yellow: attention of {top:.2f} or more, blue: 0, grey: not computed{scale})", fontsize=9)
    return finish(ax, title, table, f"Attention, {n} tokens, queries in rows: {NOTE}.", f"\n({NOTE})")


def check(record: Record, layer: int = 0, head: int = 0) -> None:
    """InputError for what is no record, or a layer or head that it lacks."""
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
    """The largest of unfolded tokens: a folded one would outshine them."""
    single = [not label.endswith(" earlier events") for label in table.columns]
    return max(float(np.nan_to_num(table.loc[:, single]).max(initial=0)), 1e-9)


ACROSS = 8  # photographs in a line
STYLES = {
    "image": {"cmap": "gray", "vmin": 0, "vmax": 1, "interpolation": "nearest"},
    "sound": {"cmap": "magma", "vmin": 0, "interpolation": "nearest", "origin": "lower", "aspect": "auto"},
}
UNPATCH = {"image": image.unpatch, "sound": sound.unpatch}


class Player(NamedTuple):
    """Plays a FLAC file whose bytes are part of the page."""

    recording: bytes
    title: str

    def _repr_html_(self) -> str:
        title, data = html.escape(self.title), base64.b64encode(self.recording).decode()
        audio = f'<audio controls aria-label="{title}" src="data:audio/flac;base64,{data}"></audio>'
        return f"<figure>{audio}<figcaption>{title}</figcaption></figure>"

    def __repr__(self) -> str:
        return f"Recording: {self.title}"


def sheet(data: Dataset, items: Sequence[int], title: str) -> Picture:
    """Photographs of items (codes)."""
    rows = data.items.iloc[list(items)]
    deep = -(-len(rows) // ACROSS)
    figure, axes = canvas(7.5, 0.4 + 1.2 * deep, min(len(rows), ACROSS), deep, bare=True, squeeze=False)
    for ax, name, words in zip(axes.flat, rows["image"], rows["title"], strict=False):
        ax.imshow(image.decode(data.media.read(name)), **STYLES["image"])
        ax.set_xlabel("\n".join(textwrap.wrap(drawable(words, 54), 18)[:3]), fontsize=6)
    return finish(figure, title, rows[["title"]], f"{len(rows)} photographs, each over its title.")


def photograph_rows(rows: Mapping[str, np.ndarray], title: str) -> Picture:
    """Versions of the same photographs: name -> (K, 28, 28) in 0..1. `data`: mean squared errors to the first row."""
    first = next(iter(rows.values()))
    figure = _images([(name, images, STYLES["image"]) for name, images in rows.items()], 1.1, 0.85)
    data = pd.DataFrame({name: ((images - first) ** 2).mean((1, 2)) for name, images in rows.items()}).T
    return finish(figure, title, data, f"Rows: {', '.join(rows)}; {len(first)} photographs.")


def reconstructions(pieces: Mapping[str, Reconstruction], title: str) -> Picture:
    """Modality -> patches, of which three items' are shown. `data`: mean squared errors of masked patches."""
    rows = []
    for modality, piece in pieces.items():
        true, predicted, gap = piece.true[:3], piece.predicted[:3], piece.masked[:3, :, None]
        parts = {"visible": np.where(gap, np.nan, true), "reconstructed": np.where(gap, predicted, true), "true": true}
        style = {**STYLES[modality], "vmax": max(1e-6, float(true.max()))}
        rows += [(name, UNPATCH[modality](part), style) for name, part in parts.items()]
    data = pd.DataFrame({modality: pd.Series(piece.errors()[:3]) for modality, piece in pieces.items()})
    alt = f"{', '.join(pieces)}: visible patches, reconstructed ones, and the truth."
    return finish(_images(rows, 2.2, 0.8), title, data, alt)


def patches(content: Features, tokens: Sequence[str], title: str) -> Picture:
    """The first item cut into tokens."""
    figure, (left, right) = canvas(5.5, 2.1, columns=2, width_ratios=(1, 2))
    counts = {"text": len(tokens), "image": content.image.shape[1], "sound": content.sound.shape[1]}
    for ax, modality, colour in ((left, "image", LINES[1]), (right, "sound", "white")):
        ax.imshow(UNPATCH[modality](getattr(content, modality))[0], **STYLES[modality])
        ax.set_title(f"{modality}: {counts[modality]} tokens", fontsize=9)
        size, width = (image.PATCH, image.SIDE) if ax is left else (sound.PATCH, sound.FRAMES)
        for edge in range(size, width, size):
            ax.axvline(edge - 0.5, color=colour, linewidth=1)
            if ax is left:  # sound patches have full height
                ax.axhline(edge - 0.5, color=colour, linewidth=1)
    left.set_axis_off()
    right.set(xlabel="frame (32 ms each)", ylabel="mel band")
    shown = drawable(" ".join(f"[{token}]" for token in tokens), 110)
    figure.supxlabel(f"text: {counts['text']} tokens  {shown}", x=0.01, ha="left", fontsize=8)
    return finish(figure, title, pd.DataFrame({"tokens": counts}), f"Tokens: {counts}.")


def shares_found(true: np.ndarray, measured: np.ndarray, names: Sequence[str], title: str) -> Picture:
    """true, measured: (U, M), rows sum to 1."""
    _, ax = canvas(4.2, 3)
    edges = np.linspace(0, 1, 9)
    middle = pd.Index((edges[1:] + edges[:-1]) / 2, name="true share")
    bins = np.digitize(true, edges[1:-1]).T
    data = pd.DataFrame({n: pd.Series(m).groupby(b).mean() for n, m, b in zip(names, measured.T, bins, strict=True)})
    data = data.reindex(range(8)).set_index(middle)
    ax.plot((0, 1), (0, 1), color="0.6", linestyle=":", label="equal")
    lines(ax, {name: (middle, data[name]) for name in data}, (middle.name, "mean measured share"))
    return finish(ax, title, data, f"Mean measured share by true share for {', '.join(names)}.")


def _images(rows: Sequence[tuple[str, np.ndarray, Mapping[str, object]]], left: float, size: float) -> Figure:
    """Rows of name, images and style; NaN is a gap. left, size: inches."""
    count = len(rows[0][1])
    figure, axes = canvas(left + size * count, 0.4 + size * len(rows), count, len(rows), bare=True, squeeze=False)
    for line, (name, images, style) in zip(axes, rows, strict=True):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        for ax, one in zip(line, images, strict=True):
            ax.set_facecolor(LINES[6])  # a gap is neither black nor white
            ax.imshow(one, **style)
    return figure
