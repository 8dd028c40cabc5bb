"""Views: numbers and a title that states the finding -> a `Picture`.

Layers and heads count from 1; 0 is the mean over all."""

import io
import json
import logging
import re
import textwrap
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import cycle
from math import prod
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import numpy as np
import pandas as pd
from IPython import get_ipython
from IPython.display import Markdown
from matplotlib import collections, colors, font_manager, rc_context, rcParams
from matplotlib.figure import Axes, Figure
from PIL import Image

from m6rec.config import Array, Frame, InputError, choose, plain
from m6rec.data import Dataset, image, sound
from m6rec.evaluate import Interval
from m6rec.explain.explainers import TYPES, Reconstruction, Record, absent, checked, rolled
from m6rec.generate import Step
from m6rec.record import PACKAGE
from m6rec.view import page
from m6rec.view.front import Front

LINES = ("#006BA4", "#FF800E", "#595959", "#5F9ED1", "#C85200", "#898989", "#A2C8EC", "#FFBC79")  # colour-blind safe
LARGEST = 40  # inches a side: 60 MB of pixels
CHINESE = ("Noto Sans CJK SC", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "PingFang SC",
           "Microsoft YaHei", "SimHei", "Noto Sans CJK JP", "Droid Sans Fallback")  # fmt: skip
NUMBER = re.compile(r"(?<![\w@.-])-?\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?")
_templates: dict[str, str] = {}  # with # for a number -> in a language, with {0}, {1}, …


class Picture(NamedTuple):
    """A PNG in a cell; where scripts run, an exported page shows the view of its spec instead."""

    figure: Figure
    data: Frame
    alt: str  # the picture in a sentence
    spec: page.Spec | None = None

    # Trimming draws twice; fixed margins need none.
    trim = property(lambda self: "tight" if self.figure.get_layout_engine() else None)

    def png(self) -> bytes:
        drawn, png = io.BytesIO(), io.BytesIO()
        self.figure.savefig(drawn, format="png", dpi=96, bbox_inches=self.trim, pil_kwargs={"compress_level": 0})
        # 256 colours are a quarter of the bytes.
        image = Image.open(drawn).convert("RGB")
        image.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(png, "png")
        return png.getvalue()

    def save(self, path: str | Path) -> Path:
        """A vector figure (.svg, .pdf), a .png, or a page (.html) of one file."""
        path = Path(path)
        choose("suffix", path.suffix, (".svg", ".pdf", ".png", ".html"))
        if path.suffix == ".html":
            body = page.figure(page.base64(self.png()), plain(self.alt, 400), self.spec)
            path.write_text(page.page(plain(self.alt), body, "body { max-width: 100rem !important }"), encoding="utf-8")
        else:  # texts stay texts, and the same figure is the same file
            with rc_context({"svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "m6rec"}):
                date = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix)
                self.figure.savefig(path, dpi=192, bbox_inches=self.trim, metadata=date)
        return path

    def _repr_mimebundle_(self, **_: object) -> tuple[dict, dict]:
        shown = {"image/png": page.base64(self.png()), "text/plain": repr(self)}
        if not self.spec:
            return shown, {"image/png": {"alt": self.alt}}
        return Front(spec=self.spec, values=self.spec.get("values", {})).beside(shown, self.alt)

    @property
    def digest(self) -> str:
        """Of the numbers to two digits, in place of the pixels where outputs are compared."""
        return f"{crc32(self.data.to_csv(float_format='%.2g').encode()):08x}"

    def __repr__(self) -> str:
        return f"Picture: {self.alt} Numbers: {self.digest}"


def canvas(
    width: float, height: float, columns: int = 1, rows: int = 1, *, margins: Sequence[float] = (), bare: bool = False,
    **options,
) -> tuple[Figure, object]:  # fmt: skip
    """A figure and its axes (one, or an array), in inches. bare: no ticks and frames.

    margins: left, right, bottom, top."""
    figure = Figure(figsize=(min(width, LARGEST), min(height, LARGEST)), layout=None if margins else "constrained")
    axes = figure.subplots(rows, columns, **options)
    if margins:
        left, right, bottom, top = margins
        figure.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height)
    for ax in figure.axes:
        ax.spines[list(ax.spines) if bare else ["top", "right"]].set_visible(False)
        if bare:
            ax.set(xticks=[], yticks=[])
    return figure, axes


def finish(
    where: Axes | Figure, title: str, data: Frame, alt: str, note: str = "", spec: page.Spec | None = None
) -> Picture:
    """spec: without its title and note."""
    if isinstance(where, Figure):
        where.suptitle(drawable(title), x=0.01, ha="left", fontsize=10)
    else:
        where.set_title(drawable(title) + note, loc="left", fontsize=10)
    title = translated(title)
    spec = spec and {**spec, "title": plain(title, 160), "note": note.strip(" ()\n")}
    return Picture(where.get_figure(), data, f"{title}. {alt}".replace("_", " "), spec)


def speak(lang: str) -> None:
    """Titles, labels and Markdown in a language of notebooks/lang, or as written ("en")."""
    files = {path.stem: path for path in (PACKAGE.parent / "notebooks" / "lang").glob("*.json")}
    choose("lang", lang, ["en", *sorted(files)])
    _templates.clear()
    if lang != "en":
        _templates.update(json.loads(files[lang].read_text(encoding="utf-8")))
    if shell := get_ipython():
        shell.display_formatter.formatters["text/markdown"].for_type(Markdown, lambda one: translated(one.data))


def translated(text: str) -> str:
    """As its template says; a text without one stays."""
    template = _templates.get(NUMBER.sub("#", text := str(text)))
    return text if template is None else template.format(*NUMBER.findall(text))


def drawable(text: object, length: int = 160) -> str:
    """No formulas, a space for an underscore; what rcParams["font.family"] lacks is a box."""
    glyphs, line = _glyphs(tuple(rcParams["font.family"])), plain(translated(text), length).replace("_", " ")
    return "".join(c if ord(c) in glyphs else "□" for c in line).replace("$", r"\$")


# After the usual font a Chinese one. It may lack a bold face, and matplotlib need not say so.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
_installed = {font.name for font in font_manager.fontManager.ttflist}
rcParams["font.family"] = [*rcParams["font.family"], *[name for name in CHINESE if name in _installed][:1]]


@lru_cache
def _glyphs(families: tuple[str, ...]) -> frozenset[int]:
    files = (font_manager.findfont(font_manager.FontProperties(family=[family])) for family in families)
    return frozenset(code for file in files for code in font_manager.get_font(file).get_charmap())


NODES, WIDTHS = np.array(["0.8", LINES[0], LINES[1]]), np.array([0.7, 1.6, 2.4])  # others, to the list, chosen path


def curves(
    series: Mapping[str, Sequence], title: str, axes: tuple[str, str], *, levels: Mapping[str, float] = {},
    notes: Mapping[str, Sequence[str]] = {}, dots: bool = False, **limits,
) -> Picture:  # fmt: skip
    """Lines: name -> (x, y) or (x, y, low, high), y (n,) or (n, seeds): their mean and range.

    levels: grey horizontal lines. notes: texts at its points. dots: points alone, beside y = x. limits: of the axes, as
    xscale="log"."""
    _, ax = canvas(8, 3.6)
    parts, style = {}, {"linestyle": "none", "markersize": 2, "alpha": 0.4} if dots else {"markersize": 4}
    for (name, (x, y, *band)), colour, marker in zip(series.items(), cycle(LINES), cycle("osd^vPX*")):
        x, y = np.asarray(x), np.asarray(y, float)
        if y.ndim == 2:
            band, y = (y.min(1), y.max(1)), y.mean(1)
        ax.plot(x, y, color=colour, marker=marker, label=drawable(name, 40), **style)
        if len(band):
            ax.fill_between(x, *band, color=colour, alpha=0.15, linewidth=0)
        for text, *at in zip(notes.get(name, ()), x, y, strict=False):
            ax.annotate(drawable(text, 40), at, xytext=(4, 5), textcoords="offset points", fontsize=8)
        parts[name] = Frame(dict(zip((*axes, "low", "high"), (x, y, *band), strict=False)))
    if dots:
        ax.axline((y[0], y[0]), slope=1, color="0.1", linestyle=":", label=drawable("equal"))
        ax.set_aspect("equal")
    elif x.dtype.kind == "i" and "xscale" not in limits:
        ax.xaxis.get_major_locator().set_params(integer=True)
    for (name, level), line, grey in zip(levels.items(), cycle((":", "--", "-.")), cycle(("0.1", "0.4", "0.6"))):
        ax.axhline(level, color=grey, linestyle=line, label=drawable(name, 40))
    ax.set(xlabel=drawable(axes[0]), ylabel=drawable(axes[1]), **limits)
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    data = pd.concat(parts, names=["name"]).reset_index("name").reset_index(drop=True)
    return finish(ax, title, data, f"{axes[1]} against {axes[0]} of {', '.join(series)}.")


def comparison(rows: Mapping[str, Interval], title: str, *, ours: Sequence[str] = ()) -> Picture:
    """Best on top; `ours` have the first colour."""
    data = Frame([[getattr(row, c) for c in Interval._fields] for row in rows.values()], [*rows], Interval._fields)
    data = data.sort_values("value", kind="stable")
    shown = data[-MAX_NAMES:]
    _, ax = canvas(7.5, 0.8 + 0.34 * len(shown))
    for y, (name, value, low, high, *_) in enumerate(shown.itertuples()):
        colour, marker = (LINES[0], "D") if name in ours else (LINES[2], "o")
        ax.plot((low, high), (y, y), color=colour, linewidth=2)
        ax.plot(value, y, marker=marker, color=colour)
        ax.annotate(f"{value:.3f}", (high, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9)
    ax.set_yticks(range(len(shown)), [drawable(name, 40) for name in shown.index])
    ax.set(xlabel=drawable("NDCG@10, 95 % interval over users"), xlim=(0, None), ylim=(-0.6, len(shown) - 0.4))
    return finish(ax, title, data[::-1], f"NDCG@10 of {len(rows)} methods with 95 % intervals, the best on top.")


def contributions(scores: Array, labels: Sequence[str], title: str, *, show: int = 12) -> Picture:
    """Of tokens (n,) in nats, largest first: orange for the item, purple against it."""
    data = Frame({"token": labels, "contribution": scores})
    data = data.sort_values("contribution", key=abs, ascending=False, kind="stable", ignore_index=True)
    top = data["contribution"][:show]
    figure, ax = canvas(7.6, 1.2 + 0.28 * len(top), margins=(2.7, 0.5, 0.5, 0.4))
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
    first = [{text: titles.index(text) + 1 for text in titles} for titles in (before, after)]  # of equal titles
    ranks = Frame(dict(zip(names, first, strict=True)))
    spec = {"before": [*map(plain, before)], "after": [*map(plain, after)], "names": [*map(plain, names)]}
    spec["kind"], said = "moves", "Bold: on one list only. Solid lines rise or stay, dashed lines fall."
    return finish(ax, title, ranks, said, spec=spec)


def beam_tree(
    steps: Sequence[Step], widths: Sequence[int], leaves: Mapping[int, str], title: str, *, depth: int | None = None,
    chosen: int | None = None,
) -> Picture:  # fmt: skip
    """The nodes that a beam kept at each digit, and which lead to the list.

    leaves: leaf -> title. depth: digits opened. chosen: the leaf whose path stands out."""
    depth = len(steps) if depth is None else depth
    choose("depth", depth, range(1, len(steps) + 1))
    parts = []
    for level, step in enumerate(steps[:depth], 1):
        below = prod(widths[level:])
        part = Frame({"level": level, "node": step.nodes[0].tolist(), "log_likelihood": step.scores[0].tolist()})
        part["leads_to_the_list"] = part["node"].isin([leaf // below for leaf in leaves])
        # A beam wider than its nodes has -inf; leaves are drawn if listed.
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
    colour, width = NODES[nodes["kind"]], WIDTHS[nodes["kind"]]
    ax.add_collection(collections.LineCollection(branches, colors=colour, linewidths=width))
    ax.scatter(nodes["level"] - 1, nodes["height"], s=14, color=colour, zorder=3)
    for row in nodes[nodes["kind"] > 0].itertuples():
        digit = f"{row.node % widths[row.level - 1]}, {row.log_likelihood:.2f}"
        if row.level == depth:
            text = drawable(leaves[row.node], 34) if depth == len(steps) else digit
            ax.text(depth - 0.95, row.height, text, va="center", fontsize=8, weight=("normal", "bold")[row.kind == 2])
        elif row.kind == 2:
            ax.text(row.level - 1, row.height + 0.02, digit, ha="center", fontsize=8)
    for level in range(depth):
        ax.text(level, -0.06, drawable(f"digit {level + 1}"), ha="center", fontsize=9, style="italic")
    ax.set(xlim=(-1.1, len(steps) + 0.3), ylim=(-0.09, 1.02))
    alt = f"Blue branches lead to the {len(leaves)} items of the list."
    alt += " Orange: the path of the chosen one, with its digits and its log-likelihood so far." * (chosen is not None)
    spec = {"kind": "tree", "widths": [*widths], "depth": depth}
    spec["leaves"] = {str(leaf): plain(text) for leaf, text in leaves.items()}
    spec["nodes"] = data[["level", "node", "log_likelihood", "kind"]].round(4).astype(object).to_numpy().tolist()
    return finish(ax, title, data.drop(columns=["height", "kind"]), alt, spec=spec)


NOTE = "where the model attended, which is not yet why"
MAX_NAMES = 60  # more cannot be read, and cost a second
MAX_NUMBERS = 12  # columns whose cells have room for numbers
MAX_TOKENS, MAX_WEIGHTS = 256, 2**21  # of a view: more cannot be read
VIEWS = {"heads": "head view", "tokens": "matrix", "target": "target", "groups": "by group", "rollout": "flow"}


def heatmap(
    ax: Axes, table: Frame, top: float = 1.0, *, groups: Sequence = ((), ()), numbers=True, signed=False
) -> object:
    """Colours from 0, or signed from -top, to top, NaN grey; groups: of rows and columns, white lines between.

    Up to MAX_NUMBERS columns have numbers, more a square-root scale."""
    few, values = table.shape[1] <= MAX_NUMBERS, np.ma.masked_invalid(table.to_numpy(float))
    scale = colors.Normalize(-top, top) if signed else colors.PowerNorm(1 if few else 0.5, 0, top)
    image = ax.imshow(values, "PuOr_r" if signed else "cividis", scale, aspect="auto", interpolation="nearest")
    ax.set_facecolor("0.88")
    left, below = ([drawable(n, 30) for n in part] if len(part) <= MAX_NAMES else [] for part in table.axes)
    tilt = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"} if max(map(len, below), default=0) > 2 else {}
    ax.set_yticks(range(len(left)), left, fontsize=8 if few else 7)
    ax.set_xticks(range(len(below)), below, fontsize=8 if few else 7, **tilt)
    for draw, group in zip((ax.axhline, ax.axvline), groups, strict=True):
        for at in range(1, len(group)):
            if group[at] != group[at - 1]:
                draw(at - 0.5, color="white", linewidth=1)
    for (row, column), shade in np.ma.ndenumerate(values) if few and numbers else ():
        colour = "black" if (abs(shade) < 0.6 * top if signed else shade > top / 2) else "white"
        ax.text(column, row, f"{shade:.2f}", ha="center", va="center", fontsize=7, color=colour)
    return image


def mask_map(masks: Mapping[str, Array], labels: Sequence[str], title: str, *, keys: Sequence[str] = ()) -> Picture:
    """Masks (Tq, Tk) bool by name, side by side."""
    tables = {name: Frame(mask, labels, keys or labels) for name, mask in masks.items()}
    rows, columns = next(iter(tables.values())).shape
    figure, axes = canvas(1.6 + 0.25 * columns * len(masks), 1.8 + 0.25 * rows, len(masks), squeeze=False, sharey=True)
    for ax, (name, table) in zip(axes[0], tables.items(), strict=True):
        heatmap(ax, table, groups=[range(n) if n <= MAX_NAMES else () for n in table.shape], numbers=False)
        ax.set_title(drawable(name, 40), fontsize=9)
    axes[0, 0].set_ylabel(drawable("query"), fontsize=8)
    figure.supxlabel(drawable("key (yellow: may attend, dark blue: masked)"), fontsize=8)
    alt = ", ".join(f"{name} {np.mean(mask):.0%}".strip() for name, mask in masks.items())
    return finish(figure, title, pd.concat(tables, axis=1), f"Pairs of query and key that may attend: {alt}.")


def attention_rows(
    table: Frame, title: str, types: Sequence[str] = (), *, note: str = NOTE, unit: str = "", signed: bool = False
) -> Picture:
    """A column for each token; white lines separate types. signed: orange is more, purple is less.

    A table of `m6rec.explain.inside` brings its own note, unit and sign."""
    if table.attrs:
        return attention_rows(Frame(table.to_numpy(), table.index, table.columns), title, types, **table.attrs)
    rows, columns = ([*map(plain, names)] for names in (table.index, table.columns))
    below, left = (0.3 + 0.067 * min(30, max(map(len, names))) for names in (columns, rows))  # inches
    figure, ax = canvas(8, below + 0.8 + 0.26 * min(30, len(table)), margins=(left, 0.65, below, 0.5))
    square = int(table.index.equals(table.columns))
    top = _top(table.iloc[square:].abs())  # the first token sees itself
    image = heatmap(ax, table, top, groups=(types if square else (), types), signed=signed)
    bar = ax.inset_axes((1.02, 0, 0.016, 1))
    more = "max" if np.nanmax(table) > top else "neither"
    figure.colorbar(image, cax=bar, extend=more).ax.tick_params(labelsize=7)
    alt = f"{len(table)} rows, {table.shape[1]} columns: {note}."
    names = {"rows": rows, "columns": columns, "types": [*types] or None}
    spec = {"kind": "heat", **names, "unit": unit, "folded": _folded(table.columns), **page.encode(table, signed)}
    return finish(ax, title, table, f"Attention, {alt}" if note == NOTE else alt, f"\n({note})", spec)


def attention_map(record: Record, title: str, view: str = "tokens", *, layer: int = 0, head: int = 0) -> Picture:
    """view "tokens": every token's attention in one layer and head; grey where no layer computes a row. "heads": the
    same as lines.

    "target": the target's, a row for each head. "groups": the same, summed by type. "rollout": what reaches the target
    after each layer. InputError as of `checked`."""
    checked(record)
    choose("view", view, views_of(record))
    choose("layer", layer, range(len(record.weights) + 1))
    choose("head", head, range(record.weights.shape[1] + 1))
    shown = {"view": [*views_of(record)].index(view), "layer": layer, "head": head}
    spec = {**_spec(record), "title": plain(translated(title), 160), "values": shown}
    table, types = _table(record, view, layer, head)
    note, signed = record.note or NOTE, record.weights.min() < 0
    if view == "heads":
        return _lines(table, title, note, signed)._replace(spec=spec)
    return attention_rows(table, title, types, note=note, signed=signed)._replace(spec=spec)


def _spec(record: Record) -> page.Spec:
    """Of every view."""
    (layers, heads, n), signed = record.weights.shape[:3], bool(record.weights.min() < 0)
    if n > MAX_TOKENS or record.weights.size > MAX_WEIGHTS:
        fix = f"take at most {MAX_TOKENS} and {MAX_WEIGHTS:,}, or fold earlier events with record.fold(recent=32)"
        raise InputError(f"{n} tokens with {record.weights.size:,} weights are too many to be drawn: {fix}.")
    weights = np.where(absent(record.weights)[..., None], np.nan, record.weights)
    return {
        "kind": "attention", "tokens": [*map(plain, record.labels)], "types": record.types,
        "views": [*map(list, views_of(record).items())],  # not a dict: a notebook's file sorts its keys
        "shape": [layers, heads, n], "folded": _folded(record.labels), "sums": not record.note,
        "note": record.note or NOTE, **page.encode(weights, signed),
    }  # fmt: skip


def views_of(record: Record) -> dict[str, str]:
    """Nothing flows along differences, or along weights that are no attention."""
    return {view: name for view, name in VIEWS.items() if view != "rollout" or not record.note}


def _table(record: Record, view: str, layer: int, head: int) -> tuple[Frame, Sequence[str]]:
    """And its columns' types."""
    if view in ("tokens", "heads"):
        none = np.broadcast_to(absent(record.weights)[..., None], record.weights.shape)
        weights = np.ma.masked_array(record.weights, none)
        for number in (layer, head):  # a mean leaves out what no layer computes
            weights = weights[number - 1] if number else weights.mean(0)
        return Frame(weights.filled(np.nan), record.labels, record.labels), record.types
    if view == "rollout":
        weights = rolled(record.weights.mean(1), residual=0.5)  # (L, H, n, n) -> (L, n, n) -> (L, n - 1)
        rows = ["layer 1", *(f"layers 1 to {a}" for a in range(2, len(weights) + 1))]
        return Frame(weights / weights.sum(1, keepdims=True), rows, record.labels[:-1]), ()
    end = None if record.weights[..., -1, -1].any() else -1  # another model's may see itself
    names, types, weights = record.labels[:end], record.types[:end], record.weights[..., -1, :end]  # (L, H, n - 1)
    if view == "groups":
        names = [t for t in dict.fromkeys(("start", *TYPES, "target", *types)) if t in types]
        weights, types = np.stack([weights[..., np.array(types) == t].sum(-1) for t in names], -1), ()
    layers = [layer - 1] if layer else range(len(weights))
    heads = [head - 1] if head else range(weights.shape[1])
    rows = [f"layer {a + 1}, head {h + 1}" for a in layers for h in heads]
    return Frame(weights[np.ix_(layers, heads)].reshape(len(rows), -1), rows, names), types


def _lines(table: Frame, title: str, note: str, signed: bool) -> Picture:
    n = len(table)
    _, ax = canvas(7.6, 0.9 + 0.17 * n, margins=(2.3, 2.3, 0.1, 0.65), bare=True)
    shares = np.nan_to_num(table.to_numpy() / _top(table.iloc[1:].abs())).clip(-1, 1)
    pairs = np.argwhere(np.abs(shares) > 0.02)  # (lines, 2)
    shares = shares[tuple(pairs.T)]
    inks = [("#542788" if share < 0 else "#b35806" if signed else LINES[0], abs(share)) for share in shares]
    ends = [[(0, i), (1, j)] for i, j in pairs]
    ax.add_collection(collections.LineCollection(ends, colors=inks, linewidths=2 * np.abs(shares)))
    for x, align in ((-0.02, "right"), (1.02, "left")):
        for i, label in enumerate(table.index):
            ax.text(x, i, drawable(label, 30), ha=align, va="center", fontsize=8)
    ax.set(xlim=(0, 1), ylim=(n - 0.5, -0.5))
    alt = f"Attention, {n} tokens, queries in rows: {note}."
    return finish(ax, title, table, alt, f"\n({note}; queries left, keys right)")


def _folded(labels: Sequence[str]) -> int:
    """The token that stands for many, or -1."""
    return next((i for i, label in enumerate(labels) if label.endswith(" earlier events")), -1)


def _top(table: Frame) -> float:
    """The largest of unfolded tokens."""
    single = np.arange(table.shape[1]) != _folded(table.columns)
    return max(float(np.nan_to_num(table.loc[:, single]).max(initial=0)), 1e-9)


STYLES = {"image": {"cmap": "gray"}, "sound": {"cmap": "magma", "origin": "lower", "aspect": "auto"}}


def image_rows(
    rows: Mapping[str, tuple[str, Sequence]], title: str, *, below: Sequence[str] = (),
    over: Mapping[str, Array] = {},
) -> Picture:  # fmt: skip
    """Lines: name -> (modality, pictures or mel × frame); NaN is a gap. below: texts of the columns.

    over: of some, of one picture each, weights of patches (columns, rows × columns of a grid). `data`: means."""
    count = max(len(images) for _, images in rows.values())
    size, left, under = min(0.85, 8 / count), 0.1 + 0.08 * min(40, max(map(len, rows))), 0.8 if below else 0.4
    figure, axes = canvas(left + size * count, under + size * len(rows), count, len(rows), bare=True, squeeze=False)
    pictures = []
    for line, (name, (modality, images)) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(drawable(name, 40), rotation=0, ha="right", va="center", fontsize=9)
        for column, (ax, one) in enumerate(zip(line, images, strict=False)):
            ax.set_facecolor(LINES[6])  # a gap is neither black nor white
            drawn = ax.imshow(one, vmin=0, vmax=1, interpolation="nearest", **STYLES[modality])
            if name in over:
                style = {"vmin": 0, "vmax": over[name].max(), "alpha": 0.6, "aspect": ax.get_aspect()}
                ax.imshow(over[name][column], "viridis", extent=drawn.get_extent(), **style)
        if name in over:
            pixels = drawn.to_rgba(one, bytes=True)[:: -1 if drawn.origin == "lower" else 1]
            Image.fromarray(pixels).save(png := io.BytesIO(), "png")
            pictures.append({"type": name, "grid": over[name].shape[1:], "png": page.base64(png.getvalue())})
    for ax, text in zip(axes[-1], below, strict=False):
        ax.set_xlabel("\n".join(textwrap.wrap(drawable(text, 54), 18)[:3]), fontsize=6)
    spec = {"kind": "overlay", "tokens": [*map(plain, below)], "pictures": pictures} if over and below else None
    if spec:
        spec |= page.encode(np.concatenate([over[one["type"]].reshape(count, -1) for one in pictures], 1))
    data = Frame({n: pd.Series([np.nanmean(one) for one in images]) for n, (_, images) in rows.items()}).T
    named = f"Rows: {', '.join(rows)}; " if any(rows) else ""
    return finish(figure, title, data, f"{named}{count} columns.", NOTE, spec)


def sheet(data: Dataset, items: Sequence[int], title: str) -> Picture:
    """Photographs of items (codes) over their titles."""
    rows = data.items.iloc[list(items)]
    photographs = [image.decode(data.media.read(name)) for name in rows["image"]]
    return image_rows({"": ("image", photographs)}, title, below=[*rows["title"]])


def reconstructions(pieces: Mapping[str, Reconstruction], title: str) -> Picture:
    """Of each modality three items' patches."""
    rows = {}
    for modality, (true, predicted, masked) in pieces.items():
        gap, whole = masked[..., None], (sound if modality == "sound" else image).unpatch
        parts = {"visible": np.where(gap, np.nan, true), "reconstructed": np.where(gap, predicted, true), "true": true}
        rows |= {f"{modality}, {name}": (modality, whole(part[:3])) for name, part in parts.items()}
    return image_rows(rows, title)
