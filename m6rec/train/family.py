"""One seed's networks for late interaction and M6-Edge: each is trained from the same start, once, and kept.

All begin from one network of full depth; where two are compared, both have had as many steps with labels.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch

from m6rec.config import Config
from m6rec.data.ratings import RatingWindows, Spans
from m6rec.model.segments import SegmentNetwork
from m6rec.train import compress
from m6rec.train import segments as train
from m6rec.train.checkpoint import version


class Member(NamedTuple):
    """A network, and how many of its layers its segments run alone."""

    network: SegmentNetwork
    local_layers: int

    def auc(self, shop: RatingWindows, part: Spans) -> float:
        """Over a part's candidates."""
        return train.auc(
            train.logits(self.network, shop, part, local_layers=self.local_layers), train.labels(shop, part)
        )


class Family:
    """`config.joint_layers` is the full depth; epochs and tune count passes of so many steps.

    Every method trains a network or takes it from the cache.
    """

    def __init__(self, shop: RatingWindows, config: Config, *, epochs: int, tune: int, steps: int = train.STEPS):
        self.shop, self.config, self.epochs, self.tune, self.steps = shop, config, epochs, tune, steps
        self._made: dict[str, SegmentNetwork] = {}

    def members(self, joints: Sequence[int]) -> dict[str, Member]:
        """Whole passes, late interaction and distilled networks of these depths, by name."""
        late = {f"late {k}": Member(self.late(k), self.config.joint_layers - k) for k in joints}
        distilled = {f"distilled {k}": Member(self.distilled(k), 0) for k in joints}
        return {"full": Member(self.full(), 0), **late, **distilled}

    def full(self) -> SegmentNetwork:
        """All layers see all segments; an exit at every layer."""
        return self._tuned("full", self._base(), train.exits(), self.tune)

    def late(self, joint: int) -> SegmentNetwork:
        """The base, tuned with segments that meet in the last `joint` layers alone: as many steps as `full`."""
        return self._tuned(f"late-{joint}", self._base(), train.exits(self.config.joint_layers - joint), self.tune)

    def distilled(self, depth: int) -> SegmentNetwork:
        """The first layers of `full`, taught by it: as deep as what late interaction runs at request time."""
        if f"distilled-{depth}" in self._made:
            return self._made[f"distilled-{depth}"]
        start = compress.first_layers(self.full(), self._with(depth))
        return self._tuned(f"distilled-{depth}", start, train.taught(self.full()), self.tune, self._teacher)

    def edge(self, depth: int = 6, embedding_size: int = 4) -> SegmentNetwork:
        """One shared block and a narrow token table; `full`'s relations first, without labels, then labels and logits.

        The paper distils relations while pretraining. Here scoring is all that is learnt, so what is left of that is
        the order: no label is seen before the relations are taught.
        """
        if "edge" in self._made:
            return self._made["edge"]
        torch.manual_seed(self.config.seed)
        small = compress.student(self._with(depth), len(self.shop.tokenizer), embedding_size=embedding_size)
        small = self._tuned("edge-relations", small, train.related(self.full()), self.tune, self._teacher)
        return self._tuned("edge", small, train.taught(self.full()), 2 * self.tune, self._teacher)

    def pruned(self, share: float = 0.8) -> SegmentNetwork:
        """`full` with the smallest of every matrix cut while it is tuned on."""
        name = f"pruned-{share}"
        if name in self._made:
            return self._made[name]
        network, learn = copy.deepcopy(self.full()), train.exits()
        pruning = compress.Pruning(network, share, self.tune * self.steps)

        def loss(net: SegmentNetwork, windows: object) -> dict[str, torch.Tensor]:
            pruning.step()
            return learn(net, windows)

        self._made[name] = self._taught(name, network, loss, self.tune)
        pruning.finish()
        return network

    def _base(self) -> SegmentNetwork:
        if "base" not in self._made:
            torch.manual_seed(self.config.seed)
            start = SegmentNetwork(self.config, len(self.shop.tokenizer))
            self._made["base"] = self._taught("base", start, train.exits(), self.epochs)
        return self._made["base"]

    @property
    def _teacher(self) -> str:
        return version(self.full())

    def _tuned(
        self, name: str, start: SegmentNetwork, loss: train.Loss, epochs: int, origin: str = ""
    ) -> SegmentNetwork:
        if name not in self._made:
            self._made[name] = self._taught(name, copy.deepcopy(start), loss, epochs, origin)
        return self._made[name]

    def _taught(
        self, name: str, network: SegmentNetwork, loss: train.Loss, epochs: int, origin: str = ""
    ) -> SegmentNetwork:
        config = dataclasses.replace(self.config, validate_every=epochs)
        options = {"name": name, "epochs": epochs, "origin": origin, "steps": self.steps}
        return train.teach(network, self.shop, loss, config, **options)

    def _with(self, depth: int) -> Config:
        return dataclasses.replace(self.config, joint_layers=depth)
