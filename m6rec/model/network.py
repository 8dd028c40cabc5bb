"""The network: item encoder, context fusion, decoders, and the two ways to an item, dense and generated.

- one `Block` and one `attend` under every mask
- item ids travel, digits do not: the tree belongs to the decoder, and data never knows it
- late interaction: items are encoded once for all that look at them, each kind of item with the tokens that it has
- all initialisation in one method
"""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m6rec.config import MODALITIES, Config
from m6rec.data.context import Context, Fields
from m6rec.data.features import Features
from m6rec.model.decoder import DigitDecoder, PatchDecoder, TextDecoder
from m6rec.model.fusion import ContextFusion, Fused
from m6rec.model.items import Encoded, ItemEncoder
from m6rec.model.tree import Tree, place, widths_for

STEP = 8  # text tokens by which items are put together


class Network(nn.Module):
    """Tensors in, tensors out. `content` is the catalogue's features; they are kept on the network's own device.

    known (N,) bool: the items that training sees; the others never have a vector of their own.
    """

    def __init__(
        self, config: Config, fields: Fields, content: Features, vocabulary: int, known: np.ndarray | None = None
    ):
        super().__init__()
        n = len(content.there)
        for name, values in content._asdict().items():
            self.register_buffer(f"content_{name}", torch.as_tensor(values), persistent=False)
        codes = np.arange(n) if known is None else np.where(known, np.arange(n), -1)
        self.register_buffer("codes", torch.as_tensor(codes), persistent=False)  # -1: no vector of its own
        self._describe(content)
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
        self._sort(content)
        self.initialise()

    def _sort(self, content: Features) -> None:
        """Which items share one content, and are read once, and which contents have tokens of like kind and number."""
        rows = zip(*(torch.as_tensor(part).cpu().numpy() for part in content), strict=True)
        number = pd.factorize(np.array([b"".join(part.tobytes() for part in row) for row in rows], dtype=object))[0]
        first = np.unique(number, return_index=True)[1]
        self.register_buffer("content_of", torch.as_tensor(number), persistent=False)  # (N,) which content each has
        self.register_buffer("distinct", torch.as_tensor(first), persistent=False)  # an item of each
        self.groups = _groups(content.take(first), self.items.reads)

    def _describe(self, content: Features) -> None:
        """How far each modality's patches (P,) of the known items lie from their mean."""
        for m in ("image", "sound"):
            has = np.asarray(content.there)[:, MODALITIES.index(m)] & (self.codes.cpu().numpy() >= 0)
            known = getattr(content, m)[has]
            spread = known.var(0).mean(-1) if len(known) else np.ones(getattr(content, m).shape[1], np.float32)
            self.register_buffer(f"variance_{m}", torch.as_tensor(spread), persistent=False)

    def variance(self, modality: str) -> Tensor:
        """The mean patch's squared error (P,), over the known items."""
        return getattr(self, f"variance_{modality}")

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

    def encode_items(self, *, mute: tuple[str, ...] = (), weights: bool = False, only: Tensor | None = None) -> Encoded:
        """The whole catalogue's vectors (N, D), as if no item had the modalities in `mute`.

        only (n,) codes in ascending order: of these items alone (n, D).
        """
        content = self.content.mute(*mute)
        if weights:  # one grid for all items
            return self.items(content, self.codes, weights=True)
        codes, content_of = self.codes, self.content_of
        rows = [torch.as_tensor(group, device=codes.device) for group in self.groups.values()]
        if only is not None:
            codes, content_of = codes[only], content_of[only]
            rows = [group[torch.isin(group, content_of)] for group in rows]
        parts = []
        for (length, *reads), group in zip(self.groups, rows, strict=True):
            some = content.take(self.distinct[group])
            parts.append(self.items.content(some._replace(text=some.text[:, :length]), reads=tuple(reads)).vectors)
        place = torch.full_like(self.distinct, -1)
        place[torch.cat(rows)] = torch.arange(sum(map(len, rows)), device=codes.device)
        # Not by indexing: threads sum its gradient in an order that changes from run to run.
        vectors = F.embedding(place[content_of], torch.cat(parts))
        return Encoded(vectors + self.items.own(codes), None, self.codes[:0])

    @torch.no_grad()
    def extended(self, content: Features, vectors: np.ndarray) -> Network:
        """This network with more items: `content` of all, `vectors` (n, D) of the new ones, which get free leaves."""
        nodes, digits = [node.cpu().numpy() for node in self.digits.nodes], self.digits
        tree = place(Tree(digits.widths, digits.leaf.cpu(), digits.item.cpu()), nodes, vectors)
        new = copy.deepcopy(self).cpu()
        for name, values in content._asdict().items():
            new.register_buffer(f"content_{name}", torch.as_tensor(values), persistent=False)
        new._sort(content)
        new.codes = torch.cat((self.codes.cpu(), torch.full((len(vectors),), -1)))
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


def _groups(content: Features, reads: list[str]) -> dict[tuple, np.ndarray]:
    """Contents by the number of text tokens that is enough, in steps of 8, and by the modalities that are read of them.

    No garment carries empty sound tokens about, and no short title the padding of the longest.
    """
    there, longest = np.asarray(content.there), content.text.shape[1]
    lengths = np.minimum(longest, STEP * np.maximum(1, -(-(np.asarray(content.text) > 0).sum(1) // STEP)))
    kinds = [
        (int(length), *(m for m in reads if row[MODALITIES.index(m)]))
        for length, row in zip(lengths, there, strict=True)
    ]
    return {kind: np.flatnonzero([k == kind for k in kinds]) for kind in sorted(set(kinds))}
