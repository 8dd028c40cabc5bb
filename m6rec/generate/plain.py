"""What the text backbone writes: the autoregressive region, token by token, the likeliest each time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile

import torch

from m6rec.data.plaintext import SEP, SPECIAL, Text, pad
from m6rec.data.text import BOS, EOS
from m6rec.train.plain import SOURCE, Backbone

AT_ONCE = 64  # texts that are written together


def first_turn(text: Text) -> tuple[str, ...]:
    """The target's segments up to its first answer."""
    return tuple(takewhile(lambda part: part.endswith(":"), text.target))


def last_turn(text: Text) -> tuple[str, ...]:
    """The target's segments up to its last answer: a dialogue with all that has been said."""
    asks = [i for i, part in enumerate(text.target) if part.endswith(":")]
    return text.target[: asks[-1] + 1] if asks else ()


@torch.no_grad()
def write(
    made: Backbone,
    texts: Sequence[Text],
    length: int = 24,
    given: Callable[[Text], tuple[str, ...]] = first_turn,
) -> list[list[str]]:
    """The segments that are written after each text's given ones, at most `length` tokens, up to [EOS]."""
    parts = [texts[i : i + AT_ONCE] for i in range(0, len(texts), AT_ONCE)]
    return [row for part in parts for row in _written(made, part, [given(text) for text in part], length)]


def _written(made: Backbone, texts: Sequence[Text], given: Sequence[tuple[str, ...]], length: int) -> list[list[str]]:
    network, speller = made.network, made.speller
    device = network.tokens.weight.device
    source = torch.from_numpy(speller.tokens(texts, SOURCE).source).to(device)
    rows = [[BOS, *(token for part in parts for token in speller.segment(part))] for parts in given]
    begun = [len(row) for row in rows]
    known = network.remember(source)
    never = [i for i in range(len(SPECIAL)) if i not in (EOS, SEP)]
    for _ in range(length):
        logits = network.proceed(torch.from_numpy(pad(rows)).to(device), known)
        last = logits[torch.arange(len(rows)), torch.tensor([len(row) - 1 for row in rows])]
        last[:, never] = float("-inf")
        for row, token in zip(rows, last.argmax(-1).tolist(), strict=True):
            if row[-1] != EOS:
                row.append(token)
        if all(row[-1] == EOS for row in rows):
            break
    return [speller.words(row[start:]) for row, start in zip(rows, begun, strict=True)]
