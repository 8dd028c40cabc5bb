"""Photographs as 28 × 28 grey pixels and sixteen patches."""

import io
import warnings
from contextlib import suppress

import numpy as np
from PIL import Image, ImageChops, ImageOps

from m6rec.config import Array, InputError, Rng

SIDE, PATCH = 28, 7  # pixels
ACROSS = SIDE // PATCH
PATCHES = (ACROSS**2, PATCH**2)  # how many, and numbers in each
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")  # no others: some of Pillow's readers start programs
MOST_PIXELS = 50_000_000


def decode(raw: bytes) -> Array:
    """A file's bytes -> (28, 28) float32 in 0..1: upright by EXIF, grey, longest side scaled to 28, centred on black.

    What is transparent becomes black. InputError if damaged, or above 50 megapixels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of what is an error or nothing here
            image = Image.open(io.BytesIO(raw), formats=FORMATS)
            if image.width * image.height > MOST_PIXELS:
                raise Image.DecompressionBombError
            if image.mode.startswith("I"):  # 16 bits, which Pillow would clip
                flat = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
            elif image.has_transparency_data:
                full = image.convert("RGBA")
                flat = ImageChops.multiply(full.convert("L"), full.getchannel("A"))
            else:
                flat = image.convert("L")
            scale = SIDE / max(flat.size)
            small = flat.resize(tuple(max(1, round(side * scale)) for side in flat.size), Image.Resampling.LANCZOS)
            small.info = dict(image.info)
            upright = small
            with suppress(Exception):  # damaged EXIF does not spoil the pixels
                upright = ImageOps.exif_transpose(small)
            square = Image.new("L", (SIDE, SIDE))
            square.paste(upright, tuple((SIDE - side) // 2 for side in upright.size))
            return np.asarray(square, dtype=np.float32) / 255
    except Image.DecompressionBombError:
        raise InputError("is an image above 50 megapixels; scale it down.") from None
    except Image.UnidentifiedImageError:
        raise InputError(f"is no image that can be read; save it as {', '.join(FORMATS[:-1])} or BMP.") from None
    except Exception as error:  # a damaged file fails in many ways
        raise InputError(f"is a damaged image ({error}); save it again.") from None


def patches(images: Array) -> Array:
    """(N, 28, 28) -> (N, 16, 49), both row by row."""
    cut = images.reshape(len(images), ACROSS, PATCH, ACROSS, PATCH)
    return cut.swapaxes(2, 3).reshape(len(images), *PATCHES)


preprocess = patches


def unpatch(patches: Array) -> Array:
    """(N, 16, 49) -> (N, 28, 28)."""
    cut = patches.reshape(len(patches), ACROSS, ACROSS, PATCH, PATCH)
    return cut.swapaxes(2, 3).reshape(len(patches), SIDE, SIDE)


def augment(images: Array, rng: Rng) -> Array:
    """Moved by up to 2 pixels, half of them mirrored, brightness ±10 %."""
    n, reach = len(images), 2
    padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach)))
    rows, columns = rng.integers(0, 2 * reach + 1, (2, n, 1)) + np.arange(SIDE)  # (N, 28) each
    columns = np.where(rng.random((n, 1)) < 0.5, columns, columns[:, ::-1])
    moved = padded[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return (moved * rng.uniform(0.9, 1.1, (n, 1, 1))).clip(0, 1).astype(np.float32)
