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
    """A context and what came of it."""

    context: Context
    target: Tensor  # (B, Q) item codes, -1 where there is none


def training_windows(data: Dataset, split: Split, length: int, rng: np.random.Generator) -> np.ndarray:
    """Cut every user's training events into windows of at most `length`, at places that differ from epoch to epoch.

    -> (W, 2) first and past-the-last event. Windows of fewer than two events teach nothing and are left out. A split by
    time leaves each user a prefix of their events, so a window is always one piece.
    """
    counts = np.add.reduceat(np.append(split.train, False).astype(np.int64), data.offsets[:-1]) * (
        np.diff(data.offsets) > 0
    )
    windows = []
    for start, count in zip(data.offsets[:-1], counts, strict=True):
        cuts = [0, count]
        if count > length:
            cuts = [0, *range(int(rng.integers(1, length + 1)), count, length), count]
        windows += [(start + a, start + b) for a, b in pairwise(cuts) if b - a >= 2]
    return np.array(windows, dtype=np.int64).reshape(-1, 2)


def training_batches(
    data: Dataset, split: Split, codes: EventCodes, *, length: int, batch: int, rng: np.random.Generator
) -> Iterator[Batch]:
    """One epoch: every training event is the target of exactly one position (but the windows of one event).

    Target t of a window is its event t, seen from the events before it and from its own request.
    """
    windows = rng.permutation(training_windows(data, split, length, rng))
    sizes = windows[:, 1] - windows[:, 0]
    # Windows of like length share a batch, which halves the padding; batches come in random order.
    mixed = rng.permutation(len(windows)) // (4 * batch)
    groups = np.array_split(np.lexsort((sizes, mixed)), range(batch, len(windows), batch))
    for group in rng.permutation(len(groups)):
        rows = groups[group]
        events = _grid(windows[rows], int(sizes[rows].max()))
        yield Batch(
            _context(data, codes, events, request=codes.request[events.clip(0)] * (events >= 0)[..., None]),
            _items(data, events),
        )


def target_context(data: Dataset, codes: EventCodes, events: np.ndarray, length: int) -> Context:
    """The context of target events (B,): the last `length` events before each, and each one's own request. Q = 1."""
    first = data.offsets[data.events["user"].to_numpy()[events]]
    history = _grid(np.stack((np.maximum(first, events - length), events), 1), length)
    context = _context(data, codes, history, request=codes.request[events][:, None])
    profile = codes.profile[data.events["user"].to_numpy()[events]]  # an empty history does not name its user
    return context._replace(
        profile=torch.from_numpy(profile),
        position=torch.from_numpy((events - np.maximum(first, events - length))[:, None]),
    )


def person_context(
    item: np.ndarray, value: np.ndarray, gap: np.ndarray, profile: np.ndarray, request: np.ndarray
) -> Context:
    """One person now, from codes of their events (T,), profile (C,) and request (R,): B = Q = 1, T at least 1."""

    def padded(values: np.ndarray, fill: int) -> Tensor:
        row = np.full((1, max(1, len(item))), fill)
        row[0, : len(values)] = values
        return torch.from_numpy(row)

    return Context(
        item=padded(item, -1), value=padded(value, 0), gap=padded(gap, 0), profile=torch.from_numpy(profile)[None],
        request=torch.from_numpy(request)[None, None], position=torch.tensor([[len(item)]]),
    )  # fmt: skip


def _grid(windows: np.ndarray, length: int) -> np.ndarray:
    """(W, 2) bounds -> (W, length) event indexes, -1 past the end."""
    events = windows[:, :1] + np.arange(length)
    return np.where(events < windows[:, 1:], events, -1)


def _items(data: Dataset, events: np.ndarray) -> Tensor:
    return torch.from_numpy(np.where(events >= 0, data.events["item"].to_numpy()[events.clip(0)], -1))


def _context(data: Dataset, codes: EventCodes, events: np.ndarray, request: np.ndarray) -> Context:
    there = events >= 0
    users = data.events["user"].to_numpy()[events[:, 0].clip(0)]
    return Context(
        item=_items(data, events),
        value=torch.from_numpy(codes.value[events.clip(0)] * there),
        gap=torch.from_numpy(codes.gap[events.clip(0)] * there),
        profile=torch.from_numpy(codes.profile[users]),
        request=torch.from_numpy(request),
        position=torch.arange(events.shape[1]).expand(len(events), -1),
    )
