"""The notebooks as files: which there are, the rules that each keeps, what is committed, and what students get.

Tags that the tools read: `parameters`, `exercise` (a stub and its check), `solution`, and `checks` (the cell that
asserts what the text claims).
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import nbformat
import papermill
from nbformat import NotebookNode

from m6rec.errors import InputError

MAX_BYTES = 400_000  # GitHub shows no more with ease
CODE_LINES = range(80, 151)  # without blank lines, comments, exercises and solutions
PARAMETERS = range(4, 9)
FORBIDDEN = re.compile(r"sys\.path|os\.chdir|^\s*[!%](pip|cd)\b|^\s*!.*\bpip\b", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:|#|data:|mailto:|attachment:)([^)#\s]+)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def find(folder: Path, names: Sequence[str] = ()) -> list[Path]:
    """The notebooks of a folder in their order, or those named ("03_context_attention", path and suffix or not)."""
    known = {path.stem: path for path in sorted(Path(folder).glob("[0-9]*.ipynb"))}
    if not known:
        raise InputError(f"{folder} holds no notebook (00_….ipynb): work in a clone of m6rec, which has them.")
    chosen = []
    for name in names:
        stem = Path(name).name.removesuffix(".ipynb")
        if stem not in known:
            near = difflib.get_close_matches(stem, known, n=1, cutoff=0.4)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise InputError(f"there is no notebook {name!r}{hint}; {folder} holds {', '.join(known)}.")
        chosen.append(known[stem])
    return chosen or list(known.values())


def read(path: Path) -> NotebookNode:
    """A notebook as nbformat 4; InputError if it is none."""
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise InputError(f"{path} cannot be read as a notebook ({error}).") from None


def tagged(notebook: NotebookNode, tag: str) -> list[NotebookNode]:
    """The cells that carry a tag, in order."""
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", ())]


def title(notebook: NotebookNode, default: str = "") -> str:
    """The first H1 as plain Markdown text."""
    found = re.search(r"^# (.+)", "\n".join(_prose(notebook)), re.MULTILINE)
    return found[1].strip() if found else default


def outputs(notebook: NotebookNode) -> Iterator[NotebookNode]:
    """Every output of every code cell."""
    for cell in notebook.cells:
        yield from cell.get("outputs", ())


def clean(notebook: NotebookNode) -> NotebookNode:
    """A copy as it is committed: outputs and execution counts stay, traces of the run and of the machine go."""
    notebook = nbformat.from_dict(notebook)
    language = {key: value for key, value in notebook.metadata.get("language_info", {}).items() if key != "version"}
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": language or {"name": "python"},
        }
    )
    for cell in notebook.cells:
        for trace in ("papermill", "execution", "ExecuteTime"):
            cell.metadata.pop(trace, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]  # papermill adds an empty list to each
    for output in outputs(notebook):
        if "image/png" in output.get("data", {}):
            output["data"].pop(WIDGET_VIEW, None)  # the picture is its static twin
    return notebook


def student_copy(notebook: NotebookNode) -> NotebookNode:
    """A copy without the cells tagged `solution` and without outputs."""
    notebook = clean(notebook)
    notebook.cells = [cell for cell in notebook.cells if "solution" not in cell.metadata.get("tags", ())]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def write_class(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Write student copies of the notebooks into a folder; the same names, so that their links hold.

    A copy that somebody has edited is never overwritten: `InputError` names it, after the others are written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    copies, kept = [folder / path.name for path in paths], []
    for path, copy in zip(paths, copies, strict=True):
        if copy.exists() and (there := read(copy)).metadata.get("m6rec_copy") != _digest(there):
            kept.append(copy.name)
            continue
        fresh = student_copy(read(path))
        fresh.metadata["m6rec_copy"] = _digest(fresh)
        nbformat.write(fresh, copy)
    if kept:
        raise InputError(f"{', '.join(kept)} in {folder} was edited and is left as it is: move it away for a new copy.")
    return copies


def _digest(notebook: NotebookNode) -> str:
    """Of what a person writes in a notebook: the cells' sources, but not what running them leaves."""
    return hashlib.sha256(json.dumps([(c.cell_type, c.source) for c in notebook.cells]).encode()).hexdigest()[:16]


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
    """Lines of code that a reader meets: no blank lines, no comments, no exercises or solutions."""
    skipped = tagged(notebook, "solution") + tagged(notebook, "exercise")
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
