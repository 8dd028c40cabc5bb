"""Retrieval: two linear maps of frozen states to 128 numbers, so that the nearest items can be looked up.

Both maps are trained with InfoNCE at temperature .07. Source: M6-Rec section 3.2 (retrieval).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m6rec.config import pick_device
from m6rec.data.prompts import HISTORY, Domain
from m6rec.data.text import Prompt
from m6rec.model.text_model import ends
from m6rec.train.fit import train_epoch
from m6rec.train.text import SOURCE, Backbone

WIDTH, TEMPERATURE = 128, 0.07


class Pairs(NamedTuple):
    """Users' states before an event and the item that came, with a state of every item."""

    users: Tensor  # (n, D)
    item: Tensor  # (n,) rows of `items`
    items: Tensor  # (N, D)


@torch.no_grad()
def states(backbone: Backbone, prompts: Sequence[Prompt], size: int = 64) -> Tensor:
    """The backbone's state of each prompt's [EOS'] (n, D)."""
    rows = []
    for start in range(0, len(prompts), size):
        source = torch.from_numpy(backbone.tokenizer.encode(prompts[start : start + size], SOURCE).source)
        source = source.to(backbone.network.device)
        rows.append(ends(source, backbone.network(source).hidden))
    return torch.cat(rows)


def pairs(backbone: Backbone, domain: Domain, rows: np.ndarray) -> Pairs:
    """Events `rows` of a domain as pairs: profile, request and history, and the item."""
    prompts = zip(domain.requests[rows], domain.prompts(rows), strict=True)
    users = states(backbone, [prompt._replace(request=request, target=()) for request, prompt in prompts])
    items = states(backbone, [Prompt(candidate=words) for words in domain.items])
    return Pairs(users, torch.tensor(domain.item[rows], device=items.device), items)


class TwoMaps(nn.Module):
    """users (n, D), items (N, D) -> cosines (n, N), through two linear maps."""

    def __init__(self, users: int, items: int):
        super().__init__()
        self.users, self.items = nn.Linear(users, WIDTH), nn.Linear(items, WIDTH)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return F.normalize(self.users(users), dim=-1) @ F.normalize(self.items(items), dim=-1).T


def fit(data: Pairs, *, epochs: int = 10, batch: int = 256, rate: float = 3e-3, seed: int = 0) -> TwoMaps:
    """Train the two maps; the batch's other items are negatives, equal ones left out."""
    torch.manual_seed(seed)
    maps = TwoMaps(data.users.shape[1], data.items.shape[1]).to(data.items.device)
    optimizer = torch.optim.AdamW(maps.parameters(), rate, weight_decay=0.01)

    def losses(maps: nn.Module, rows: Tensor) -> dict[str, Tensor]:
        item, own = data.item[rows], torch.arange(len(rows), device=data.item.device)
        same = (item[:, None] == item) & (own[:, None] != own)
        logits = (maps(data.users[rows], data.items[item]) / TEMPERATURE).masked_fill(same, float("-inf"))
        return {"contrastive": F.cross_entropy(logits, own)}

    for _ in range(epochs):
        train_epoch(maps, optimizer, torch.randperm(len(data.users)).split(batch), losses)
    return maps.eval()


def two_tower(domain: Domain, rows: np.ndarray, train: np.ndarray, **options: object) -> tuple[Tensor, Pairs]:
    """A baseline: the same two maps over counts of ids, without a word: -> cosines of `rows` (n, N), and the pairs."""
    items = torch.eye(len(domain.items), device=pick_device())

    def counted(events: np.ndarray) -> Pairs:
        users = torch.zeros(len(events), len(items))
        for line, row, start in zip(users, events, np.searchsorted(domain.user, domain.user[events]), strict=True):
            line[torch.tensor(domain.item[max(start, row - HISTORY) : row])] = 1
        return Pairs(users.to(items.device), torch.tensor(domain.item[events], device=items.device), items)

    test, maps = counted(rows), fit(counted(train), **options)
    with torch.no_grad():
        return maps(test.users, items), test


def recall(cosines: Tensor, item: Tensor, k: int = 100) -> np.ndarray:
    """(n,) 1 where the item is among the k nearest, else 0."""
    return (cosines.topk(min(k, cosines.shape[1])).indices == item[:, None]).any(1).cpu().numpy().astype(float)
