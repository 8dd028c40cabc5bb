"""Every item is an answer: the softmax over the whole catalogue, and what the dense head teaches by it.

Logits are worked out a few positions at a time, and so are the gradients, while the logits are still in the cache:
memory does not grow with positions times items, and the loss takes a third of the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from m6rec.data.batches import Batch
from m6rec.model.network import Network
from m6rec.model.tree import Tree

CELLS = 2**19  # logits at a time: 2 MB


class Predicted(NamedTuple):
    """A step's states, and the catalogue that they are held against."""

    state: Tensor  # (n, D)
    items: Tensor  # (N, D)
    target: Tensor  # (n,) item codes
    answers: Tensor  # (N,) bool: as wrong answers, items held out would be learnt by heart as never bought


def predict(network: Network, batch: Batch) -> Predicted:
    """States and targets of all positions of a batch that have a target."""
    items, there = network.encode_items().vectors, batch.target >= 0
    state = network.fuse(batch.context, items).state[there]
    return Predicted(state, items, batch.target[there], network.codes >= 0)


def next_event(found: Predicted) -> Tensor:
    """Mean cross-entropy of the targets among all answers, in nats."""
    return _FullSoftmax.apply(found.state, found.items, found.target, _closed(found.answers, found.items))


def full_softmax(state: Tensor, items: Tensor, target: Tensor) -> Tensor:
    """The same for states (n, D) and item vectors (N, D), all of which are answers."""
    return _FullSoftmax.apply(state, items, target, torch.zeros_like(items[:, 0]))


@torch.no_grad()
def subtrees(tree: Tree, found: Predicted) -> Iterator[Tensor]:
    """The dense head's own distribution below each child of the nodes on the true path: G × (n, W)."""
    taken = tree.item >= 0
    leaves = found.items[tree.item.clamp(min=0)]  # (leaves, D): subtrees are neighbours
    closed = _closed(taken & found.answers[tree.item.clamp(min=0)], leaves)
    digits, parts = tree.digits(found.target), []
    rows = max(1, CELLS // len(leaves))
    for state, own in zip(found.state.split(rows), digits.split(rows), strict=True):
        mass, levels = torch.addmm(closed, state, leaves.T).softmax(1), []
        for level, width in enumerate(tree.widths):
            here = mass.view(len(mass), width, -1)  # the subtrees below the node reached so far
            levels.append(here.sum(-1))
            mass = here[torch.arange(len(here), device=here.device), own[:, level]]  # (rows, leaves below)
        parts.append(levels)
    return map(torch.cat, zip(*parts, strict=True))


def _closed(answers: Tensor, items: Tensor) -> Tensor:
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
