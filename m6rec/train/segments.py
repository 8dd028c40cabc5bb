"""Networks for late interaction and M6-Edge: their losses, and the variants of one seed that are compared.

All variants begin from one network of full depth, each is trained once and kept; where two are compared, both have had
as many steps with labels.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from m6rec.config import Config
from m6rec.data.ratings import RatingWindows, Spans, Windows
from m6rec.model.segments import SegmentNetwork
from m6rec.train.checkpoint import version
from m6rec.train.compress import Pruning, first_layers
from m6rec.train.fit import Stage, fit, fit_once
from m6rec.train.losses import SegmentLoss, distillation, exit_losses, relation_distillation

STEPS = 50  # of one epoch, which is only what a checkpoint is kept after
CANDIDATES = 24  # judged by one history while training


def train(
    network: SegmentNetwork,
    data: RatingWindows,
    loss: SegmentLoss,
    config: Config,
    *,
    name: str,
    epochs: int,
    origin: str = "",
    steps: int = STEPS,
    keep: bool = True,
) -> SegmentNetwork:
    """Train in place for so many epochs of so many steps, or take what the cache kept of the same; -> the network.

    The averaged weights of the end are kept: nothing is chosen by the test or by the validation. keep: in the cache,
    by name, config, data, the weights that it starts from, and `origin`: what else decides, such as the teacher.
    """  # fmt: skip
    stage = Stage(
        name=name,
        epochs=epochs,
        batches=lambda rng: data.batches(rng, steps=steps, size=config.batch, candidates=CANDIDATES),
        losses=lambda net, windows, rng: loss(net, windows),
        keep="last",
    )
    if keep:
        parts = (epochs, steps, origin, data.fingerprint, version(network))
        fit_once(network, stage, config, *parts, code=(Variants,))
    else:
        fit(network, stage, config)
    return network


class Variant(NamedTuple):
    """A network, and how many of its layers read each segment alone."""

    network: SegmentNetwork
    local_layers: int

    def auc(self, data: RatingWindows, part: Spans) -> float:
        """Over a part's candidates."""
        return auc(logits(self.network, data, part, local_layers=self.local_layers), labels(data, part))


class Variants:
    """`config.joint_layers` is the full depth; epochs and tune count passes of so many steps.

    Every method trains a network or takes it from the cache.
    """

    def __init__(self, data: RatingWindows, config: Config, *, epochs: int, tune: int, steps: int = STEPS):
        self.data, self.config, self.epochs, self.tune, self.steps = data, config, epochs, tune, steps
        self._trained: dict[str, SegmentNetwork] = {}

    def members(self, joints: Sequence[int]) -> dict[str, Variant]:
        """Whole passes, late interaction and distilled networks of these depths, by name."""
        late = {f"late {k}": Variant(self.late(k), self.config.joint_layers - k) for k in joints}
        distilled = {f"distilled {k}": Variant(self.distilled(k), 0) for k in joints}
        return {"full": Variant(self.full(), 0), **late, **distilled}

    def full(self) -> SegmentNetwork:
        """All layers see all segments; an exit at every layer."""
        return self._once("full", lambda: copy.deepcopy(self._base()), exit_losses(), self.tune)

    def late(self, joint: int) -> SegmentNetwork:
        """The base, tuned with segments that interact in the last `joint` layers only: as many steps as `full`."""
        loss = exit_losses(self.config.joint_layers - joint)
        return self._once(f"late-{joint}", lambda: copy.deepcopy(self._base()), loss, self.tune)

    def distilled(self, depth: int) -> SegmentNetwork:
        """The first layers of `full`, distilled from it: as deep as what late interaction runs at request time."""
        teacher = self.full()
        config = dataclasses.replace(self.config, joint_layers=depth)
        start = lambda: first_layers(teacher, config)  # noqa: E731
        return self._once(f"distilled-{depth}", start, distillation(teacher), self.tune, version(teacher))

    def edge(self, depth: int = 6, embedding_size: int = 4) -> SegmentNetwork:
        """One shared block and a factorised token table (Lan et al. 2020): relations first, then labels and logits.

        The paper distils relations while pretraining. Here scoring is all that is learnt, so what is left of that is
        the order: no label is seen before the relations.
        """
        teacher = self.full()

        def start() -> SegmentNetwork:
            torch.manual_seed(self.config.seed)
            config = dataclasses.replace(self.config, joint_layers=depth)
            small = SegmentNetwork(config, len(self.data.tokenizer), shared=True, embedding_size=embedding_size)
            return self._train("edge-relations", small, relation_distillation(teacher), self.tune, version(teacher))

        return self._once("edge", start, distillation(teacher), 2 * self.tune, version(teacher))

    def pruned(self, share: float = 0.8) -> SegmentNetwork:
        """`full` with the smallest of every matrix cut while it is tuned on."""
        if (name := f"pruned-{share}") not in self._trained:
            network, learn = copy.deepcopy(self.full()), exit_losses()
            pruning = Pruning(network, share, self.tune * self.steps)

            def loss(net: SegmentNetwork, windows: Windows) -> dict[str, Tensor]:
                pruning.step()
                return learn(net, windows)

            self._trained[name] = self._train(name, network, loss, self.tune)
            pruning.finish()
        return self._trained[name]

    def _base(self) -> SegmentNetwork:
        def start() -> SegmentNetwork:
            torch.manual_seed(self.config.seed)
            return SegmentNetwork(self.config, len(self.data.tokenizer))

        return self._once("base", start, exit_losses(), self.epochs)

    def _once(
        self, name: str, start: Callable[[], SegmentNetwork], loss: SegmentLoss, epochs: int, origin: str = ""
    ) -> SegmentNetwork:
        if name not in self._trained:
            self._trained[name] = self._train(name, start(), loss, epochs, origin)
        return self._trained[name]

    def _train(
        self, name: str, network: SegmentNetwork, loss: SegmentLoss, epochs: int, origin: str = ""
    ) -> SegmentNetwork:
        options = {"name": name, "epochs": epochs, "origin": origin, "steps": self.steps}
        return train(network, self.data, loss, self.config, **options)


@torch.no_grad()
def logits(
    network: SegmentNetwork, data: RatingWindows, part: Spans, *, local_layers: int = 0, every: bool = False
) -> np.ndarray:
    """Logits (W, C) of a part's candidates, or (K, W, C) of every exit after the layers alone."""
    rows = []
    for at in range(0, len(part.starts), 32):
        windows = data.windows(Spans(part.starts[at : at + 32], part.count))
        said = [step.logits for step in network.eval().steps(windows, local_layers)]
        rows.append(torch.stack(said if every else said[-1:]))
    out = torch.cat(rows, 1).cpu().numpy()
    return out if every else out[0]


def labels(data: RatingWindows, part: Spans) -> np.ndarray:
    """(W, C) bool: liked, that is rated 4 or 5."""
    return data.liked[part.starts[:, None] + np.arange(part.count)] > 0


def auc(scores: np.ndarray, liked: np.ndarray) -> float:
    """The chance that a liked candidate scores above one that is not, over all users' candidates at once."""
    return float(roc_auc_score(liked.ravel(), scores.ravel()))
