"""MicroLens-100K (Westlake University): short videos with titles and cover pictures, and who commented on them when."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from m6rec.data.readers.files import Frames, Skipped, in_seconds, known, pictures, table, unique
from m6rec.errors import InputError

STEM = "MicroLens-100k"


def microlens(folder: Path) -> Frames:
    """Pairs (user,item,timestamp in ms), titles (item,title), and the covers as a folder or zip of <item>.jpg."""
    skipped = Skipped(STEM)
    items = _titles(folder / f"{STEM}_title_en.csv", skipped)
    pairs, columns = f"{STEM}_pairs.csv", {"user": int, "item": int, "timestamp": int}
    events = table(folder / pairs, pairs, columns, skipped, header=True)
    events = known(events.rename(columns={"user": "user_id", "item": "item_id"}), items, pairs, skipped)
    events = in_seconds(events, pairs, skipped, per_second=1000).assign(action="comment")
    skipped.warn()
    covers = folder / f"{STEM}_covers"
    media = covers if covers.is_dir() else covers.with_name(f"{STEM}_covers.zip")
    found = pictures(media)
    if not found:
        return Frames(items, None, events)
    images = [found.get(str(item)) for item in items["item_id"]]
    return Frames(items.assign(image=pd.Series(images, dtype=object)), None, events, media)


def _titles(path: Path, skipped: Skipped) -> pd.DataFrame:
    """One video a line; a title may hold commas without quotation marks, so only the first comma parts."""
    rows, numbers = [], []
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for row, line in enumerate(file, 1):
            number, comma, title = line.partition(",")
            title = " ".join(title.strip().strip('"').split())
            if comma and number.strip().isascii() and number.strip().isdigit():
                rows.append((int(number), title or f"Video {int(number)}", title))
                numbers.append(row)
            elif row > 1 or not comma:  # the first row may be a header
                skipped.add(path.name, row, "is no item number with a title behind it")
    if not rows:
        raise InputError(f"{path} needs the columns item and title, and no row of it has them.")
    items = pd.DataFrame(rows, columns=["item_id", "title", "text"], index=numbers)
    return unique(items, "item_id", path.name, skipped).reset_index(drop=True)
