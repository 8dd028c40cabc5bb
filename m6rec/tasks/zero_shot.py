"""Zero-shot ranking: a user's next item by the items' words alone. Nothing is trained.

Two scores of one backbone. `Likelihood`: the mean log-likelihood of each candidate's tokens after the history, which is
encoded once (M6-Rec section 3.2). `DotProduct`: the state before the item with the sum of each candidate's token
embeddings, which the contrastive pretraining loss has aligned; one pass for all candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from m6rec.data.dataset import Targets
from m6rec.data.prompts import HISTORY, Domain
from m6rec.data.text import PAD, Prompt, pad
from m6rec.train import losses
from m6rec.train.text import SOURCE, Backbone

CANDIDATES_CHUNK = 512
USERS_CHUNK = 64


@torch.no_grad()
def log_likelihood(backbone: Backbone, prompt: Prompt, candidates: Sequence[str]) -> np.ndarray:
    """(N,) the mean log-likelihood of each candidate's tokens as what follows a prompt, whose target is given."""
    network, tokenizer = backbone.network, backbone.tokenizer
    given = tokenizer.given(prompt.target)
    source = torch.tensor([tokenizer.source(prompt, SOURCE)])
    # The last given token begins each candidate: its logits are those of the candidate's first token.
    cache = network.prefill(source, torch.tensor([given[:-1]], dtype=torch.long))
    rows = torch.from_numpy(pad([(given[-1], *tokenizer.segment(words)) for words in candidates]))  # (N, T)
    means = []
    for part in rows.to(network.device).split(CANDIDATES_CHUNK):
        token = part[:, 1:]  # (n, T - 1)
        log_prob = network.decode_step(part[:, :-1], cache).log_softmax(-1).gather(-1, token[..., None])[..., 0]
        means.append((log_prob * (token != PAD)).sum(1) / (token != PAD).sum(1))
    return torch.cat(means).cpu().numpy()


def target_prompts(domain: Domain, users: Targets, history: int = HISTORY) -> list[Prompt]:
    """Each target's profile and history, and its request as the beginning of the target region."""
    return [one._replace(target=one.target[:-1]) for one in domain.prompts(users.events, history)]


class Likelihood:
    """A scorer for `m6rec.evaluate`: token log-likelihoods after each target's profile, history and request.

    candidates: the item codes that are scored; the others get -inf. prior: the share of each candidate's log-likelihood
    without any history that is subtracted, so that words which are likely for everyone do not lead.
    """

    name = "zero-shot"

    def __init__(
        self, backbone: Backbone, domain: Domain, candidates: np.ndarray, *, history: int = HISTORY, prior: float = 0.0
    ):
        self.backbone, self.domain, self.candidates, self.history = backbone, domain, candidates, history
        self.words, self.back = np.unique(domain.items[candidates].astype(str), return_inverse=True)  # scored once
        self.prior = prior * log_likelihood(backbone, Prompt(), self.words) if prior else 0.0

    def scores(self, users: Targets) -> np.ndarray:
        """(B, N) mean log-likelihoods."""
        out = np.full((len(users), len(self.domain.items)), -np.inf)
        for row, prompt in zip(out, target_prompts(self.domain, users, self.history), strict=True):
            row[self.candidates] = (log_likelihood(self.backbone, prompt, self.words) - self.prior)[self.back]
        return out


class DotProduct:
    """A scorer for `m6rec.evaluate`: ⟨the state before an item, the item's words⟩ for every item of `domain`."""

    name = "zero-shot, dot product"

    def __init__(self, backbone: Backbone, domain: Domain, *, history: int = HISTORY):
        self.backbone, self.domain, self.history = backbone, domain, history
        tokens = torch.from_numpy(pad([backbone.tokenizer.segment(words)[:-1] for words in domain.items]))
        with torch.no_grad():
            self.items = losses.text_vectors(backbone.network, tokens.to(backbone.network.device))  # (N, D)

    @torch.no_grad()
    def scores(self, users: Targets) -> Tensor:
        """(B, N) inner products."""
        prompts = target_prompts(self.domain, users, self.history)
        parts = [prompts[i : i + USERS_CHUNK] for i in range(0, len(prompts), USERS_CHUNK)]
        return torch.cat([self.states(part) @ self.items.T for part in parts])

    def states(self, prompts: Sequence[Prompt]) -> Tensor:
        """The states at the last given token, after which an item would be generated: (n, D)."""
        network, tokenizer = self.backbone.network, self.backbone.tokenizer
        source = torch.from_numpy(tokenizer.encode(prompts, SOURCE).source)
        rows = [tokenizer.given(prompt.target) for prompt in prompts]
        hidden = network(source, torch.from_numpy(pad(rows)), logits=False).hidden[:, source.shape[1] :]
        return hidden[torch.arange(len(rows)), torch.tensor([len(row) - 1 for row in rows])]
