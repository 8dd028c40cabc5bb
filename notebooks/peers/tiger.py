"""A TIGER-style generator: an item is the digits that residual k-means gives its content, and digits are generated.

Source: Rajput et al. 2023, but with one small causal decoder instead of a T5, no user token, k-means instead of an
RQ-VAE, and TF-IDF of the texts instead of a language model's vectors.

    .venv/bin/python notebooks/peers/tiger.py ml-100k    # a quarter of an hour: its validation generates

It needs m6rec alone, and writes what 08_evaluation ranks at full scale, as the other scripts do.
"""

import sys
from dataclasses import dataclass

import exchange
import numpy as np
import torch
import torch.nn.functional as F
from sklearn.preprocessing import normalize
from sklearn.utils.extmath import randomized_svd
from torch import Tensor, nn

from m6rec.baselines import SASRecNetwork, Sequential, tfidf
from m6rec.config import Config
from m6rec.data.dataset import Dataset, Targets
from m6rec.data.sources import home, load
from m6rec.generate import Trie, generate
from m6rec.model.attention import Block, KVCache, Run, Stack, causal_mask
from m6rec.model.tree import semantic_ids

CHANNELS = 64  # of an item's content


@dataclass(eq=False)
class Tiger(Sequential):
    """Cross-entropy of the next item's digits; recommends what a beam finds under the trie of all items' digits.

    codes: of each level of k-means. mask_seen: what was seen is closed in the trie.
    """

    codes: int = 256
    beam: int = 50
    mask_seen: bool = True

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
        n, allowed = len(network.digits), ~(torch.from_numpy(users.seen().toarray()) & self.mask_seen)
        return generate(network, states, min(self.beam, n), beam=self.beam, allowed=allowed, short=True).table(n)


class ItemTrie(Trie):
    """Of items' digits (N, G); item codes can be closed in it."""

    def __init__(self, digits: Tensor, sizes: list[int]):
        super().__init__(digits.numpy(), sizes)
        paths, item = [torch.zeros_like(digits[:, 0])], torch.full_like(self.token, -1)
        for level in range(len(sizes)):
            paths.append(self.successors(level, paths[-1]).gather(1, digits[:, [level]])[:, 0])
        item[paths[-1]] = torch.arange(len(digits))
        for name, part in {"item": item, "leaf": paths[-1], "paths": torch.stack(paths[1:])}.items():
            self.register_buffer(name, part, persistent=False)  # item (nodes,), leaf (N,), paths (G, N)

    def valid_nodes(self, allowed: Tensor) -> list[Tensor]:
        """Of each level (B, nodes) bool: which lead to an allowed (B, N) item."""
        valid = torch.zeros(len(allowed), len(self.token), device=allowed.device)
        for path in self.paths:
            valid.index_add_(1, path, allowed.float())
        return [valid > 0] * len(self.widths)


class TigerNetwork(SASRecNetwork):
    """Item ids (B, T) -> states (B, T, D), and states and the digits so far -> logits of the next digit.

    Each level has one vocabulary, whatever the digits before, that events, decoder and output share.
    """

    def __init__(self, digits: Tensor, config: Config):
        sizes = (digits.max(0).values + 1).tolist()
        tables = (nn.Embedding(size, config.width) for size in sizes)
        super().__init__(nn.ModuleList(tables), config, Block, nn.RMSNorm)
        self.register_buffer("digits", digits)  # (N, G): saved with the weights that were learnt for them
        self.built_tree = ItemTrie(digits, sizes)
        self.decoder, self.decoder_norm = Stack(config, config.decoder_layers), nn.RMSNorm(config.width)

    def embed(self, item: Tensor) -> Tensor:
        return sum(table(digit) for table, digit in zip(self.embedding, self.digits[item].unbind(-1), strict=True))

    def teacher_forced(self, state: Tensor, items: Tensor) -> list[Tensor]:
        """Logits of every digit of items, all levels in one pass: (n, D), (n,) -> G × (n, codes)."""
        before = [table(digit) for table, digit in zip(self.embedding[:-1], self.digits[items].T, strict=False)]
        x = torch.stack((state, *before), 1)  # (n, G, D)
        positions, mask = torch.arange(x.shape[1], device=x.device), causal_mask(x.shape[1], x.device)
        x = self.decoder_norm(self.decoder(x, mask, positions).states)
        return [x[:, level] @ table.weight.T for level, table in enumerate(self.embedding)]

    def step(
        self, state: Tensor, level: int, node: Tensor, past: list[KVCache] | None, *, weights: bool = False
    ) -> tuple[Tensor, Run]:
        """One digit: states (n, D), the trie's nodes (n,), the caches so far -> logits (n, codes), the new caches.

        Equal to `teacher_forced`, by a test.
        """
        x = state if level == 0 else self.embedding[level - 1](self.built_tree.token[node])
        run = self.decoder(x[:, None], positions=torch.tensor([level], device=x.device), past=past, weights=weights)
        return self.decoder_norm(run.states[:, 0]) @ self.embedding[level].weight.T, run


def main(name: str) -> None:
    """Train on a data set's training events, and write the scores of its test targets."""
    data = load(name)
    split, folder = data.split(), home() / "peers" / data.name
    model = Tiger(Config.preset("small", pretrain_epochs=100, patience=6)).fit(data, split)
    folder.mkdir(parents=True, exist_ok=True)
    parts = (model.scores(data.targets(rows)).cpu() for rows in np.array_split(split.test, len(split.test) // 200 + 1))
    curve = [(row.seconds, row.validation) for row in model.log if row.validation is not None]
    exchange.write(folder, "tiger", torch.cat(list(parts)).numpy(), seconds=curve[-1][0], curve=curve)


if __name__ == "__main__":
    main(*sys.argv[1:])
