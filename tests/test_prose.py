"""What readers read: short sentences in the field's words, a finding for each section, labels without code names."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest
from nbformat import NotebookNode

from m6rec.runs.execute import read

CLONE = Path(__file__).resolve().parents[1]
PATHS = sorted((CLONE / "notebooks").glob("*.ipynb"))
PAGES = [CLONE / "README.md", CLONE / "notebooks" / "DESIGN.md"]
LONGEST, MEDIAN = 40, 16  # words of a sentence
# Each has a standard term beside it, which readers can look up.
WORDS = {
    "company": "co-occurrence", "goods": "items", "lift(s|ed|ing)?": "bonus", "climb(s|ed|ing)?": "coordinate ascent",
    "meets?": "dot product", "spel(led|t) out": "token log-likelihood", "muted?": "masked", "newcomers?": "cold users",
    "drawn anew": "re-initialised", "sure enough": "confidence threshold", "painters?": "patch decoder",
    "spellers?": "tokenizer", "told": "predicted", "lessons?": "training examples", "exams?": "evaluation set",
    "rivals?": "baselines", "leaves? early": "early exit", "loud(er)?": "initial scale", "untaught": "untrained",
    "by heart": "overfitting", "alike": "equally", "hold up": "support", "planted": "ground-truth", "habit": "majority",
    "who judge": "test users", "what is left of": "retained",
}  # fmt: skip
FENCE = re.compile(r"^```.*?^```|\$\$.*?\$\$", re.MULTILINE | re.DOTALL)
END = re.compile(r"(?<=[.!?])[)*”\"]*\s+(?=[^\sa-z])| · ")
ABBREVIATIONS = re.compile(r"\b(et al|e\.g|i\.e|no|vs)\.")


def plain(markdown: str) -> str:
    """Without what is not read as words: code, formulas, addresses, intervals."""
    text = re.sub(r"`[^`]*`|\$[^$]+\$", "code", re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", markdown))
    return re.sub(r" ?\[[-\d.]+, [-\d.]+\]", "", ABBREVIATIONS.sub(r"\1", text))


def sentences(markdown: str) -> Iterator[str]:
    """Every sentence of the paragraphs and lists; headings, tables and lines of links are none."""
    for block in re.split(r"\n\s*\n|\n(?=[-*] |\d+\. )|^(?=[-*] )", FENCE.sub("\n\n", markdown)):
        lines = [line for line in block.splitlines() if not re.match(r"#|\||!\[|.*\.ipynb\) · ", line)]
        yield from (part for part in END.split(plain(" ".join(lines)).strip()) if re.search(r"\w", part))


def words(sentence: str) -> list[str]:
    return [word for word in sentence.split() if re.search(r"\w", word)]


def rendered(notebook: NotebookNode) -> list[str]:
    """What cells render as text: findings and summaries."""
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", ()))
    return [output["data"]["text/markdown"] for output in outputs if "text/markdown" in output.get("data", {})]


def labels(notebook: NotebookNode) -> list[str]:
    """What the pictures say of themselves, and the names of rows and columns beside numbers."""
    found = []
    for output in (output for cell in notebook.cells for output in cell.get("outputs", ())):
        data = output.get("data", {})
        if "image/png" in data:
            found.append(data["text/plain"])
        found += re.findall(r"<th>([^<]*)</th>", data.get("text/html", ""))
        found += plain(data.get("text/markdown", "")).split()
    return found


def prose(path: Path) -> str:
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    notebook = read(path)
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    return "\n\n".join(cells + rendered(notebook))


def unfinished(notebook: NotebookNode) -> list[str]:
    """The numbered sections that render no finding."""
    sections, found = [], set()
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            sections += re.findall(r"^## .*", cell.source, re.MULTILINE)
        elif any(text.startswith("**Finding") for text in rendered(NotebookNode(cells=[cell]))):
            found.add(sections[-1])
    return [name for name in sections if re.match(r"## \d", name) and name not in found]


every_page = pytest.mark.parametrize("path", [*PATHS, *PAGES], ids=lambda path: path.stem)
every_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


@every_page
def test_it_uses_the_words_of_the_field(path):
    text = plain(FENCE.sub("", prose(path)))
    found = {word: re.findall(rf"[^.\n]*\b(?:{word})\b[^.\n]*", text, re.IGNORECASE) for word in WORDS}
    assert not {f"{hits[0].strip()!r}: {WORDS[word]}" for word, hits in found.items() for hits in [hits] if hits}


@every_page
def test_its_sentences_are_short(path):
    said = [(len(words(one)), one) for one in sentences(prose(path))]
    assert [one for one in said if one[0] > LONGEST] == []
    assert median(length for length, _ in said) <= MEDIAN


@every_notebook
def test_every_numbered_section_ends_in_a_finding(path):
    assert unfinished(read(path)) == []


@every_notebook
def test_no_label_is_the_name_of_a_variable(path):
    code = {"item_id", "user_id"}  # columns of the reader's own tables
    assert (
        sorted({label for label in map(html.unescape, labels(read(path))) if "_" in label and label not in code}) == []
    )


def test_sentences_are_split_where_a_reader_would():
    text = "## No · title\nIt has 0.12 [0.1, 0.2] `a.b C`. *One* (Su et al. 2021) is it? Yes."
    text += "\n- A list.\n- 2 items · more.\n\n| no | table |"
    assert [len(words(one)) for one in sentences(text)] == [4, 7, 1, 2, 2, 1]
