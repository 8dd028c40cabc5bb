"""Behaviour as plain text: the one renderer of a profile, a request, a history, a candidate and what follows them.

    [BOS'] profile [SEP] request [SEP] event [SEP] event … [SEP] candidate [SEP] [EOS']   [BOS] target [SEP] … [EOS]

The left region is read in both directions, the right one from the left. Every part is a segment, so that it can be
read alone (late interaction) or hidden. A target segment that ends in a colon is given: it asks, and what follows
answers. Numbers are said in words. Source: M6-Rec section 3.1.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from tokenizers import Tokenizer

from m6rec.data import text
from m6rec.data.text import BOS, EOS, PAD
from m6rec.errors import InputError

SPECIAL = (*text.SPECIAL, "[BOS']", "[EOS']", "[SEP]")
SOURCE_BOS, SOURCE_EOS, SEP = range(len(text.SPECIAL), len(SPECIAL))
OPINIONS = {1: "hated", 2: "disliked", 3: "found fair", 4: "liked", 5: "loved"}


class Text(NamedTuple):
    """One rendering: segments of the bidirectional region, and of the autoregressive one."""

    profile: str = ""  # "age twenties gender m"
    request: str = ""  # "evening phone"
    history: tuple[str, ...] = ()  # one segment an event, oldest first
    candidate: str = ""
    target: tuple[str, ...] = ()  # what is to be written, one segment an item or sentence

    @property
    def segments(self) -> tuple[str, ...]:
        """The bidirectional region's segments that are not empty, in order."""
        return tuple(part for part in (self.profile, self.request, *self.history, self.candidate) if part)

    def __str__(self) -> str:
        source = " ".join(f"{part} [SEP]" for part in self.segments)
        target = " ".join(f"{part} [SEP]" for part in self.target)
        return f"[BOS'] {source} [EOS']   [BOS] {target} [EOS]"


class Tokens(NamedTuple):
    """Token ids of some renderings, 0 = padding on the right."""

    source: np.ndarray  # (B, S) int64
    target: np.ndarray  # (B, T) int64, [BOS] first and [EOS] last; (B, 0) where no target is asked for
    taught: np.ndarray  # (B, T) bool: tokens that are to be written; [BOS] and given segments are not


def item(words: object, longest: int = 8) -> str:
    """An item in words: the first ones of its text, without the marks between its parts."""
    return " ".join(text.clean(words).replace("|", " ").split()[:longest]).rstrip(":").lower()


def profile(row: Mapping[str, object]) -> str:
    """A user's columns in words, an age as its decade: {"age": 24, "gender": "M"} -> "age twenties gender m"."""
    said = {name: _in_words(name, value) for name, value in row.items() if name != "user_id" and not pd.isna(value)}
    return " ".join(f"{name} {words}" for name, words in said.items())


def request(fields: Mapping[str, object]) -> str:
    """The circumstances of the event to be predicted: {"hour": 21, "device": "phone"} -> "evening phone"."""
    return " ".join(_in_words(name, value) for name, value in fields.items() if not pd.isna(value))


def event(words: str, value: float | None = None) -> str:
    """An item that a user had, with what they thought of it where a rating of 1 to 5 says so."""
    return words if value is None else f"{OPINIONS[int(np.clip(round(value), 1, 5))]} {words}"


def times(count: int) -> str:
    """A count in words: 0 "never", 1 "once", 2 "twice", then "3 times" up to "more than 10 times"."""
    if count < 3:
        return ("never", "once", "twice")[count]
    return f"{count} times" if count <= 10 else "more than 10 times"


def standing(share: float) -> str:
    """A rank in words: the share of all that stand above, 0 to 1 -> "among the top 5 %" … "in the lower half"."""
    for edge in (1, 5, 10, 20, 50):
        if share <= edge / 100:
            return f"among the top {edge} %"
    return "in the lower half"


def _in_words(name: str, value: object) -> str:
    if name == "age":
        decades = ("child", "teens", "twenties", "thirties", "forties", "fifties", "sixties")
        return decades[min(int(value) // 10, 6)]
    if name == "hour":
        return ("night", "morning", "afternoon", "evening")[int(value) // 6 % 4]
    if name == "weekday":
        return "weekend" if int(value) >= 5 else "workday"
    return text.clean(str(value)).lower()


class Speller:
    """Renderings to token ids, by one tokenizer."""

    def __init__(self, tokenizer: Tokenizer):
        if tokenizer.token_to_id("[SEP]") != SEP:
            raise InputError("this tokenizer has no [SEP] at its place: make one with plaintext.Speller.fit(texts).")
        self.tokenizer = tokenizer
        tokenizer.encode_special_tokens = True  # a title that spells [EOS] ends nothing
        self.segment: Callable[[str], tuple[int, ...]] = lru_cache(maxsize=200_000)(self._segment)

    @classmethod
    def fit(cls, texts: Iterable[str], vocabulary: int = 2048) -> Speller:
        """A tokenizer that has read these texts; every printable ASCII character is known."""
        alphabet = string.ascii_lowercase + string.digits + string.punctuation
        return cls(text.train_tokenizer(texts, vocabulary, SPECIAL, alphabet))

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    def _segment(self, words: str) -> tuple[int, ...]:
        return (*self.tokenizer.encode(text.clean(words)).ids, SEP)

    def source(self, rendered: Text, length: int) -> list[int]:
        """The bidirectional region in at most `length` tokens: where it is too long, the oldest events are left out."""
        fixed = [self.segment(part) for part in (rendered.profile, rendered.request, rendered.candidate) if part]
        room = length - 2 - sum(map(len, fixed))
        if room < 0:
            raise InputError(
                f"profile, request and candidate fill {length - room} tokens, and the region has {length}: "
                "shorten them, or give the region more."
            )
        events: list[tuple[int, ...]] = []
        for words in reversed(rendered.history):
            room -= len(self.segment(words))
            if room < 0:
                break
            events.append(self.segment(words))
        before = [self.segment(part) for part in (rendered.profile, rendered.request) if part]
        after = [self.segment(rendered.candidate)] if rendered.candidate else []
        return [SOURCE_BOS, *(i for part in (*before, *reversed(events), *after) for i in part), SOURCE_EOS]

    def target(self, parts: Sequence[str], length: int) -> tuple[list[int], list[bool]]:
        """The autoregressive region, cut to `length` tokens without its [EOS] where it is too long; what is taught."""
        ids, taught = [BOS], [False]
        for part in parts:
            ids += self.segment(part)
            taught += [not part.endswith(":")] * (len(ids) - len(taught))
        return [*ids, EOS][:length], [*taught, True][:length]

    def tokens(self, rendered: Sequence[Text], source: int = 96, target: int = 48) -> Tokens:
        """Renderings -> padded token ids, at most `source` and `target` long; target=0 leaves that region out."""
        right = [self.target(one.target, target) for one in rendered]
        ids, taught = (pad([row[i] for row in right]) for i in range(2))
        return Tokens(pad([self.source(one, source) for one in rendered]), ids, taught.astype(bool))

    def words(self, ids: Iterable[int]) -> list[str]:
        """Token ids of a target region -> its segments' words, up to [EOS]."""
        parts: list[list[int]] = [[]]
        for token in map(int, ids):
            if token == EOS:
                break
            if token == SEP:
                parts.append([])
            elif token >= len(SPECIAL):
                parts[-1].append(token)
        return [self.tokenizer.decode(part) for part in parts if part]


def pad(rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Rows of token ids -> (B, longest) int64, 0 on the right."""
    out = np.full((len(rows), max(map(len, rows), default=0)), PAD, dtype=np.int64)
    for line, row in zip(out, rows, strict=True):
        line[: len(row)] = row
    return out
