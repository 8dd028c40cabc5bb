"""An autoencoder: a photograph through 64 numbers and back, after the source document's section 5.2; PCA beside it."""

from itertools import pairwise

import torch
from torch import Tensor, nn

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
