"""From raw content to numbers, one modality at a time: the source document's step `preprocess` (its section 3.2.1)."""

import copy
import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
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


class FileModality(NamedTuple):
    """One modality that comes in files."""

    decode: Callable[[bytes], np.ndarray]
    shape: tuple[int, ...]  # of one decoded file
    patches: Callable[[np.ndarray], np.ndarray]
    module: ModuleType  # the code that decodes: other code, other cache


FILE_MODALITIES = {
    "image": FileModality(image.decode, (image.SIDE, image.SIDE), image.patches, image),
    "sound": FileModality(sound.decode, (sound.LENGTH,), lambda waves: sound.patches(sound.log_mel(waves)), sound),
}


Decoded = tuple[np.ndarray, dict[str, str]]  # patches of what can be decoded, and what is wrong with the others


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
    for name in FILE_MODALITIES:
        sources = list(items[name]) if name in items.columns else [None] * len(items)
        array, found, wrong = _modality(name, sources, media, cache)
        parts.append(array)
        present.append(found)
        problems += wrong
    if problems:
        files = "file of the items" if len(problems) == 1 else "files of the items"
        first = "; ".join(problems[:3]) + ("; …" if len(problems) > 3 else "")
        warnings.warn(f"{len(problems):,} {files} cannot be used and count as absent: {first}", MediaWarning, 2)
    return Features(*parts, np.stack(present, 1))


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


def _modality(
    name: str, sources: list[object], media: Media | None, cache: Path | None
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Patches (N, P, ·), presence (N,) and what is wrong with the others that are not empty."""
    modality, problems = FILE_MODALITIES[name], []
    hashes: list[str | None] = [None] * len(sources)
    contents: dict[str, object] = {}  # each is decoded once, however many items share it
    for i, source in enumerate(sources):
        if not absent(source):
            try:
                hashes[i] = hashlib.sha256(read(source, media)).hexdigest()
                contents.setdefault(hashes[i], source)
            except InputError as error:
                problems.append(str(error).rstrip("."))
    order = sorted(contents)

    def make() -> Decoded:
        good, broken = [], {}
        for content in order:
            try:
                good.append(modality.decode(read(contents[content], media)))
            except InputError as error:
                broken[content] = str(error).rstrip(".")
        return modality.patches(np.array(good, dtype=np.float32).reshape(-1, *modality.shape)), broken

    def save(decoded: Decoded, new: Path) -> None:
        save_file({"patches": decoded[0]}, new, {"problems": json.dumps(decoded[1])})

    def load(path: Path) -> Decoded | None:
        try:
            with safe_open(path, framework="numpy") as file:
                patches, broken = file.get_tensor("patches"), json.loads(file.metadata()["problems"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None
        return (patches, broken) if len(patches) + len(broken) == len(order) else None

    try:
        stored = cache and order and Path(cache) / f"{name}-{key(*order, code=(modality.module,))}.safetensors"
        patches, broken = cached(stored, make, save, load) if stored else make()
    except (OSError, SafetensorError):  # a full disk costs time, not the result
        patches, broken = make()
    each = zip(range(len(sources)), sources, hashes, strict=True)
    problems += [f"{_label(source, i)} {broken[content]}" for i, source, content in each if content in broken]
    rows = {content: row for row, content in enumerate(content for content in order if content not in broken)}
    row = np.array([rows.get(content, -1) for content in hashes], dtype=np.int64)
    out = np.zeros((len(sources), *patches.shape[1:]), dtype=np.float32)
    out[row >= 0] = patches[row[row >= 0]]
    return out, row >= 0, problems


def _label(source: object, row: int) -> str:
    return shown(source) if isinstance(source, (str, Path)) else f"row {row}"
