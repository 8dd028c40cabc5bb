"""The checks that raw frames pass before they become a Dataset; every message names table, row, column and fix."""

from __future__ import annotations

import numpy as np
import pandas as pd

from m6rec.data.lookup import nearest, texts
from m6rec.errors import InputError

LATEST = 10**11  # UTC seconds of the year 5138: what lies beyond is milliseconds


def coded(
    items: pd.DataFrame, users: pd.DataFrame | None, interactions: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, bool]:
    """Clean items and users, events in their own order with codes for ids, and whether they have timestamps."""
    items = _items(items)
    events = _table(interactions, "interactions", ["user_id", "item_id"])
    if users is None:
        users = pd.DataFrame({"user_id": events["user_id"].unique()})
    users = _unique(users, "users", "user_id")
    timed = "timestamp" in events.columns
    known = {
        "user": _codes(events["user_id"], users["user_id"], "users"),
        "item": _codes(events["item_id"], items["item_id"], "items"),
        "timestamp": _timestamps(events["timestamp"]) if timed else np.zeros(len(events), dtype=np.int64),
        "action": events["action"].astype("str") if "action" in events.columns else "event",
        "value": _numbers(events["value"], "give a number such as a rating") if "value" in events.columns else 1.0,
    }
    context = events.drop(columns=["user_id", "item_id", *known], errors="ignore")
    return items, users, pd.concat([pd.DataFrame(known), context], axis=1), timed


def _items(items: pd.DataFrame) -> pd.DataFrame:
    items = _unique(items, "items", "item_id")
    title = items.get("title", items["item_id"]).rename("title")
    text = items.get("text", title).rename("text")
    for column in (title, text):
        _check(column.notna(), "items", column, f"is no {column.name}; give one, or leave the column out for all rows")
    front = pd.DataFrame({"item_id": items["item_id"], "title": title.astype("str"), "text": text.astype("str")})
    return pd.concat([front, items.drop(columns=front.columns, errors="ignore")], axis=1)


def _unique(frame: pd.DataFrame, table: str, key: str) -> pd.DataFrame:
    frame = _table(frame, table, [key])
    _check(~texts(frame[key]).duplicated(), table, frame[key], "is there already; keep one row for each id")
    return frame[[key, *frame.columns.drop(key)]]


def _table(frame: pd.DataFrame, table: str, keys: list[str]) -> pd.DataFrame:
    """The frame with rows numbered from 0, if it has rows and these id columns without gaps."""
    if not isinstance(frame, pd.DataFrame):
        raise InputError(f"{table} is a {type(frame).__name__}; give a pandas DataFrame with {', '.join(keys)}.")
    for key in keys:
        if key not in frame.columns:
            near = nearest(key, [str(name) for name in frame.columns], 1)
            raise InputError(
                f"{table} has no column '{key}'; " + (f"rename {near[0]!r} or " if near else "") + "add it."
            )
    if frame.empty:
        raise InputError(f"{table} has no rows; give at least one.")
    for key in keys:
        _check(frame[key].notna(), table, frame[key], "is no id; drop the row or give the id")
    return frame.reset_index(drop=True)


def _codes(column: pd.Series, known: pd.Series, table: str) -> np.ndarray:
    codes = texts(known).get_indexer(texts(column)).astype(np.int64)
    _check(codes >= 0, "interactions", column, f"is not in {table}; add it to {table} or drop the row")
    return codes


def _timestamps(column: pd.Series) -> np.ndarray:
    fix = "give UTC seconds or a datetime, or leave the column out if the rows are in order"
    if pd.api.types.is_datetime64_any_dtype(column):
        _check(column.notna(), "interactions", column, f"is no time; {fix}")
        return pd.DatetimeIndex(pd.to_datetime(column, utc=True)).as_unit("s").asi8
    seconds = _numbers(column, fix)
    _check(np.abs(seconds) < LATEST, "interactions", column, "looks like milliseconds; give UTC seconds")
    return np.floor(seconds).astype(np.int64)


def _numbers(column: pd.Series, fix: str) -> np.ndarray:
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    _check(np.isfinite(numbers), "interactions", column, f"is no number; {fix}")
    return numbers


def _check(good: np.ndarray | pd.Series, table: str, column: pd.Series, problem: str) -> None:
    """Raise for the first row that is not good."""
    if not np.all(good):
        row = int(np.argmin(good))
        raise InputError(f"{table} row {row}, column '{column.name}': {str(column.iloc[row])!r} {problem}.")
