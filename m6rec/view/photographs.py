"""Photographs beside what was made of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from m6rec.view.picture import Picture, canvas


def photograph_rows(rows: Mapping[str, np.ndarray], title: str) -> Picture:
    """One row for each version of the same photographs, the originals first: name -> (K, 28, 28) in 0..1.

    `data` has the mean squared error of every version of every photograph against the first row.
    """
    count = len(next(iter(rows.values())))
    figure, axes = canvas(1.1 + 0.85 * count, 0.4 + 0.85 * len(rows), columns=count, rows=len(rows), squeeze=False)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for ax, image in zip(line, images, strict=True):
            ax.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")  # a fourth of the bytes
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[:].set_visible(False)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    first = np.asarray(next(iter(rows.values())))
    errors = {name: ((np.asarray(images) - first) ** 2).mean((1, 2)) for name, images in rows.items()}
    return Picture(figure, pd.DataFrame(errors).T, f"{title}. Rows: {', '.join(rows)}; {count} photographs.")
