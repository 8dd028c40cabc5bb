"""Keys by content: prose changes none and makes no result old, what computes does; caches are written once."""

from __future__ import annotations

import ast
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import refresh as results
from filelock import FileLock

import m6rec
from m6rec import InputError, baselines, cache
from m6rec.data import image
from m6rec.record import code_hash
from m6rec.train import compress
from m6rec.train import text as text_training

NOTEBOOKS = [Path(__file__).parents[1] / "notebooks" / f"{name}.ipynb" for name in ("04_recommendations",)]
M6REC = (m6rec.M6Rec.__init__, m6rec.M6Rec.pretrain, m6rec.M6Rec.fine_tune)
TRAININGS = {
    "items": M6REC,
    "text": (text_training.pretrain,),
    "segments": (compress.Variants,),
    "SASRec": (baselines.SASRec,),
    "images": (image,),
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The package in a folder of its own, whose code the keys are made of."""
    copy = tmp_path / "m6rec"
    shutil.copytree(cache.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "_*[!_].py"))
    monkeypatch.setattr(cache, "PACKAGE", copy)
    return copy


def keys() -> dict[str, str]:
    found = {name: cache.code_key(*code) for name, code in TRAININGS.items()}
    return found | {path.stem: code_hash(path) for path in NOTEBOOKS}


def change(folder: Path, old: str, new: str) -> None:
    """In the one place of a folder's modules, or of a module, that matches, or the first."""
    files = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder]
    files = [file for file in files if re.search(old, file.read_text())]
    assert files, f"{folder} has no {old}"
    files[0].write_text(re.sub(old, new, files[0].read_text(), count=1))


def reword(file: Path) -> None:
    """Other docstrings, and a comment behind each."""
    lines = file.read_text().splitlines()
    for node in sorted(ast.walk(ast.parse("\n".join(lines))), key=lambda n: -getattr(n, "lineno", 0)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines[node.lineno - 1 : node.end_lineno] = [" " * node.col_offset + '"""Other words."""  # and a comment']
    file.write_text("\n".join(lines))


def test_prose_and_names_of_functions_change_no_key_and_make_no_result_old(package, tmp_path):
    before = keys()
    assert len(set(before.values())) == len(before)
    folder = tmp_path / "notebooks" / "results"
    folder.mkdir(parents=True)
    for path in NOTEBOOKS:
        shutil.copy(path, folder.parent)
        run = {**dict.fromkeys(results.ORIGIN, ""), "code_hash": before[path.stem]}
        (folder / f"{path.stem}.json").write_text(json.dumps({"run": run}))
    for file in (package / "model").glob("*.py"):
        reword(file)
    assert keys() == before and results.due(folder.parent) == []
    for file in package.rglob("*.py"):
        file.write_text(re.sub(r"\bfull_softmax\b", "softmax_of_all", file.read_text()))
    assert keys() == before and results.due(folder.parent) == []


def test_what_computes_changes_the_keys_of_what_runs_it_and_no_others(package):
    last = keys()

    def changed(folder: str, old: str, new: str) -> set[str]:
        nonlocal last
        change(package / folder, old, new)
        before, last = last, keys()
        return {name for name in last if last[name] != before[name]}

    notebooks = {path.stem for path in NOTEBOOKS}
    trained = set(TRAININGS) - {"images"}
    assert changed("model", r"q @ k\.mT", "q @ -k.mT") == trained | notebooks
    assert changed("train", r"stands_for\.log\(\)", "2 * stands_for.log()") == trained | notebooks
    assert changed("train", r"1 - left\*\*3", "1 - left**2") == {"segments"}
    assert changed("evaluate.py", r"np.log2\(1 \+", "np.log2(2 +") == {"items", "SASRec"} | notebooks
    assert changed("data", "PATCH = 7", "PATCH = 14") >= {"items", "images"}
    assert changed("view", "(?m)^import", "COLOUR = 1\nimport") == set()  # it shows
    assert changed("explain", "(?m)^import", "COLOUR = 1\nimport") == notebooks  # it does not train
    assert changed("data", r"os_cache\(", "os_cache(*") == notebooks  # it loads


def test_the_key_of_values_follows_each_of_them():
    assert cache.key("a", 1) == cache.key("a", 1) != cache.key("a1") != cache.key("a", 2)
    assert len({cache.key("x", code=code) for code in TRAININGS.values()}) == len(TRAININGS)


def test_what_is_kept_is_made_once_and_anew_where_it_is_damaged(tmp_path):
    made, path = [], tmp_path / "deep" / "one"

    def get() -> str:
        return cache.cached(path, make, lambda text, new: new.write_text(text), lambda p: p.read_text() or None)

    def make() -> str:
        made.append(1)
        return "kept"

    assert get() == get() == "kept" and len(made) == 1
    path.write_text("")
    assert get() == "kept" and len(made) == 2
    assert [file.name for file in path.parent.iterdir()] == ["one"]


def test_who_stops_waiting_takes_nobodys_lock_away(tmp_path, monkeypatch):
    def get(make) -> str:
        return cache.cached(tmp_path / "one", make, lambda text, new: new.write_text(text), Path.read_text)

    def make() -> str:
        with monkeypatch.context() as patched, ThreadPoolExecutor() as others:
            patched.setattr(cache, "FileLock", lambda lock, **_: FileLock(lock, timeout=0.1))
            for _ in range(2):
                with pytest.raises(InputError):
                    others.submit(get, lambda: "made beside").result()
        return "made"

    assert get(make) == "made" and [file.name for file in tmp_path.iterdir()] == ["one"]


def test_a_file_or_folder_is_written_whole_or_not_at_all(tmp_path):
    def write(path: Path, text: str, broken: bool = False) -> None:
        with cache.whole(path) as new:
            new.mkdir()
            (new / "a").write_text(text)
            if broken:
                raise OSError("no space left on device")

    folder = tmp_path / "folder"
    with pytest.raises(InputError, match=r"folder cannot be written \(no space.*free space"):
        write(folder, "1", broken=True)
    assert not list(tmp_path.iterdir())
    write(folder, "1")
    (folder / "theirs").write_text("kept")
    with pytest.raises(InputError, match="no space"):
        write(folder, "2", broken=True)
    assert (folder / "a").read_text() == "1"
    write(folder, "2")
    assert {f.name: f.read_text() for f in folder.iterdir()} == {"a": "2", "theirs": "kept"}
