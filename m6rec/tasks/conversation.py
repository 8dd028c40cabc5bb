"""Conversation: USER: and SYSTEM: turns over a catalogue.

The dialogues are built from templates and real histories, and are no one's words: a person names one wish, the system
asks back, the person names another, the system offers an item.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from m6rec.data.prompts import Domain
from m6rec.data.text import Prompt

HISTORY = 6
ASKS, OFFERS = "what else", "how about"


def texts(domain: Domain, rows: np.ndarray, features: Collection[str], seed: int = 0) -> list[Prompt]:
    """Events `rows` as dialogues that end with the item that was bought; its wishes are two of its noticed words."""
    rng = np.random.default_rng(seed)
    made = []
    for row, asked in zip(rows, domain.prompts(rows, HISTORY), strict=True):
        item = domain.items[domain.item[row]]
        words = list(dict.fromkeys(word for word in item.split() if word in features)) or item.split()[:1]
        first, second = (words[i] for i in rng.permutation(len(words) * 2)[:2] % len(words))
        target = (f"user: {first} please:", "system:", ASKS, f"user: {second} too:", "system:", f"{OFFERS} {item}")
        made.append(asked._replace(request=domain.requests[row], target=target))
    return made


def judge(
    asked: Sequence[Prompt], written: Sequence[Sequence[str]], catalogue: Collection[str]
) -> dict[str, np.ndarray]:
    """Per dialogue: sold (the offer is in the catalogue), fits (it has both wishes), right (it is what was bought)."""
    offers = [parts[0].removeprefix(OFFERS).strip() if parts else "" for parts in written]
    catalogue = set(catalogue)
    return {
        "sold": np.array([offer in catalogue for offer in offers], float),
        "fits": np.array([wishes(text) <= set(o.split()) for text, o in zip(asked, offers, strict=True)], float),
        "right": np.array([f"{OFFERS} {o}" == text.target[-1] for text, o in zip(asked, offers, strict=True)], float),
    }


def offers(asked: Sequence[Prompt], catalogue: Collection[str]) -> list[list[str]]:
    """What a system that searches first may say: per dialogue, every item with both wishes, or all if there is none."""
    words = {f"{OFFERS} {item}": set(item.split()) for item in sorted(set(catalogue))}
    return [[offer for offer, has in words.items() if wishes(text) <= has] or list(words) for text in asked]


def search(asked: Sequence[Prompt], catalogue: Collection[str], seed: int = 0) -> list[list[str]]:
    """A baseline: any item of the catalogue that has both wishes."""
    rng = np.random.default_rng(seed)
    return [[found[rng.integers(len(found))]] for found in offers(asked, catalogue)]


def wishes(text: Prompt) -> set[str]:
    """The words that the person asked for."""
    return {part.split()[1] for part in text.target if part.startswith("user:")}
