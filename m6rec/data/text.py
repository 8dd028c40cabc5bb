"""From raw texts to tokens: cleaning, a byte-pair tokenizer, and prompts as token ids.

    [BOS'] profile [SEP] request [SEP] event [SEP] event … [SEP] candidate [SEP] [EOS']   [BOS] target [SEP] … [EOS]

The left (source) region is read in both directions, the right (target) one from the left. Every part is a segment,
which can be encoded alone or masked. A target segment that ends in a colon is given: it is no part of the loss. Source:
M6-Rec section 3.1.
"""

import html
import itertools
import re
import string
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from m6rec.errors import InputError

SPECIAL = ("[PAD]", "[UNK]", "[MASK]", "[BOS]", "[EOS]")
PAD, UNK, MASK, BOS, EOS = range(5)
PROMPT_SPECIAL = (*SPECIAL, "[BOS']", "[EOS']", "[SEP]")
SOURCE_BOS, SOURCE_EOS, SEP = range(5, 8)
LONGEST = 100_000  # characters that are read


def clean(text: object) -> str:
    """One spelling for one text: no markup, no entities, no control characters, NFKC, single spaces."""
    if not isinstance(text, str):
        return ""
    text = re.sub(r"<[^<>]{0,200}>", " ", html.unescape(text[:LONGEST]))
    text = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in unicodedata.normalize("NFKC", text))
    return " ".join(text.split())


def train_tokenizer(
    texts: Iterable[str], vocabulary: int, special: Iterable[str] = SPECIAL, alphabet: str = ""
) -> Tokenizer:
    """A byte-pair tokenizer of at most `vocabulary` tokens, trained on cleaned, lower-cased texts.

    special: tokens that no text spells, from 0 on; alphabet: characters that are known even if no text has them.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()  # tokens back to words with single spaces
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=list(special), initial_alphabet=list(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator([clean(t) for t in texts], trainer)
    return tokenizer


def tokens(texts: Iterable[object], tokenizer: Tokenizer, length: int) -> np.ndarray:
    """Raw texts -> token ids (N, length) int64, padded with 0 on the right; a missing text is all padding.

    A text longer than `length` tokens keeps its first ones.
    """
    return pad([e.ids[:length] for e in tokenizer.encode_batch([clean(t) for t in texts])], length)


def pad(rows: Sequence[Sequence[int]], length: int | None = None) -> np.ndarray:
    """Rows of token ids -> (B, length) int64, 0 on the right; None: as long as the longest."""
    out = np.full((len(rows), max(map(len, rows), default=0) if length is None else length), PAD, dtype=np.int64)
    for line, row in zip(out, rows, strict=True):
        line[: len(row)] = row
    return out


class Prompt(NamedTuple):
    """One example in words: segments of the bidirectional region, and of the autoregressive one."""

    profile: str = ""  # "age twenties gender m"
    request: str = ""  # "evening phone"
    history: tuple[str, ...] = ()  # one segment an event, oldest first
    candidate: str = ""
    target: tuple[str, ...] = ()  # what is generated, one segment an item or sentence

    @property
    def segments(self) -> tuple[str, ...]:
        """The bidirectional region's segments that are not empty."""
        return tuple(part for part in (self.profile, self.request, *self.history, self.candidate) if part)

    def __str__(self) -> str:
        source, target = (" ".join(f"{part} [SEP]" for part in parts) for parts in (self.segments, self.target))
        return f"[BOS'] {source} [EOS']   [BOS] {target} [EOS]"


class Tokens(NamedTuple):
    """Token ids of some prompts, 0 = padding on the right."""

    source: np.ndarray  # (B, S) int64
    target: np.ndarray  # (B, T) int64, [BOS] first and [EOS] last
    loss_mask: np.ndarray  # (B, T) bool: tokens that are generated; [BOS] and given segments are not


class PromptTokenizer:
    """Prompts to token ids."""

    def __init__(self, bpe: Tokenizer):
        if bpe.token_to_id("[SEP]") != SEP:
            raise InputError("this tokenizer has no [SEP] at its place: make one with PromptTokenizer.fit(texts).")
        self.bpe = bpe
        bpe.encode_special_tokens = True  # a title that spells [EOS] ends nothing
        self.segment: Callable[[str], tuple[int, ...]] = lru_cache(maxsize=200_000)(
            lambda words: (*bpe.encode(clean(words)).ids, SEP)
        )

    @classmethod
    def fit(cls, texts: Iterable[str], vocabulary: int = 2048) -> "PromptTokenizer":
        """A tokenizer trained on these texts; every printable ASCII character is known."""
        alphabet = string.ascii_lowercase + string.digits + string.punctuation
        return cls(train_tokenizer(texts, vocabulary, PROMPT_SPECIAL, alphabet))

    def __len__(self) -> int:
        return self.bpe.get_vocab_size()

    def source(self, prompt: Prompt, length: int) -> list[int]:
        """The bidirectional region in at most `length` tokens: where it is too long, the oldest events are left out.

        InputError where it is too long without any event.
        """
        before = [token for part in (prompt.profile, prompt.request) if part for token in self.segment(part)]
        after = self.segment(prompt.candidate) if prompt.candidate else ()
        free = length - 2 - len(before) - len(after)
        if free < 0:
            raise InputError(
                f"profile, request and candidate fill {length - free} tokens, and the region has {length}: "
                "shorten them, or give the region more."
            )
        events: list[int] = []
        for words in reversed(prompt.history):
            if len(events) + len(self.segment(words)) > free:
                break
            events = [*self.segment(words), *events]
        return [SOURCE_BOS, *before, *events, *after, SOURCE_EOS]

    def given(self, parts: Sequence[str]) -> list[int]:
        """The beginning of an autoregressive region, for generation to go on from."""
        return [BOS, *(token for part in parts for token in self.segment(part))]

    def encode(self, prompts: Sequence[Prompt], source: int = 96, target: int = 48) -> Tokens:
        """Prompts -> padded token ids, at most `source` and `target` long: a target is cut, a source as in `source`."""
        ids, loss_mask = [], []
        for prompt in prompts:
            parts = [self.segment(part) for part in prompt.target]
            scored = [not part.endswith(":") for part, tokens in zip(prompt.target, parts, strict=True) for _ in tokens]
            ids.append([BOS, *(token for tokens in parts for token in tokens), EOS][:target])
            loss_mask.append([False, *scored, True][:target])
        return Tokens(pad([self.source(prompt, source) for prompt in prompts]), pad(ids), pad(loss_mask).astype(bool))

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Token ids of a target region -> its segments in words, up to [EOS]."""
        parts: list[list[int]] = [[]]
        for token in itertools.takewhile(lambda token: token != EOS, map(int, ids)):
            if token == SEP:
                parts.append([])
            elif token >= len(PROMPT_SPECIAL):
                parts[-1].append(token)
        return [self.bpe.decode(part) for part in parts if part]
