"""Attention, written once: `attend` computes it, `Block` wraps it, and masks say everything else.

- one function for every attention in m6rec: text, profile, history, target, digits
- the fast path is PyTorch's fused kernel; asked for weights, the same formula runs in the open
- rotary positions: relative order without a table, so that a served prefix can be cached and extended
- LiGR gates: each sub-layer's output passes a sigmoid gate of its own input before it is added
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m6rec.config import Config

Angles = tuple[Tensor, Tensor]  # cosines and sines, (T, d/2) or (B, 1, T, d/2)
FEW_KEYS = 8  # up to this many, one query's products by hand take half of the fused kernel's time


class Attended(NamedTuple):
    """What attention returns: nothing is kept on a module, so nothing goes stale."""

    out: Tensor  # (B, ..., Tq, D)
    weights: Tensor | None  # (B, H, Tq, Tk), rows sum to 1, or to 0 where every key is masked; or None


class KVCache(NamedTuple):
    """Keys and values that one layer has already computed."""

    k: Tensor  # (B, H, Tk, D/H)
    v: Tensor  # (B, H, Tk, D/H)

    def extend(self, other: "KVCache") -> "KVCache":
        """These tokens, followed by the other's."""
        return KVCache(torch.cat((self.k, other.k), -2), torch.cat((self.v, other.v), -2))

    def index_select(self, rows: Tensor) -> "KVCache":
        """The caches of these rows (n,) of the batch."""
        return KVCache(self.k.index_select(0, rows), self.v.index_select(0, rows))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, weights: bool = False) -> Attended:
    """softmax(QKᵀ/√d_k + mask) V.

    Shapes: q (B, H, Tq, d), k and v (B, H, Tk, d), mask broadcastable to (B, H, Tq, Tk), True where a query may attend.
    A query whose keys are all masked gets zeros. Source: Vaswani et al. 2017, eq. 1; source document, section 4.1.1.
    """
    if not weights and mask is None and q.shape[-2] == 1 and k.shape[-2] <= FEW_KEYS:
        logits = (q * k).sum(-1).movedim(-1, 0) / q.shape[-1] ** 0.5
        p = logits.softmax(0).movedim(0, -1).unsqueeze(-1)
        return Attended((p * v).sum(-2, keepdim=True), None)
    if not weights:
        return Attended(F.scaled_dot_product_attention(q, k, v, attn_mask=mask), None)
    logits = q @ k.mT / q.shape[-1] ** 0.5  # (B, H, Tq, Tk)
    if mask is not None:
        logits = logits.masked_fill(~mask, float("-inf"))
    probabilities = logits.softmax(-1).nan_to_num(0.0)  # a row without a visible key is 0/0: it gets nothing
    return Attended(probabilities @ v, probabilities)


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Rotary position embedding (RoPE): rotate each pair of channels by an angle that grows with the position.

    Shapes: x (B, H, T, d), positions (T,) or (B, T), in events. The product of two rotated vectors depends on the
    difference of their positions alone. Source: Su et al. 2021, eq. 34.
    """
    return _rotate_by(x, _angles(positions, x.shape[-1] // 2))


def _angles(positions: Tensor, half: int) -> Angles:
    """Cosine and sine of each pair's angle: (T,) -> (T, d/2), or (B, T) -> (B, 1, T, d/2), the same for all heads."""
    speed = 1000.0 ** -(torch.arange(half, device=positions.device, dtype=torch.float32) / half)
    angle = positions[..., None].float() * speed
    if angle.dim() == 3:
        angle = angle.unsqueeze(1)
    return angle.cos(), angle.sin()


def _rotate_by(x: Tensor, angles: Angles) -> Tensor:
    (a, b), (cos, sin) = x.chunk(2, -1), (part.to(x.dtype) for part in angles)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)


class Block(nn.Module):
    """One Transformer layer: attention, then a feed-forward net, each normed before, gated and added after.

    One class for local layers, joint layers and decoders. It can be called in two halves:
    `prefill` turns tokens into keys and values, `forward` lets queries attend to a `KVCache`.
    Source: LiGR (Borisyuk et al. 2025, section 3.2) for the gates; RMSNorm (Zhang & Sennrich 2019).
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0, expand: int = 4):
        super().__init__()
        self.heads, self.pairs = heads, width // heads // 2  # pairs of channels, which RoPE rotates together
        self.norm = nn.RMSNorm(width)
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, width)
        self.ffn_norm = nn.RMSNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, expand * width), nn.GELU(), nn.Linear(expand * width, width))
        self.ffn_gate = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def prefill(self, x: Tensor, positions: Tensor | None = None) -> KVCache:
        """Keys and values of tokens: (B, T, D) -> Memory of (B, H, T, D/H)."""
        return self._keys_values(self.norm(x), self._angles(positions))

    def forward(
        self,
        x: Tensor,
        cache: KVCache | None = None,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        *,
        weights: bool = False,
        adapter: Callable[[Tensor], Tensor] | None = None,
    ) -> Attended:
        """Let tokens x (B, T, D) attend to `cache` (by default to themselves) under `mask` (True = may attend).

        adapter: what is added to the feed-forward net's output, given its input.
        """
        normed = self.norm(x)
        cache = cache or self._keys_values(normed, self._angles(positions))
        return self._attend(x, normed, cache, mask, self._angles(positions), weights, adapter)

    def decode_step(self, x: Tensor, positions: Tensor, past: KVCache | None) -> tuple[Tensor, KVCache]:
        """Tokens x (B, 1, D) attend to themselves and to `past`: -> (B, 1, D), the cache of all of them."""
        normed, angles = self.norm(x), self._angles(positions)
        cache = self._keys_values(normed, angles)
        cache = past.extend(cache) if past else cache
        return self._attend(x, normed, cache, angles=angles).out, cache

    def _angles(self, positions: Tensor | None) -> Angles | None:
        return None if positions is None else _angles(positions, self.pairs)

    def _keys_values(self, normed: Tensor, angles: Angles | None) -> KVCache:
        k, v = self._split(self.kv(normed)).chunk(2, -1)
        return KVCache(k if angles is None else _rotate_by(k, angles), v)

    def _attend(
        self,
        x: Tensor,
        normed: Tensor,
        cache: KVCache,
        mask: Tensor | None = None,
        angles: Angles | None = None,
        weights: bool = False,
        adapter: Callable[[Tensor], Tensor] | None = None,
    ) -> Attended:
        q = self._split(self.q(normed))
        if angles is not None:
            q = _rotate_by(q, angles)
        attended = attend(q, cache.k, cache.v, mask, weights=weights)
        joined = attended.out.transpose(1, 2).flatten(2)  # (B, H, T, D/H) -> (B, T, D)
        x = x + self.dropout(self.out(joined) * self.gate(normed).sigmoid())
        normed = self.ffn_norm(x)
        fed = self.ffn(normed) if adapter is None else self.ffn(normed) + adapter(normed)
        x = x + self.dropout(fed * self.ffn_gate(normed).sigmoid())
        return Attended(x, attended.weights)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, T, D) -> (B, H, T, D/H)


class Stack(nn.ModuleList):
    """`layers` blocks, one after the other."""

    def __init__(self, config: Config, layers: int):
        super().__init__(Block(config.width, config.heads, config.dropout) for _ in range(layers))

    def __getitem__(self, index: int | slice) -> Block | list[Block]:
        """One block, or some of them."""
        return list(self)[index]

    def forward(self, x: Tensor, mask: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """Tokens x (B, T, D) attend to each other under `mask` -> (B, T, D)."""
        for block in self:
            x = block(x, mask=mask, positions=positions).out
        return x


def decode_step(
    blocks: Iterable[Block], x: Tensor, position: int, past: list[KVCache] | None
) -> tuple[Tensor, list[KVCache]]:
    """One more token through causal blocks: x (B, D) at `position`, the caches of the tokens before -> (B, D), caches.

    Equal to running all tokens at once under a causal mask, without running the earlier ones again.
    """
    x, positions, caches = x.unsqueeze(1), torch.tensor([position], device=x.device), []  # x: (B, 1, D)
    for layer, block in enumerate(blocks):
        x, cache = block.decode_step(x, positions, past[layer] if past else None)
        caches.append(cache)
    return x.squeeze(1), caches
