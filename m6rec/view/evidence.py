"""Why, as far as it can be measured: what each token did to a score, what each modality is, and whether it is true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from m6rec.errors import InputError
from m6rec.evaluate.statistics import mean_interval
from m6rec.view.picture import LINES, Picture, canvas, drawable

QUIET = ("random", "recency")  # what every explainer is held against


def contributions(scores: np.ndarray, labels: Sequence[str], title: str, *, show: int = 12) -> Picture:
    """What the tokens did (n,), largest first: orange for the item, purple against it. `data` has them all."""
    scores = np.asarray(scores, dtype=float)
    if scores.shape != (len(labels),) or not np.isfinite(scores).all():
        raise InputError(f"{len(labels)} tokens need as many finite numbers: these have the shape {scores.shape}.")
    order = np.argsort(-np.abs(scores), kind="stable")
    top = order[:show]
    figure, ax = canvas(7.6, 0.9 + 0.28 * len(top), layout="none")
    room = figure.get_figheight()
    figure.subplots_adjust(left=0.36, right=0.94, bottom=0.45 / room, top=1 - 0.35 / room)
    end = max(float(np.abs(scores[top]).max(initial=0)), 1e-9)
    # The two ends of PuOr, so that a value and its sign read as in every other view.
    bars = ax.barh(range(len(top)), scores[top], color=["#b35806" if s >= 0 else "#542788" for s in scores[top]])
    ax.bar_label(bars, [f"{s:+.3f}" for s in scores[top]], fontsize=8, padding=2)
    ax.axvline(0, color="0.4", linewidth=0.8)
    ax.set_yticks(range(len(top)), [drawable(labels[place], 36) for place in top], fontsize=8)
    ax.set_xlim(-1.25 * end, 1.25 * end)
    ax.invert_yaxis()
    ax.set_title(drawable(title, 110), loc="right", fontsize=10)
    data = pd.DataFrame({"token": [labels[place] for place in order], "did": scores[order]})
    return Picture(figure, data, f"{title}. The {len(top)} tokens that did most of {len(labels)}, for and against.")


def modality_shares(shares: pd.DataFrame, title: str) -> Picture:
    """How much of each item (rows) each modality (columns) is, as bars of length 1."""
    values = shares.to_numpy(dtype=float)
    if not len(values) or values.min() < 0 or np.abs(values.sum(1) - 1).max() > 1e-3:
        raise InputError("shares of modalities are 0 or more and each item's sum to 1: these are not so.")
    figure, ax = canvas(7.6, 1 + 0.26 * len(shares), layout="none")
    room = figure.get_figheight()
    figure.subplots_adjust(left=0.36, right=0.97, bottom=0.3 / room, top=1 - 0.6 / room)
    left = np.zeros(len(values))
    for m, name in enumerate(shares.columns):
        bars = ax.barh(range(len(values)), values[:, m], left=left, color=LINES[m], label=name, edgecolor="white")
        bars_text = [f"{v:.2f}" if v > 0.08 else "" for v in values[:, m]]
        ax.bar_label(bars, bars_text, label_type="center", fontsize=7, color="white")
        left += values[:, m]
    ax.set_yticks(range(len(values)), [drawable(name, 36) for name in shares.index], fontsize=8)
    ax.invert_yaxis()
    ax.set_xlim(0, 1)
    ax.legend(frameon=False, fontsize=8, ncols=len(shares.columns), loc="lower right", bbox_to_anchor=(1, 1))
    figure.suptitle(drawable(title, 110), x=0.01, ha="left", fontsize=10)
    return Picture(figure, shares, f"{title}. {len(shares)} items, each divided among {', '.join(shares.columns)}.")


def faithfulness_curves(
    curves: Mapping[str, np.ndarray], title: str, *, label: str = "probability kept", steps: Sequence[float] = ()
) -> Picture:
    """What is left as tokens go, the likeliest cause first: explainer -> (users, steps); means with 95 % bands.

    For deletion, lower is better; for insertion, higher. The last step has lost, or has, all that was named.
    """
    curves = {name: np.atleast_2d(np.asarray(curve, dtype=float)) for name, curve in curves.items()}
    lengths = {curve.shape[1] for curve in curves.values()}
    if len(lengths) != 1:
        raise InputError(f"curves of {sorted(lengths)} steps cannot share a figure: take one number of steps.")
    count = lengths.pop()
    steps = np.linspace(0, 1, count) if len(steps) == 0 else np.asarray(steps, dtype=float)
    figure, ax = canvas(7.2, 3.6)
    data, loud = {}, [name for name in curves if name not in QUIET]
    for name, curve in curves.items():
        intervals = [mean_interval(curve[:, step]) for step in range(count)]
        data[name] = [interval.value for interval in intervals]
        quiet = name in QUIET
        colour = "0.6" if quiet else LINES[loud.index(name) % len(LINES)]
        marker = None if quiet else "osd^vPX*"[loud.index(name) % 8]
        dashes = ("--" if name == "random" else ":") if quiet else "-"
        ax.plot(
            steps, data[name], color=colour, linestyle=dashes, marker=marker, markersize=4, label=drawable(name, 30)
        )
        low, high = zip(*((interval.low, interval.high) for interval in intervals), strict=True)
        ax.fill_between(steps, low, high, color=colour, alpha=0.12, linewidth=0)
    ax.set_xlabel("share of the tokens, the likeliest cause first")
    ax.set_ylabel(label)
    ax.set_ylim(bottom=min(0, ax.get_ylim()[0]))
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    ax.set_title(drawable(title), loc="left", fontsize=10)
    table = pd.DataFrame(data, index=pd.Index(steps, name="share"))
    return Picture(figure, table, f"{title}. A line for each of {', '.join(curves)}, with 95 % bands over users.")
