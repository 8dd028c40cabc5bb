"""Fashion-MNIST's own files: four gzips from the official repository, or the same four inside Debian's package."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from m6rec.errors import InputError

GZIPS = {
    "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}
VERSION = "0.0~git20200523.55506a9-1"
PACKAGE = f"dataset-fashion-mnist_{VERSION}_all.deb"


def official(folder: Path) -> dict[str, bytes]:
    """The four files of the official repository."""
    return {name: (folder / name).read_bytes() for name in GZIPS}


def debian(folder: Path) -> dict[str, bytes]:
    """The same four out of Debian's package, an ar archive with a tar archive in it; nothing is unpacked on disk."""
    with tarfile.open(fileobj=io.BytesIO(_member(folder / PACKAGE, "data.tar"))) as data:
        return {name: data.extractfile(f"./usr/share/datasets/fashion-mnist/{name}").read() for name in GZIPS}


def _member(archive: Path, start: str) -> bytes:
    """The member of an ar archive whose name starts so: headers of 60 bytes, name first, size at 48; even offsets."""
    raw, place = archive.read_bytes(), len(b"!<arch>\n")
    while place < len(raw):
        name, size = raw[place : place + 16].decode(), int(raw[place + 48 : place + 58])
        if name.startswith(start):
            return raw[place + 60 : place + 60 + size]
        place += 60 + size + size % 2
    raise InputError(f"{archive} has no {start}; delete it and load again.")
