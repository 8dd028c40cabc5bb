"""A TIGER-style generator: an item is the digits that residual k-means gives its content, and digits are generated.

Source: Rajput et al. 2023, but with one small causal decoder instead of a T5, no user token, k-means instead of an
RQ-VAE, and TF-IDF of the texts instead of a language model's vectors.
"""

import copy
import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from sklearn.preprocessing import normalize
from sklearn.utils.extmath import randomized_svd
from torch import Tensor, nn

from m6rec.baselines.counts import tfidf
from m6rec.baselines.sequential import SASRecNetwork, Sequential
from m6rec.config import Config
from m6rec.data.dataset import Dataset, Targets
from m6rec.model import masks
from m6rec.model.attention import Block, KVCache, Stack

LEVELS = 3  # of k-means; one more digit tells items apart that share these
CHANNELS = 64  # of an item's content


@dataclass(eq=False)
class Tiger(Sequential):
    """Cross-entropy of the next item's digits; recommends what a beam finds under the trie of all items' digits.

    codes: of each level of k-means. mask_seen: what was seen is closed in the trie.
    """

    name = "TIGER"
    codes: int = 256
    beam: int = 50
    mask_seen: bool = True

    @property
    def unmasked(self) -> Self:
        """The same network, nothing masked."""
        other = copy.copy(self)
        other.mask_seen = False
        return other

    def build(self, data: Dataset) -> "TigerNetwork":
        """The network of a catalogue, with its semantic IDs. InputError where no text has a word."""
        texts = tfidf(data)
        vectors, sizes, _ = randomized_svd(texts, min(CHANNELS, *texts.shape), random_state=self.config.seed)
        digits = semantic_ids(normalize(vectors * sizes), self.codes, self.config.seed)
        return TigerNetwork(torch.from_numpy(digits), self.config)

    def loss(self, network: nn.Module, states: Tensor, target: Tensor) -> Tensor:
        """Summed over the digits."""
        return sum(map(F.cross_entropy, network.teacher_forced(states, target), network.digits[target].unbind(1)))

    def rank(self, network: nn.Module, states: Tensor, users: Targets) -> Tensor:
        """Log-likelihoods of the beam's items, -inf for all that were not generated."""
        allowed = ~(torch.from_numpy(users.seen().toarray()) & self.mask_seen)
        return generate(network, states, self.beam, allowed.to(states.device))


def semantic_ids(vectors: np.ndarray, codes: int, seed: int = 0, levels: int = LEVELS) -> np.ndarray:
    """Residual k-means of vectors (N, D), and a last digit that tells apart what shares the others: (N, levels + 1).

    Each level clusters what the level before left over, with fewer codes where fewer vectors differ. No two are alike.
    """
    digits, left = pd.DataFrame(index=range(len(vectors))), vectors.astype(np.float64)
    for level in range(levels):
        left = left.round(6)  # what is alike but for rounding is one vector
        clusters = KMeans(min(codes, len(np.unique(left, axis=0))), n_init=1, random_state=seed).fit(left)
        digits[level] = clusters.labels_
        left = left - clusters.cluster_centers_[clusters.labels_]
    return digits.assign(last=digits.groupby(list(digits)).cumcount()).to_numpy(np.int64)


class TigerNetwork(SASRecNetwork):
    """Item ids (B, T) -> states (B, T, D), and states and the digits so far -> logits of the next digit.

    Each level has one vocabulary, whatever the digits before, that events, decoder and output share.
    """

    def __init__(self, digits: Tensor, config: Config):
        tables = (nn.Embedding(size, config.width) for size in (digits.max(0).values + 1).tolist())
        super().__init__(nn.ModuleList(tables), config, Block, nn.RMSNorm)
        self.register_buffer("digits", digits)  # (N, G): saved with the weights that were learnt for them
        self.decoder, self.decoder_norm = Stack(config, config.decoder_layers), nn.RMSNorm(config.width)

    def embed(self, item: Tensor) -> Tensor:
        return sum(table(digit) for table, digit in zip(self.embedding, self.digits[item].unbind(-1), strict=True))

    def teacher_forced(self, state: Tensor, items: Tensor) -> list[Tensor]:
        """Logits of every digit of items, all levels in one pass: (n, D), (n,) -> G × (n, codes)."""
        before = [table(digit) for table, digit in zip(self.embedding[:-1], self.digits[items].T, strict=False)]
        x = torch.stack((state, *before), 1)  # (n, G, D)
        positions, mask = torch.arange(x.shape[1], device=x.device), masks.causal(x.shape[1], x.device)
        x = self.decoder_norm(self.decoder(x, mask, positions).states)
        return [x[:, level] @ table.weight.T for level, table in enumerate(self.embedding)]

    def step(self, x: Tensor, level: int, cache: list[KVCache] | None) -> tuple[Tensor, list[KVCache]]:
        """One digit: the state or the vector of the digit before (n, D), keys and values so far -> logits, new cache.

        Equal to `teacher_forced`, by a test.
        """
        run = self.decoder(x[:, None], positions=torch.tensor([level], device=x.device), past=cache)
        return self.decoder_norm(run.states[:, 0]) @ self.embedding[level].weight.T, run.caches


def trie(digits: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Of semantic IDs (N, G), per level: last digits (n,) and parents (n,) of its nodes, and each item's node (N,).

    Sparse, unlike the model's own `Tree`: here 256³ paths and more lead to a few thousand items.
    """
    table, levels = digits.cpu().numpy(), []
    node = np.zeros(len(table), np.int64)
    for level in range(table.shape[1]):
        above = node
        _, first, node = np.unique(table[:, : level + 1], axis=0, return_index=True, return_inverse=True)
        columns = table[first, level], above[first], node
        levels.append(tuple(torch.from_numpy(column).to(digits.device) for column in columns))
    return levels


@torch.no_grad()
def generate(network: TigerNetwork, state: Tensor, beam: int, allowed: Tensor) -> Tensor:
    """Log-likelihoods of the items that a beam finds for each state (B, D), -inf for all others: (B, N).

    allowed (B, N) bool: which items may be generated. A digit is possible only if it leads to one, so the beam ends
    with as many items as it is wide, or with all that are allowed.
    """
    b, x, past, above = len(state), state, None, 1
    nodes, scores = state.new_zeros(b, 1, dtype=torch.long), state.new_zeros(b, 1)
    for level, (digit, parent, node) in enumerate(trie(network.digits)):
        beams = nodes.shape[1]
        logits, past = network.step(x, level, past)
        log_probs = logits.log_softmax(-1).view(b, -1)  # (B, K · codes)
        slots = nodes.new_full((b, above), -1)
        slots = slots.scatter_(1, nodes, torch.arange(beams, device=state.device).expand(b, -1))[:, parent]
        valid = (slots >= 0) & (state.new_zeros(b, len(digit)).index_add_(1, node, allowed.to(state)) > 0)
        slots = slots.clamp(min=0)  # (B, n) where in the beam each node's parent is
        ahead = scores.gather(1, slots) + log_probs.gather(1, slots * logits.shape[-1] + digit)
        scores, nodes = ahead.masked_fill(~valid, -math.inf).topk(min(beam, len(digit)))
        rows = (torch.arange(b, device=state.device)[:, None] * beams + slots.gather(1, nodes)).flatten()
        past = [layer.index_select(rows) for layer in past]
        x, above = network.embedding[level](digit[nodes]).flatten(0, 1), len(digit)
    # The last level has a node for each item.
    return torch.full_like(scores[:, :1], -math.inf).repeat(1, above).scatter(1, node.argsort()[nodes], scores)
