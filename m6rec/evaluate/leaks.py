"""Data changed to test a model: `leaks` tests serving, `fit_leaks` fitting; `shuffled` shows what order is worth."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from m6rec.data.dataset import Dataset, Split, Targets
from m6rec.evaluate.ranking import name_of, scored, targets_of

_MOST = 256  # targets that are scored: enough to show a leak, and one chunk


def leaks(model: Any, data: Dataset, split: str | Split = "leave_one_out", *, part: str = "test") -> list[str]:
    """What a fitted model's scores give away in a sentence; empty = nothing found.

    Each user's target gets another item, value and action, and the events after it get other columns. No score may
    move, whether by one's own events or by other users'. model: it reads events from `users`.
    """
    split, targets = targets_of(data, split, part)
    first = np.full(data.n_users, data.n_events)
    first[targets.users] = targets.events
    after = np.arange(data.n_events) - first[data.events["user"].to_numpy()]  # the target's is 0
    other, some = _replaced(data, after >= 0, after > 0), _some(targets)
    return _found("knows targets or what follows them", (model, data.targets(some)), (model, other.targets(some)))


def fit_leaks(fit: Callable[[Dataset, Split], Any], data: Dataset, split: str | Split = "leave_one_out") -> list[str]:
    """What fitting takes from events outside training; empty = the two fits score alike.

    fit(data, split) -> a model, of a fixed seed and without early stopping on validation. It is called twice, once with
    every event outside training replaced in all but its user.
    """
    split, targets = targets_of(data, split, "test")
    users, other = data.targets(_some(targets)), _replaced(data, ~split.train, ~split.train)  # the histories are true
    return _found("is fitted on events outside training", (fit(data, split), users), (fit(other, split), users))


def shuffled(data: Dataset, seed: int = 0) -> Dataset:
    """The same data with each user's events in a random order, but for the last: the leave-one-out test target.

    Histories keep their items and lose their order. Rank a fitted model on this and on `data` (Klenitskiy et al. 2024,
    Does It Look Sequential?), or refit it on each: what NDCG@10 loses is what order is worth. Codes stay.
    """
    user = data.events["user"].to_numpy()
    last = np.diff(user, append=-1) != 0
    order = np.lexsort((np.random.default_rng(seed).permutation(data.n_events), last, user))
    moved = ["item", "action", "value"]  # times and requests stay where they are
    events = data.events.assign(**{column: data.events[column].to_numpy()[order] for column in moved})
    return replace(data, name=f"{data.name}-shuffled", events=events)


def _some(targets: Targets) -> np.ndarray:
    """Events of targets from the first to the last."""
    return targets.events[np.unique(np.linspace(0, len(targets) - 1, min(_MOST, len(targets))).astype(np.int64))]


def _replaced(data: Dataset, outcome: np.ndarray, whole: np.ndarray, seed: int = 0) -> Dataset:
    """Other items, values and actions at the events in `outcome` (E,); at those in `whole` all columns but the user.

    Codes, catalogue and places stay, so that the same split and targets apply.
    """
    rng = np.random.default_rng(seed)
    events = data.events.copy()
    other = rng.integers(1, data.n_items, outcome.sum())  # never the same
    events.loc[outcome, "item"] = (events["item"].to_numpy()[outcome] + other) % data.n_items
    for column in events.columns.drop(["user", "item", "timestamp"]):
        rows = np.flatnonzero(outcome if column in ("value", "action") else whole)
        donors = np.arange(data.n_events)
        donors[rows] = rng.integers(data.n_events, size=len(rows))
        events[column] = events[column].to_numpy()[donors]
    if data.timed:  # each later than the one before it, as a user's events must be
        total = np.cumsum(np.where(whole, rng.integers(1, 10**6, data.n_events), 0))
        start = np.concatenate([[0], total])[data.offsets[events["user"].to_numpy()]]
        events["timestamp"] = events["timestamp"].to_numpy() + total - start
    return replace(data, events=events)


def _found(what: str, *served: tuple[Any, Targets]) -> list[str]:
    """A sentence if the rows of two models' scores differ by more than sums in another order do."""
    one, other = (next(scored(model, users, _MOST))[1] for model, users in served)
    moved = ~np.isclose(one, other, rtol=1e-5, atol=1e-7, equal_nan=True).all(1)
    rows = f"{moved.sum()} of {len(moved)} rows of scores move when these change"
    return [f"{name_of(served[0][0])} {what}: {rows}"] if moved.any() else []
