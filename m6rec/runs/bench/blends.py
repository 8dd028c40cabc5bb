"""Blends, judged again and again: what does not change while a prior's settings climb is worked out once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from m6rec.data.dataset import Dataset
from m6rec.data.splits import Split
from m6rec.evaluate.blend import UNIFORM
from m6rec.evaluate.tuning import CHUNK, JUDGES


class BlendJudge:
    """The mean over models of what `judge(Blended(model, prior, weight))` gives, some ten times as fast.

    The models are asked once for all validation targets, or for the 5,000 that `judge` draws by the same seed; their
    log-probabilities stay here, in float32. Seen items are masked, and ties are mid-ranks.
    """

    def __init__(self, models: Sequence[Any], data: Dataset, split: Split, seed: int = 0):
        targets = data.targets(np.sort(np.random.default_rng(seed).permutation(split.valid)[:JUDGES]))
        self._parts = [targets[start : start + CHUNK] for start in range(0, len(targets), CHUNK)]
        self._spoken = [torch.stack([_spoken(model, users) for model in models]) for users in self._parts]

    def __call__(self, prior: Any, weight: float) -> float:
        """NDCG@10 with a prior whose scores are 0 or more."""
        gains = []
        for users, spoken in zip(self._parts, self._spoken, strict=True):
            counts = torch.as_tensor(prior.scores(users)).float()
            share = counts / counts.sum(1, keepdim=True).clamp(min=1e-12)
            scores = spoken + weight * ((1 - UNIFORM) * share + UNIFORM / counts.shape[1]).log()
            truth = scores[:, torch.arange(len(users)), torch.from_numpy(users.items).long(), None]
            rank = 1 + (scores > truth).sum(2) + ((scores == truth).sum(2) - 1) / 2
            gains.append(torch.where(rank <= 10, 1 / torch.log2(1 + rank), 0.0))
        return float(torch.cat(gains, 1).double().mean())


def _spoken(model: Any, users: Any) -> torch.Tensor:
    """A model's log-probabilities (B, N), -inf for what was seen and is not the target."""
    scores = torch.as_tensor(model.scores(users)).cpu().double().log_softmax(-1).float()
    rows, truth = torch.arange(len(users)), torch.from_numpy(users.items).long()
    known = scores[rows, truth]
    seen = users.seen().nonzero()
    scores[torch.from_numpy(seen[0]).long(), torch.from_numpy(seen[1]).long()] = float("-inf")
    scores[rows, truth] = known
    return scores
