"""Generated text: what a text with a gap is missing, written token by token under the UniLM mask."""

from __future__ import annotations

import torch
from torch import Tensor

from m6rec.data.features import Features
from m6rec.data.text import BOS, EOS, SPECIAL
from m6rec.model.network import Network


@torch.no_grad()
def fill(network: Network, source: Features, length: int = 12, temperature: float = 0.0, seed: int = 0) -> Tensor:
    """Write the span that [MASK] stands for in each item's text -> token ids (B, length), 0 after the end.

    A text that is [MASK] alone is written from the photograph and the recording: a caption.

    temperature 0 takes the likeliest token each time; above it, tokens are drawn. Special tokens are never written.
    """
    size, device = len(source.text), source.text.device
    generator = torch.Generator(device=device).manual_seed(seed)
    written = torch.full((size, 1), BOS, device=device)
    ended = torch.zeros(size, dtype=torch.bool, device=device)
    for _ in range(length):
        logits = network.text_decoder(network.items, source, written)[:, -1]
        logits[:, [i for i in range(len(SPECIAL)) if i != EOS]] = float("-inf")
        if temperature:
            token = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0]
        else:
            token = logits.argmax(-1)
        ended |= token == EOS
        written = torch.cat((written, token.masked_fill(ended, 0)[:, None]), 1)
    return written[:, 1:]
