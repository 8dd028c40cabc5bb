"""Data changed to test a model: `leaks` tests serving, `fit_leaks` fitting; `shuffled` shows what order is worth."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from m6rec.data.dataset import Dataset, Split, Targets
from m6rec.evaluate.ranking import name_of, scored, targets_of

_MOST = 256  # targets that are scored: enough to show a leak, and one chunk


def leaks(model: Any, data: Dataset, split: str | Split = "leave_one_out", *, part: str = "test") -> list[str]:
    """What a fitted model's scores give away, one sentence each; empty = nothing found.

    For half of the users, then for the others, the target's item, value and action are replaced, and all columns of the
    events after it. No score may move, of these users or of the others. model: it reads events from `users`.
    """
    split, targets = targets_of(data, split, part)
    some, user = data.targets(_some(targets.events)), data.events["user"].to_numpy()
    half, moved, first = some.users % 2, [], np.full(data.n_users, data.n_events)
    first[targets.users] = targets.events
    after = np.arange(data.n_events) - first[user]  # the target's is 0
    for changed in (user % 2 == 0, user % 2 == 1):
        other = _replaced(data, changed & (after >= 0), changed & (after > 0))
        moved.append(_moved((model, some), (model, other.targets(some.events))))
    own, others = np.stack(moved)[[half, 1 - half], np.arange(len(some))]
    found = _found(model, "knows the target or what follows it", own)
    return found + _found(model, f"knows other users' {part} events", others)


def fit_leaks(fit: Callable[[Dataset, Split], Any], data: Dataset, split: str | Split = "leave_one_out") -> list[str]:
    """What fitting takes from events outside training; empty = the two fits score alike.

    fit(data, split) -> a model, of a fixed seed and without early stopping on validation. It is called twice, once with
    every event outside training replaced in all but its user.
    """
    split, targets = targets_of(data, split, "test")
    users = data.targets(_some(targets.events))  # the true histories, for both
    clean, other = fit(data, split), fit(_replaced(data, ~split.train, ~split.train), split)
    return _found(clean, "is fitted on events outside training", _moved((clean, users), (other, users)))


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


def _some(events: np.ndarray) -> np.ndarray:
    return events[np.unique(np.linspace(0, len(events) - 1, min(_MOST, len(events))).astype(np.int64))]


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


def _moved(*served: tuple[Any, Targets]) -> np.ndarray:
    """(B,) which rows of two models' scores differ by more than sums in another order do."""
    one, other = (next(scored(model, users, _MOST))[1] for model, users in served)
    return ~np.isclose(one, other, rtol=1e-5, atol=1e-7, equal_nan=True).all(1)


def _found(model: Any, what: str, moved: np.ndarray) -> list[str]:
    rows = f"{moved.sum()} of {len(moved)} rows of scores move when these change"
    return [f"{name_of(model)} {what}: {rows}"] if moved.any() else []
