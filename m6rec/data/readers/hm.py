"""H&M's purchases (a Kaggle competition of 2022): articles with texts and photographs, customers, sales."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from m6rec.data.readers.files import Frames, Skipped, joined, known, pictures, table, unique

KINDS = ("product_type_name", "colour_group_name", "department_name", "index_name")
PROFILE = ("age", "club_member_status", "fashion_news_frequency")
CHANNELS = {1: "store", 2: "online"}


def hm(folder: Path) -> Frames:
    """articles.csv, customers.csv, transactions_train.csv, and images/<first three digits>/<article>.jpg where there.

    text: name | product type | colour | department | index | description. An event is one article bought on a day (UTC
    midnight), with the request field `channel`, store or online. All 31.8 million take about 16 GB of memory.
    """
    skipped = Skipped("h-and-m")
    columns = dict.fromkeys(("article_id", "prod_name", *KINDS, "detail_desc"), str)
    articles = table(folder / "articles.csv", "articles.csv", columns, skipped, header=True, quoted=True)
    articles = unique(articles.rename(columns={"article_id": "item_id"}), "item_id", "articles.csv", skipped)
    texts = [joined(*row) for row in articles.drop(columns="item_id").itertuples(index=False)]
    found = pictures(folder / "images")
    images = [found.get(article) for article in articles["item_id"]]
    items = articles[["item_id", *KINDS]].assign(
        title=articles["prod_name"].where(articles["prod_name"].str.strip() != "", articles["item_id"]), text=texts
    )
    if found:
        items["image"] = pd.Series(images, index=items.index, dtype=object)
    users = _customers(folder / "customers.csv", skipped)
    events = _purchases(folder / "transactions_train.csv", items, users, skipped)
    skipped.warn()
    return Frames(items.reset_index(drop=True), users, events, folder / "images" if found else None)


def _customers(path: Path, skipped: Skipped) -> pd.DataFrame:
    """Ages are missing here and there, which is no fault of the row: they stay unknown."""
    columns = dict.fromkeys(("customer_id", *PROFILE), str)
    users = table(path, path.name, columns, skipped, header=True, quoted=True).rename(
        columns={"customer_id": "user_id"}
    )
    users = unique(users, "user_id", path.name, skipped).reset_index(drop=True)
    words = users[list(PROFILE[1:])].replace({"": None, "NONE": None, "None": None})
    return pd.concat([users["user_id"], pd.to_numeric(users["age"], errors="coerce"), words], axis=1)


def _purchases(path: Path, items: pd.DataFrame, users: pd.DataFrame, skipped: Skipped) -> pd.DataFrame:
    columns = {"t_dat": "category", "customer_id": "category", "article_id": "category", "sales_channel_id": int}
    events = table(path, path.name, columns, skipped, header=True, quoted=True)
    events = events.rename(columns={"customer_id": "user_id", "article_id": "item_id"})
    events = known(events, items, path.name, skipped)
    there = events["user_id"].isin(users["user_id"])
    events = skipped.keep(events, there, path.name, "has a customer who is not in customers.csv")
    days = pd.to_datetime(events["t_dat"].astype("str"), format="%Y-%m-%d", errors="coerce")
    events = skipped.keep(events.assign(timestamp=days), days.notna(), path.name, "has no day such as 2018-09-20")
    channels = events["sales_channel_id"].map(CHANNELS)
    events = events.drop(columns=["t_dat", "sales_channel_id"]).assign(action="buy", channel=channels)
    return events.reset_index(drop=True)
