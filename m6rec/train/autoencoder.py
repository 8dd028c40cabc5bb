"""An autoencoder: a photograph through 64 numbers and back, after the source document's section 5.2; PCA beside it.

Its training is the document's loop, mended: batches of 64, Adam, and a loss that sees pixels.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from m6rec.errors import InputError
from m6rec.train.fit import train_epoch

WIDTHS = (784, 256, 128, 64)  # from the pixels to the code


class Autoencoder(nn.Module):
    """Encoder and decoder: pixels (B, 784) in 0..1 -> (B, 784), trained towards 0..1 but not clamped.

    activation: between the layers. ends: after the code and after the output. The document has ReLU there; its gradient
    is 0 where its output is 0, so output units and code units die.
    """

    def __init__(self, activation: type[nn.Module] = nn.GELU, ends: type[nn.Module] = nn.Identity):
        super().__init__()
        self.encoder = _layers(WIDTHS, activation, ends)
        self.decoder = _layers(WIDTHS[::-1], activation, ends)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.decoder(self.encoder(pixels))


def _layers(widths: tuple[int, ...], activation: type[nn.Module], end: type[nn.Module]) -> nn.Sequential:
    layers = [layer for sizes in pairwise(widths) for layer in (nn.Linear(*sizes), activation())]
    return nn.Sequential(*layers[:-1], end())


def pca(train: Tensor, test: Tensor, count: int = 64) -> Tensor:
    """The linear baseline: test (N, 784) reconstructed from its `count` principal components of train.

    No linear map to `count` numbers and back has a smaller squared error on train.
    """
    _, axes = torch.linalg.eigh(torch.cov(train.T))  # by ascending variance
    mean, axes = train.mean(0), axes[:, -count:]
    return mean + (test - mean) @ axes @ axes.T


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
        for _ in range(steps):
            if len(queue) < batch:
                queue = torch.randperm(len(pixels), generator=order)
            yield pixels[queue[:batch]]
            queue = queue[batch:]

    def losses(model: nn.Module, truth: Tensor) -> dict[str, Tensor]:
        return {"loss": loss(model(truth), truth)}

    train_epoch(model, optimizer, batches(), losses, after=cycle and cycle.step)
    return model.requires_grad_(False)
