"""Product design: which category this person would want next, and a title for it that need not exist yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from m6rec.data import plaintext
from m6rec.data.domains import HISTORY, Domain
from m6rec.data.plaintext import Text


def texts(domain: Domain, rows: np.ndarray, categories: np.ndarray, titles: np.ndarray) -> list[Text]:
    """Events `rows` as "category: … title: …"; categories and titles (N,) of all items."""
    said = [(plaintext.item(c), plaintext.item(t)) for c, t in zip(categories, titles, strict=True)]
    made = []
    for row, start in zip(rows, np.searchsorted(domain.user, domain.user[rows]), strict=True):
        category, title = said[domain.item[row]]
        asked = domain.text(range(row, row + 1), max(start, row - HISTORY))
        target = ("category:", category, "title:", title)
        made.append(asked._replace(request=domain.requests[row], target=target))
    return made


def judge(asked: Sequence[Text], written: Sequence[Sequence[str]], titles: Sequence[str]) -> dict[str, np.ndarray]:
    """Per text: category (the one that was bought), title (share of the bought one's words), new (not sold yet)."""
    sold = {plaintext.item(title) for title in titles}
    rows = [(parts[0] if parts else "", parts[2] if len(parts) > 2 else "") for parts in written]
    true = [(text.target[1], set(text.target[3].split())) for text in asked]
    return {
        "category": np.array([one == t for (one, _), (t, _) in zip(rows, true, strict=True)], float),
        "title": np.array([len(set(w.split()) & t) / len(t) for (_, w), (_, t) in zip(rows, true, strict=True)]),
        "new": np.array([bool(title) and title not in sold for _, title in rows], float),
    }


def commonest(asked: Sequence[Text], learnt: Sequence[Text]) -> list[list[str]]:
    """A baseline: the category that is bought most, with its commonest words."""
    category = Counter(text.target[1] for text in learnt).most_common(1)[0][0]
    words = Counter(w for text in learnt if text.target[1] == category for w in text.target[3].split())
    return [[category, "title:", " ".join(word for word, _ in words.most_common(3))]] * len(asked)
