"""The text backbone: one stack of `Block`s encodes a bidirectional source and decodes an autoregressive target.

- one mask (`masks.unilm`) makes the same weights an encoder of the source and a decoder of the target
- rotary positions count present tokens only, so padding moves nothing
- the output is tied to the token embedding; logits are computed for the target region alone
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from m6rec.config import Config
from m6rec.data.text import PAD
from m6rec.model.attention import KVCache, Stack
from m6rec.model.masks import unilm

SOURCE, TARGET = 0, 1  # regions


class TextOutput(NamedTuple):
    """The backbone's output for a source and a target."""

    hidden: Tensor  # (B, S + T, D), normed
    logits: Tensor | None  # (B, T, V): after each target token, the next one


class TextCache(NamedTuple):
    """A prefilled source: which of its tokens are present, and every layer's keys and values."""

    present: Tensor  # (B, S) bool
    layers: list[KVCache]


class TextTransformer(nn.Module):
    """The backbone: `config.joint_layers` blocks of `config.width` over a vocabulary of so many tokens.

    Source: M6-Rec sections 3.1 and 3.2 (one Transformer, [BOS'] … [EOS'] bidirectional, [BOS] … [EOS] autoregressive).
    """

    def __init__(self, config: Config, vocabulary: int):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, config.width, padding_idx=PAD)
        self.regions = nn.Embedding(2, config.width)
        self.blocks = Stack(config, config.joint_layers)
        self.norm = nn.RMSNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        for embedding in (self.tokens, self.regions):
            nn.init.normal_(embedding.weight, std=config.width**-0.5)
        with torch.no_grad():
            self.tokens.weight[PAD] = 0

    @property
    def device(self) -> torch.device:
        """Where it computes; token ids may come from anywhere."""
        return self.tokens.weight.device

    def forward(self, source: Tensor, target: Tensor | None = None, *, logits: bool = True) -> TextOutput:
        """Token ids source (B, S) and target (B, T), 0 = padding on the right. logits=False: hidden states alone."""
        x, present, mask = self._regions(source, target)
        x = self.norm(self.blocks(x, mask, positions_of(present)).states)
        return TextOutput(x, self.logits(x[:, source.shape[1] :]) if logits else None)

    def _regions(self, source: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Both regions' embeddings (B, S + T, D), their present tokens (B, S + T) and the UniLM mask."""
        target = source[:, :0] if target is None else target
        source, target = source.to(self.device), target.to(self.device)
        given, begun = source != PAD, target != PAD
        x = torch.cat((self.embed(source, SOURCE), self.embed(target, TARGET)), 1)
        return x, torch.cat((given, begun), 1), unilm(given, begun)

    def embed(self, tokens: Tensor, region: int = SOURCE) -> Tensor:
        """Token ids (B, T) -> (B, T, D): token and region embedding."""
        return self.dropout(self.tokens(tokens) + self.regions.weight[region])

    def logits(self, hidden: Tensor) -> Tensor:
        """Normed states (..., D) -> (..., V), by the token embedding."""
        return hidden @ self.tokens.weight.T

    def prefill(self, source: Tensor, target: Tensor | None = None) -> TextCache:
        """Prefill: encode a source (B, S) and the beginning of a target (B, T) once, for `decode_step` to continue."""
        x, present, mask = self._regions(source, target)
        return TextCache(present, self.blocks(x, mask, positions_of(present)).caches)

    def decode_step(self, target: Tensor, past: TextCache) -> Tensor:
        """Logits (B, T, V) of a target after a prefilled source: equal to `forward`'s over both.

        `past` may have one row for all rows of target: one request, many candidates.
        """
        target = target.to(self.device)
        x, b, present = self.embed(target, TARGET), len(target), target != PAD
        positions = past.present.sum(1, keepdim=True) + positions_of(present)
        mask = unilm(past.present.expand(b, -1), present)[:, :, past.present.shape[1] :]
        return self.logits(self.norm(self.blocks(x, mask, positions, past=past.layers).states))


def positions_of(present: Tensor) -> Tensor:
    """(B, T) bool -> (B, T) positions that count present tokens only, from 0."""
    return (present.long().cumsum(1) - 1).clamp(min=0)


def ends(source: Tensor, hidden: Tensor) -> Tensor:
    """The states of each source's last token, [EOS']: source (B, S), hidden (B, ≥S, D) -> (B, D)."""
    last = (source != PAD).sum(1) - 1
    return hidden[torch.arange(len(source), device=source.device), last]
