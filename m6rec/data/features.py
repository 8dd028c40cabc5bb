"""From raw content to numbers: the source document's step `preprocess` (section 3.2.1)."""

import hashlib
import os
import re
import stat
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from m6rec.cache import cached, key
from m6rec.config import MODALITIES
from m6rec.data import image, sound
from m6rec.data.text import PAD, Tokenizer
from m6rec.errors import InputError

MEDIA_LIMIT = 64 * 2**20  # bytes of one file
CLIMBS = "climbs out of the media folder; give a path relative to it, without '..', such as images/1.png."
OUTSIDE = re.compile(r"^/|^[A-Za-z]:|\\|(^|/)\.\.(/|$)")


class MediaWarning(UserWarning):
    """Some photographs or recordings cannot be used; their items go on without them."""


class Media:
    """Files of a folder or of a zip archive; nothing outside of it is ever read."""

    def __init__(self, path: str | Path):
        """InputError if the path is neither a folder nor a zip archive."""
        self.path = Path(path).expanduser().absolute()
        if not self.path.is_dir() and not self.path.is_file():
            raise InputError(f"media {self.path} does not exist; give a folder or a .zip file.")
        try:
            self._archive = None if self.path.is_dir() else zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise InputError(f"media {self.path} is no zip archive ({error}); give a folder or a .zip file.") from None

    @classmethod
    def open(cls, path: "str | Path | Media | None") -> "Media | None":
        return path if path is None or isinstance(path, Media) else cls(path)

    def read(self, name: str) -> bytes:
        """InputError if the file is missing, larger than MEDIA_LIMIT, or outside of the folder."""
        try:
            with self._open(checked(name)) as file:
                raw = file.read(MEDIA_LIMIT + 1)  # whatever size it claims
            if len(raw) <= MEDIA_LIMIT:
                return raw
            problem = f"is larger than {MEDIA_LIMIT // 2**20} MB; scale or cut it."
        except InputError as error:
            problem = str(error)
        except (KeyError, FileNotFoundError):
            problem = "is not among the media; add the file or leave the cell empty."
        except Exception as error:  # a damaged archive fails in many ways
            problem = f"cannot be read ({getattr(error, 'strerror', None) or error}); replace the file."
        raise InputError(f"{shown(name)} {problem}")

    def _open(self, name: str) -> BinaryIO:
        if self._archive is not None:
            member = self._archive.getinfo(name)
            if stat.S_ISLNK(member.external_attr >> 16):
                raise InputError(f"is a link, which {CLIMBS}")
            return self._archive.open(member)
        path = (self.path / name).resolve()
        if not path.is_relative_to(self.path.resolve()):  # a link may point anywhere
            raise InputError(CLIMBS)
        if path.exists() and not path.is_file():  # a pipe would block for ever
            raise InputError("is no file; give the file's name.")
        return path.open("rb")

    def holds(self, name: str) -> bool:
        """Whether there is such a file; it is not read."""
        name = str(PurePosixPath(name))
        return os.path.isfile(self.path / name) if self._archive is None else name in self._archive.NameToInfo

    def fingerprint(self, names: Iterable[str]) -> str:
        """SHA-256 over names and contents, the same for a folder and for its zip; a missing file counts."""
        digest = hashlib.sha256()
        for name in sorted(set(names)):
            try:
                content = hashlib.sha256(self.read(name)).digest()
            except InputError:
                content = b"missing"
            digest.update(hashlib.sha256(name.encode(errors="surrogatepass")).digest() + content)
        return digest.hexdigest()


def checked(name: object) -> str:
    """A name in its plain form ("./a.png" is a.png); InputError if it is none or leaves its folder."""
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise InputError("is no file name; give a path relative to the media folder.")
    if OUTSIDE.search(name):
        raise InputError(CLIMBS)
    return str(PurePosixPath(name))


def shown(value: object) -> str:
    """Quoted, and cut where it is long."""
    text = str(value)
    return repr(text if len(text) <= 60 else text[:57] + "…")


class Features(NamedTuple):
    text: np.ndarray  # (N, L) int64 token ids, 0 = padding
    image: np.ndarray  # (N, 16, 49) float32, zeros where absent
    sound: np.ndarray  # (N, 8, 128) float32, zeros where absent
    present: np.ndarray  # (N, 3) bool, in the order MODALITIES

    def take(self, rows: np.ndarray) -> "Features":
        return Features(*(values[rows] for values in self))

    def drop(self, *modalities: str) -> "Features":
        """The same items as if they lacked these modalities; InputError for an unknown one."""
        present = self.present & True  # a copy
        for name in modalities:
            if name not in MODALITIES:
                raise InputError(f"modality {name!r} is unknown: take some of {', '.join(MODALITIES)}.")
            present[:, MODALITIES.index(name)] = False
        return self._replace(present=present)

    def to(self, device: torch.device) -> "Features":
        return Features(*(torch.as_tensor(values).to(device) for values in self))

    def join(self, other: "Features") -> "Features":
        return Features(*(np.concatenate(pair) for pair in zip(self, other, strict=True)))


FILE_MODALITIES = {"image": image, "sound": sound}


def preprocess(
    items: pd.DataFrame, media: Media | None, tokenizer: Tokenizer, length: int, cache: Path | None = None
) -> Features:
    """Items' contents as token ids, `length` a text, and patches.

    items: column `text`, and optionally `image` and `sound`, each a name in `media`, bytes, a Path or a PIL.Image.
    cache: folder for patches. What is damaged or missing is absent; one MediaWarning names the first three.
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


Decoded = tuple[dict[str, np.ndarray], dict[str, str]]  # by content: patches, and the problems of others


def _decoded(name: str, contents: dict[str, object], media: Media | None, cache: Path | None) -> Decoded:
    """Decodes contents, hash -> source, or finds them in the cache."""
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
    """None, NaN or an empty text."""
    return source is None or source is pd.NA or bool(source != source) or source == ""


def read(source: object, media: Media | None) -> bytes:
    """The content that an item's cell stands for; InputError as `Media.read`."""
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
    """Items given as dicts, for `preprocess`; InputError for a file that cannot be used."""
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
