"""The training loop: one optimiser, averaged weights, early stopping, and checkpoints that resume bit for bit.

It runs on one device, the config's. A step never waits for a GPU's result: losses are added up there, and read once an
epoch. On a GPU the matrix products are in bf16 and the optimiser is fused.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from m6rec.cache import cached, key
from m6rec.config import Config, pick_device, pick_precision
from m6rec.data.sources import home
from m6rec.errors import InputError
from m6rec.train import checkpoint


class Epoch(NamedTuple):
    """One row of the training log."""

    epoch: int
    seconds: float  # since this stage began
    losses: dict[str, float]  # mean over the epoch's steps
    validation: float | None  # of the averaged weights, where it was measured


class Stage(NamedTuple):
    """What one stage of training needs: where batches come from, what they teach, how long, and what is kept of it."""

    name: str
    epochs: int
    batches: Callable[[np.random.Generator], Iterable]  # one epoch's batches
    losses: Callable[[nn.Module, Any, np.random.Generator], dict[str, Tensor]]  # as they are logged
    validate: Callable[[nn.Module], float] | None = None  # higher is better
    weights: Mapping[str, float] = {}  # of the losses in the gradient, where it is not 1
    keep: str = "best"  # the averaged weights that validated "best", or the "last"


def fit(
    network: nn.Module,
    stage: Stage,
    config: Config,
    *,
    folder: Path | None = None,
    resume: bool = False,
    log: Path | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> list[Epoch]:
    """Train `network` in place; it ends with averaged weights, those that validated best or the last (`stage.keep`).

    folder: where a checkpoint is kept after every epoch; resume: go on from the one that lies there, and end bit for
    bit where an uninterrupted run ends. log: a folder for TensorBoard. `InputError` for a loss that is not finite.
    """
    device = pick_device(config.device)
    dtype = pick_precision(config.precision, device)
    writer = None
    if log:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise InputError("log needs TensorBoard: pip install 'm6rec[board]'.") from None
        writer = SummaryWriter(str(log / stage.name))
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    network.to(device)
    optimizer = torch.optim.AdamW(
        network.parameters(), config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay,
        fused=device.type == "cuda" or None,
    )  # fmt: skip
    average, best = copy.deepcopy(network), copy.deepcopy(network)
    state = checkpoint.TrainingState(stage.name, config.fingerprint)
    parts = {"network": network, "average": average, "best": best}, optimizer, rng
    folder = checkpoint.claim(folder, checkpoint.is_state) if folder else None
    if resume and folder and (folder / checkpoint.STATE).exists():
        state = checkpoint.load_state(folder, state, *parts)

    def follow() -> None:
        _follow(average, network, config.average, state.steps)
        state.steps += 1

    watched = sys.stderr.isatty() or "JPY_SESSION_NAME" in os.environ  # papermill and nbval stay silent
    bar = tqdm(total=stage.epochs, initial=state.epoch, desc=stage.name, unit="epoch", disable=not watched)
    patience = config.patience * config.validate_every
    while state.epoch < stage.epochs and not 0 < state.best_epoch <= state.epoch - patience:
        begun, validation = time.perf_counter(), None
        means = train_epoch(
            network, optimizer, stage.batches(rng), lambda net, batch: stage.losses(net, batch, rng),
            stage.weights, dtype, clip=1.0, after=follow,
        )  # fmt: skip
        losses = {name: float(mean) for name, mean in means.items()}
        state.epoch += 1
        if not np.isfinite(list(losses.values())).all():
            raise InputError(
                f"the loss is not finite in epoch {state.epoch}: lower learning_rate={config.learning_rate}."
            )
        if stage.keep == "best" and (state.epoch % config.validate_every == 0 or state.epoch == stage.epochs):
            validation = stage.validate(average.eval())
            if validation > state.best:
                state.best, state.best_epoch = validation, state.epoch
                best.load_state_dict(average.state_dict())
        state.seconds += time.perf_counter() - begun
        row = Epoch(state.epoch, state.seconds, losses, validation)
        state.log.append(row._asdict())
        if folder:
            checkpoint.save_state(folder, state, *parts)
        if on_epoch:
            on_epoch(row)
        for name, value in (losses if validation is None else {**losses, "validation": validation}).items():
            if writer:
                writer.add_scalar(name, value, state.epoch)
        bar.set_postfix({name: f"{loss:.3f}" for name, loss in losses.items()})
        bar.update()
    bar.close()
    if writer:
        writer.close()
    network.load_state_dict((best if stage.keep == "best" else average).state_dict())
    network.eval()
    return [Epoch(**row) for row in state.log]


def train_epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable,
    losses: Callable[[nn.Module, Any], dict[str, Tensor]],
    weights: Mapping[str, float] = {},
    dtype: torch.dtype = torch.float32,
    clip: float | None = None,
    after: Callable[[], object] | None = None,
) -> dict[str, Tensor]:
    """One pass; -> the mean of each loss, still on the device. clip: the gradient's longest norm; after: each step."""
    device, sums, steps = next(network.parameters()).device, {}, 0
    network.train()
    for batch in batches:
        with torch.autocast(device.type, dtype) if dtype is torch.bfloat16 else nullcontext():
            parts = losses(network, _on(batch, device))
        optimizer.zero_grad()
        sum(weights.get(name, 1.0) * loss for name, loss in parts.items()).backward()
        if clip:
            nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimizer.step()
        if after:
            after()
        sums |= {name: sums.get(name, 0.0) + loss.detach() for name, loss in parts.items()}
        steps += 1
    return {name: value / steps for name, value in sums.items()}


def fit_once(network: nn.Module, stage: Stage, config: Config, *parts: object, code: tuple) -> list[Epoch]:
    """`fit`, or what it came to before with the same config, `parts` and `code` (see `m6rec.cache.key`).

    A training that was interrupted goes on.
    """
    path = home() / "models" / f"{stage.name.lower()}-{key(config.fingerprint, *parts, code=code)}"
    work = path.with_name(f"{path.name}-training")

    def save(rows: list[Epoch], new: Path) -> None:
        new.mkdir()
        checkpoint.save_tensors(network.state_dict(), new / checkpoint.WEIGHTS)
        (new / "log.json").write_text(json.dumps([row._asdict() for row in rows]), encoding="utf-8")

    def load(kept: Path) -> list[Epoch]:
        network.to(pick_device(config.device)).load_state_dict(checkpoint.load_tensors(kept / checkpoint.WEIGHTS))
        network.eval()
        return [Epoch(**row) for row in checkpoint.read_json(kept / "log.json")]

    rows = cached(path, lambda: fit(network, stage, config, folder=work, resume=True), save, load)
    shutil.rmtree(work, ignore_errors=True)
    return rows


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, decay: float, steps: int) -> None:
    """Exponential, but a plain mean at first, so that the random start is forgotten within a few steps."""
    kept = min(decay, (steps + 1) / (steps + 10)) if steps else 0.0
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - kept)
    for mine, theirs in zip(average.buffers(), network.buffers(), strict=True):
        mine.copy_(theirs)


def _on(batch: object, device: torch.device) -> object:
    """Every tensor of a nest of NamedTuples on a device; what is neither stays.

    From pinned memory a copy to a GPU goes on while the next batch is made.
    """
    if isinstance(batch, Tensor):
        pinned = batch.pin_memory() if batch.is_cpu and device.type == "cuda" else batch
        return pinned.to(device, non_blocking=True)
    return type(batch)(*(_on(part, device) for part in batch)) if isinstance(batch, tuple) else batch
