"""What is committed of running: `make notebooks`, `make results` and `make page`.

    python notebooks/refresh.py [NB...]          execute in place at the defaults, and clean
    python notebooks/refresh.py --full [NB...]   measure at full size into results/<notebook>.json
    python notebooks/refresh.py --full NB --only START --ran FILE      figures that `make browser` has recorded
    python notebooks/refresh.py --page           only write results/README.md and its picture, as all of them do

`measure` writes once a notebook has ended well: a failed run loses no old result. What it trains is kept, so a run that
was interrupted goes on where it was.
"""

import argparse
import base64
import hashlib
import json
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import joblib
import nbformat
import torch

from m6rec.config import InputError
from m6rec.record import code_hash, environment, short, write_json
from m6rec.runs.execute import Execution, apart, execute, find, read, side_by_side

HERE = Path(__file__).resolve().parent
ORIGIN = ("commit", "dirty", "code_hash", "command", "date", "scale")  # of a committed figure
OUTSIDE = re.compile(
    r"recbole|rectools|tiger|^time_to|^live|view\.[hrk]"
)  # other programs' rows keep their own commit and date
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
PYTHON = {"display_name": "Python 3", "language": "python", "name": "python3"}
HEAD = """# Every measured figure
Value and 95 % interval (a bootstrap over users of the mean over seeds), the events measured on, the n users (or
examples) and the seeds behind it, and the scale, commit and day of the measurement. `make results NB=…` measures one
notebook's figures again.
"""
TABLE = """
## [{0}](../{0}.ipynb)
| figure | what | value | 95 % interval | split | n | seeds | scale | commit | date |
|---|---|---|---|---|---|---|---|---|---|"""


def refresh(paths: Sequence[Path]) -> list[Execution]:
    """Execute notebooks in place at their defaults, and clean them for committing; one that fails stays as it was."""
    done, places = [], {path.name: path for path in paths}
    with tempfile.TemporaryDirectory() as folder:  # a thread each, as in the comparison: more threads sum otherwise
        calls = [(path, Path(folder) / path.name, {}, None, 1) for path in apart(paths)]
        for execution in side_by_side(calls, min(len(paths), joblib.cpu_count())):
            if execution.ok:
                notebook = clean(read(execution.path))
                notebook.metadata["arithmetic"] = arithmetic()
                nbformat.write(notebook, places[execution.path.name])
            done.append(execution)
            print(execution, flush=True)
    return done


def arithmetic() -> str:
    """What this processor and this torch make of a short training with one thread, in bits.

    Where it is the same, a training prints the same figures; elsewhere they differ, as from another seed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 64), torch.nn.LayerNorm(64)]
        network, x = torch.nn.Sequential(*layers), torch.randn(8, 50, 64)
        for _ in range(5):
            attended = torch.nn.functional.scaled_dot_product_attention(*3 * [network(x)])
            loss = torch.nn.functional.cross_entropy(attended.flatten(0, 1), torch.arange(400) % 64)
            for weight, slope in zip(
                network.parameters(), torch.autograd.grad(loss, [*network.parameters()]), strict=True
            ):
                weight.data -= slope
    torch.set_num_threads(threads)
    weights = b"".join(weight.detach().numpy().tobytes() for weight in network.parameters())
    return hashlib.sha256(weights).hexdigest()[:16]


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A copy as it is committed: with outputs and counts, without traces of run and machine, solutions folded."""
    notebook = nbformat.from_dict(notebook)
    language = {key: value for key, value in notebook.metadata.get("language_info", {}).items() if key != "version"}
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": PYTHON, "language_info": language or {"name": "python"}}
        | {name: notebook.metadata[name] for name in ("arithmetic",) if name in notebook.metadata}
    )
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        folded = {"jupyter": {"source_hidden": True}} if "solution" in tags else {}  # JupyterLab shows a bar to click
        cell.metadata = nbformat.from_dict({"tags": tags, **folded} if tags else {})
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                output["data"].pop(WIDGET_VIEW, None)  # the picture is its static twin
                output.get("metadata", {}).get("image/png", {}).pop("view", None)
    return notebook


def measure(notebook: Path, *, only: str = "", ran: Path | None = None) -> Execution:
    """Execute a notebook at scale=full and, if it ended well, write its figures to results/<notebook>.json beside it.

    only: measure the figures whose names begin so, or with one of several ("a.,b."), which the notebook must offer as
    its parameter `only`. They replace all that began so, but for other programs' rows; the others stay, each with the
    code that it came from, until a whole run. The executed copy and its log stay under runs/results/. ran: takes the
    figures that `make browser` has recorded in this file. InputError if another notebook owns a name or nothing is
    measured.
    """
    stem, folder = notebook.stem, notebook.parent / "results"
    place = notebook.parent.parent / "runs" / "results" / "-".join(filter(None, (stem, only)))
    asked = {"scale": "full"} | ({"only": only} if only else {})
    command = "make browser" if ran else f"make results NB={stem}" + f" ONLY={only}" * bool(only)
    # Before the run: this is the code that it starts from.
    origin = {**environment(), "code_hash": code_hash(notebook), "command": command, **asked}
    others = read_all(folder, but="" if only else stem)
    with suppress(InputError):  # a whole run replaces a damaged file
        others = read_all(folder)
    old = others.pop(stem, {})
    done = Execution(ran, 0.0) if ran else execute(notebook, place / notebook.name, asked)
    if not done.ok:
        return done._replace(error=f"{done.error} (see {done.log}); the old results stay")
    figures = {name: figure.plain() for name, figure in done.figures.items() if name.startswith(tuple(only.split(",")))}
    if only and not figures:
        raise InputError(f"{only} is not measured so, and nothing is written: {stem} says what only may be.")
    for owner, result in others.items():
        if both := sorted(figures.keys() & result.keys()):
            raise InputError(f"{stem} records {both[0]}, which {owner} has: rename the figure in one of them.")
    for figure in figures.values():
        figure |= {key: float(short(figure[key])) for key in ("value", "low", "high") if figure[key] is not None}
    origin |= {"seconds": round(done.seconds, 1), "date": time.strftime("%Y-%m-%d")}
    source = {what: old["run"][what] for what in ORIGIN} if old else {}
    kept = {
        name: {"from": source, **figure}
        for name, figure in old.items()
        if name != "run" and (OUTSIDE.search(name) or not name.startswith(tuple(only.split(","))))
    }
    write_json(folder / f"{stem}.json", {**kept, **figures, "run": origin})
    return done


def read_all(folder: Path, but: str = "") -> dict[str, dict[str, Any]]:
    """Every committed result by notebook: {"04_recommendations": {"<name>": {"value", …}, "run": {…}}}, in order.

    InputError for a file that is damaged or older than today's form. but: a notebook whose file is left out.
    """
    found = {}
    for path in sorted(path for path in Path(folder).glob("*.json") if path.stem != but):
        try:
            figures = found[path.stem] = json.loads(path.read_text(encoding="utf-8"))
            origins = [figures["run"], *(figure["from"] for figure in figures.values() if "from" in figure)]
            missing = [what for what in ORIGIN if any(what not in origin for origin in origins)]
            wrong = f"was written by an older m6rec, without {', '.join(missing)}" if missing else ""
        except (ValueError, KeyError, TypeError):
            wrong = "is no results file"
        if wrong:
            raise InputError(f"{path} {wrong}: measure it again with make results NB={path.stem}.")
    return found


def due(folder: Path) -> list[Path]:
    """The notebooks whose committed results are missing, of several runs, or of other code than today's."""
    runs = {stem: result["run"] for stem, result in read_all(folder / "results").items()}
    whole = {stem: run["code_hash"] for stem, run in runs.items() if not run.get("only")}
    return [path for path in find(folder) if whole.get(path.stem) != code_hash(path)]


def page(folder: Path) -> str:
    """Markdown of every figure in results/*.json (folder: notebooks/), a table for each notebook.

    InputError for a comparison, as bench.ml100k, whose figures were measured at several commits."""
    lines = [HEAD]
    for stem, figures in read_all(folder / "results").items():
        lines.append(TABLE.format(stem))
        run, commits = figures.pop("run"), {}
        for name, figure in figures.items():
            if name.startswith("bench.") and not OUTSIDE.search(name):
                commits.setdefault(".".join(name.split(".")[:2]), set()).add(figure.get("from", run)["commit"])
        if mixed := next((table for table, found in commits.items() if len(found) > 1), None):
            found, fix = sorted(str(commit)[:7] for commit in commits[mixed]), f"make results NB={stem} ONLY={mixed}"
            raise InputError(
                f"{stem}.json has figures of {mixed} from {' and '.join(found)}: measure all at one, {fix}."
            )
        for name, figure in figures.items():
            origin = figure.get("from", run)
            interval = "–" if figure["low"] is None else f"{short(figure['low'])} to {short(figure['high'])}"
            cells = [f"`{name}`", figure.get("label", ""), short(figure["value"]), interval, figure.get("split", "–"),
                     figure["n"] or "–", figure["seeds"], origin["scale"], (origin["commit"] or "–")[:7],
                     origin["date"]]  # fmt: skip
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def picture(folder: Path) -> bytes | None:
    """The PNG that the README shows: the output of the first cell that is tagged "readme"."""
    cells = [cell for path in find(folder) for cell in read(path).cells if "readme" in cell.metadata.get("tags", ())]
    images = [output.get("data", {}).get("image/png") for cell in cells for output in cell.outputs]
    return next((base64.b64decode(image) for image in images if image), None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NB")
    parser.add_argument("--full", action="store_true", help="measure into results/; without names, what is due")
    parser.add_argument("--only", default="", help="start of the names that are measured again; other figures stay")
    parser.add_argument("--ran", type=Path, help="a file of figures that are recorded already")
    parser.add_argument("--page", action="store_true", help="only write the page")
    asked, ok = parser.parse_args(), True
    try:
        if asked.only and not asked.names:
            raise InputError(f"--only {asked.only} needs the notebook that measures it, such as 08_evaluation.")
        if asked.full:
            for path in find(HERE, asked.names) if asked.names else due(HERE):
                print(done := measure(path, only=asked.only, ran=asked.ran), flush=True)
                ok &= done.ok
        elif not asked.page:
            ok = all(execution.ok for execution in refresh(find(HERE, asked.names)))
        path = HERE / "results" / "README.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(page(HERE), encoding="utf-8")
        if shown := picture(HERE):
            path.with_name("readme.png").write_bytes(shown)
        print(f"{path} is written")
    except InputError as error:
        print(f"refresh: {error}", file=sys.stderr)
        return 2
    return int(not ok)


if __name__ == "__main__":
    sys.exit(main())
