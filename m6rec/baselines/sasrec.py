"""SASRec: a causal Transformer over item ids, trained with the full softmax.

Source: Kang & McAuley 2018, with the loss that Klenitskiy & Vasilev 2023 found to be worth more than its successors.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from m6rec.baselines.sequential import Sequential
from m6rec.config import Config
from m6rec.data.dataset import Dataset
from m6rec.model import masks
from m6rec.model.attention import attend


class Layer(nn.Module):
    """The paper's layer: LayerNorm, attention, LayerNorm, a ReLU net of the same width; sums without gates."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.norm, self.ffn_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.ffn = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (
            self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )  # each (B, H, T, D/H)
        x = x + self.dropout(self.out(attend(q, k, v, mask).out.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.ffn(self.ffn_norm(x)))


class SASRecNetwork(nn.Module):
    """Item ids (B, T) -> states (B, T, D). layer: made of width, heads and dropout; called with tokens and mask."""

    def __init__(self, items: int, config: Config, layer: type[nn.Module] = Layer):
        super().__init__()
        self.items = nn.Embedding(items, config.width)
        self.places = nn.Embedding(config.history, config.width)
        self.layers = nn.ModuleList(
            layer(config.width, config.heads, config.dropout) for _ in range(config.joint_layers)
        )
        self.norm, self.dropout = nn.LayerNorm(config.width), nn.Dropout(config.dropout)
        for table in (self.items, self.places):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, item: Tensor) -> Tensor:
        places = torch.arange(item.shape[1], device=item.device)
        x = self.dropout(self.items(item.clamp(min=0)) + self.places(places))
        mask = masks.causal(item.shape[1], item.device)  # padding stands on the right, where nobody looks
        for layer in self.layers:
            x = layer(x, mask)
        return self.norm(x)


class SASRec(Sequential):
    """A causal Transformer, its states multiplied with the item vectors that it reads; full softmax."""

    name = "SASRec"

    def build(self, data: Dataset) -> SASRecNetwork:
        """The network of a catalogue."""
        return SASRecNetwork(data.n_items, self.config)
