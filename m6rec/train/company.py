"""Where token embeddings start: near the tokens that keep them company in people's histories.

A language model that starts from noise spends its first passes on finding out which words are liked by the same people.
Counting says it at once: how often the words of an event meet those of the events before it, of its request and of its
profile, against chance, and the singular vectors of that table. Source: correspondence analysis (Greenacre 1984).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.linalg import svds
from torch import Tensor

from m6rec.data.prompts import Domain
from m6rec.data.text import PROMPT_SPECIAL, PromptTokenizer

DECAY, BACK = 0.8, 12  # how much an event counts for the next one, and how many events are looked back


def company(domains: Sequence[Domain], tokenizer: PromptTokenizer, width: int, seed: int = 0) -> Tensor:
    """(V, D): rows of mean length 1; noise of a tenth of that length keeps tokens apart that nothing was counted of."""
    rng = np.random.default_rng(seed)
    counts = sum(_counts(domain, tokenizer) for domain in domains)
    counts = (counts + counts.T).tocoo()
    total, each = counts.sum(), counts.sum(axis=0)
    chance = each[counts.row] * each[counts.col] / total
    table = csr_array(((counts.data - chance) / np.sqrt(chance * total), (counts.row, counts.col)), shape=counts.shape)
    out = rng.standard_normal((len(tokenizer), width)) / width**0.5
    rank = min(width, min(counts.shape) - 1)
    if table.nnz > rank:
        rows = svds(table, k=rank, v0=np.ones(counts.shape[0]) / counts.shape[0] ** 0.5)[0]  # every direction counts
        out *= 0.1
        out[:, :rank] += rows / max(np.linalg.norm(rows, axis=1)[each > 0].mean(), 1e-9)
    return torch.from_numpy(out).float()


def _counts(domain: Domain, tokenizer: PromptTokenizer) -> csr_array:
    """(V, V): how often a token of an event (row) met one of what was known before it (column)."""
    items = _bags(domain.items, tokenizer)
    events = items[domain.item]
    known = _bags(domain.profiles, tokenizer)[domain.user]
    known = known + _bags([f"{words}:" if words else "" for words in domain.requests], tokenizer)
    for back in range(1, BACK + 1):
        same = np.zeros(len(domain.user))
        same[back:] = (domain.user[back:] == domain.user[:-back]) * DECAY ** (back - 1)
        rows = np.flatnonzero(same)
        picked = csr_array((same[rows], (rows, rows - back)), shape=(len(same), len(same)))
        known = known + picked @ events
    return csr_array(events.T @ known)


def _bags(texts: Sequence[str], tokenizer: PromptTokenizer) -> csr_array:
    """(n, V) how often each token is in each text."""
    ids = [[token for token in tokenizer.segment(words) if token >= len(PROMPT_SPECIAL)] for words in texts]
    rows = np.repeat(np.arange(len(ids)), [len(one) for one in ids])
    flat = np.array([token for one in ids for token in one], dtype=np.int64)
    return csr_array((np.ones(len(flat)), (rows, flat)), shape=(len(ids), len(tokenizer)))
