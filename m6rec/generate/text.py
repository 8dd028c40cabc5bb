"""Generated text, token by token: a text model's answers, and what a gap in an item's text is missing."""

import itertools
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from m6rec.data.features import Features
from m6rec.data.text import BOS, EOS, PROMPT_SPECIAL, SEP, SPECIAL, Prompt, Tokenizer, pad
from m6rec.errors import InputError
from m6rec.model.network import Network
from m6rec.train.text import SOURCE, Backbone

CHUNK = 64  # texts that are written together
Trie = dict  # token -> Trie; SEP leads back to None, where [EOS] follows


def begun(text: Prompt, turn: int) -> tuple[str, ...]:
    """The target's segments before an answer: 0 the first, -1 the last, such as a dialogue with all earlier answers."""
    answers = [i for i, part in enumerate(text.target) if not part.endswith(":")]
    return text.target[: answers[turn]] if answers else text.target


def trie(tokenizer: Tokenizer, sentences: Iterable[str]) -> Trie:
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
    turn: int = 0,
    among: Sequence[Sequence[str]] | None = None,
) -> list[list[str]]:
    """The segments that are written for an answer (see `begun`): the likeliest tokens, at most `length`, up to [EOS].

    among: for each text the whole sentences that may be its answer, however long. Their trie masks all other tokens
    before one is chosen, as a beam's trie does with semantic IDs.
    """
    network, tokenizer, out = made.network, made.tokenizer, []
    special = [i for i in range(len(PROMPT_SPECIAL)) if i not in (EOS, SEP)]
    tries = {id(one): trie(tokenizer, one) for one in {id(one): one for one in among or ()}.values()}
    for start in range(0, len(texts), CHUNK):
        part = texts[start : start + CHUNK]
        nodes = among and [tries[id(one)] for one in among[start : start + CHUNK]]
        past = network(torch.from_numpy(tokenizer.encode(part, SOURCE).source), logits=False).cache
        rows = [[BOS, *(token for one in begun(text, turn) for token in tokenizer.segment(one))] for text in part]
        given = [len(row) for row in rows]

        def choose(logits: Tensor, nodes: list[Trie | None] | None = nodes) -> Tensor:
            closed = torch.zeros_like(logits, dtype=torch.bool)
            closed[:, special] = True
            for i, node in enumerate(nodes or ()):
                closed[i] = True
                closed[i, list(node or (EOS,))] = False
            tokens = logits.masked_fill(closed, float("-inf")).argmax(-1)
            for i, token in enumerate(tokens.tolist() if nodes else ()):
                nodes[i] = nodes[i] and nodes[i].get(token)
            return tokens

        steps = itertools.count() if nodes else range(length)  # a trie ends by itself
        _decode(lambda target, past=past: network.decode_step(target, past).logits, rows, choose, steps)
        out += [tokenizer.decode(row[at:]) for row, at in zip(rows, given, strict=True)]
    return out


@torch.no_grad()
def fill(network: Network, source: Features, length: int = 12, temperature: float = 0.0, seed: int = 0) -> Tensor:
    """Write the span that [MASK] stands for in each item's text -> token ids (B, length), 0 after the end.

    A text that is [MASK] alone is written from the image and the sound: a caption. temperature 0 takes the likeliest
    token each time; above it, tokens are sampled. Special tokens are never written.
    """
    device, rows = source.text.device, [[BOS] for _ in source.text]
    generator = torch.Generator(device=device).manual_seed(seed)

    def choose(logits: Tensor) -> Tensor:
        logits[:, [i for i in range(len(SPECIAL)) if i != EOS]] = float("-inf")
        if not temperature:
            return logits.argmax(-1)
        return torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0]

    _decode(
        lambda target: network.text_decoder.words(network.items, source, target.to(device)), rows, choose, range(length)
    )
    written = [[token for token in row[1:] if token != EOS] for row in rows]
    return torch.from_numpy(pad([*written, [0] * length])[:-1]).to(device)


def _decode(
    logits: Callable[[Tensor], Tensor], rows: list[list[int]], choose: Callable[[Tensor], Tensor], steps: Iterable[int]
) -> None:
    """Append a token to each row, in place, at each step until all rows have ended.

    logits: token ids (B, T), 0 on the right -> (B, T, V); choose: logits (B, V) of the next token -> (B,) tokens.
    """
    for _ in steps:
        every = logits(torch.from_numpy(pad(rows)))
        last = torch.tensor([len(row) - 1 for row in rows], device=every.device)
        tokens = choose(every[torch.arange(len(rows), device=every.device), last]).tolist()
        for row, token in zip(rows, tokens, strict=True):
            if row[-1] != EOS:
                row.append(token)
        if all(row[-1] == EOS for row in rows):
            return
