"""The training loop: one optimiser, averaged weights, early stopping, and checkpoints that resume bit for bit.

It runs on one device, the config's. A step never waits for a GPU's result: losses are added up there, and read once an
epoch. On a GPU the matrix products are in bf16 and the optimiser is fused.
"""

import copy
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
    validate: Callable[[nn.Module], float] | None = None  # higher is better; None: the last weights are kept
    weights: Mapping[str, float] = {}  # of the losses in the gradient, where it is not 1


def fit(
    network: nn.Module,
    stage: Stage,
    config: Config,
    *,
    folder: Path | None = None,
    resume: bool = False,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> list[Epoch]:
    """Train `network` in place; it ends with the averaged weights that validated best, or with the last ones.

    folder: where a checkpoint is kept after every epoch; resume: go on from the one that lies there, and end bit for
    bit where an uninterrupted run ends. `InputError` for a loss that is not finite.
    """
    device = pick_device(config.device)
    dtype = pick_precision(config.precision, device)
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    network.to(device)
    optimizer = torch.optim.AdamW(
        network.parameters(), config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay,
        fused=device.type == "cuda" or None,
    )  # fmt: skip
    average, best = copy.deepcopy(network), copy.deepcopy(network)
    state = {"stage": stage.name, "config": config.fingerprint, "steps": 0, "rows": []}
    parts = nn.ModuleDict({"network": network, "average": average, "best": best}), optimizer, rng
    folder = checkpoint.claim(folder) if folder else None
    if resume and folder and (folder / checkpoint.STATE).exists():
        state = checkpoint.load_state(folder, state, *parts)
    rows = state["rows"] = [Epoch(*row) for row in state["rows"]]
    leader = max((row for row in rows if row.validation is not None), key=lambda row: row.validation, default=None)

    def follow() -> None:
        _follow(average, network, config.average, state["steps"])
        state["steps"] += 1

    watched = sys.stderr.isatty() or "JPY_SESSION_NAME" in os.environ  # papermill and nbval stay silent
    bar = tqdm(total=stage.epochs, initial=len(rows), desc=stage.name, unit="epoch", disable=not watched)
    patience = config.patience * config.validate_every
    while len(rows) < stage.epochs and not (leader and leader.epoch <= len(rows) - patience):
        begun, epoch, validation = time.perf_counter(), len(rows) + 1, None
        means = train_epoch(
            network, optimizer, stage.batches(rng), lambda net, batch: stage.losses(net, batch, rng),
            stage.weights, dtype, clip=1.0, after=follow,
        )  # fmt: skip
        losses = {name: float(mean) for name, mean in means.items()}
        if not np.isfinite(list(losses.values())).all():
            raise InputError(f"the loss is not finite in epoch {epoch}: lower learning_rate={config.learning_rate}.")
        if stage.validate and (epoch % config.validate_every == 0 or epoch == stage.epochs):
            validation = stage.validate(average.eval())
        seconds = (rows[-1].seconds if rows else 0.0) + time.perf_counter() - begun
        rows.append(row := Epoch(epoch, seconds, losses, validation))
        if validation is not None and (leader is None or validation > leader.validation):
            leader = row
            best.load_state_dict(average.state_dict())
        if folder:
            checkpoint.save_state(folder, state, *parts)
        if on_epoch:
            on_epoch(row)
        bar.set_postfix({name: f"{loss:.3f}" for name, loss in losses.items()})
        bar.update()
    bar.close()
    network.load_state_dict((best if stage.validate else average).state_dict())
    network.eval()
    return rows


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


def fit_once(
    network: nn.Module, stage: Stage, config: Config, *parts: object, code: tuple, keep: bool = True, **options: object
) -> list[Epoch]:
    """`fit`, or what it came to before with the same config, `parts` and `code` (see `m6rec.cache.key`).

    A training that was interrupted goes on. keep=False: just `fit`, with these options.
    """
    if not keep:
        return fit(network, stage, config, **options)
    path = home() / "models" / f"{stage.name.lower()}-{key(config.fingerprint, *parts, code=code)}"
    work = path.with_name(f"{path.name}-training")

    def save(rows: list[Epoch], new: Path) -> None:
        stages = {stage.name: [row._asdict() for row in rows]}
        checkpoint.save_model(new, network, None, {"config": config.to_dict(), "stages": stages})

    def load(folder: Path) -> list[Epoch]:
        weights, _, values = checkpoint.load_model(folder)
        network.to(pick_device(config.device)).load_state_dict(weights)
        network.eval()
        return [Epoch(**row) for row in values["stages"][stage.name]]

    rows = cached(path, lambda: fit(network, stage, config, folder=work, resume=True), save, load)
    shutil.rmtree(work, ignore_errors=True)
    return rows


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, decay: float, steps: int) -> None:
    """Exponential, but a plain mean at first, so that the random start is forgotten within a few steps."""
    share = min(decay, (steps + 1) / (steps + 10)) if steps else 0.0
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - share)
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
