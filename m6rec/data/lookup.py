"""From what users write to codes: raw ids and titles, with the nearest known ones when nothing fits."""

import difflib
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from m6rec.errors import InputError

YEAR = re.compile(r"\s*\((\d{4})\)")
ARTICLE = re.compile(r"^(.*), (the|an?|l[ea]s?|das|der|die|il|el)$")


def texts(ids: pd.Series) -> pd.Index:
    """Ids as text, so that 196, 196.0 and "196" are one id."""
    if ids.dtype.kind == "f" and ((ids.dropna() % 1 == 0) & (ids.dropna().abs() < 2**53)).all():
        ids = ids.astype("Int64")
    return pd.Index(ids.astype("str"))


def codes(known: pd.Index, raw_ids: Iterable, word: str, dataset: str) -> np.ndarray:
    """(n,) int64 places of ids among the known ones (`texts`); InputError names an unknown one and the nearest."""
    raw_ids = [raw_ids] if np.isscalar(raw_ids) else raw_ids
    wanted = [str(int(raw) if isinstance(raw, float) and raw.is_integer() else raw) for raw in raw_ids]
    found = known.get_indexer(pd.Index(wanted, dtype="str")).astype(np.int64)
    for row in np.flatnonzero(found < 0)[:1]:
        distance = np.abs(pd.to_numeric(known, errors="coerce") - pd.to_numeric(wanted[row], errors="coerce"))
        by_number = np.isfinite(distance).all()
        near = known[np.argsort(distance, kind="stable")[:3]] if by_number else nearest(wanted[row], list(known))
        hint = f"the nearest known ids are {', '.join(near)}"
        raise InputError(f"{word} {wanted[row]!r} is not in {dataset}; {hint}.")
    return found


class Titles:
    """The titles of the items; `code` finds one by what a person would type."""

    def __init__(self, titles: pd.Series, n_events: np.ndarray):
        self.titles, self.n_events = list(titles), n_events
        self.spelt: dict[str, list[int]] = defaultdict(list)
        for code, title in enumerate(self.titles):
            bare = _plain(YEAR.sub("", title))
            for spelling in {_plain(title), bare, ARTICLE.sub(r"\2 \1", bare)}:  # "usual suspects, the" both ways
                self.spelt[spelling].append(code)

    def code(self, title: str) -> int:
        """Row number of the item with this title; of several, the one with the most events."""
        wanted = _plain(str(title))
        codes = self.spelt.get(wanted, [])
        if not codes and wanted:
            codes = [code for spelling in self.spelt if spelling.startswith(wanted) for code in self.spelt[spelling]]
        names = sorted({self.titles[code] for code in codes})
        if len(names) == 1:
            return max(sorted(codes), key=lambda code: self.n_events[code])
        if names:
            listed = ", ".join(map(repr, names[:5])) + (", …" if len(names) > 5 else "")
            raise InputError(f"title {title!r} fits {len(names)} items: {listed}; write one of them in full.")
        near = dict.fromkeys(self.titles[self.spelt[spelling][0]] for spelling in nearest(wanted, list(self.spelt), 9))
        listed = ", ".join(map(repr, [*near][:3]))
        raise InputError(f"title {title!r} is not in the catalogue; the nearest are {listed}.")


def nearest(word: str, choices: Sequence[str], n: int = 3) -> list[str]:
    """The n choices spelt most like the word, however unlike: something is always offered."""
    return difflib.get_close_matches(word, choices, n, cutoff=0.0)


def _plain(title: str) -> str:
    return " ".join(title.casefold().split())
