"""Attention, written once: `attend` computes it, masks say what may attend to what.

Every network stacks the same `Block`. Its masks are Boolean, (Tq, Tk) or (B, 1, Tq, Tk), True where a row's query may
attend to a column's key. Rotary positions need no table: a served prefix can be cached and extended."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from m6rec.config import Config, InputError


class KVCache(NamedTuple):
    k: Tensor  # (B, H, Tk, D/H)
    v: Tensor  # (B, H, Tk, D/H)

    def extend(self, other: "KVCache") -> "KVCache":
        """Then the other's tokens; one row here may stand for all."""
        k, v = (part.expand(len(other.k), -1, -1, -1) for part in self)
        return KVCache(torch.cat((k, other.k), -2), torch.cat((v, other.v), -2))

    def index_select(self, rows: Tensor) -> "KVCache":
        return KVCache(self.k.index_select(0, rows), self.v.index_select(0, rows))


class Attended(NamedTuple):
    """What attention or a layer returns."""

    out: Tensor  # of attention (B, H, Tq, d), of a layer (B, Tq, D)
    weights: Tensor | None  # (B, H, Tq, Tk), rows sum to 1, or 0 where every key is masked
    cache: KVCache | None = None  # of a layer: what its queries attended to


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, weights: bool = False) -> Attended:
    """softmax(QKᵀ/√d_k + mask) V: Vaswani et al. 2017, eq. 1.

    q (B, H, Tq, d), k and v (B, H, Tk, d), mask broadcastable to (B, H, Tq, Tk). A query without any key gets zeros."""
    if mask is not None and mask.shape[-1] != k.shape[-2]:
        raise InputError(f"the mask has {mask.shape[-1]} columns for {k.shape[-2]} keys: give each key one.")
    if not weights:
        return Attended(nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask), None)
    logits = q @ k.mT / q.shape[-1] ** 0.5  # (B, H, Tq, Tk)
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    probabilities = logits.softmax(-1).nan_to_num(0.0)  # a row without a visible key is 0/0
    return Attended(probabilities @ v, probabilities)


def rotate(x: Tensor, positions: Tensor | None) -> Tensor:
    """Rotary embedding (Su et al. 2021, eq. 34): x (B, H, T, d), positions (T,) or (B, T); None: x as it is.

    Products of rotated vectors depend on differences of positions alone."""
    if positions is None:
        return x
    half = x.shape[-1] // 2
    speed = 1000.0 ** -(torch.arange(half, device=positions.device, dtype=torch.float32) / half)
    angle = positions[..., None].float() * speed  # (T, d/2) or (B, T, d/2)
    if angle.dim() == 3:
        angle = angle.unsqueeze(1)  # the same for all heads
    (a, b), cos, sin = x.chunk(2, -1), angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)


class Block(nn.Module):
    """Attention, then a feed-forward net, each normed before (RMSNorm, Zhang & Sennrich 2019), gated and added.

    Gates as in LiGR (Borisyuk et al. 2025, section 3.2): sigmoids of each one's input."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.heads = heads
        self.norm = nn.RMSNorm(width)
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, width)
        self.ffn_norm = nn.RMSNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.ffn_gate = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def prefill(self, x: Tensor, positions: Tensor | None = None) -> KVCache:
        return self._keys_values(self.norm(x), positions)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, positions: Tensor | None = None, *,
        keys: tuple[Tensor, Tensor] | None = None, past: KVCache | None = None, weights: bool = False,
    ) -> Attended:  # fmt: skip
        """One layer of `Stack.forward`."""
        normed = self.norm(x)
        cache = self._keys_values(normed, positions) if keys is None else self.prefill(*keys)
        if past is not None:
            cache = past.extend(cache)
        attended = attend(rotate(self._split(self.q(normed)), positions), *cache, mask, weights=weights)
        joined = attended.out.transpose(1, 2).flatten(2)  # (B, H, T, D/H) -> (B, T, D)
        x = x + self.dropout(self.out(joined) * self.gate(normed).sigmoid())
        normed = self.ffn_norm(x)
        x = x + self.dropout(self.ffn(normed) * self.ffn_gate(normed).sigmoid())
        return Attended(x, attended.weights, cache)

    def _keys_values(self, normed: Tensor, positions: Tensor | None) -> KVCache:
        k, v = self._split(self.kv(normed)).chunk(2, -1)
        return KVCache(rotate(k, positions), v)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, T, D) -> (B, H, T, D/H)


class Run(NamedTuple):
    states: Tensor  # (B, T, D) after the last of them
    caches: list[KVCache]  # of each layer: the `past` of the tokens that follow
    weights: list[Tensor]  # of each layer (B, H, T, Tk), if asked for


class Stack(nn.ModuleList):
    """`layers` blocks; shared: one block serves as every layer (ALBERT, Lan et al. 2020)."""

    def __init__(self, config: Config, layers: int, *, shared: bool = False, block: Callable[..., nn.Module] = Block):
        self.depth = layers
        own = range(min(layers, 1) if shared else layers)
        super().__init__(block(config.width, config.heads, config.dropout) for _ in own)

    @classmethod
    def of(cls, blocks: Sequence[nn.Module]) -> "Stack":
        """Of blocks that another stack has, too."""
        stack = cls.__new__(cls)
        nn.ModuleList.__init__(stack, blocks)
        stack.depth = len(blocks)
        return stack

    def forward(
        self, x: Tensor, mask: Tensor | None = None, positions: Tensor | None = None, *,
        keys: tuple[Tensor, Tensor] | None = None, past: Sequence[KVCache] | None = None, first: int = 0,
        last: int | None = None, weights: bool = False,
    ) -> Run:  # fmt: skip
        """Tokens x (B, T, D) through the layers first..last-1, by default all.

        They attend to `past`, then to themselves, where mask (..., T, Tk) is True. positions: (T,) or (B, T).
        keys: other tokens (B, K, D) and their positions, in place of x. past: these layers' caches so far."""
        run = Run(x, [], [])
        for i, layer in enumerate(range(self.depth)[first:last]):
            block, known = self[layer % len(self)], past[i] if past else None
            out, seen, cache = block(run.states, mask, positions, keys=keys, past=known, weights=weights)
            run = Run(out, [*run.caches, cache], [*run.weights, seen] if weights else [])
        return run


def segment_mask(present: Tensor) -> Tensor:
    """All present tokens of a segment are seen: (B, T) -> (B, 1, 1, T)."""
    return present[:, None, None, :]


def item_mask(present: Tensor, modality: Tensor, fusion: str) -> Tensor:
    """How an item's tokens see each other: present (N, L) bool, modality (L,) of each -> (N, 1, L or 1, L).

    "joint": each sees all. "gated": its own modality only. "cross": itself and the other modalities."""
    if fusion == "joint":
        return segment_mask(present)
    same = modality[:, None] == modality
    may = same if fusion == "gated" else ~same | torch.eye(len(modality), dtype=torch.bool, device=modality.device)
    return may & segment_mask(present)


def causal_mask(length: int, device: torch.device | None = None) -> Tensor:
    """A token sees itself and those before: (T, T)."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def unilm_mask(source: Tensor, target: Tensor, among: Tensor | None = None) -> Tensor:
    """A bidirectional source, then an autoregressive target: UniLM (Dong et al. 2019, figure 1), M6-Rec section 3.1.

    source (B, S), target (B, T) bool, where a token is present -> (B, 1, S + T, S + T). among (T, T): instead of
    `causal_mask`."""
    s, t = source.shape[1], target.shape[1]
    among = causal_mask(t, source.device) if among is None else among
    see = torch.cat((among.new_ones(s + t, s), torch.cat((among.new_zeros(s, t), among))), 1)
    return see & segment_mask(torch.cat((source, target), 1))


def candidate_mask(source: Tensor, candidate: Tensor) -> Tensor:
    """A candidate's tokens see the source and each other; the source sees itself.

    source (B, S), candidate (B, C, L) bool -> (B, 1, S + C·L, S + C·L)."""
    _, c, length = candidate.shape
    own = torch.eye(c, dtype=torch.bool, device=source.device).repeat_interleave(length, 0)
    return unilm_mask(source, candidate.flatten(1), own.repeat_interleave(length, 1))


def target_mask(profile: Tensor, history: Tensor, fields: Tensor, position: Tensor) -> Tensor:
    """A target sees the profile, as many events as its position says, and the fields of its own request.

    profile (B, C), history (B, T), fields (B, Q, R) bool, position (B, Q) in events -> (B, 1, Q, C + T + Q·R). In
    training, target t has position t: its own event is hidden from it."""
    q, r = fields.shape[1:]
    before = torch.arange(history.shape[1], device=history.device) < position[..., None]  # (B, Q, T)
    own = torch.eye(q, dtype=torch.bool, device=history.device).repeat_interleave(r, 1)  # (Q, Q·R)
    see = profile[:, None].expand(-1, q, -1), before & history[:, None], own & fields.flatten(1)[:, None]
    return torch.cat(see, -1).unsqueeze(1)
