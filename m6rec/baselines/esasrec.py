"""eSASRec: SASRec with LiGR layers and a sampled softmax (Tikhonovich et al. 2025)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from m6rec.baselines.sasrec import SASRecNetwork
from m6rec.baselines.sequential import Sequential
from m6rec.config import Config
from m6rec.data.dataset import Dataset
from m6rec.model.attention import Block
from m6rec.train.losses import first_class, sampled_logits


class LiGR(nn.Module):
    """`Block` in the place of SASRec's layer, without rotary positions: places are learnt vectors here."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.block = Block(width, heads, dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.block(x, mask=mask).out


class ESASRec(Sequential):
    """LiGR layers; each step draws `negatives` items, with equal chances, that all its positions share."""

    name = "eSASRec"
    settings = ("negatives",)

    def __init__(self, config: Config, negatives: int = 256):
        super().__init__(config)
        self.negatives = negatives

    def build(self, data: Dataset) -> SASRecNetwork:
        """The network of a catalogue."""
        return SASRecNetwork(data.n_items, self.config, LiGR)

    def loss(self, network: nn.Module, states: Tensor, target: Tensor) -> Tensor:
        """The sampled softmax."""
        items = network.items.weight
        negatives = torch.randint(len(items), (self.negatives,), device=target.device)
        return first_class(sampled_logits(states, items, target, negatives, len(items)))
