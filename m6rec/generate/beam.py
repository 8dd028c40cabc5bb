"""Generated recommendations: one batched beam over the tree, under a trie mask, with cached keys and values."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from m6rec.errors import InputError
from m6rec.model.attention import Memory
from m6rec.model.decoder import DigitDecoder


class Generated(NamedTuple):
    """Items in order of their log-likelihood. They are distinct, in the catalogue, and allowed."""

    items: Tensor  # (B, K) item codes
    scores: Tensor  # (B, K) log-likelihood of the item's digits


class Step(NamedTuple):
    """One level of a beam, kept for those who want to see it."""

    nodes: Tensor  # (B, K) nodes kept at this level
    scores: Tensor  # (B, K) log-likelihood so far


@torch.no_grad()
def generate(
    decoder: DigitDecoder,
    state: Tensor,
    k: int,
    *,
    beam: int = 50,
    allowed: Tensor | None = None,
    trace: list[Step] | None = None,
) -> Generated:
    """Generate k items for each state (B, D). The source document's `generate`.

    allowed: (B, N) bool, which items may be said; without it, the whole catalogue. The mask is the trie's: a digit is
    possible only if it leads to an allowed item, so nothing has to be filtered afterwards. trace: a list that receives
    one `Step` per level. Raises `InputError` where fewer than k items are allowed.
    """
    tree, b, beam = decoder.tree, len(state), max(beam, k)
    living = tree.living(allowed)
    possible = int(living[-1].sum(-1).min())
    if k < 1 or possible < k:
        raise InputError(
            f"k={k} items were asked for, but only {possible} can be recommended here: take 1 ≤ k ≤ {possible}."
        )
    nodes = torch.zeros(b, 1, dtype=torch.long, device=state.device)
    scores = torch.zeros(b, 1, device=state.device)
    cache: list[Memory] | None = None
    for level, width in enumerate(tree.widths):
        kept = nodes.shape[1]
        flat = state.repeat_interleave(kept, 0)  # (B, D) -> (B·K, D)
        logits, cache = decoder.step(flat, level, nodes.flatten(), cache)
        children = (nodes[..., None] * width + torch.arange(width, device=state.device)).flatten(1)  # (B, K·W)
        ahead = (scores[..., None] + logits.log_softmax(-1).view(b, kept, width)).flatten(1)
        may = living[level].expand(b, -1).gather(1, children)
        # Where fewer nodes are possible than the beam is wide, the rest of it stays at -inf and never comes back.
        scores, best = ahead.masked_fill(~may, float("-inf")).topk(min(beam, children.shape[1]))
        nodes = children.gather(1, best)
        rows = (torch.arange(b, device=state.device)[:, None] * kept + best // width).flatten()  # each beam's parent
        cache = [Memory(m.k[rows], m.v[rows]) for m in cache]
        if trace is not None:
            trace.append(Step(nodes, scores))
    return Generated(tree.item[nodes[:, :k]], scores[:, :k])
