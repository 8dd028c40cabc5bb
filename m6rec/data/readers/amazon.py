"""Amazon's reviews: 2014 as prepared for S3-Rec (numbers only), and 2023 as published (texts, pictures by address)."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from m6rec.data.readers.files import Frames, Skipped, in_seconds, joined, json_lines, known, pictures, unique
from m6rec.data.readers.sequences import sequences
from m6rec.errors import InputError


def amazon_2014(folder: Path, category: str) -> Frames:
    """S3-Rec's files. category: their stem, such as "Beauty"."""
    attributes = folder / f"{category}_item2attributes.json"
    return sequences(folder / f"{category}.txt", attributes, f"{category.replace('_', ' ')} product")


def amazon_2023(folder: Path, category: str) -> Frames:
    """Reviews and products of one category, as the McAuley Lab publishes them: one JSON object a line, gzipped.

    text: title | features | description | categories. `image_address` is where the main photograph lies; those that
    were saved under the last part of that address into `images/` beside the two files' folders are the items' `image`.
    A product is a `parent_asin`: colours and sizes of one thing are one item. category: such as "All_Beauty".
    """
    skipped = Skipped(f"Amazon reviews 2023, {category}")
    items = _products(folder / "meta_categories" / f"meta_{category}.jsonl.gz", skipped)
    interactions = _reviews(folder / "review_categories" / f"{category}.jsonl.gz", items, skipped)
    skipped.warn()
    saved = set(pictures(folder / "images").values())
    if not saved:
        return Frames(items, None, interactions)
    names = (PurePosixPath(address).name if isinstance(address, str) else None for address in items["image_address"])
    items["image"] = pd.Series([name if name in saved else None for name in names], index=items.index, dtype=object)
    return Frames(items, None, interactions, folder / "images")


def _products(path: Path, skipped: Skipped) -> pd.DataFrame:
    rows, numbers = [], []
    for row, product in json_lines(path, skipped):
        item_id, title = product.get("parent_asin"), product.get("title") or ""
        lists = [product.get(field) or [] for field in ("features", "description", "categories")]
        if not isinstance(item_id, str) or not isinstance(title, str) or not all(isinstance(x, list) for x in lists):
            skipped.add(path.name, row, "has no parent_asin, or a field of another kind")
            continue
        text = joined(title, *lists)
        rows.append((item_id, " ".join(title.split()) or item_id, text or item_id, _address(product.get("images"))))
        numbers.append(row)
    columns = ["item_id", "title", "text", "image_address"]
    items = unique(pd.DataFrame(rows, columns=columns, index=numbers), "item_id", path.name, skipped)
    if items.empty:
        raise InputError(f"{path} needs objects with parent_asin, title, features, description, categories and images.")
    return items.reset_index(drop=True)


def _address(images: object) -> str | None:
    """The largest version of the main photograph; the first photograph where none is called main."""
    there = [image for image in images if isinstance(image, dict)] if isinstance(images, list) else []
    for image in sorted(there, key=lambda image: image.get("variant") != "MAIN"):
        for size in ("hi_res", "large", "thumb"):
            if isinstance(image.get(size), str):
                return image[size]
    return None


def _reviews(path: Path, items: pd.DataFrame, skipped: Skipped) -> pd.DataFrame:
    """The reviews of known products, in time order."""
    rows, numbers = [], []
    for row, review in json_lines(path, skipped):
        user, item = review.get("user_id"), review.get("parent_asin")
        time, value = review.get("timestamp"), review.get("rating")
        kinds = isinstance(user, str) and isinstance(item, str) and type(time) is int and type(value) in (int, float)
        if kinds and user and np.isfinite(value):
            rows.append((user, item, time, float(value)))
            numbers.append(row)
        else:
            skipped.add(path.name, row, "lacks user_id, parent_asin, timestamp or rating")
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "value"], index=numbers)
    events = in_seconds(known(events, items, path.name, skipped), path.name, skipped, per_second=1000)
    if events.empty:
        raise InputError(
            f"{path} needs objects with user_id, parent_asin, timestamp and rating of products in the meta."
        )
    return events.assign(action="review")
