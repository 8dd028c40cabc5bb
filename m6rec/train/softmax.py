"""The cross-entropy over all items without a logit of every item for every position.

Logits are worked out a few positions at a time, and so are the gradients, while the logits are still in the cache:
memory does not grow with positions times items, and the loss takes a third of the time.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.amp import custom_fwd
from torch.autograd.function import once_differentiable

from m6rec.data.cooccurrence import Neighbourhood

CELLS = 2**19  # logits at a time: 2 MB


def full_softmax(
    state: Tensor,
    items: Tensor,
    target: Tensor,
    answers: Tensor | None = None,
    neighbours: Neighbourhood | None = None,
) -> Tensor:
    """Mean cross-entropy of targets (n,) among all items, or among `answers` (N,) bool, in nats.

    states (n, D), item vectors (N, D). neighbours: each target's probability is shared among its neighbourhood.
    """
    closed = torch.zeros_like(items[:, 0]) if answers is None else close(answers, items)
    if neighbours is None:
        shared, shares = target[:, None], torch.ones_like(state[:, :1])
    else:
        shared, shares = neighbours.item[target], neighbours.share[target]
    return _FullSoftmax.apply(state, items, shared, shares, closed)


def close(answers: Tensor, items: Tensor) -> Tensor:
    """What is added to the logits (N,): -inf where an item is no answer."""
    return torch.zeros_like(items[:, 0]).masked_fill(~answers, float("-inf"))


class _FullSoftmax(torch.autograd.Function):
    """Cross-entropy of softmax(state @ items.T + closed) against `shares` (n, K) of the items `shared` (n, K)."""

    @staticmethod
    @custom_fwd(device_type="cuda", cast_inputs=torch.float32)  # sums over a catalogue stay in 32 bits
    @custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(ctx, state: Tensor, items: Tensor, shared: Tensor, shares: Tensor, closed: Tensor) -> Tensor:
        rows = max(1, CELLS // len(items))
        by_state, by_items, total = torch.empty_like(state), torch.zeros_like(items), state.new_zeros(())
        parts = zip(*(part.split(rows) for part in (state, shared, shares, by_state)), strict=True)
        for s, among, true, gradient in parts:
            spoken = torch.addmm(closed, s, items.T).log_softmax(1)  # (rows, N)
            total -= (spoken.gather(1, among) * true).sum()
            excess = spoken.exp_().scatter_add_(1, among, -true)  # softmax - truth
            torch.mm(excess, items, out=gradient)
            by_items.addmm_(excess.T, s)
        ctx.save_for_backward(by_state / len(state), by_items / len(state))
        return total / len(state)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        by_state, by_items = ctx.saved_tensors
        return gradient * by_state, gradient * by_items, None, None, None
