"""The stack over texts: one network reads a source, then writes the target that follows or scores candidates.

- one mask makes the same weights an encoder of the source and a decoder of the target (`masks.unilm`); another one
  sets many candidates beside one source (`masks.candidates`). The source never attends to what comes after it
- scoring candidates, a profile, each event and each candidate are segments. The first layers may be local: they encode
  each segment apart, so that its states can be cached (late interaction). The joint layers see all segments
- heads: the next token, tied to the token embedding; with `scores` a score after each layer, where it can exit
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from m6rec.config import Config
from m6rec.data.ratings import Windows
from m6rec.data.text import PAD
from m6rec.errors import InputError
from m6rec.model import masks
from m6rec.model.attention import KVCache, Run, Stack

SOURCE, TARGET = 0, 1  # segments of a written text


class TextCache(NamedTuple):
    """Tokens that were read: which of them are present, and every layer's keys and values."""

    present: Tensor  # (B, T) bool
    layers: list[KVCache]

    def index_select(self, rows: Tensor) -> "TextCache":
        """The caches of these rows (n,) of the batch."""
        return TextCache(self.present.index_select(0, rows), [layer.index_select(rows) for layer in self.layers])


class TextOutput(NamedTuple):
    """States and logits of a source and a target, and what later tokens need of them."""

    hidden: Tensor  # (B, S + T, D), normed
    logits: Tensor | None  # (B, T, V): after each target token, the next one
    cache: TextCache
    weights: list[Tensor]  # of each layer, if they were asked for


class TextTransformer(nn.Module):
    """`config.joint_layers` blocks of `config.width` over a vocabulary of so many tokens.

    scores: with a score head after each layer. shared: one block serves as every layer (ALBERT). embedding_size: of the
    token table, widened by a linear map. Source: M6-Rec sections 3.1 and 3.2 (one Transformer, [BOS'] … [EOS']
    bidirectional, [BOS] … [EOS] autoregressive) and 4.1 (multi-segment late interaction).
    """

    def __init__(
        self,
        config: Config,
        vocabulary: int,
        *,
        scores: bool = False,
        shared: bool = False,
        embedding_size: int | None = None,
    ):
        super().__init__()
        if embedding_size and not scores:
            raise InputError("words are written by the token table itself: embedding_size needs scores=True.")
        width, self.depth = config.width, config.joint_layers
        self.tokens = nn.Embedding(vocabulary, embedding_size or width, padding_idx=PAD)
        self.widen = nn.Linear(embedding_size, width, bias=False) if embedding_size else nn.Identity()
        # Of source and target; or of the profile, the events by recency, and candidates.
        self.segments = nn.Embedding(config.history + 2 if scores else 2, width)
        self.blocks = Stack(config, self.depth, shared=shared)
        self.norm = nn.RMSNorm(width)
        self.heads = nn.ModuleList(nn.Linear(width, 1) for _ in range(self.depth if scores else 0))
        self.dropout = nn.Dropout(config.dropout)
        for embedding in (
            self.tokens,
            self.segments,
        ):  # scores: small, so that the first steps already change them much
            nn.init.normal_(embedding.weight, std=0.02 if scores else width**-0.5)
        with torch.no_grad():
            self.tokens.weight[PAD] = 0

    @property
    def device(self) -> torch.device:
        """Where it computes; token ids may come from anywhere."""
        return self.tokens.weight.device

    def embed(self, tokens: Tensor, segment: int | None = None) -> Tensor:
        """Token ids (..., L) -> (..., L, D): token embedding, and the segment's where it is named."""
        x = self.widen(self.tokens(tokens))
        return self.dropout(x if segment is None else x + self.segments.weight[segment])

    # --- writing

    def forward(
        self, source: Tensor, target: Tensor | None = None, *, logits: bool = True, weights: bool = False
    ) -> TextOutput:
        """Token ids source (B, S) and target (B, T), 0 = padding on the right. logits=False: hidden states alone."""
        x, present, mask = self._tokens(source, target)
        run = self.blocks(x, mask, positions_of(present), weights=weights)
        return self._output(run, present, source.shape[1] if logits else None)

    def read(
        self, source: Tensor, target: Tensor | None = None, soft: Tensor | None = None, adapters: Sequence | None = None
    ) -> Tensor:
        """The state (B, D) of the last token: the last layer is run for it alone, which saves much.

        soft: prompts (n, D) before every source. adapters: as in `Stack.forward`.
        """
        x, present, mask = self._tokens(source, target, soft)
        positions, number = positions_of(present), torch.arange(present.shape[1], device=self.device)
        x = self.blocks(x, mask, positions, adapters=adapters, last=-1).states
        at = torch.arange(len(x), device=self.device), (number * present).argmax(1)
        options = {"keys": (x, positions), "adapters": adapters, "first": -1}
        run = self.blocks(x[at][:, None], present[:, None, None], positions[at][:, None], **options)
        return self.norm(run.states.squeeze(1))

    def _tokens(self, source: Tensor, target: Tensor | None, soft: Tensor | None = None) -> tuple[Tensor, ...]:
        """Embedded tokens of both regions (B, S + T, D), which of them are present, and the UniLM mask."""
        target = source[:, :0] if target is None else target
        source, target = source.to(self.device), target.to(self.device)
        x = torch.cat((self.embed(source, SOURCE), self.embed(target, TARGET)), 1)
        read, begun = source != PAD, target != PAD
        if soft is not None:
            soft = (soft + self.segments.weight[SOURCE]).expand(len(source), -1, -1)  # (n, D) -> (B, n, D)
            x, read = torch.cat((soft, x), 1), torch.cat((read.new_ones(soft.shape[:2]), read), 1)
        return x, torch.cat((read, begun), 1), masks.unilm(read, begun)

    def decode_step(self, target: Tensor, past: TextCache, *, weights: bool = False) -> TextOutput:
        """More target tokens (B, T) after those of a cache: equal to `forward` over all of them.

        `past` may have one row for all rows of target: one request, many candidates.
        """
        target, read = target.to(self.device), past.present.expand(len(target), -1)
        present, mask = torch.cat((read, target != PAD), 1), masks.unilm(read, target != PAD)
        new = slice(read.shape[1], None)
        positions = positions_of(present)[:, new]
        run = self.blocks(self.embed(target, TARGET), mask[:, :, new], positions, past=past.layers, weights=weights)
        return self._output(run, present, 0)

    def _output(self, run: Run, present: Tensor, first: int | None) -> TextOutput:
        hidden = self.norm(run.states)
        logits = None if first is None else self.logits(hidden[:, first:])
        return TextOutput(hidden, logits, TextCache(present, run.caches), run.weights)

    def logits(self, hidden: Tensor) -> Tensor:
        """Normed states (..., D) -> (..., V), by the token embedding."""
        return hidden @ self.tokens.weight.T

    # --- scoring

    def scores(self, windows: Windows, local_layers: int = 0) -> Tensor:
        """The last layer's logits (B, C), after this many local layers."""
        return [*self.exits(windows, local_layers)][-1]

    def exits(self, windows: Windows, local_layers: int = 0) -> Iterator[Tensor]:
        """Logits (B, C) of one joint layer after the other: a caller may exit early. InputError without score heads."""
        if not self.heads:
            raise InputError("this network has no score heads: make it with scores=True, and train it.")
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
        present, positions = tokens != PAD, torch.arange(tokens.shape[1], device=tokens.device)
        present[:, 0] = True  # an empty segment attends to itself, and no other token attends to it
        run = self.blocks(self.embed(tokens), masks.segment(present), positions, last=layers)
        return run.states.index_select(0, rows)

    def joint(self, states: Tensor, present: Tensor, source: int, local_layers: int) -> Iterator[Tensor]:
        """The layers after the local ones: states (B, S + C, L, D), the first S = `source` segments are the source."""
        n, length = present.shape[1:]
        segment = self.segments.weight
        segments = torch.cat((segment[:source], segment[-1:].expand(n - source, -1)))  # (S + C, D)
        x = (states + segments[:, None]).flatten(1, 2)  # (B, S + C, L, D) -> (B, (S + C)·L, D)
        mask = masks.candidates(present[:, :source].flatten(1), present[:, source:])
        positions = torch.arange(length, device=x.device).repeat(n)  # in each segment from 0
        first = slice(source * length, None, length)  # the candidates' first tokens, which the scores are read from
        for layer in range(local_layers, self.depth):
            if layer + 1 < self.depth:
                x = self.blocks(x, mask, positions, first=layer, last=layer + 1).states
                scored = x[:, first]
            else:  # the last layer needs no other queries
                options = {"keys": (x, positions), "first": layer}
                scored = self.blocks(x[:, first], mask[:, :, first], positions[first], **options).states
            yield self.heads[layer](self.norm(scored)).squeeze(-1)


def positions_of(present: Tensor) -> Tensor:
    """(B, T) bool -> (B, T) positions that count present tokens only, from 0: padding moves nothing."""
    return (present.long().cumsum(1) - 1).clamp(min=0)
