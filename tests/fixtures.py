"""A small made-up data set and models on it, for the tests of everything that learns."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

import m6rec
from m6rec.data.prompts import ClickWindows, Windows

sys.path.append(str(Path(__file__).parents[1] / "notebooks" / "peers"))  # tiger.py

USERS, ITEMS = 40, 30
CONFIG = dict(
    width=16,
    history=8,
    vocabulary=300,
    text_length=12,
    pretrain_epochs=2,
    finetune_epochs=2,
    validate_every=1,
    batch=16,
    infill_weight=0.2,
)

TEXT = dict(width=32, heads=2, dropout=0.1, pretrain_epochs=1, vocabulary=600)  # of a text backbone that just runs
DEPTH = 4
SEGMENTS = m6rec.Config(
    width=16, heads=2, joint_layers=DEPTH, dropout=0.1, history=4, text_length=6, batch=4, validate_every=1, average=0.9
)


def small_data(seed: int = 0) -> m6rec.Dataset:
    """Forty people who walk through thirty items in circles, some steps at random; a profile column of each kind."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(USERS):
        item, time = int(rng.integers(ITEMS)), 880_000_000 + int(rng.integers(10**6))
        for _ in range(int(rng.integers(4, 15))):
            item = (item + 1) % ITEMS if rng.random() < 0.8 else int(rng.integers(ITEMS))
            time += int(rng.integers(1, 10**5))
            rows.append((user + 100, item + 500, time, int(rng.integers(1, 6))))
    items = pd.DataFrame({"item_id": np.arange(ITEMS) + 500, "title": [f"Film {i} ({1950 + i})" for i in range(ITEMS)]})
    items["text"] = [f"film number {i} | {'drama' if i % 2 else 'comedy'} | {1950 + i}" for i in range(ITEMS)]
    users = pd.DataFrame(
        {"user_id": np.arange(USERS) + 100, "age": rng.integers(18, 70, USERS), "gender": rng.choice(["F", "M"], USERS)}
    )
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "value"])
    return m6rec.Dataset.from_frames(items, users, events, name="circles")


HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</figcaption><script>alert(1)</script>\" onerror=alert(1) x='",
    "long " * 1999,  # as long as a title may be
    "שלום עולם مرحبا",
    "🎬🍿👩‍👩‍👧 film",
    "日本語の映画 电影",
    r"$\frac{a}{b}$ $ \$ {x}^2_",
    "\u202egnp.live\u202c",
    "\x1b[31mred\x1b[0m [bold]rich[/bold]",
    "one\ntwo\ttabs",
)


def hostile_data() -> m6rec.Dataset:
    """The small data with markup, formulas, control characters and every script in each text that it has."""
    data, words = small_data(), list(HOSTILE)
    items = data.items.assign(title=[f"{words[i % len(words)]} {i}" for i in range(ITEMS)], text=words * 3)
    users = data.users.assign(gender=[words[i % len(words)] for i in range(USERS)])
    events = data.events.assign(
        user_id=data.users["user_id"].to_numpy()[data.events["user"]],
        item_id=data.items["item_id"].to_numpy()[data.events["item"]],
        shop=[words[i % len(words)] for i in range(data.n_events)],
    )
    columns = ["user_id", "item_id", "timestamp", "value", "shop"]
    return m6rec.Dataset.from_frames(items, users, events[columns], name="hostile")


def small_model(data: m6rec.Dataset | None = None, **changes: object) -> m6rec.M6Rec:
    """An untrained model of the small data."""
    return m6rec.M6Rec(data or small_data(), "small", **{**CONFIG, **changes})


def requests(segmented: ClickWindows, count: int = 5) -> Windows:
    """The first windows of the test part."""
    return segmented.requests(segmented.test).rows(slice(count))
