"""From events to tensors: training windows over whole sequences, and the context of a list of targets."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from m6rec.data.context import Context, EventCodes
from m6rec.data.dataset import Dataset
from m6rec.data.splits import Split


class Batch(NamedTuple):
    """A context and the items that followed."""

    context: Context
    target: Tensor  # (B, Q) item codes, -1 where there is none

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return Batch(self.context.to(device), self.target.to(device))


def training_windows(data: Dataset, split: Split, length: int, rng: np.random.Generator) -> np.ndarray:
    """Cut every user's training events into windows of at most `length`, at positions that differ by epoch.

    -> (W, 2) first and past-the-last event. Windows of fewer than two events hold no target and are left out. A split
    by time leaves each user a prefix of their events, so a window is always one piece.
    """
    total = np.concatenate([[0], np.cumsum(split.train)])[data.offsets]
    windows = []
    for start, count in zip(data.offsets[:-1], np.diff(total), strict=True):
        cuts = [0, count]
        if count > length:
            cuts = [0, *range(int(rng.integers(1, length + 1)), count, length), count]
        windows += [(start + a, start + b) for a, b in pairwise(cuts) if b - a >= 2]
    return np.array(windows, dtype=np.int64).reshape(-1, 2)


def training_batches(
    data: Dataset, split: Split, codes: EventCodes, *, length: int, batch: int, rng: np.random.Generator
) -> Iterator[Batch]:
    """One epoch: every training event is the target of exactly one position (except in windows of one event).

    Target t of a window is its event t, seen from the events before it and from its own request.
    """
    windows = rng.permutation(training_windows(data, split, length, rng))
    sizes = windows[:, 1] - windows[:, 0]
    # Windows of like length share a batch, which halves the padding; batches come in random order.
    mixed = rng.permutation(len(windows)) // (4 * batch)
    groups = np.array_split(np.lexsort((sizes, mixed)), range(batch, len(windows), batch))
    for group in rng.permutation(len(groups)):
        rows = groups[group]
        events = _events(windows[rows], int(sizes[rows].max()))
        context = _context(data, codes, events, codes.request[events.clip(0)] * (events >= 0)[..., None])
        yield Batch(context, context.item)


def target_context(data: Dataset, codes: EventCodes, events: np.ndarray, length: int) -> Context:
    """The context of target events (B,): the last `length` events before each, and each one's own request. Q = 1."""
    user = data.events["user"].to_numpy()[events]
    start = np.maximum(data.offsets[user], events - length)
    context = _context(data, codes, _events(np.stack((start, events), 1), length), codes.request[events][:, None])
    return context._replace(
        profile=torch.from_numpy(codes.profile[user]),  # an empty history does not name its user
        position=torch.from_numpy((events - start)[:, None]),
    )


def _events(windows: np.ndarray, length: int) -> np.ndarray:
    """(W, 2) bounds -> (W, length) event indexes, -1 past the end."""
    events = windows[:, :1] + np.arange(length)
    return np.where(events < windows[:, 1:], events, -1)


def _context(data: Dataset, codes: EventCodes, events: np.ndarray, request: np.ndarray) -> Context:
    present, rows = events >= 0, events.clip(0)
    user, item = (data.events[name].to_numpy() for name in ("user", "item"))
    return Context(
        item=torch.from_numpy(np.where(present, item[rows], -1)),
        value=torch.from_numpy(codes.value[rows] * present),
        gap=torch.from_numpy(codes.gap[rows] * present),
        profile=torch.from_numpy(codes.profile[user[rows[:, 0]]]),
        request=torch.from_numpy(request),
        position=torch.arange(events.shape[1]).expand(len(events), -1),
    )
