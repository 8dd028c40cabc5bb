"""What was computed once is kept: under a key of the data, the settings and the code that computed it.

The code counts as syntax trees of the definitions that are reached, without comments, docstrings, annotations and the
names of modules, functions and classes: prose may change, and code may be renamed or moved, and nothing is recomputed.
"""

import ast
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

PACKAGE = Path(__file__).parent
T = TypeVar("T")
CELLS = "cells"  # the name of code outside the package
PART = ".m6rec-"  # begins the names of what is being written
# The fingerprint of a data set says what came of loading it, whichever code did; the others compute no number.
LOADING = ("data.readers", "data.sources", "data.bazaar")
SILENT = ("cache", "errors")


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Yields where to write a file or a folder, which then comes to `path`: whole or not at all.

    A folder that is there keeps its other files; those of the same names are replaced.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside what is new; inside an old folder, which may be a disk of its own.
    with tempfile.TemporaryDirectory(prefix=PART, dir=path if path.is_dir() else path.parent) as part:
        yield (new := Path(part) / path.name)
        for file in sorted(new.iterdir()) if path.is_dir() else [new]:
            os.replace(file, path / file.name if path.is_dir() else path)


def cached(path: Path, make: Callable[[], T], save: Callable[[T, Path], object], load: Callable[[Path], T | None]) -> T:
    """What was kept under `path`, or what is made now and kept: by one process, while others wait for it.

    Where `load` gives None, what was kept is damaged, and made anew.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f"{PART}{path.name}.lock")
    try:
        with FileLock(lock):
            if path.exists() and (stored := load(path)) is not None:
                return stored
            made = make()
            with whole(path) as new:
                save(made, new)
            return made
    finally:
        with suppress(OSError):
            lock.unlink()  # whoever waits for it finds what was made


def key(*parts: object, code: tuple = ()) -> str:
    """A short hash of values, by their text, and of the code that `code_key` finds from `code`."""
    return _hash(*map(str, parts), code_key(*code))[:12]


def code_key(*of: object, skip: tuple[str, ...] = LOADING, source: str = "") -> str:
    """A hash of the package's code that functions, classes or modules may run, themselves included.

    of: a method stands for itself and for what it calls of `self`. skip: modules that do not count. source: code
    outside the package, such as a notebook's cells.
    """
    names = (f"{one.__module__}.{one.__qualname__}" if hasattr(one, "__qualname__") else one.__name__ for one in of)
    return _code_key(PACKAGE, tuple(names), tuple(f"m6rec.{module}." for module in (*skip, *SILENT)), source)


@lru_cache(maxsize=512)
def _code_key(root: Path, names: tuple[str, ...], skip: tuple[str, ...], source: str) -> str:
    package = _Package(root)
    todo, found = [place for name in names for place in package.places(name)], {}
    if source:
        package.modules[CELLS] = _module(source)
        todo.append((CELLS, ""))
    while todo:
        if (place := todo.pop()) not in found and not f"{place[0]}.".startswith(skip):
            found[place] = _Reader(package, *place)
            todo += found[place].uses + found[place].annotated
    hashes = {place: _hash(one.text) for place, one in found.items()}
    for _ in range(3):  # a definition counts with what it uses, and that with what it uses in its turn
        hashes = {p: _hash(hashes[p], *(hashes.get(used, "") for used in one.uses)) for p, one in found.items()}
    return _hash(*sorted(hashes.values()))


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


Place = tuple[str, str]  # a module and a name in it: ("m6rec.train.fit", "fit"), or a method's: "M6Rec.pretrain"


@lru_cache(maxsize=512)
def _module(source: str) -> tuple[dict[str, list[ast.stmt]], dict[str, str]]:
    """The statements that give each name of a module its value ("" has all), and imports: name -> full name."""
    tree, defined, imports = ast.parse(source), {}, {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            above = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for one in node.names:
                name = one.name if one.asname or above else one.name.split(".")[0]
                imports[one.asname or name] = above + name
    for line in tree.body:
        stored = {n.id for n in ast.walk(line) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        for name in {line.name} if isinstance(line, (ast.FunctionDef, ast.ClassDef)) else stored:
            defined.setdefault(name, []).append(line)
    return {**defined, "": tree.body}, imports


class _Package:
    def __init__(self, root: Path):
        self.root, self.modules = root, {}

    def module(self, name: str) -> tuple[dict[str, list[ast.stmt]], dict[str, str]]:
        if name not in self.modules:
            path = self.root.joinpath(*name.split(".")[1:])
            file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            mine = name.split(".")[0] == "m6rec" and file.exists()
            self.modules[name] = _module(file.read_text(encoding="utf-8")) if mine else ({}, {})
        return self.modules[name]

    def find(self, name: str) -> Place | None:
        """Where a full name is defined, through whatever module it is imported by."""
        module, _, last = name.rpartition(".")
        defined, imports = self.module(module)
        return (module, last) if last in defined else self.find(imports[last]) if last in imports else None

    def places(self, name: str) -> list[Place]:
        """All definitions of a module, one of them, or a method."""
        if defined := self.module(name)[0]:
            return [(name, one) for one in defined if one]
        if place := self.find(name):
            return [place]
        above, _, method = name.rpartition(".")
        place = self.find(above)
        return [(place[0], f"{place[1]}.{method}")] if place else []

    def nodes(self, module: str, name: str) -> list[ast.stmt]:
        first, _, method = name.partition(".")
        nodes = self.module(module)[0][first]
        inside = [node for one in nodes for node in getattr(one, "body", ())]
        return [node for node in inside if getattr(node, "name", "") == method] if method else nodes


class _Reader:
    """A definition as `text` without what does not compute; `uses`: those that it names, in order."""

    def __init__(self, package: _Package, module: str, name: str):
        self.package, self.place, (self.defined, self.imports) = package, (module, name), package.module(module)
        self.uses: list[Place] = []
        self.annotated: list[Place] = []  # what its annotations name: they have methods that it may call
        self.text = "".join(map(self.read, package.nodes(module, name)))

    def read(self, node: object) -> str:
        if isinstance(node, list):
            return f"[{','.join(filter(None, map(self.read, node)))}]"
        if not isinstance(node, ast.AST):
            return repr(node)
        if isinstance(node, (ast.Name, ast.Attribute)):
            if place := self.find(node):
                self.uses += [place] if place != self.place else []
                return "@"
            if isinstance(node, ast.Name):
                return self.imports.get(node.id, node.id)
        parts = dict(ast.iter_fields(node))
        docstring = isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str)
        if docstring or isinstance(node, (ast.Import, ast.ImportFrom)):  # what is imported counts where it is used
            return ""
        for annotation in filter(None, (parts.pop("annotation", None), parts.pop("returns", None))):
            names = (n for n in ast.walk(annotation) if isinstance(n, (ast.Name, ast.Attribute)))
            self.annotated += filter(None, map(self.find, names))
        if parts.get("name") == self.place[1]:
            parts["name"] = "@"
        said = (f"{name}={self.read(part)}" for name, part in parts.items() if part not in (None, []))
        return f"{type(node).__name__}({','.join(said)})"

    def find(self, node: ast.expr) -> Place | None:
        rest: list[str] = []
        while isinstance(node, ast.Attribute):
            node, rest = node.value, [node.attr, *rest]
        first, (module, name) = getattr(node, "id", None), self.place
        if first in ("self", "cls") and len(rest) == 1 and "." in name:
            method = f"{name.partition('.')[0]}.{rest[0]}"
            return (module, method) if self.package.nodes(module, method) else None
        if first in self.defined and module != CELLS:
            return self.package.find(".".join((module, first, *rest)))
        return self.package.find(".".join((self.imports[first], *rest))) if first in self.imports else None
