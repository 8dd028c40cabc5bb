"""The source document's training loop (section 5.2), mended: batches of 64, Adam, and a loss that sees pixels."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from tqdm import tqdm

from m6rec.errors import InputError
from m6rec.model.autoencoder import Autoencoder
from m6rec.train.fit import train_epoch


def fitted(
    pixels: Tensor,
    *,
    steps: int,
    seed: int = 0,
    batch: int = 64,
    peak: float | None = 2e-3,
    loss: Callable[[Tensor, Tensor], Tensor] = mse_loss,
    **layers: type[nn.Module],
) -> Autoencoder:
    """An autoencoder that returns what it is given, pixels (N, 784) in 0..1; frozen, and where the pixels are.

    Every epoch meets all photographs in a new order (seed), whole batches only. peak: the highest rate of a one-cycle
    schedule, or None for the document's constant 1e-3. layers: `activation` and `ends` of `Autoencoder`.
    """
    if pixels.ndim != 2 or len(pixels) < batch:
        raise InputError(f"the pixels are {tuple(pixels.shape)}: give (N, 784) with at least one batch of {batch}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Autoencoder(**layers).to(pixels.device)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=pixels.device.type in ("cpu", "cuda"))
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=steps) if peak else None

    def batches() -> Iterator[Tensor]:
        queue, order = torch.empty(0, dtype=torch.long), torch.Generator().manual_seed(seed)
        for _ in tqdm(range(steps), desc="autoencoder", unit="step", disable=None, leave=False):
            if len(queue) < batch:
                queue = torch.randperm(len(pixels), generator=order)
            yield pixels[queue[:batch]]
            queue = queue[batch:]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # layers this small gain nothing from more, and sums keep their order on every machine
    try:
        losses = lambda model, truth: {"loss": loss(model(truth), truth)}  # noqa: E731
        train_epoch(model, optimizer, batches(), losses, after=cycle and cycle.step)
    finally:
        torch.set_num_threads(threads)
    return model.requires_grad_(False)
