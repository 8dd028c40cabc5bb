"""What a GPU gives: `make cuda` on a machine with one, at most ten minutes -> notebooks/results/cuda.json.

In this order: the tests that need a GPU, equality with the CPU, fp32 against bf16, and each notebook at smoke scale.
It has **not been run on a GPU yet**: it was written without one. tests/test_cuda.py runs its measurements on the CPU.

- step: one training step of the base preset on MovieLens-100K (forward, backward, clipping, AdamW) on batches made
  beforehand; the median of thirty, each waited for, after ten that are not counted.
- tokens a second: events of histories that such steps read.
- lists a second: ten items each, a beam of 50, over 10,000 items; the best of three batch sizes.
- peak memory: what PyTorch allocated on the GPU at most in those steps, weights and optimiser included.
"""

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

import m6rec
from m6rec.cache import code_key
from m6rec.config import pick_device, pick_precision
from m6rec.data.sources import home
from m6rec.generate import generate
from m6rec.record import environment, recorded, write_json
from m6rec.runs.bench import milliseconds, synthetic_decoder
from m6rec.runs.execute import Execution, execute, find
from m6rec.train import fit, losses

HERE = Path(__file__).resolve().parent
SECONDS, ROOM = 600, 1e-3  # for all of it; how far scores may lie from the CPU's
ITEMS, BATCHES = 10_000, (1, 64, 1024)


def equality(users: int = 64) -> dict[str, float]:
    """The largest difference between CPU and GPU, in nats: log-probabilities of all items, and generated lists."""
    said = []
    for device in ("cpu", os.environ.get("M6REC_DEVICE") or "cuda"):
        os.environ["M6REC_DEVICE"] = device
        model = m6rec.M6Rec.from_pretrained("bazaar")
        fused = model.fuse(model.target_context(model.data.targets(model.split.test[:users])))
        dense = model.network.score(fused.state[:, -1], model.item_vectors()).log_softmax(-1)
        said.append((dense.cpu(), model.generate(fused, 10).scores.cpu()))
    return {name: float((a - b).abs().max()) for name, a, b in zip(("dense", "generated"), *said, strict=True)}


def training(data: m6rec.Dataset, precision: str, steps: int = 30, warm: int = 10, preset: str = "base") -> dict:
    """A training step's milliseconds, events a second, and the most memory in MiB (0 without a GPU)."""
    model = m6rec.M6Rec(data, preset=preset)
    stage, rng = model.stage("pretrain", 1, losses.pretraining, "dense"), np.random.default_rng(0)
    network, gpu, dtype = model.network, model.device.type == "cuda", pick_precision(precision, model.device)
    optimizer = torch.optim.AdamW(network.parameters(), model.config.learning_rate, fused=gpu or None)
    epochs = itertools.chain.from_iterable(stage.batches(rng) for _ in itertools.count())
    batches = list(itertools.islice(epochs, warm + steps))
    loss, taken = partial(stage.losses, rng=rng), []
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    for batch in batches:
        begun = time.perf_counter()
        means = fit.train_epoch(network, optimizer, [batch], loss, stage.weights, dtype, clip=1.0)
        assert np.isfinite([float(mean) for mean in means.values()]).all()  # they are read: the step is over
        taken.append(time.perf_counter() - begun)
    events = sum(int((batch.item >= 0).sum()) for batch in batches[warm:])
    figures = {"step_ms": 1000 * float(np.median(taken[warm:])), "tokens_per_second": events / sum(taken[warm:])}
    return figures | {"peak_mib": torch.cuda.max_memory_allocated() / 2**20 if gpu else 0.0}


@torch.no_grad()
def decoding(precision: str, seconds: float = 3.0, width: int = 256) -> dict[str, float]:
    """Generated lists a second."""
    device = pick_device()
    dtype, decoder = pick_precision(precision, device), synthetic_decoder(ITEMS, width)[0].to(device)
    rates = []
    for batch in BATCHES:
        state = torch.randn(batch, width, device=device)
        with torch.autocast(device.type, dtype, enabled=dtype is torch.bfloat16):
            taken = milliseconds(lambda state=state: generate(decoder, state, 10, beam=50).items.cpu(), seconds)
        rates.append(batch / float(np.median(taken)) * 1000)
    return {"lists_per_second": max(rates)}


def notebooks(end: float) -> Iterator[tuple[str, Execution]]:
    """Each at smoke scale, trained anew."""
    with tempfile.TemporaryDirectory() as folder:
        (home() / "data").mkdir(parents=True, exist_ok=True)
        (Path(folder) / "data").symlink_to(home() / "data")
        os.environ["M6REC_HOME"] = folder
        for path in find(HERE):
            left, out = max(1, int(end - time.monotonic())), HERE.parent / "runs" / "cuda" / path.name
            yield path.stem, execute(path, out, {"scale": "smoke"}, timeout=left)


def main() -> int:
    if not torch.cuda.is_available():
        print("make cuda needs a GPU that PyTorch finds: run it where there is one, with PyTorch's CUDA build.")
        return 1
    end, os.environ["M6REC_DEVICE"] = time.monotonic() + SECONDS, "cuda"
    tested = subprocess.run([sys.executable, "-m", "pytest", "-q", str(HERE.parent / "tests" / "test_cuda.py")])
    m6rec.record("cuda.tests_failed", value=tested.returncode)
    differences = equality()
    for name, value in differences.items():
        m6rec.record(f"cuda.difference.{name}", value=value, label="nats, largest, CPU against GPU in fp32")
    data = m6rec.load("ml-100k")
    for precision in ("fp32", "bf16"):
        for name, value in (training(data, precision) | decoding(precision)).items():
            print(precision, m6rec.record(f"cuda.{name}.{precision}", value=value))
    executed = []
    for name, run in notebooks(end):
        print(name, f"{run.seconds:.0f} s", run.error or "ok")
        executed.append(run.ok)
    m6rec.record("cuda.notebooks", value=sum(executed), label=f"of {len(executed)}, at smoke")
    origin = environment() | {"code_hash": code_key(source=Path(__file__).read_text()), "command": "make cuda"}
    origin |= {"date": time.strftime("%Y-%m-%d"), "scale": "smoke", "seconds": round(time.monotonic() - end + SECONDS)}
    figures = {name: figure.plain() for name, figure in recorded().items()}
    write_json(HERE / "results" / "cuda.json", figures | {"run": origin})
    good = not tested.returncode and max(differences.values()) <= ROOM and all(executed)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
