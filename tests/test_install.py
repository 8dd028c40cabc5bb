"""Installing: the three files that name dependencies agree, and the built wheel works far from the clone."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

CLONE = Path(__file__).resolve().parents[1]
PYPROJECT = (CLONE / "pyproject.toml").read_text(encoding="utf-8")
PROJECT = tomllib.loads(PYPROJECT)["project"]
CORE = PROJECT["dependencies"]
EXTRAS = [requirement for extra in PROJECT["optional-dependencies"].values() for requirement in extra]
ENVIRONMENT = (CLONE / "environment.yml").read_text(encoding="utf-8")
NOT_IMPORTED = {"ipykernel", "jupyterlab", "pyarrow"}  # programs, and what pandas reads and writes Parquet with
OF_THE_BUILD = ("nvidia-", "cuda-", "triton")  # what PyTorch's builds with CUDA pin themselves


def pins(lines: list[str]) -> dict[str, Version]:
    """{"numpy": Version("2.4.6")} of lines such as "numpy==2.4.6"."""
    pairs = [line.split("==") for line in lines if "==" in line]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


CONSTRAINTS = pins((CLONE / "constraints.txt").read_text(encoding="utf-8").splitlines())


def closure(requirements: list[str]) -> set[str]:
    """The names of everything that these requirements bring along here, as the installed packages say."""
    found, todo = set(), [(Requirement(text), "") for text in requirements]
    while todo:
        requirement, extra = todo.pop()
        name = canonicalize_name(requirement.name)
        due = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        if not due or (name, *requirement.extras) in found or name.startswith(OF_THE_BUILD):
            continue
        found.add((name, *requirement.extras))
        for needed in importlib.metadata.requires(name) or ():
            todo += [(Requirement(needed), extra) for extra in ("", *requirement.extras)]
    return {name for name, *_ in found}


def test_constraints_hold_an_exact_version_of_all_that_is_installed_and_nothing_else():
    assert closure(CORE + EXTRAS) == CONSTRAINTS.keys()
    installed = {name: Version(Version(importlib.metadata.version(name)).public) for name in CONSTRAINTS}
    assert installed == CONSTRAINTS


def test_constraints_meet_every_lower_bound_and_no_bound_is_an_upper_one():
    for requirement in map(Requirement, CORE + EXTRAS):
        assert CONSTRAINTS[canonicalize_name(requirement.name)] in requirement.specifier
        assert [bound.operator for bound in requirement.specifier] == [">="]


def test_the_conda_environment_has_the_same_packages_in_the_same_versions():
    conda = yaml.safe_load(ENVIRONMENT)["dependencies"]
    by_pip = conda[-1]["pip"]
    assert {"--constraint constraints.txt", "--editable ."} < set(by_pip)
    listed = pins(by_pip)
    assert listed.keys() == {canonicalize_name(Requirement(text).name) for text in CORE + EXTRAS}
    assert listed.items() <= CONSTRAINTS.items()
    python = next(entry for entry in conda if str(entry).startswith("python="))
    assert Version(python.removeprefix("python=")) in Requirement(f"python{PROJECT['requires-python']}").specifier


def test_every_dependency_stands_beside_its_reason():
    reasons = dict(re.findall(r'^  "([\w-]+)>=[\d.]+", +# (\w.{9,})$', PYPROJECT, re.MULTILINE))
    assert reasons.keys() == {Requirement(text).name for text in CORE + EXTRAS}
    for line in ENVIRONMENT.splitlines():
        if line.strip().startswith("- ") and not line.endswith("pip:"):
            assert re.search(r" # \w.{9,}$", line), line
    for name in reasons:
        assert re.search(rf"- {name}==\S+ # {re.escape(reasons[name])}$", ENVIRONMENT, re.MULTILINE), name


def test_the_package_imports_exactly_what_it_declares():
    imported = set()
    for path in (CLONE / "m6rec").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(node.module.split(".")[0])
    packages = importlib.metadata.packages_distributions()
    outside = imported - set(sys.stdlib_module_names) - {"m6rec"}
    used = {canonicalize_name(packages[module][0]) for module in outside}
    assert used == {canonicalize_name(Requirement(text).name) for text in CORE} - NOT_IMPORTED


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory) -> Path:
    """The built wheel, unpacked into a folder outside the clone."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, CLONE]
    built = subprocess.run(build, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    [wheel] = folder.glob("m6rec-*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_the_package_its_licence_and_its_types_and_nothing_else(unpacked):
    assert {path.name.split("-")[0] for path in unpacked.iterdir()} == {"m6rec"}
    assert (unpacked / "m6rec" / "py.typed").exists() and list(unpacked.glob("*.dist-info/licenses/LICENSE"))
    sources = {path.relative_to(CLONE) for path in (CLONE / "m6rec").rglob("*.py")}
    assert sources == {path.relative_to(unpacked) for path in unpacked.rglob("*.py")}


USED = """
import importlib, pkgutil, sys
import pandas as pd
import m6rec
from m6rec.baselines import Popularity

assert m6rec.__file__.startswith(sys.argv[1]), m6rec.__file__
for module in pkgutil.walk_packages(m6rec.__path__, "m6rec."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
events = [(user, item, 60 * place) for user in "abc" for place, item in enumerate("wxyz")]
data = m6rec.Dataset.from_frames(
    pd.DataFrame({"item_id": list("wxyz"), "title": ["W", "X", "Y", "Z"]}),
    None,
    pd.DataFrame(events, columns=["user_id", "item_id", "timestamp"]),
)
found = m6rec.evaluate(Popularity().fit(data, data.split()), data, k=1)
print(found.metrics["hit@1"])
print(m6rec.load("simulated-news").n_items)
print(len(m6rec.M6Rec.from_pretrained("bazaar").recommend("U0001", k=3)))
"""


def test_the_wheel_is_imported_and_used_away_from_the_clone(unpacked, tmp_path):
    environment = {"PATH": "", "HOME": str(tmp_path), "PYTHONPATH": str(unpacked)}
    done = subprocess.run(
        [sys.executable, "-c", USED, str(unpacked)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1.0\n360\n3\n"  # the only item that a user has not seen is the one that comes next


FIRST = """
import os, sys
class Look:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT", ""), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Look())
from m6rec import M6Rec
"""


@pytest.mark.parametrize(("given", "policy"), [({}, "PASSIVE 1000"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE ")])
def test_threads_wait_passively_before_torch_is_loaded_unless_told_otherwise(given, policy):
    environment = {
        name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    } | given
    package = [sys.executable, "-c", FIRST]
    make = ["make", "-s", "-C", str(CLONE), "--eval", 'policy: ; @echo "$$OMP_WAIT_POLICY $$GOMP_SPINCOUNT"', "policy"]
    for command in (package, make):
        assert subprocess.run(command, env=environment, capture_output=True, text=True).stdout == f"{policy}\n"
