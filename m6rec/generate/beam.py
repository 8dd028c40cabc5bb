"""Generated recommendations: one batched beam over the tree, under a trie mask, with cached keys and values."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from m6rec.errors import InputError
from m6rec.generate.sample import Draw
from m6rec.model.attention import Memory
from m6rec.model.decoder import DigitDecoder


class Generated(NamedTuple):
    """Items, best first. They are distinct, in the catalogue, and allowed."""

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
    temperature: float = 0.0,
    diversity: float = 0.0,
    seed: int = 0,
) -> Generated:
    """Generate k items for each state (B, D). The source document's `generate`.

    allowed: (B, N) bool, which items may be said; without it, the whole catalogue. The mask is the trie's: a digit is
    possible only if it leads to an allowed item, so nothing has to be filtered afterwards. trace: a list that receives
    one `Step` per level. temperature: above 0, items are drawn without replacement, in the order of the draws, the same
    ones for the same seed (see `sample`). diversity: what a node loses for each sibling ahead of it, so that one parent
    does not fill the list (Li, Monroe & Jurafsky 2016). Whatever decides who stays, scores are log-likelihoods.
    Raises `InputError` where fewer than k items are allowed.
    """
    if temperature < 0 or diversity < 0 or (temperature and diversity):
        raise InputError(
            f"temperature={temperature} and diversity={diversity} do not go together: take one above 0, the other 0."
        )
    tree, b, beam = decoder.tree, len(state), max(beam, k)
    living = decoder.living if allowed is None else tree.living(allowed)
    possible = len(tree.leaf) if allowed is None else int(allowed.sum(-1).min())
    if k < 1 or possible < k:
        raise InputError(
            f"k={k} items were asked for, but only {possible} can be recommended here: take 1 ≤ k ≤ {possible}."
        )
    nodes = torch.zeros(b, 1, dtype=torch.long, device=state.device)
    scores = torch.zeros(b, 1, device=state.device)
    cache: list[Memory] | None = None
    draw = Draw(b, temperature, seed, state.device) if temperature else None
    for level, width in enumerate(tree.widths):
        kept = nodes.shape[1]
        flat = state.repeat_interleave(kept, 0)  # (B, D) -> (B·K, D)
        logits, cache = decoder.step(flat, level, nodes.flatten(), cache)
        children = (nodes[..., None] * width + torch.arange(width, device=state.device)).flatten(1)  # (B, K·W)
        may = living[level].expand(b, -1).gather(1, children).view(b, kept, width)
        ahead = scores[..., None] + logits.log_softmax(-1).view(b, kept, width)
        # Where fewer nodes are possible than the beam is wide, the rest of it stays at -inf and never comes back.
        ahead = ahead.masked_fill(~may, float("-inf"))
        keys = ahead
        if draw:
            keys = draw.extend(logits.view(b, kept, width).masked_fill(~may, float("-inf")))
        elif diversity:
            keys = ahead - diversity * ahead.argsort(-1, descending=True).argsort(-1)
        best = keys.flatten(1).topk(min(beam, children.shape[1])).indices
        if draw:
            draw.keep(best)
        scores, nodes = ahead.flatten(1).gather(1, best), children.gather(1, best)
        rows = (torch.arange(b, device=state.device)[:, None] * kept + best // width).flatten()  # each beam's parent
        cache = [Memory(m.k[rows], m.v[rows]) for m in cache]
        if trace is not None:
            trace.append(Step(nodes, scores))
    return Generated(tree.item[nodes[:, :k]], scores[:, :k])
