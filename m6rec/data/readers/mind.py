"""MIND-small (Microsoft News): what 50,000 people clicked in the week from 9 to 15 November 2019, and before it."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from m6rec.data.readers.files import Frames, Skipped, joined, known, table, unique, unpack
from m6rec.errors import InputError

NEWS = ("item_id", "category", "subcategory", "title", "abstract", "address", "title_entities", "abstract_entities")
BEHAVIORS = ("impression", "user_id", "time", "history", "impressions")
SHOWN = re.compile(r"\S+-[01](?: \S+-[01])*")
START = int(pd.Timestamp("2019-10-12", tz="UTC").timestamp())


def mind(folder: Path) -> Frames:
    """The train and dev archives together: news.tsv is the catalogue, behaviors.tsv who clicked what.

    Events are the clicks among an impression's news (action "click"), and before them the history (action "history"):
    it has an order but no times, and stands at the first day on which clicks were collected. Times are taken as UTC.
    text: title | abstract | category | subcategory.
    """
    skipped = Skipped("mind-small")
    news, behaviors = [], []
    for archive in ("MINDsmall_train.zip", "MINDsmall_dev.zip"):
        shown, articles = unpack(folder / archive, ["behaviors.tsv", "news.tsv"])
        news.append(table(articles, f"{archive}/news.tsv", dict.fromkeys(NEWS, str), skipped, separator="\t"))
        news[-1] = unique(news[-1], "item_id", f"{archive}/news.tsv", skipped)
        behaviors.append(_impressions(shown, f"{archive}/behaviors.tsv", skipped))
    items = pd.concat(news).drop_duplicates("item_id", ignore_index=True)  # both archives hold many of the same news
    items["text"] = [joined(*row) for row in zip(*(items[c] for c in ("title", "abstract", *NEWS[1:3])), strict=True)]
    items["title"] = items["title"].where(items["title"].str.strip() != "", items["item_id"])
    events = known(_events(pd.concat(behaviors)), items, "behaviors.tsv", skipped)
    skipped.warn()
    if events.empty:
        raise InputError(
            f"behaviors.tsv needs the columns {', '.join(BEHAVIORS)}, and no row has a click on known news."
        )
    return Frames(items[["item_id", "title", "text", "category", "subcategory"]], None, events.reset_index(drop=True))


def _impressions(data: object, file: str, skipped: Skipped) -> pd.DataFrame:
    rows = table(data, file, dict.fromkeys(BEHAVIORS, str), skipped, separator="\t")
    times = pd.to_datetime(rows["time"], format="%m/%d/%Y %I:%M:%S %p", errors="coerce")
    rows = rows.assign(timestamp=times.astype("datetime64[s]"))
    rows = skipped.keep(
        rows, times.notna() & (rows["user_id"] != ""), file, "has no user, or no time such as 11/9/2019 9:05:58 AM"
    )
    return skipped.keep(
        rows, rows["impressions"].map(SHOWN.fullmatch).notna(), file, "has no impressions such as N1-0 N2-1"
    )


def _events(rows: pd.DataFrame) -> pd.DataFrame:
    """Each person's history once, as their first impression has it; then the clicks, by time."""
    rows = rows.sort_values("timestamp", kind="stable")
    first = rows.drop_duplicates("user_id")
    past = [
        (row, user, item, START, "history")
        for row, user, history in zip(first.index, first["user_id"], first["history"], strict=True)
        for item in history.split()
    ]
    seconds = rows["timestamp"].astype("int64")
    clicks = [
        (row, user, shown[:-2], time, "click")
        for row, user, time, impressions in zip(rows.index, rows["user_id"], seconds, rows["impressions"], strict=True)
        for shown in impressions.split()
        if shown.endswith("-1")
    ]
    columns = ["row", "user_id", "item_id", "timestamp", "action"]
    return pd.DataFrame(past + clicks, columns=columns).set_index("row")
