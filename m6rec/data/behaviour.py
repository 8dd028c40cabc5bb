"""Raw behaviour, and what follows from it at a moment: the pause, the place in the sitting, the pace, the tastes.

One rule for the events of a whole data set and for one person now: whatever describes event t is worked out from the
events before it and from its own time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from m6rec.data.dataset import Dataset
from m6rec.data.fields import Field, seconds
from m6rec.errors import InputError

SITTING = 1800.0  # seconds without an event after which a new sitting begins
RECENT = 5  # events whose texts are the recent tastes


class Behaviour(NamedTuple):
    """One person's events, oldest first. Items never seen count on from the catalogue's last code."""

    item: np.ndarray  # (T,) int64
    value: np.ndarray  # (T,) float, NaN where not known
    time: np.ndarray | None  # (T,) UTC seconds, or None where nobody knows them


def of_user(data: Dataset, user: int) -> Behaviour:
    """All events of a user's code."""
    events = data.events.iloc[data.offsets[user] : data.offsets[user + 1]]
    time = events["timestamp"].to_numpy(dtype=float) if data.timed else None
    return Behaviour(events["item"].to_numpy(), events["value"].to_numpy(), time)


def given(data: Dataset, history: Sequence[object] | pd.DataFrame) -> Behaviour:
    """What a person had: a list of ids, titles or dicts, oldest first, or a frame of raw events in any order.

    A frame has item_id, and optionally value and timestamp; without times its rows are in order. InputError for a
    frame without item_id, and for a cell that is no time or no number.
    """
    if not isinstance(history, pd.DataFrame):
        item = data.history_codes(history)
        return Behaviour(item, np.full(len(item), np.nan), np.zeros(0) if not len(item) else None)
    if "item_id" not in history:
        raise InputError(f"the history has the columns {', '.join(map(str, history.columns))}: item_id is missing.")
    time = None
    if "timestamp" in history:
        time = seconds("the history's timestamp", history["timestamp"]).to_numpy(dtype=float)
        if np.isnan(time).any():
            raise InputError("the history has a timestamp that is no time: give UTC seconds or a datetime everywhere.")
    order = np.arange(len(history)) if time is None else np.argsort(time, kind="stable")
    value = pd.to_numeric(history["value"], errors="coerce") if "value" in history else pd.Series(np.nan, history.index)
    return Behaviour(
        data.history_codes(history["item_id"].tolist())[order],
        value.to_numpy(dtype=float)[order],
        None if time is None else time[order],
    )


def circumstances(times: np.ndarray, first: np.ndarray) -> dict[str, np.ndarray]:
    """What the times (E,) say of each event, NaN where they say nothing; first (E,) bool: a person begins.

    gap: seconds since the event before; session: how many events of the same sitting came before; pace: seconds per
    event so far in the sitting.
    """
    gap = np.full(len(times), np.nan)
    gap[1:] = np.diff(times)
    gap[first] = np.nan
    rows = np.arange(len(times))
    start = np.maximum.accumulate(np.where(first | (gap >= SITTING), rows, 0))
    session = np.where(np.isnan(gap) & ~first, np.nan, rows - start)
    pace = np.full(len(times), np.nan)
    np.divide(times - times[start], session, out=pace, where=session > 0)
    return {"gap": gap, "session": session, "pace": pace}


def now(behaviour: Behaviour, moment: float | None) -> dict[str, np.ndarray]:
    """The same for one person's events and, as the last row, the moment that is asked about: (T + 1,) each.

    InputError for a moment before the last event.
    """
    if behaviour.time is None:  # there were events, nobody knows when
        unknown = np.full(len(behaviour.item) + 1, np.nan)
        return {"gap": unknown, "session": unknown, "pace": unknown}
    if moment is not None and len(behaviour.time) and moment < behaviour.time[-1]:
        raise InputError("the request's timestamp lies before the last event of the history: ask about a later moment.")
    times = np.append(behaviour.time, np.nan if moment is None else moment)
    found = circumstances(times, np.arange(len(times)) == 0)
    if moment is None:
        for values in found.values():
            values[-1] = np.nan
    return found


def tastes(field: Field, words: sparse.csr_array, item: np.ndarray, first: np.ndarray) -> np.ndarray:
    """What the last RECENT events before each one have in common: codes (E,) of a text field's words, 0 for nothing.

    words: (N, W), of the items; item (E,) codes. A word counts for each item beyond the first that has it, times its
    rarity: what two of five share is a taste, what one has is chance.
    """
    begin = np.maximum.accumulate(np.where(first, np.arange(len(item)), 0))
    rows, columns = [], []
    for back in range(1, RECENT + 1):
        there = np.flatnonzero(np.arange(len(item)) - back >= begin)
        rows.append(there)
        columns.append(item[there - back])
    rows, columns = np.concatenate(rows), np.concatenate(columns)
    window = sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(item), words.shape[0]))  # (E, N)
    shared = sparse.csr_array(window @ words)  # (E, W)
    shared.data = np.maximum(shared.data - 1, 0)
    return field.telling(shared)


def texts(data: Dataset, past: Behaviour, history: Sequence[object] | pd.DataFrame | None) -> list[object]:
    """The texts of the last RECENT events; of items that are not in the catalogue, those that their dicts have."""
    new = [] if history is None or isinstance(history, pd.DataFrame) else [h for h in history if isinstance(h, Mapping)]
    known = data.items["text"]
    return [
        known.iloc[code]
        if code < len(known)
        else new[code - len(known)].get("text", new[code - len(known)].get("title"))
        for code in past.item[-RECENT:]
    ]
