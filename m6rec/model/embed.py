"""From an item's content to its vector: text, image and sound tokens in one encoder.

An item is one segment. Its tokens run through the local layers; an [ITEM] token attends to them and becomes the
content vector. How the modalities fuse is a mask (`masks.item`): "joint", "gated" or "cross", with the same blocks.
Without local layers an item is a bag of its tokens. Tokens of one item never attend to another item.
An item of the training set may add an ID embedding.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m6rec.config import MODALITIES, Config
from m6rec.data.features import Features
from m6rec.errors import InputError
from m6rec.model import masks
from m6rec.model.attention import Stack


class Tokens(NamedTuple):
    """One item's tokens, one modality after the other."""

    x: Tensor  # (N, L, D)
    present: Tensor  # (N, L) bool
    modality: Tensor  # (L,) which of MODALITIES each token belongs to
    positions: Tensor  # (L,) rotary positions, from 1 in each modality


class Encoded(NamedTuple):
    """Items as vectors, and the attention weights of each one's [ITEM] token."""

    vectors: Tensor  # (N, D)
    weights: Tensor | None  # (N, H, 1, L) over the tokens, or None
    modality: Tensor  # (L,) which of MODALITIES each column of the weights belongs to

    def modality_weights(self) -> Tensor:
        """The attention mass on each of MODALITIES, mean over heads: (N, M).

        Rows sum to 1, but for "cross": there the first modality is the query and has no share.
        """
        weights = self.weights.mean(1).squeeze(1)  # (N, L)
        return weights @ F.one_hot(self.modality, len(MODALITIES)).to(weights)


class PatchEmbedding(nn.Module):
    """Patches (N, P, size) -> tokens (N, P, D): an MLP, because what matters in a patch is seldom linear in it."""

    def __init__(self, patches: int, size: int, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(size, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.position = nn.Embedding(patches, width)
        self.hidden = nn.Parameter(torch.empty(width))
        # The squared error of predicting the mean patch.
        self.register_buffer("variance", torch.ones(patches), persistent=False)

    def fit(self, patches: np.ndarray) -> None:
        """Keep the variance (P,) of the training set's patches (N, P, size)."""
        if len(patches):
            self.variance = torch.as_tensor(patches.var(0).mean(-1))

    def forward(self, patches: Tensor, hidden: Tensor | None = None) -> Tensor:
        """hidden (N, P) bool: patches of which only the position is given."""
        x = self.mlp(patches)
        if hidden is not None:
            x = torch.where(hidden[..., None], self.hidden, x)
        return x + self.position.weight


class ItemEncoder(nn.Module):
    """Items' `Features` -> vectors (N, D). `sizes` are the (patches, values) of the image and sound that there are."""

    def __init__(self, config: Config, vocabulary: int, items: int, sizes: dict[str, tuple[int, int]]):
        super().__init__()
        width = config.width
        self.fusion, self.identity_dropout = config.fusion, config.identity_dropout
        self.modality_dropout, self.catalogue_dropout = config.modality_dropout, config.catalogue_dropout
        self.modalities = [m for m in MODALITIES if m in config.modalities and (m == "text" or m in sizes)]
        self.tokens = nn.Embedding(vocabulary, width, padding_idx=0)
        self.patches = nn.ModuleDict({m: PatchEmbedding(*sizes[m], width) for m in self.modalities if m in sizes})
        self.modality = nn.Embedding(len(MODALITIES), width)
        self.absent = nn.Embedding(len(MODALITIES), width)
        self.query = nn.Parameter(torch.empty(width))
        self.local = Stack(config, config.local_layers)
        self.bag = None  # without local layers, a residual MLP on the mean token
        if not self.local:
            drop = nn.Dropout(config.dropout)
            self.bag = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), drop, nn.Linear(2 * width, width))
        self.mean_norm = nn.RMSNorm(width)
        self.gate = nn.Linear(width, 1) if config.fusion == "gated" else None
        self.project = nn.Sequential(nn.RMSNorm(width), nn.Linear(width, width))
        self.identity = nn.Embedding(items, width) if config.identity else None

    def forward(self, content: Features, codes: Tensor | None = None, *, weights: bool = False) -> Encoded:
        """Encode items; `codes` (N,) index the ID embeddings, -1 (or None for all) means that there is none."""
        encoded = self.content(content, weights=weights)
        return encoded if codes is None else encoded._replace(vectors=encoded.vectors + self.id_embedding(codes))

    def id_embedding(self, codes: Tensor) -> Tensor:
        """Items' ID embeddings (N, D), 0 for codes of -1; a training step drops a share of them."""
        if self.identity is None:
            return self.absent.weight.new_zeros(len(codes), self.absent.embedding_dim)
        used = codes >= 0
        if self.training and self.identity_dropout:
            used = used & (torch.rand(codes.shape, device=codes.device) >= self.identity_dropout)
        return self.identity(codes.clamp(min=0)) * used[:, None]

    def content(
        self, content: Features, *, modalities: tuple[str, ...] | None = None, weights: bool = False
    ) -> Encoded:
        """The vectors of the content alone. modalities: those that any of these items has, if that is known."""
        if not self.modalities:  # only the ID embedding is left
            nothing = self.absent.weight.new_zeros(len(content.present), self.absent.embedding_dim)
            return Encoded(nothing, None, torch.empty(0, dtype=torch.long, device=nothing.device))
        if self.training and self.modality_dropout and len(self.modalities) > 1:
            content = self._drop_modalities(content)
        tokens = self.embed(content, modalities=modalities)
        if self.bag is not None:
            if weights:
                raise InputError("with local_layers=0 an item is a bag of tokens without attention: take 1 or more.")
            mean = self._means(tokens.x, tokens)[0].mean(1)
            return Encoded(mean + self.bag(mean), None, tokens.modality)
        mask, positions = masks.item(tokens.present, tokens.modality, self.fusion), tokens.positions
        x = self.local(tokens.x, mask, positions, last=-1).states
        # In the last local layer only [ITEM], at position 0, is a query: nobody needs the other outputs.
        means, own = self._means(x, tokens)
        query, seen = means.mean(1, keepdim=True), tokens.present[:, None]  # (N, 1, D), (N, 1, L)
        if self.fusion == "cross" and len(self.modalities) > 1:  # the first modality is the query
            query, seen = means[:, :1], seen & ~own[:, :1]
        elif self.gate is not None:  # late fusion: one [ITEM] for each modality, (N, M, D), (N, M, L)
            query, seen = means, seen & own
        query, options = self.query + self.mean_norm(query), {"keys": (x, positions), "first": -1, "weights": weights}
        run = self.local(query, seen[:, None], positions[:1] - 1, **options)
        share = torch.ones_like(run.states[..., :1])
        if self.gate is not None:  # and a gate that weighs their outputs
            share = self.gate(run.states).masked_fill(~seen.any(-1, keepdim=True), -1e9).softmax(1)  # (N, M, 1)
        mass = torch.einsum("nhml,nm->nhl", run.weights[0], share[..., 0])[:, :, None] if weights else None
        return Encoded(self.project((share * run.states).sum(1)), mass, tokens.modality)

    def embed(
        self, content: Features, hidden: dict[str, Tensor] | None = None, modalities: tuple[str, ...] | None = None
    ) -> Tokens:
        """Tokens before any layer; `hidden` names the patches (N, P) bool of which only the position is given."""
        parts = []
        for m in self.modalities if modalities is None else modalities or self.modalities[:1]:  # at least empty tokens
            number, raw = MODALITIES.index(m), getattr(content, m)
            present = content.present[:, number, None].expand(-1, raw.shape[1])
            x = self.tokens(raw) if m == "text" else self.patches[m](raw, (hidden or {}).get(m))
            present = present & (raw > 0) if m == "text" else present
            positions = torch.arange(1, raw.shape[1] + 1, device=raw.device)
            parts.append((x + self.modality.weight[number], present, torch.full_like(positions, number), positions))
        x, present, numbers, positions = zip(*parts, strict=True)
        return Tokens(torch.cat(x, 1), torch.cat(present, 1), torch.cat(numbers), torch.cat(positions))

    def _means(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Each modality's mean token, or its learnt absent vector: (N, M, D); and each token's modality: (1, M, L).

        [ITEM] starts as their mean, so that training begins from a bag of tokens.
        """
        numbers = torch.tensor([MODALITIES.index(m) for m in self.modalities], device=x.device)
        own = (tokens.modality == numbers[:, None])[None]
        picked = (own & tokens.present[:, None]).to(x.dtype)  # (N, M, L)
        count = picked.sum(-1, keepdim=True)
        means = torch.where(count > 0, picked @ x / count.clamp(min=1), self.absent(numbers))
        return means, own

    def hidden_modalities(self) -> tuple[str, ...]:
        """Modality dropout of a whole step: in a share of them one or more modalities, but not all, for every item."""
        count = len(self.modalities)
        if not self.training or not self.catalogue_dropout or count < 2 or torch.rand(()) >= self.catalogue_dropout:
            return ()
        return tuple(self.modalities[i] for i in torch.randperm(count)[: int(torch.randint(1, count, ()))])

    def _drop_modalities(self, content: Features) -> Features:
        """Modality dropout: mask some modalities of some items, never an item's last one."""
        kept = torch.rand(content.present.shape, device=content.present.device) >= self.modality_dropout
        remaining = content.present & kept
        return content._replace(present=torch.where(remaining.any(1, keepdim=True), remaining, content.present))
