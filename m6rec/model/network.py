"""The network, from top to bottom: item encoder, context fusion, decoders; dense and generated recommendation.

- one `Stack` and one `attend` under every mask
- item ids travel, digits do not: the tree belongs to the decoder, and data never knows it
- items are encoded once per step for all events that hold them, grouped by the modalities and text lengths they have
- context fusion (the source document's section 3.3.2) has two streams that share blocks. The *history stream* holds
  profile and events and never sees a request, so its cache serves every later request. The *target stream* has one
  token per target, which attends to the profile, to the events before it and to its own request. One pass answers
  every target, and nothing of event t reaches target t.
"""

import copy
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m6rec.config import MODALITIES, Config
from m6rec.data.context import Context, Fields
from m6rec.data.features import FILE_MODALITIES, Features
from m6rec.model import masks
from m6rec.model.attention import KVCache, Stack
from m6rec.model.embed import Encoded, ItemEncoder
from m6rec.model.heads import ContentDecoder, DigitDecoder
from m6rec.model.tree import Tree, insert, widths_for

STEP = 8  # text lengths are rounded up to multiples of this many tokens, so that items fall into few groups


class Fused(NamedTuple):
    """One state per target, before anything is generated."""

    state: Tensor  # (B, Q, D)
    # Per joint layer (B, H, Q, C + T + Q·R), or empty; the order of columns is `masks.targets`'s.
    weights: list[Tensor]
    # The history stream's, per joint layer but the last, where it has no queries: (B, H, C + T, C + T), or empty.
    history: list[Tensor]


class History(NamedTuple):
    """The history stream, read: all that a later request needs of it."""

    caches: list[KVCache]  # one per joint layer, over C + T tokens
    recent: Tensor  # (B, 1 + T, D): the start token, and the mean of the events up to each, weighted by recency
    present: Tensor  # (B, C + T) bool
    weights: list[Tensor]  # see `Fused.history`


class ContextFusion(nn.Module):
    """fuse(context, items): events, profile and requests -> one state per target.

    `context_fusion` says how a request enters its target; the parameters are the same but for one gate. "adding" adds
    its fields to what the target begins with, "gating" scales them by a gate first, "attention" adds them and also lets
    the target attend to their tokens in every layer. It begins with the mean of the events before it, each weighted
    `recency` times as much as the next: what a count of co-occurrences reads (`baselines.CoOccurrence`).
    """

    def __init__(self, config: Config, fields: Fields):
        super().__init__()
        width = config.width
        self.start = nn.Parameter(torch.empty(width))  # always present, even without profile and history
        self.value = nn.Embedding(fields.value.size, width, padding_idx=0)
        self.gap = nn.Embedding(fields.gap.size, width, padding_idx=0)
        self.profile = nn.ModuleList(nn.Embedding(f.size, width, padding_idx=0) for f in fields.profile)
        self.request = nn.ModuleList(nn.Embedding(f.size, width, padding_idx=0) for f in fields.request)
        self.mode, self.recency = config.context_fusion, config.recency
        self.gate = nn.Linear(width, width) if self.mode == "gating" and fields.request else None
        self.joint = Stack(config, config.joint_layers)
        self.norm = nn.RMSNorm(width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, context: Context, items: Tensor, *, weights: bool = False) -> Fused:
        """Fuse a context with item vectors (N, D), or with the vectors of its own events (B, T, D)."""
        return self.answer(self.read(context, items, weights=weights), context, weights=weights)

    def read(self, context: Context, items: Tensor, *, weights: bool = False) -> History:
        """The history stream: profile tokens attend to each other, events to the profile and the past."""
        # Not by indexing: threads would sum its gradient in an order that changes from run to run.
        vectors = F.embedding(context.item.clamp(min=0), items) if items.dim() == 2 else items  # (B, T, D)
        events = vectors + self.value(context.value) + self.gap(context.gap)
        start = self.start.expand(len(events), 1, -1)
        profile = [embed(code) for embed, code in zip(self.profile, context.profile.unbind(1), strict=True)]
        x = self.dropout(torch.cat((start, *(p.unsqueeze(1) for p in profile), events), 1))  # (B, C + T, D)
        profiled = torch.cat((torch.ones_like(context.item[:, :1], dtype=torch.bool), context.profile > 0), 1)  # (B, C)
        happened = context.item >= 0  # (B, T)
        mask = masks.unilm(profiled, happened)
        # Only distances between events matter; the profile shares position 0 with the first event.
        positions = (torch.arange(mask.shape[-1], device=x.device) - profiled.shape[1]).clamp(min=0)
        run = self.joint(x, mask, positions, last=-1, weights=weights)
        last = self.joint[-1].prefill(run.states, positions)  # this stream's output of the last layer has no use
        present = torch.cat((profiled, happened), 1)
        return History([*run.caches, last], self._recent(torch.cat((start, events), 1)), present, run.weights)

    def _recent(self, events: Tensor) -> Tensor:
        """The mean of the tokens up to each (B, 1 + T, D), weighted recency ^ events ago."""
        at = torch.arange(events.shape[1], device=events.device)
        share = (self.recency ** (at[:, None] - at).clamp(min=0).float()).tril()
        return share / share.sum(1, keepdim=True) @ events

    def answer(self, history: History, context: Context, *, weights: bool = False) -> Fused:
        """The target stream: one state per target, from a history stream that was read before."""
        position, request = context.position, context.request
        fields = [embed(code) for embed, code in zip(self.request, request.unbind(-1), strict=True)]
        before = position.unsqueeze(-1).expand(-1, -1, history.recent.shape[-1])  # (B, Q) -> (B, Q, D)
        x = history.recent.gather(1, before)  # the start token where there is no event
        if self.gate is not None:
            total = torch.stack(fields).sum(0)  # (B, Q, D)
            x = x + self.gate(x + total).sigmoid() * total
        else:
            for field in fields:
                x = x + field
        x = self.dropout(x)
        positions = position - 1  # a target has the position of its last event
        c = history.present.shape[1] - (history.recent.shape[1] - 1)
        visible = (request > 0) & (self.mode == "attention")  # else the sum above is all that enters
        mask = masks.targets(history.present[:, :c], history.present[:, c:], visible, position)
        tokens = torch.stack(fields, 2).flatten(1, 2) if fields else x[:, :0]  # R × (B, Q, D) -> (B, Q·R, D)
        keys = tokens, positions.repeat_interleave(len(fields), 1)
        run = self.joint(x, mask, positions, keys=keys, past=history.caches, weights=weights)
        return Fused(self.norm(run.states), run.weights, history.weights)


class Network(nn.Module):
    """Tensors in, tensors out. `content` is the catalogue's features, kept on the network's device.

    known (N,) bool: the items of the training set; the others have no ID embedding.
    """

    def __init__(
        self, config: Config, fields: Fields, content: Features, vocabulary: int, known: np.ndarray | None = None
    ):
        super().__init__()
        n = len(content.present)
        codes, present = (
            np.arange(n) if known is None else np.where(known, np.arange(n), -1),
            np.asarray(content.present),
        )
        self.register_buffer("codes", torch.as_tensor(codes), persistent=False)  # -1: no ID embedding
        files = [(m, MODALITIES.index(m)) for m in FILE_MODALITIES if m in config.modalities]
        sizes = {m: getattr(content, m).shape[1:] for m, number in files if present[:, number].any()}
        self.items = ItemEncoder(config, vocabulary, n, sizes)
        self.fusion = ContextFusion(config, fields)
        self.digits = DigitDecoder(config, widths_for(n, config.digits, config.free_leaves), n)
        self.text_decoder = ContentDecoder(config, {})
        self.patch_decoder = ContentDecoder(config, sizes) if sizes else None
        self._keep(content)
        for m, patch in self.items.patches.items():
            patch.fit(getattr(content, m)[present[:, MODALITIES.index(m)] & (codes >= 0)])
        self.initialise()

    def _keep(self, content: Features) -> None:
        """Items with equal content share one encoding, and contents of equal shape are encoded in one batch."""
        for name, values in content._asdict().items():
            self.register_buffer(f"content_{name}", torch.as_tensor(values), persistent=False)
        text, *others = (part.cpu().numpy() for part in self.content)
        rows = [b"".join(part.tobytes() for part in row) for row in zip(text, *others, strict=True)]
        number = pd.factorize(np.array(rows, dtype=object))[0]
        first = np.unique(number, return_index=True)[1]
        self.register_buffer("content_of", torch.as_tensor(number), persistent=False)  # (N,) the content of each item
        self.register_buffer("distinct", torch.as_tensor(first), persistent=False)  # an item of each content
        # Groups of contents by their modalities and their text length, rounded up to a multiple of STEP.
        lengths = np.minimum(text.shape[1], STEP * np.maximum(1, -(-(text[first] > 0).sum(1) // STEP)))
        used = [(m, MODALITIES.index(m)) for m in self.items.modalities]
        keys = [(int(n), *(m for m, i in used if row[i])) for n, row in zip(lengths, others[-1][first], strict=True)]
        self.groups = {key: np.flatnonzero([k == key for k in keys]) for key in sorted(set(keys))}

    @property
    def content(self) -> Features:
        """The catalogue's features."""
        return Features(*(getattr(self, f"content_{name}") for name in Features._fields))

    @torch.no_grad()
    def initialise(self) -> None:
        """Embeddings at std .02, linear maps at 1/√fan-in, biases 0; content starts small: no item dominates."""
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
                if module.padding_idx is not None:
                    module.weight[module.padding_idx] = 0
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.items.project[1].weight, std=0.02)
        patches = list(self.items.patches.values())
        small = [patch.mlp[-1].weight for patch in patches] + [self.items.query, self.fusion.start]
        for weight in (*small, *(patch.hidden for patch in patches), *self.digits.nodes):  # the scale of a word
            nn.init.normal_(weight, std=0.02)
        for bias in self.digits.bias:
            nn.init.zeros_(bias)

    @torch.no_grad()
    def start(self, vectors: Tensor) -> None:
        """Start at items' vectors (N, D), which become ID embeddings: content and joint layers add nothing to them yet.

        A row of zeros keeps its random start.
        """
        own = self.items.identity.weight
        own.copy_(torch.where(vectors.any(1, keepdim=True), vectors.to(own), own))
        silent = [linear for block in self.fusion.joint for linear in (block.out, block.ffn[-1])]
        for linear in (*silent, self.items.project[1]):
            nn.init.zeros_(linear.weight)

    def encode_items(self, *, drop: tuple[str, ...] = (), weights: bool = False, only: Tensor | None = None) -> Encoded:
        """The catalogue's vectors (N, D), with the modalities in `drop` masked for every item, in training at random.

        only (n,) codes in ascending order: of these items alone (n, D).
        """
        drop = drop or self.items.hidden_modalities()
        content = self.content.drop(*drop)
        if weights:  # all items in one batch, so that the weights have one shape
            return self.items(content, self.codes, weights=True)
        codes, content_of = self.codes, self.content_of
        rows = [torch.as_tensor(group, device=codes.device) for group in self.groups.values()]
        if only is not None:
            codes, content_of = codes[only], content_of[only]
            rows = [group[torch.isin(group, content_of)] for group in rows]
        parts = []
        for (length, *modalities), group in zip(self.groups, rows, strict=True):
            batch = content.take(self.distinct[group])
            batch = batch._replace(text=batch.text[:, :length])
            used = tuple(m for m in modalities if m not in drop)
            parts.append(self.items.content(batch, modalities=used).vectors)
        row = torch.full_like(self.distinct, -1)
        row[torch.cat(rows)] = torch.arange(sum(map(len, rows)), device=codes.device)
        # Not by indexing, as above.
        vectors = F.embedding(row[content_of], torch.cat(parts))
        return Encoded(vectors + self.items.id_embedding(codes), None, self.codes[:0])

    @torch.no_grad()
    def extended(self, content: Features, vectors: np.ndarray) -> "Network":
        """A copy with more items: `content` of all, `vectors` (n, D) of the new ones, which take free leaves."""
        nodes, digits = [node.cpu().numpy() for node in self.digits.nodes], self.digits
        tree = insert(Tree(digits.widths, digits.leaf.cpu(), digits.item.cpu()), nodes, vectors)
        new = copy.deepcopy(self).cpu()
        new._keep(content)
        new.codes = torch.cat((self.codes.cpu(), torch.full((len(vectors),), -1)))
        valid = self.digits.tree.valid_nodes()
        for level, at in enumerate(tree.prefixes(torch.arange(len(self.content_present), len(tree.leaf))).unbind(1)):
            empty = ~valid[level].cpu()[at]  # a node without items takes its first item's vector
            new.digits.nodes[level][at[empty]] = torch.from_numpy(vectors)[empty]
            new.digits.bias[level][at[empty]] = 0
        new.digits.leaf, new.digits.item = tree.leaf, tree.item
        return new

    def fuse(self, context: Context, items: Tensor, *, weights: bool = False) -> Fused:
        """One state per target: context, item vectors (N, D) -> (B, Q, D). The source document's `fuse`."""
        return self.fusion(context, items, weights=weights)

    @staticmethod
    def score(state: Tensor, items: Tensor) -> Tensor:
        """The dense head: states (..., D) and item vectors (N, D) -> logits (..., N)."""
        return state @ items.T
