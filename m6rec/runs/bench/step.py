"""Where a training step's time goes: its matrix products at the machine's own rate, and the profiler's table."""

from __future__ import annotations

import copy
import os
import time
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch.optim.swa_utils import AveragedModel
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from m6rec.recommender import M6Rec
from m6rec.train import losses, stages

# The counter does not know the CPU's own attention by itself.
ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda gradient, q, k, v, *_, **__: (
        sdpa_backward_flop_count(gradient, q, k, v)
    ),
}
Shape = tuple[int, int, int, int]  # (n, a, b, c): n products of a × b by b × c


class GemmShare(NamedTuple):
    """A training step beside its own matrix products, done one after the other and nothing else."""

    fraction: float  # products_seconds / step_seconds
    cpu_fraction: float  # the same in CPU seconds of all threads, which others on the machine do not stretch
    step_seconds: float  # mean over the steps
    products_seconds: float
    flops: float  # of a step, as PyTorch counts them
    gflops: float  # billions a second that the step reaches
    peak_gflops: float  # that the products alone reach
    shapes: pd.DataFrame  # n, a, b, c, calls (a step), flops, seconds (a step), the costliest first


def gemm_fraction(model: M6Rec, *, stage: str = "pretrain", steps: int = 8, repeats: int = 3) -> GemmShare:
    """How near a model's training steps come to the speed that this machine has for their matrix products.

    The products' shapes are taken down during real steps, and each is timed by itself with `torch.bmm`. stage:
    "pretrain" or "fine_tune"; steps: an epoch's first batches, run `repeats` times, of which the fastest counts. The
    model is left as it was.
    """
    run = training_steps(model, stage, steps)
    run()  # warm
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        run()
    with _Products() as products:
        run()
    taken, cpu = (_fastest(run, repeats) / steps).tolist()
    rows = [(*shape, calls / steps) for shape, calls in products.shapes.items()]
    shapes = pd.DataFrame(rows, columns=["n", "a", "b", "c", "calls"])
    shapes["flops"] = 2 * shapes[["n", "a", "b", "c", "calls"]].prod(axis=1)
    local_layers = np.array([_product_seconds(shape) for shape in products.shapes]) * shapes[["calls"]].to_numpy()
    shapes["seconds"], (seconds, cpu_seconds) = local_layers[:, 0], local_layers.sum(0).tolist()
    shapes = shapes.sort_values("seconds", ascending=False, ignore_index=True)
    flops = counter.get_total_flops() / steps
    rates = flops / taken / 1e9, flops / seconds / 1e9
    return GemmShare(seconds / taken, cpu_seconds / cpu, taken, seconds, flops, *rates, shapes)


def profile_step(
    model: M6Rec, *, stage: str = "pretrain", steps: int = 4, rows: int = 15, trace: str | Path | None = None
) -> pd.DataFrame:
    """The profiler's table: operation, calls and self_ms a step, and share of all; the costliest rows.

    trace: a file for the Chrome trace.
    """
    run = training_steps(model, stage, steps)
    run()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it would write its own stages to stderr
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run()
    if trace is not None:
        profiler.export_chrome_trace(str(trace))
    events = [(e.key, e.count / steps, e.self_cpu_time_total / 1000 / steps) for e in profiler.key_averages()]
    table = pd.DataFrame(events, columns=["operation", "calls", "self_ms"])
    table["share"] = table["self_ms"] / table["self_ms"].sum()
    return table.nlargest(rows, "self_ms").reset_index(drop=True)


def training_steps(model: M6Rec, stage: str, steps: int) -> Callable[[], None]:
    """A function that runs an epoch's first steps on a copy of the model's network, each as `fit` does it."""
    config, network = model.config, copy.deepcopy(model.network).train()
    loss = {"pretrain": losses.pretraining, "fine_tune": losses.finetuning}[stage]
    taught = stages.events(stage, 1, config, model.stream, loss, lambda _: 0.0)
    rng = np.random.default_rng(config.seed)
    batches = [b._replace(context=b.context.to(model.device), target=b.target.to(model.device)) for b in
               islice(taught.batches(rng), steps)]  # fmt: skip
    optimizer = torch.optim.AdamW(network.parameters(), config.learning_rate, betas=(0.9, 0.98))
    average = AveragedModel(network, multi_avg_fn=lambda mean, new, _: torch._foreach_lerp_(mean, new, 0.01))

    def run() -> None:
        for batch in batches:
            found = taught.losses(network, batch, rng)
            optimizer.zero_grad()
            sum(taught.weights.get(name, 1.0) * value for name, value in found.items()).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            average.update_parameters(network)

    return run


class _Products(TorchDispatchMode):
    """Takes down the shapes of all matrix products, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: Counter[Shape] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        if name in ("mm", "bmm", "addmm", "baddbmm"):
            left, right = args[-2:] if name in ("mm", "bmm") else args[1:3]
            self.shapes[(left.shape[0] if left.dim() == 3 else 1, *left.shape[-2:], right.shape[-1])] += 1
        elif name.startswith("_scaled_dot_product") and "attention" in name:
            backward = name.endswith("backward")
            q, k = args[1:3] if backward else args[:2]
            n, t, s, d = q.shape[0] * q.shape[1], q.shape[2], k.shape[2], q.shape[3]
            # Forward: QKᵀ and PV. Backward: QKᵀ again, then the gradients of P, V, Q and K.
            shapes = [(n, t, d, s), (n, t, s, d)]
            if backward:
                shapes += [(n, t, d, s), (n, s, t, d), (n, s, t, d)]
            self.shapes.update(shapes)
        return func(*args, **(kwargs or {}))


def _product_seconds(shape: Shape) -> np.ndarray:
    n, a, b, c = shape
    left, right, out = torch.randn(n, a, b), torch.randn(n, b, c), torch.empty(n, a, c)
    if n == 1:
        left, right, out = left[0], right[0], out[0]
    product = torch.mm if n == 1 else torch.bmm
    product(left, right, out=out)
    return _fastest(lambda: product(left, right, out=out), 5)


def _fastest(run: Callable[[], object], repeats: int) -> np.ndarray:
    """Seconds by the wall clock, and CPU seconds: each the least of some calls."""
    took = []
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        run()
        took.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return np.min(took, axis=0)
