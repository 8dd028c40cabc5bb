"""What the text backbone writes: the autoregressive region, token by token, the likeliest each time.

Where it is said what a segment may be (`among`), a trie closes everything else before a token is chosen, as a beam's
trie does with semantic IDs: what may not be said is never scored, so nothing has to be filtered afterwards.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile

import torch
from torch import Tensor

from m6rec.data.text import BOS, EOS, PROMPT_SPECIAL, SEP, Prompt, PromptTokenizer, pad
from m6rec.errors import InputError
from m6rec.train.plain import SOURCE, Backbone

AT_ONCE = 64  # texts that are written together
Trie = dict  # token -> Trie; SEP leads back to None, where [EOS] follows


def first_turn(text: Prompt) -> tuple[str, ...]:
    """The target's segments up to its first answer."""
    return tuple(takewhile(lambda part: part.endswith(":"), text.target))


def last_turn(text: Prompt) -> tuple[str, ...]:
    """The target's segments up to its last answer: a dialogue with all that has been said."""
    asks = [i for i, part in enumerate(text.target) if part.endswith(":")]
    return text.target[: asks[-1] + 1] if asks else ()


def trie(tokenizer: PromptTokenizer, sentences: Iterable[str]) -> Trie:
    """The token sequences of these sentences as nested dictionaries. InputError without a sentence."""
    root: Trie = {}
    for sentence in sentences:
        node = root
        for token in tokenizer.segment(sentence)[:-1]:
            node = node.setdefault(token, {})
        node[SEP] = None
    if not root or SEP in root:
        raise InputError("nothing may be said: give sentences to choose among, and none that is empty.")
    return root


@torch.no_grad()
def write(
    made: Backbone,
    texts: Sequence[Prompt],
    length: int = 24,
    given: Callable[[Prompt], tuple[str, ...]] = first_turn,
    among: Sequence[Sequence[str]] | None = None,
) -> list[list[str]]:
    """The segments that are written after each text's given ones, at most `length` tokens, up to [EOS].

    among: for each text what the one segment that answers may be, in whole sentences; then it is as long as it takes.
    """
    roots = [None] * len(texts) if among is None else _tries(made.tokenizer, among)
    out: list[list[str]] = []
    for start in range(0, len(texts), AT_ONCE):
        part = texts[start : start + AT_ONCE]
        out += _written(made, part, [given(text) for text in part], roots[start : start + AT_ONCE], length)
    return out


def _tries(tokenizer: PromptTokenizer, allowed: Sequence[Sequence[str]]) -> list[Trie | None]:
    """One trie for each text; a catalogue that is given for all of them is spelled once."""
    made = {id(one): trie(tokenizer, one) for one in {id(one): one for one in allowed}.values()}
    return [made[id(one)] for one in allowed]


def _written(
    made: Backbone,
    texts: Sequence[Prompt],
    given: Sequence[tuple[str, ...]],
    nodes: list[Trie | None],
    length: int,
) -> list[list[str]]:
    """nodes: where each text stands in its trie; None where everything may be said."""
    network, tokenizer = made.network, made.tokenizer
    device = network.tokens.weight.device
    source = torch.from_numpy(tokenizer.encode(texts, SOURCE).source).to(device)
    rows = [[BOS, *(token for part in parts for token in tokenizer.segment(part))] for parts in given]
    begun = [len(row) for row in rows]
    free = [node is None for node in nodes]
    known = network.prefill(source)
    never = torch.tensor([i for i in range(len(PROMPT_SPECIAL)) if i not in (EOS, SEP)])
    steps = range(length) if all(free) else itertools.count()  # a trie ends by itself
    for _ in steps:
        logits = network.decode_step(torch.from_numpy(pad(rows)).to(device), known)
        last = logits[torch.arange(len(rows)), torch.tensor([len(row) - 1 for row in rows])]
        for row, node, anything in zip(last, nodes, free, strict=True):
            row[never if anything else _closed(node, len(row))] = float("-inf")
        for i, token in enumerate(last.argmax(-1).tolist()):
            if rows[i][-1] != EOS:
                rows[i].append(token)
                nodes[i] = nodes[i].get(token) if nodes[i] else None
        if all(row[-1] == EOS for row in rows):
            break
    return [tokenizer.decode(row[start:]) for row, start in zip(rows, begun, strict=True)]


def _closed(node: Trie | None, vocabulary: int) -> Tensor:
    """(V,) bool: tokens that do not go on from here. At a sentence's end only [EOS] does."""
    closed = torch.ones(vocabulary, dtype=torch.bool)
    closed[list(node) if node else [EOS]] = False
    return closed
