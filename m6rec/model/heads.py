"""The decoders: from a state to the digits of a semantic ID, or from an item with gaps to its words and patches.

Digits: at every level a child's logit is ⟨decoder state, the child's node vector⟩ + bias. Node vectors start at the
mean of their items, biases at the log of their number, and the decoder's own contribution at zero: untrained, it
already ranks nearly as the dense head does.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m6rec.config import MODALITIES, Config
from m6rec.data.features import Features
from m6rec.errors import InputError
from m6rec.model import masks
from m6rec.model.attention import KVCache, Run, Stack
from m6rec.model.embed import ItemEncoder
from m6rec.model.text_model import TextCache
from m6rec.model.tree import Tree

NODE_CHUNK = 2**19  # values of node vectors that a decoding step reads at a time: 2 MB


class DigitDecoder(nn.Module):
    """States (B, D) and the digits so far -> logits of the next digit."""

    def __init__(self, config: Config, widths: tuple[int, ...], items: int):
        super().__init__()
        self.widths, self.size = widths, items  # size: of the catalogue that it was made for
        nodes = [math.prod(widths[: g + 1]) for g in range(len(widths))]
        self.nodes = nn.ParameterList(torch.empty(n, config.width) for n in nodes)
        self.bias = nn.ParameterList(torch.empty(n) for n in nodes)
        self.blocks = Stack(config, config.decoder_layers)
        self.project = nn.Linear(config.width, config.width)
        # The tree is part of the model: it is saved, loaded and moved with the weights.
        self.register_buffer("leaf", torch.zeros(items, dtype=torch.long))
        self.register_buffer("item", torch.full((math.prod(widths),), -1))
        self._valid: tuple[tuple[Tensor, int], list[Tensor]] | None = None

    @property
    def tree(self) -> Tree:
        """The tree of semantic IDs."""
        return Tree(self.widths, self.leaf, self.item)

    @property
    def built_tree(self) -> Tree:
        """The tree, once there is one: before, every semantic ID would name the same item. InputError then."""
        if not (self.item >= 0).any():
            raise InputError("this model has no semantic IDs yet: call pretrain() first, or load one that is trained.")
        return self.tree

    @property
    def valid_nodes(self) -> list[Tensor]:
        """`tree.valid_nodes()`, computed once for as long as no item moves."""
        leaves = self.item, self.item._version  # it counts what is written in place (init_from_tree, load_state_dict)
        if self._valid is None or self._valid[0][0] is not leaves[0] or self._valid[0][1] != leaves[1]:
            self._valid = leaves, self.tree.valid_nodes()
        return self._valid[1]

    @torch.no_grad()
    def init_from_tree(self, tree: Tree, vectors: Tensor) -> None:
        """Start from a tree over item vectors (N, D): nodes at their items' mean, biases at the log of their number."""
        self.leaf.copy_(tree.leaf)
        self.item.copy_(tree.item)
        self._valid = None  # a copied decoder counts versions from 0 again, and could keep its old leaves
        prefixes = tree.prefixes(torch.arange(len(vectors), device=tree.leaf.device)).to(vectors.device)
        for level, (node, bias) in enumerate(zip(self.nodes, self.bias, strict=True)):
            counts = torch.bincount(prefixes[:, level], minlength=len(node)).to(vectors)
            total = torch.zeros_like(node).index_add_(0, prefixes[:, level], vectors)
            node.copy_(total / counts.clamp(min=1)[:, None])
            bias.copy_(counts.clamp(min=1).log())
        self.project.weight.zero_()
        self.project.bias.zero_()

    def teacher_forced(self, state: Tensor, items: Tensor, allowed: Tensor | None = None) -> list[Tensor]:
        """Logits of every digit of items, all levels in one pass: (B, D), (B,) -> G × (B, W).

        allowed (N,) bool: the only items that count as positives or negatives.
        """
        prefixes = self.tree.prefixes(items)  # (B, G)
        digits = [state] + [state + F.embedding(prefixes[:, g], self.nodes[g]) for g in range(len(self.widths) - 1)]
        positions = torch.arange(len(digits), device=state.device)
        run = self.blocks(torch.stack(digits, 1), masks.causal(len(digits), state.device), positions)
        states = state[:, None] + self.project(run.states)  # (B, G, D)
        parents = torch.cat((torch.zeros_like(prefixes[:, :1]), prefixes[:, :-1]), 1)
        valid = self.valid_nodes if allowed is None else self.tree.valid_nodes(allowed)
        return [self.choices(states[:, g], g, parents[:, g], valid[g]) for g in range(len(self.widths))]

    def step(
        self, state: Tensor, level: int, parent: Tensor, past: list[KVCache] | None, *, weights: bool = False
    ) -> tuple[Tensor, Run]:
        """One digit: states (B, D), the nodes reached (B,), the caches so far -> logits (B, W), the blocks' `Run`.

        Equal to `teacher_forced`, by a test.
        """
        x = state if level == 0 else state + F.embedding(parent, self.nodes[level - 1])
        run = self.blocks(x[:, None], positions=torch.tensor([level], device=x.device), past=past, weights=weights)
        return self.choices(state + self.project(run.states[:, 0]), level, parent), run

    def choices(self, states: Tensor, level: int, parent: Tensor, valid: Tensor | None = None) -> Tensor:
        """Logits of a node's children: states (B, D), parents (B,) within the level above -> (B, W).

        Children without an item get -inf here, so nothing has to be filtered later. valid (nodes,) bool narrows them.
        """
        width = self.widths[level]
        valid = (self.valid_nodes[level] if valid is None else valid).view(-1, width)
        bias, nodes = self.bias[level].view(-1, width), self.nodes[level].view(len(valid), -1)  # (parents, W·D)
        if level == 0:
            logits = states @ nodes.view(width, -1).T + bias[0]
        else:
            # Only the parents' own children are read; outside training in chunks that fit into the processor's cache,
            # because one large copy costs ten times what the products do.
            rows = len(states) if torch.is_grad_enabled() else max(1, NODE_CHUNK // nodes.shape[1])
            parts = zip(states.split(rows), parent.split(rows), strict=True)
            own = (torch.einsum("bd,bwd->bw", s, F.embedding(p, nodes).unflatten(1, (width, -1))) for s, p in parts)
            logits = torch.cat(list(own)) + F.embedding(parent, bias)
        return logits.masked_fill(~valid.index_select(0, parent), float("-inf"))


class ContentDecoder(nn.Module):
    """From an item with gaps to its words or patches: the items' local layers, which so learn of it, then its own.

    sizes: the (patches, values) of each modality whose patches it reconstructs.
    """

    def __init__(self, config: Config, sizes: dict[str, tuple[int, int]]):
        super().__init__()
        self.blocks = Stack(config, config.decoder_layers)
        self.norm = nn.RMSNorm(config.width)
        self.output = nn.ModuleDict({m: nn.Linear(config.width, size) for m, (_, size) in sizes.items()})

    def words(self, items: ItemEncoder, source: Features, target: Tensor) -> Tensor:
        """Logits of the next token at every position of the target: (B, T) ids -> (B, T, V).

        An item with a gap in its text is the bidirectional source, the missing words are the autoregressive target.
        The gap may be the whole text: then the target is a caption of the photograph and the recording.
        """
        return self.write(items, source, target)[0]

    def write(self, items: ItemEncoder, source: Features, target: Tensor) -> tuple[Tensor, TextCache, Tensor]:
        """`words`, the cache of all that was read, and the position (1,) of the target's first token."""
        tokens = items.embed(source)
        x = torch.cat((tokens.x, items.tokens(target) + items.modality.weight[0]), 1)  # (B, L + T, D)
        first = tokens.positions.max()[None] + 1  # after the source's longest modality
        positions = torch.cat((tokens.positions, first + torch.arange(target.shape[1], device=x.device)))
        x, caches = self._read(items, x, masks.unilm(tokens.present, target > 0), positions)
        cache = TextCache(torch.cat((tokens.present, target > 0), 1), caches)
        return x[:, len(tokens.positions) :] @ items.tokens.weight.T, cache, first

    def decode_step(
        self, items: ItemEncoder, target: Tensor, past: TextCache, position: Tensor
    ) -> tuple[Tensor, TextCache]:
        """One more token (B, 1) of the target, at a position (1,): its logits (B, 1, V) and the cache with it."""
        x, present = items.tokens(target) + items.modality.weight[0], torch.cat((past.present, target > 0), 1)
        x, caches = self._read(items, x, masks.segment(present), position, past.layers)
        return x @ items.tokens.weight.T, TextCache(present, caches)

    def patches(self, items: ItemEncoder, content: Features, hidden: dict[str, Tensor]) -> dict[str, Tensor]:
        """All patches of each modality in `hidden`, whose masks are (N, P) bool: -> (N, P, values)."""
        tokens = items.embed(content, hidden)
        x, _ = self._read(items, tokens.x, masks.segment(tokens.present), tokens.positions)
        return {m: self.output[m](x[:, tokens.modality == MODALITIES.index(m)]) for m in hidden}

    def _read(
        self, items: ItemEncoder, x: Tensor, mask: Tensor, positions: Tensor, past: Sequence[KVCache] = ()
    ) -> tuple[Tensor, list[KVCache]]:
        depth = items.local.depth
        local = items.local(x, mask, positions, past=past[:depth])
        run = self.blocks(local.states, mask, positions, past=past[depth:])
        return self.norm(run.states), [*local.caches, *run.caches]
