"""The network: item encoder, context fusion, decoders, and the two ways to an item, dense and generated.

- one `Block` and one `attend` under every mask
- item ids travel, digits do not: the tree belongs to the decoder, and data never knows it
- all initialisation in one method
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from m6rec.config import Config
from m6rec.data.context import Context, Fields
from m6rec.model.decoder import DigitDecoder, TextDecoder
from m6rec.model.fusion import ContextFusion, Fused
from m6rec.model.items import Encoded, ItemEncoder
from m6rec.model.tree import widths_for


class Network(nn.Module):
    """Tensors in, tensors out. `text` (N, L) holds the catalogue's tokens and lies on the network's own device."""

    def __init__(self, config: Config, fields: Fields, text: Tensor, vocabulary: int):
        super().__init__()
        self.register_buffer("text", text)
        self.items = ItemEncoder(config, vocabulary, len(text))
        self.fusion = ContextFusion(config, fields)
        self.digits = DigitDecoder(config, widths_for(len(text), config.digits, config.free_leaves), len(text))
        self.writer = TextDecoder(config)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Embeddings at .02, linear maps at 1/√fan-in, biases 0; content starts small too, so that no item is loud."""
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
                if module.padding_idx is not None:
                    module.weight[module.padding_idx] = 0
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.items.project[1].weight, std=0.02)
        for vector in (self.items.query, self.items.absent, self.fusion.start):
            nn.init.normal_(vector, std=0.02)
        for node, bias in zip(self.digits.nodes, self.digits.bias, strict=True):
            nn.init.normal_(node, std=0.02)
            nn.init.zeros_(bias)

    def encode_items(self, *, weights: bool = False) -> Encoded:
        """The whole catalogue's vectors (N, D)."""
        return self.items(self.text, torch.arange(len(self.text), device=self.text.device), weights=weights)

    def fuse(self, context: Context, items: Tensor, *, weights: bool = False) -> Fused:
        """One state per target: context, item vectors (N, D) -> (B, Q, D). The source document's `fuse`."""
        return self.fusion(context, items, weights=weights)

    @staticmethod
    def score(state: Tensor, items: Tensor) -> Tensor:
        """The dense head: states (..., D) and item vectors (N, D) -> logits (..., N)."""
        return state @ items.T
