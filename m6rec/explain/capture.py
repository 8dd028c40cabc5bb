"""The attention record of one target: every token that it could look at, in words, and how much each head did.

It says where the model looked. Why it recommends what it recommends is another question: leave a token out and see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from m6rec.data.context import Context

if TYPE_CHECKING:
    from m6rec.recommender import M6Rec


class Look(NamedTuple):
    """One target's attention, token by token; absent tokens, which nobody can see, are left out."""

    labels: list[str]  # (n,) what each token is: "age ≥ 44 and < 50", a title, "hour 21"
    kinds: list[str]  # (n,) start | profile | history | request
    weights: np.ndarray  # (layers, H, n), each row sums to 1


def capture(model: M6Rec, context: Context, *, row: int = 0, recent: int | None = None) -> Look:
    """Where the last target of a context's row looked, in each joint layer.

    recent: show this many of the last events one by one and add up the earlier ones in one token.
    """
    with torch.no_grad():
        maps = model.fuse(context, weights=True).weights  # layers × (B, H, Q, C + T + Q·R)
    profile, fields = context.profile[row].tolist(), context.request[row, -1].tolist()
    items = context.item[row, : int(context.position[row, -1])].tolist()
    titles = model.data.items["title"]
    tokens = [("start", "start", True)]
    tokens += [("profile", f.describe(code), code > 0) for f, code in zip(model.fields.profile, profile, strict=True)]
    tokens += [("history", titles.iloc[item] if item >= 0 else "", item >= 0) for item in items]
    columns = list(range(len(tokens)))
    width = maps[0].shape[-1]
    columns += range(width - len(fields), width)  # the last target's own request stands at the end
    tokens += [("request", f.describe(code), code > 0) for f, code in zip(model.fields.request, fields, strict=True)]
    there = [place for place, token in enumerate(tokens) if token[2]]
    weights = torch.stack([m[row, :, -1] for m in maps])[..., [columns[place] for place in there]].cpu().numpy()
    kinds, labels = [tokens[place][0] for place in there], [tokens[place][1] for place in there]
    return Look(labels, kinds, weights) if recent is None else _folded(Look(labels, kinds, weights), recent)


def _folded(look: Look, recent: int) -> Look:
    """The same attention with all but the last `recent` events as one token."""
    events = [place for place, kind in enumerate(look.kinds) if kind == "history"]
    old = events[: max(0, len(events) - recent)]
    if len(old) < 2:
        return look
    first, end = old[0], old[-1] + 1
    together = look.weights[..., first:end].sum(-1, keepdims=True)
    return Look(
        [*look.labels[:first], f"{len(old)} earlier events", *look.labels[end:]],
        [*look.kinds[:first], "history", *look.kinds[end:]],
        np.concatenate((look.weights[..., :first], together, look.weights[..., end:]), -1),
    )
