"""The masks: which token may attend to which. Every network stacks the same `Block`; the masks say what it computes.

Every mask is Boolean, (Tq, Tk) or (B, 1, Tq, Tk), True where the query in the row may attend to the key in the column.
"""

import torch
from torch import Tensor


def segment(present: Tensor) -> Tensor:
    """Local layers: tokens of one segment see all its present tokens. (B, T) bool -> (B, 1, 1, T)."""
    return present[:, None, None, :]


def item(present: Tensor, modality: Tensor, fusion: str) -> Tensor:
    """How one item's tokens attend to each other: present (N, L) bool, modality (L,) of each -> (N, 1, L or 1, L).

    "joint": every token attends to all of them. "gated": to its own modality only; the modalities are joined late.
    "cross": to itself and the other modalities. The parameters are the same; the mask is the difference.
    """
    if fusion == "joint":
        return segment(present)
    same = modality[:, None] == modality
    may = same if fusion == "gated" else ~same | torch.eye(len(modality), dtype=torch.bool, device=modality.device)
    return may & segment(present)


def causal(length: int, device: torch.device | None = None) -> Tensor:
    """The autoregressive region: each token sees itself and what came before. -> (T, T)."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def unilm(source: Tensor, target: Tensor, among: Tensor | None = None) -> Tensor:
    """A bidirectional source before an autoregressive target: the encoder and the decoder in one mask.

    The source may be a profile, and the target its events. Shapes: source (B, S) and target (B, T) bool, True where a
    token is present -> (B, 1, S + T, S + T). among (T, T): how the target's tokens see each other, instead of `causal`.
    Source: Dong et al. 2019 (UniLM), figure 1; M6-Rec section 3.1.
    """
    s, t = source.shape[1], target.shape[1]
    among = causal(t, source.device) if among is None else among
    see = torch.cat((among.new_ones(s + t, s), torch.cat((among.new_zeros(s, t), among))), 1)
    return see & segment(torch.cat((source, target), 1))


def candidates(source: Tensor, candidate: Tensor) -> Tensor:
    """Source tokens see the source; a candidate's tokens see it and each other, and no other candidate.

    Shapes: source (B, S) and candidate (B, C, L) bool -> (B, 1, S + C·L, S + C·L).
    """
    _, c, length = candidate.shape
    own = torch.eye(c, dtype=torch.bool, device=source.device).repeat_interleave(length, 0)
    return unilm(source, candidate.flatten(1), own.repeat_interleave(length, 1))


def targets(profile: Tensor, history: Tensor, fields: Tensor, position: Tensor) -> Tensor:
    """A target sees the profile, as many events as its position says, and the fields of its own request: nothing else.

    Shapes: profile (B, C), history (B, T), fields (B, Q, R) bool, position (B, Q) in events -> (B, 1, Q, C + T + Q·R).
    While training, target t has position t: its own event stands in column C + t and is hidden from it.
    """
    q, r = fields.shape[1:]
    before = torch.arange(history.shape[1], device=history.device) < position[..., None]  # (B, Q, T)
    own = torch.eye(q, dtype=torch.bool, device=history.device).repeat_interleave(r, 1)  # (Q, Q·R)
    see = profile[:, None].expand(-1, q, -1), before & history[:, None], own & fields.flatten(1)[:, None]
    return torch.cat(see, -1).unsqueeze(1)
