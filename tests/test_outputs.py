"""Every notebook prints at its defaults today what is committed."""

from __future__ import annotations

from pathlib import Path

import pytest

FOUND = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
PATHS = [*FOUND[::-2], *FOUND[len(FOUND) % 2 :: 2]]  # the long ones first, and neighbours, of one model, not at a time


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_it_prints_at_its_defaults_what_is_committed(path, fresh_home, compare):
    same, why = compare(path, M6REC_HOME=str(fresh_home))
    assert same, why
