"""Retrieval: two linear maps of frozen states to 128 numbers, so that the nearest items can be looked up.

Both maps are taught by InfoNCE with temperature .07. Source: M6-Rec section 3.2 (retrieval).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m6rec.data.prompts import HISTORY, Domain
from m6rec.data.text import Prompt
from m6rec.model.text_model import ends
from m6rec.train.plain import SOURCE, Backbone

WIDTH, TEMPERATURE = 128, 0.07


class Pairs(NamedTuple):
    """People's states before an event and the item that came, with a state of every item."""

    people: Tensor  # (n, D)
    item: Tensor  # (n,) rows of `items`
    items: Tensor  # (N, D)


@torch.no_grad()
def states(made: Backbone, texts: Sequence[Prompt], size: int = 64) -> Tensor:
    """The backbone's state of each text's [EOS'] (n, D)."""
    rows = []
    for start in range(0, len(texts), size):
        tokens = made.tokenizer.encode(texts[start : start + size], SOURCE).source
        source = torch.from_numpy(tokens).to(made.network.device)
        rows.append(ends(source, made.network(source).hidden))
    return torch.cat(rows)


def pairs(made: Backbone, domain: Domain, rows: np.ndarray) -> Pairs:
    """Events `rows` of a domain as pairs: profile, request and history, and the item."""
    asked = [
        prompt._replace(request=domain.requests[row], target=())
        for row, prompt in zip(rows, domain.prompts(rows), strict=True)
    ]
    items = states(made, [Prompt(candidate=words) for words in domain.items])
    return Pairs(states(made, asked), torch.tensor(domain.item[rows], device=items.device), items)


class TwoMaps(nn.Module):
    """people (n, D), items (N, D) -> cosines (n, N), through two linear maps."""

    def __init__(self, people: int, items: int):
        super().__init__()
        self.people, self.items = nn.Linear(people, WIDTH), nn.Linear(items, WIDTH)

    def forward(self, people: Tensor, items: Tensor) -> Tensor:
        return F.normalize(self.people(people), dim=-1) @ F.normalize(self.items(items), dim=-1).T


def fit(given: Pairs, *, epochs: int = 10, batch: int = 256, rate: float = 3e-3, seed: int = 0) -> TwoMaps:
    """Teach the two maps; other items of the batch are the wrong answers, those that are the same item are left out."""
    torch.manual_seed(seed)
    maps = TwoMaps(given.people.shape[1], given.items.shape[1]).to(given.items.device)
    optimizer = torch.optim.AdamW(maps.parameters(), rate, weight_decay=0.01)
    for _ in range(epochs):
        for rows in torch.randperm(len(given.people)).split(batch):
            item, own = given.item[rows], torch.arange(len(rows), device=given.item.device)
            same = (item[:, None] == item) & (own[:, None] != own)
            logits = (maps(given.people[rows], given.items[item]) / TEMPERATURE).masked_fill(same, float("-inf"))
            loss = F.cross_entropy(logits, own)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return maps.eval()


def two_tower(domain: Domain, rows: np.ndarray, learnt: np.ndarray, **options: object) -> tuple[Tensor, Pairs]:
    """A baseline: the same two maps over counts of ids, without a word: -> cosines of `rows` (n, N), and the pairs."""
    n = len(domain.items)
    items = torch.eye(n)

    def counted(events: np.ndarray) -> Pairs:
        people = torch.zeros(len(events), n)
        for line, row, start in zip(people, events, np.searchsorted(domain.user, domain.user[events]), strict=True):
            line[torch.tensor(domain.item[max(start, row - HISTORY) : row])] = 1
        return Pairs(people, torch.tensor(domain.item[events]), items)

    asked, maps = counted(rows), fit(counted(learnt), **options)
    with torch.no_grad():
        return maps(asked.people, items), asked


def recall(cosines: Tensor, item: Tensor, k: int = 100) -> np.ndarray:
    """(n,) 1 where the item is among the k nearest, else 0."""
    return (cosines.topk(min(k, cosines.shape[1])).indices == item[:, None]).any(1).cpu().numpy().astype(float)
