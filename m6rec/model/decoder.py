"""The decoders: from a state to the digits of a semantic ID, or from an item with gaps to what is missing.

Digits: at every level the child's logit is ⟨decoder state, the child's node vector⟩ + bias, so a digit's meaning is the
place that its node has among the items. Node vectors start at the mean of their items and biases at the log of their
number, and the decoder's own contribution starts at zero: untrained, it already ranks nearly as the dense head does.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m6rec.config import MODALITIES, Config
from m6rec.data.features import Features
from m6rec.model import masks
from m6rec.model.attention import Block, Memory, advance
from m6rec.model.items import ItemEncoder
from m6rec.model.tree import Tree

PICKED = 2**19  # numbers of node vectors that a generating step reads at a time: 2 MB


class DigitDecoder(nn.Module):
    """States (B, D) and the digits so far -> logits of the next digit."""

    def __init__(self, config: Config, widths: tuple[int, ...], items: int):
        super().__init__()
        self.widths, self.size = widths, items  # size: of the catalogue that it was made for
        nodes = [math.prod(widths[: g + 1]) for g in range(len(widths))]
        self.nodes = nn.ParameterList(torch.empty(n, config.width) for n in nodes)
        self.bias = nn.ParameterList(torch.empty(n) for n in nodes)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.dropout) for _ in range(config.decoder_layers)
        )
        self.project = nn.Linear(config.width, config.width)
        # The tree is part of the model: it is saved, loaded and moved with the weights.
        self.register_buffer("leaf", torch.zeros(items, dtype=torch.long))
        self.register_buffer("item", torch.full((math.prod(widths),), -1))
        self._living: tuple[Tensor, int, list[Tensor]] | None = None

    @property
    def tree(self) -> Tree:
        """The tree that the digits belong to."""
        return Tree(self.widths, self.leaf, self.item)

    @property
    def living(self) -> list[Tensor]:
        """`tree.living()`, computed once for as long as no item moves, so that no digit costs a look at every leaf."""
        # _version counts what is written in place (plant, load_state_dict); on another device it is another tensor.
        if self._living is None or self._living[0] is not self.item or self._living[1] != self.item._version:
            self._living = (self.item, self.item._version, self.tree.living())
        return self._living[2]

    @torch.no_grad()
    def plant(self, tree: Tree, vectors: Tensor) -> None:
        """Take a tree over item vectors (N, D): nodes at the mean of their items, biases at the log of their number."""
        self.leaf.copy_(tree.leaf)
        self.item.copy_(tree.item)
        self._living = None  # a copied decoder counts versions anew, and could take its old leaves for these
        prefixes = tree.prefixes(torch.arange(len(vectors)))
        for level, (node, bias) in enumerate(zip(self.nodes, self.bias, strict=True)):
            counts = torch.bincount(prefixes[:, level], minlength=len(node)).to(vectors)
            total = torch.zeros_like(node).index_add_(0, prefixes[:, level].to(node.device), vectors)
            node.copy_(total / counts.clamp(min=1)[:, None])
            bias.copy_(counts.clamp(min=1).log())
        self.project.weight.zero_()
        self.project.bias.zero_()

    def teach(self, state: Tensor, items: Tensor, known: Tensor | None = None) -> list[Tensor]:
        """Logits of every digit on the way to items, all levels in one pass: (B, D), (B,) -> G × (B, W).

        known (N,) bool: the only items that count as an answer, right or wrong.
        """
        prefixes = self.tree.prefixes(items)  # (B, G)
        digits = [state] + [state + F.embedding(prefixes[:, g], self.nodes[g]) for g in range(len(self.widths) - 1)]
        states = state[:, None] + self.project(self.look(torch.stack(digits, 1)))  # (B, G, D)
        parents = torch.cat((torch.zeros_like(prefixes[:, :1]), prefixes[:, :-1]), 1)
        living = self.living if known is None else self.tree.living(known)
        return [self.choices(states[:, g], g, parents[:, g], living[g]) for g in range(len(self.widths))]

    def look(self, x: Tensor) -> Tensor:
        """The blocks over the digits so far, all at once under a causal mask: (B, G, D) -> (B, G, D)."""
        places, mask = torch.arange(x.shape[1], device=x.device), masks.causal(x.shape[1], x.device)
        for block in self.blocks:
            x = block(x, mask=mask, positions=places).out
        return x

    def step(
        self, state: Tensor, level: int, parent: Tensor, cache: list[Memory] | None
    ) -> tuple[Tensor, list[Memory]]:
        """One digit: states (B, D), the nodes reached (B,), keys and values so far -> logits (B, W), the new cache.

        `teach` and `step` are one function seen twice; a test holds them equal.
        """
        x = state if level == 0 else state + F.embedding(parent, self.nodes[level - 1])
        x, grown = advance(self.blocks, x, level, cache)
        return self.choices(state + self.project(x), level, parent), grown

    def choices(self, states: Tensor, level: int, parent: Tensor, living: Tensor | None = None) -> Tensor:
        """Logits of a node's children: states (B, D), parents (B,) within the level above -> (B, W).

        Children without an item get -inf, here and nowhere later: what is scored is what can be said. living (nodes,)
        bool narrows them.
        """
        width = self.widths[level]
        living = (self.living[level] if living is None else living).view(-1, width)
        bias, nodes = self.bias[level].view(-1, width), self.nodes[level].view(len(living), -1)  # (parents, W·D)
        if level == 0:
            logits = states @ nodes.view(width, -1).T + bias[0]
        else:
            # Only the parents' own children are read, and (but in training) few enough at a time to stay in the cache:
            # the pages of one large copy cost ten times what the products do.
            rows = len(states) if torch.is_grad_enabled() else max(1, PICKED // nodes.shape[1])
            parts = zip(states.split(rows), F.embedding(parent, bias).split(rows), parent.split(rows), strict=True)
            logits = torch.cat([_inner(s, F.embedding(p, nodes)) + b for s, b, p in parts])
        return logits.masked_fill(~living.index_select(0, parent), float("-inf"))


def _inner(states: Tensor, nodes: Tensor) -> Tensor:
    """States (B, D) times the children of each, (B, W·D) -> (B, W)."""
    return torch.einsum("bd,bwd->bw", states, nodes.unflatten(1, (-1, states.shape[1])))


class TextDecoder(nn.Module):
    """An item with a gap in its text in the bidirectional region, what is missing in the autoregressive one.

    The gap may be the whole text: then a caption is written from the photograph and the recording.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.dropout) for _ in range(config.decoder_layers)
        )
        self.norm = nn.RMSNorm(config.width)

    def forward(self, items: ItemEncoder, source: Features, target: Tensor) -> Tensor:
        """Logits of the next token at every place of the target: (B, T) ids -> (B, T, V).

        The local layers of the items read here too, so what infilling teaches them is what the item vectors know.
        """
        known = items.embed(source)
        x = torch.cat((known.x, items.tokens(target) + items.kind.weight[0]), 1)
        mask = masks.unilm(known.there, target > 0)
        # What is written stands behind the source's longest modality, whatever the others hold.
        behind = known.places.max() + 1 + torch.arange(target.shape[1], device=x.device)
        places = torch.cat((known.places, behind))
        for block in (*items.local, *self.blocks):
            x = block(x, mask=mask, positions=places).out
        return self.norm(x[:, len(known.places) :]) @ items.tokens.weight.T


class PatchDecoder(nn.Module):
    """Hidden patches of images and sounds from the patches and the words that are left."""

    def __init__(self, config: Config, sizes: dict[str, tuple[int, int]]):
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.dropout) for _ in range(config.decoder_layers)
        )
        self.norm = nn.RMSNorm(config.width)
        self.draw = nn.ModuleDict({m: nn.Linear(config.width, size) for m, (_, size) in sizes.items()})

    def forward(self, items: ItemEncoder, content: Features, hidden: dict[str, Tensor]) -> dict[str, Tensor]:
        """All patches anew, of each modality that is named in `hidden` (N, P) bool: -> (N, P, values)."""
        tokens = items.embed(content, hidden)
        x, mask = tokens.x, masks.segment(tokens.there)
        for block in (*items.local, *self.blocks):
            x = block(x, mask=mask, positions=tokens.places).out
        x = self.norm(x)
        return {m: self.draw[m](x[:, tokens.kind == MODALITIES.index(m)]) for m in hidden}
