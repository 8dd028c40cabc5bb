"""What was computed is kept under a key of the data, the settings and the code, without its comments and docstrings."""

import ast
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from filelock import FileLock

PACKAGE = Path(__file__).parent
PART = ".m6rec-"  # begins the names of temporary files
SILENT = ("m6rec.cache.", "m6rec.view.")  # they compute no number
# The fingerprint of a data set covers its loading, and explanations do not train.
NO_TRAINING = ("m6rec.data.sources.", "m6rec.data.bazaar.", "m6rec.explain.")


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Yields where to write what then comes to `path`, whole or not at all. A folder keeps its other files."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=PART, dir=path if path.is_dir() else path.parent) as part:
        yield (new := Path(part) / path.name)
        for file in sorted(new.iterdir()) if path.is_dir() else [new]:
            os.replace(file, path / file.name if path.is_dir() else path)


def cached(path: Path, make: Callable, save: Callable, load: Callable) -> object:
    """load(path), or make() now while others wait, and save(it, path). None from `load`: damaged, and made anew."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f"{PART}{path.name}.lock")
    with FileLock(lock):
        if (kept := load(path) if path.exists() else None) is None:
            kept = make()
            with whole(path) as new:
                save(kept, new)
        with suppress(OSError):  # not before: a lock that others hold or wait for stays
            lock.unlink()
        return kept


def key(*parts: object, code: tuple = ()) -> str:
    return _hash(*map(str, parts), code_key(*code))[:12]


def code_key(*of: object, skip: tuple[str, ...] = NO_TRAINING, source: str = "") -> str:
    """A hash of the modules of functions, classes or modules, and of all of the package that these import.

    Renaming a function changes nothing. skip: modules that do not count. source: code outside the package.
    """
    (text, todo), found = _read(source), {}
    todo = [*todo, *(getattr(one, "__module__", None) or one.__name__ for one in of)]
    while todo:
        if (name := _module(todo.pop())) and name not in found and not f"{name}.".startswith((*skip, *SILENT)):
            found[name], imported = _read(_path(name).read_text(encoding="utf-8"))
            todo += imported
    text = "\0".join((text, *(found[name] for name in sorted(found))))
    number = {name: f"#{i}" for i, name in enumerate(dict.fromkeys(re.findall(r"def (\w+)", text)))}
    return _hash(re.sub(r"\w+", lambda word: number.get(word[0], word[0]), text))  # names of functions do not count


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _path(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _module(name: str) -> str | None:
    """Where a full name is defined, also if an __init__ passes it on; None outside the package."""
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
