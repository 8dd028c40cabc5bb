"""The README is short, its links lead somewhere, and its figures are the recorded ones."""

from __future__ import annotations

import json
import re
from pathlib import Path

CLONE = Path(__file__).resolve().parents[1]
README = (CLONE / "README.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\d\d) .*`([\w.]+)` \| ([\d.]+)[^|]*\| (.+) \|$", README, re.M)


def figures() -> dict[str, float]:
    found = {}
    for path in sorted((CLONE / "notebooks" / "results").glob("0*.json")):
        found |= {name: f["value"] for name, f in json.loads(path.read_text()).items() if name != "run"}
    return found


def same(written: str, value: float) -> bool:
    digits = len(written.partition(".")[2])
    return abs(float(written) - value) <= 0.5001 * 10**-digits


def test_the_readme_is_short():
    assert README.count("\n") <= 200 and len(README.encode()) <= 12_000


def test_every_headline_is_the_recorded_figure_and_has_its_limits():
    recorded = figures()
    measured = (CLONE / "notebooks" / "results").glob("0*.json")
    assert [row[0] for row in ROWS] == sorted(path.name[:2] for path in measured)
    for _, name, value, limits in ROWS:
        assert same(value, recorded[name]), name
        for number in re.findall(r"\d*\.\d{3,}", limits):
            assert any(same(number, other) for other in recorded.values()), (name, number)


def test_every_link_and_path_of_the_readme_exists():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    listed = re.findall(r"^(m6rec/\S+|notebooks/|tests/)", README, re.M)
    assert len(links) > 12 and len(listed) > 10
    for path in [*links, *listed]:
        assert (CLONE / path).exists(), path


def test_the_readme_names_every_notebook():
    names = sorted(path.name for path in (CLONE / "notebooks").glob("*.ipynb"))
    assert re.findall(r"^\| \[\d\d_\w+\]\(notebooks/(\S+)\)", README, re.M) == names
