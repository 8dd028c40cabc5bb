"""READMEs are short, their links lead somewhere, their figures are the recorded ones; the Chinese one says the same."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

CLONE = Path(__file__).resolve().parents[1]
NOTEBOOKS = CLONE / "notebooks"
README = (CLONE / "README.md").read_text(encoding="utf-8")
CHINESE = (CLONE / "README.zh-CN.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```\w*\n(.*?)^```", re.M | re.S)
SOURCE = (NOTEBOOKS / "SOURCE.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (\d\d) .*`([\w.]+)` \| ([\d.]+)[^|]*\| (.+) \|$", re.M)
ROWS = ROW.findall(README)


def figures() -> dict[str, float]:
    found = {}
    for path in sorted((NOTEBOOKS / "results").glob("0*.json")):
        found |= {name: f["value"] for name, f in json.loads(path.read_text()).items() if name != "run"}
    return found


def same(written: str, value: float) -> bool:
    digits = len(written.partition(".")[2])
    return abs(float(written) - value) <= 0.5001 * 10**-digits


def test_the_readme_is_short():
    assert README.count("\n") <= 200 and len(README.encode()) <= 12_000


def test_every_headline_is_the_recorded_figure_and_has_its_limits():
    recorded = figures()
    measured = (NOTEBOOKS / "results").glob("0[1-9]*.json")  # those of 00 are times of the views
    assert [row[0] for row in ROWS] == sorted(path.name[:2] for path in measured)
    for _, name, value, limits in ROWS:
        assert same(value, recorded[name]), name
        for number in re.findall(r"\d*\.\d{3,}", limits):
            assert any(same(number, other) for other in recorded.values()), (name, number)


@pytest.mark.parametrize(
    ("text", "folder"), [(README, CLONE), (CHINESE, CLONE), (SOURCE, NOTEBOOKS)], ids=["en", "zh", "source"]
)
def test_every_link_and_path_exists(text, folder):
    links = [link for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text) if "://" not in link]
    listed = re.findall(r"^(m6rec/\S+|notebooks/|tests/)", text, re.M)
    assert len(links) > 12 and (len(listed) > 10 or text is SOURCE)
    for path in [*links, *listed]:
        assert (folder / path).exists(), path


def test_the_chinese_readme_has_the_same_commands_figures_notebooks_and_headings():
    def code(text):
        return [
            re.split(r"\s+# |  +(?=\S*[一-鿿])", line)[0].split()
            for block in FENCE.findall(text)
            for line in block.splitlines()
        ]

    def numbers(text):
        return [(*row[:3], re.findall(r"\d*\.\d+", row[3])) for row in ROW.findall(text)]

    files = README.index("## Files"), CHINESE.index("## 代码结构")  # a list with explanations
    assert code(README[: files[0]]) == code(CHINESE[: files[1]])
    assert numbers(README) == numbers(CHINESE)
    assert re.findall(r"^\| \[\d\d_.*?\|", README, re.M) == re.findall(r"^\| \[\d\d_.*?\|", CHINESE, re.M)
    assert README.count("\n## ") == CHINESE.count("\n## ")
    assert re.findall(r"^m6rec/\S+", README, re.M) == re.findall(r"^m6rec/\S+", CHINESE, re.M)


def test_the_table_of_the_source_document_leads_to_cells():
    rows = re.findall(r"^\| (.*?) \| .* \| \[\d\d\]\((.*?)\) (.*?) \| `(.*?)` \|$", SOURCE, re.M)
    assert len(rows) > 25
    for section, name, places, cell in rows:
        cells, inside = json.loads((NOTEBOOKS / name).read_text(encoding="utf-8"))["cells"], {}
        heading = ""
        for one in cells:
            text = "".join(one["source"])
            if one["cell_type"] == "markdown":
                heading = [heading, *re.findall(r"^## (.*)", text, re.M)][-1]
            else:
                inside[heading] = inside.get(heading, "") + text
        named = [place.strip(" ,") for place in places.split("§") if place.strip(" ,")]
        found = [
            [code for title, code in inside.items() if title == place or title.startswith(f"{place} ·")]
            for place in named
        ]
        assert all(found), (section, places)
        assert any(cell in code for codes in found for code in codes), (section, name, cell)


def test_the_readme_names_every_notebook():
    names = sorted(path.name for path in (CLONE / "notebooks").glob("*.ipynb"))
    assert re.findall(r"^\| \[\d\d_\w+\]\(notebooks/(\S+)\)", README, re.M) == names
