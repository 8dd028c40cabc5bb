"""Ranking by the items' words alone: zero-shot, where nothing is trained, and retrieval, where two linear maps are.

Zero-shot has two scores of one backbone. `Likelihood`: the mean log-likelihood of each candidate's tokens after the
history, which is encoded once (M6-Rec section 3.2). `DotProduct`: the state before the item with the sum of each
candidate's token embeddings, which the contrastive pretraining loss has aligned; one pass for all candidates.
Retrieval (section 3.2, too) maps frozen states to 128 numbers, so that the nearest items can be looked up; both maps
are trained with InfoNCE at temperature .07.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m6rec.config import pick_device
from m6rec.data.dataset import Targets
from m6rec.data.prompts import HISTORY, Domain
from m6rec.data.text import PAD, Prompt, pad
from m6rec.train.fit import train_epoch
from m6rec.train.losses import TEMPERATURE, info_nce, text_vectors
from m6rec.train.text import SOURCE, Backbone

CANDIDATES_CHUNK, PROMPTS_CHUNK = 512, 64
WIDTH = 128


@torch.no_grad()
def states(backbone: Backbone, prompts: Sequence[Prompt], *, target: bool = False) -> Tensor:
    """The backbone's state of each prompt's [EOS'], or at the last token of its given target: (n, D)."""
    network, tokenizer, rows = backbone.network, backbone.tokenizer, []
    for start in range(0, len(prompts), PROMPTS_CHUNK):
        part = prompts[start : start + PROMPTS_CHUNK]
        source = torch.from_numpy(tokenizer.encode(part, SOURCE).source)
        given = torch.from_numpy(pad([tokenizer.given(prompt.target) for prompt in part])) if target else None
        rows.append(network.read(source, given))
    return torch.cat(rows)


@torch.no_grad()
def log_likelihood(backbone: Backbone, prompt: Prompt, candidates: Sequence[str]) -> np.ndarray:
    """(N,) the mean log-likelihood of each candidate's tokens as what follows a prompt, whose target is given."""
    network, tokenizer = backbone.network, backbone.tokenizer
    given = tokenizer.given(prompt.target)
    source = torch.tensor([tokenizer.source(prompt, SOURCE)])
    # The last given token begins each candidate: its logits are those of the candidate's first token.
    cache = network(source, torch.tensor([given[:-1]], dtype=torch.long), logits=False).cache
    rows = torch.from_numpy(pad([(given[-1], *tokenizer.segment(words)) for words in candidates]))  # (N, T)
    means = []
    for part in rows.to(network.device).split(CANDIDATES_CHUNK):
        token = part[:, 1:]  # (n, T - 1)
        log_prob = network.decode_step(part[:, :-1], cache).logits.log_softmax(-1)
        log_prob = log_prob.gather(-1, token[..., None])[..., 0]
        means.append((log_prob * (token != PAD)).sum(1) / (token != PAD).sum(1))
    return torch.cat(means).cpu().numpy()


def target_prompts(domain: Domain, users: Targets, history: int = HISTORY) -> list[Prompt]:
    """Each target's profile and history, and its request as the beginning of the target region."""
    return [one._replace(target=one.target[:-1]) for one in domain.prompts(users.events, history)]


class Likelihood:
    """A scorer for `m6rec.evaluate`: token log-likelihoods after each target's profile, history and request.

    candidates: the item codes that are scored; the others get -inf.
    """

    name = "zero-shot"

    def __init__(self, backbone: Backbone, domain: Domain, candidates: np.ndarray):
        self.backbone, self.domain, self.candidates = backbone, domain, candidates
        self.words, self.back = np.unique(domain.items[candidates].astype(str), return_inverse=True)  # scored once

    def scores(self, users: Targets) -> np.ndarray:
        """(B, N) mean log-likelihoods."""
        out = np.full((len(users), len(self.domain.items)), -np.inf)
        for row, prompt in zip(out, target_prompts(self.domain, users), strict=True):
            row[self.candidates] = log_likelihood(self.backbone, prompt, self.words)[self.back]
        return out


class DotProduct:
    """A scorer for `m6rec.evaluate`: ⟨the state before an item, the item's words⟩ for every item of `domain`."""

    name = "zero-shot, dot product"

    def __init__(self, backbone: Backbone, domain: Domain, *, history: int = HISTORY):
        self.backbone, self.domain, self.history = backbone, domain, history
        tokens = torch.from_numpy(pad([backbone.tokenizer.segment(words)[:-1] for words in domain.items]))
        with torch.no_grad():
            self.items = text_vectors(backbone.network, tokens.to(backbone.network.device))  # (N, D)

    def scores(self, users: Targets) -> Tensor:
        """(B, N) inner products."""
        return states(self.backbone, target_prompts(self.domain, users, self.history), target=True) @ self.items.T


class Pairs(NamedTuple):
    """Users' states before an event and the item that came, with a state of every item."""

    users: Tensor  # (n, D)
    item: Tensor  # (n,) rows of `items`
    items: Tensor  # (N, D)


def pairs(backbone: Backbone, domain: Domain, rows: np.ndarray) -> Pairs:
    """Events `rows` of a domain as pairs: profile, request and history, and the item."""
    users = states(backbone, [prompt._replace(target=()) for prompt in domain.prompts(rows, in_source=True)])
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
        item = data.item[rows]
        return {"contrastive": info_nce(maps(data.users[rows], data.items[item]) / TEMPERATURE, item)}

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
