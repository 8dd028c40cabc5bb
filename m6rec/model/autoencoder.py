"""An autoencoder: a photograph through 64 numbers and back, after the source document's section 5.2."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class Autoencoder(nn.Module):
    """Encoder and decoder of the document's section 5.2, 784-256-128-64 and back; `forward` returns the reconstruction.

    widths: from the pixels to the code. activation: between the layers. ends: after the code and after the output. The
    document has ReLU there; its gradient is 0 where its output is 0, so output units and code units die.
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
        """(B, 64) -> (B, 784), trained towards 0..1 but not clamped."""
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
    """The linear baseline: test (N, 784) reconstructed from its `count` principal components of train.

    No linear map to `count` numbers and back has a smaller squared error on train.
    """
    _, axes = torch.linalg.eigh(torch.cov(train.T))  # by ascending variance
    mean, axes = train.mean(0), axes[:, -count:]
    return mean + (test - mean) @ axes @ axes.T
