"""Drawing items without replacement: the beam keeps the nodes whose perturbed log-probability is highest.

A leaf's log-probability plus Gumbel noise is a key, and the k largest keys are k draws without replacement. A node's
key is the largest key below it, so it can be drawn before the leaves are, and its children's keys after it: each step
of the beam is exact, and no leaf is looked at in vain. Source: Kool, van Hoof & Welling 2019, sections 3 and 4.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Draw:
    """A beam's keys, from the root down. Each digit's probability is softmax(logits / temperature) over what may be.

    The mask narrows each digit's choice, so what is forbidden leaves its probability to its own siblings.
    """

    def __init__(self, rows: int, temperature: float, seed: int, device: torch.device):
        self.temperature = temperature
        self.noise = torch.Generator(device=device).manual_seed(seed)
        # In double precision: a rare item's key is a difference of large numbers.
        self.said = torch.zeros(rows, 1, dtype=torch.double, device=device)  # (B, K) log-probabilities
        self.keys = torch.zeros_like(self.said)  # (B, K)

    def extend(self, logits: Tensor) -> Tensor:
        """The children's keys: logits (B, K, W), -inf for what may not be -> (B, K, W)."""
        said = (logits.double() / self.temperature).log_softmax(-1)
        self.said = (self.said[..., None] + said).nan_to_num(nan=float("-inf"))  # NaN: below a node that may not be
        gumbel = self.said - torch.empty_like(self.said).exponential_(generator=self.noise).log()
        self.keys = _below(gumbel, self.keys[..., None]).masked_fill(self.said == float("-inf"), float("-inf"))
        return self.keys

    def keep(self, best: Tensor) -> None:
        """Go on with these children: (B, K) places among K·W."""
        self.said, self.keys = self.said.flatten(1).gather(1, best), self.keys.flatten(1).gather(1, best)


def _below(gumbel: Tensor, most: Tensor) -> Tensor:
    """Gumbels (B, K, W) on the condition that each row's largest is `most` (B, K, 1): Kool et al., appendix B.3."""
    v = most - gumbel + torch.log1p(-(gumbel - gumbel.amax(-1, keepdim=True)).exp())
    return most - v.clamp(min=0) - torch.log1p((-v.abs()).exp())
