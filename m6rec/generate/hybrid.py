"""Hybrid lists: the beam proposes, the dense head decides, and items never seen in training are always proposed."""

from __future__ import annotations

import torch
from torch import Tensor

from m6rec.generate.beam import Generated, Step, generate
from m6rec.model.network import Network


@torch.no_grad()
def hybrid(
    network: Network,
    state: Tensor,
    items: Tensor,
    k: int,
    *,
    beam: int = 50,
    allowed: Tensor | None = None,
    always: Tensor | None = None,
    lift: float = 0.0,
    short: bool = False,
) -> Generated:
    """The dense head's k best of what the beam finds and of `always`: states (B, D), item vectors (N, D) -> (B, K).

    scores: dense log-probabilities. always: codes of items that are proposed to everyone (where allowed), by default
    those without a training event: nothing has taught the digits that lead to them. lift: what their scores gain, for
    training has never let them win, whatever their content says. allowed (B, N) bool: and short: as in `generate`.
    """
    always = (network.codes < 0).nonzero().squeeze(1) if always is None else always
    trace: list[Step] = []
    generate(network.digits, state, k, beam=beam, allowed=allowed, trace=trace, short=short)
    there = trace[-1].scores > float("-inf")  # the whole beam, where so many items are allowed
    found = network.digits.item[trace[-1].nodes]
    pool = torch.zeros(len(state), len(items), dtype=torch.bool, device=state.device)
    pool[:, always] = True if allowed is None else allowed[:, always]
    rows = torch.arange(len(state), device=state.device)[:, None].expand_as(found)
    pool[rows[there], found[there]] = True
    scores = network.score(state, items).log_softmax(-1)
    scores[:, always] += lift
    best = scores.masked_fill(~pool, float("-inf")).topk(k)
    return Generated.of(best.indices, best.values)
