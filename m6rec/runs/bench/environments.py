"""Environments for other people's code, made once and kept, and a way to run a script in one of them with a limit."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from m6rec.data.sources import home

INSTALL = 1800.0  # seconds for one step of making an environment
TORCH = "torch==2.13.0"


class Requirements(NamedTuple):
    """What an environment holds: packages with all that they need, and packages whose own needs are left out."""

    whole: tuple[str, ...]
    bare: tuple[str, ...] = ()


ENVIRONMENTS = {
    # RecBole's list of needs names more than these models use: Ray, Plotly and thop are not among what they import.
    "recbole": Requirements(
        (
            TORCH,
            "numpy==1.26.4",
            "pandas==2.1.4",
            "scipy==1.11.4",
            "setuptools==79.0.1",
            "scikit-learn==1.9.1",
            "tensorboard==2.21.0",
            "colorlog==4.7.2",
            "colorama==0.4.4",
            "texttable==1.7.2",
            "psutil==7.2.2",
            "pyyaml==6.0.4",
            "tqdm==4.70.1",
        ),
        ("recbole==1.2.1",),
    ),
    "rectools": Requirements((TORCH, "rectools[torch]==0.19.0", "pytorch-lightning==2.5.2", "numpy==1.26.4")),
    "t5": Requirements((TORCH, "transformers==5.24.0", "numpy==2.4.6")),
}


class Failed(Exception):
    """A peer gave nothing; the message says why."""


def environment(name: str, say: Callable[[str], object] = print) -> Path:
    """The interpreter of an environment, which is made if it is not there whole; Failed if it cannot be."""
    whole, bare = ENVIRONMENTS[name]
    key = json.dumps([whole, bare, sys.version_info[:2]])
    folder = home() / "peers" / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    python, stamp = folder / "bin" / "python", folder / "whole"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not stamp.exists():
            shutil.rmtree(folder, ignore_errors=True)  # half made by a run that was stopped
            say(f"{name}: making its environment, once")
            started = time.perf_counter()
            try:
                _step([sys.executable, "-m", "venv", str(folder)])
                pip = [str(python), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
                _step([*pip, *whole])
                if bare:
                    _step([*pip, "--no-deps", *bare])
            except Failed:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            stamp.write_text(f"{time.perf_counter() - started:.0f} s\n" + "\n".join((*whole, *bare)) + "\n")
    return python


def _step(command: list[str]) -> None:
    """One step of making an environment; Failed with the last lines that it printed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL, env=_variables(1))
    except subprocess.TimeoutExpired:
        raise Failed(f"making the environment took more than {INSTALL / 60:.0f} minutes") from None
    if done.returncode:
        raise Failed(f"cannot be installed: {_last(done.stdout + done.stderr)}")


def ask(python: Path, script: Path, folder: Path, task: dict, threads: int, limit: float) -> dict:
    """Run a peer's script on a folder and read its log; after `limit` seconds it and all its processes are ended."""
    (folder / "task.json").write_text(json.dumps(task))
    with (folder / "printed.txt").open("w") as printed:
        process = subprocess.Popen(
            [str(python), str(script), str(folder)],
            cwd=folder,
            env=_variables(threads),
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own, so that its workers end with it
        )
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            said = _last((folder / "printed.txt").read_text(), 1)
            raise Failed(f"was ended after {limit:,.0f} s without a result; last it said: {said}") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if code:
        raise Failed(f"ended with code {code}: {_last((folder / 'printed.txt').read_text())}")
    if not (folder / "log.json").exists():
        raise Failed("ended without a log.json")
    return json.loads((folder / "log.json").read_text())


def _variables(threads: int) -> dict[str, str]:
    """The environment variables of a peer: so many threads, and nothing of our own Python."""
    ours = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    counts = {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")}
    return {**ours, **counts, "PYTHONNOUSERSITE": "1", "PYTHONUNBUFFERED": "1"}


def _last(text: str, lines: int = 3) -> str:
    """The last lines that say something, as one."""
    return " / ".join([line.strip() for line in text.splitlines() if line.strip()][-lines:]) or "it printed nothing"
