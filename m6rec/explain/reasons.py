"""Reasons in words: one sentence an item, from what removing tokens does to its score, never from attention."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

from m6rec.data.context import Context
from m6rec.explain.capture import Model, labels, one, target_log_prob, tokens
from m6rec.explain.explainers import logits_of, unseen

MAX_CAUSES = 3  # that a sentence names
WEAKEST = 0.1  # of the strongest cause's effect: weaker ones are not named
ENOUGH = 0.2  # coverage below which there is not enough evidence
MAX_LENGTH = 60  # characters of a title


class Cause(NamedTuple):
    """A token that a reason names."""

    label: str
    type: str  # profile | history | request
    token: int  # index in the record


class Reason(NamedTuple):
    """Why an item is recommended."""

    sentence: str
    causes: list[Cause]  # the strongest first; none where nothing helps the item
    coverage: float  # effect of removing the causes / of removing the whole context, clipped to 0..1


def reasons(model: Model, context: Context, items: Sequence[int], vectors: Tensor | None = None) -> list[Reason]:
    """Why items (codes) have their dense log-probability in a context of one user; vectors: as in `logits_of`."""
    context = one(context).to(model.device)
    types, names = tokens(context)[0], labels(model, context)
    n = len(types)
    start = np.arange(n) == 0  # always stays
    logits = logits_of(model, context, np.stack((np.ones(n, bool), start, *~np.eye(n, dtype=bool))), vectors)
    scores = np.stack([target_log_prob(logits, item).cpu().numpy() for item in items])  # (items, 2 + n)
    effects = np.where(start, 0, scores[:, :1] - scores[:, 2:])  # the start's own is rounding
    chosen = [_strongest(effect) for effect in effects]
    after = logits_of(model, context, np.stack([~np.isin(np.arange(n), named) for named in chosen]), vectors)
    out = []
    for row, (item, named) in enumerate(zip(items, chosen, strict=True)):
        whole = scores[row, 0] - scores[row, 1]
        lost = scores[row, 0] - float(target_log_prob(after[row], item))
        coverage = float(np.clip(lost / whole, 0, 1)) if whole > 0 and named else 0.0
        causes = [Cause(names[t], str(types[t]), t) for t in named]
        out.append(Reason(_sentence(causes, coverage), causes, coverage))
    return out


def _strongest(effects: np.ndarray) -> list[int]:
    """Tokens (n - 1,) worth naming; never the start, whose effect is 0."""
    least = max(WEAKEST * effects.max(), 0)
    return [int(t) for t in np.argsort(-effects, kind="stable")[:MAX_CAUSES] if effects[t] > least]


def counterfactual_rank_drop(model: Model, contexts: Context, k: int = 10, seed: int = 0) -> pd.DataFrame:
    """Explain the first k items of each row's list, remove the named causes, and rank again (dense head).

    A row a user. lowered: share of the items whose rank fell, ranks: mean fall; both without the causes and without as
    many random events, over the items with enough evidence (NaN: none). coverage, enough: means over all items.
    """
    rng, rows = np.random.default_rng(seed), []
    for row in range(len(contexts.item)):
        context = one(contexts, row)
        types = tokens(context)[0]
        every = np.arange(len(types))
        logits = unseen(logits_of(model, context, np.ones((1, len(types)), bool)), context)[0]
        items = np.argsort(-logits, kind="stable")[:k]
        given = reasons(model, context, items)
        enough = [r.coverage >= ENOUGH for r in given]
        named = [[cause.token for cause in r.causes] for r in given]
        drawn = [rng.permutation(np.flatnonzero(types == "history"))[: len(causes)] for causes in named]
        retained = np.array([~np.isin(every, gone) for gone in (*named, *drawn)])
        after = unseen(logits_of(model, context, retained), context)
        rank = (after > after[np.arange(2 * k), np.tile(items, 2), None]).sum(1).reshape(2, k)
        fell = (rank - np.arange(k))[:, enough]  # (named or random, items with enough evidence)
        means = np.stack(((fell > 0).mean(1), fell.mean(1)), 1).ravel() if fell.size else np.full(4, np.nan)
        rows.append((*means, np.mean([r.coverage for r in given]), np.mean(enough)))
    return pd.DataFrame(rows, columns=["lowered", "ranks", "lowered_random", "ranks_random", "coverage", "enough"])


def _sentence(causes: list[Cause], coverage: float) -> str:
    if coverage < ENOUGH:
        return f"Not enough evidence: no few causes stand out (the strongest cover {coverage:.0%})."
    short = [c.label if len(c.label) <= MAX_LENGTH else c.label[: MAX_LENGTH - 1] + "…" for c in causes]
    causes = [c._replace(label=label) for c, label in zip(causes, short, strict=True)]
    events = [c.label for c in causes if c.type == "history"]
    clauses = [f"you chose {', '.join(events[:-1])}{' and ' * (len(events) > 1)}{events[-1]}"] if events else []
    clauses += [_clause(c) for c in causes if c.type != "history"]
    return f"Because {', and '.join(clauses)}."


def _clause(cause: Cause) -> str:
    name, _, value = cause.label.partition(" ")
    if cause.type == "profile":
        return f"your {name} is {value}"
    special = {"hour": f"it is {value} h", "weekday": f"it is {value}", "gap": f"your last choice was {value} ago"}
    return special.get(name, f"the {name} is {value}")
