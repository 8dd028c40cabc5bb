"""Teaching a network of segments: labels at every exit, a teacher's logits, a teacher's relations.

Each stage is kept by a hash of what it started from, so that an interrupted measurement goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor

from m6rec.config import Config
from m6rec.data.ratings import RatingWindows, Spans, Windows
from m6rec.model.segments import SegmentNetwork
from m6rec.train.checkpoint import version
from m6rec.train.fit import Stage, fit, fit_once

STEPS = 50  # of one epoch, which is only what a checkpoint is kept after
CANDIDATES = 24  # judged by one history while training
CODE = ("m6rec.train.segments", "m6rec.train.family")  # what the networks are and learn
Loss = Callable[[SegmentNetwork, Windows], dict[str, Tensor]]


def teach(
    network: SegmentNetwork,
    shop: RatingWindows,
    loss: Loss,
    config: Config,
    *,
    name: str,
    epochs: int,
    origin: str = "",
    keep: bool = True,
    steps: int = STEPS,
) -> SegmentNetwork:
    """Train in place for so many epochs of some steps each, or take what the cache kept of the same; -> the network.

    The weights of the end are kept, averaged: nothing is chosen by the test or by the validation. keep: in the cache,
    under the stage's name, its config, the data, the weights that it starts from, and `origin`: what else decides,
    such as the teacher's version.
    """
    stage = Stage(
        name=name,
        epochs=epochs,
        batches=lambda rng: shop.batches(rng, steps=steps, size=config.batch, candidates=CANDIDATES),
        losses=lambda net, windows, rng: loss(net, windows),
        validate=lambda net: 0.0,
        weights={},
    )
    if keep:
        parts = (epochs, steps, origin, shop.fingerprint, version(network))
        fit_once(network, stage, config, *parts, code=CODE)
    else:
        fit(network, stage, config)
    return network


def exits(local_layers: int = 0) -> Loss:
    """The labels at every exit after the layers alone, the deeper the heavier: weight 2k / (L(L + 1)) at layer k.

    They sum to 1 over all layers. M6-Rec's notes print another form, whose weights do not; this is the reading taken.
    """

    def loss(network: SegmentNetwork, windows: Windows) -> dict[str, Tensor]:
        there, total, sums = windows.liked >= 0, 0.0, 0.0
        for k, step in enumerate(network.steps(windows, local_layers), local_layers + 1):
            weight = 2 * k / (network.depth * (network.depth + 1))
            logits = step.logits[there]
            total = total + weight * F.binary_cross_entropy_with_logits(logits, windows.liked[there])
            sums += weight
        return {"exits": total / sums}

    return loss


def taught(teacher: SegmentNetwork) -> Loss:
    """The labels and the teacher's own probabilities, at the last layer."""

    def loss(network: SegmentNetwork, windows: Windows) -> dict[str, Tensor]:
        there = windows.liked >= 0
        logits = network(windows)[there]
        with torch.no_grad():
            soft = teacher(windows)[there].sigmoid()
        return {
            "liked": F.binary_cross_entropy_with_logits(logits, windows.liked[there]),
            "teacher": F.binary_cross_entropy_with_logits(logits, soft),
        }

    return loss


def related(teacher: SegmentNetwork, groups: int = 4) -> Loss:
    """The teacher's relations, without any label: which tokens' keys, and which values, are near each other.

    Both networks' last keys and values are cut into `groups`; softmax(XXᵀ/√d) is each one's relation, and the loss is
    KL(teacher ‖ student). Widths and depths may differ. Source: Wang et al. 2021 (MiniLMv2), eq. 4-6.
    """

    def loss(network: SegmentNetwork, windows: Windows) -> dict[str, Tensor]:
        there = (windows.source != 0).flatten(1)  # (B, S·L): the source's tokens
        with torch.no_grad():
            *_, goal = teacher.steps(windows)
        *_, mine = network.steps(windows)
        total = 0.0
        for theirs, ours in zip(goal.cache, mine.cache, strict=True):
            wanted, said = _relation(theirs, there, groups), _relation(ours, there, groups)
            rows = (wanted.exp() * (wanted - said)).sum(-1).transpose(1, 2)[there]  # (B, g, n, n) -> (tokens, g)
            total = total + rows.mean()
        return {"relations": total / 2}

    return loss


def _relation(x: Tensor, there: Tensor, groups: int) -> Tensor:
    """Log-probabilities (B, groups, n, n) of keys or values (B, H, ≥n, D/H) of the first n tokens."""
    x = x[:, :, : there.shape[1]].transpose(1, 2).flatten(2).unflatten(-1, (groups, -1)).transpose(1, 2)  # (B, g, n, d)
    logits = x @ x.mT / x.shape[-1] ** 0.5
    return logits.masked_fill(~there[:, None, None, :], -1e4).log_softmax(-1)


@torch.no_grad()
def logits(
    network: SegmentNetwork, shop: RatingWindows, part: Spans, *, local_layers: int = 0, every: bool = False
) -> np.ndarray:
    """Logits (W, C) of a part's candidates, or (K, W, C) of every exit after the layers alone."""
    rows = []
    for at in range(0, len(part.starts), 32):
        windows = shop.windows(Spans(part.starts[at : at + 32], part.count))
        said = [step.logits for step in network.eval().steps(windows, local_layers)]
        rows.append(torch.stack(said if every else said[-1:]))
    out = torch.cat(rows, 1).cpu().numpy()
    return out if every else out[0]


def labels(shop: RatingWindows, part: Spans) -> np.ndarray:
    """(W, C) bool: liked, that is rated 4 or 5."""
    return shop.liked[part.starts[:, None] + np.arange(part.count)] > 0


def auc(scores: np.ndarray, liked: np.ndarray) -> float:
    """The chance that a liked candidate scores above one that is not, over all users' candidates at once."""
    return float(roc_auc_score(liked.ravel(), scores.ravel()))
