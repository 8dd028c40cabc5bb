"""The source document's training loop (section 5.2), mended: batches of 64, Adam, and a loss that sees pixels."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from tqdm import tqdm

from m6rec.errors import InputError
from m6rec.model.autoencoder import Autoencoder
from m6rec.train.fit import train_epoch

RATE = 1e-3  # the document's


def fit_autoencoder(
    model: nn.Module,
    pixels: Tensor,
    *,
    steps: int,
    seed: int = 0,
    batch: int = 64,
    peak: float | None = 2e-3,
    loss: Callable[[Tensor, Tensor], Tensor] = mse_loss,
) -> np.ndarray:
    """Teach a model to return what it is given: pixels (N, 784) in 0..1; returns the loss of every step, (steps,).

    Every epoch meets all photographs in a new order (seed), whole batches only. peak: the highest rate of a one-cycle
    schedule, or None for the document's constant 1e-3. The model is moved to where the pixels lie. The same seed and
    the same start give the same weights.
    """
    if pixels.ndim != 2 or len(pixels) < batch:
        raise InputError(f"the pixels are {tuple(pixels.shape)}: give (N, 784) with at least one batch of {batch}.")
    model.to(pixels.device)
    fused = pixels.device.type in ("cpu", "cuda")
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=fused)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=steps) if peak else None
    order = torch.Generator().manual_seed(seed)
    threads, seen = torch.get_num_threads(), []

    def batches() -> Iterator[Tensor]:
        queue = torch.empty(0, dtype=torch.long)
        for _ in tqdm(range(steps), desc="autoencoder", unit="step", disable=None, leave=False):
            if len(queue) < batch:
                queue = torch.randperm(len(pixels), generator=order)
            yield pixels[queue[:batch]]
            queue = queue[batch:]

    def losses(model: nn.Module, truth: Tensor) -> dict[str, Tensor]:
        seen.append(loss(model(truth), truth))
        return {"loss": seen[-1]}

    torch.set_num_threads(1)  # layers this small gain nothing from more, and sums keep their order on every machine
    try:
        train_epoch(model, optimizer, batches(), losses, after=cycle.step if cycle else None)
    finally:
        torch.set_num_threads(threads)
    return torch.stack(seen).detach().cpu().numpy() if seen else np.empty(0, np.float32)


def fitted(
    pixels: Tensor,
    *,
    steps: int,
    seed: int = 0,
    activation: type[nn.Module] = nn.GELU,
    ends: type[nn.Module] = nn.Identity,
    **options: object,
) -> Autoencoder:
    """An autoencoder started from a seed, trained by `fit_autoencoder` with these options, and then frozen."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Autoencoder(activation=activation, ends=ends)
    fit_autoencoder(model, pixels, steps=steps, seed=seed, **options)
    return model.requires_grad_(False)
