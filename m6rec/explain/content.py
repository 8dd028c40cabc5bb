"""What a model knows of an item's content: masked patches reconstructed, and texts written from photographs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from m6rec.explain.capture import Model
from m6rec.generate.text import fill
from m6rec.train import losses


class Reconstruction(NamedTuple):
    """Patches of items of which half are masked and reconstructed from the rest of the item."""

    true: np.ndarray  # (n, P, values)
    predicted: np.ndarray  # (n, P, values)
    masked: np.ndarray  # (n, P) bool

    def errors(self, instead: np.ndarray | None = None) -> np.ndarray:
        """Mean squared error of each item's masked patches (n,), or of other patches, such as the mean's."""
        error = ((self.true - (self.predicted if instead is None else instead)) ** 2).mean(-1)
        return (error * self.masked).sum(1) / self.masked.sum(1)


@torch.no_grad()
def reconstruct(model: Model, modality: str, items: np.ndarray, seed: int = 0) -> Reconstruction:
    """Mask half of the patches of items (codes) that have an "image" or a "sound", and predict them."""
    content = model.features.take(items).to(model.device)
    true = getattr(content, modality)
    masked = losses.hide_patches(*true.shape[:2], np.random.default_rng(seed)).to(true.device)
    predicted = model.network.patch_decoder.patches(model.network.items, content, {modality: masked})[modality]
    return Reconstruction(*(part.cpu().numpy() for part in (true, predicted, masked)))


def captions(model: Model, items: np.ndarray) -> list[str]:
    """Texts of items (codes), written from their photographs alone: text and recording are masked."""
    content = model.features.take(items).drop("sound")
    gap, _ = losses.corrupt(content.text, np.random.default_rng(0), whole=np.ones(len(items), dtype=bool))
    ids = fill(model.network, content._replace(text=gap).to(model.device))
    return [model.tokenizer.bpe.decode(row[row > 0].tolist()) for row in ids]


def first_named(texts: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """The name that comes first in each text, "" where there is none: (n,). A "t-shirt" is no "shirt"."""
    found = [min(((text.find(n), n) for n in names if n in text), default=(0, ""))[1] for text in texts]
    return np.array(found, dtype=str)
