"""Generated tables and requests: each is answered, or refused in one sentence. `make fuzz ARGS="--cases 5000"`."""

from __future__ import annotations

import argparse
import resource
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from m6rec import Dataset, InputError, M6Rec

sys.path.append(str(Path(__file__).parent))
from fixtures import HOSTILE, small_data, small_model

SLOW, MEMORY = 10.0, 1 << 20  # seconds, KiB above the start
TEXTS = (*HOSTILE, "", " ", "Film 3", "Film 3 (1953)", "1999", "nan", "None", "\ud83d", "a" * 30_000, "é", "e\u0301")
CELLS = (None, np.nan, np.inf, True, -1, 0, 1, 3, 3.0, 2.5, 10**30, np.int64(7), b"x", [1], {"a": 1}, (), pd.NaT)


def one_of(rng: np.random.Generator, values: tuple) -> object:
    return values[int(rng.integers(len(values)))]


def cell(rng: np.random.Generator) -> object:
    return one_of(rng, CELLS if rng.random() < 0.5 else TEXTS)


def column(rng: np.random.Generator, n: int) -> object:
    """n cells: of one dtype, mostly; some of no dtype at all."""
    kinds = (
        lambda: rng.integers(-3, 5, n), lambda: rng.normal(size=n).astype(one_of(rng, ("f4", "f8"))),
        lambda: pd.Series(rng.integers(0, 3, n)).astype(one_of(rng, ("Int64", "string", "category", "bool"))),
        lambda: rng.choice(np.array(["x", "y", "", "1"]), n), lambda: rng.integers(0, 2**31, n).astype("datetime64[s]"),
        lambda: pd.Series(pd.date_range("2024-01-01", periods=n, freq="h", tz="Asia/Tokyo")),
        lambda: [cell(rng) for _ in range(n)], lambda: [None] * n,
    )  # fmt: skip
    made = one_of(rng, kinds)()
    if rng.random() < 0.2:  # a hole
        made = pd.Series(list(made), dtype=object)
        made[int(rng.integers(n))] = cell(rng)
    return made


def frames(rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame | None, pd.DataFrame]:
    """items, users or None, interactions: good ones, in which some columns are replaced, added, renamed or missing."""
    n, users, events = int(rng.integers(1, 30)), int(rng.integers(1, 10)), int(rng.integers(1, 80))
    items = pd.DataFrame({"item_id": np.arange(n), "title": [f"Film {i}" for i in range(n)]})
    people = pd.DataFrame({"user_id": np.arange(users)})
    pairs = {"user_id": rng.integers(0, users, events), "item_id": rng.integers(0, n, events)}
    pairs |= {"timestamp": rng.integers(0, 2 * 10**9, events), "value": rng.integers(1, 6, events)}
    made = []
    names = ("title", "text", "genres", "category", "image", "timestamp", "value", "action", "device", "user", "item")
    for table in (items, people, pd.DataFrame(pairs)):
        for _ in range(int(rng.integers(0, 3))):
            table[one_of(rng, (*table, *names))] = column(rng, len(table))
        if rng.random() < 0.1:
            table = table.drop(columns=one_of(rng, tuple(table)))
        made.append(table)
    return made[0], made[1] if rng.random() < 0.5 else None, made[2]


def load(rng: np.random.Generator) -> Callable[[], object]:
    items, users, events = frames(rng)

    def call() -> None:
        data = Dataset.from_frames(items, users, events)
        assert (data.n_items, data.n_events) == (len(items), len(events)), "rows are gone without a word"
        assert set(events) - {"user_id", "item_id"} <= set(data.events), "columns are gone without a word"
        data.split(), repr(data), len(data.fingerprint)

    return call


def request(rng: np.random.Generator, model: M6Rec) -> Callable[[], object]:
    """A call of `recommend` with good arguments, of which some are odd."""
    ids = model.data.items["item_id"].tolist()
    history = [
        one_of(rng, (one_of(rng, tuple(ids)), cell(rng))[: 1 + (rng.random() < 0.1)]) for _ in range(rng.integers(9))
    ]
    wraps = (list, tuple, np.array, pd.Series, iter, lambda h: pd.DataFrame({"item_id": h}))
    given = {
        "user": one_of(rng, (None, 100, "100", 101.0, cell(rng))), "k": one_of(rng, (1, 3, np.int64(5), 30, cell(rng))),
        "context": one_of(rng, (None, {"hour": 21}, {"hour": cell(rng)}, {"weekday": 2}, {"x": 1}, cell(rng))),
        "profile": one_of(rng, (None, {"age": 30}, {"age": cell(rng)}, {"gender": "F"}, cell(rng))),
        "method": one_of(rng, ("generated", "dense", "hybrid", "exact", cell(rng))),
        "drop": one_of(rng, ((), ("text",), ["image"], cell(rng))), "seen": one_of(rng, (False, True, cell(rng))),
    }  # fmt: skip
    given = {name: value for name, value in given.items() if rng.random() < 0.5}
    if rng.random() < 0.6 or given.get("user") is None:
        with_shape = rng.random() < 0.2 and all(isinstance(one, int) for one in history)
        given["history"] = one_of(rng, wraps if with_shape else (list,))(history)

    def call() -> None:
        found = model.recommend(**given)
        assert len(found) == given.get("k", 10) and found["item_id"].is_unique, "the list is not k items"
        assert np.isfinite(found["score"]).all() and (found["score"].diff().dropna() <= 1e-6).all(), (
            "not the best first"
        )

    return call


def fuzz(cases: int, seed: int = 0, model: M6Rec | None = None) -> tuple[Counter, list[str]]:
    """How many cases were answered and refused, and what is wrong with the others: a traceback, slow, or memory."""
    if model is None:
        model = small_model(small_data(), pretrain_epochs=1, finetune_epochs=1)
        model.pretrain(), model.fine_tune()
    counts, wrong = Counter(), []
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(cases):
        rng, begun = np.random.default_rng([seed, number]), time.perf_counter()
        call = load(rng) if number % 2 else request(rng, model)
        try:
            with warnings.catch_warnings(action="ignore"):  # they say what is odd
                call()
            counts["answered"] += 1
        except InputError:
            counts["refused"] += 1
        except Exception:
            wrong.append(f"case {number}: " + "".join(traceback.format_exc(limit=-3)))
        if (seconds := time.perf_counter() - begun) > SLOW:
            wrong.append(f"case {number}: {seconds:.0f} s")
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start > MEMORY:
        wrong.append("more than 1 GiB was taken")
    return counts, wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    counts, wrong = fuzz(asked.cases, asked.seed)
    print(*wrong, dict(counts), f"{len(wrong)} of {asked.cases} cases are wrong", sep="\n")
    sys.exit(bool(wrong))
