"""From raw content to numbers, one modality at a time: the source document's step `preprocess` (its section 3.2.1)."""

import copy
import hashlib
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from m6rec.cache import cached, key
from m6rec.config import MODALITIES
from m6rec.data import image, sound
from m6rec.data.media import Media, MediaWarning, shown
from m6rec.data.text import PAD, Tokenizer
from m6rec.errors import InputError


class Features(NamedTuple):
    """What the item encoder reads of N items, as arrays or as tensors."""

    text: np.ndarray  # (N, L) int64 token ids, 0 = padding (a missing text is all padding)
    image: np.ndarray  # (N, 16, 49) float32, zeros where absent
    sound: np.ndarray  # (N, 8, 128) float32, zeros where absent
    present: np.ndarray  # (N, 3) bool: which modalities each item has, in the order MODALITIES

    def take(self, rows: np.ndarray) -> "Features":
        """Some of the items, or all in another order."""
        return Features(*(values[rows] for values in self))

    def drop(self, *modalities: str) -> "Features":
        """The same items as if they did not have these modalities; InputError for one that there is not."""
        present = copy.deepcopy(self.present)
        for name in modalities:
            if name not in MODALITIES:
                raise InputError(f"modality {name!r} is unknown: take some of {', '.join(MODALITIES)}.")
            present[:, MODALITIES.index(name)] = False
        return self._replace(present=present)

    def to(self, device: torch.device) -> "Features":
        """The same items as tensors on a device."""
        return Features(*(torch.as_tensor(values).to(device) for values in self))

    def join(self, other: "Features") -> "Features":
        """These items, and then the other ones."""
        return Features(*(np.concatenate(pair) for pair in zip(self, other, strict=True)))


FILE_MODALITIES = {"image": image, "sound": sound}  # each decodes a file's bytes, and cuts what it decoded into PATCHES


def preprocess(
    items: pd.DataFrame, media: Media | None, tokenizer: Tokenizer, length: int, cache: Path | None = None
) -> Features:
    """Items' contents as arrays of token ids and patches.

    items: column `text`, and optionally `image` and `sound`, each a name in `media`, bytes, a Path or a PIL.Image.
    length: tokens of a text that are kept. cache: folder for the decoded patches, by the files' content.
    What is damaged or missing becomes an absent modality; one MediaWarning counts them and names the first three.
    """
    ids, problems = tokenizer.tokens(items["text"], length), []
    parts, present = [ids], [(ids != PAD).any(1)]
    for name, module in FILE_MODALITIES.items():
        sources, hashes, contents = list(items.get(name, ())), {}, {}
        for row, source in enumerate(sources):
            if not absent(source):
                try:
                    hashes[row] = hashlib.sha256(read(source, media)).hexdigest()
                    contents.setdefault(hashes[row], source)  # decoded once, however many items share it
                except InputError as error:
                    problems.append(str(error).rstrip("."))
        good, broken = _decoded(name, contents, media, cache)
        parts.append(np.zeros((len(items), *module.PATCHES), np.float32))
        present.append(np.zeros(len(items), bool))
        for row, content in hashes.items():
            if content in good:
                parts[-1][row], present[-1][row] = good[content], True
            else:
                problems.append(f"{_label(sources[row], row)} {broken[content]}")
    if problems:
        files = "file of the items" if len(problems) == 1 else "files of the items"
        first = "; ".join(problems[:3]) + ("; …" if len(problems) > 3 else "")
        warnings.warn(f"{len(problems):,} {files} cannot be used and count as absent: {first}", MediaWarning, 2)
    return Features(*parts, np.stack(present, 1))


Decoded = tuple[dict[str, np.ndarray], dict[str, str]]  # by content: patches, and what is wrong with the others


def _decoded(name: str, contents: dict[str, object], media: Media | None, cache: Path | None) -> Decoded:
    """Contents, given as hash -> source, decoded or found in the cache."""
    module, order = FILE_MODALITIES[name], sorted(contents)

    def make() -> Decoded:
        good, broken = {}, {}
        for content in order:
            try:
                good[content] = module.decode(read(contents[content], media))
            except InputError as error:
                broken[content] = str(error).rstrip(".")
        return dict(zip(good, module.preprocess(np.array([*good.values()])), strict=True)) if good else {}, broken

    def load(path: Path) -> Decoded | None:
        try:
            with safe_open(path, framework="numpy") as file:
                broken = file.metadata() or {}
                return {content: file.get_tensor(content) for content in order if content not in broken}, broken
        except (OSError, SafetensorError):
            return None

    try:
        path = cache and order and Path(cache) / f"{name}-{key(*order, code=(module,))}.safetensors"
        return cached(path, make, lambda decoded, new: save_file(decoded[0], new, decoded[1]), load) if path else make()
    except (OSError, SafetensorError):  # a full disk costs time, not the result
        return make()


def absent(source: object) -> bool:
    """Whether an item's cell is empty: None, NaN or an empty text."""
    return source is None or source is pd.NA or bool(source != source) or source == ""


def read(source: object, media: Media | None) -> bytes:
    """What an item's cell stands for: a name's content, or what the caller has at hand; InputError as `Media.read`."""
    if isinstance(source, bytes):
        return source
    if isinstance(source, Image.Image):
        return image.encode(image.decode(source))
    if isinstance(source, Path):
        path = source.expanduser().resolve()
        return Media(path.parent).read(path.name)
    if media is None:
        raise InputError(f"{shown(source)} is a name without media; give the folder or the zip file that it lies in.")
    return media.read(source)


def table(items: Iterable[Mapping[str, object]]) -> pd.DataFrame:
    """Items given as dicts, as a frame for `preprocess`; InputError for a file that cannot be used."""
    rows = []
    for item in items:
        row = {"text": item.get("text", item.get("title"))}
        for name, modality in FILE_MODALITIES.items():
            if (source := item.get(name)) is not None:
                row[name] = Path(source) if isinstance(source, str) else source
                try:
                    modality.decode(read(row[name], None))
                except InputError as error:
                    raise InputError(f"the item's {name} {_label(row[name], 0)} {error}") from None
        if all(value is None for value in row.values()):
            raise InputError(f"the item {item!r} has nothing to see: give a title, text, image or sound.")
        rows.append(row)
    return pd.DataFrame(rows, dtype=object)


def _label(source: object, row: int) -> str:
    return shown(source) if isinstance(source, (str, Path)) else f"row {row}"
