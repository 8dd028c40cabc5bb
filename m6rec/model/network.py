"""The model: items, context, digits, contents, and texts.

- an item's text, image and sound tokens run through the local layers; then an [ITEM] token attends to them and becomes
  its vector. `item_mask` says how they fuse. A step encodes an item once
- context fusion has two streams that share blocks. The *history stream*, profile and events, never sees a request: its
  cache serves all later ones. The *target stream* has a token per target. It attends to the profile, the events before
  it and its own request: one pass answers all
- over texts the same stack reads a source, then writes a target or scores candidates. The first layers may encode each
  segment apart, to be cached (late interaction)"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m6rec.config import MODALITIES, Array, Config, InputError
from m6rec.data.context import Context, Fields
from m6rec.data.features import FILE_MODALITIES, Features
from m6rec.data.prompts import Windows
from m6rec.data.text import PAD
from m6rec.model.attention import KVCache, Run, Stack, candidate_mask, item_mask, segment_mask, target_mask, unilm_mask
from m6rec.model.tree import DigitDecoder, widths_for

STEP = 8  # texts are cut at multiples of so many tokens: items fall into few groups
SOURCE, TARGET = 0, 1  # segments of a written text


class Tokens(NamedTuple):
    x: Tensor  # (N, L, D)
    present: Tensor  # (N, L) bool
    modality: Tensor  # (L,) each token's among MODALITIES
    positions: Tensor  # (L,) rotary positions, from 1 in each modality


class Encoded(NamedTuple):
    vectors: Tensor  # (N, D)
    weights: Tensor | None = None  # (N, H, 1, L) over the tokens, if asked for
    modality: Tensor | None = None  # (L,) of these

    def modality_weights(self) -> Tensor:
        """The attention on each of MODALITIES, mean over heads: (N, M).

        Rows sum to 1; with "cross" the first modality, the query, has no share."""
        weights = self.weights.mean(1).squeeze(1)  # (N, L)
        return weights @ F.one_hot(self.modality, len(MODALITIES)).to(weights)


class PatchEmbedding(nn.Module):
    """Patches (N, P, size) -> tokens (N, P, D)."""

    def __init__(self, patches: int, size: int, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(size, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.position = nn.Embedding(patches, width)
        self.hidden = nn.Parameter(torch.empty(width))
        # The squared error of predicting the mean patch.
        self.register_buffer("variance", torch.ones(patches), persistent=False)

    def forward(self, patches: Tensor, hidden: Tensor | None = None) -> Tensor:
        """hidden (N, P) bool: of these, only the position is given."""
        x = self.mlp(patches)
        if hidden is not None:
            x = torch.where(hidden[..., None], self.hidden, x)
        return x + self.position.weight


class ItemEncoder(nn.Module):
    """`Features` -> item vectors (N, D). sizes: (patches, values) of image and sound, if any."""

    def __init__(self, config: Config, vocabulary: int, items: int, sizes: dict[str, tuple[int, int]]):
        super().__init__()
        width = config.width
        self.config = config
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

    def id_embedding(self, codes: Tensor) -> Tensor:
        """(N, D), 0 for codes of -1."""
        if self.identity is None:
            return self.query.new_zeros(len(codes), len(self.query))
        return self.identity(codes.clamp(min=0)) * (codes >= 0)[:, None]

    def forward(
        self, content: Features, *, modalities: tuple[str, ...] | None = None, weights: bool = False
    ) -> Encoded:
        """Without IDs. modalities: those that any of these items has, if known."""
        if not self.modalities:  # only the ID embedding is left
            return Encoded(self.query.new_zeros(len(content.present), len(self.query)))
        if self.training and self.config.modality_dropout and len(self.modalities) > 1:
            content = self._drop_modalities(content)
        tokens = self.embed(content, modalities=modalities)
        if self.bag is not None:
            if weights:
                raise InputError("with local_layers=0 an item is a bag of tokens without attention: take 1 or more.")
            mean = self._means(tokens.x, tokens)[0].mean(1)
            return Encoded(mean + self.bag(mean))
        mask, positions = item_mask(tokens.present, tokens.modality, self.config.fusion), tokens.positions
        x = self.local(tokens.x, mask, positions, last=-1).states
        # In the last local layer only [ITEM], at position 0, is a query.
        means, own = self._means(x, tokens)
        query, seen = means.mean(1, keepdim=True), tokens.present[:, None]  # (N, 1, D), (N, 1, L)
        if self.config.fusion == "cross" and len(self.modalities) > 1:  # the first modality is the query
            query, seen = means[:, :1], seen & ~own[:, :1]
        elif self.gate is not None:  # late fusion: one [ITEM] for each modality, (N, M, D), (N, M, L)
            query, seen = means, seen & own
        query = self.query + self.mean_norm(query)
        run = self.local(query, seen[:, None], positions[:1] - 1, keys=(x, positions), first=-1, weights=weights)
        share = torch.ones_like(run.states[..., :1])
        if self.gate is not None:  # and a gate that weighs their outputs
            share = self.gate(run.states).masked_fill(~seen.any(-1, keepdim=True), -1e9).softmax(1)  # (N, M, 1)
        mass = torch.einsum("nhml,nm->nhl", run.weights[0], share[..., 0])[:, :, None] if weights else None
        return Encoded(self.project((share * run.states).sum(1)), mass, tokens.modality)

    def embed(
        self, content: Features, hidden: dict[str, Tensor] | None = None, modalities: tuple[str, ...] | None = None
    ) -> Tokens:
        """Before any layer. hidden: of each modality, as in `PatchEmbedding`."""
        parts = []
        for m in self.modalities if modalities is None else modalities or self.modalities[:1]:  # or empty tokens
            number, raw = MODALITIES.index(m), getattr(content, m)
            present = content.present[:, number, None].expand(-1, raw.shape[1])
            x = self.tokens(raw) if m == "text" else self.patches[m](raw, (hidden or {}).get(m))
            present = present & (raw > 0) if m == "text" else present
            positions = torch.arange(1, raw.shape[1] + 1, device=raw.device)
            parts.append((x + self.modality.weight[number], present, torch.full_like(positions, number), positions))
        x, present, numbers, positions = zip(*parts, strict=True)
        return Tokens(torch.cat(x, 1), torch.cat(present, 1), torch.cat(numbers), torch.cat(positions))

    def _means(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Each modality's mean token or absent vector (N, M, D), and its tokens (1, M, L) bool."""
        numbers = torch.tensor([MODALITIES.index(m) for m in self.modalities], device=x.device)
        own = (tokens.modality == numbers[:, None])[None]
        picked = (own & tokens.present[:, None]).to(x.dtype)  # (N, M, L)
        count = picked.sum(-1, keepdim=True)
        return torch.where(count > 0, picked @ x / count.clamp(min=1), self.absent(numbers)), own

    def hidden_modalities(self) -> tuple[str, ...]:
        """What this step drops of every item: some in a share of the steps, never all."""
        count, share = len(self.modalities), self.config.catalogue_dropout
        if not self.training or not share or count < 2 or torch.rand(()) >= share:
            return ()
        return tuple(self.modalities[i] for i in torch.randperm(count)[: int(torch.randint(1, count, ()))])

    def _drop_modalities(self, content: Features) -> Features:
        kept = torch.rand_like(content.present, dtype=torch.float) >= self.config.modality_dropout
        remaining = content.present & kept
        return content._replace(present=torch.where(remaining.any(1, keepdim=True), remaining, content.present))


class Fused(NamedTuple):
    state: Tensor  # (B, Q, D)
    weights: list[Tensor]  # per joint layer (B, H, Q, C + T + Q·R) as in `target_mask`, or empty
    history: list[Tensor]  # the history's: (B, H, C + T, C + T) per joint layer but the last, or empty


class History(NamedTuple):
    """The history stream, for later requests."""

    caches: list[KVCache]  # one per joint layer, over C + T tokens
    recent: Tensor  # (B, 1 + T, D): the start token, then weighted means of the events up to each
    present: Tensor  # (B, C + T) bool
    weights: list[Tensor]  # see `Fused.history`


class ContextFusion(nn.Module):
    """Events, profile and requests -> one state per target.

    A target begins with the mean of the events before it, each weighted `recency` times the next. "adding" adds the
    fields of its request, "gating" scales them first, "attention" also attends to them in every layer."""

    def __init__(self, config: Config, fields: Fields):
        super().__init__()
        width = config.width
        self.start = nn.Parameter(torch.empty(width))  # always present
        self.value = nn.Embedding(fields.value.size, width, padding_idx=0)
        self.gap = nn.Embedding(fields.gap.size, width, padding_idx=0)
        self.profile = nn.ModuleList(nn.Embedding(f.size, width, padding_idx=0) for f in fields.profile)
        self.request = nn.ModuleList(nn.Embedding(f.size, width, padding_idx=0) for f in fields.request)
        self.mode, self.recency, self.known = config.context_fusion, config.recency, config.history_fields
        self.gate = nn.Linear(width, width) if self.mode == "gating" and fields.request else None
        self.joint = Stack(config, config.joint_layers)
        self.norm = nn.RMSNorm(width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, context: Context, items: Tensor, *, weights: bool = False) -> Fused:
        """items: (N, D), or of the context's own events (B, T, D)."""
        return self.answer(self.read(context, items, weights=weights), context, weights=weights)

    def read(self, context: Context, items: Tensor, *, weights: bool = False) -> History:
        """Profile tokens see each other, events the profile and the past."""
        # Not by indexing, whose gradient is summed in an order that changes.
        vectors = F.embedding(context.item.clamp(min=0), items) if items.dim() == 2 else items  # (B, T, D)
        events = vectors + self.value(context.value) + self.gap(context.gap) if self.known else vectors
        start = self.start.expand(len(events), 1, -1)
        profile = [embed(code) for embed, code in zip(self.profile, context.profile.unbind(1), strict=True)]
        x = self.dropout(torch.cat((start, *(p.unsqueeze(1) for p in profile), events), 1))  # (B, C + T, D)
        profiled, happened = F.pad(context.profile > 0, (1, 0), value=True), context.item >= 0  # (B, C), (B, T)
        mask = unilm_mask(profiled, happened)
        # The profile shares position 0 with the first event.
        positions = (torch.arange(mask.shape[-1], device=x.device) - profiled.shape[1]).clamp(min=0)
        run = self.joint(x, mask, positions, last=-1, weights=weights)
        last = self.joint[-1].prefill(run.states, positions)  # nobody needs the last output
        events, present = torch.cat((start, events), 1), torch.cat((profiled, happened), 1)
        at = torch.arange(events.shape[1], device=x.device)
        share = (self.recency ** (at[:, None] - at).clamp(min=0).float()).tril()
        recent = (share / share.sum(1, keepdim=True) @ events).to(events.dtype)  # a product may be in bf16
        return History([*run.caches, last], recent, present, run.weights)

    def answer(self, history: History, context: Context, *, weights: bool = False) -> Fused:
        """The target stream."""
        position, request = context.position, context.request
        fields = [embed(code) for embed, code in zip(self.request, request.unbind(-1), strict=True)]
        before = position.unsqueeze(-1).expand(-1, -1, history.recent.shape[-1])  # (B, Q) -> (B, Q, D)
        x = history.recent.gather(1, before)  # the start token where there is no event
        if self.gate is None:
            x = sum(fields, x)
        else:
            total = torch.stack(fields).sum(0)  # (B, Q, D)
            x = x + self.gate(x + total).sigmoid() * total
        x = self.dropout(x)
        positions = position - 1  # a target has the position of its last event
        profiled, happened = history.present.tensor_split([history.present.shape[1] + 1 - history.recent.shape[1]], 1)
        visible = (request > 0) & (self.mode == "attention")  # else the sum above is all that enters
        mask = target_mask(profiled, happened, visible, position)
        tokens = torch.stack(fields, 2).flatten(1, 2) if fields else x[:, :0]  # R × (B, Q, D) -> (B, Q·R, D)
        keys = tokens, positions.repeat_interleave(len(fields), 1)
        run = self.joint(x, mask, positions, keys=keys, past=history.caches, weights=weights)
        return Fused(self.norm(run.states), run.weights, history.weights)


class TextCache(NamedTuple):
    present: Tensor  # (B, T) bool
    layers: list[KVCache]

    def index_select(self, rows: Tensor) -> "TextCache":
        return TextCache(self.present.index_select(0, rows), [layer.index_select(rows) for layer in self.layers])


class TextOutput(NamedTuple):
    hidden: Tensor  # (B, S + T, D) of source and target, normed
    logits: Tensor | None  # (B, T, V) of the token after each target token
    cache: TextCache
    weights: list[Tensor]  # of each layer, if asked for


class ContentDecoder(nn.Module):
    """An item with gaps -> its words or patches. The items' local layers run first, and learn from it."""

    def __init__(self, config: Config, sizes: dict[str, tuple[int, int]]):
        super().__init__()
        self.blocks = Stack(config, config.decoder_layers)
        self.norm = nn.RMSNorm(config.width)
        self.output = nn.ModuleDict({m: nn.Linear(config.width, size) for m, (_, size) in sizes.items()})

    def write(self, items: ItemEncoder, source: Features, target: Tensor) -> tuple[TextOutput, Tensor]:
        """Of an item with a gap in its text, ids (B, T) that fill it; also the first's position (1,)."""
        tokens, present = items.embed(source), target > 0
        x = torch.cat((tokens.x, items.tokens(target) + items.modality.weight[0]), 1)  # (B, L + T, D)
        first = tokens.positions.max()[None] + 1  # after the source's longest modality
        positions = torch.cat((tokens.positions, first + torch.arange(target.shape[1], device=x.device)))
        x, caches, _ = self._read(items, x, unilm_mask(tokens.present, present), positions)
        cache = TextCache(torch.cat((tokens.present, present), 1), caches)
        return TextOutput(x, x[:, len(tokens.positions) :] @ items.tokens.weight.T, cache, []), first

    def decode_step(
        self, items: ItemEncoder, target: Tensor, past: TextCache, position: Tensor, *, weights: bool = False
    ) -> TextOutput:
        """One more token (B, 1), at a position (1,)."""
        x, present = items.tokens(target) + items.modality.weight[0], torch.cat((past.present, target > 0), 1)
        x, caches, seen = self._read(items, x, segment_mask(present), position, past.layers, weights)
        return TextOutput(x, x @ items.tokens.weight.T, TextCache(present, caches), seen)

    def patches(self, items: ItemEncoder, content: Features, hidden: dict[str, Tensor]) -> dict[str, Tensor]:
        """All patches (N, P, values) of the modalities in `hidden`, masks (N, P) bool."""
        tokens = items.embed(content, hidden)
        x = self._read(items, tokens.x, segment_mask(tokens.present), tokens.positions).states
        return {m: self.output[m](x[:, tokens.modality == MODALITIES.index(m)]) for m in hidden}

    def _read(
        self, items: ItemEncoder, x: Tensor, mask: Tensor, positions: Tensor, past: Sequence[KVCache] = (),
        weights: bool = False,
    ) -> Run:  # fmt: skip
        depth = items.local.depth
        local = items.local(x, mask, positions, past=past[:depth], weights=weights)
        run = self.blocks(local.states, mask, positions, past=past[depth:], weights=weights)
        return Run(self.norm(run.states), [*local.caches, *run.caches], [*local.weights, *run.weights])


class Network(nn.Module):
    """content: the catalogue's, on the network's device. known (N,) bool: training items, with ID embeddings."""

    def __init__(self, config: Config, fields: Fields, content: Features, vocabulary: int, known: Array | None = None):
        super().__init__()
        n = len(content.present)
        codes = np.arange(n) if known is None else np.where(known, np.arange(n), -1)
        present = dict(zip(MODALITIES, np.asarray(content.present).T, strict=True))
        self.register_buffer("codes", torch.as_tensor(codes))  # -1: cold, without an ID embedding
        files = (m for m in FILE_MODALITIES if m in config.modalities and present[m].any())
        sizes = {m: getattr(content, m).shape[1:] for m in files}
        self.items = ItemEncoder(config, vocabulary, n, sizes)
        self.fusion = ContextFusion(config, fields)
        self.digits = DigitDecoder(config, widths_for(n, config.digits, config.free_leaves), n)
        self.text_decoder = ContentDecoder(config, {})
        self.patch_decoder = ContentDecoder(config, sizes) if sizes else None
        self.segments = nn.Embedding(2, config.width) if config.text_weight else None
        self._keep(content)
        for m, patch in self.items.patches.items():
            if len(seen := getattr(content, m)[present[m] & (codes >= 0)]):
                patch.variance = torch.as_tensor(seen.var(0).mean(-1))
        self.initialise()

    def _keep(self, content: Features) -> None:
        """Equal contents are encoded once, equal shapes together."""
        for name, values in content._asdict().items():
            self.register_buffer(f"content_{name}", torch.as_tensor(values), persistent=False)
        text, *others = (part.cpu().numpy() for part in self.content)
        rows, first = zip(text, *others, strict=True), {}
        same = [first.setdefault(b"".join(part.tobytes() for part in row), i) for i, row in enumerate(rows)]
        self.register_buffer("same", torch.tensor(same), persistent=False)  # (N,) the first of the same content
        # Groups of first items by text length and modalities.
        distinct, used = np.array([*first.values()]), [(m, MODALITIES.index(m)) for m in self.items.modalities]
        lengths = np.minimum(text.shape[1], STEP * np.maximum(1, -(-(text[distinct] > 0).sum(1) // STEP)))
        present = zip(lengths, others[-1][distinct], strict=True)
        keys = [(int(length), *(m for m, i in used if row[i])) for length, row in present]
        self.groups = {key: distinct[[k == key for k in keys]] for key in sorted(set(keys))}

    @property
    def text(self) -> "TextTransformer":
        """The same weights for prompts: token table, local layers, text decoder. InputError where none taught them."""
        if self.segments is None:
            raise InputError("this model has not learnt prompts in words: train one with text_weight=1.")
        config, decoder = self.items.config, self.text_decoder
        with torch.random.fork_rng(devices=()):  # all that is drawn is replaced
            network = TextTransformer(replace(config, joint_layers=1), 1)
        network.depth = config.local_layers + config.decoder_layers
        network.tokens, network.segments, network.norm = self.items.tokens, self.segments, decoder.norm
        network.blocks = Stack.of([*self.items.local, *decoder.blocks])
        return network.train(self.training)

    content = property(lambda self: Features(*(getattr(self, f"content_{name}") for name in Features._fields)))

    @torch.no_grad()
    def initialise(self) -> None:
        """Embeddings at std .02, linear maps at 1/√fan-in, biases 0; contents small: none dominates."""
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
                if module.padding_idx is not None:
                    module.weight[module.padding_idx] = 0
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        items, patches = self.items, self.items.patches.values()
        small = [items.project[1].weight, *(p.mlp[-1].weight for p in patches), items.query, self.fusion.start]
        for weight in (*small, *(p.hidden for p in patches), *self.digits.nodes):  # the scale of a word
            nn.init.normal_(weight, std=0.02)

    @torch.no_grad()
    def start(self, vectors: Tensor) -> None:
        """Vectors (N, D) become ID embeddings, but for zeros. Contents and joint layers add nothing yet."""
        silent = [linear for block in self.fusion.joint for linear in (block.out, block.ffn[-1])]
        if self.items.identity is not None:
            own = self.items.identity.weight
            own.copy_(torch.where(vectors.any(1, keepdim=True), vectors.to(own), own))
            silent.append(self.items.project[1])
        for linear in silent:
            nn.init.zeros_(linear.weight)

    def encode_items(self, *, drop: tuple[str, ...] = (), weights: bool = False, only: Tensor | None = None) -> Encoded:
        """The catalogue's vectors (N, D), or of the ascending codes `only` (n,).

        drop: modalities masked for every item; by default random ones in training."""
        drop = drop or self.items.hidden_modalities()
        content = self.content.drop(*drop)
        if weights:  # in one batch: the weights have one shape
            encoded = self.items(content, weights=True)
            return encoded._replace(vectors=encoded.vectors + self.items.id_embedding(self.codes))
        codes, same = self.codes, self.same
        rows = [torch.as_tensor(group, device=codes.device) for group in self.groups.values()]
        if only is not None:
            codes, same = codes[only], same[only]
            rows = [group[torch.isin(group, same)] for group in rows]
        parts = []
        for (length, *modalities), group in zip(self.groups, rows, strict=True):
            batch, used = content.take(group), tuple(m for m in modalities if m not in drop)
            parts.append(self.items(batch._replace(text=batch.text[:, :length]), modalities=used).vectors)
        order, row = torch.cat(rows), torch.empty_like(self.same)
        row[order] = torch.arange(len(order), device=order.device)
        vectors = F.embedding(row[same], torch.cat(parts))  # not by indexing, as above
        return Encoded(vectors + self.items.id_embedding(codes))

    def extended(self, content: Features) -> "Network":
        """A copy on the CPU with other content. New items at the end have ID embeddings of 0."""
        new, more = copy.deepcopy(self).cpu(), len(content.present) - len(self.codes)
        new._keep(content)
        new.codes = torch.cat((new.codes, torch.full((more,), -1)))
        if (own := new.items.identity) is not None:
            own.weight = nn.Parameter(F.pad(own.weight.detach(), (0, 0, 0, more)))
        return new.eval()

    @staticmethod
    def score(state: Tensor, items: Tensor) -> Tensor:
        """The dense head: (..., D), (N, D) -> logits (..., N)."""
        return state @ items.T


class TextTransformer(nn.Module):
    """`config.joint_layers` blocks over texts: M6-Rec sections 3.1, 3.2 and, for late interaction, 4.1.

    scores: a head after each layer. shared: see `Stack`. embedding_size: of the token table; 0: the width."""

    def __init__(
        self, config: Config, vocabulary: int, *, scores: bool = False, shared: bool = False, embedding_size: int = 0
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
        std = 0.02 if scores else width**-0.5  # small: the first steps already change them much
        for embedding in (self.tokens, self.segments):
            nn.init.normal_(embedding.weight, std=std)
        for head in self.heads:
            nn.init.normal_(head.weight, 1 / width, 0.1 / width)  # at first nearly the cosine of a user and an item
        with torch.no_grad():
            self.tokens.weight[PAD] = 0

    device = property(lambda self: self.tokens.weight.device)

    def embed(self, tokens: Tensor, segment: int | None = None) -> Tensor:
        """Token ids (..., L) -> (..., L, D), plus the segment's embedding, if named."""
        x = self.widen(self.tokens(tokens))
        return self.dropout(x if segment is None else x + self.segments.weight[segment])

    # --- writing

    def forward(
        self, source: Tensor, target: Tensor | None = None, *, logits: bool = True, weights: bool = False
    ) -> TextOutput:
        """Token ids source (B, S), target (B, T), padded on the right. logits=False: states alone."""
        x, present, mask = self._tokens(source, target)
        run = self.blocks(x, mask, positions_of(present), weights=weights)
        return self._output(run, present, source.shape[1] if logits else None)

    def read(self, source: Tensor, target: Tensor | None = None, soft: Tensor | None = None) -> Tensor:
        """The state (B, D) of the last token; the last layer is run for it alone.

        soft: prompts (n, D) before every source."""
        x, present, mask = self._tokens(source, target, soft)
        positions, number = positions_of(present), torch.arange(present.shape[1], device=self.device)
        x = self.blocks(x, mask, positions, last=-1).states
        at = torch.arange(len(x), device=self.device)[:, None], (number * present).argmax(1, keepdim=True)  # (B, 1)
        run = self.blocks(x[at], segment_mask(present), positions[at], keys=(x, positions), first=-1)
        return self.norm(run.states.squeeze(1))

    def _tokens(self, source: Tensor, target: Tensor | None, soft: Tensor | None = None) -> tuple[Tensor, ...]:
        """Embedded tokens (B, S + T, D), which are present, and the mask."""
        target = source[:, :0] if target is None else target
        source, target = source.to(self.device), target.to(self.device)
        x = torch.cat((self.embed(source, SOURCE), self.embed(target, TARGET)), 1)
        read, begun = source != PAD, target != PAD
        if soft is not None:
            soft = (soft + self.segments.weight[SOURCE]).expand(len(source), -1, -1)  # (n, D) -> (B, n, D)
            x, read = torch.cat((soft, x), 1), torch.cat((read.new_ones(soft.shape[:2]), read), 1)
        return x, torch.cat((read, begun), 1), unilm_mask(read, begun)

    def decode_step(self, target: Tensor, past: TextCache, *, weights: bool = False) -> TextOutput:
        """More target tokens (B, T). One row of `past` serves all of target."""
        target, read = target.to(self.device), past.present.expand(len(target), -1)
        present, mask = torch.cat((read, target != PAD), 1), unilm_mask(read, target != PAD)
        new = slice(read.shape[1], None)
        positions = positions_of(present)[:, new]
        run = self.blocks(self.embed(target, TARGET), mask[:, :, new], positions, past=past.layers, weights=weights)
        return self._output(run, present, 0)

    def _output(self, run: Run, present: Tensor, first: int | None) -> TextOutput:
        hidden = self.norm(run.states)
        logits = None if first is None else self.logits(hidden[:, first:])
        return TextOutput(hidden, logits, TextCache(present, run.caches), run.weights)

    def logits(self, hidden: Tensor) -> Tensor:
        """By the token embedding: (..., D) -> (..., V)."""
        return hidden @ self.tokens.weight.T

    # --- scoring

    def scores(self, windows: Windows, local_layers: int = 0) -> Tensor:
        return [*self.exits(windows, local_layers)][-1]

    def exits(self, windows: Windows, local_layers: int = 0) -> Iterator[Tensor]:
        """Logits (B, C) of one joint layer after the other. InputError without score heads."""
        if not self.heads:
            raise InputError("this network has no score heads: make it with scores=True, and train it.")
        segments = torch.cat((windows.source, windows.candidates), 1).to(self.device)  # (B, S + C, L)
        states = self.local(segments.flatten(0, 1), local_layers).unflatten(0, segments.shape[:2])
        return self.joint(states, segments != PAD, windows.source.shape[1], local_layers)

    def local(self, tokens: Tensor, layers: int) -> Tensor:
        """Segments (n, L) through the first layers, apart: (n, L, D)."""
        if not 0 <= layers < self.depth:
            raise InputError(f"{layers} local layers do not fit {self.depth} layers: take 0 to {self.depth - 1}.")
        tokens = tokens.to(self.device)
        if not layers:
            return self.embed(tokens)
        tokens, rows = tokens.unique(dim=0, return_inverse=True)  # each distinct segment is encoded once
        present, positions = tokens != PAD, torch.arange(tokens.shape[1], device=tokens.device)
        present[:, 0] = True  # an empty segment attends to itself
        run = self.blocks(self.embed(tokens), segment_mask(present), positions, last=layers)
        return run.states.index_select(0, rows)

    def joint(self, states: Tensor, present: Tensor, source: int, local_layers: int) -> Iterator[Tensor]:
        """`exits` of states (B, S + C, L, D) after the local layers; S = `source`.

        A head reads the product of the candidate's and the profile's first token."""
        (n, length), segment = present.shape[1:], self.segments.weight
        segments = torch.cat((segment[:source], segment[-1:].expand(n - source, -1)))  # (S + C, D)
        x = (states + segments[:, None]).flatten(1, 2)  # (B, S + C, L, D) -> (B, (S + C)·L, D)
        mask = candidate_mask(present[:, :source].flatten(1), present[:, source:])
        positions = torch.arange(length, device=x.device).repeat(n)  # in each segment from 0
        first, keys = [0, *range(source * length, n * length, length)], None  # the profile's and the candidates'
        for layer in range(local_layers, self.depth):
            if layer + 1 == self.depth:  # the last layer needs no other queries
                keys, x, mask, positions = (x, positions), x[:, first], mask[:, :, first], positions[first]
                first = slice(None)
            x = self.blocks(x, mask, positions, keys=keys, first=layer, last=layer + 1).states
            user, candidates = self.norm(x[:, first]).split((1, n - source), 1)
            yield self.heads[layer](user * candidates).squeeze(-1)


def positions_of(present: Tensor) -> Tensor:
    """Present (B, T) bool -> positions (B, T) that count only these, from 0."""
    return (present.long().cumsum(1) - 1).clamp(min=0)
