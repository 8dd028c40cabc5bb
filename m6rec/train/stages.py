"""The stages of training: what is missing of the items alone, then the events, before and after the tree is grown."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from m6rec.config import Config
from m6rec.data.batches import training_batches
from m6rec.data.features import Features
from m6rec.errors import InputError
from m6rec.train import losses
from m6rec.train.fit import Stage


def events(
    name: str,
    epochs: int,
    config: Config,
    stream: losses.Stream,
    loss: Callable[..., dict[str, Tensor]],
    validate: Callable[[nn.Module], float],
) -> Stage:
    """A stage over all training events, with a loss of `train.losses`, judged by a ranking of the validation events."""
    windows = {"length": config.history, "batch": config.batch}
    return Stage(
        name,
        epochs,
        lambda rng: training_batches(stream.data, stream.split, stream.codes, **windows, rng=rng),
        lambda network, batch, rng: loss(network, batch, config, stream, rng),
        validate,
        _weights(config),
    )


def items(config: Config, content: Features) -> Stage:
    """A stage over the contents of the training items alone, judged by the same losses on drawn samples."""
    weights = _weights(config)
    if not (config.modalities and (config.infill_weight or config.patch_weight or config.align_weight)):
        raise InputError("item_epochs needs something to teach: a modality, and infill, patch or align_weight above 0.")

    @torch.no_grad()
    def validate(network: nn.Module) -> float:
        rows = [losses.item_content(network, content, config, np.random.default_rng(i)) for i in range(4)]
        return -sum(weights[name] * float(loss) for row in rows for name, loss in row.items())

    steps = math.ceil(len(content.present) / losses.ITEMS)
    return Stage(
        "items",
        config.item_epochs,
        lambda rng: [None] * steps,
        lambda network, batch, rng: losses.item_content(network, content, config, rng),
        validate,
        weights,
    )


def _weights(config: Config) -> dict[str, float]:
    return {
        "infill": config.infill_weight, "image": config.patch_weight, "sound": config.patch_weight,
        "align": config.align_weight, "teacher": config.teacher_weight,
    }  # fmt: skip
