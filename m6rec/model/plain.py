"""The text backbone: one stack of `Block`s reads a bidirectional region and writes an autoregressive one after it.

- one mask (`masks.unilm`) makes the same weights an encoder of the source and a decoder of the target
- rotary positions, counted over present tokens, so that a segment that is read alone starts at 0 again
- the output is tied to the token embedding; logits are computed for the target region alone
- soft prompts stand before the source; adapters add to every feed-forward net; any layer can be read or begun at
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from m6rec.config import Config
from m6rec.data.text import PAD
from m6rec.model.attention import Block, Memory
from m6rec.model.masks import unilm

SOURCE, TARGET = 0, 1  # regions


class Read(NamedTuple):
    """What the backbone makes of a source and a target."""

    hidden: Tensor  # (B, S + T, D), normed; soft prompts are left out
    logits: Tensor | None  # (B, T, V): after each target token, the next one
    layers: tuple[Tensor, ...] = ()  # of every layer in turn (B, S + T, D), normed, where they were asked for


class Known(NamedTuple):
    """What has been read already: which of its tokens are there, and every layer's keys and values."""

    there: Tensor  # (B, S) bool
    layers: list[Memory]


class PlainText(nn.Module):
    """The backbone: `config.joint_layers` blocks of `config.width` over a vocabulary of so many tokens.

    Source: M6-Rec sections 3.1 and 3.2 (one Transformer, [BOS'] … [EOS'] seen both ways, [BOS] … [EOS] from the left).
    """

    def __init__(self, config: Config, vocabulary: int):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, config.width, padding_idx=PAD)
        self.regions = nn.Embedding(2, config.width)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.dropout) for _ in range(config.joint_layers)
        )
        self.norm = nn.RMSNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        for embedding in (self.tokens, self.regions):
            nn.init.normal_(embedding.weight, std=config.width**-0.5)
        with torch.no_grad():
            self.tokens.weight[PAD] = 0

    @property
    def device(self) -> torch.device:
        """Where it computes: token ids may come from anywhere."""
        return self.tokens.weight.device

    def forward(
        self,
        source: Tensor,
        target: Tensor | None = None,
        *,
        prompts: Tensor | None = None,
        adapters: Sequence[Callable[[Tensor], Tensor]] | None = None,
        upto: int | None = None,
        exits: bool = False,
        write: bool = True,
    ) -> Read:
        """Token ids source (B, S) and target (B, T), 0 = padding on the right.

        prompts: (C, D) for all rows or (B, C, D), soft tokens before the source. adapters: one per layer, what it adds
        to the feed-forward net. upto: read after so many layers. exits: give every layer's hidden states too.
        write=False: leave the logits out, which are None then.
        """
        target = source[:, :0] if target is None else target
        source, target = source.to(self.device), target.to(self.device)
        s, t = source.shape[1], target.shape[1]
        x = torch.cat((self.embed(source, SOURCE), self.embed(target, TARGET)), 1)  # (B, S + T, D)
        seen = source != PAD
        if prompts is not None:
            prompts = prompts.expand(len(source), -1, -1)  # (C, D) or (B, C, D) -> (B, C, D)
            x = torch.cat((prompts + self.regions.weight[SOURCE], x), 1)
            seen = torch.cat((seen.new_ones(prompts.shape[:2]), seen), 1)
        there = torch.cat((seen, target != PAD), 1)
        states = self.run(x, unilm(seen, target != PAD), places(there), adapters=adapters, last=upto)
        layers = tuple(self.norm(state)[:, -s - t :] for state in (states if exits else states[-1:]))
        return Read(layers[-1], self.logits(layers[-1][:, s:]) if write else None, layers if exits else ())

    def embed(self, tokens: Tensor, region: int = SOURCE) -> Tensor:
        """Token ids (B, T) -> (B, T, D): what they are, and in which region they stand."""
        return self.dropout(self.tokens(tokens) + self.regions.weight[region])

    def run(
        self,
        x: Tensor,
        mask: Tensor,
        positions: Tensor,
        *,
        adapters: Sequence[Callable[[Tensor], Tensor]] | None = None,
        first: int = 0,
        last: int | None = None,
    ) -> list[Tensor]:
        """Layers first..last-1 over x (B, T, D) -> the state after each of them, not normed."""
        states = [x]
        for layer in range(first, len(self.blocks) if last is None else last):
            adapter = adapters[layer] if adapters is not None else None
            states.append(self.blocks[layer](states[-1], mask=mask, positions=positions, adapter=adapter).out)
        return states[1:] or states

    def logits(self, hidden: Tensor) -> Tensor:
        """Normed states (..., D) -> (..., V), by the token embedding."""
        return hidden @ self.tokens.weight.T

    def remember(self, source: Tensor, target: Tensor | None = None) -> Known:
        """Read a source (B, S) and the beginning of a target (B, T) once, for `proceed` to go on from there."""
        target = source[:, :0] if target is None else target
        source, target = source.to(self.device), target.to(self.device)
        seen, begun = source != PAD, target != PAD
        there, mask = torch.cat((seen, begun), 1), unilm(seen, begun)
        x = torch.cat((self.embed(source, SOURCE), self.embed(target, TARGET)), 1)  # (B, S + T, D)
        positions, layers = places(there), []
        for block in self.blocks:
            layers.append(block.remember(x, positions))
            x = block(x, layers[-1], mask, positions).out
        return Known(there, layers)

    def proceed(self, target: Tensor, known: Known) -> Tensor:
        """Logits (B, T, V) of what follows something remembered: equal to `forward`'s over the whole.

        `known` may have one row for all of target's: a request is read once, its candidates are many.
        """
        target = target.to(self.device)
        x, b, there = self.embed(target, TARGET), len(target), target != PAD
        positions = known.there.sum(1, keepdim=True) + places(there)
        mask = unilm(known.there.expand(b, -1), there)[:, :, known.there.shape[1] :]
        for block, memory in zip(self.blocks, known.layers, strict=True):
            own = block.remember(x, positions)
            x = block(x, Memory(*(m.expand(b, -1, -1, -1) for m in memory)).extend(own), mask, positions).out
        return self.logits(self.norm(x))


def places(there: Tensor) -> Tensor:
    """(B, T) bool -> (B, T) positions that count present tokens only, from 0."""
    return (there.long().cumsum(1) - 1).clamp(min=0)


def ends(source: Tensor, hidden: Tensor) -> Tensor:
    """The states of each source's last token, [EOS']: source (B, S), hidden (B, ≥S, D) -> (B, D)."""
    last = (source != PAD).sum(1) - 1
    return hidden[torch.arange(len(source), device=source.device), last]
