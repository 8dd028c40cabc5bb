"""Headless runs, the report and the notebook rules, on small notebooks that the tests write themselves."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from joblib import cpu_count
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from notebook_rules import outputs, problems, tagged
from refresh import WIDGET_VIEW, clean, refresh

from m6rec.config import InputError
from m6rec.runs.execute import Execution, assignments, check_parameters, execute, find, headlines, read, report, run_all

PARAMETERS = """seed = 0  # of every random choice
scale = "quick"  # smoke | quick | full
rate = 0.1  # a float
bias = True  # a switch
width: int = 32  # an int"""
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


def finding(text: str):
    return new_output("execute_result", {"text/markdown": text}, execution_count=1)


def write(path: Path, *code: str, title: str = "Toy", parameters: str = PARAMETERS) -> Path:
    """A notebook with a parameters cell and code cells, not executed."""
    cells = [new_markdown_cell(f"# {title}"), new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    nbformat.write(new_notebook(cells=[*cells, *map(new_code_cell, code)], metadata=KERNEL), path)
    return path


@pytest.fixture
def toy(tmp_path):
    return write(tmp_path / "00_toy.ipynb", "print(seed, scale, rate, bias, width)")


def test_text_from_the_command_line_gets_the_types_of_the_literals(toy):
    given = assignments(["seed=3", "scale=smoke", "rate=1e-4", "bias=false", "width=8"])
    assert check_parameters(toy, given) == {"seed": 3, "scale": "smoke", "rate": 1e-4, "bias": False, "width": 8}
    assert check_parameters(toy, {"rate": 2})["rate"].hex() == (2.0).hex()


def test_a_kernel_takes_no_port_for_which_another_could_race(tmp_path):
    code = "import ipykernel, json; print(json.load(open(ipykernel.get_connection_file()))['transport'])"
    done = execute(write(tmp_path / "00_toy.ipynb", code), tmp_path / "out" / "toy.ipynb")
    assert done.ok and done.log.read_text() == "ipc\n"


def test_an_unknown_parameter_is_an_error_that_lists_the_known_ones_and_starts_nothing(toy, tmp_path):
    out = tmp_path / "out" / "toy.ipynb"
    with pytest.raises(
        InputError, match=r"no parameter 'sede' \(did you mean seed\?\); it knows seed=0, scale="
    ) as error:
        execute(toy, out, {"sede": 1})
    assert all(name in str(error.value) for name in ("seed", "scale", "rate", "bias", "width"))
    assert not out.parent.exists()


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"seed": "1.5"}, "seed=1.5 is of type float: give a whole number"),
        ({"seed": True}, "seed=True is of type bool"),
        ({"width": "wide"}, "width='wide' is of type str"),
        ({"bias": "1"}, "bias=1 is of type int: give True or False"),
        ({"rate": "fast"}, "rate='fast' is of type str: give a finite number"),
        ({"scale": 3}, "scale=3 is of type int: give a text"),
        ({"scale": "smok"}, 'scale="smok" is unknown: take one of smoke, quick, full'),
    ],
)
def test_a_value_of_another_type_or_beside_the_choices_is_an_error(toy, given, reason):
    with pytest.raises(InputError, match=reason):
        check_parameters(toy, given)


def test_a_word_without_a_value_is_an_error():
    with pytest.raises(InputError, match="name=value"):
        assignments(["seed"])


def test_parameters_threads_and_record_reach_the_kernel_and_the_log_has_no_noise(tmp_path, warm, monkeypatch):
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")  # a user's kernel named python3 would be another Python
    monkeypatch.setenv("JPY_SESSION_NAME", "x.ipynb")  # in a notebook a progress bar is shown, but not in a copy
    code = "import os; print(seed, bias, os.environ['OMP_NUM_THREADS'], os.environ['M6REC_RECORD'], os.listdir())"
    code += "; print(os.environ['OMP_WAIT_POLICY'] + os.environ['JPY_SESSION_NAME'])"
    code += "; assert os.environ['JUPYTER_PREFER_ENV_PATH'] == '1'"
    toy = write(tmp_path / "toy.ipynb", code)
    record = tmp_path / "o" / "toy.json"
    run = execute(toy, tmp_path / "o" / "toy.ipynb", {"seed": "7", "bias": "false"}, threads=1)
    assert run.ok and run.error == "" and run.seconds > 0
    assert read(run.path).cells[-1].outputs[0].text == f"7 False 1 {record} []\n{os.environ['OMP_WAIT_POLICY']}\n"
    log = run.path.with_suffix(".log").read_text()
    assert "7 False 1" in log and "TCP" not in log


def test_a_failure_says_what_failed_and_keeps_the_executed_copy(tmp_path, warm):
    toy = write(tmp_path / "toy.ipynb", "print('before')", "1 / 0", "print('after')")
    run = execute(toy, tmp_path / "out.ipynb")
    assert not run.ok and "ZeroDivisionError: division by zero" in run.error
    texts = [output.get("text", "") for output in outputs(read(run.path))]
    assert "before\n" in texts and "after\n" not in texts


def test_a_run_that_takes_too_long_is_stopped_and_says_so(tmp_path, warm):
    run = execute(write(tmp_path / "toy.ipynb", "while True: pass"), tmp_path / "out.ipynb", timeout=1)
    assert not run.ok and run.error == "a cell was stopped after 1 s, the time limit" and run.path.exists()


def test_a_kernel_that_dies_is_an_error_of_its_own(tmp_path, warm):
    run = execute(write(tmp_path / "toy.ipynb", "import os; os._exit(1)"), tmp_path / "out.ipynb")
    assert not run.ok and run.error.startswith("the kernel ended")


def kernel_of(pid: Path) -> psutil.Process:
    """The kernel that writes its number, once it has."""
    while not pid.exists() or not pid.read_text():
        time.sleep(0.05)
    return psutil.Process(int(pid.read_text()))


@pytest.fixture
def endless(tmp_path):
    """A notebook that writes its kernel's number and never ends."""
    pid = tmp_path / "pid"
    code = f"import os; open({str(pid)!r}, 'w').write(str(os.getpid()))"
    return write(tmp_path / "toy.ipynb", code, "while True: pass"), pid


def test_an_interrupted_run_leaves_no_kernel(endless, tmp_path):
    notebook, pid = endless
    kernels = []

    def interrupt() -> None:
        kernels.append(kernel_of(pid))
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it
    threading.Thread(target=interrupt).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            execute(notebook, tmp_path / "out.ipynb")
    finally:
        signal.signal(signal.SIGINT, before)
    assert psutil.wait_procs(kernels, timeout=10)[1] == []


def test_a_killed_run_leaves_no_kernel(endless, tmp_path, python):
    notebook, pid = endless
    code = "import sys, pathlib, m6rec.runs.execute as e; e.execute(*map(pathlib.Path, sys.argv[1:]))"
    (tmp_path / "run.py").write_text(code)
    with subprocess.Popen([*python, tmp_path / "run.py", notebook, tmp_path / "out.ipynb"]) as process:
        kernel = kernel_of(pid)
        process.kill()
    assert psutil.wait_procs([kernel], timeout=30)[1] == []


@pytest.mark.usefixtures("warm")
def test_run_all_runs_two_with_a_thread_each_goes_on_after_a_failure_and_gathers_what_was_recorded(tmp_path, capsys):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    begin = f"import json, os, pathlib, time; place = pathlib.Path({str(tmp_path)!r})\n"
    meet = "(place / f'{os.getpid()}.pid').touch(); end = time.time() + 60\n"
    meet += "while len([*place.glob('*.pid')]) < 2 and time.time() < end: time.sleep(.1)\nassert time.time() < end\n"
    begin += meet * (cpu_count() > 1)
    figure = "json.dumps({'toy.ndcg10.ease': {'value': seed + .25, 'low': None, 'high': None, 'n': 0, 'seeds': 1}})"
    record = f"pathlib.Path(os.environ['M6REC_RECORD']).write_text({figure}); print(os.environ['OMP_NUM_THREADS'])"
    write(folder / "00_fails.ipynb", f"{begin}raise ValueError('broken on purpose')")
    write(folder / "01_records.ipynb", begin + record)
    write(folder / "02_again.ipynb", begin + record)
    done = run_all(find(folder), tmp_path / "runs", {"seed": "2"})
    said = capsys.readouterr().out
    latest = tmp_path / "runs" / "latest"
    metrics = json.loads((latest / "metrics.json").read_text())
    first, second = done[1:] if done[1].ok else done[:0:-1]  # as they ended
    assert not done[0].ok and first.ok and not second.ok and "records toy.ndcg10.ease, which" in second.error
    assert metrics["toy.ndcg10.ease"]["value"] == 2.25
    assert metrics["run"]["seconds"].keys() == metrics["run"]["code_hash"].keys() == {run.path.stem for run in done}
    assert metrics["run"]["parameters"] == {"seed": 2} and metrics["run"]["threads"] == 1
    assert "torch" in metrics["run"]["versions"]
    assert json.loads((latest / "01_records.json").read_text())["toy.ndcg10.ease"]["value"] == 2.25
    assert "broken on purpose" in said and f"✓ {first.path.stem}" in said
    assert {run.log.read_text().splitlines()[-1] for run in done[1:]} == {"1"}
    assert "2.25" not in said  # figures are in metrics.json
    assert "broken on purpose" in (latest / "index.html").read_text() and (latest / "01_records.html").exists()


def test_what_is_no_python_is_told_before_anything_starts(tmp_path):
    write(tmp_path / "00_fine.ipynb", "1")
    write(tmp_path / "01_broken.ipynb", "for")
    with pytest.raises(InputError, match=r"01_broken\.ipynb cannot be read as a notebook in Python"):
        run_all(find(tmp_path), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_the_report_loads_nothing_runs_nothing_and_escapes_titles(tmp_path):
    evil = "<script>alert(1)</script> & co"
    picture = new_output(
        "display_data", {"image/png": "iVBORw0KGgo=", "text/plain": "x"}, metadata={"image/png": {"alt": '"><script>'}}
    )
    for stem in ("00_a", "01_b"):
        path = write(tmp_path / f"{stem}.ipynb", "1", title=f"{stem} {evil}")
        toy = read(path)
        links = "[next](01_b.ipynb#words) [other](02_c.ipynb) [readme](../README.md#words)"
        toy.cells.append(new_markdown_cell(f"{links} $\\frac{{a}}{{b}}$"))
        toy.cells[2].outputs.append(picture)
        nbformat.write(toy, path)
        toy.cells += [
            new_markdown_cell(f"## 1 · Why {evil}?"),
            new_code_cell("f'**Finding.** {x}'", outputs=[finding(f"At last, {evil}. It is [not](x.md) decided.")]),
        ]
        nbformat.write(toy, path)
    runs = [Execution(tmp_path / f"{stem}.ipynb", 1.0, error) for stem, error in (("00_a", ""), ("01_b", evil))]
    index = report(tmp_path, runs, tmp_path / "clone" / "notebooks", {"parameters": {"title": evil}})
    front, page, gallery = (path.read_text() for path in (index, tmp_path / "00_a.html", tmp_path / "gallery.html"))
    for text, times in ((front, 8), (page, 3), (gallery, 0)):
        assert text.count("&lt;script&gt;alert(1)&lt;/script&gt; &amp; co") >= times
        assert "<script" not in text or text is page  # a notebook's own Markdown is its author's
        assert "default-src 'none'" in text and "color-scheme: light dark" in text and "@media print" in text
        assert not re.search(r"""(src|href)=["']?(https?:)?//|@import|url\(""", text)
    assert front.index("00_a.html") < front.index("01_b.html") and gallery.count("<figcaption>&quot;&gt;") == 2
    assert 'href="01_b.html#words"' in page and 'href="clone/notebooks/02_c.ipynb"' in page
    assert 'href="clone/README.md#words"' in page and "$\\frac{a}{b}$" in page


def test_the_cover_and_the_last_lines_of_a_run_have_the_findings_as_they_were_rendered(tmp_path):
    said = ["**Finding.** 3 of 9, no. 2. It is undecided.", "**Finding** (full size). **Best** is `x`. And more."]
    for stem, tags in (("00_a", []), ("01_b", ["headline"])):
        cells = [new_markdown_cell("# A title\nabout"), new_markdown_cell("## 1 · Is it so?")]
        cells += [new_code_cell("'**Finding'", outputs=[finding(text)]) for text in said]
        cells[-1].metadata["tags"] = tags
        nbformat.write(new_notebook(cells=[*cells, new_code_cell("'**Finding'")]), tmp_path / f"{stem}.ipynb")
    runs = [Execution(tmp_path / f"{stem}.ipynb", 1.0) for stem in ("00_a", "01_b")]
    assert headlines(runs) == ["3 of 9, no. 2.", "(full size). Best is x.", "(full size). Best is x."]
    front = re.sub(r"<[^>]+>|\s+", " ", report(tmp_path, runs, tmp_path).read_text())
    found, limits = front.split("What was asked, and what was found")[1].split("What this does not show")
    assert " ".join(found.split()) == "A title Is it so? 3 of 9, no. 2. A title Is it so? (full size). Best is x."
    assert limits.count("It is undecided. ( A title )") == 2
    page = (tmp_path / "01_b.html").read_text()
    assert page.count("<h1>A title</h1>") == 1 and "<h1 id" not in page and "And more." in page.split("In short")[1]


def test_clean_keeps_outputs_counts_and_tags_and_drops_the_traces_of_a_run(tmp_path, warm):
    run = execute(write(tmp_path / "toy.ipynb", "print(1)"), tmp_path / "out.ipynb")
    executed = read(run.path)
    executed.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {}}
    view = {WIDGET_VIEW: {}, "image/png": "x"}
    said = {"image/png": {"alt": "words", "view": {"kind": "attention"}}}
    executed.cells[2].outputs.append(new_output("display_data", view, metadata=said))
    cleaned = clean(executed)
    assert set(cleaned.metadata) == {"kernelspec", "language_info"} and "version" not in cleaned.metadata.language_info
    assert [dict(cell.metadata) for cell in cleaned.cells] == [{}, {"tags": ["parameters"]}, {}]
    assert cleaned.cells[2].execution_count == 2 and cleaned.cells[2].outputs[0].text == "1\n"
    assert list(cleaned.cells[2].outputs[1].data) == ["image/png"]
    assert cleaned.cells[2].outputs[1].metadata == {"image/png": {"alt": "words"}}
    assert "papermill" in executed.metadata  # the copy was cleaned, not the original


def good(folder: Path) -> Path:
    """A notebook that keeps every rule."""
    lines = "\n".join(f"x{number} = {number}" for number in range(80))
    stub = new_output("stream", name="stdout", text="exercise: not attempted\n")
    cells = [
        new_markdown_cell("# Toy\n[next](01_next.ipynb)\n\n**You will** learn. **You need** nothing. **Time** 1 s."),
        new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        new_code_cell(lines),
        new_code_cell("assert x1 == 1", metadata={"tags": ["checks"]}),
    ]
    for _ in range(3):
        cells.append(new_code_cell("check(None)", metadata={"tags": ["exercise"]}, outputs=[stub]))
        cells.append(new_code_cell("check('the solution')", metadata={"tags": ["solution"]}))
    exercise = new_markdown_cell("**1.** (changes the model) Predict, then run.")
    cells[4:4] = [exercise, new_markdown_cell("What to say.", metadata={"tags": ["instructor"]})]
    for count, cell in enumerate((cell for cell in cells if cell.cell_type == "code"), 1):
        cell.execution_count = count
    (folder / "01_next.ipynb").touch()
    nbformat.write(clean(new_notebook(cells=cells)), folder / "00_toy.ipynb")
    return folder / "00_toy.ipynb"


BREAKS = {
    "execution counts": lambda toy: toy.cells[2].update(execution_count=9),
    "stores an error": lambda toy: toy.cells[2].outputs.append(new_output("error", ename="E", evalue="", traceback=[])),
    "stores stderr": lambda toy: toy.cells[2].outputs.append(new_output("stream", name="stderr", text="careful")),
    "leads nowhere": lambda toy: toy.cells[0].update(source=toy.cells[0].source.replace("01_next", "02_gone")),
    "does not say 'Time'": lambda toy: toy.cells[0].update(source=toy.cells[0].source.replace("Time", "")),
    "one H1": lambda toy: toy.cells.append(new_markdown_cell("# Another")),
    "lines of code, not 80": lambda toy: toy.cells[2].update(source="x1 = 1"),
    "tagged checks": lambda toy: toy.cells[3].metadata.clear(),
    "no exercise changes the model": lambda toy: toy.cells[4].update(source="**1.** Predict."),
    "tagged instructor": lambda toy: toy.cells[5].metadata.clear(),
    "cells tagged exercise": lambda toy: toy.cells[6].metadata.clear(),
    "tagged solution": lambda toy: toy.cells[7].metadata.clear(),
    "not attempted": lambda toy: toy.cells[6].update(outputs=[]),
    "tagged parameters": lambda toy: toy.cells[1].metadata.clear(),
    "is not a literal": lambda toy: toy.cells[1].update(source=PARAMETERS + "\ndepth = 2 * width  # derived"),
    "has no comment": lambda toy: toy.cells[1].update(source=PARAMETERS + "\ndepth = 2"),
    "does not see the parameter depth": lambda toy: toy.cells[1].update(source=PARAMETERS + "\ndepth: int | None = 2"),
    "only names with literals": lambda toy: toy.cells[1].update(source=PARAMETERS + "\nprint(seed)"),
    "3 parameters": lambda toy: toy.cells[1].update(source="\n".join(PARAMETERS.splitlines()[:3])),
    "seed = 0": lambda toy: toy.cells[1].update(source=PARAMETERS.replace("seed = 0", "seed = 1")),
    "'sys.path'": lambda toy: toy.cells[2].update(source=toy.cells[2].source + "\nimport sys; sys.path.append('.')"),
    "'%pip'": lambda toy: toy.cells[2].update(source=toy.cells[2].source + "\n%pip install x"),
    "kB, above": lambda toy: toy.cells[2].outputs.append(new_output("stream", text="x" * 400_000)),
    "metadata of a run": lambda toy: toy.metadata.update(papermill={}),
}


def test_a_notebook_that_keeps_the_rules_has_no_problems(tmp_path):
    assert problems(good(tmp_path)) == []


@pytest.mark.parametrize("problem", BREAKS)
def test_each_broken_rule_is_named(tmp_path, problem):
    path = good(tmp_path)
    toy = read(path)
    BREAKS[problem](toy)
    nbformat.write(toy, path)
    assert any(problem in found for found in problems(path)), problems(path)


def test_student_copies_have_no_solutions_and_no_outputs_and_are_never_overwritten(tmp_path):
    clone = Path(__file__).resolve().parents[1]
    make = ["make", "-s", "-C", clone, "class", "STAMP=", f"PY={sys.executable}", f"CLASS={tmp_path / 'class'}"]
    done = subprocess.run([*make, "NB=00_quickstart"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [copy] = (tmp_path / "class").iterdir()
    toy = read(copy)
    assert copy.name == "00_quickstart.ipynb" and len(tagged(toy, "exercise")) == 3
    assert not tagged(toy, "solution") and not tagged(toy, "instructor") and not list(outputs(toy))
    copy.write_text("my homework")
    done = subprocess.run(make, capture_output=True, text=True)
    assert done.returncode != 0 and "move it away" in done.stderr and copy.read_text() == "my homework"


def test_notebooks_are_found_in_order_and_by_name_and_a_wrong_name_lists_them(tmp_path):
    with pytest.raises(InputError, match="holds no notebook"):
        find(tmp_path)
    for stem in ("01_b", "00_a", "10_z"):
        write(tmp_path / f"{stem}.ipynb")
    (tmp_path / "scratch.ipynb").touch()
    assert [path.stem for path in find(tmp_path)] == ["00_a", "01_b", "10_z"]
    assert find(tmp_path, ["notebooks/01_b.ipynb"]) == [tmp_path / "01_b.ipynb"]
    with pytest.raises(InputError, match=r'notebook="01_\w*" is unknown: take one of 00_a, 01_b, 10_z'):
        find(tmp_path, ["01_c"])


def test_refresh_executes_in_place_and_leaves_a_failing_notebook_as_it_was(tmp_path, warm):
    fine, broken = write(tmp_path / "00.ipynb", "print(seed)"), write(tmp_path / "01.ipynb", "1 / 0")
    before = broken.read_text()
    done = [*refresh([fine]), *refresh([broken])]  # one by one in this process
    assert {run.path.name: run.ok for run in done} == {"00.ipynb": True, "01.ipynb": False}
    assert broken.read_text() == before
    assert [cell.get("execution_count") for cell in read(fine).cells] == [None, 1, 2]
    assert "papermill" not in fine.read_text()


def test_a_changed_third_digit_fails_the_comparison_that_the_suite_uses_and_a_changed_time_does_not(
    tmp_path, warm, compare
):
    cells = "print('NDCG@10', 0.1234, 'in 12.3 s')", "figures.curves({'a': ([1, 2], [0.125, 2.5])}, 'A', ('x', 'y'))"
    path = write(tmp_path / "toy.ipynb", "from m6rec.view import figures", *cells)
    refresh([path])
    stored = path.read_text()
    numbers = re.search(r"Numbers: (\w+)", stored)[1]
    for old, new, same in (
        ("0.1234 in 12.3 s", "0.1234 in 9 s", True),  # the output alone: the code has other signs between them
        ("NDCG@10 0.1234", "NDCG@10 0.1235", True),
        ("NDCG@10 0.1234", "NDCG@10 0.1244", False),
        (numbers, "0" * len(numbers), False),
    ):
        path.write_text(stored.replace(old, new))
        assert compare(path)[0] == same, (old, new)


def test_figures_of_a_training_are_compared_where_arithmetic_is_the_same(tmp_path, warm, compare):
    path = write(tmp_path / "toy.ipynb", "print(0.1234)")
    toy = read(path)
    toy.cells[2].metadata["tags"] = ["arithmetic"]
    nbformat.write(toy, path)
    refresh([path])
    path.write_text(path.read_text().replace("0.1234", "0.9234", 2).replace("print(0.9234)", "print(0.1234)"))
    assert not compare(path)[0]
    path.write_text(path.read_text().replace('"arithmetic": "', '"arithmetic": "other'))
    assert compare(path)[0]
