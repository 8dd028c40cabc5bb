"""Photographs as grey or coloured pixels, in patches of 7 × 7."""

import io
import math
import warnings
from contextlib import suppress

import numpy as np
from PIL import Image, ImageChops, ImageOps

from m6rec.config import Array, InputError, Rng

PATCH = 7  # pixels
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")  # no others: some of Pillow's readers start programs
MOST_PIXELS = 50_000_000


def shape(side: int = 28, colour: bool = False) -> tuple[int, int]:
    """How many patches, and numbers in each."""
    return (side // PATCH) ** 2, PATCH**2 * (1 + 2 * colour)


def decode(raw: bytes, side: int = 28, colour: bool = False) -> Array:
    """A file's bytes -> (S, S), grey, or (S, S, 3), float32 in 0..1: upright by EXIF, scaled, centred on black.

    What is transparent becomes black. InputError if damaged, or above 50 megapixels."""
    mode = "RGB" if colour else "L"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of what is an error or nothing here
            image = flat = Image.open(io.BytesIO(raw), formats=FORMATS)
            if image.width * image.height > MOST_PIXELS:
                raise Image.DecompressionBombError
            if image.mode.startswith("I"):  # 16 bits, which Pillow would clip
                flat = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
            elif image.has_transparency_data:
                full = image.convert("RGBA")
                flat = ImageChops.multiply(full.convert(mode), Image.merge(mode, [full.getchannel("A")] * len(mode)))
            scale = side / max(flat.size)
            size = tuple(max(1, round(length * scale)) for length in flat.size)
            small = flat.convert(mode).resize(size, Image.Resampling.LANCZOS)
            small.info = dict(image.info)
            with suppress(Exception):  # damaged EXIF does not spoil the pixels
                small = ImageOps.exif_transpose(small)
            square = Image.new(mode, (side, side))
            square.paste(small, tuple((side - length) // 2 for length in small.size))
            return np.asarray(square, dtype=np.float32) / 255
    except Image.DecompressionBombError:
        raise InputError("is an image above 50 megapixels; scale it down.") from None
    except Image.UnidentifiedImageError:
        raise InputError(f"is no image that can be read; save it as {' or '.join(FORMATS)}.") from None
    except Exception as error:  # a damaged file fails in many ways
        raise InputError(f"is a damaged image ({error}); save it again.") from None


def patches(images: Array) -> Array:
    """(N, S, S) or (N, S, S, 3) -> (N, P, values), both row by row."""
    n, across = len(images), images.shape[1] // PATCH
    cut = images.reshape(n, across, PATCH, across, PATCH, -1)
    return cut.swapaxes(2, 3).reshape(n, across**2, -1)


preprocess = patches


def unpatch(patches: Array) -> Array:
    across, colour = math.isqrt(patches.shape[1]), patches.shape[2] > PATCH**2
    cut = patches.reshape(-1, across, across, PATCH, PATCH, 1 + 2 * colour)
    return cut.swapaxes(2, 3).reshape((-1, across * PATCH, across * PATCH, 3)[: 3 + colour])


def augment(images: Array, rng: Rng) -> Array:
    """Moved by up to 2 pixels, half of them mirrored, brightness ±10 %."""
    (n, side), reach = images.shape[:2], 2
    padded = np.pad(images, [(0, 0), (reach, reach), (reach, reach), (0, 0)][: images.ndim])
    rows, columns = rng.integers(0, 2 * reach + 1, (2, n, 1)) + np.arange(side)  # (N, S) each
    columns = np.where(rng.random((n, 1)) < 0.5, columns, columns[:, ::-1])
    moved = padded[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
    light = rng.uniform(0.9, 1.1, (n, 1, 1, 1)[: images.ndim])
    return (moved * light).clip(0, 1).astype(np.float32)
