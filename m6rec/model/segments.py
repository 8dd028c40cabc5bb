"""Late interaction: segments are encoded apart in the first layers (local) and together in the last ones (joint).

- a profile, each event and each candidate are segments; in each the positions start at 0
- before the joint layers a learned embedding marks each segment's role and recency
- the source never attends to a candidate (the UniLM mask), so one encoded source scores many candidates
- every joint layer has an exit: a score from the candidate's first token
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from m6rec.config import Config
from m6rec.data.ratings import Windows
from m6rec.data.text import PAD
from m6rec.errors import InputError
from m6rec.model import masks
from m6rec.model.attention import KVCache, Stack


class Step(NamedTuple):
    """The output of one joint layer."""

    logits: Tensor  # (B, C): this layer's exit
    cache: KVCache  # its keys and values, (B, H, S·L + C·L, D/H)


class SegmentNetwork(nn.Module):
    """`config.joint_layers` blocks over segments; any number of the first ones may be local.

    shared: one block serves as every layer (ALBERT). embedding_size: of the token table, widened by a linear map.
    Source: M6-Rec section 4.1, multi-segment late interaction.
    """

    def __init__(self, config: Config, vocabulary: int, *, shared: bool = False, embedding_size: int | None = None):
        super().__init__()
        width, self.depth = config.width, config.joint_layers
        self.tokens = nn.Embedding(vocabulary, embedding_size or width, padding_idx=PAD)
        self.widen = nn.Linear(embedding_size, width, bias=False) if embedding_size else nn.Identity()
        self.segments = nn.Embedding(config.history + 2, width)  # profile, events by recency, candidate
        self.blocks = Stack(config, self.depth, shared=shared)
        self.norm = nn.RMSNorm(width)
        self.heads = nn.ModuleList(nn.Linear(width, 1) for _ in range(self.depth))
        self.dropout = nn.Dropout(config.dropout)
        for embedding in (self.tokens, self.segments):  # small, so that the first steps already change them much
            nn.init.normal_(embedding.weight, std=0.02)
        with torch.no_grad():
            self.tokens.weight[PAD] = 0

    @property
    def device(self) -> torch.device:
        """Where it computes: token ids may come from anywhere."""
        return self.segments.weight.device

    def forward(self, windows: Windows, local_layers: int = 0) -> Tensor:
        """The last layer's logits (B, C), after this many local layers."""
        return [step.logits for step in self.steps(windows, local_layers)][-1]

    def steps(self, windows: Windows, local_layers: int = 0) -> Iterator[Step]:
        """One joint layer after the other. A caller may stop early (early exit)."""
        segments = torch.cat((windows.source, windows.candidates), 1).to(self.device)  # (B, S + C, L)
        states = self.local(segments.flatten(0, 1), local_layers).unflatten(0, segments.shape[:2])
        return self.joint(states, segments != PAD, windows.source.shape[1], local_layers)

    def local(self, tokens: Tensor, layers: int) -> Tensor:
        """Segments of token ids (n, L) through the first layers, each apart -> (n, L, D)."""
        if not 0 <= layers < self.depth:
            raise InputError(f"{layers} local layers do not fit {self.depth} layers: take 0 to {self.depth - 1}.")
        tokens = tokens.to(self.device)
        if not layers:
            return self.embed(tokens)
        tokens, rows = tokens.unique(dim=0, return_inverse=True)  # each distinct segment is encoded once
        x, positions = self.embed(tokens), torch.arange(tokens.shape[1], device=tokens.device)
        present = tokens != PAD
        present[:, 0] = True  # an empty segment attends to itself, and no other token attends to it
        return self.blocks(x, masks.segment(present), positions, last=layers).states.index_select(0, rows)

    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids (..., L) -> (..., L, D)."""
        return self.dropout(self.widen(self.tokens(tokens)))

    def joint(self, states: Tensor, present: Tensor, source: int, local_layers: int) -> Iterator[Step]:
        """The layers after the local ones: states (B, S + C, L, D), the first S = `source` segments are the source."""
        n, length = present.shape[1:]
        role = self.segments.weight
        roles = torch.cat((role[:source], role[-1:].expand(n - source, -1)))  # (S + C, D)
        x = (states + roles[:, None]).flatten(1, 2)  # (B, S + C, L, D) -> (B, (S + C)·L, D)
        mask = masks.candidates(present[:, :source].flatten(1), present[:, source:])
        positions = torch.arange(length, device=x.device).repeat(n)
        first = slice(source * length, None, length)  # the candidates' first tokens
        for layer in range(local_layers, self.depth):
            if layer + 1 < self.depth:
                run = self.blocks(x, mask, positions, first=layer, last=layer + 1)
                x, scored = run.states, run.states[:, first]
            else:  # the last layer needs no other queries
                run = self.blocks(x[:, first], mask[:, :, first], positions[first], keys=(x, positions), first=layer)
                scored = run.states
            yield Step(self.heads[layer](self.norm(scored)).squeeze(-1), run.caches[0])
