"""Late interaction: segments run alone through the first layers, and meet in the last ones.

- a profile, each event and each candidate are segments; in each the positions start again at 0
- after the layers alone, a learned embedding says which segment stands where, and all tokens meet
- the source never sees a candidate (the UniLM mask), so that one reading of it judges many candidates
- every layer in which candidates meet the source has an exit: a score from the candidate's first token
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from m6rec.config import Config
from m6rec.data.segments import Windows
from m6rec.data.text import PAD
from m6rec.errors import InputError
from m6rec.model import masks
from m6rec.model.attention import Block, Memory


class Step(NamedTuple):
    """What one layer made of a window."""

    logits: Tensor  # (B, C): this layer's exit
    memory: Memory  # its keys and values, (B, H, S·L + C·L, D/H)


class SegmentNetwork(nn.Module):
    """`config.joint_layers` blocks over segments; any number of the first of them may be run alone.

    shared: one block serves as every layer (ALBERT). narrow: channels of the token table, widened by a linear map.
    Source: M6-Rec section 4.1, multi-segment late interaction.
    """

    def __init__(self, config: Config, vocabulary: int, *, shared: bool = False, narrow: int | None = None):
        super().__init__()
        width, self.depth = config.width, config.joint_layers
        self.tokens = nn.Embedding(vocabulary, narrow or width, padding_idx=PAD)
        self.widen = nn.Linear(narrow, width, bias=False) if narrow else nn.Identity()
        self.segments = nn.Embedding(config.history + 2, width)  # profile, events by how recent they are, candidate
        self.blocks = nn.ModuleList(
            Block(width, config.heads, config.dropout) for _ in range(1 if shared else self.depth)
        )
        self.norm = nn.RMSNorm(width)
        self.heads = nn.ModuleList(nn.Linear(width, 1) for _ in range(self.depth))
        self.dropout = nn.Dropout(config.dropout)
        for embedding in (self.tokens, self.segments):  # small, so that the first steps already move what a film is
            nn.init.normal_(embedding.weight, std=0.02)
        with torch.no_grad():
            self.tokens.weight[PAD] = 0

    def layer(self, number: int) -> Block:
        """The block that serves as this layer, from 0."""
        return self.blocks[number % len(self.blocks)]

    def forward(self, windows: Windows, alone: int = 0) -> Tensor:
        """The last layer's logits (B, C), after so many layers alone."""
        return [step.logits for step in self.steps(windows, alone)][-1]

    def steps(self, windows: Windows, alone: int = 0) -> Iterator[Step]:
        """One layer after the other, from the first in which the segments meet. A caller may stop early."""
        segments = torch.cat((windows.source, windows.candidates), 1).to(self.tokens.weight.device)
        states = self.alone(segments.flatten(0, 1), alone).unflatten(0, segments.shape[:2])
        return self.meet(states, segments != PAD, windows.source.shape[1], alone)

    def alone(self, tokens: Tensor, layers: int) -> Tensor:
        """Segments of token ids (n, L) through the first layers, each alone -> (n, L, D)."""
        if not 0 <= layers < self.depth:
            raise InputError(f"{layers} layers alone do not fit {self.depth}: take 0 to {self.depth - 1}.")
        tokens = tokens.to(self.tokens.weight.device)
        if not layers:
            return self.embed(tokens)
        tokens, places = tokens.unique(dim=0, return_inverse=True)  # a film that many have is read once
        x, positions = self.embed(tokens), torch.arange(tokens.shape[1], device=tokens.device)
        there = tokens != PAD
        there[:, 0] = True  # a missing segment sees itself, and nobody sees it
        for number in range(layers):
            x = self.layer(number)(x, mask=masks.segment(there), positions=positions).out
        return x.index_select(0, places)

    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids (..., L) -> (..., L, D)."""
        return self.dropout(self.widen(self.tokens(tokens)))

    def meet(self, states: Tensor, there: Tensor, source: int, alone: int) -> Iterator[Step]:
        """The layers after `alone`: states (B, S + C, L, D) of which the first S segments are the source's."""
        n, length = there.shape[1:]
        label = self.segments.weight
        order = torch.cat((label[:source], label[-1:].expand(n - source, -1)))  # (S + C, D)
        x = (states + order[:, None]).flatten(1, 2)  # (B, S + C, L, D) -> (B, (S + C)·L, D)
        mask = masks.meeting(there[:, :source].flatten(1), there[:, source:])
        positions = torch.arange(length, device=x.device).repeat(n)
        readers = slice(source * length, None, length)  # the candidates' first tokens
        for number in range(alone, self.depth):
            block = self.layer(number)
            memory = block.remember(x, positions)
            if number + 1 < self.depth:
                x = block(x, memory, mask, positions).out
                read = x[:, readers]
            else:  # nobody reads the other tokens any more
                read = block(x[:, readers], memory, mask[:, :, readers], positions[readers]).out
            yield Step(self.heads[number](self.norm(read)).squeeze(-1), memory)
