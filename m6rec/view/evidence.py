"""Measured explanations: what each token contributes to a score, and how faithful explainers are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from m6rec.errors import InputError
from m6rec.evaluate.statistics import mean_interval
from m6rec.view.figures import lines
from m6rec.view.picture import Picture, canvas, drawable, finish, named


def contributions(scores: np.ndarray, labels: Sequence[str], title: str, *, show: int = 12) -> Picture:
    """What the tokens contribute (n,) (nats), largest first: orange for the item, purple against it."""
    scores = np.asarray(scores, dtype=float)
    if scores.shape != (len(labels),) or not np.isfinite(scores).all():
        raise InputError(f"{len(labels)} tokens need as many finite numbers: these have the shape {scores.shape}.")
    order = np.argsort(-np.abs(scores), kind="stable")
    top, data = scores[order][:show], pd.DataFrame({"token": [labels[i] for i in order], "contribution": scores[order]})
    figure, ax = canvas(7.6, 1.2 + 0.28 * len(top), margins=(2.7, 0.5, 0.5, 0.4))
    # The two ends of PuOr, so that a sign reads as in every other view.
    bars = ax.barh(range(len(top)), top, color=["#b35806" if s >= 0 else "#542788" for s in top])
    ax.bar_label(bars, [f"{s:+.3f}" for s in top], fontsize=8, padding=2)
    ax.axvline(0, color="0.4", linewidth=0.8)
    ax.set_yticks(range(len(top)), [drawable(token, 36) for token in data["token"][:show]], fontsize=8)
    low, high = min(top.min(initial=0), 0), max(top.max(initial=0), 1e-9)
    room = 0.15 * (high - low)  # for the numbers beside the bars
    ax.set_xlim(low - room if low < 0 else 0, high + room)
    ax.set_xlabel("contribution to the score (nats)", fontsize=8)
    ax.invert_yaxis()
    alt = f"The {len(top)} tokens of {len(labels)} that contribute most, for and against, in nats."
    return finish(figure, title, data, alt)


def faithfulness_curves(
    curves: Mapping[str, np.ndarray], title: str, *, label: str = "probability kept", baseline: str | None = None
) -> Picture:
    """What is left as tokens go, the first named first: explainer -> (users, steps); means with 95 % bands.

    For deletion lower is better, for insertion higher. baseline: draw paired differences to this explainer.
    """
    curves = {name: np.atleast_2d(np.asarray(curve, dtype=float)) for name, curve in curves.items()}
    lengths = {curve.shape[1] for curve in curves.values()}
    if len(lengths) != 1:
        raise InputError(f"curves of {sorted(lengths)} steps cannot share a figure: take one number of steps.")
    if baseline is not None:
        label = f"{label}, minus {named(baseline)}'s"
        curves = {name: curve - curves[baseline] for name, curve in curves.items() if name != baseline}
    steps = np.linspace(0, 1, lengths.pop())
    _, ax = canvas(7.2, 3.6)
    bands = {name: np.array([mean_interval(column)[:3] for column in curve.T]).T for name, curve in curves.items()}
    levels = {} if baseline is None else {baseline: 0.0}
    lines(
        ax,
        {name: (steps, *band) for name, band in bands.items()},
        "share of the tokens, the first named first",
        label,
        levels,
    )
    ax.set_ylim(bottom=min(0, ax.get_ylim()[0]))
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    data = pd.DataFrame({name: band[0] for name, band in bands.items()}, pd.Index(steps, name="share"))
    return finish(ax, title, data, f"{label} for each of {', '.join(curves)}, with 95 % bands over users.")
