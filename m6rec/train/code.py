"""Which code decides what a training gives: a module, and all of the package that it imports, near or far."""

from __future__ import annotations

import ast
from functools import lru_cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
# A data set's fingerprint says what came of loading it, whichever code did.
LOADS = ("data/readers.py", "data/sources.py", "data/bazaar.py")


def files(module: str, package: Path = PACKAGE) -> list[Path]:
    """The files that a module ("m6rec.recommender") depends on, itself included, but for those that load data.

    Imports inside functions do not count: they are of who asks for more than a training.
    """
    found, todo = set(), [module]
    while todo:
        name = todo.pop()
        place = package.joinpath(*name.split(".")[1:])
        file = place.with_suffix(".py") if place.with_suffix(".py").exists() else place / "__init__.py"
        if file.exists() and file not in found and place != package:
            found.add(file)
            todo += _imported(file.read_text(encoding="utf-8"))
    return sorted(f for f in found if not f.relative_to(package).as_posix().startswith(LOADS))


@lru_cache(maxsize=512)
def _imported(source: str) -> tuple[str, ...]:
    names = []
    for line in ast.parse(source).body:
        if isinstance(line, ast.ImportFrom) and (line.module or "").startswith("m6rec"):
            names += [line.module, *(f"{line.module}.{alias.name}" for alias in line.names)]
    return tuple(names)
