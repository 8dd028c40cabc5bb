"""What the networks that predict the next item share: training with the model's own loop, the cache, and scores.

A baseline of this kind is a name, a network from item ids (B, T) to states (B, T, D), and a loss of states and targets.
"""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from m6rec.config import Config
from m6rec.data.batches import Batch, training_batches
from m6rec.data.context import EventCodes
from m6rec.data.dataset import Dataset
from m6rec.data.splits import Split, Targets
from m6rec.errors import InputError
from m6rec.evaluate import evaluate
from m6rec.train.fit import Epoch, Stage, fit, fit_once
from m6rec.train.softmax import full_softmax


class Sequential:
    """Fits like the model, with the same loop, windows, averaging and early stopping; scores like it too.

    `log` holds an `Epoch` for each pass over the training events: seconds so far, losses, validation NDCG@10.
    """

    name: str
    settings: tuple[str, ...] = ()  # the attributes that decide, beside the config, what is learnt
    network: nn.Module | None = None
    log: list[Epoch]

    def __init__(self, config: Config):
        self.config = config

    def build(self, data: Dataset) -> nn.Module:
        """A network: item ids (B, T), -1 on the right where there is none, -> states (B, T, D); `items` embeds."""
        raise NotImplementedError

    def loss(self, network: nn.Module, states: Tensor, target: Tensor) -> Tensor:
        """Mean loss of the items (n,) that came after states (n, D): cross-entropy over the whole catalogue."""
        return full_softmax(states, network.items.weight, target)

    def rank(self, network: nn.Module, states: Tensor, users: Targets) -> Tensor:
        """States (B, D) after the users' histories -> scores (B, N)."""
        return states @ network.items.weight.T

    @property
    def parameters(self) -> int:
        """How many numbers are learnt."""
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
            judged = SimpleNamespace(name=self.name, scores=lambda users: self._scores(network, users))
            return evaluate(judged, data, split=split, part="valid").metrics["ndcg@10"]

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
        there = target >= 0
        return self.loss(network, states[there], target[there])

    @torch.no_grad()
    def _scores(self, network: nn.Module, users: Targets) -> Tensor:
        """After one event fewer than a window has: its last event is only a target, and its place is never learnt."""
        length = self.config.history - 1
        history = users.history(length)  # (B, T), padded on the left
        counts = (history >= 0).sum(1)
        rows = np.arange(length) + length - counts[:, None]
        packed = np.take_along_axis(history, rows % length, 1)  # padding moves to the right
        device = next(network.parameters()).device
        states = network(torch.from_numpy(packed).to(device))
        last = torch.from_numpy(np.maximum(counts, 1) - 1).to(device)
        return self.rank(network, states[torch.arange(len(users), device=device), last], users)
