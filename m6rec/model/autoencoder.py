"""An autoencoder: a photograph through 64 numbers and back. The source document's network (section 5.2), mended."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class Autoencoder(nn.Module):
    """Encoder and decoder of the document's section 5.2, 784-256-128-64 and back; `forward` returns the reconstruction.

    widths: from the pixels to the code. activation: between the layers. ends: after the code and after the output; the
    document has ReLU there, which gives no gradient where it says 0, so that pixels and numbers of the code die.
    """

    def __init__(
        self,
        widths: Sequence[int] = (784, 256, 128, 64),
        activation: type[nn.Module] = nn.GELU,
        ends: type[nn.Module] = nn.Identity,
    ) -> None:
        super().__init__()
        self.encoder = _layers(widths, activation, ends)
        self.decoder = _layers(widths[::-1], activation, ends)

    def encode(self, pixels: Tensor) -> Tensor:
        """(B, 784) in 0..1 -> (B, 64)."""
        return self.encoder(pixels)

    def decode(self, codes: Tensor) -> Tensor:
        """(B, 64) -> (B, 784), taught to lie in 0..1 but not forced to."""
        return self.decoder(codes)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 784) -> (B, 784)."""
        return self.decode(self.encode(pixels))


def _layers(widths: Sequence[int], activation: type[nn.Module], end: type[nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers[:-1], end())


def pca(train: Tensor, test: Tensor, count: int = 64) -> Tensor:
    """The fair rival: test (N, 784) drawn from `count` numbers each by the principal axes of train.

    Of all linear ways to `count` numbers and back it has the smallest squared error on train.
    """
    _, axes = torch.linalg.eigh(torch.cov(train.T))  # by ascending variance
    mean, axes = train.mean(0), axes[:, -count:]
    return mean + (test - mean) @ axes @ axes.T
