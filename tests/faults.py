"""What a kill, a full disk or a flipped bit does. By itself it kills trainings: python tests/faults.py 200"""

from __future__ import annotations

import errno
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

WRITES = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "tempfile.mkdtemp", "os.chmod")
_at: list = []  # what happens at a file operation: a hook stays for the life of a process


def _hook(event: str, arguments: tuple) -> None:
    if _at and event in WRITES:
        folder, act = _at[-1]
        if any(isinstance(one, str | os.PathLike) and str(one).startswith(folder) for one in arguments[:2]):
            act()


@contextmanager
def at_operation(number: int, folder: Path, act: Callable[[], object]) -> Iterator[Callable[[], bool]]:
    """act() before the file operation of this number (from 0) below a folder. Yields whether it has come to it."""
    if not _at:
        sys.addaudithook(_hook)
        _at.append(("\0", print))  # nothing
    seen = [0]

    def count() -> None:
        seen[0] += 1
        if seen[0] == number + 1:
            act()

    _at.append((str(folder), count))
    try:
        yield lambda: seen[0] > number
    finally:
        _at.pop()


def fail(code: int = errno.ENOSPC) -> None:
    raise OSError(code, os.strerror(code))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def forked(work: Callable[[], object]) -> int:
    """A child process that does it -> its exit status."""
    if not (child := os.fork()):
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def kill_at_each(folder: Path, work: Callable[[], object], step: int = 1) -> Iterator[int]:
    """Kills the work before its first, second, … file operation below a folder; yields after each kill."""
    number, status = 0, signal.SIGKILL
    while status == signal.SIGKILL:

        def killed(number=number) -> None:
            with at_operation(number, folder, die):
                work()

        status = forked(killed)
        assert status in (0, signal.SIGKILL), status
        yield number
        number += step


def damaged(raw: bytes, n: int, seed: int = 0) -> Iterator[bytes]:
    """n times with one flipped bit, and cut off at a few places."""
    draw = random.Random(seed)
    for _ in range(n):
        place = draw.randrange(len(raw))
        yield raw[:place] + bytes([raw[place] ^ 1 << draw.randrange(8)]) + raw[place + 1 :]
    yield from (raw[:end] for end in (0, 1, len(raw) // 2, len(raw) - 1))


def kill_trainings(n: int, seed: int = 0) -> tuple[int, float]:
    """Trainings killed at random moments or file operations -> how many went on to the same bits, seconds."""
    import torch
    from fixtures import small_model

    torch.set_num_threads(1)  # a forked process has no others
    draw, begun = random.Random(seed), time.perf_counter()

    def train(folder: Path) -> dict[str, torch.Tensor]:
        model = small_model()
        model.pretrain(folder=folder / "pretrain", resume=True)
        model.fine_tune(folder=folder / "fine_tune", resume=True)
        return model.network.state_dict()

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        due = train(Path(folder))
        seconds = time.perf_counter() - start
    same = 0
    for i in range(n):
        with tempfile.TemporaryDirectory() as folder:

            def killed(folder=Path(folder), by_time=i % 2) -> None:
                signal.signal(signal.SIGALRM, lambda *_: die())
                if by_time:
                    signal.setitimer(signal.ITIMER_REAL, draw.uniform(0, seconds))
                with at_operation(10**9 if by_time else draw.randrange(80), folder, die):
                    train(folder)

            for _ in range(draw.choice((1, 1, 2))):
                forked(killed)
                draw.random()
            found = train(Path(folder))
            same += all(torch.equal(due[name], found[name]) for name in due)
    return same, time.perf_counter() - begun


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    resumed, took = kill_trainings(count)
    print(f"{count} kills: {resumed} resumed bit for bit ({took:.0f} s)")
    sys.exit(resumed != count)
