"""Networks that predict the next item, GRU4Rec, SASRec and eSASRec, and the training, cache and scores they share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from m6rec.config import Config
from m6rec.data.context import Batch, EventCodes, training_batches
from m6rec.data.dataset import Dataset, Split, Targets
from m6rec.errors import InputError
from m6rec.evaluate import evaluate
from m6rec.model import masks
from m6rec.model.attention import Block, attend
from m6rec.train.fit import Epoch, Stage, fit, fit_once
from m6rec.train.losses import first_class, full_softmax, sampled_logits


class Sequential:
    """Fits like the model, with the same loop, windows, averaging and early stopping; scores like it too.

    `log` holds an `Epoch` for each pass over the training events: seconds so far, losses, validation NDCG@10.
    """

    name: str
    settings: tuple[str, ...] = ()  # the attributes that decide, beside the config, what is learnt
    architecture: Callable[[int, Config], nn.Module]  # of a number of items; its `items` embeds them
    network: nn.Module | None = None
    log: list[Epoch]

    def __init__(self, config: Config):
        self.config = config

    def build(self, data: Dataset) -> nn.Module:
        """A network: item ids (B, T), -1 on the right where there is none, -> states (B, T, D)."""
        return self.architecture(data.n_items, self.config)

    def loss(self, network: nn.Module, states: Tensor, target: Tensor) -> Tensor:
        """Mean loss of the items (n,) that came after states (n, D): cross-entropy over the whole catalogue."""
        return full_softmax(states, network.items.weight, target)

    def rank(self, network: nn.Module, states: Tensor, users: Targets) -> Tensor:
        """States (B, D) after the users' histories -> scores (B, N)."""
        return states @ network.items.weight.T

    @property
    def parameters(self) -> int:
        """How many are trained."""
        return sum(parameter.numel() for parameter in self._fitted().parameters())

    def fit(self, data: Dataset, split: Split, **options: object) -> Sequential:
        """Train on the training events; validation decides when to stop. options are `m6rec.train.fit`'s."""
        self.log = fit(*self._training(data, split), **options)
        return self

    def cached(self, data: Dataset, split: Split) -> Sequential:
        """`fit`, or what it came to before: by the data, the split, the config, the settings and the code."""
        events = hashlib.sha256(b"".join(part.tobytes() for part in (split.train, split.valid, split.test)))
        settings = [getattr(self, name) for name in self.settings]
        parts = (data.fingerprint, events.hexdigest(), *settings)
        self.log = fit_once(*self._training(data, split), *parts, code=(type(self),))
        return self

    def _training(self, data: Dataset, split: Split) -> tuple[nn.Module, Stage, Config]:
        torch.manual_seed(self.config.seed)
        self.network = self.build(data)
        no = np.zeros(data.n_events, np.int64)
        codes = EventCodes(no, no, np.zeros((data.n_events, 0), np.int64), np.zeros((data.n_users, 0), np.int64))
        length, size = self.config.history, self.config.batch

        def validate(network: nn.Module) -> float:
            scorer = SimpleNamespace(name=self.name, scores=lambda users: self._scores(network, users))
            return evaluate(scorer, data, split=split, part="valid").metrics["ndcg@10"]

        stage = Stage(
            name=self.name,
            epochs=self.config.pretrain_epochs,
            batches=lambda rng: training_batches(data, split, codes, length=length, batch=size, rng=rng),
            losses=lambda network, batch, rng: {"next": self._next(network, batch)},
            validate=validate,
        )
        return self.network, stage, self.config

    def scores(self, users: Targets) -> Tensor:
        """(B, N), higher = better. InputError before `fit`."""
        return self._scores(self._fitted(), users)

    def _fitted(self) -> nn.Module:
        if self.network is None:
            raise InputError(f"{self.name} has no network yet: call fit(data, split) before it is asked")
        return self.network

    def _next(self, network: nn.Module, batch: Batch) -> Tensor:
        item = batch.context.item
        states, target = network(item[:, :-1]), item[:, 1:]
        present = target >= 0
        return self.loss(network, states[present], target[present])

    @torch.no_grad()
    def _scores(self, network: nn.Module, users: Targets) -> Tensor:
        """After one event fewer than a window has: its last event is only a target, whose position is never learnt."""
        length = self.config.history - 1
        history = users.history(length)  # (B, T), padded on the left
        counts = (history >= 0).sum(1)
        rows = np.arange(length) + length - counts[:, None]
        packed = np.take_along_axis(history, rows % length, 1)  # padding moves to the right
        device = next(network.parameters()).device
        states = network(torch.from_numpy(packed).to(device))
        last = torch.from_numpy(np.maximum(counts, 1) - 1).to(device)
        return self.rank(network, states[torch.arange(len(users), device=device), last], users)


class GRU4RecNetwork(nn.Module):
    """Item ids (B, T) -> states (B, T, D)."""

    def __init__(self, items: int, config: Config):
        super().__init__()
        self.items = nn.Embedding(items, config.width)
        between = config.dropout if config.joint_layers > 1 else 0.0  # PyTorch warns where there is no between
        self.gru = nn.GRU(config.width, config.width, config.joint_layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.items.weight, std=0.02)

    def forward(self, item: Tensor) -> Tensor:
        x = self.dropout(self.items(item.clamp(min=0)))
        return self.dropout(self.gru(x)[0])


class GRU4Rec(Sequential):
    """Hidasi et al. 2016, with item vectors shared by input and output (Hidasi & Karatzoglou 2018); full softmax."""

    name = "GRU4Rec"
    architecture = GRU4RecNetwork


class Layer(nn.Module):
    """SASRec's: LayerNorm, attention, LayerNorm, a ReLU net of the same width; sums without gates."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.norm, self.ffn_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.ffn = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, T, D/H)
        x = x + self.dropout(self.out(attend(q, k, v, mask).out.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.ffn(self.ffn_norm(x)))


class SASRecNetwork(nn.Module):
    """Item ids (B, T) -> states (B, T, D). layer: made of width, heads and dropout; called with tokens and mask."""

    def __init__(self, items: int, config: Config, layer: type[nn.Module] = Layer):
        super().__init__()
        self.items = nn.Embedding(items, config.width)
        self.positions = nn.Embedding(config.history, config.width)
        self.layers = nn.ModuleList(
            layer(config.width, config.heads, config.dropout) for _ in range(config.joint_layers)
        )
        self.norm, self.dropout = nn.LayerNorm(config.width), nn.Dropout(config.dropout)
        for table in (self.items, self.positions):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, item: Tensor) -> Tensor:
        positions = torch.arange(item.shape[1], device=item.device)
        x = self.dropout(self.items(item.clamp(min=0)) + self.positions(positions))
        mask = masks.causal(item.shape[1], item.device)  # padding stands on the right, where nobody looks
        for layer in self.layers:
            x = layer(x, mask)
        return self.norm(x)


class SASRec(Sequential):
    """Kang & McAuley 2018, with the full softmax (Klenitskiy & Vasilev 2023) over its input item vectors."""

    name = "SASRec"
    architecture = SASRecNetwork


class LiGR(nn.Module):
    """`Block` in the place of SASRec's layer, without rotary positions: positions are learnt vectors here."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.block = Block(width, heads, dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.block(x, mask=mask).out


class ESASRec(Sequential):
    """Tikhonovich et al. 2025: LiGR layers; a step's positions share `negatives` items drawn uniformly."""

    name = "eSASRec"
    settings = ("negatives",)
    architecture = staticmethod(lambda items, config: SASRecNetwork(items, config, LiGR))

    def __init__(self, config: Config, negatives: int = 256):
        super().__init__(config)
        self.negatives = negatives

    def loss(self, network: nn.Module, states: Tensor, target: Tensor) -> Tensor:
        """The sampled softmax."""
        items = network.items.weight
        negatives = torch.randint(len(items), (self.negatives,), device=target.device)
        return first_class(sampled_logits(states, items, target, negatives, len(items)))
