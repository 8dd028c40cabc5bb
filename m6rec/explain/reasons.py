"""Reasons in words: one sentence an item, rendered from what leaving tokens out does to it, never from attention.

A sentence names at most `MOST` causes and says how much of the context's whole effect goes when they go; where that is
too little it says so instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from m6rec.data.context import Context
from m6rec.explain.capture import evidence, labels, one, tokens
from m6rec.explain.removal import logits_of, unseen

if TYPE_CHECKING:
    from m6rec.recommender import M6Rec

MOST = 3  # causes that a sentence names
WEAKEST = 0.1  # of the strongest cause's effect, below which another is not worth its words
ENOUGH = 0.2  # of the effect, below which there is not enough evidence
LENGTH = 60  # characters of a title


class Cause(NamedTuple):
    """One token that a reason names."""

    label: str
    kind: str  # profile | history | request
    token: int  # which token of the record it is
    effect: float  # what the item's log-probability loses without it, nats


class Reason(NamedTuple):
    """Why an item is recommended, and how much of the why that is."""

    sentence: str
    causes: list[Cause]  # the strongest first; none where nothing helps the item
    coverage: float  # effect of removing the causes / of removing the whole context, cut to 0..1

    @property
    def enough(self) -> bool:
        """Whether the causes cover enough to be named."""
        return self.coverage >= ENOUGH


def reason(model: M6Rec, context: Context, item: int) -> Reason:
    """Why an item (a code) is recommended in a context of one person."""
    return reasons(model, context, [item])[0]


def reasons(model: M6Rec, context: Context, items: Sequence[int], vectors: Tensor | None = None) -> list[Reason]:
    """The reasons of a whole list (codes): the tokens are left out once for all of them.

    vectors: as in `logits_of`. What is explained is the dense head's log-probability, however the list was made.
    """
    context = one(context).to(model.device)
    kinds, places, _ = tokens(context)
    names, n = labels(model, context, kinds, places), len(kinds)
    nothing = np.arange(n) == 0  # the start always stays
    kept = np.stack((np.ones(n, bool), nothing, *~np.eye(n, dtype=bool)))
    logits = logits_of(model, context, kept, vectors)
    scores = np.stack([evidence(logits, item).cpu().numpy() for item in items])  # (items, 2 + n)
    effects = scores[:, :1] - scores[:, 2:]
    effects[:, 0] = 0  # else rounding
    chosen = [_strongest(e) for e in effects]
    gone = np.ones((len(items), n), bool)
    for row, some in enumerate(chosen):
        gone[row, some] = False
    after = logits_of(model, context, gone, vectors)
    out = []
    for row, (item, some) in enumerate(zip(items, chosen, strict=True)):
        whole = scores[row, 0] - scores[row, 1]
        effect = scores[row, 0] - float(evidence(after[row], item))
        coverage = float(np.clip(effect / whole, 0, 1)) if whole > 0 and some else 0.0
        causes = [Cause(names[t], kinds[t], t, float(effects[row, t])) for t in some]
        out.append(Reason(_sentence(causes, coverage), causes, coverage))
    return out


def _strongest(effects: np.ndarray) -> list[int]:
    """Tokens (n - 1,) worth naming; the start, whose effect is 0, never is."""
    least = WEAKEST * effects.max()
    return [int(t) for t in np.argsort(-effects, kind="stable")[:MOST] if effects[t] > max(least, 0)]


class Held(NamedTuple):
    """What became of recommended items once the causes of their reasons were removed: one entry a user (U,).

    Ranks are those of the items with enough evidence; NaN for who has none.
    """

    lowered: np.ndarray  # share of the items whose rank fell
    places: np.ndarray  # how many places they fell, in the mean
    lowered_at_random: np.ndarray  # the same without as many random events
    places_at_random: np.ndarray
    coverage: np.ndarray  # share of the effect that the causes cover, over all items
    answered: np.ndarray  # share of all items for which there is enough evidence


def held(model: M6Rec, contexts: Context, k: int = 10, seed: int = 0) -> Held:
    """Explain the first k items of each row's list, remove the named causes, and rank again (dense head)."""
    rng, rows = np.random.default_rng(seed), []
    for row in range(len(contexts.item)):
        context = one(contexts, row)
        kinds = np.array(tokens(context)[0])
        allowed = unseen(context, model.data.n_items)
        whole = logits_of(model, context, np.ones((1, len(kinds)), bool)).cpu().numpy()[0]
        items = np.argsort(-np.where(allowed, whole, -np.inf), kind="stable")[:k]
        given = reasons(model, context, items)
        named = [[cause.token for cause in r.causes] for r in given]
        drawn = [rng.permutation(np.flatnonzero(kinds == "history"))[: len(some)] for some in named]
        kept = np.array([~np.isin(np.arange(len(kinds)), gone) for gone in (*named, *drawn)])
        after = np.where(allowed, logits_of(model, context, kept).cpu().numpy(), -np.inf)
        rank = (after > after[np.arange(2 * k), np.tile(items, 2), None]).sum(1).reshape(2, k)
        fell = (rank - np.arange(k))[:, [r.enough for r in given]]  # (named or drawn, items with enough evidence)
        means = np.stack(((fell > 0).mean(1), fell.mean(1)), 1).ravel() if fell.size else np.full(4, np.nan)
        rows.append((*means, np.mean([r.coverage for r in given]), np.mean([r.enough for r in given])))
    return Held(*np.array(rows).T)


def _sentence(causes: list[Cause], coverage: float) -> str:
    if coverage < ENOUGH:
        return f"Not enough evidence: no few causes stand out (the strongest cover {coverage:.0%})."
    events = [_short(c.label) for c in causes if c.kind == "history"]
    said = [f"you chose {_listed(events)}"] if events else []
    said += [_circumstance(c) for c in causes if c.kind != "history"]
    return f"Because {', and '.join(said)}."


def _circumstance(cause: Cause) -> str:
    name, _, value = _short(cause.label).partition(" ")
    if cause.kind == "profile":
        return f"your {name} is {value}"
    special = {"hour": f"it is {value} h", "weekday": f"it is {value}", "gap": f"your last choice was {value} ago"}
    return special.get(name, f"the {name} is {value}")


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _short(text: str) -> str:
    return text if len(text) <= LENGTH else text[: LENGTH - 1] + "…"
