"""From raw content to numbers."""

import hashlib
import unicodedata
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError

from m6rec.cache import key, load_tensors, save_tensors, whole
from m6rec.config import MODALITIES, Array, Frame, InputError, choose
from m6rec.data import image, sound
from m6rec.data.text import PAD, Tokenizer

FILE_MODALITIES = {"image": image, "sound": sound}
MEDIA_LIMIT = 64 * 2**20  # bytes of one file


class MediaWarning(UserWarning):
    """Files that cannot be used; their items go on without them."""


class Media:
    """Files of a folder or a zip archive; nothing outside is ever read."""

    def __init__(self, path: str | Path):
        """InputError for neither."""
        try:
            self.path = Path(path).expanduser().absolute()
            self._root = self.path.resolve() if self.path.is_dir() else zipfile.Path(self.path)
        except (zipfile.BadZipFile, OSError, TypeError, ValueError) as error:
            raise InputError(f"media {path} is no folder and no zip file ({error}); give one.") from None

    def __reduce__(self) -> tuple:
        return Media, (self.path,)  # a copy opens the archive anew

    def read(self, name: str) -> bytes:
        """InputError for a file that is missing, larger than MEDIA_LIMIT, or outside."""
        try:
            path = self._file(name)
            if isinstance(path, Path) and not path.resolve().is_relative_to(self._root):  # a link may point anywhere
                raise _outside(name)
            if not path.is_file():  # a pipe would block for ever
                raise InputError(f"{shown(name)} is no file among the media; add it or leave the cell empty.")
            with path.open("rb") as file:
                raw = file.read(MEDIA_LIMIT + 1)  # whatever size it claims
        except InputError:
            raise
        except Exception as error:  # a damaged archive fails in many ways
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{shown(name)} cannot be read ({reason}); replace the file.") from None
        if len(raw) > MEDIA_LIMIT:
            raise InputError(f"{shown(name)} is larger than {MEDIA_LIMIT // 2**20} MB; scale or cut it.")
        return raw

    def holds(self, name: str) -> bool:
        """Whether there is such a file."""
        with suppress(InputError, OSError):
            return self._file(name).is_file()
        return False

    def _file(self, name: str) -> Path | zipfile.Path:
        path = self._root / checked(name)
        written = self._root / unicodedata.normalize("NFD", checked(name))  # by a Mac: é as e and an accent
        return written if not path.is_file() and written.is_file() else path

    def fingerprint(self, names: Iterable[str]) -> str:
        """SHA-256 over names and contents; a missing file counts."""
        digest = hashlib.sha256()
        for name in sorted(set(names)):
            content = b"missing"
            with suppress(InputError):
                content = hashlib.sha256(self.read(name)).digest()
            digest.update(hashlib.sha256(name.encode(errors="surrogatepass")).digest() + content)
        return digest.hexdigest()


def checked(name: object) -> str:
    """A name in plain form ("./a.png" is a.png; NFC); InputError if it is none or leaves its folder."""
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise InputError(f"{shown(name)} is no file name; give a path relative to the media folder.")
    path = PureWindowsPath(name)
    if path.anchor or ".." in path.parts or "\\" in name:
        raise _outside(name)
    return unicodedata.normalize("NFC", str(PurePosixPath(name)))


def _outside(name: str) -> InputError:
    fix = "give a path relative to it, without '..', such as images/1.png"
    return InputError(f"{shown(name)} climbs out of the media folder; {fix}.")


def shown(value: object) -> str:
    """Quoted, and cut where it is long."""
    text = f"<{type(value).__name__}>" if isinstance(value, bytes) else str(value)
    return repr(text if len(text) <= 60 else text[:57] + "…")


class Features(NamedTuple):
    text: Array  # (N, L) int64 token ids, 0 = padding
    image: Array  # (N, 16, 49) float32 by default, 0 where absent; (N, 1, V) of V-dimensional vectors
    sound: Array  # (N, 8, 128), likewise
    present: Array  # (N, 3) bool, in the order MODALITIES

    def take(self, rows: Array) -> "Features":
        return Features(*(values[rows] for values in self))

    def drop(self, *modalities: str) -> "Features":
        """As if items lacked these modalities; InputError for an unknown one."""
        present = self.present & True  # a copy
        for name in modalities:
            choose("modality", name, MODALITIES)
            present[:, MODALITIES.index(name)] = False
        return self._replace(present=present)

    def to(self, device: torch.device) -> "Features":
        return Features(*(torch.as_tensor(values).to(device) for values in self))


def preprocess(
    items: Frame, media: Media | None, tokenizer: Tokenizer, length: int, cache: Path | None = None,
    like: Features | None = None, sizes: Mapping[str, tuple] = {},
) -> Features:  # fmt: skip
    """Token ids, `length` a text, and patches.

    items: column `text`, optionally `image` and `sound`: a name in `media`, bytes, a Path or a vector, see
    `direction`. cache: folder for patches. like: contents whose shapes these take. sizes: of image and sound, see
    their `decode`. What is damaged or missing is absent; a MediaWarning names three."""
    ids, problems = tokenizer.tokens(items["text"], length), []
    parts, present = [ids], [(ids != PAD).any(1)]
    for name, module in FILE_MODALITIES.items():
        hashes, sources, size = {}, {}, sizes.get(name, ())  # row -> content -> a source: each is decoded once
        cells = given(items.get(name, ())).dropna()
        shape = next(((1, len(cell)) for cell in cells if is_vector(cell)), module.shape(*size))
        shape = shape if like is None else getattr(like, name).shape[1:]
        patches, there = np.zeros((len(items), *shape), np.float32), np.zeros(len(items), bool)
        for row, source in cells.items():
            try:
                if shape[0] == 1:
                    patches[row], there[row] = direction(source, shape[1]), True
                    continue
                hashes[row] = hashlib.sha256(read(source, media)).hexdigest()
                sources[hashes[row]] = source
            except InputError as error:
                problems.append(str(error))
        path = cache and Path(cache) / f"{name}-{key(size, *sorted(sources), code=(module,))}.safetensors"
        good, new = {}, {}  # by content
        with suppress(OSError, SafetensorError, ValueError):  # none yet, or a damaged one
            good = load_tensors(path)[0] if path else {}
        for content in sorted(sources.keys() - good.keys()):
            try:
                new[content] = decoded(name, sources[content], media, *size)
            except InputError as error:
                problems.append(str(error))
        if new:
            good |= zip(new, module.preprocess(np.array([*new.values()])), strict=True)
            with suppress(InputError):  # a full disk costs time, not the result
                if path:
                    with whole(path) as part:
                        save_tensors(good, part)
        for row, content in hashes.items():
            if content in good:
                patches[row], there[row] = good[content], True
        parts.append(patches)
        present.append(there)
    if problems:
        first = "; ".join(problem.rstrip(".") for problem in problems[:3]) + "; …" * (len(problems) > 3)
        said = f"files of the items that cannot be used count as absent ({len(problems):,}): {first}"
        warnings.warn(said, MediaWarning, 2)
    return Features(*parts, np.stack(present, 1))


def is_vector(cell: object) -> bool:
    return isinstance(cell, list | tuple) or getattr(cell, "ndim", 0) == 1


def direction(cell: object, size: int) -> Array:
    """A vector (size,) of a frozen encoder (CLIP, CLAP, of sentences), scaled to a mean square of 1. InputError."""
    vector = np.zeros(0)
    with suppress(TypeError, ValueError):
        vector = np.asarray(cell, np.float32)
    if vector.shape != (size,) or not np.isfinite(vector).all():
        raise InputError(f"{shown(cell)} is no vector of {size} finite numbers; give one, or None.")
    return vector / (np.sqrt(np.square(vector).mean()) or 1)


def given(column: Iterable) -> pd.Series:
    """By row number: a file's name, path or content; None for NaN and an empty text."""
    cells = pd.Series(list(column), dtype=object)
    return cells.mask(cells.isna() | np.array([isinstance(cell, str) and not cell for cell in cells], bool), None)


def read(source: object, media: Media | None) -> bytes:
    """A cell's content; InputError as `Media.read`."""
    if isinstance(source, bytes):
        return source
    if isinstance(source, Path):
        path = source.expanduser().resolve()
        return Media(path.parent).read(path.name)
    if media is None:
        raise InputError(f"{shown(source)} is no Path and no bytes, and a name needs media; give one of them.")
    return media.read(source)


def decoded(modality: str, source: object, media: Media | None, *size: object) -> Array:
    """Pixels or samples; InputError begins with the source."""
    raw = read(source, media)
    try:
        return FILE_MODALITIES[modality].decode(raw, *size)
    except InputError as error:
        raise InputError(f"{shown(source)} {error}") from None


def table(items: Iterable[Mapping[str, object]]) -> Frame:
    """Dicts of items for `preprocess`; InputError for a file that cannot be used."""
    rows = []
    for item in items:
        cells = given(map(item.get, FILE_MODALITIES)).set_axis([*FILE_MODALITIES]).dropna()
        row = {m: Path(s) if isinstance(s, str) else s for m, s in cells.items()}
        for modality, source in row.items():
            if not is_vector(source):
                decoded(modality, source, None)
        row["text"] = item.get("text", item.get("title"))
        if all(value is None for value in row.values()):
            raise InputError(f"the item {item!r} has nothing to see: give a title, text, image or sound.")
        rows.append(row)
    return Frame(rows, dtype=object)
