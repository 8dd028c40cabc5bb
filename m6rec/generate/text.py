"""Generated text: what a text with a gap is missing, written token by token under the UniLM mask."""

from __future__ import annotations

import torch
from torch import Tensor

from m6rec.data.features import BOS, EOS, SPECIAL
from m6rec.model.network import Network


@torch.no_grad()
def fill(network: Network, source: Tensor, length: int = 12, temperature: float = 0.0, seed: int = 0) -> Tensor:
    """Write the span that [MASK] stands for in each source (B, S) -> token ids (B, length), 0 after the end.

    temperature 0 takes the likeliest token each time; above it, tokens are drawn. Special tokens are never written.
    """
    generator = torch.Generator(device=source.device).manual_seed(seed)
    written = torch.full((len(source), 1), BOS, device=source.device)
    ended = torch.zeros(len(source), dtype=torch.bool, device=source.device)
    for _ in range(length):
        logits = network.writer(network.items.tokens, network.items.local, source, written)[:, -1]
        logits[:, [i for i in range(len(SPECIAL)) if i != EOS]] = float("-inf")
        if temperature:
            token = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0]
        else:
            token = logits.argmax(-1)
        ended |= token == EOS
        written = torch.cat((written, token.masked_fill(ended, 0)[:, None]), 1)
    return written[:, 1:]
