"""For large catalogues: some drawn items stand for all the others in the softmax, and in what the dense head teaches.

The drawn items have equal chances, and each counts as many times as the items that it stands for (the log-Q
correction, Jean et al. 2015). A step encodes what it needs: its histories, its true items and the drawn ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from m6rec.config import Config
from m6rec.data.batches import Batch
from m6rec.model.network import Network
from m6rec.model.tree import Tree

WHOLE = 50_000  # items up to which all are answers in every step
DRAWN = 2048  # items a step beyond


def negatives(network: Network, config: Config) -> int:
    """How many items a step draws; 0: all are answers."""
    return config.negatives or (DRAWN if len(network.codes) > WHOLE else 0)


class Predicted(NamedTuple):
    """What a step's states say of their true items and of the drawn ones."""

    state: Tensor  # (n, D)
    logits: Tensor  # (n, 1 + m): the true item's, then the drawn ones'
    target: Tensor  # (n,) item codes
    drawn: Tensor  # (m,) item codes


def predict(network: Network, batch: Batch, count: int) -> Predicted:
    """States and logits of all positions of a batch that have a target; items without training are never drawn."""
    known = torch.nonzero(network.codes >= 0)[:, 0]
    drawn = known[torch.randint(len(known), (count,), device=known.device)]
    there, read = batch.target >= 0, batch.context.item
    target = batch.target[there]
    some = torch.cat((read[read >= 0], target, drawn)).unique()
    place = torch.full_like(network.codes, -1)
    place[some] = torch.arange(len(some), device=some.device)
    items = network.encode_items(only=some).vectors
    context = batch.context._replace(item=torch.where(read >= 0, place[read.clamp(min=0)], -1))
    state = network.fuse(context, items).state[there]
    logits = sampled_logits(state, items, place[target], place[drawn], len(known))
    return Predicted(state, logits, target, drawn)


def sampled_logits(states: Tensor, items: Tensor, target: Tensor, negatives: Tensor, among: int) -> Tensor:
    """Logits of the true items (n,) and of the negatives (m,), which stand for all the others: (n, 1 + m).

    states (n, D), items (N, D), among: how many items there are to draw. A negative's logit grows by the log of how
    many items it stands for; the true item stands for itself alone, and is left out where it was drawn as a negative.
    """
    drawn = negatives == target[:, None]  # (n, m)
    stands_for = (among - 1) / (~drawn).sum(1, keepdim=True).clamp(min=1)  # (n, 1) items
    others = states @ F.embedding(negatives, items).T + stands_for.log()
    true = (states * F.embedding(target, items)).sum(1, keepdim=True)
    return torch.cat((true, others.masked_fill(drawn, -math.inf)), 1)


def next_event(found: Predicted) -> Tensor:
    """Mean cross-entropy of the targets, in nats."""
    return first_of(found.logits)


def first_of(logits: Tensor) -> Tensor:
    """Cross-entropy of the true items, which stand first in logits (n, 1 + m)."""
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))


def subtrees(tree: Tree, found: Predicted) -> Iterator[Tensor]:
    """The dense head's own distribution below each child of the nodes on the true path: G × (n, W)."""
    weights = found.logits.detach().softmax(-1)
    true, weights = weights[:, :1], weights[:, 1:]
    own, others = tree.digits(found.target), tree.digits(found.drawn)  # (n, G), (m, G)
    for level, width in enumerate(tree.widths):
        below = weights @ F.one_hot(others[:, level], width).to(weights)  # (n, m) @ (m, W)
        yield below.to(true).scatter_add(1, own[:, level, None], true)
        weights = weights * (others[:, level] == own[:, level, None])
