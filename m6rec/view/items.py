"""What items are made of: photographs, recordings, patches, and how much each modality counts."""

import base64
import html
import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from m6rec.data import image, sound
from m6rec.data.dataset import Dataset
from m6rec.data.features import Features
from m6rec.explain.explainers import Reconstruction
from m6rec.view.figures import lines
from m6rec.view.picture import LINES, Picture, canvas, drawable, finish

ACROSS = 8  # photographs in a line
STYLES = {
    "image": {"cmap": "gray", "vmin": 0, "vmax": 1, "interpolation": "nearest"},
    "sound": {"cmap": "magma", "vmin": 0, "interpolation": "nearest", "origin": "lower", "aspect": "auto"},
}
UNPATCH = {"image": image.unpatch, "sound": sound.unpatch}


class Player(NamedTuple):
    """A recording's FLAC file to be heard, with its title; the bytes are part of the page."""

    recording: bytes
    title: str

    def _repr_html_(self) -> str:
        title, data = html.escape(self.title), base64.b64encode(self.recording).decode()
        audio = f'<audio controls aria-label="{title}" src="data:audio/flac;base64,{data}"></audio>'
        return f"<figure>{audio}<figcaption>{title}</figcaption></figure>"

    def __repr__(self) -> str:
        return f"Recording: {self.title}"


def sheet(data: Dataset, items: Sequence[int], title: str) -> Picture:
    """Photographs of items (codes), in lines of eight, each over its title."""
    rows = data.items.iloc[list(items)]
    deep = -(-len(rows) // ACROSS)  # rounded up
    figure, axes = canvas(7.5, 0.4 + 1.2 * deep, min(len(rows), ACROSS), deep, bare=True, squeeze=False)
    for ax, name, words in zip(axes.flat, rows["image"], rows["title"], strict=False):
        ax.imshow(image.decode(data.media.read(name)), **STYLES["image"])
        ax.set_xlabel("\n".join(textwrap.wrap(drawable(words, 54), 18)[:3]), fontsize=6)
    return finish(figure, title, rows[["title"]], f"{len(rows)} photographs, each over its title.")


def photograph_rows(rows: Mapping[str, np.ndarray], title: str) -> Picture:
    """One row for each version of the same photographs, the originals first: name -> (K, 28, 28) in 0..1.

    `data` has the mean squared error of every version of every photograph against the first row.
    """
    first = next(iter(rows.values()))
    figure = _images([(name, images, STYLES["image"]) for name, images in rows.items()], 1.1, 0.85)
    data = pd.DataFrame({name: ((images - first) ** 2).mean((1, 2)) for name, images in rows.items()}).T
    return finish(figure, title, data, f"Rows: {', '.join(rows)}; {len(first)} photographs.")


def reconstructions(pieces: Mapping[str, Reconstruction], title: str) -> Picture:
    """The visible patches of the first three items, the patches reconstructed in the gaps, and the true ones.

    pieces: "image" or "sound" -> patches. `data` has the mean squared error of each item's masked patches.
    """
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
    """The first of some items cut into tokens: its photograph in 16, its log-mel spectrogram in 8, and its text's."""
    figure, (left, right) = canvas(5.5, 2.1, columns=2, width_ratios=(1, 2))
    counts = {"text": len(tokens), "image": content.image.shape[1], "sound": content.sound.shape[1]}
    for ax, modality, colour in ((left, "image", LINES[1]), (right, "sound", "white")):
        ax.imshow(UNPATCH[modality](getattr(content, modality))[0], **STYLES[modality])
        ax.set_title(f"{modality}: {counts[modality]} tokens", fontsize=9)
        size, width = (image.PATCH, image.SIDE) if ax is left else (sound.PATCH, sound.FRAMES)
        for edge in range(size, width, size):
            ax.axvline(edge - 0.5, color=colour, linewidth=1)
            if ax is left:  # a recording's patches are as high as the picture
                ax.axhline(edge - 0.5, color=colour, linewidth=1)
    left.set_axis_off()
    right.set(xlabel="frame (32 ms each)", ylabel="mel band")
    shown = drawable(" ".join(f"[{token}]" for token in tokens), 110)
    figure.supxlabel(f"text: {counts['text']} tokens  {shown}", x=0.01, ha="left", fontsize=8)
    return finish(figure, title, pd.DataFrame({"tokens": counts}), f"Tokens: {counts}.")


def shares_found(true: np.ndarray, measured: np.ndarray, names: Sequence[str], title: str) -> Picture:
    """The mean measured share by true share, a line for each modality: both (U, M), rows adding up to 1."""
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
    """Rows of a name, images and their style; NaN is a gap. In inches: room on the left, and an image's size."""
    count = len(rows[0][1])
    figure, axes = canvas(left + size * count, 0.4 + size * len(rows), count, len(rows), bare=True, squeeze=False)
    for line, (name, images, style) in zip(axes, rows, strict=True):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        for ax, one in zip(line, images, strict=True):
            ax.set_facecolor(LINES[6])  # a gap is neither black nor white
            ax.imshow(one, **style)
    return figure
