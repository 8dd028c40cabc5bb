"""Photographs and recordings as files of a folder or of a zip archive; nothing outside of it is ever read."""

import hashlib
import re
import stat
import zipfile
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from m6rec.errors import InputError

MEDIA_LIMIT = 64 * 2**20  # bytes of one file; a longer recording or a larger photograph says nothing more
CLIMBS = "climbs out of the media folder; give a path relative to it, without '..', such as images/1.png."
OUTSIDE = re.compile(r"^/|^[A-Za-z]:|\\|(^|/)\.\.(/|$)")  # names that lead out of a folder, on any system


class MediaWarning(UserWarning):
    """Some photographs or recordings cannot be used; their items go on without them."""


class Media:
    """The files of a folder or of a zip archive, by their relative names."""

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def open(cls, path: str | Path) -> "Media":
        """The media of a folder or of a .zip file; InputError if it is neither, or damaged."""
        media = cls(Path(path).expanduser().absolute())
        if not media.path.is_dir() and not media.path.is_file():
            raise InputError(f"media {media.path} does not exist; give a folder or a .zip file.")
        _ = media._archive  # a damaged archive is found here, not at the first photograph
        return media

    def __repr__(self) -> str:
        return f"Media({str(self.path)!r})"

    @cached_property
    def _archive(self) -> zipfile.ZipFile | None:
        try:
            return None if self.path.is_dir() else zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise InputError(f"media {self.path} is no zip archive ({error}); give a folder or a .zip file.") from None

    def read(self, name: str) -> bytes:
        """One file's content. InputError if it is missing, larger than MEDIA_LIMIT, or outside of the media folder."""
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
        """Whether there is such a file; what it holds is not read."""
        try:
            clean = checked(name)
            return (self.path / clean).is_file() if self._archive is None else clean in self._archive.NameToInfo
        except (InputError, OSError):
            return False

    def fingerprint(self, names: Iterable[str]) -> str:
        """SHA-256 over these names and their contents, the same for a folder and for its zip; a missing file counts."""
        digest = hashlib.sha256()
        for name in sorted(set(names)):
            try:
                content = hashlib.sha256(self.read(name)).digest()
            except InputError:
                content = b"missing"
            digest.update(hashlib.sha256(name.encode(errors="surrogatepass")).digest() + content)
        return digest.hexdigest()


def checked(name: object) -> str:
    """A name in its plain form ("./a.png" is a.png); InputError if it is none or points outside of its folder."""
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise InputError("is no file name; give a path relative to the media folder.")
    if OUTSIDE.search(name):
        raise InputError(CLIMBS)
    return str(PurePosixPath(name))


def shown(value: object) -> str:
    """A value as messages show it: quoted, and cut where it is long."""
    text = str(value)
    return repr(text if len(text) <= 60 else text[:57] + "…")
