"""Sequences of numbers, as S3-Rec and many papers after it keep them: one user a line, no timestamps."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from m6rec.data.readers.files import Frames, Skipped
from m6rec.errors import InputError


def sequences(path: Path, attributes: Path | None = None, noun: str = "item") -> Frames:
    """A text file with a user number and item numbers, in time order, on each line, parted by spaces.

    attributes: a JSON object of item number -> list of attribute numbers, which become the items' texts. noun: what an
    item is called in its title.
    """
    skipped, pairs = Skipped(path.name), []
    try:
        with path.open(errors="replace") as file:
            for row, line in enumerate(file, 1):
                fields = line.split()
                if len(fields) > 1 and all(field.isascii() and field.isdigit() for field in fields):
                    pairs.extend((int(fields[0]), int(item)) for item in fields[1:])
                else:
                    skipped.add(path.name, row, "is no user number with item numbers behind it")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): name a text file of sequences.") from None
    if not pairs:
        raise InputError(f"{path.name} needs lines of a user number and item numbers, parted by spaces, and has none.")
    skipped.warn()
    interactions = pd.DataFrame(pairs, columns=["user_id", "item_id"]).assign(action="review")
    known = _attributes(attributes) if attributes else {}
    ids = sorted(interactions["item_id"].unique())
    items = pd.DataFrame({"item_id": ids, "title": [f"{noun} {item}" for item in ids]})
    if attributes:
        items["text"] = [" ".join(f"attribute{number}" for number in known.get(str(item), [])) for item in ids]
    return Frames(items, None, interactions)


def _attributes(path: Path) -> dict[str, list[int]]:
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): name a JSON file of attributes.") from None
    except ValueError as error:
        raise InputError(f"{path} is no JSON ({error}); mend it, or delete it and load again.") from None
    if not isinstance(found, dict) or not all(isinstance(numbers, list) for numbers in found.values()):
        raise InputError(
            f"{path} needs one object of item number -> list of attribute numbers; delete it and load again."
        )
    return found
