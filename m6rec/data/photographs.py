"""Photographs of garments as arrays: all 70,000 of Fashion-MNIST, fetched, or those that come with bazaar."""

from __future__ import annotations

import gzip
import io
import tarfile
from typing import NamedTuple

import numpy as np

from m6rec.data import image, sources
from m6rec.errors import InputError

NAMES = ("t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
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
    readers = {"fashion-mnist": _fashion_mnist, "bazaar": _bazaar}
    for name, value, known in (("part", part, ("train", "test")), ("source", source, readers)):
        if value not in known:
            raise InputError(f"{name}={value!r} has no photographs; use {' or '.join(map(repr, known))}.")
    images, labels = readers[source](part)
    return Photographs(images[:n], labels[:n], NAMES)


def _fashion_mnist(part: str) -> tuple[np.ndarray, np.ndarray]:
    folder, route = sources.files("fashion-mnist")
    names = [f"{'t10k' if part == 'test' else part}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")]
    if names[0] in route.files:
        raw = [(folder / name).read_bytes() for name in names]
    else:  # Debian's package: an ar archive with headers of 60 bytes, name first, size at 48, and in it a tar archive
        [file] = route.files
        _, found, data = (folder / file).read_bytes().partition(b"data.tar")
        if not found:
            raise InputError(f"{folder / file} has no data.tar; delete it and load again.")
        with tarfile.open(fileobj=io.BytesIO(data[52 : 52 + int(data[40:50])])) as tar:
            raw = [tar.extractfile(f"./usr/share/datasets/fashion-mnist/{name}").read() for name in names]
    images, labels = (np.frombuffer(gzip.decompress(x), np.uint8, offset=n) for x, n in zip(raw, (16, 8), strict=True))
    return images.reshape(-1, image.SIDE, image.SIDE), labels.astype(np.int64)


def _bazaar(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Bazaar's garments: a photograph that several items show is met once, so that none is in both parts."""
    data = sources.load("bazaar")
    items = data.items.dropna(subset="image").drop_duplicates("image")
    order, held_out = np.random.default_rng(0).permutation(len(items)), round(HELD_OUT * len(items))
    items = items.iloc[order[:held_out] if part == "test" else order[held_out:]]
    pixels = np.stack([image.decode(data.media.read(name)) for name in items["image"]])
    labels = np.array([NAMES.index(category) for category in items["category"]])
    return (pixels * 255).round().astype(np.uint8), labels
