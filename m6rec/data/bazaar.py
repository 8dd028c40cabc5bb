"""bazaar: real photographs, recordings and texts, *simulated* shoppers.

Every event's cause is known, and so the best possible ranking: data/README.md."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from m6rec.config import Array
from m6rec.data.dataset import Targets
from m6rec.data.sources import shipped

BLOCKS = {"image": slice(0, 3), "sound": slice(3, 6), "text": slice(6, 14)}  # of the D = 14 dimensions
LEVELS = {
    "hour": ("night", "morning", "afternoon", "evening"),  # six hours each, from midnight (UTC)
    "weekday": ("weekday", "weekend"),
    "device": ("phone", "tablet", "desktop"),
    "season": ("winter", "spring", "summer", "autumn"),
}
FIELD_SHARES = {"hour": 0.4, "weekday": 0.2, "device": 0.2, "season": 0.2}
RECENT = 3  # events among which one can be a cause


class Cause(NamedTuple):
    kind: str  # "taste", "event", "request" or "chance"
    which: str | int  # "event": 1 for the last, 2 …; "request": the field; else ""
    weight: float  # probability if all causes exist; else those that do share the rest


CAUSES = (
    Cause("taste", "", 0.3),
    *(Cause("event", back, 0.3 * share) for back, share in ((1, 0.6), (2, 0.25), (3, 0.15))),
    *(Cause("request", field, 0.3 * share) for field, share in FIELD_SHARES.items()),
    Cause("chance", "", 0.1),
)
# Taste, last item and request colour every choice; its cause tips the scales.
TASTE, LAST, REQUEST, TIP = 1.0, 0.8, 0.8, 0.6
SHARPNESS = 13.0  # inverse temperature of the choice


class Truth(NamedTuple):
    """Hidden from models. Modalities: image, sound, text."""

    events: pd.DataFrame  # as Dataset.events: cause, cause_event (row or -1), cause_field, modality
    items: Array  # (N, D) places, unit rows
    shoppers: Array  # (U, D) tastes, unit rows
    shares: Array  # (U, 3) of modalities; rows sum to 1
    requests: dict[str, Array]  # field -> (values, D) unit rows, as LEVELS
    held_out: Array  # (N,) bool: photographs, recordings and nouns kept from training
    cold_users: Array  # (U,) bool: kept from training
    origins: Array  # (N,) str: the recording, else the photograph, else the noun
    words: dict[str, Array]  # word that shoppers notice -> (8,) place


def truth() -> Truth:
    """For checking a model, never for training one."""
    with np.load(shipped("bazaar") / "latent.npz", allow_pickle=False) as arrays:
        latent = dict(arrays)
    requests = {field: latent.pop(f"request_{field}") for field in LEVELS}
    words = dict(zip(latent.pop("words").tolist(), latent.pop("word_places"), strict=True))
    events, cold_users = pd.read_parquet(shipped("bazaar") / "truth.parquet"), latent.pop("newcomers")
    return Truth(events=events, requests=requests, cold_users=cold_users, words=words, **latent)


def levels(timestamp: Array, device: Array) -> Array:
    """UTC seconds (E,), names of devices (E,) -> (E, 4) int64 places in LEVELS."""
    days = timestamp // 86400
    month = timestamp.astype("datetime64[s]").astype("datetime64[M]").astype(np.int64) % 12
    device = pd.Index(LEVELS["device"]).get_indexer(device)
    return np.stack([timestamp % 86400 // 21600, (days + 3) % 7 >= 5, device, (month + 1) % 12 // 3], axis=1)


def existing(events_before: Array) -> Array:
    """(B,) numbers of events before -> (B, len(CAUSES)) probabilities of the causes."""
    back = np.array([cause.which if cause.kind == "event" else 0 for cause in CAUSES])
    weights = np.array([cause.weight for cause in CAUSES]) * (events_before[:, None] >= back)
    return weights / weights.sum(1, keepdims=True)


class Market:
    def __init__(self, items: Array, requests: dict[str, Array]):
        self.items, self.requests = items, requests

    def pull(self, cause: Cause, taste: Array, recent: Array, values: Array) -> Array:
        """(B, D) where a cause draws shoppers with tastes (B, D), last items (B, RECENT; newest last), values (B, 4).

        Chance pulls nowhere. Rounded: later sums do not depend on the machine."""
        if cause.kind == "chance":
            return np.zeros_like(taste)
        places = np.concatenate([self.items, np.zeros_like(self.items[:1])])[recent.T[::-1]]  # -1: before the first
        fields = {field: self.requests[field][values[:, column]] for column, field in enumerate(LEVELS)}
        own = {"": taste, **dict(enumerate(places, 1)), **fields}[cause.which]
        pull = TASTE * taste + REQUEST * sum(share * fields[field] for field, share in FIELD_SHARES.items())
        return np.round(pull + LAST * places[0] + TIP * own, 4)

    def chances(self, pull: Array, bought: Array) -> Array:
        """Pull (B, D), bought (B, N) bool -> (B, N) probabilities of what is not bought yet."""
        scores = np.round(pull @ self.items.T, 8)  # both factors have four decimals: now exact
        scores[bought] = -np.inf
        chances = np.exp(SHARPNESS * (scores - scores.max(1, keepdims=True)))
        return chances / chances.sum(1, keepdims=True)


class BayesOptimal:
    """Ranks by the sum of p(cause) p(item | cause) with true places and tastes: the upper bound."""

    name = "Bayes-optimal"

    def __init__(self, known: Truth | None = None):
        self.known = known or truth()

    def scores(self, users: Targets) -> Array:
        """(B, N) log-probabilities; -inf for what was bought."""
        with np.errstate(divide="ignore"):
            return np.log(sum(self._joints(users)))

    def causes(self, users: Targets) -> Array:
        """(B, len(CAUSES)) probabilities, given what was bought."""
        joint = np.stack([joint[np.arange(len(users)), users.items] for joint in self._joints(users)], axis=1)
        return joint / joint.sum(1, keepdims=True)

    def _joints(self, users: Targets):
        """(B, N) p(cause) p(item | cause), cause by cause."""
        events, market = users.data.events.iloc[users.events], Market(self.known.items, self.known.requests)
        shoppers = np.array([int(str(user)[1:]) - 1 for user in users])  # by the id: a subset has other codes
        taste, recent = self.known.shoppers[shoppers], users.history(RECENT)
        values = levels(events["timestamp"].to_numpy(), events["device"].to_numpy())
        bought = users.seen().toarray()
        weights = existing(users.events - users.data.offsets[users.users])
        for cause, weight in zip(CAUSES, weights.T, strict=True):
            pull = market.pull(cause, taste, recent, values)
            yield weight[:, None] * market.chances(pull, bought)
