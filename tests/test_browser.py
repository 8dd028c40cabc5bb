"""The panels as people meet them: a real JupyterLab, a real browser, keyboard and mouse, and data that mean harm."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import nbformat
import pytest

CI = bool(os.environ.get("CI"))  # there, what is skipped has failed
find = importlib.import_module if CI else pytest.importorskip
playwright = find("playwright.sync_api")
from lab import FLAGS, INSTALL, PATIENCE, Watched, browser_path, jupyterlab, run_all, watched  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "runs" / "browser"
CELLS = (
    "import ipywidgets\n"
    "from fixtures import HOSTILE, hostile_data, small_model\n"
    "from m6rec.explain.explainers import capture\n"
    "from m6rec.view.figures import Picture, canvas\n"
    "from m6rec.view.widgets import BeamTree, ContextWhatIf, HeadsAndLayers, Panel, slider\n"
    "model = small_model(hostile_data())\n"
    "model.pretrain()\n"
    "model.fine_tune()\n"
    "who = {'history': [500, 501, 502, 503, 504, 505, 506], 'context': {'hour': 9, 'shop': HOSTILE[0]}}",
    "record = capture(model, model.extract_context(who['history'], who['context']))\n"
    "HeadsAndLayers(record, 'No. 1, heads: ' + HOSTILE[0])",
    "ContextWhatIf(model, **who, k=5, title='No. 2, what if: ' + HOSTILE[0])",
    "ContextWhatIf(model, **who, k=5, title='No. 3, history: ' + HOSTILE[0])",
    "BeamTree(model, **who, k=5, title='No. 4, beam: ' + HOSTILE[0])",
    # The control: a panel that does not listen must be found out.
    "one = ContextWhatIf(model, **who, k=5).picture\n"
    "Panel('deaf', {'ear': slider('ear', [('a', 0), ('b', 1)], 0)}, lambda ear: one)",
    "model.recommend(**who)",
)


@pytest.fixture(scope="module")
def seen(tmp_path_factory, jupyter) -> Watched:
    """The notebook in a browser, every cell executed."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "work").mkdir()
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / "work" / "demo.ipynb")
    PICTURES.mkdir(parents=True, exist_ok=True)
    with playwright.sync_playwright() as play:
        path = browser_path(play)
        if path is None:
            (pytest.fail if CI else pytest.skip)(INSTALL)
        ours = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
        with jupyterlab(folder, PYTHONPATH=ours, JUPYTER_PATH=jupyter) as lab:
            browser = play.chromium.launch(executable_path=path, args=list(FLAGS))
            page = watched(browser.new_context(viewport={"width": 1280, "height": 1000}), lab.url)
            page.page.set_default_timeout(1000 * PATIENCE)
            try:
                run_all(page, lab, "demo.ipynb")
                yield page
            finally:
                browser.close()


def panel(seen: Watched, title: str):
    """The panel's own part of the page."""
    found = seen.page.locator(".widget-vbox", has=seen.page.get_by_text(title)).first
    found.scroll_into_view_if_needed()
    return found


def moves(seen: Watched, title: str, move, *, timeout: float = PATIENCE) -> bool:
    """Whether the bytes of the panel's picture change when one thing is done, within some seconds.

    One thing makes one picture: a second would be taken for the answer to what is done next.
    """
    image = panel(seen, title).locator("figure img")
    before = image.get_attribute("src")
    move()
    handle = image.element_handle()
    try:
        seen.page.wait_for_function(
            "([root, before]) => root.isConnected ? root.src !== before : true",
            arg=[handle, before], timeout=1000 * timeout,
        )  # fmt: skip
    except playwright.TimeoutError:
        return False
    return image.get_attribute("src") != before


def keys(seen: Watched, title: str, *pressed: str, part: str = ".noUi-handle", place: int = 0):
    """A function that goes to a part of a panel and presses keys."""

    def press() -> None:
        panel(seen, title).locator(part).nth(place).focus()
        for key in pressed:
            seen.page.keyboard.press(key)

    return press


def click_on_slider(seen: Watched, title: str, share: float, place: int = 0):
    """A function that clicks on a slider at a share of its length."""

    def click() -> None:
        track = panel(seen, title).locator(".noUi-target").nth(place)
        track.scroll_into_view_if_needed()
        box = track.bounding_box()
        seen.page.mouse.click(box["x"] + share * box["width"], box["y"] + box["height"] / 2)

    return click


def keep(seen: Watched, title: str, name: str) -> None:
    """A screenshot under runs/browser."""
    panel(seen, title).screenshot(path=PICTURES / f"{name}.png")


def test_every_cell_ran_without_an_error(seen):
    assert seen.page.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    assert seen.page.locator(".jp-CodeCell figure img").count() == 5
    seen.page.screenshot(path=PICTURES / "page.png", full_page=True)


def test_heads_and_layers_by_keyboard_and_by_mouse(seen):
    assert moves(seen, "No. 1", keys(seen, "No. 1", "ArrowRight"))
    assert moves(seen, "No. 1", click_on_slider(seen, "No. 1", 0.99, place=1))
    assert moves(seen, "No. 1", lambda: panel(seen, "No. 1").get_by_role("button", name="rollout").click())
    assert moves(seen, "No. 1", keys(seen, "No. 1", "Space", part=".widget-toggle-buttons button", place=2))
    keep(seen, "No. 1", "heads_and_layers")


def test_what_if_by_keyboard_and_by_mouse(seen):
    assert moves(seen, "No. 2", keys(seen, "No. 2", "ArrowRight"))
    assert moves(seen, "No. 2", click_on_slider(seen, "No. 2", 0.95))
    assert moves(seen, "No. 2", keys(seen, "No. 2", "Space", part=".widget-toggle-button"))
    keep(seen, "No. 2", "what_if")


def test_history_by_keyboard_and_by_mouse(seen):
    button = panel(seen, "No. 3").get_by_role("button", name="without 1.")
    assert moves(seen, "No. 3", lambda: button.click())
    assert moves(seen, "No. 3", lambda: (button.focus(), seen.page.keyboard.press("Space")))

    def typed(title: str) -> None:
        panel(seen, "No. 3").get_by_placeholder("a title or an id").fill(title)
        seen.page.keyboard.press("Enter")

    assert moves(seen, "No. 3", lambda: typed("520"))
    typed("<img src=x onerror=alert(1)> no such title")
    panel(seen, "No. 3").get_by_role("alert").wait_for()
    keep(seen, "No. 3", "history")


def test_beam_by_keyboard_and_by_mouse(seen):
    assert moves(seen, "No. 4", keys(seen, "No. 4", "ArrowLeft"))
    assert moves(seen, "No. 4", click_on_slider(seen, "No. 4", 0.99))
    assert moves(seen, "No. 4", keys(seen, "No. 4", "ArrowRight", place=2))
    keep(seen, "No. 4", "beam")


def test_a_panel_that_does_not_listen_is_found_out(seen):
    assert not moves(seen, "deaf", keys(seen, "deaf", "ArrowRight"), timeout=3)


def test_every_picture_has_words(seen):
    alts = [image.get_attribute("alt") for image in seen.page.locator(".jp-CodeCell figure img").all()]
    assert len(alts) == 5 and all(alt and len(alt) > 20 for alt in alts)


def test_hostile_words_opened_nothing_and_nothing_outside_was_asked(seen):
    assert "<img src=x onerror=alert(1)>" in seen.page.locator(".jp-CodeCell").nth(2).inner_text()  # they are there
    assert (seen.dialogs, seen.outside, seen.errors) == ([], [], [])


def test_a_script_and_a_request_outside_would_be_seen(seen):
    dialogs, outside, errors = len(seen.dialogs), len(seen.outside), len(seen.errors)
    seen.page.evaluate(
        "() => { document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=alert(1)>');"
        " return fetch('https://example.org/').catch(() => 0); }"
    )
    seen.page.wait_for_timeout(1000)
    assert seen.dialogs[dialogs:] == ["1"] and seen.outside[outside:] == ["https://example.org/"]
    del seen.dialogs[dialogs:], seen.outside[outside:], seen.errors[errors:]
