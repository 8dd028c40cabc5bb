"""From an item's content to its vector: text, image and sound tokens in one encoder.

An item is one segment. Its tokens run through the local layers, and an [ITEM] token looks at them and becomes the
content vector. How the modalities meet is a mask (`masks.item`): "joint", "gated" or "cross", with the same blocks.
Without local layers an item is a bag of its tokens (`BagNet`).
A known item may add a vector of its own (collaborative identity). Tokens of one item never see another item.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from m6rec.config import MODALITIES, Config
from m6rec.data.features import Features
from m6rec.errors import InputError
from m6rec.model import masks
from m6rec.model.attention import Block


class Tokens(NamedTuple):
    """One item's tokens, one modality after the other."""

    x: Tensor  # (N, L, D)
    there: Tensor  # (N, L) bool
    kind: Tensor  # (L,) which of MODALITIES each token belongs to
    places: Tensor  # (L,) rotary positions, from 1 in each modality


class Encoded(NamedTuple):
    """Items as vectors, and where each one's [ITEM] token looked."""

    vectors: Tensor  # (N, D)
    weights: Tensor | None  # (N, H, 1, L) over the tokens, or None
    kind: Tensor  # (L,) which of MODALITIES each column of the weights belongs to

    def shares(self) -> Tensor:
        """How the attention is divided among MODALITIES, mean over heads: (N, M).

        Rows sum to 1, but for "cross": there the first modality asks and has no share.
        """
        seen = self.weights.mean(1).squeeze(1)  # (N, L)
        return seen @ torch.nn.functional.one_hot(self.kind, len(MODALITIES)).to(seen)


class PatchEmbedding(nn.Module):
    """Patches (N, P, size) -> tokens (N, P, D): a small MLP, for what matters in a patch is seldom linear in it."""

    def __init__(self, patches: int, size: int, width: int):
        super().__init__()
        self.read = nn.Sequential(nn.Linear(size, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.place = nn.Embedding(patches, width)
        self.hidden = nn.Parameter(torch.empty(width))

    def forward(self, patches: Tensor, hidden: Tensor | None = None) -> Tensor:
        """hidden (N, P) bool: patches of which only the place is told."""
        x = self.read(patches)
        if hidden is not None:
            x = torch.where(hidden[..., None], self.hidden, x)
        return x + self.place.weight


class BagNet(nn.Module):
    """A mean token (N, D) and what a small net makes of it: the words' own vectors reach the item undiminished."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.read = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.read(x)


class ItemEncoder(nn.Module):
    """Items' `Features` -> vectors (N, D). `sizes` are the (patches, values) of the image and sound that there are."""

    def __init__(self, config: Config, vocabulary: int, items: int, sizes: dict[str, tuple[int, int]]):
        super().__init__()
        width = config.width
        self.fusion, self.identity_dropout, self.modality_dropout = (
            config.fusion, config.identity_dropout, config.modality_dropout,
        )  # fmt: skip
        self.reads = [m for m in MODALITIES if m in config.modalities and (m == "text" or m in sizes)]
        self.tokens = nn.Embedding(vocabulary, width, padding_idx=0)
        self.patches = nn.ModuleDict({m: PatchEmbedding(*sizes[m], width) for m in self.reads if m in sizes})
        self.kind = nn.Embedding(len(MODALITIES), width)
        self.absent = nn.Embedding(len(MODALITIES), width)
        self.query = nn.Parameter(torch.empty(width))
        self.local = nn.ModuleList(Block(width, config.heads, config.dropout) for _ in range(config.local_layers))
        self.bag = None if self.local else BagNet(width, config.dropout)
        self.mean_norm = nn.RMSNorm(width)
        self.gate = nn.Linear(width, 1) if config.fusion == "gated" else None
        self.project = nn.Sequential(nn.RMSNorm(width), nn.Linear(width, width))
        self.identity = nn.Embedding(items, width) if config.identity else None

    def forward(self, content: Features, codes: Tensor | None = None, *, weights: bool = False) -> Encoded:
        """Encode items; `codes` (N,) names the known ones, -1 or None means never seen in training."""
        encoded = self.content(content, weights=weights)
        return encoded if codes is None else encoded._replace(vectors=encoded.vectors + self.own(codes))

    def own(self, codes: Tensor) -> Tensor:
        """The vectors of items' own (N, D), 0 where there are none; some are hidden in a training step."""
        if self.identity is None:
            return self.absent.weight.new_zeros(len(codes), self.absent.embedding_dim)
        known = codes >= 0
        if self.training and self.identity_dropout:
            known = known & (torch.rand(codes.shape, device=codes.device) >= self.identity_dropout)
        return self.identity(codes.clamp(min=0)) * known[:, None]

    @torch.no_grad()
    def start(self, vectors: Tensor) -> None:
        """Start the items' own vectors at these (N, D); a row of zeros starts as it was drawn."""
        told = vectors.any(1, keepdim=True)
        self.identity.weight.copy_(torch.where(told, vectors, self.identity.weight))

    def content(self, content: Features, *, reads: tuple[str, ...] | None = None, weights: bool = False) -> Encoded:
        """The vectors of the content alone. reads: the modalities that any of these items has, if that is known."""
        if not self.reads:  # only identity is left
            nothing = self.absent.weight.new_zeros(len(content.there), self.absent.embedding_dim)
            return Encoded(nothing, None, torch.empty(0, dtype=torch.long, device=nothing.device))
        if self.training and self.modality_dropout and len(self.reads) > 1:
            content = self._drop(content)
        tokens = self.embed(content, reads=reads)
        if self.bag is not None:
            if weights:
                raise InputError("with local_layers=0 an item is a bag of tokens, and nobody looks: take 1 or more.")
            return Encoded(self.bag(self._means(tokens.x, tokens)[0].mean(1)), None, tokens.kind)
        x, mask = tokens.x, masks.item(tokens.there, tokens.kind, self.fusion)
        for block in self.local[:-1]:
            x = block(x, mask=mask, positions=tokens.places).out
        # The last local layer has one reader, [ITEM], at place 0: the others' outputs would be thrown away.
        means, own = self._means(x, tokens)
        memory = self.local[-1].remember(x, tokens.places)
        start = tokens.places[:1] - 1
        if self.gate is None:
            asks, there = means.mean(1, keepdim=True), tokens.there
            if self.fusion == "cross" and len(self.reads) > 1:  # the first modality asks, the others answer
                asks, there = means[:, :1], there & ~own[:, 0]
            query = self.query + self.mean_norm(asks)
            read = self.local[-1](query, memory, masks.segment(there), start, weights=weights)
            return Encoded(self.project(read.out.squeeze(1)), read.weights, tokens.kind)
        # Late: one [ITEM] for each modality, and a gate that weighs what they found.
        present = own & tokens.there[:, None]  # (N, M, L)
        read = self.local[-1](self.query + self.mean_norm(means), memory, present[:, None], start, weights=weights)
        gates = self.gate(read.out).masked_fill(~present.any(-1, keepdim=True), -1e9).softmax(1)  # (N, M, 1)
        seen = None if read.weights is None else torch.einsum("nhml,nm->nhl", read.weights, gates[..., 0])[:, :, None]
        return Encoded(self.project((gates * read.out).sum(1)), seen, tokens.kind)

    def embed(
        self, content: Features, hidden: dict[str, Tensor] | None = None, reads: tuple[str, ...] | None = None
    ) -> Tokens:
        """Tokens before any layer; `hidden` names the patches (N, P) bool of which only the place is told."""
        parts, there, kinds, places = [], [], [], []
        for m in self.reads if reads is None else reads or self.reads[:1]:  # what has nothing has empty tokens
            number, raw = MODALITIES.index(m), getattr(content, m)
            has = content.there[:, number, None]
            if m == "text":
                x, here = self.tokens(raw), (raw > 0) & has
            else:
                x, here = self.patches[m](raw, (hidden or {}).get(m)), has.expand(-1, raw.shape[1])
            parts.append(x + self.kind.weight[number])
            there.append(here)
            kinds.append(torch.full((raw.shape[1],), number, device=raw.device))
            places.append(torch.arange(1, raw.shape[1] + 1, device=raw.device))
        return Tokens(torch.cat(parts, 1), torch.cat(there, 1), torch.cat(kinds), torch.cat(places))

    def _means(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Each modality's mean token, or its learnt absent vector: (N, M, D); and whose each token is: (1, M, L).

        [ITEM] starts as their mean, so that a bag of tokens is learnt at once, and order and looks after it.
        """
        numbers = torch.tensor([MODALITIES.index(m) for m in self.reads], device=x.device)
        own = (tokens.kind == numbers[:, None])[None]
        picked = (own & tokens.there[:, None]).to(x.dtype)  # (N, M, L)
        count = picked.sum(-1, keepdim=True)
        means = torch.where(count > 0, picked @ x / count.clamp(min=1), self.absent(numbers))
        return means, own

    def _drop(self, content: Features) -> Features:
        """Hide some modalities of some items, never an item's last one."""
        kept = content.there & (torch.rand(content.there.shape, device=content.there.device) >= self.modality_dropout)
        return content._replace(there=torch.where(kept.any(1, keepdim=True), kept, content.there))
