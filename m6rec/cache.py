"""What was computed is kept under a key of data, settings and code, without comments and docstrings."""

import ast
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from m6rec.config import InputError

PACKAGE = Path(__file__).parent
PART = ".m6rec-"  # begins the names of temporary files
ABANDONED = 24 * 3600  # seconds: left by a kill
SILENT = ("m6rec.cache.", "m6rec.view.")  # they compute no number
# The fingerprint of a data set covers its loading, and explanations do not train.
NO_TRAINING = ("m6rec.data.sources.", "m6rec.data.bazaar.", "m6rec.explain.")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """InputError where the disk is full, read-only or gone."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        fix = "free space, or name another folder (M6REC_HOME for what is kept)"
        raise InputError(f"{path} cannot be written ({getattr(error, 'strerror', None) or error}): {fix}.") from error


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Yields where to write what then comes to `path`, whole or not at all. A folder keeps its other files.

    Its files are replaced one by one in alphabetical order; if that is cut off, the rest stays in `PART`…/."""
    path, files = Path(path), []
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = path if path.is_dir() else path.parent
        part = Path(tempfile.mkdtemp(prefix=PART, dir=folder))
        try:
            yield (new := part / path.name)
            files = sorted(new.iterdir()) if path.is_dir() else [new]
            for file in files:
                os.replace(file, path / file.name if path.is_dir() else path)
        finally:
            if sum(file.exists() for file in files) in (0, len(files)):
                shutil.rmtree(part, ignore_errors=True)
        for old in folder.glob(f"{PART}*/"):
            with suppress(OSError):  # its own process may end it now
                if time.time() - old.stat().st_mtime > ABANDONED:
                    shutil.rmtree(old)


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """One process at a time; others wait, or have an InputError.

    The lock ends with its process; on a file system without `flock` it is a file, which a kill leaves."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f"{PART}{path.name}.lock"), timeout=-1 if wait else 0, mode=0o666)
        try:
            lock.acquire()
        except Timeout:
            raise InputError(f"another process writes {path}: wait, or name another folder.") from None
    try:
        yield
    finally:
        with suppress(OSError):  # others hold it or wait for it
            os.unlink(lock.lock_file)
        lock.release()


def cached(path: Path, make: Callable, save: Callable, load: Callable) -> object:
    """load(path), or make() now while others wait, and save(it, path). None from `load`: damaged, and made anew."""
    if path.exists() and (kept := load(path)) is not None:
        return kept  # a read-only home can be read
    with locked(path):
        if (kept := load(path) if path.exists() else None) is None:
            kept = make()
            with whole(path) as new:
                save(kept, new)
        return kept


def save_tensors(tensors: Mapping[str, object], file: Path, values: Mapping[str, object] = {}) -> None:
    """With JSON values and a checksum of all."""
    own = {name: torch.as_tensor(one).detach().cpu().contiguous().clone() for name, one in tensors.items()}
    text = json.dumps(values)
    file.write_bytes(save(own, {"values": text, "sha256": checksum(own, text)}))  # `save_file` hides it from others


def load_tensors(file: Path) -> tuple[dict[str, Tensor], dict]:
    """OSError, SafetensorError or ValueError of a missing or damaged file."""
    with safe_open(file, "pt") as opened:
        values, names = opened.metadata() or {}, opened.keys()
        tensors = {name: opened.get_tensor(name) for name in names}
    text = values.get("values", "{}")
    if values.get("sha256", found := checksum(tensors, text)) != found:
        raise ValueError("its checksum is another")
    return tensors, json.loads(text)


def checksum(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """SHA-256 of names, shapes, types and values."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def key(*parts: object, code: tuple = ()) -> str:
    return _hash(*map(str, parts), code_key(*code))[:12]


def code_key(*of: object, skip: tuple[str, ...] = NO_TRAINING, source: str = "") -> str:
    """A hash of the modules of functions, classes or modules, and of all of the package that these import.

    Names of functions do not count. skip: nor do these modules. source: code outside the package."""
    (text, todo), found = _read(source), {}
    todo = [*todo, *(getattr(one, "__module__", None) or one.__name__ for one in of)]
    while todo:
        if (name := _module(todo.pop())) and name not in found and not f"{name}.".startswith((*skip, *SILENT)):
            found[name], imported = _read(_path(name).read_text(encoding="utf-8"))
            if (settings := _path(name).with_suffix(".toml")).exists():
                found[name] += str(tomllib.loads(settings.read_text(encoding="utf-8")))
            todo += imported
    text = "\0".join((text, *(found[name] for name in sorted(found))))
    number = {name: f"#{i}" for i, name in enumerate(dict.fromkeys(re.findall(r"def (\w+)", text)))}
    return _hash(re.sub(r"\w+", lambda word: number.get(word[0], word[0]), text))


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _path(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _module(name: str) -> str | None:
    """Where a full name is defined, whatever __init__ passes it on; None outside the package."""
    if name.partition(".")[0] != "m6rec" or _path(name).exists():
        return name if name.startswith("m6rec") else None
    module, _, last = name.rpartition(".")
    passed = _read(_path(module).read_text(encoding="utf-8"))[1] if _path(module).name == "__init__.py" else ()
    return next((_module(one) for one in passed if one.endswith(f".{last}")), module)


@lru_cache(maxsize=512)
def _read(source: str) -> tuple[str, list[str]]:
    tree, names = ast.parse(source), []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            above = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            names += [above + one.name for one in node.names]
        elif isinstance(body := getattr(node, "body", None), list):
            node.body = [n for n in body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
    return ast.unparse(tree), names
