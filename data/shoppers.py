"""The simulated shoppers: who they are, when they shop, and what moves them.

Each shopper draws from a generator of their own, so that the first few are the same whoever else is simulated.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from m6rec.data.bazaar import BLOCKS, CAUSES, LEVELS, RECENT, Market, existing, levels

SEED = 2025
DIMENSIONS = BLOCKS["text"].stop  # D
SHOPPERS = 3000
REGIONS = ("city", "coast", "east", "hills", "lakes", "north", "south", "west")
AGE_EDGES = (25, 35, 50, 65)  # five age groups, whose members have something in common
START = 1_735_689_600  # 2025-01-01 00:00 UTC
MAIN = {  # the modality that each value of a request field pulls towards
    "hour": ("sound", "text", "image", "image"),
    "weekday": ("text", "sound"),
    "device": ("image", "sound", "text"),
    "season": ("image", "text", "sound", "text"),
}


class People(NamedTuple):
    users: pd.DataFrame  # user_id, age, region
    tastes: np.ndarray  # (U, D) unit rows
    shares: np.ndarray  # (U, 3) of image, sound, text


def people(count: int = SHOPPERS) -> People:
    """Taste in a modality = its share's root x the unit sum of an age group's, a region's and an own direction."""
    rng = np.random.default_rng([SEED, 0])
    ages = 16 + np.floor(65 * rng.beta(1.5, 2.2, SHOPPERS)).astype(np.int64)
    regions = rng.integers(len(REGIONS), size=SHOPPERS)
    shares = np.round(rng.dirichlet([1.2] * 3, SHOPPERS), 4)
    shares[:, 2] = np.round(1 - shares[:, 0] - shares[:, 1], 4)  # rounded, they still add up to 1
    tastes = np.zeros((SHOPPERS, DIMENSIONS))
    for modality, block in enumerate(BLOCKS.values()):
        size = block.stop - block.start
        of_age = unit(rng.standard_normal((len(AGE_EDGES) + 1, size)))[np.digitize(ages, AGE_EDGES)]
        of_region = unit(rng.standard_normal((len(REGIONS), size)))[regions]
        own = unit(rng.standard_normal((SHOPPERS, size)))
        direction = unit(of_age + of_region + own)
        tastes[:, block] = np.sqrt(np.maximum(shares[:, modality, None], 0)) * direction
    ids = [f"U{number + 1:04d}" for number in range(SHOPPERS)]
    users = pd.DataFrame({"user_id": ids, "age": ages, "region": [REGIONS[region] for region in regions]})
    return People(users[:count], np.round(tastes, 4)[:count], shares[:count])


def request_pulls() -> dict[str, np.ndarray]:
    """Field -> (values, D) unit rows, each mostly in the block of one modality."""
    rng = np.random.default_rng([SEED, 1])
    pulls = {}
    for field, values in LEVELS.items():
        rows = 0.25 * unit(rng.standard_normal((len(values), DIMENSIONS)))
        for row, modality in enumerate(MAIN[field]):
            block = BLOCKS[modality]
            rows[row, block] += unit(rng.standard_normal(block.stop - block.start))
        pulls[field] = np.round(unit(rows), 4)
    return pulls


def visits(shopper: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """12 to 80 events (a heavy tail) in sittings over the year; day part, weekends and device by habit.

    Rising UTC seconds (n,), names of devices (n,), and uniform draws (n, 2): one for the cause, one for the item.
    """
    rng = np.random.default_rng([SEED, 2, shopper])
    count = int(np.clip(np.round(np.exp(3.3 + 0.55 * rng.standard_normal())), 12, 80))
    sittings: list[int] = []
    while sum(sittings) < count:
        sittings.append(min(int(rng.geometric(0.35)), count - sum(sittings)))
    days = np.arange(364)
    weekend = (START // 86400 + days + 3) % 7 >= 5
    liking = np.where(weekend, rng.choice([0.5, 1.5, 4.0]), 1.0)
    chosen = np.sort(rng.choice(days, len(sittings), replace=False, p=liking / liking.sum()))
    part = 0.6 * np.eye(4)[rng.integers(4)] + 0.4 * np.array([0.1, 0.25, 0.3, 0.35])
    device = 0.7 * np.eye(3)[rng.choice(3, p=[0.5, 0.2, 0.3])] + 0.1
    timestamps, devices, now = [], [], 0
    for day, size in zip(chosen, sittings, strict=True):
        start = START + int(day) * 86400 + int(rng.choice(4, p=part)) * 21600 + int(rng.integers(21600))
        used = LEVELS["device"][rng.choice(3, p=device / device.sum())]
        for gap in [0, *rng.exponential(240.0, size - 1).astype(int)]:
            now = max(start + gap, now + 20 + gap)
            timestamps.append(now)
            devices.append(used)
    return np.array(timestamps), np.array(devices), rng.random((count, 2))


def simulate(tastes: np.ndarray, items: np.ndarray, requests: dict[str, np.ndarray]) -> tuple[pd.DataFrame, ...]:
    """Tastes (U, D) of the first U shoppers, places (N, D) -> events by shopper and time, and their causes.

    All shoppers make their k-th choice at once: (U, N) probabilities a step.
    """
    market = Market(items, requests)
    plans = [visits(shopper) for shopper in range(len(tastes))]
    counts = np.array([len(plan[0]) for plan in plans])
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    timestamps, devices, luck = (np.concatenate([plan[part] for plan in plans]) for part in range(3))
    values = levels(timestamps, devices)
    bought = np.zeros((len(tastes), len(items)), dtype=bool)
    recent = np.full((len(tastes), RECENT), -1)
    item, cause, modality = (np.full(len(timestamps), -1) for _ in range(3))
    for step in range(counts.max()):
        alive = np.flatnonzero(counts > step)
        rows = starts[alive] + step
        weights = existing(np.full(len(alive), step))
        cause[rows] = _draw(weights, luck[rows, 0])
        for number, one in enumerate(CAUSES):
            mine = cause[rows] == number
            who, where = alive[mine], rows[mine]
            pull = market.pull(one, tastes[who], recent[who], values[where])
            item[where] = _draw(market.chances(pull, bought[who]), luck[where, 1])
            if one.kind != "chance":
                modality[where] = _driver(items[item[where]], pull)
        bought[alive, item[rows]] = True
        recent[alive] = np.column_stack([recent[alive, 1:], item[rows]])
    user = np.repeat(np.arange(len(tastes)), counts)
    events = pd.DataFrame({"user": user, "item": item, "timestamp": timestamps, "action": "buy", "device": devices})
    events["season"] = np.array(LEVELS["season"])[values[:, 3]]
    kinds = np.array([one.kind for one in CAUSES])[cause]
    back = np.array([one.which if one.kind == "event" else 0 for one in CAUSES])[cause]
    fields = np.array([one.which if one.kind == "request" else "" for one in CAUSES])[cause]
    truth = pd.DataFrame({"cause": kinds, "cause_event": np.where(back > 0, np.arange(len(back)) - back, -1)})
    return events, truth.assign(cause_field=fields, modality=np.array([*BLOCKS, ""])[modality])


def _draw(chances: np.ndarray, luck: np.ndarray) -> np.ndarray:
    """(B,) one column of each row of (B, N) probabilities, by a uniform number each."""
    ladder = np.cumsum(chances, axis=1)
    return (ladder <= luck[:, None] * ladder[:, -1:]).sum(axis=1)


def _driver(places: np.ndarray, pull: np.ndarray) -> np.ndarray:
    """(B,) the modality in which the item answers the pull most, among those that it has."""
    blocks = [np.where(places[:, b].any(axis=1), (places[:, b] * pull[:, b]).sum(axis=1), -9) for b in BLOCKS.values()]
    return np.round(np.stack(blocks, axis=1), 8).argmax(axis=1)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-9)
