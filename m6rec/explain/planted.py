"""The planted truth of bazaar: every purchase has a stored cause, and an explainer either names it first or does not.

The shoppers are simulated. A cause tips a choice that taste, the last purchase and the request colour anyway, so even
who knows all true tastes and places cannot be sure of it: `best_guess` is what that knowledge is good for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from m6rec.data import bazaar
from m6rec.explain.capture import one, tokens
from m6rec.explain.explainers import Explainer
from m6rec.explain.trial import Shop

if TYPE_CHECKING:
    from m6rec.recommender import M6Rec

CANDIDATES = ("history", "request")  # what a stored cause can be, beside taste and chance


class Planted(NamedTuple):
    """For E purchases whose cause is an earlier event or a field of the request: who names it first."""

    events: np.ndarray  # (E,) rows of the shop's events
    field: np.ndarray  # (E,) bool: the cause is a field of the request
    first: dict[str, np.ndarray]  # explainer -> (E,) bool: the cause stands first of all events and request fields
    among: dict[str, np.ndarray]  # explainer -> (E,) bool: it stands first of its own kind, events or fields


@torch.no_grad()
def caused(
    models: Sequence[M6Rec], shop: Shop, *, top: int | None = 50, most: int | None = None, seed: int = 0
) -> np.ndarray:
    """Test events (E,) of known people and goods, caused by an event or a field, of items that all models rank high.

    top: among how many of each model's first; None for any rank. most: draw so many. Bought items are not ranked.
    """
    rows = shop.events["warm"]
    rows = rows[shop.truth.events["cause"].iloc[rows].isin(["event", "request"])]
    for model in models if top is not None else ():
        targets = shop.data.targets(rows)
        scores = model.scores(targets).cpu().numpy()
        scores[targets.seen().toarray()] = -np.inf
        rows = rows[(scores > scores[np.arange(len(rows)), targets.items, None]).sum(1) < top]
    if most is None or most >= len(rows):
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def planted(model: M6Rec, shop: Shop, explainers: Mapping[str, Explainer], events: np.ndarray) -> Planted:
    """Explain these purchases (see `caused`) and look where the stored cause stands."""
    first, among = ({name: np.zeros(len(events), bool) for name in explainers} for _ in range(2))
    field = (shop.truth.events["cause"].iloc[events] == "request").to_numpy()
    for row, event in enumerate(events):
        target = shop.data.targets(np.array([event]))
        context = one(model.target_context(target))
        kinds, places, _ = tokens(context)
        kinds = np.array(kinds)
        cause = _token(model, shop, event, kinds, np.array(places))
        for name, explain in explainers.items():
            effects = explain(model, context, int(target.items[0]))
            for kept, out in ((np.isin(kinds, CANDIDATES), first), (kinds == kinds[cause], among)):
                out[name][row] = np.where(kept, effects, -np.inf).argmax() == cause
    return Planted(events, field, first, among)


class Guess(NamedTuple):
    """The best that can be said of causes by who knows all tastes, places and directions, but not the cause."""

    first: np.ndarray  # (E,) bool, as `Planted.first`: the likeliest event or field is the cause
    among: np.ndarray  # (E,) bool, as `Planted.among`
    sure: np.ndarray  # (E,) how likely the likeliest is, beside taste and chance


def best_guess(shop: Shop, events: np.ndarray) -> Guess:
    """By each cause's probability, once one sees what was bought (Bayes' rule on the simulation's own formula)."""
    stored = shop.truth.events.iloc[events]
    chances = shop.ceiling.causes(shop.data.targets(events))  # (E, causes)
    kinds = np.array([cause.kind for cause in bazaar.CAUSES])
    back = events - stored["cause_event"].to_numpy()
    which = [field or int(b) for field, b in zip(stored["cause_field"], back, strict=True)]
    true = np.array([[cause.which for cause in bazaar.CAUSES].index(w) for w in which])
    every = np.where(np.isin(kinds, ["event", "request"]), chances, -1)
    own = np.where(kinds == kinds[true][:, None], chances, -1)
    return Guess(every.argmax(1) == true, own.argmax(1) == true, every.max(1))


def _token(model: M6Rec, shop: Shop, event: int, kinds: np.ndarray, places: np.ndarray) -> int:
    """Which token the stored cause of an event is."""
    cause = shop.truth.events.iloc[event]
    if cause["cause"] == "request":
        field = [f.name for f in model.fields.request].index(cause["cause_field"])
        return int(np.flatnonzero((kinds == "request") & (places == field))[0])
    back = event - cause["cause_event"]
    return int(np.flatnonzero(kinds == "history")[-back])
