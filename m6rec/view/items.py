"""What items are made of, as pictures: photographs, recordings, patches, and what each modality is worth."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from m6rec.data import image, sound
from m6rec.data.dataset import Dataset
from m6rec.data.features import Features
from m6rec.explain.content import Reconstruction
from m6rec.view.picture import LINES, Picture, canvas, drawable

ACROSS = 8  # photographs in a line
LOOKS = {  # of one modality's pictures
    "image": {"cmap": "gray", "vmin": 0, "vmax": 1, "interpolation": "nearest"},
    "sound": {"cmap": "magma", "vmin": 0, "interpolation": "nearest", "origin": "lower", "aspect": "auto"},
}

WHOLE = {"image": image.unpatch, "sound": sound.unpatch}


def sheet(data: Dataset, items: Sequence[int], title: str) -> Picture:
    """Photographs of items (codes), in lines of eight, each over its title."""
    chosen, count = data.items.iloc[list(items)], len(items)
    lines = -(-count // ACROSS)  # rounded up
    figure, axes = canvas(7.5, 0.4 + 1.2 * lines, columns=min(count, ACROSS), rows=lines, squeeze=False)
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
    for ax, name, words in zip(axes.flat, chosen["image"], chosen["title"], strict=False):
        ax.imshow(image.decode(data.media.read(name)), **LOOKS["image"])
        ax.set_xlabel(_wrapped(words), fontsize=6)
    figure.suptitle(drawable(title), x=0.01, ha="left", fontsize=10)
    return Picture(figure, chosen[["title"]], f"{title}. {count} photographs, each over its title.")


class Player(NamedTuple):
    """A recording's file to be heard, with its title; the bytes are part of the page."""

    recording: bytes
    title: str
    form: str = "flac"

    def _repr_html_(self) -> str:
        said, sound_data = html.escape(self.title), base64.b64encode(self.recording).decode()
        return (
            f'<figure><audio controls aria-label="{said}" src="data:audio/{self.form};base64,{sound_data}"></audio>'
            f"<figcaption>{said}</figcaption></figure>"
        )

    def __repr__(self) -> str:
        return f"Recording: {self.title}"


def patches(content: Features, tokens: Sequence[str], title: str) -> Picture:
    """The first of some items cut into tokens: its photograph in 16, its log-mel spectrogram in 8, and its text's."""
    figure, (left, right) = canvas(5.5, 2.1, columns=2, width_ratios=(1, 2))
    left.imshow(image.unpatch(content.image)[0], **LOOKS["image"])
    right.imshow(sound.unpatch(content.sound)[0], **LOOKS["sound"])
    for edge in range(image.PATCH, image.SIDE, image.PATCH):
        left.axhline(edge - 0.5, color=LINES[1], linewidth=1)
        left.axvline(edge - 0.5, color=LINES[1], linewidth=1)
    for edge in range(sound.PATCH, sound.FRAMES, sound.PATCH):
        right.axvline(edge - 0.5, color="white", linewidth=1)
    counts = {"text": len(tokens), "image": content.image.shape[1], "sound": content.sound.shape[1]}
    left.set_axis_off()
    left.set_title(f"photograph: {counts['image']} tokens", fontsize=9)
    right.set_title(f"recording: {counts['sound']} tokens", fontsize=9)
    right.set_xlabel("frame (32 ms each)")
    right.set_ylabel("mel band")
    shown = drawable(" ".join(f"[{token}]" for token in tokens), 110)
    figure.supxlabel(f"text: {counts['text']} tokens  {shown}", x=0.01, ha="left", fontsize=8)
    figure.suptitle(drawable(title), x=0.01, ha="left", fontsize=10)
    return Picture(figure, pd.DataFrame({"tokens": counts}), f"{title}. Tokens: {_listed(counts)}.")


def mask_maps(masks: Mapping[str, np.ndarray], labels: Sequence[str], title: str) -> Picture:
    """Several masks over the same tokens side by side: name -> (L, L) bool; rows look at columns."""
    figure, axes = canvas(2 * len(masks), 2.2, columns=len(masks), squeeze=False)
    for ax, (name, mask) in zip(axes[0], masks.items(), strict=True):
        ax.imshow(mask, cmap="cividis", vmin=0, vmax=1)
        ax.set_xticks(range(len(labels)), labels, rotation=60, ha="right", rotation_mode="anchor", fontsize=7)
        ax.set_yticks(range(len(labels)), labels if ax is axes[0, 0] else [""] * len(labels), fontsize=7)
        ax.set_title(name, fontsize=9)
    figure.suptitle(drawable(title), x=0.01, ha="left", fontsize=10)
    shares = {name: float(np.mean(mask)) for name, mask in masks.items()}
    said = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    return Picture(figure, pd.DataFrame({"visible": shares}), f"{title}. Pairs that may look: {said}.")


def restored(pieces: Mapping[str, Reconstruction], title: str, *, count: int = 3) -> Picture:
    """What the network saw of the first items, what it drew into the gaps, and what was there.

    pieces: "image" or "sound" -> patches. `data` has the mean squared error of each item's hidden patches.
    """
    figure, axes = canvas(2 + 0.8 * count, 0.4 + 2.4 * len(pieces), columns=count, rows=3 * len(pieces))
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_facecolor(LINES[6])  # a gap is neither black nor white
    for block, (modality, piece) in enumerate(pieces.items()):
        true, drawn, gap = piece.true[:count], piece.predicted[:count], piece.masked[:count, :, None]
        rows = {"seen": np.where(gap, np.nan, true), "restored": np.where(gap, drawn, true), "true": true}
        for line, (label, version) in zip(axes[3 * block :], rows.items(), strict=False):
            line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
            for ax, picture in zip(line, WHOLE[modality](version), strict=False):
                ax.imshow(picture, **{**LOOKS[modality], "vmax": max(1e-6, float(true.max()))})
    figure.suptitle(drawable(title), x=0.01, ha="left", fontsize=10)
    data = pd.DataFrame({modality: pd.Series(piece.errors()[:count]) for modality, piece in pieces.items()})
    return Picture(figure, data, f"{title}. {', '.join(pieces)}: what was seen, what was drawn, and the truth.")


def shares_found(true: np.ndarray, found: np.ndarray, names: Sequence[str], title: str) -> Picture:
    """The mean measured share by true share, a line for each modality: true and found (U, M), rows adding up to 1."""
    figure, ax = canvas(4, 2.8)
    edges = np.linspace(0, 1, 9)
    middle, lines = (edges[1:] + edges[:-1]) / 2, {}
    for column, (name, marker) in enumerate(zip(names, "osd^v", strict=False)):
        place = np.digitize(true[:, column], edges[1:-1])
        lines[name] = [found[place == p, column].mean() if (place == p).any() else np.nan for p in range(len(middle))]
        ax.plot(middle, lines[name], color=LINES[column], marker=marker, markersize=4, label=name)
    ax.plot((0, 1), (0, 1), color="0.6", linestyle=":", label="equal")
    ax.set_xlabel("true share")
    ax.set_ylabel("mean measured share")
    ax.legend(frameon=False, fontsize=8)
    figure.suptitle(drawable(title), x=0.01, ha="left", fontsize=10)
    return Picture(figure, pd.DataFrame(lines, index=pd.Index(middle, name="true share")), title)


def number_map(table: pd.DataFrame, title: str, label: str = "NDCG@10", *, top: float | None = None) -> Picture:
    """A table as a heat map with its numbers, such as what each modality is worth: subsets in rows, ways in columns.

    top: the number at which the colours end. Without it each column ends at its own largest, since columns that are
    measured on different targets cannot be compared.
    """
    values = table.to_numpy(dtype=float)
    figure, ax = canvas(2 + 1.1 * table.shape[1], 1 + 0.3 * len(table))
    shade = values / np.maximum(values.max(0) if top is None else top, 1e-9)
    ax.imshow(shade, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        colour = "black" if shade[row, column] > 0.5 else "white"
        shown = f"{value:.3f}" if top is None else f"{value:.2f}"
        ax.text(column, row, shown, ha="center", va="center", fontsize=8, color=colour)
    ax.set_xticks(range(table.shape[1]), table.columns, fontsize=8)
    ax.set_yticks(range(len(table)), table.index, fontsize=8)
    ax.xaxis.tick_top()
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    figure.suptitle(drawable(title), x=0.01, ha="left", fontsize=10)
    return Picture(figure, table, f"{title}. {label} in {len(table)} rows and {table.shape[1]} columns.")


def _wrapped(text: str, width: int = 18, lines: int = 3) -> str:
    """A title in short lines."""
    rows = [""]
    for word in drawable(text, width * lines).split():
        if rows[-1] and len(rows[-1]) + len(word) >= width:
            rows.append("")
        rows[-1] = f"{rows[-1]} {word}".strip()
    return "\n".join(rows[:lines])


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
