"""From raw texts to tokens: cleaned, and cut into byte pairs by a tokenizer that has read training items only."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SPECIAL = ("[PAD]", "[UNK]", "[MASK]", "[BOS]", "[EOS]")
PAD, UNK, MASK, BOS, EOS = range(5)
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
    rows = [e.ids[:length] for e in tokenizer.encode_batch([clean(t) for t in texts])]
    out = np.zeros((len(rows), length), dtype=np.int64)
    for row, ids in zip(out, rows, strict=True):
        row[: len(ids)] = ids
    return out
