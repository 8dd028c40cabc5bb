"""The rules that each notebook keeps, for the tests.

Tags that the tools read: `parameters`, `exercise` (a stub and its check), `solution`, `instructor` (teaching notes;
students' copies have neither), `checks` (the cell that asserts what the text claims), `readme` (its picture),
`arithmetic` (figures that follow the processor's arithmetic, so they are compared on one like it) and
`nbval-ignore-output` (times, never compared).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import papermill
from nbformat import NotebookNode
from refresh import clean

from m6rec.runs.execute import read

MAX_BYTES = 400_000  # GitHub shows no more with ease
CODE_LINES = range(80, 151)  # without blank lines, comments, exercises and solutions
PARAMETERS = range(4, 9)
FORBIDDEN = re.compile(r"sys\.path|os\.chdir|^\s*[!%](pip|cd)\b|^\s*!.*\bpip\b", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:|#|data:|mailto:|attachment:)([^)#\s]+)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def tagged(notebook: NotebookNode, tag: str) -> list[NotebookNode]:
    """The cells that carry a tag, in order."""
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", ())]


def outputs(notebook: NotebookNode) -> Iterator[NotebookNode]:
    """Every output of every code cell."""
    for cell in notebook.cells:
        yield from cell.get("outputs", ())


def problems(path: Path) -> list[str]:
    """What keeps a notebook from being committed; one sentence each, none if it follows every rule."""
    notebook = read(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    found = [*_anatomy(notebook, path), *_parameters(notebook, path), *_exercises(notebook)]
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append(f"execution counts are not 1 to {len(code)}: run it from the top and keep outputs and counts")
    for number, cell in enumerate(code, 1):
        if hit := FORBIDDEN.search(cell.source):
            found.append(f"code cell {number} has {hit[0].strip()!r}: m6rec is installed, nothing else is needed")
        if any(output.output_type == "error" for output in cell.outputs):
            found.append(f"code cell {number} stores an error")
        for output in cell.outputs:
            if output.get("name") == "stderr":
                found.append(f"code cell {number} stores stderr: {output.text.strip()[:80]!r}")
    if (size := path.stat().st_size) > MAX_BYTES:
        found.append(f"{size // 1000} kB, above {MAX_BYTES // 1000}")
    if clean(notebook) != notebook:
        found.append("metadata of a run is stored: make notebooks, or clean it")
    return found


def code_lines(notebook: NotebookNode) -> int:
    """Lines of code that a reader meets: no blank lines, no comments, no exercises, solutions or rendered sentences."""
    skipped = tagged(notebook, "solution") + tagged(notebook, "exercise")
    skipped += [cell for cell in notebook.cells if cell.source.startswith("Markdown(")]
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code" and cell not in skipped]
    lines = [line.strip() for source in cells for line in source.splitlines()]
    return sum(1 for line in lines if line and not line.startswith("#"))


def _prose(notebook: NotebookNode) -> list[str]:
    return [FENCE.sub("", cell.source) for cell in notebook.cells if cell.cell_type == "markdown"]


def _anatomy(notebook: NotebookNode, path: Path) -> Iterator[str]:
    prose = _prose(notebook)
    if len(re.findall(r"^# ", "\n".join(prose), re.MULTILINE)) != 1 or not prose[0].startswith("# "):
        yield "it does not open with its one H1"
    opening = "\n".join(prose[:2])
    for words in ("You will", "You need", "Time"):
        if words not in opening:
            yield f"the opening does not say {words!r}"
    if not LINK.search(prose[0] if prose else ""):
        yield "the first cell has no line of links to the notebooks beside it"
    for target in LINK.findall("\n".join(prose)):
        if not (path.parent / target).exists():
            yield f"the link to {target} leads nowhere"
    if len(tagged(notebook, "checks")) != 1:
        yield "not one cell is tagged checks, the cell that asserts what the text claims"
    if (lines := code_lines(notebook)) not in CODE_LINES:
        yield f"{lines} lines of code, not {CODE_LINES.start} to {CODE_LINES.stop - 1}"


def _parameters(notebook: NotebookNode, path: Path) -> Iterator[str]:
    cells = tagged(notebook, "parameters")
    if len(cells) != 1:
        yield f"{len(cells)} cells are tagged parameters, not one"
        return
    seen = papermill.inspect_notebook(str(path))
    for statement in ast.parse(cells[0].source).body:
        target = getattr(statement, "target", None) or getattr(statement, "targets", [None])[0]
        if not isinstance(target, ast.Name) or not isinstance(statement, ast.Assign | ast.AnnAssign):
            yield f"the parameters cell holds {ast.unparse(statement)!r}, not only names with literals"
        elif target.id not in seen:
            yield f"papermill does not see the parameter {target.id}: annotate it with a plain type or not at all"
        else:
            try:
                ast.literal_eval(statement.value)
            except ValueError:
                yield f"the parameter {target.id} is not a literal, so a value given for another would not reach it"
            if not seen[target.id]["help"]:
                yield f"the parameter {target.id} has no comment"
    if len(seen) not in PARAMETERS:
        yield f"{len(seen)} parameters, not {PARAMETERS.start} to {PARAMETERS.stop - 1}"
    for name, default in (("seed", 0), ("scale", "quick")):
        if name not in seen or ast.literal_eval(seen[name]["default"]) != default:
            yield f"the parameter {name} = {default!r} is missing"


def _exercises(notebook: NotebookNode) -> Iterator[str]:
    exercises, solutions = tagged(notebook, "exercise"), tagged(notebook, "solution")
    if len(exercises) != 3 or not all("check(" in cell.source for cell in exercises):
        yield "there are not three cells tagged exercise, each with its check()"
    for cell in exercises:
        if "not attempted" not in "".join(output.get("text", "") for output in cell.get("outputs", ())):
            yield "the stub of an exercise does not print 'not attempted'"
    if len(solutions) < 3:
        yield f"{len(solutions)} cells are tagged solution, not three"
    if not any("(changes the " in cell.source for cell in notebook.cells if cell.cell_type == "markdown"):
        yield "no exercise changes the model: name it so, '(changes the model)'"
    if len(tagged(notebook, "instructor")) != 1:
        yield "not one cell is tagged instructor: what to say, where classes stumble, minutes"
