"""The rows of the bench: a model is fitted, ranked with and without the seen items, and its row is kept.

A kept row belongs to one model, seed, data set and code: what has run is not run again, and nothing stale is shown.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from m6rec import cache
from m6rec.data.dataset import Dataset
from m6rec.data.sources import home
from m6rec.data.splits import Split
from m6rec.evaluate import evaluate
from m6rec.runs.bench import outside

HERE = Path(__file__).parent
OUTSIDE = (*sorted((HERE / "peers").glob("*.py")), HERE / "environments.py", HERE / "outside.py")


class Fitted(NamedTuple):
    """A model that is ready to be ranked, and what it cost."""

    model: Any
    seconds: float  # of training
    parameters: int = 0


class Row(NamedTuple):
    """What one model with one seed reached on the test targets, in their order."""

    name: str
    seed: int
    ranks: pd.DataFrame | None
    """(U,) `masked` and `unmasked`, counted from 1, inf where the truth was never listed; None if it failed."""
    seconds: float
    """Of training."""
    parameters: int
    lists_per_second: float
    """Scoring and ranking, seen items masked, as `evaluate` does it."""
    note: str
    memory: int = 0
    """Peak bytes of an outside peer's own process; 0 where a model shares the process with others."""
    curve: tuple[tuple[float, float], ...] = ()
    """Of outside code: seconds of training and validation NDCG@10, nothing masked, after each epoch."""

    def ndcg(self, mask_seen: bool = True, k: int = 10) -> np.ndarray:
        """(U,)"""
        rank = self.ranks["masked" if mask_seen else "unmasked"].to_numpy()
        return np.where(rank <= k, 1 / np.log2(1 + rank), 0.0)

    def hit(self, mask_seen: bool = True, k: int = 10) -> np.ndarray:
        """(U,)"""
        return (self.ranks["masked" if mask_seen else "unmasked"].to_numpy() <= k).astype(float)


def row(name: str, seed: int, fit: Callable[[], Fitted], data: Dataset, split: Split, *settings: str) -> Row:
    """One of our models or baselines: the kept row, or a new one."""

    def measured() -> Row:
        begun = time.perf_counter()
        fitted = fit()
        seconds = fitted.seconds or time.perf_counter() - begun
        masked = evaluate(fitted.model, data, split=split)
        plain = evaluate(getattr(fitted.model, "unmasked", fitted.model), data, split=split, mask_seen=False)
        ranks = pd.DataFrame({"masked": masked.per_user["rank"], "unmasked": plain.per_user["rank"]})
        return Row(name, seed, ranks, seconds, fitted.parameters, len(ranks) / masked.seconds, "")

    key = cache.key(name, seed, data.fingerprint, split.name, *settings, code=("m6rec.runs.bench.table",))
    return _kept(key, data, measured)


def outside_row(name: str, data: Dataset, split: Split, **options: Any) -> Row:
    """Other people's code, one seed, in an environment of its own; a peer that failed is tried again the next time."""
    settings = {what: value for what, value in options.items() if what != "say"}
    key = f"{name} {data.fingerprint} {split.name} {_hash()} {sorted(settings.items())}"

    def measured() -> Row:
        outcome = outside.run(name, data, split, **options)
        if outcome.status == "failed":
            return Row(name, 0, None, 0.0, 0, 0.0, f"failed: {outcome.note}")
        model = outcome.model(split)
        ranks = pd.DataFrame(
            {
                column: evaluate(model, data, split=split, mask_seen=column == "masked").per_user["rank"]
                for column in ("masked", "unmasked")
            }
        )
        return Row(
            name, 0, ranks, outcome.seconds, outcome.parameters, 0.0, outcome.note, outcome.memory, tuple(outcome.curve)
        )

    return _kept(hashlib.sha256(key.encode()).hexdigest()[:12], data, measured)


def _hash() -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in OUTSIDE)).hexdigest()


def _kept(key: str, data: Dataset, measure: Callable[[], Row]) -> Row:
    path = home() / "bench" / f"{data.name}-{key}.parquet"
    if path.exists():
        ranks = pd.read_parquet(path)
        curve = tuple(map(tuple, ranks.attrs.pop("curve")))  # JSON knows only lists
        return Row(ranks=ranks, curve=curve, **ranks.attrs)
    done = measure()
    if done.ranks is not None:
        done.ranks.attrs = {name: value for name, value in done._asdict().items() if name != "ranks"}
        with cache.whole(path) as new:
            done.ranks.to_parquet(new)
    return done
