"""Query generation: what this person would type next.

Nobody typed bazaar's queries: they are made by rule, two words that shoppers notice of the item bought next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from m6rec.data.prompts import HISTORY, Domain
from m6rec.data.text import Prompt

WORDS = 2


def texts(domain: Domain, rows: np.ndarray, features: Collection[str]) -> list[Prompt]:
    """Events `rows` as "query: …"."""
    made = []
    for row, asked in zip(rows, domain.prompts(rows, HISTORY), strict=True):
        words = domain.items[domain.item[row]].split()
        noticed = [word for word in words if word in features] or words
        target = ("query:", " ".join(dict.fromkeys(noticed[:WORDS])))
        made.append(asked._replace(request=domain.requests[row], target=target))
    return made


def judge(asked: Sequence[Prompt], written: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
    """Per text: words (share of the query's words that are in the true one), exact (the same words)."""
    said = [set(parts[0].split()) if parts else set() for parts in written]
    true = [set(text.target[1].split()) for text in asked]
    return {
        "words": np.array([len(s & t) / max(1, len(s)) for s, t in zip(said, true, strict=True)]),
        "exact": np.array([s == t for s, t in zip(said, true, strict=True)], float),
    }


def usual(asked: Sequence[Prompt], features: Collection[str]) -> list[list[str]]:
    """A baseline: the two noticed words that the person's history has most, the latest first where they tie."""
    rows = []
    for text in asked:
        words = [word for event in reversed(text.history) for word in event.split() if word in features]
        rows.append([" ".join(word for word, _ in Counter(words).most_common(WORDS))])
    return rows
