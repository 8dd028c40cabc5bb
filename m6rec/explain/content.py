"""What a model knows of an item's content: hidden patches drawn anew, and texts written from photographs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from m6rec.generate.text import fill
from m6rec.train import losses

if TYPE_CHECKING:
    from m6rec.recommender import M6Rec


class Restored(NamedTuple):
    """Patches of items, half of them hidden and drawn anew from what is left of the item."""

    true: np.ndarray  # (n, P, values)
    drawn: np.ndarray  # (n, P, values)
    hidden: np.ndarray  # (n, P) bool

    def errors(self, instead: np.ndarray | None = None) -> np.ndarray:
        """Mean squared error of each item's hidden patches (n,), or of others drawn `instead`, such as the mean's."""
        error = ((self.true - (self.drawn if instead is None else instead)) ** 2).mean(-1)
        return (error * self.hidden).sum(1) / self.hidden.sum(1)


@torch.no_grad()
def restore(model: M6Rec, modality: str, items: np.ndarray, seed: int = 0) -> Restored:
    """Hide half of the patches of items (codes) that have an "image" or a "sound", and let the model draw them."""
    known = model.features.take(items).to(model.device)
    true = getattr(known, modality)
    hidden = losses.hide_patches(*true.shape[:2], np.random.default_rng(seed))
    drawn = model.network.patch_decoder(model.network.items, known, {modality: hidden.to(true.device)})[modality]
    return Restored(true.cpu().numpy(), drawn.cpu().numpy(), hidden.numpy())


def captions(model: M6Rec, items: np.ndarray) -> list[str]:
    """Texts of items (codes), written from their photographs alone: text and recording are hidden."""
    content = model.features.take(items).mute("sound")
    gap, _ = losses.corrupt(content.text, np.random.default_rng(0), whole=np.ones(len(items), dtype=bool))
    ids = fill(model.network, content._replace(text=gap).to(model.device))
    return [model.tokenizer.decode(row[row > 0].tolist()) for row in ids]


def first_named(texts: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """The name that stands first in each text, "" where there is none: (n,). A "t-shirt" is no "shirt"."""
    found = [min(((text.find(n), n) for n in names if n in text), default=(0, ""))[1] for text in texts]
    return np.array(found, dtype=str)
