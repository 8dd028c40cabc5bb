"""Zero-shot ranking: who had X has Y next, by Y's words alone. Nothing is trained.

Two readings of one backbone. `ZeroShot`: the history is read once, then every candidate is spelled out after it, and
its tokens' mean log-likelihood is its score (M6-Rec section 3.2). `Meeting`: the state before anything is spelled,
against the sum of each candidate's token embeddings, which pretraining taught to meet; one pass for all candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from m6rec.data.prompts import HISTORY, Domain
from m6rec.data.splits import Targets
from m6rec.data.text import BOS, PAD, Prompt, pad
from m6rec.train import meeting
from m6rec.train.plain import SOURCE, Backbone

CANDIDATES = 512  # spelled out at once
PEOPLE = 64  # read at once


@torch.no_grad()
def log_likelihood(made: Backbone, asked: Prompt, candidates: Sequence[str]) -> np.ndarray:
    """(N,) the mean log-likelihood of each candidate's tokens as what follows `asked`, whose target is given."""
    network, tokenizer = made.network, made.tokenizer
    begun = [BOS, *(token for part in asked.target for token in tokenizer.segment(part))]
    # The last token that is given begins each candidate, because its logits are what the first token comes from.
    source = torch.tensor([tokenizer.source(asked, SOURCE)])
    known = network.prefill(source, torch.tensor([begun[:-1]], dtype=torch.long))
    rows = pad([(begun[-1], *tokenizer.segment(words)) for words in candidates])  # (N, T)
    parts = torch.from_numpy(rows).to(network.device).split(CANDIDATES)
    return torch.cat([_means(network.decode_step(part[:, :-1], known), part[:, 1:]) for part in parts]).cpu().numpy()


def _means(logits: Tensor, truth: Tensor) -> Tensor:
    """Logits (N, T, V) and the tokens that came (N, T), 0 = none -> the mean log-likelihood of each row (N,)."""
    said = logits.log_softmax(-1).gather(-1, truth[..., None])[..., 0]
    there = truth != PAD
    return (said * there).sum(1) / there.sum(1)


def asked(domain: Domain, users: Targets, history: int = HISTORY) -> list[Prompt]:
    """Each target's profile and history, and its request as what the target begins with."""
    return [one._replace(target=one.target[:-1]) for one in domain.prompts(users.events, history)]  # the request stays


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
        self.usual = prior * log_likelihood(made, Prompt(), self.words) if prior else 0.0

    def scores(self, users: Targets) -> np.ndarray:
        """(B, N) mean log-likelihoods."""
        out = np.full((len(users), len(self.domain.items)), -np.inf)
        for row, text in zip(out, asked(self.domain, users, self.history), strict=True):
            row[self.candidates] = (log_likelihood(self.made, text, self.words) - self.usual)[self.back]
        return out


class Meeting:
    """A scorer for `m6rec.evaluate`: ⟨the state before an item, the item's words⟩ for every item of `domain`."""

    name = "zero-shot, meeting"

    def __init__(self, made: Backbone, domain: Domain, *, history: int = HISTORY):
        self.made, self.domain, self.history = made, domain, history
        tokens = pad([made.tokenizer.segment(words)[:-1] for words in domain.items])
        with torch.no_grad():
            self.items = meeting.vectors(made.network, torch.from_numpy(tokens).to(made.network.device))  # (N, D)

    @torch.no_grad()
    def scores(self, users: Targets) -> Tensor:
        """(B, N) inner products."""
        texts = asked(self.domain, users, self.history)
        parts = [texts[i : i + PEOPLE] for i in range(0, len(texts), PEOPLE)]
        return torch.cat([self.states(part) @ self.items.T for part in parts])

    def states(self, texts: Sequence[Prompt]) -> Tensor:
        """The states at the last token of what is given, after which an item would be written: (n, D)."""
        network, tokenizer = self.made.network, self.made.tokenizer
        source = torch.from_numpy(tokenizer.encode(texts, SOURCE).source)
        rows = [[BOS, *(token for part in text.target for token in tokenizer.segment(part))] for text in texts]
        hidden = network(source, torch.from_numpy(pad(rows)), write=False).hidden[:, source.shape[1] :]
        return hidden[torch.arange(len(rows)), torch.tensor([len(row) - 1 for row in rows])]
