"""Zero-shot ranking: who had X has Y next, by the mean log-likelihood of Y's words. Nothing is trained.

The history is read once, then every candidate is spelled out after it: items that no training has seen are ranked by
their words alone. Source: M6-Rec section 3.2 (zero-shot ranking).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from m6rec.data.domains import HISTORY, Domain
from m6rec.data.plaintext import Text, pad
from m6rec.data.splits import Targets
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


class ZeroShot:
    """A scorer for `m6rec.evaluate`: the backbone reads each target's profile, request and history in `domain`'s words.

    candidates: the item codes that are spelled out; the others get -inf. prior: how much of each candidate's likelihood
    without any history is taken off, so that words which are likely for everyone do not lead.
    """

    name = "zero-shot"

    def __init__(
        self, made: Backbone, domain: Domain, candidates: np.ndarray, *, history: int = HISTORY, prior: float = 0.0
    ):
        self.made, self.domain, self.candidates, self.history = made, domain, candidates, history
        self.words, self.back = np.unique(domain.items[candidates].astype(str), return_inverse=True)  # equal: read once
        self.usual = prior * log_likelihood(made, Text(), self.words) if prior else 0.0

    def scores(self, users: Targets) -> np.ndarray:
        """(B, N) mean log-likelihoods."""
        out = np.full((len(users), len(self.domain.items)), -np.inf)
        for row, event in zip(out, users.events, strict=True):
            since = max(int(users.data.offsets[self.domain.user[event]]), event - self.history)
            asked = self.domain.text(range(event, event + 1), since)
            asked = asked._replace(target=asked.target[:-1])  # the request stays
            row[self.candidates] = (log_likelihood(self.made, asked, self.words) - self.usual)[self.back]
        return out
