"""Zero-shot ranking: who had X has Y next, by the mean log-likelihood of Y's words. Nothing is trained.

The history is read once, then every candidate is spelled out after it: items that no training has seen are ranked by
their words alone. Source: M6-Rec section 3.2 (zero-shot ranking).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from m6rec.data.domains import Domain
from m6rec.data.plaintext import Text, pad
from m6rec.data.text import BOS, PAD
from m6rec.train.plain import SOURCE, Backbone

CANDIDATES = 512  # spelled out at once


@torch.no_grad()
def log_likelihood(made: Backbone, asked: Text, candidates: Sequence[str]) -> np.ndarray:
    """(N,) the mean log-likelihood of each candidate's tokens as what follows `asked`, whose target is given."""
    network, speller = made.network, made.speller
    begun = [BOS, *(token for part in asked.target for token in speller.segment(part))]
    # The last token that is given begins each candidate, because its logits are what the first token comes from.
    source = torch.tensor([speller.source(asked, SOURCE)])
    known = network.remember(source, torch.tensor([begun[:-1]], dtype=torch.long))
    rows = torch.from_numpy(pad([(begun[-1], *speller.segment(words)) for words in candidates]))  # (N, T)
    return torch.cat(
        [_means(network.proceed(part[:, :-1], known), part[:, 1:]) for part in rows.split(CANDIDATES)]
    ).numpy()


def _means(logits: Tensor, truth: Tensor) -> Tensor:
    """Logits (N, T, V) and the tokens that came (N, T), 0 = none -> the mean log-likelihood of each row (N,)."""
    said = logits.log_softmax(-1).gather(-1, truth[..., None])[..., 0]
    there = truth != PAD
    return (said * there).sum(1) / there.sum(1)


def scores(made: Backbone, domain: Domain, events: np.ndarray, candidates: np.ndarray, history: int = 8) -> np.ndarray:
    """(B, N) for the events to be predicted (B,) and candidate item codes (N,), after so many events of a history."""
    words, back = np.unique(domain.items[candidates].astype(str), return_inverse=True)  # equal words are read once
    rows = []
    for event in events:
        user = domain.user[event]
        since = max(int(np.searchsorted(domain.user, user)), event - history)
        asked = domain.text(range(event, event + 1), since)
        rows.append(log_likelihood(made, asked._replace(target=asked.target[:-1]), words)[back])
    return np.array(rows)
