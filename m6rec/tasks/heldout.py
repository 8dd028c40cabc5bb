"""A domain of which items and users are held out, and how well a model ranks what training has never seen."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from m6rec.data.dataset import Dataset
from m6rec.data.prompts import Domain, domain
from m6rec.data.splits import Split
from m6rec.data.text import Prompt


class HeldOut(NamedTuple):
    """A domain that training never sees, and its targets."""

    seen: Domain  # what may be trained on: no event of the held-out items, none of the cold users
    whole: Domain  # everything, row for row with data.events: histories are read from it
    items: np.ndarray  # (n,) codes of the held-out items
    split: Split  # targets: every user's last held-out item, half of the users each; train: all before
    shots: np.ndarray  # rows of the split's training events that are of held-out items and not of cold users
    cold_users: np.ndarray  # (U,) bool: users of whom training has seen nothing
    train: np.ndarray  # (E,) bool: the events of `seen`, as rows of data.events

    def few(self, count: int, seed: int = 0) -> list[Prompt]:
        """So many events of the held-out items, drawn by `seed`, to learn from."""
        return self.whole.prompts(np.random.default_rng(seed).permutation(self.shots)[:count])


def hold_out(data: Dataset, items: np.ndarray, cold_users: np.ndarray | None = None, name: str = "") -> HeldOut:
    """Keep items (N,) bool, and users (U,) bool, from training; nobody's events after their target are trained on.

    With every item held out, `seen` is empty: train on another data set.
    """
    user, item = data.events[["user", "item"]].to_numpy().T
    cold = np.zeros(data.n_users, bool) if cold_users is None else cold_users
    rows = np.flatnonzero(items[item])
    target = np.full(data.n_users, data.n_events)
    target[user[rows]] = rows  # the last one stays
    before = np.arange(data.n_events) < target[user]
    targets = np.sort(target[(target < data.n_events) & (target > data.offsets[:-1])])  # with a history
    odd = user[targets] % 2 == 1
    train = before & ~items[item] & ~cold[user]
    split = Split("held_out", before, targets[~odd], targets[odd])
    shots = np.flatnonzero(before & items[item] & ~cold[user])
    return HeldOut(domain(data, train, name), domain(data), np.flatnonzero(items), split, shots, cold, train)
