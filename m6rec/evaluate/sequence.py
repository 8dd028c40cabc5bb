"""How sequential is a data set? Shuffle its histories, and see what a sequential model loses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from m6rec.data.dataset import Dataset

_HAPPENED = ("item", "action", "value")  # times and requests stay where they are


def shuffled(data: Dataset, seed: int = 0) -> Dataset:
    """The same data with each user's events in a random order, but for the last: the leave-one-out test target.

    The history of every test target keeps its items and loses their order, so nothing changes for a model that reads a
    bag. The validation event is shuffled too, since the event just before the target tells most. Rank a fitted model on
    this and on `data`, as Klenitskiy et al. 2024 (Does It Look Sequential?), or refit it on each: what NDCG@10 loses is
    what order is worth. Codes stay. Only for "leave_one_out": another split has other targets.
    """
    user = data.events["user"].to_numpy()
    last = np.zeros(data.n_events, dtype=bool)
    last[data.offsets[1:][np.diff(data.offsets) > 0] - 1] = True
    order = np.lexsort((np.random.default_rng(seed).permutation(data.n_events), last, user))
    events = data.events.copy()
    for column in _HAPPENED:
        events[column] = data.events[column].to_numpy()[order]
    return replace(data, name=f"{data.name}-shuffled", events=events)
