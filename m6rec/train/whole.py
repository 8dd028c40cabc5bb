"""Every item is an answer: the softmax over the whole catalogue, and what the dense head teaches by it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from m6rec.data.batches import Batch
from m6rec.data.cooccurrence import Neighbourhood
from m6rec.model.network import Network
from m6rec.model.tree import Tree
from m6rec.train import softmax


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


def next_event(found: Predicted, neighbours: Neighbourhood | None = None) -> Tensor:
    """Mean cross-entropy of the targets, or of what their neighbours share, among all answers, in nats."""
    return softmax.full_softmax(*found, neighbours)


@torch.no_grad()
def subtrees(tree: Tree, found: Predicted) -> Iterator[Tensor]:
    """The dense head's own distribution below each child of the nodes on the true path: G × (n, W)."""
    of_leaf = tree.item.clamp(min=0)
    leaves = found.items[of_leaf]  # (leaves, D): a subtree's are neighbours
    closed = softmax.close((tree.item >= 0) & found.answers[of_leaf], leaves)
    digits, parts = tree.digits(found.target), []
    rows = max(1, softmax.CELLS // len(leaves))
    for state, own in zip(found.state.split(rows), digits.split(rows), strict=True):
        mass, levels = torch.addmm(closed, state, leaves.T).softmax(1), []
        for level, width in enumerate(tree.widths):
            here = mass.view(len(mass), width, -1)  # the subtrees below the node reached so far
            levels.append(here.sum(-1))
            mass = here[torch.arange(len(here), device=here.device), own[:, level]]  # (rows, leaves below)
        parts.append(levels)
    return map(torch.cat, zip(*parts, strict=True))
