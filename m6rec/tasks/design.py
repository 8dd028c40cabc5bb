"""Product design: which category this person would want next, and a title for it that need not exist yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from m6rec.data import prompts
from m6rec.data.prompts import HISTORY, Domain
from m6rec.data.text import Prompt


def texts(domain: Domain, rows: np.ndarray, categories: np.ndarray, titles: np.ndarray) -> list[Prompt]:
    """Events `rows` as "category: … title: …"; categories and titles (N,) of all items."""
    said = [(prompts.item(c), prompts.item(t)) for c, t in zip(categories, titles, strict=True)]
    made = []
    for row, asked in zip(rows, domain.prompts(rows, HISTORY), strict=True):
        category, title = said[domain.item[row]]
        target = ("category:", category, "title:", title)
        made.append(asked._replace(request=domain.requests[row], target=target))
    return made


def judge(asked: Sequence[Prompt], written: Sequence[Sequence[str]], titles: Sequence[str]) -> dict[str, np.ndarray]:
    """Per text: category (the one that was bought), title (share of the bought one's words), new (not sold yet)."""
    sold = {prompts.item(title) for title in titles}
    rows = [(parts[0] if parts else "", parts[2] if len(parts) > 2 else "") for parts in written]
    true = [(text.target[1], set(text.target[3].split())) for text in asked]
    return {
        "category": np.array([one == t for (one, _), (t, _) in zip(rows, true, strict=True)], float),
        "title": np.array([len(set(w.split()) & t) / len(t) for (_, w), (_, t) in zip(rows, true, strict=True)]),
        "new": np.array([bool(title) and title not in sold for _, title in rows], float),
    }


def commonest(asked: Sequence[Prompt], learnt: Sequence[Prompt]) -> list[list[str]]:
    """A baseline: the category that is bought most, with its commonest words."""
    category = Counter(text.target[1] for text in learnt).most_common(1)[0][0]
    words = Counter(w for text in learnt if text.target[1] == category for w in text.target[3].split())
    return [[category, "title:", " ".join(word for word, _ in words.most_common(3))]] * len(asked)
