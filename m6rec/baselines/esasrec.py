"""eSASRec: SASRec with LiGR layers and a sampled softmax (Tikhonovich et al. 2025)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m6rec.baselines.sasrec import SASRecNetwork
from m6rec.baselines.sequential import Sequential
from m6rec.config import Config
from m6rec.data.dataset import Dataset
from m6rec.model.attention import Block


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
        return sampled_softmax(states, items, target, negatives)


def sampled_softmax(states: Tensor, items: Tensor, target: Tensor, negatives: Tensor) -> Tensor:
    """Cross-entropy of the true items (n,) among themselves and the negatives (m,), which stand for all the others.

    states (n, D), items (N, D). A negative's logit grows by the log of how many items it stands for; the true item
    stands for itself alone, and is left out where it was drawn as a negative.
    """
    drawn = negatives == target[:, None]  # (n, m)
    stands_for = (len(items) - 1) / (~drawn).sum(1, keepdim=True).clamp(min=1)  # (n, 1) items
    others = states @ F.embedding(negatives, items).T + stands_for.log()
    true = (states * F.embedding(target, items)).sum(1, keepdim=True)
    logits = torch.cat((true, others.masked_fill(drawn, -math.inf)), 1)
    return F.cross_entropy(logits, torch.zeros_like(target))
