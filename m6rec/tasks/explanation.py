"""Explanation: "… because ___", in words that can be held against the item and against what moved the shopper.

The sentences that are learnt are made from bazaar's truth: a feature of the item, and the cause that drew the shopper
to it. Metrics: Li et al. 2021 (PETER) for FMR, FCR, DIV and USR; BLEU-4 and ROUGE-L against the true sentence.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import combinations

import numpy as np

from m6rec.data import bazaar
from m6rec.data.prompts import Domain
from m6rec.data.text import Prompt

HISTORY = 5  # events that an explanation may speak of
CITED = 4  # words by which it calls one
SIGNS = {"taste": "your taste", "event": "goes with", "request": "suits the", "chance": "by chance"}


def texts(domain: Domain, rows: np.ndarray, truth: bazaar.Truth) -> list[Prompt]:
    """Bazaar's events `rows` with the true explanation as the target; `domain` has all of its events."""
    made = []
    for row, asked in zip(rows, domain.prompts(rows, HISTORY), strict=True):
        item = domain.items[domain.item[row]]
        made.append(
            asked._replace(
                request=domain.requests[row], candidate=item, target=("because:", _sentence(domain, row, truth))
            )
        )
    return made


def _sentence(domain: Domain, row: int, truth: bazaar.Truth) -> str:
    event, user = truth.events.iloc[row], domain.user[row]
    words = [word for word in domain.items[domain.item[row]].split() if word in truth.words]
    if event.cause == "taste":
        pull, said = truth.shoppers[user], "is your taste"
    elif event.cause == "event":
        earlier = domain.item[event.cause_event]
        pull, said = truth.items[earlier], f"goes with {' '.join(domain.items[earlier].split()[:CITED])}"
    elif event.cause == "request":
        level = _level(domain.requests[row], event.cause_field)
        value = bazaar.LEVELS[event.cause_field].index(level)
        pull, said = truth.requests[event.cause_field][value], f"suits the {'workday' if level == 'weekday' else level}"
    else:
        return f"{words[0] if words else 'it'} by chance"
    block = pull[bazaar.BLOCKS["text"]]
    best = max(words, key=lambda word: float(truth.words[word] @ block), default="it")
    return f"{best} {said}"


def _level(request: str, field: str) -> str:
    said = request.replace("workday", "weekday").split()
    return next(level for level in bazaar.LEVELS[field] if level in said)


def sayable(asked: Prompt, features: Collection[str]) -> list[str]:
    """Every sentence that names a feature of the item, and a cause that was read: for `write(among=…)`."""
    named = list(dict.fromkeys(word for word in asked.candidate.split() if word in features)) or ["it"]
    causes = ["is your taste", *(f"suits the {word}" for word in asked.request.split())]
    causes += [f"goes with {' '.join(event.split()[:CITED])}" for event in asked.history]
    return [f"{word} {cause}" for word in named for cause in (*causes, "by chance")]


def judge(
    asked: Sequence[Prompt], written: Sequence[Sequence[str]], features: set[str]
) -> dict[str, np.ndarray | float]:
    """How good explanations are; `features`: the words that count as such.

    Per explanation: match (it names a feature, and the item has what it names), hallucinated (share of all features it
    names, of the item or of an earlier event, that nothing which was read has), fmr (it names the true one), cause (it
    names the true cause), bleu, rouge. Over all: fcr (features named / features there are), div (mean overlap of two
    explanations' features, lower is better), usr (unique sentences).
    """
    sentences = [" ".join(parts[:1]) for parts in written]
    truths = [text.target[-1] for text in asked]
    own = [_features(_claim(sentence), features) for sentence in sentences]
    named = [_features(sentence, features) for sentence in sentences]
    there = [set(text.candidate.split()) for text in asked]
    read = [set(" ".join(text.segments).split()) for text in asked]
    pairs = list(combinations(own[:200], 2))
    return {
        "match": np.array([bool(one) and one <= item for one, item in zip(own, there, strict=True)], float),
        "hallucinated": np.array([len(one - all_) / max(1, len(one)) for one, all_ in zip(named, read, strict=True)]),
        "fmr": np.array([_features(_claim(t), features) <= one for t, one in zip(truths, own, strict=True)], float),
        "cause": np.array([cause(s) == cause(t) for s, t in zip(sentences, truths, strict=True)], float),
        "bleu": np.array([bleu(s.split(), t.split()) for s, t in zip(sentences, truths, strict=True)]),
        "rouge": np.array([rouge(s.split(), t.split()) for s, t in zip(sentences, truths, strict=True)]),
        "fcr": len(set().union(*own)) / len(features),
        "div": float(np.mean([len(a & b) for a, b in pairs])) if pairs else 0.0,
        "usr": len(set(sentences)) / len(sentences),
    }


def first_word(asked: Sequence[Prompt], features: set[str]) -> list[list[str]]:
    """A baseline: the item's first feature is the user's taste."""
    return [[f"{next((w for w in text.candidate.split() if w in features), 'it')} is your taste"] for text in asked]


def cause(sentence: str) -> str:
    """Which cause a sentence names, or "" for none."""
    return next((kind for kind, sign in SIGNS.items() if sign in sentence), "")


def bleu(said: Sequence[str], truth: Sequence[str], order: int = 4) -> float:
    """BLEU of one sentence against another, precisions of 1 to 4 words smoothed by one (Lin & Och 2004)."""
    if not said:
        return 0.0
    logs = []
    for n in range(1, order + 1):
        mine, its = _grams(said, n), _grams(truth, n)
        smooth = n > 1
        logs.append(math.log(max(((mine & its).total() + smooth) / (max(mine.total(), 1 - smooth) + smooth), 1e-9)))
    return math.exp(min(0.0, 1 - len(truth) / len(said)) + sum(logs) / order)


def rouge(said: Sequence[str], truth: Sequence[str]) -> float:
    """ROUGE-L: the F1 of the longest common subsequence (Lin 2004)."""
    table = np.zeros((len(said) + 1, len(truth) + 1), int)
    for i, a in enumerate(said):
        for j, b in enumerate(truth):
            table[i + 1, j + 1] = table[i, j] + 1 if a == b else max(table[i, j + 1], table[i + 1, j])
    return 2 * int(table[-1, -1]) / max(1, len(said) + len(truth))


def _grams(words: Sequence[str], n: int) -> Counter:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def _features(sentence: str, features: set[str]) -> set[str]:
    return set(sentence.split()) & features


def _claim(sentence: str) -> str:
    """What is said of the item itself: the words before the cause. ("suits the winter" speaks of the request.)"""
    return min((sentence.split(sign)[0] for sign in SIGNS.values()), key=len)
