"""Context meets items: the joint layers (the source document's section 3.3.2, "context fusion").

Two streams share the same blocks. The *history stream* holds profile and events; it never sees a request, so a
served prefix is computed once and kept. The *target stream* has one token per target, which looks at the profile, at
the events before it and at its own request. One pass answers every target, and nothing of event t reaches target t.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m6rec.config import Config
from m6rec.data.context import Context, Fields
from m6rec.model import masks
from m6rec.model.attention import Block, Memory


class Fused(NamedTuple):
    """What is known of each target before anything is generated."""

    state: Tensor  # (B, Q, D)
    # Per joint layer (B, H, Q, C + T + Q·R), or empty; the order of columns is `masks.targets`'s.
    weights: tuple[Tensor, ...]
    # The history stream's, per joint layer but the last, which reads nothing: (B, H, C + T, C + T), or empty.
    history: tuple[Tensor, ...] = ()


class History(NamedTuple):
    """The history stream after the joint layers' reading: all that a later request needs of it."""

    memories: tuple[Memory, ...]  # one per joint layer, over C + T tokens
    events: Tensor  # (B, 1 + T, D): the start token and the events, as they came in
    there: Tensor  # (B, C + T) bool: which tokens are present
    weights: tuple[Tensor, ...] = ()  # where it looked, if asked: see `Fused.history`


class ContextFusion(nn.Module):
    """fuse(context, items): events, profile and requests -> one state per target.

    Three ways for a request to meet its target, of the same parameters but for one gate: "adding" adds its fields to
    the last event, "gating" adds as much of them as a gate lets through, "attention" adds them and lets their tokens be
    looked at in every layer.
    """

    def __init__(self, config: Config, fields: Fields):
        super().__init__()
        width = config.width
        self.start = nn.Parameter(torch.empty(width))  # always present: a person without profile and history has it
        self.value = nn.Embedding(fields.value.size, width, padding_idx=0)
        self.gap = nn.Embedding(fields.gap.size, width, padding_idx=0)
        self.profile = nn.ModuleList(nn.Embedding(f.size, width, padding_idx=0) for f in fields.profile)
        self.request = nn.ModuleList(nn.Embedding(f.size, width, padding_idx=0) for f in fields.request)
        self.way = config.context_fusion
        self.gate = nn.Linear(width, width) if self.way == "gating" and fields.request else None
        self.joint = nn.ModuleList(Block(width, config.heads, config.dropout) for _ in range(config.joint_layers))
        self.norm = nn.RMSNorm(width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, context: Context, items: Tensor, *, weights: bool = False) -> Fused:
        """Fuse a context with item vectors (N, D), or with the vectors of its own events (B, T, D)."""
        return self.answer(self.read(context, items, weights=weights), context, weights=weights)

    def read(self, context: Context, items: Tensor, *, weights: bool = False) -> History:
        """The history stream: profile tokens see each other, events see the profile and the past."""
        # Not by indexing: threads sum its gradient in an order that changes from run to run.
        vectors = F.embedding(context.item.clamp(min=0), items) if items.dim() == 2 else items  # (B, T, D)
        events = vectors + self.value(context.value) + self.gap(context.gap)
        start = self.start.expand(len(events), 1, -1)
        profile = [embed(code) for embed, code in zip(self.profile, context.profile.unbind(1), strict=True)]
        x = self.dropout(torch.cat((start, *(p.unsqueeze(1) for p in profile), events), 1))  # (B, C + T, D)
        known = torch.cat((torch.ones_like(context.item[:, :1], dtype=torch.bool), context.profile > 0), 1)
        there = context.item >= 0
        mask = masks.prefix(known, there)
        places = _places(known.shape[1], there.shape[1], x.device)
        memories, maps = [], []
        for layer, block in enumerate(self.joint):
            memories.append(block.remember(x, places))
            if layer + 1 < len(self.joint):  # nobody reads the last layer's output of this stream
                x, seen = block(x, memories[-1], mask, places, weights=weights)
                maps.append(seen)
        looked = tuple(m for m in maps if m is not None)
        return History(tuple(memories), torch.cat((start, events), 1), torch.cat((known, there), 1), looked)

    def answer(self, history: History, context: Context, *, weights: bool = False) -> Fused:
        """The target stream: one state per target, from a history stream that was read before."""
        position, request = context.position, context.request
        fields = [embed(code) for embed, code in zip(self.request, request.unbind(-1), strict=True)]
        here = position.unsqueeze(-1).expand(-1, -1, history.events.shape[-1])  # (B, Q) -> (B, Q, D)
        x = history.events.gather(1, here)  # the last event that target may see; the start token where there is none
        if self.gate is not None:
            asked = torch.stack(fields).sum(0)
            x = x + self.gate(x + asked).sigmoid() * asked
        else:
            for field in fields:
                x = x + field
        x = self.dropout(x)
        places = position - 1  # a target stands where its last event stands
        c = history.there.shape[1] - (history.events.shape[1] - 1)
        visible = (request > 0) & (self.way == "attention")  # else a request is met at the start alone
        mask = masks.targets(history.there[:, :c], history.there[:, c:], visible, position)
        maps = []
        for block, memory in zip(self.joint, history.memories, strict=True):
            if fields:
                tokens = torch.stack(fields, 2).flatten(1, 2)  # R × (B, Q, D) -> (B, Q·R, D)
                memory = memory.extend(block.remember(tokens, places.repeat_interleave(len(fields), 1)))
            x, seen = block(x, memory, mask, places, weights=weights)
            maps.append(seen)
        return Fused(self.norm(x), tuple(m for m in maps if m is not None), history.weights)


def _places(profile: int, events: int, device: torch.device) -> Tensor:
    """Rotary positions: the profile stands at 0 with the first event; only distances between events matter."""
    return torch.cat((torch.zeros(profile, dtype=torch.long), torch.arange(events))).to(device)
