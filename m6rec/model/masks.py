"""Which token may attend to which. Every network stacks the same `Block`: its masks tell it from others.

Masks are Boolean, (Tq, Tk) or (B, 1, Tq, Tk), True where the row's query may attend to the column's key.
"""

import torch
from torch import Tensor


def segment(present: Tensor) -> Tensor:
    """Tokens see all present ones of their segment: (B, T) -> (B, 1, 1, T)."""
    return present[:, None, None, :]


def item(present: Tensor, modality: Tensor, fusion: str) -> Tensor:
    """How an item's tokens see each other: present (N, L) bool, modality (L,) of each -> (N, 1, L or 1, L).

    "joint": each sees all. "gated": its own modality only. "cross": itself and the other modalities.
    """
    if fusion == "joint":
        return segment(present)
    same = modality[:, None] == modality
    may = same if fusion == "gated" else ~same | torch.eye(len(modality), dtype=torch.bool, device=modality.device)
    return may & segment(present)


def causal(length: int, device: torch.device | None = None) -> Tensor:
    """A token sees itself and those before: (T, T)."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def unilm(source: Tensor, target: Tensor, among: Tensor | None = None) -> Tensor:
    """A bidirectional source, then an autoregressive target: UniLM (Dong et al. 2019, figure 1), M6-Rec section 3.1.

    source (B, S), target (B, T) bool, where a token is present -> (B, 1, S + T, S + T). among (T, T): instead of
    `causal`.
    """
    s, t = source.shape[1], target.shape[1]
    among = causal(t, source.device) if among is None else among
    see = torch.cat((among.new_ones(s + t, s), torch.cat((among.new_zeros(s, t), among))), 1)
    return see & segment(torch.cat((source, target), 1))


def candidates(source: Tensor, candidate: Tensor) -> Tensor:
    """A candidate's tokens see the source and each other; the source sees itself.

    source (B, S), candidate (B, C, L) bool -> (B, 1, S + C·L, S + C·L).
    """
    _, c, length = candidate.shape
    own = torch.eye(c, dtype=torch.bool, device=source.device).repeat_interleave(length, 0)
    return unilm(source, candidate.flatten(1), own.repeat_interleave(length, 1))


def targets(profile: Tensor, history: Tensor, fields: Tensor, position: Tensor) -> Tensor:
    """A target sees the profile, as many events as its position says, and the fields of its own request.

    profile (B, C), history (B, T), fields (B, Q, R) bool, position (B, Q) in events -> (B, 1, Q, C + T + Q·R). In
    training, target t has position t: its own event is hidden from it.
    """
    q, r = fields.shape[1:]
    before = torch.arange(history.shape[1], device=history.device) < position[..., None]  # (B, Q, T)
    own = torch.eye(q, dtype=torch.bool, device=history.device).repeat_interleave(r, 1)  # (Q, Q·R)
    see = profile[:, None].expand(-1, q, -1), before & history[:, None], own & fields.flatten(1)[:, None]
    return torch.cat(see, -1).unsqueeze(1)
