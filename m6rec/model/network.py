"""The network: item encoder, context fusion, decoders, and the two ways to an item, dense and generated.

- one `Block` and one `attend` under every mask
- item ids travel, digits do not: the tree belongs to the decoder, and data never knows it
- late interaction: the catalogue's content vectors are kept, and a training step encodes only some of them anew
- all initialisation in one method
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from m6rec.config import Config
from m6rec.data.context import Context, Fields
from m6rec.data.features import Features
from m6rec.model.decoder import DigitDecoder, PatchDecoder, TextDecoder
from m6rec.model.fusion import ContextFusion, Fused
from m6rec.model.items import Encoded, ItemEncoder
from m6rec.model.tree import place, widths_for


class Network(nn.Module):
    """Tensors in, tensors out. `content` is the catalogue's features; they are kept on the network's own device."""

    def __init__(self, config: Config, fields: Fields, content: Features, vocabulary: int):
        super().__init__()
        n = len(content.there)
        for name, values in content._asdict().items():
            self.register_buffer(f"content_{name}", torch.as_tensor(values), persistent=False)
        there = np.asarray(content.there).any(0)
        sizes = {
            m: tuple(getattr(content, m).shape[1:])
            for m, is_there in zip(("image", "sound"), there[1:], strict=True)
            if is_there and m in config.modalities
        }
        self.items = ItemEncoder(config, vocabulary, n, sizes)
        self.fusion = ContextFusion(config, fields)
        self.digits = DigitDecoder(config, widths_for(n, config.digits, config.free_leaves), n)
        self.writer = TextDecoder(config)
        self.painter = PatchDecoder(config, sizes) if sizes else None
        self.encoded_items = config.encoded_items if 0 < config.encoded_items < n and self.items.reads else 0
        if self.encoded_items:  # saved with the weights, so that a training that goes on sees the same vectors
            self.register_buffer("kept", torch.zeros(n, config.width))
            self.register_buffer("filled", torch.zeros((), dtype=torch.bool))
        self.initialise()

    @property
    def content(self) -> Features:
        """The catalogue's features."""
        return Features(*(getattr(self, f"content_{name}") for name in Features._fields))

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
        small = [self.items.query, self.fusion.start, *(patch.hidden for patch in self.items.patches.values())]
        for patch in self.items.patches.values():  # as loud as a word
            nn.init.normal_(patch.read[-1].weight, std=0.02)
        for vector in small:
            nn.init.normal_(vector, std=0.02)
        for node, bias in zip(self.digits.nodes, self.digits.bias, strict=True):
            nn.init.normal_(node, std=0.02)
            nn.init.zeros_(bias)

    def encode_items(self, *, mute: tuple[str, ...] = (), weights: bool = False) -> Encoded:
        """The whole catalogue's vectors (N, D), as if no item had the modalities in `mute`."""
        codes = torch.arange(len(self.content_there), device=self.content_there.device)
        return self.items(self.content.mute(*mute), codes, weights=weights)

    def training_items(self) -> Tensor:
        """The catalogue's vectors (N, D) for one training step: some contents are encoded anew, the others are kept.

        The encoder learns through the new ones. Identity is added anew to all.
        """
        if not self.encoded_items:
            return self.encode_items().vectors
        codes = torch.arange(len(self.kept), device=self.kept.device)
        if not self.filled:
            with torch.no_grad():
                self.kept.copy_(self.items.content(self.content).vectors)
            self.filled.fill_(True)
        some = torch.randperm(len(codes), device=codes.device)[: self.encoded_items]
        new = self.items.content(self.content.take(some)).vectors
        vectors = self.kept.index_copy(0, some, new)
        self.kept.index_copy_(0, some, new.detach())
        return vectors + self.items.own(codes)

    @torch.no_grad()
    def extended(self, content: Features, vectors: np.ndarray) -> Network:
        """This network with more items: `content` of all, `vectors` (n, D) of the new ones, which get free leaves."""
        nodes = [node.cpu().numpy() for node in self.digits.nodes]
        tree = place(self.digits.tree, nodes, vectors)
        new = copy.deepcopy(self).cpu()
        for name, values in content._asdict().items():
            new.register_buffer(f"content_{name}", torch.as_tensor(values), persistent=False)
        if self.items.identity is not None:  # new items have no vector of their own
            own = self.items.identity.weight.cpu()
            new.items.identity = nn.Embedding.from_pretrained(
                torch.cat((own, own.new_zeros(len(vectors), own.shape[1]))), freeze=False
            )
        living = self.digits.tree.living()
        for level, at in enumerate(tree.prefixes(torch.arange(len(self.content_there), len(tree.leaf))).unbind(1)):
            empty = ~living[level].cpu()[at]  # a node that had no item is now where its first one is
            new.digits.nodes[level][at[empty]] = torch.from_numpy(vectors)[empty]
            new.digits.bias[level][at[empty]] = 0
        new.digits.leaf, new.digits.item = tree.leaf, tree.item
        return new

    def fuse(self, context: Context, items: Tensor, *, weights: bool = False) -> Fused:
        """One state per target: context, item vectors (N, D) -> (B, Q, D). The source document's `fuse`."""
        return self.fusion(context, items, weights=weights)

    @staticmethod
    def score(state: Tensor, items: Tensor) -> Tensor:
        """The dense head: states (..., D) and item vectors (N, D) -> logits (..., N)."""
        return state @ items.T
