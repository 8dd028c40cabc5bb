"""Prompts, and a byte-pair tokenizer.

    [BOS'] profile [SEP] request [SEP] event [SEP] event … [SEP] candidate [SEP] [EOS']   [BOS] target [SEP] … [EOS]

The left (source) region is read in both directions, the right (target) one from the left. Every part is a segment. A
target segment that ends in a colon is given: it is no part of the loss. Source: M6-Rec section 3.1."""

import html
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import tokenizers as hf

from m6rec.config import Array, InputError

SPECIAL = ("[PAD]", "[UNK]", "[MASK]", "[BOS]", "[EOS]")
PAD, UNK, MASK, BOS, EOS = range(5)
PROMPT_SPECIAL = (*SPECIAL, "[BOS']", "[EOS']", "[SEP]")
SOURCE_BOS, SOURCE_EOS, SEP = range(5, 8)
LONGEST = 100_000  # characters
PIECE = 64  # characters of a word that are read together: training is quadratic in it
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
NOT_LATIN = re.compile(r"[^\W\0-\u024f]")  # a letter beyond Latin Extended-B
# Thai, Lao, Burmese, Khmer, kana and Chinese have no spaces. \w lacks their vowel signs.
SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
WORD = re.compile(rf"([{SPACELESS}]+)|[^\W{SPACELESS}]+")


def clean(text: object) -> str:
    """No markup, no entities, no control characters, NFKC, single spaces."""
    if not isinstance(text, str):
        return ""
    text = re.sub(r"<[^<>]{0,200}>", " ", html.unescape(text[:LONGEST]))
    text = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in unicodedata.normalize("NFKC", text))
    return " ".join(text.split())


def words(text: object) -> list[str]:
    """Lower-case words; in scripts without spaces, every two neighbouring characters."""
    found = []
    for match in WORD.finditer(clean(text).lower()):
        run = match[0]
        found += [run[i : i + 2] for i in range(max(1, len(run) - 1))] if match[1] else [run]
    return found


def pad(rows: Sequence[Sequence[int]], length: int | None = None) -> Array:
    """Token ids -> (B, length) int64, 0 on the right; None: as long as the longest."""
    out = np.full((len(rows), max(map(len, rows), default=0) if length is None else length), PAD, np.int64)
    for line, row in zip(out, rows, strict=True):
        line[: len(row)] = row
    return out


class Prompt(NamedTuple):
    """One example in words."""

    profile: str = ""  # "age twenties gender m"
    request: str = ""  # "evening phone"
    history: tuple[str, ...] = ()  # one segment an event, oldest first
    candidate: str = ""
    target: tuple[str, ...] = ()  # one segment an item or sentence

    @property
    def segments(self) -> tuple[str, ...]:
        """The source's, without empty ones."""
        return tuple(part for part in (self.profile, self.request, *self.history, self.candidate) if part)

    def __str__(self) -> str:
        source, target = (" ".join(f"{part} [SEP]" for part in parts) for parts in (self.segments, self.target))
        return f"[BOS'] {source} [EOS']   [BOS] {target} [EOS]"


class Tokens(NamedTuple):
    """Token ids, 0 = padding on the right."""

    source: Array  # (B, S) int64
    target: Array  # (B, T) int64, [BOS] first and [EOS] last
    loss_mask: Array  # (B, T) bool: generated tokens; [BOS] and given segments are not


class Tokenizer:
    """Byte pairs. Special tokens come first: of items 5, of prompts 8."""

    def __init__(self, bpe: hf.Tokenizer):
        special = PROMPT_SPECIAL if bpe.token_to_id("[SEP]") == SEP else SPECIAL
        if [bpe.token_to_id(token) for token in special] != list(range(len(special))):
            raise InputError("this tokenizer has other special tokens: make one with Tokenizer.fit(texts).")
        self.bpe, self.special = bpe, len(special)
        # A title that spells [EOS] ends no prompt; an item's text that spells [MASK] has a gap.
        bpe.encode_special_tokens = special is PROMPT_SPECIAL
        self.ids: Callable[[str], tuple[int, ...]] = lru_cache(maxsize=200_000)(
            lambda text: tuple(bpe.encode(clean(text)).ids)
        )

    def __reduce__(self) -> tuple:
        return type(self), (self.bpe,)

    @classmethod
    def fit(cls, texts: Iterable[str], vocabulary: int = 2048, special: Sequence[str] = PROMPT_SPECIAL) -> Self:
        """At most `vocabulary` tokens, of cleaned, lower-cased texts; SPECIAL is enough for items.

        Prompts know printable ASCII. If not all letters are Latin, bytes spell characters that have no token."""
        texts = list(map(clean, texts))
        known = {chr(code).lower() for code in range(33, 127)} if special == PROMPT_SPECIAL else set()
        bpe, spare = hf.Tokenizer(hf.models.BPE(unk_token="[UNK]")), vocabulary - len(BYTES) - len(special)
        bytewise = spare > 0 and any(map(NOT_LATIN.search, texts))
        pieces = hf.pre_tokenizers.Split(hf.Regex(f".{{1,{PIECE}}}"), "isolated")
        bpe.pre_tokenizer = hf.pre_tokenizers.Sequence([hf.pre_tokenizers.Metaspace(), pieces])
        bpe.normalizer = hf.normalizers.Lowercase()
        bpe.decoder = hf.decoders.Metaspace()  # words with single spaces
        trainer = hf.trainers.BpeTrainer(
            vocab_size=vocabulary - bytewise * len(BYTES),
            special_tokens=list(special),
            initial_alphabet=list(known),
            limit_alphabet=max(2 * spare // 3, len(known)) if bytewise else 2**20,  # the rarest characters are spelled
            show_progress=False,
        )
        bpe.train_from_iterator(texts, trainer)
        if bytewise:  # appended: as special tokens, they would be read in texts that have "<0x41>"
            state, size = json.loads(bpe.to_str()), bpe.get_vocab_size()
            state["model"]["byte_fallback"] = True
            state["model"]["vocab"] |= {token: size + byte for byte, token in enumerate(BYTES)}
            state["decoder"] = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, state["decoder"]]}
            bpe = hf.Tokenizer.from_str(json.dumps(state))
        return cls(bpe)

    @classmethod
    def from_file(cls, file: str | Path) -> Self:
        return cls(hf.Tokenizer.from_file(str(file)))

    def extended(self, words: Iterable[str]) -> Self:
        """With more words at the end, each one token."""
        bpe = hf.Tokenizer.from_str(self.bpe.to_str())
        bpe.add_tokens([hf.AddedToken(word, lstrip=True, rstrip=True, single_word=True) for word in words])
        return type(self)(bpe)

    def __len__(self) -> int:
        return self.bpe.get_vocab_size()

    def tokens(self, texts: Iterable[object], length: int) -> Array:
        """Raw texts -> (N, length) int64, 0 = padding on the right; a missing text is all 0."""
        texts = [clean(text)[: PIECE * (length + 1)] for text in texts]  # no token is longer than a piece
        return pad([e.ids[:length] for e in self.bpe.encode_batch(texts)], length)

    def segment(self, text: str) -> tuple[int, ...]:
        return (*self.ids(text), SEP)

    def source(self, prompt: Prompt, length: int) -> list[int]:
        """The source region, without its oldest events where longer than `length`; InputError if still."""
        for first in range(len(prompt.history) + 1):
            parts = prompt._replace(history=prompt.history[first:]).segments
            ids = [SOURCE_BOS, *(token for part in parts for token in self.segment(part)), SOURCE_EOS]
            if len(ids) <= length:
                return ids
        raise InputError(
            f"profile, request and candidate fill {len(ids)} of the region's {length} tokens: "
            "shorten them, or give the region more."
        )

    def given(self, parts: Sequence[str]) -> list[int]:
        """A target region's beginning, which generation continues."""
        return [BOS, *(token for part in parts for token in self.segment(part))]

    def encode(self, prompts: Sequence[Prompt], source: int = 96, target: int = 80) -> Tokens:
        """At most `source` and `target` tokens: a target is cut at its end."""
        ids, loss_mask = [], []
        for prompt in prompts:
            scored = [not part.endswith(":") for part in prompt.target for _ in self.segment(part)]
            ids.append([*self.given(prompt.target), EOS][:target])
            loss_mask.append([False, *scored, True][:target])
        return Tokens(pad([self.source(prompt, source) for prompt in prompts]), pad(ids), pad(loss_mask).astype(bool))

    def decode(self, ids: Iterable[int]) -> list[str]:
        """A target region's segments in words, up to [EOS]."""
        parts: list[list[int]] = [[]]
        for token in map(int, ids):
            if token == EOS:
                break
            if token == SEP:
                parts.append([])
            elif token >= self.special:
                parts[-1].append(token)
        return [self.bpe.decode(part) for part in parts if part]
