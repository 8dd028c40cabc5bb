"""Photographs of garments as arrays: all 70,000 of Fashion-MNIST, fetched, or those that bazaar carries with it."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from m6rec.data import bazaar, image, sources
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


def _fashion_mnist(part: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    folder, route = sources.files("fashion-mnist")
    files = [f"{PARTS[part]}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")]
    if route.files.keys() == sources.GZIPS.keys():
        raw = [(folder / file).read_bytes() for file in files]
    else:
        with tarfile.open(fileobj=io.BytesIO(_archived(folder / next(iter(route.files))))) as data:
            raw = [data.extractfile(f"./usr/share/datasets/fashion-mnist/{file}").read() for file in files]
    images, labels = (np.frombuffer(gzip.decompress(x), np.uint8, offset=n) for x, n in zip(raw, (16, 8), strict=True))
    return images.reshape(-1, image.SIDE, image.SIDE), labels.astype(np.int64), NAMES


def _archived(package: Path) -> bytes:
    """The tar archive in Debian's package, an ar archive: headers of 60 bytes, name first, size at 48; even offsets."""
    raw, start = package.read_bytes(), len(b"!<arch>\n")
    while start < len(raw):
        name, size = raw[start : start + 16], int(raw[start + 48 : start + 58])
        if name.startswith(b"data.tar"):
            return raw[start + 60 : start + 60 + size]
        start += 60 + size + size % 2
    raise InputError(f"{package} has no data.tar; delete it and load again.")


def _bazaar(part: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Bazaar's garments: a photograph that several items show is met once, so that none is in both parts."""
    items, *_, media = bazaar.frames()
    items = items.dropna(subset="image").drop_duplicates("image")
    items = items.iloc[np.random.default_rng(0).permutation(len(items))]
    held_out = round(HELD_OUT * len(items))
    items = items[:held_out] if part == "test" else items[held_out:]
    pixels = np.stack([image.decode(media.read(name)) for name in items["image"]])
    labels = np.array([NAMES.index(category) for category in items["category"]])
    return (pixels * 255).round().astype(np.uint8), labels, NAMES
