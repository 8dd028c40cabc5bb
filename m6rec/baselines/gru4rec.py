"""GRU4Rec: a gated recurrent net over item ids, trained with the full softmax.

Source: Hidasi et al. 2016, with item vectors shared by input and output (Hidasi & Karatzoglou 2018).
"""

from __future__ import annotations

from torch import Tensor, nn

from m6rec.baselines.sequential import Sequential
from m6rec.config import Config
from m6rec.data.dataset import Dataset


class GRU4RecNetwork(nn.Module):
    """Item ids (B, T) -> states (B, T, D)."""

    def __init__(self, items: int, config: Config):
        super().__init__()
        self.items = nn.Embedding(items, config.width)
        between = config.dropout if config.joint_layers > 1 else 0.0  # PyTorch warns where there is no between
        self.gru = nn.GRU(config.width, config.width, config.joint_layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.items.weight, std=0.02)

    def forward(self, item: Tensor) -> Tensor:
        x = self.dropout(self.items(item.clamp(min=0)))
        return self.dropout(self.gru(x)[0])


class GRU4Rec(Sequential):
    """A recurrent net, its states multiplied with the item vectors that it reads; full softmax."""

    name = "GRU4Rec"

    def build(self, data: Dataset) -> GRU4RecNetwork:
        """The network of a catalogue."""
        return GRU4RecNetwork(data.n_items, self.config)
