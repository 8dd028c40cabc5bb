"""What several test files share."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from fixtures import SEGMENTS, small_data, small_model

from m6rec.data.prompts import ClickWindows
from m6rec.data.sources import home
from m6rec.model.network import TextTransformer

FIRST = ("test_outputs.py", "test_device.py")  # the longest: a worker that ends early takes what is left
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_modifyitems(items):
    """Long files first. A worker takes a whole file, but single notebooks of test_outputs.py."""
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))
    for item in items:
        group = item.name if item.path.name == FIRST[0] else item.path.name
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
def compare():
    """A function that executes a notebook and compares its outputs with the stored: (whether they agree, why not)."""

    def compared(path: Path, **environment: str) -> tuple[bool, str]:
        nbval = ["--nbval", "--nbval-current-env", "--nbval-cell-timeout=900"]
        nbval += ["--nbval-sanitize-with", str(Path(__file__).with_name("nbval_sanitize.cfg"))]
        # Not with the settings of pyproject.toml: they are for our own code, not for the kernel's client.
        pytest_ = [
            sys.executable,
            "-m",
            "pytest",
            "-c",
            os.devnull,
            "--rootdir",
            str(path.parent),
            "-p",
            "no:cacheprovider",
        ]
        done = subprocess.run(
            [*pytest_, *nbval, str(path)],
            env={**os.environ, **environment},
            cwd=path.parent,
            capture_output=True,
            text=True,
        )
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
