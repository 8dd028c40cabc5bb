"""Photographs of garments as arrays: all 70,000 of Fashion-MNIST, fetched, or those that bazaar carries with it."""

from __future__ import annotations

import gzip
from typing import NamedTuple

import numpy as np

from m6rec.data import bazaar, image, sources
from m6rec.data.media import Media
from m6rec.errors import InputError

NAMES = ("t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
PARTS = {"train": "train", "test": "t10k"}
HELD_OUT = 0.2  # of bazaar's photographs


class Photographs(NamedTuple):
    """Grey photographs of garments, light on black."""

    images: np.ndarray  # (N, 28, 28) uint8
    labels: np.ndarray  # (N,) int64, places in names
    names: tuple[str, ...]  # the classes

    @property
    def pixels(self) -> np.ndarray:
        """(N, 784) float32 in 0..1."""
        return self.images.reshape(len(self.images), -1).astype(np.float32) / 255


def photographs(n: int | None = None, part: str = "train", source: str = "fashion-mnist") -> Photographs:
    """The first n photographs (or all) of a part, "train" or "test", of a source.

    source: "fashion-mnist" (60,000 and 10,000; fetched once, 31 MB) or "bazaar" (about 1,300 and 300 of them, which
    come with m6rec; the parts share no photograph). InputError if it cannot be had, or for an unknown name.
    """
    if part not in PARTS:
        raise InputError(f"part={part!r} is unknown; use {' or '.join(map(repr, PARTS))}.")
    readers = {"fashion-mnist": _fashion_mnist, "bazaar": _bazaar}
    if source not in readers:
        raise InputError(f"source={source!r} has no photographs; use {' or '.join(map(repr, readers))}.")
    images, labels, names = readers[source](part)
    return Photographs(images[:n], labels[:n], names)


def _fashion_mnist(part: str) -> Photographs:
    folder, route = sources.files("fashion-mnist")
    raw = route.read(folder)
    images, labels = (
        np.frombuffer(gzip.decompress(raw[f"{PARTS[part]}-{kind}-ubyte.gz"]), np.uint8, offset=header)
        for kind, header in (("images-idx3", 16), ("labels-idx1", 8))
    )
    return Photographs(images.reshape(-1, image.SIDE, image.SIDE), labels.astype(np.int64), NAMES)


def _bazaar(part: str) -> Photographs:
    """Bazaar's garments: a photograph that several items show is met once, so that none is in both parts."""
    items = bazaar.frames().items.dropna(subset="image").drop_duplicates("image")
    items = items.iloc[np.random.default_rng(0).permutation(len(items))]
    held_out = round(HELD_OUT * len(items))
    items = items[:held_out] if part == "test" else items[held_out:]
    media = Media.open(bazaar.folder() / "media.zip")
    pixels = np.stack([image.decode(media.read(name)) for name in items["image"]])
    labels = np.array([NAMES.index(category) for category in items["category"]])
    return Photographs((pixels * 255).round().astype(np.uint8), labels, NAMES)
