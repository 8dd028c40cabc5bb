"""The doctor: whether m6rec can run here, what is missing, and what to do about it.

Every import of a package that may be the missing one stands inside the check that needs it.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).resolve().parents[1]
ROOM = 2e9  # bytes that data, checkpoints and runs may need


class Check(NamedTuple):
    """One line of the doctor. state: "ok", "warn" (m6rec still runs) or "missing" (it does not)."""

    what: str
    state: str
    found: str
    advice: str = ""


def diagnose(folder: Path) -> list[Check]:
    """Every check in order; `folder` is notebooks/. A check that cannot be made is itself a line."""
    lines: list[Check] = []
    for check in (_python, _packages, _device, _kernel, _home, _data, _checkpoints, _results):
        lines += _made(check, folder)
    return lines


def requirements() -> list[str]:
    """What m6rec needs, without the extras: as installed, or from the clone's pyproject.toml."""
    try:
        needed = importlib.metadata.requires("m6rec") or []
    except importlib.metadata.PackageNotFoundError:
        needed = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]["dependencies"]
    return [one for one in needed if "extra ==" not in one]


def _made(check: Callable[[Path], Iterator[Check]], folder: Path) -> list[Check]:
    what = check.__name__.strip("_")
    try:
        return list(check(folder))
    except ImportError as error:
        return [Check(what, "missing", f"{error.name or error} cannot be imported", _install())]
    except Exception as error:  # whatever is broken here, the other lines are still worth reading
        return [Check(what, "warn", f"cannot be checked: {error}")]


def _python(folder: Path) -> Iterator[Check]:
    fits = sys.version_info >= (3, 11)
    found = f"{platform.python_version()} at {sys.executable}"
    yield Check("Python", "ok" if fits else "missing", found, "" if fits else "install Python 3.11 or later")


def _packages(folder: Path) -> Iterator[Check]:
    from packaging.requirements import Requirement

    needed = [Requirement(one) for one in requirements()]
    good = 0
    for one in needed:
        try:
            version = importlib.metadata.version(one.name)
        except importlib.metadata.PackageNotFoundError:
            yield Check(one.name, "missing", f"not installed, needs {one.specifier or 'any version'}", _install())
            continue
        if one.specifier.contains(version, prereleases=True):
            good += 1
        else:
            yield Check(one.name, "missing", f"{version}, needs {one.specifier}", _install())
    yield Check("packages", "ok" if good == len(needed) else "warn", f"{good} of {len(needed)} as needed")


def _device(folder: Path) -> Iterator[Check]:
    import torch

    from m6rec.record import cores

    name = f"GPU, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else f"CPU, {cores()} cores"
    yield Check("device", "ok", f"{name}; torch {torch.__version__}")


def _kernel(folder: Path) -> Iterator[Check]:
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    mend = f"{sys.executable} -m ipykernel install --sys-prefix"
    try:
        starts = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except NoSuchKernel:
        yield Check("Jupyter kernel", "missing", "there is no kernel python3", mend)
        return
    # By folder: each environment's python is a link, and all of them may lead to the same file.
    if os.path.isabs(starts) and Path(starts).parent != Path(sys.executable).parent:
        yield Check("Jupyter kernel", "warn", f"python3 starts {starts}, another Python", mend)
    else:
        yield Check("Jupyter kernel", "ok", "python3")


def _home(folder: Path) -> Iterator[Check]:
    from m6rec.data.sources import home

    place = home()
    there = next(parent for parent in (place, *place.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if not os.access(there, os.W_OK):
        yield Check("M6REC_HOME", "missing", f"{place} cannot be written", "set M6REC_HOME to a folder of your own")
        return
    advice = "" if free > ROOM else "set M6REC_HOME to a larger disk, or make room"
    yield Check("M6REC_HOME", "ok" if free > ROOM else "warn", f"{place}, {_size(free)} free", advice)
    mirror = os.environ.get("M6REC_MIRROR")
    if mirror:
        exists = Path(mirror).expanduser().is_dir()
        advice = "" if exists else "unset M6REC_MIRROR, or name a folder that exists"
        yield Check("M6REC_MIRROR", "ok" if exists else "warn", mirror, advice)


def _data(folder: Path) -> Iterator[Check]:
    from m6rec.data.sources import SOURCES, home

    for name, source in SOURCES.items():
        place = home() / "data" / name
        if any(all((place / file).exists() for file in route.files) for route in source.routes):
            yield Check(name, "ok", str(place) if place.exists() else source.routes[0].address)
        elif name == "ml-100k":  # the notebooks' own; the others are there for whoever wants them
            yield Check(name, "warn", "not fetched yet", f'm6rec.load("{name}") fetches it on first use')


def _checkpoints(folder: Path) -> Iterator[Check]:
    from m6rec.data.sources import home

    found = list(home().rglob("*.safetensors")) if home().exists() else []
    yield Check("checkpoints", "ok", f"{len(found)} cached, {_size(sum(path.stat().st_size for path in found))}")


def _results(folder: Path) -> Iterator[Check]:
    from m6rec.runs import results

    committed, old = results.read(folder / "results"), results.stale(folder / "results")
    for name in old:
        when = committed[name]["run"].get("commit") or "an unknown commit"
        age = "of several runs, the last" if committed[name]["run"].get("only") else "older than the code"
        yield Check(f"results of {name}", "warn", f"{age} ({when[:10]})", f"make results NB={name}")
    fresh = len(committed) - len(old)
    if committed:
        yield Check("results", "ok", f"{fresh} of {len(committed)} come from today's code")
    else:
        yield Check("results", "warn", f"none in {folder / 'results'}", "make results")


def _install() -> str:
    where = PACKAGE.parent if (PACKAGE.parent / "pyproject.toml").exists() else "m6rec"
    return f"{sys.executable} -m pip install {where}"


def _size(number: float) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"
