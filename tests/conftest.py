"""What several test files share."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import nbformat
import pytest
import torch
from filelock import FileLock
from fixtures import SEGMENTS, small_data, small_model
from notebook_rules import tagged
from refresh import arithmetic

from m6rec.data.prompts import ClickWindows
from m6rec.data.sources import home
from m6rec.model.network import TextTransformer
from m6rec.runs.execute import read

FIRST = ("device", "outputs", "execute", "browser", "sweep", "training", "results", "weights", "bench", "arguments",
         "sampled", "install", "sequential", "golden", "cuda")  # fmt: skip
MODEL = re.compile(r".*\[0[01349]_.*")
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_modifyitems(items):
    """The longest files first, so that both workers end together. One takes a whole file, but single notebooks.

    Notebooks that train one model are taken by one worker: the other would wait for it."""
    first = [f"test_{name}.py" for name in FIRST]
    items.sort(key=lambda item: first.index(item.path.name) if item.path.name in first else len(first))
    for item in items:
        group = item.path.name if item.path.name != "test_outputs.py" else MODEL.sub("one model", item.name)
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def fresh_home(tmp_path_factory, worker_id) -> Path:
    """An M6REC_HOME without checkpoints, so that everything is trained anew, by one worker for all; raw data is
    downloaded, and decoded, only once."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "home"
    folder.mkdir(exist_ok=True)
    for kept in ("data", "features"):
        (home() / kept).mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            (folder / kept).symlink_to(home() / kept, target_is_directory=True)
    return folder


@pytest.fixture(scope="session")
def python(tmp_path_factory, worker_id) -> list[str | Path]:
    """The command of a Python that has imported PyTorch already (warm.py), one for all workers; else, this one."""
    if sys.platform != "linux":
        return [sys.executable]
    base, pid = tmp_path_factory.getbasetemp(), os.getpid()
    base, pid = (base, pid) if worker_id == "master" else (base.parent, os.getppid())
    warm, place = Path(__file__).with_name("warm.py"), base / "warm"
    with FileLock(base / "warm.lock"):
        if not place.exists():
            subprocess.run([sys.executable, warm, place, "serve", str(pid)], check=True)
    return [sys.executable, "-S", warm, place]


@pytest.fixture(scope="session")
def jupyter(python, tmp_path_factory) -> str:
    """A JUPYTER_PATH where the kernel python3 is in such a Python."""
    folder = tmp_path_factory.mktemp("jupyter")
    spec = {"argv": [*map(str, python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]}
    (folder / "kernels" / "python3").mkdir(parents=True)
    spec |= {"display_name": "Python 3", "language": "python"}
    (folder / "kernels" / "python3" / "kernel.json").write_text(json.dumps(spec))
    return str(folder)


@pytest.fixture
def warm(jupyter, monkeypatch) -> None:
    """Notebooks start in a fork of a Python that has imported PyTorch."""
    monkeypatch.setenv("JUPYTER_PATH", jupyter)


@pytest.fixture(scope="session")
def compare(python, jupyter, tmp_path_factory):
    """A function that executes a notebook and compares its outputs with the stored: (whether they agree, why not).

    Cells that are tagged arithmetic are compared where the processor's arithmetic is that of the stored outputs."""

    def compared(path: Path, **environment: str) -> tuple[bool, str]:
        notebook = read(path)
        if notebook.metadata.get("arithmetic") != arithmetic():
            for cell in tagged(notebook, "arithmetic"):
                cell.metadata["tags"] = [*cell.metadata["tags"], "nbval-ignore-output"]
            path = tmp_path_factory.mktemp("elsewhere") / path.name
            nbformat.write(notebook, path)
        # Not with the settings of pyproject.toml: they are for our own code, not for the kernel's client.
        nbval = ["-m", "pytest", "-c", os.devnull, "--rootdir", path.parent, "-p", "no:cacheprovider"]
        nbval += ["--nbval", "--nbval-kernel-name=python3", "--nbval-cell-timeout=900"]
        nbval += ["--nbval-sanitize-with", Path(__file__).with_name("nbval_sanitize.cfg"), path]
        environment = {**os.environ, "JUPYTER_PATH": jupyter, "OMP_NUM_THREADS": "1", **environment}
        done = subprocess.run([*python, *nbval], env=environment, cwd=path.parent, capture_output=True, text=True)
        return done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]

    return compared


@pytest.fixture(scope="session")
def data():
    """Made-up data, never changed by a test."""
    return small_data()


@pytest.fixture(scope="session")
def trained():
    """A model that has been through both stages once; tests read it and change nothing."""
    model = small_model()
    model.pretrain()
    model.fine_tune()
    return model


@pytest.fixture(scope="session")
def segmented():
    """The made-up data as segments."""
    return ClickWindows(small_data(), length=6, history=4, vocabulary=300, held=2, candidates=4)


@pytest.fixture
def network(segmented):
    """Late interaction, untrained."""
    torch.manual_seed(0)
    return TextTransformer(SEGMENTS, len(segmented.tokenizer), scores=True).eval()
