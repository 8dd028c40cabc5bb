"""SASRec: a causal Transformer over item ids, trained with the full softmax.

Source: Kang & McAuley 2018, with the loss that Klenitskiy & Vasilev 2023 found to be worth more than its successors.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m6rec.config import Config
from m6rec.data.batches import Batch, training_batches
from m6rec.data.context import EventCodes
from m6rec.data.dataset import Dataset
from m6rec.data.sources import home
from m6rec.data.splits import Split, Targets
from m6rec.evaluate import evaluate
from m6rec.model import masks
from m6rec.model.attention import attend
from m6rec.train import checkpoint
from m6rec.train.fit import Epoch, Stage, fit


class Layer(nn.Module):
    """The paper's layer: LayerNorm, attention, LayerNorm, a ReLU net of the same width; sums without gates."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.norm, self.ffn_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.ffn = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (
            self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )  # each (B, H, T, D/H)
        x = x + self.dropout(self.out(attend(q, k, v, mask).out.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.ffn(self.ffn_norm(x)))


class SASRecNetwork(nn.Module):
    """Item ids (B, T) -> logits of the item after each (B, T, N)."""

    def __init__(self, items: int, config: Config):
        super().__init__()
        self.items = nn.Embedding(items, config.width)
        self.places = nn.Embedding(config.history, config.width)
        self.layers = nn.ModuleList(
            Layer(config.width, config.heads, config.dropout) for _ in range(config.joint_layers)
        )
        self.norm, self.dropout = nn.LayerNorm(config.width), nn.Dropout(config.dropout)
        for table in (self.items, self.places):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, item: Tensor) -> Tensor:
        places = torch.arange(item.shape[1], device=item.device)
        x = self.dropout(self.items(item.clamp(min=0)) + self.places(places))
        mask = masks.causal(item.shape[1], item.device)  # padding stands on the right, where nobody looks
        for layer in self.layers:
            x = layer(x, mask)
        return self.norm(x) @ self.items.weight.T


class SASRec:
    """Fits like the model, with the same loop, windows, averaging and early stopping; scores like it too."""

    name = "SASRec"

    def __init__(self, config: Config):
        self.config = config

    def fit(self, data: Dataset, split: Split, **options: object) -> SASRec:
        """Train on the training events; validation decides when to stop. options are `m6rec.train.fit`'s."""
        torch.manual_seed(self.config.seed)
        self.network = SASRecNetwork(data.n_items, self.config)
        no = np.zeros(data.n_events, np.int64)
        codes = EventCodes(no, no, np.zeros((data.n_events, 0), np.int64), np.zeros((data.n_users, 0), np.int64))
        length, size = self.config.history, self.config.batch

        def validate(network: nn.Module) -> float:
            return evaluate(_Scorer(network, length - 1), data, split=split, part="valid").metrics["ndcg@10"]

        self.log: list[Epoch] = fit(
            self.network,
            Stage(
                name=self.name,
                epochs=self.config.pretrain_epochs,
                batches=lambda rng: training_batches(data, split, codes, length=length, batch=size, rng=rng),
                losses=lambda network, batch, rng: {"next": _loss(network, batch)},
                validate=validate,
                weights={},
            ),
            self.config,
            **options,
        )
        return self

    def cached(self, data: Dataset, split: Split) -> SASRec:
        """Fit, or go on from where the cache stands: after a finished training that is its end."""
        key = checkpoint.key(self.name, self.config.fingerprint, data.fingerprint)
        return self.fit(data, split, folder=home() / "models" / f"sasrec-{key}", resume=True)

    def scores(self, users: Targets) -> Tensor:
        """Logits of all items for targets -> (B, N)."""
        return _Scorer(self.network, self.config.history - 1).scores(users)


class _Scorer:
    """Scores after at most `length` events: one fewer than a window has, since a window's last event is only a target
    and its place is never learnt."""

    def __init__(self, network: nn.Module, length: int):
        self.network, self.length, self.name = network, length, SASRec.name

    @torch.no_grad()
    def scores(self, users: Targets) -> Tensor:
        history = users.history(self.length)  # (B, T), padded on the left
        counts = (history >= 0).sum(1)
        rows = np.arange(self.length) + self.length - counts[:, None]
        packed = np.take_along_axis(history, rows % self.length, 1)  # padding moves to the right
        device = self.network.items.weight.device
        logits = self.network(torch.from_numpy(packed).to(device))
        return logits[torch.arange(len(users)), torch.from_numpy(np.maximum(counts, 1) - 1)]


def _loss(network: nn.Module, batch: Batch) -> Tensor:
    item = batch.context.item
    logits, target = network(item[:, :-1]), item[:, 1:]
    there = target >= 0
    return F.cross_entropy(logits[there], target[there])
