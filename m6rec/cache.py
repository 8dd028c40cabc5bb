"""What was computed once is kept: under a key of the data, the settings and the code that computed it.

The code counts as syntax trees of the definitions that are reached, without comments, docstrings, annotations and the
names of modules, functions and classes: prose may change, and code may be renamed or moved, and nothing is recomputed.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar

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
            if path.exists() and (kept := load(path)) is not None:
                return kept
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

    of: the objects, or their full names; a method stands for itself and for what it calls of `self`. skip: modules
    that do not count. source: code outside the package, such as a notebook's cells.
    """
    return _code_key(PACKAGE, tuple(one if isinstance(one, str) else _full_name(one) for one in of), skip, source)


@lru_cache(maxsize=512)
def _code_key(root: Path, names: tuple[str, ...], skip: tuple[str, ...], source: str) -> str:
    package, skipped = _Package(root), tuple(f"m6rec.{module}." for module in (*skip, *SILENT))
    todo, found = [place for name in names for place in package.places(name)], {}
    if source:
        package.modules[CELLS] = _Module.of(source)
        todo += [(CELLS, "")]
    while todo:
        place = todo.pop()
        if place not in found and not f"{place[0]}.".startswith(skipped):
            found[place] = _Reader(package, *place)
            todo += found[place].reached
    hashes = {place: _hash(one.text) for place, one in found.items()}
    for _ in range(3):  # a definition counts with what it uses, and that with what it uses in its turn
        hashes = {p: _hash(hashes[p], *(hashes.get(used, "") for used in one.uses)) for p, one in found.items()}
    return _hash(*sorted(hashes.values()))


Place = tuple[str, str]  # a module and a name in it: ("m6rec.train.fit", "fit")


def _full_name(one: object) -> str:
    return f"{one.__module__}.{one.__qualname__}" if hasattr(one, "__qualname__") else one.__name__


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


class _Module(NamedTuple):
    defined: dict[str, list[ast.stmt]]  # the statements that give a name its value; "" has all
    imports: dict[str, str]  # wherever in the module they stand: name -> full name

    @classmethod
    @lru_cache(maxsize=512)
    def of(cls, source: str) -> _Module:
        tree, defined, imports = ast.parse(source), {}, {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                imports |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Import):
                imports |= {
                    a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0] for a in node.names
                }
        for line in tree.body:
            named = isinstance(line, (ast.FunctionDef, ast.ClassDef))
            stored = (n.id for n in ast.walk(line) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
            for name in {line.name} if named else set(stored):
                defined.setdefault(name, []).append(line)
        return cls({**defined, "": tree.body}, imports)


class _Package:
    def __init__(self, root: Path):
        self.root, self.modules = root, {}

    def module(self, name: str) -> _Module | None:
        if name not in self.modules:
            path = self.root.joinpath(*name.split(".")[1:])
            file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            mine = name.split(".")[0] == "m6rec" and file.exists()
            self.modules[name] = _Module.of(file.read_text(encoding="utf-8")) if mine else None
        return self.modules[name]

    def find(self, name: str) -> Place | None:
        """Where a full name is defined, through whatever module it is imported by."""
        above, _, last = name.rpartition(".")
        module = self.module(above)
        if module and last in module.defined:
            return above, last
        return self.find(module.imports[last]) if module and last in module.imports else None

    def places(self, name: str) -> list[Place]:
        """All definitions of a module, one of them, or a method."""
        if module := self.module(name):
            return [(name, one) for one in module.defined if one]
        if place := self.find(name):
            return [place]
        above, _, method = name.rpartition(".")
        place = self.find(above)
        return [(place[0], f"{place[1]}.{method}")] if place and self.nodes(place[0], f"{place[1]}.{method}") else []

    def nodes(self, module: str, name: str) -> list[ast.stmt]:
        first, _, method = name.partition(".")
        nodes = self.module(module).defined[first]
        return (
            [n for c in nodes for n in getattr(c, "body", ()) if getattr(n, "name", "") == method] if method else nodes
        )


class _Reader(ast.NodeTransformer):
    """A definition as text without what does not compute; `uses`: those that it names, in order; `reached`: all."""

    def __init__(self, package: _Package, module: str, name: str):
        self.package, self.place, self.names = package, (module, name), package.module(module)
        self.uses: list[Place] = []
        self.annotated: list[Place] = []
        self.text = "".join(ast.dump(self.visit(copy.deepcopy(n))) for n in package.nodes(module, name) if not _said(n))

    @property
    def reached(self) -> list[Place]:
        return self.uses + self.annotated

    def find(self, node: ast.expr) -> Place | None:
        rest: list[str] = []
        while isinstance(node, ast.Attribute):
            node, rest = node.value, [node.attr, *rest]
        first, (module, name) = getattr(node, "id", None), self.place
        if first in ("self", "cls") and len(rest) == 1 and "." in name:
            method = f"{name.partition('.')[0]}.{rest[0]}"
            return (module, method) if self.package.nodes(module, method) else None
        if first in self.names.defined and module != CELLS:
            return self.package.find(".".join((module, first, *rest)))
        return self.package.find(".".join((self.names.imports[first], *rest))) if first in self.names.imports else None

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if place := self.find(node):
            if place != self.place:
                self.uses.append(place)
            return ast.Name("@")
        return ast.Name(self.names.imports.get(node.id, node.id))

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if place := self.find(node):
            self.uses.append(place)
            return ast.Name("@")
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self._annotation(node.returns)
        node.returns = None
        return self._definition(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._definition(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        self._annotation(node.annotation)
        return ast.arg(node.arg)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        self._annotation(node.annotation)
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if _said(node) else self.generic_visit(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """What is imported counts where it is used."""

    visit_Import = visit_ImportFrom

    def _definition(self, node: ast.FunctionDef | ast.ClassDef) -> ast.AST:
        if self.place[1] == node.name:
            node.name = "@"
        return self.generic_visit(node)

    def _annotation(self, node: ast.expr | None) -> None:
        names = (n for n in ast.walk(node or ast.Pass()) if isinstance(n, (ast.Name, ast.Attribute)))
        self.annotated += filter(None, map(self.find, names))


def _said(node: ast.AST) -> bool:
    """A docstring, or an import."""
    return isinstance(node, (ast.Import, ast.ImportFrom)) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    )
