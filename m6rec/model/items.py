"""From an item's content to its vector.

The text's tokens run through the local layers; one [ITEM] token looks at them and becomes the content vector. A known
item may add a vector of its own (collaborative identity). Tokens of one item never see another item.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from m6rec.config import Config
from m6rec.model import masks
from m6rec.model.attention import Block


class Encoded(NamedTuple):
    """Items as vectors, and where each one's [ITEM] token looked."""

    vectors: Tensor  # (N, D)
    weights: Tensor | None  # (N, H, 1, L) over the text tokens, or None


class ItemEncoder(nn.Module):
    """Items' text tokens (N, L) -> vectors (N, D); 0 is padding, and an item without text has nothing else."""

    def __init__(self, config: Config, vocabulary: int, items: int):
        super().__init__()
        self.identity_dropout = config.identity_dropout
        self.tokens = nn.Embedding(vocabulary, config.width, padding_idx=0)
        self.query = nn.Parameter(torch.empty(config.width))
        self.absent = nn.Parameter(torch.empty(config.width))
        self.local = nn.ModuleList(
            Block(config.width, config.heads, config.dropout) for _ in range(config.local_layers)
        )
        self.mean_norm = nn.RMSNorm(config.width)
        self.project = nn.Sequential(nn.RMSNorm(config.width), nn.Linear(config.width, config.width))
        self.identity = nn.Embedding(items, config.width) if config.identity else None
        self.reads_text = config.text

    def forward(self, text: Tensor, codes: Tensor | None = None, *, weights: bool = False) -> Encoded:
        """Encode items from text (N, L); `codes` (N,) names the known ones, -1 or None means never seen in training."""
        if self.reads_text:
            encoded = self.content(text, weights=weights)
        else:
            encoded = Encoded(self.absent.expand(len(text), -1), None)
        if self.identity is None or codes is None:
            return encoded
        known = codes >= 0
        if self.training and self.identity_dropout:
            known = known & (torch.rand(codes.shape, device=codes.device) >= self.identity_dropout)
        return Encoded(encoded.vectors + self.identity(codes.clamp(min=0)) * known[:, None], encoded.weights)

    def content(self, text: Tensor, *, weights: bool = False) -> Encoded:
        """The vector of the content alone."""
        x = self.tokens(text)  # (N, L) -> (N, L, D)
        mask = masks.segment(text > 0)
        places = torch.arange(1, text.shape[1] + 1, device=text.device)
        for block in self.local[:-1]:
            x = block(x, mask=mask, positions=places).out
        # The last local layer has one reader, the [ITEM] token at place 0: the others' outputs would be thrown away.
        # It starts as the mean of the item's tokens, so that a bag of words is learnt at once and order after it.
        there = (text > 0)[..., None]
        query = self.query + self.mean_norm((x * there).sum(1, keepdim=True) / there.sum(1, keepdim=True).clamp(min=1))
        read = self.local[-1](query, self.local[-1].remember(x, places), mask, places[:1] - 1, weights=weights)
        vectors = torch.where((text > 0).any(1, keepdim=True), self.project(read.out.squeeze(1)), self.absent)
        return Encoded(vectors, read.weights)
