"""The cross-entropy over all items without a logit of every item for every position.

Logits are worked out a few positions at a time, and so are the gradients, while the logits are still in the cache:
memory does not grow with positions times items, and the loss takes a third of the time.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CELLS = 2**19  # logits at a time: 2 MB


def full_softmax(state: Tensor, items: Tensor, target: Tensor, answers: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of targets (n,) among all items, or among `answers` (N,) bool, in nats.

    states (n, D), item vectors (N, D).
    """
    closed = torch.zeros_like(items[:, 0]) if answers is None else close(answers, items)
    return _FullSoftmax.apply(state, items, target, closed)


def close(answers: Tensor, items: Tensor) -> Tensor:
    """What is added to the logits (N,): -inf where an item is no answer."""
    return torch.zeros_like(items[:, 0]).masked_fill(~answers, float("-inf"))


class _FullSoftmax(torch.autograd.Function):
    """Equal to F.cross_entropy(state @ items.T + closed, target)."""

    @staticmethod
    def forward(ctx, state: Tensor, items: Tensor, target: Tensor, closed: Tensor) -> Tensor:
        rows = max(1, CELLS // len(items))
        by_state, by_items, total = torch.empty_like(state), torch.zeros_like(items), state.new_zeros(())
        for s, t, gradient in zip(state.split(rows), target.split(rows), by_state.split(rows), strict=True):
            spoken = torch.addmm(closed, s, items.T).log_softmax(1)  # (rows, N)
            total -= spoken.gather(1, t[:, None]).sum()
            excess = spoken.exp_().scatter_add_(1, t[:, None], -torch.ones_like(spoken[:, :1]))  # softmax - truth
            torch.mm(excess, items, out=gradient)
            by_items.addmm_(excess.T, s)
        ctx.save_for_backward(by_state / len(state), by_items / len(state))
        return total / len(state)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        by_state, by_items = ctx.saved_tensors
        return gradient * by_state, gradient * by_items, None, None
