"""The views as people meet them, in a real JupyterLab and in saved pages, by keyboard and mouse, with hostile data."""

from __future__ import annotations

import importlib
import json
import os
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from fixtures import HOSTILE

from m6rec import M6Rec
from m6rec.explain.explainers import Record, capture, one
from m6rec.record import record
from m6rec.runs.execute import Execution, report
from m6rec.view import page
from m6rec.view.figures import image_rows
from m6rec.view.widgets import HeadsAndLayers, live

CI = bool(os.environ.get("CI"))  # there, what is skipped has failed
find = importlib.import_module if CI else pytest.importorskip
playwright = find("playwright.sync_api")
axe = find("axe_playwright_python.sync_playwright")
from lab import FLAGS, INSTALL, PATIENCE, Watched, browser_path, jupyterlab, run_all, watched  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "runs" / "browser"
WHOLE = "M6REC_RECORD" in os.environ  # `make browser`
CELLS = (
    "import ipywidgets\n"
    "from fixtures import HOSTILE, hostile_data, small_model\n"
    "from m6rec.explain.explainers import capture\n"
    "from m6rec.view.widgets import BeamTree, Control, ContextWhatIf, HeadsAndLayers, Panel\n"
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
    "one = ContextWhatIf(model, **who, k=5, title='deaf').picture\n"
    "Panel('deaf', {'ear': Control('ear', 0, [('a', 0), ('b', 1)])}, lambda ear: one)",
    "model.recommend(**who)",
)
STATE = """host => { const root = host.shadowRoot, parts = ['.title', '.stage', '.read', '.err'];
  return [...root.querySelectorAll('canvas')].map(c => c.toDataURL()).join()
    + parts.map(part => root.querySelector(part).textContent); }"""
CHANGED = f"([host, before]) => host.isConnected && ({STATE})(host) !== before"
HOVER = """async host => {
  const items = [...host.shadowRoot.querySelectorAll('li')];
  for (let i = 0; i < 60; i++) {
    items[(i * 7) % items.length].dispatchEvent(new PointerEvent('pointerenter'));
    await new Promise(done => requestAnimationFrame(() => setTimeout(done, 0))); // it has been painted
  }
}"""
REDRAW = """host => new Promise(done => {
  const input = host.shadowRoot.querySelector('input[type=range]'), start = performance.now();
  const watch = new MutationObserver(() => {
    watch.disconnect();
    requestAnimationFrame(() => setTimeout(() => done(performance.now() - start), 0));
  });
  watch.observe(host, { attributeFilter: ['data-version'] });
  input.value = (+input.value + 1) % 24;
  input.dispatchEvent(new Event('change'));
})"""


def busy(page, move, times: int) -> float:
    """Milliseconds of processor time that the page's main thread needs for each of some moves, whatever else runs."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    start = end = 0.0
    for _ in range(2):  # at first its code is compiled
        start = end
        for _ in range(times):
            move()
        found = session.send("Performance.getMetrics")["metrics"]
        end = next(one["value"] for one in found if one["name"] == "TaskDuration")
    return 1000 * (end - start) / times


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as play:
        path = browser_path(play)
        if path is None:
            (pytest.fail if CI else pytest.skip)(INSTALL)
        opened = play.chromium.launch(executable_path=path, args=list(FLAGS))
        PICTURES.mkdir(parents=True, exist_ok=True)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def seen(browser, tmp_path_factory, jupyter) -> Watched:
    """The notebook in a browser, every cell executed."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "work").mkdir()
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / "work" / "demo.ipynb")
    ours = os.pathsep.join((str(ROOT), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])))
    with jupyterlab(folder, PYTHONPATH=ours, JUPYTER_PATH=jupyter) as lab:
        page = watched(browser.new_context(viewport={"width": 1280, "height": 1000}), lab.url)
        page.page.set_default_timeout(1000 * PATIENCE)
        run_all(page, lab, "demo.ipynb")
        page.wait(f"() => document.querySelectorAll('{VIEW}').length === 5")
        yield page


VIEW = ".jp-CodeCell div[data-lm-suppress-shortcuts]"


def view(seen: Watched, title: str):
    """The element that holds a view."""
    found = seen.page.locator(VIEW).filter(has_text=title).first
    found.scroll_into_view_if_needed()
    return found


def moves(seen: Watched, host, move, *, timeout: float = 60) -> bool:
    """Whether what a view shows changes when one thing is done, within some seconds.

    One thing makes one change: a second would be taken for the answer to what is done next.
    """
    before = host.evaluate(STATE)
    move()
    try:
        seen.page.wait_for_function(CHANGED, arg=[host.element_handle(), before], timeout=1000 * timeout)
    except playwright.TimeoutError:
        return False
    return True


def keys(host, *pressed: str, part: str = "input[type=range]", place: int = 0):
    """A function that goes to a part of a view and presses keys."""

    def press() -> None:
        host.locator(part).nth(place).focus()
        for key in pressed:
            host.page.keyboard.press(key)

    return press


def click_on_slider(host, share: float, place: int = 0):
    """A function that clicks on a slider at a share of its length."""

    def click() -> None:
        track = host.locator("input[type=range]").nth(place)
        track.scroll_into_view_if_needed()
        box = track.bounding_box()
        host.page.mouse.click(box["x"] + share * box["width"], box["y"] + box["height"] / 2)

    return click


def serious(page) -> list[tuple[str, str]]:
    """What axe finds that keeps people out."""
    found = axe.Axe().run(page).response["violations"]
    assert found is not None
    return [(one["id"], one["nodes"][0]["html"][:200]) for one in found if one["impact"] in ("serious", "critical")]


def test_every_cell_ran_without_an_error(seen):
    assert seen.page.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    seen.page.screenshot(path=PICTURES / "page.png", full_page=True)


def test_heads_and_layers_by_keyboard_and_by_mouse_and_the_notebook_keeps_still(seen):
    host = view(seen, "No. 1")
    assert "next item attends to" in host.locator(".read").inner_text()
    assert moves(seen, host, keys(host, "ArrowRight"))
    assert moves(seen, host, click_on_slider(host, 0.99, place=1))
    active = seen.page.locator(".jp-CodeCell").evaluate_all("all => all.findIndex(c => c.matches('.jp-mod-active'))")
    assert moves(seen, host, keys(host, "ArrowUp", part="ul"))  # another token
    assert moves(seen, host, lambda: seen.page.keyboard.press("ArrowLeft"))  # another head
    assert moves(seen, host, lambda: seen.page.keyboard.press("PageUp"))  # another layer
    assert moves(seen, host, lambda: host.locator("li").nth(1).hover())
    assert moves(seen, host, lambda: host.locator("fieldset input").nth(4).check(force=True))
    assert moves(seen, host, keys(host, "ArrowLeft", part="fieldset input", place=4))
    now = seen.page.locator(".jp-CodeCell").evaluate_all("all => all.findIndex(c => c.matches('.jp-mod-active'))")
    assert now == active, "the arrows moved the notebook, too"
    host.screenshot(path=PICTURES / "heads_and_layers.png")


def test_what_if_by_keyboard_and_by_mouse(seen):
    host = view(seen, "No. 2")
    assert moves(seen, host, keys(host, "ArrowRight"))
    assert moves(seen, host, click_on_slider(host, 0.95))
    assert moves(seen, host, keys(host, "Space", part=".toggles button"))
    host.screenshot(path=PICTURES / "what_if.png")


def test_history_by_keyboard_and_by_mouse(seen):
    host = view(seen, "No. 3")
    button = host.get_by_role("button", name="without 1.")
    assert moves(seen, host, button.click)
    assert moves(seen, host, lambda: (button.focus(), seen.page.keyboard.press("Space")))

    def typed(title: str) -> None:
        host.get_by_placeholder("a title or an id").fill(title)
        seen.page.keyboard.press("Enter")

    assert moves(seen, host, lambda: typed("520"))
    typed("<img src=x onerror=alert(1)> no such title")
    host.get_by_role("alert").wait_for()
    assert "not in the catalogue" in host.get_by_role("alert").inner_text()
    host.screenshot(path=PICTURES / "history.png")


def test_beam_by_keyboard_and_by_mouse(seen):
    host = view(seen, "No. 4")
    assert moves(seen, host, keys(host, "ArrowLeft"))
    assert moves(seen, host, click_on_slider(host, 0.99))
    assert moves(seen, host, keys(host, "ArrowRight", place=2))
    assert moves(seen, host, lambda: host.locator("li").nth(3).hover())
    host.screenshot(path=PICTURES / "beam.png")


def test_a_panel_that_does_not_listen_is_found_out(seen):
    host = view(seen, "deaf")
    assert not moves(seen, host, keys(host, "ArrowRight"), timeout=3)


def test_a_kernel_answers_and_the_dark_theme_is_followed(seen):
    host = view(seen, "No. 2")
    fastest = min(host.evaluate(REDRAW) for _ in range(20))
    record("view.redraw_ms", value=fastest, label="a panel is moved, to its redraw by the kernel, fastest of twenty")
    for theme, dark in (("JupyterLab Dark", True), ("JupyterLab Light", False)):
        seen.page.evaluate("t => window.jupyterapp.commands.execute('apputils:change-theme', { theme: t })", theme)
        seen.wait("([dark]) => document.body.dataset.jpThemeLight === String(!dark)", dark)
        seen.page.wait_for_timeout(500)
        colour = host.locator(".v").evaluate("node => getComputedStyle(node).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", colour)[:3])) < 200) == dark
        assert host.locator("ul").first.bounding_box()["width"] > 200, "drawn for the width that it has"
        host.screenshot(path=PICTURES / f"what_if_{'dark' if dark else 'light'}.png")


def test_hostile_words_opened_nothing_and_nothing_outside_was_asked(seen):
    assert "<img src=x onerror=alert(1)>" in view(seen, "No. 1").locator(".title").inner_text()  # they are there
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


def random_record(tokens: int, layers: int = 4, heads: int = 4, titles: tuple[str, ...] = ()) -> Record:
    """A causal model's, whose last token is asked only."""
    rng = np.random.default_rng(0)
    weights = np.tril(rng.gamma(0.3, size=(layers, heads, tokens, tokens)) + 1e-6)
    events = [titles[i % len(titles)] if titles else f"Film {i}" for i in range(tokens - 4)]
    names = ["start", "age 34", *events, "hour 21", "next item"]
    types = ["start", "profile", *["history"] * (tokens - 4), "request", "target"]
    return Record(names, types, np.arange(tokens), weights / weights.sum(-1, keepdims=True), np.zeros(0))


@pytest.fixture(scope="module")
def opened(browser, tmp_path_factory):
    """A function that opens a saved page; no address may be asked."""
    folder = tmp_path_factory.mktemp("pages")

    def load(panel: HeadsAndLayers | Path | str, **options: object) -> Watched:
        path = folder / "a.html"
        if isinstance(panel, Path):
            path.write_bytes(panel.read_bytes())
        elif isinstance(panel, str):
            path.write_text(panel, encoding="utf-8")
        else:
            panel.save(path)
        shown = watched(
            browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options}), f"file://{folder}"
        )
        shown.page.goto(path.as_uri())
        return shown

    return load


def host_of(shown: Watched):
    return shown.page.locator("figure div[data-version]")


def test_a_saved_page_shows_the_numbers_of_python_in_every_view(opened):
    panel = HeadsAndLayers(random_record(12, 3, 2), "A view")
    shown = opened(panel)
    host = host_of(shown)
    host.locator("summary").click()
    for place, (name, _) in enumerate(panel.widget.spec["views"]):
        host.locator("fieldset input").nth(place).check(force=True)
        keys(host, "Home", "ArrowRight", "ArrowRight", place=1)()  # the second head
        panel.goto(view=name, head=2)
        rows = host.locator("tbody tr").evaluate_all(
            "all => all.map(r => [...r.children].slice(1).map(c => c.textContent))"
        )
        found = np.array([[np.nan if cell == "not computed" else float(cell) for cell in row] for row in rows])
        due = panel.data.to_numpy()
        if name == "rollout":  # of all heads: the flow of one is checked by its sum
            assert found[:-1, 0].sum() == pytest.approx(1, abs=0.01)
            panel.goto(head=0)
            keys(host, "Home", place=1)()
            cells = host.locator("tbody tr td:nth-child(2)").all_inner_texts()
            found, due = np.array(list(map(float, cells)))[:-1], panel.data.to_numpy()[-1]
        elif name == "target":
            found = found[:, : due.shape[1]]
        np.testing.assert_allclose(found, due, atol=0.006)
    assert (shown.outside, shown.dialogs, shown.errors) == ([], [], [])


@pytest.mark.parametrize(("width", "theme"), [(400, "dark"), (1280, "light"), (1600, "dark")])
def test_every_view_passes_axe_fits_its_width_and_is_kept_as_a_picture(opened, width, theme):
    panel = HeadsAndLayers(random_record(24, titles=HOSTILE), HOSTILE[0], recent=24)
    shown = opened(panel, viewport={"width": width, "height": 800}, color_scheme=theme)
    for place, (name, _) in enumerate(panel.widget.spec["views"]):
        host_of(shown).locator("fieldset input").nth(place).check(force=True)
        assert serious(shown.page) == []
        assert shown.page.evaluate("document.documentElement.scrollWidth") <= width
        shown.page.screenshot(path=PICTURES / f"{name}_{width}_{theme}.png", full_page=True)
    assert (shown.outside, shown.dialogs, shown.errors) == ([], [], [])


@pytest.mark.parametrize(("width", "theme"), [(400, "dark"), (1280, "light")])
def test_patches_under_a_word_are_seen_by_keyboard_and_by_mouse(opened, tmp_path, width, theme):
    rng = np.random.default_rng(0)
    over = {
        "photo": rng.dirichlet(np.ones(16), 3).reshape(3, 4, 4) / 2,
        "sound": rng.dirichlet(np.ones(8), 3)[:, None] / 4,
    }
    rows = {"photo": ("image", [rng.random((28, 28))] * 3), "sound": ("sound", [rng.random((32, 32))] * 3)}
    picture = image_rows(rows, HOSTILE[0], below=[*HOSTILE[:2], "shoe"], over=over)
    path = picture.save(tmp_path / "a.html")
    shown = opened(path, viewport={"width": width, "height": 800}, color_scheme=theme)
    host = host_of(shown)
    said, first = host.locator(".read"), host.get_by_role("listbox").locator("li")
    assert moves(shown, host, keys(host, "End", part="ul"))
    at = int(over["photo"][2].argmax())
    assert (
        said.inner_text().startswith("shoe attends to: ")
        and f"photo row {at // 4 + 1} column {at % 4 + 1} " in said.inner_text()
    )
    assert moves(shown, host, lambda: host.locator("canvas").first.hover(position={"x": 5, "y": 5}))
    assert said.inner_text().startswith("photo row 1 column 1 is attended to by: ")
    assert float(first.nth(2).locator(".n").inner_text()) == pytest.approx(over["photo"][2, 0, 0], abs=0.005)
    shown.page.mouse.move(2, 2)
    assert moves(shown, host, first.nth(1).click)
    assert first.nth(1).get_attribute("aria-selected") == "true"
    assert serious(shown.page) == [] and shown.page.evaluate("document.documentElement.scrollWidth") <= width
    shown.page.screenshot(path=PICTURES / f"patches_{width}_{theme}.png", full_page=True)
    assert (shown.outside, shown.dialogs, shown.errors) == ([], [], [])


def test_axe_would_find_a_control_without_a_name(opened):
    shown = opened(HeadsAndLayers(random_record(12)))
    host_of(shown).evaluate("host => host.shadowRoot.querySelector('input[type=range]').removeAttribute('aria-label')")
    host_of(shown).evaluate(
        "host => host.shadowRoot.querySelector('.range').replaceWith(host.shadowRoot.querySelector('.range input'))"
    )
    assert [name for name, _ in serious(shown.page)] == ["label"]


def test_hover_highlights_and_a_click_pins(opened):
    panel = HeadsAndLayers(random_record(64), recent=64)
    shown = opened(panel)
    host = host_of(shown)
    hover = busy(shown.page, lambda: host.evaluate(HOVER), 1) / 60
    record("view.hover_ms", value=hover, label="64 tokens, 4 layers, 4 heads, processor time")
    size = record("view.kilobytes", value=len(json.dumps(panel.widget.whole())) / 1000, label="a view's data, the same")
    assert size.value <= 150
    left = host.get_by_role("listbox", name="tokens that attend")
    left.locator("li").nth(7).click()
    host.get_by_role("listbox").nth(1).locator("li").nth(3).hover()
    assert "is attended to by" in host.locator(".read").inner_text()
    shown.page.mouse.move(5, 5)
    assert host.locator(".read").inner_text().startswith("Film 5 attends to")  # the pinned one again
    assert left.locator("[aria-selected=true]").get_attribute("aria-label").startswith("Film 5, history: attends to")
    left.focus()
    shown.page.keyboard.press("Escape")
    shown.page.keyboard.press("Tab")
    shown.page.mouse.move(5, 6)
    assert host.locator("[aria-selected=true]").count() == 0


ANSWER = """(host, given) => {
  const { logits, weights } = host.view.kind.answer(...given);
  return [[...logits], [...weights].map(w => Number.isNaN(w) ? -1 : w)];
}"""


@pytest.fixture(scope="module")
def shop() -> M6Rec:
    return M6Rec.from_pretrained("bazaar")


def live_report(shop: M6Rec, folder: Path, **who: object) -> Path:
    """The first page of the report of a notebook that shows a live page."""
    data, metadata = live(shop, context={"hour": 9}, **who)._repr_mimebundle_()
    output = nbformat.v4.new_output("display_data", data=data, metadata=metadata)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# One"), nbformat.v4.new_code_cell("")])
    notebook.cells[1].outputs = [output]
    nbformat.write(notebook, folder / "one.ipynb")
    return report(folder, [Execution(folder / "one.ipynb", 1.0)], folder)


def test_the_live_page_computes_what_pytorch_computes(opened, shop, tmp_path):
    users = shop.data.users["user_id"].sample(50 if WHOLE else 5, random_state=0)
    typical = shop.data.users["user_id"][np.diff(shop.data.offsets) == 30].iloc[0]  # as many events as the mean
    path = live_report(shop, tmp_path, user=typical)
    host, worst = host_of(opened(path)).first, 0.0
    tokens = host.get_by_role("listbox", name="tokens that attend").locator("li").count()
    for user in users:
        for request in ({"hour": 9}, {"hour": 21, "weekday": "Sunday", "device": "phone"}, {}):
            person = shop.person(user, context=request)
            context, due = one(person.context), capture(shop, person.context)
            events = torch.stack(context[:3], -1)[0].tolist()
            logits, weights = host.evaluate(
                ANSWER, [events, context.profile[0].tolist(), context.request[0, 0].tolist()]
            )
            weights = np.reshape(weights, due.weights.shape)
            worst = max(worst, float(np.abs(due.logits - logits).max()))
            np.testing.assert_allclose(weights[:, :, -1], due.weights[:, :, -1], atol=1e-5)
            computed = weights.min(-1) >= 0
            np.testing.assert_allclose(weights[computed], due.weights[computed], atol=1e-5)
            found = np.array(logits)
            found[person.history] = -np.inf
            assert np.argsort(-found)[:10].tolist() == shop.top_items(person, 10, "dense").items[0].tolist()
    record("live.max_diff", value=worst, label="largest difference to PyTorch's logits, 50 users, 3 requests each")
    record("live.megabytes", value=path.stat().st_size / 1e6, label="the report's first page")
    move = REDRAW.replace("'change'", "'input'")
    moves = f"async host => {{ for (let i = 0; i < 24; i++) await ({move})(host); }}"
    took = busy(host.page, lambda: host.evaluate(moves), 1) / 24
    record("live.ms", value=took, label=f"the hour is moved: list, and attention of {tokens} tokens; processor time")
    assert worst <= 1e-4 and path.stat().st_size <= 2.5e6


def test_in_the_live_page_what_was_bought_and_the_hour_are_chosen(opened, shop, tmp_path):
    history, titles = ["G0007", "G0041", "J0005"], dict(shop.data.items[["item_id", "title"]].to_numpy())
    shown = opened(live_report(shop, tmp_path, history=history))
    host = host_of(shown).first
    lists = host.get_by_role("listbox", name="now", exact=True)

    def listed(past: list[str], hour: int) -> bool:
        due = shop.recommend(history=past, context={"hour": hour}, method="dense")["title"].tolist()
        return lists.locator(".t").all_inner_texts() == due

    assert listed(history, 9)
    keys(host, "End")()
    assert listed(history, 23)
    host.get_by_placeholder("a title").fill(titles["G0300"].lower())
    shown.page.keyboard.press("Enter")
    assert listed([*history, "G0300"], 23)
    assert shown.errors == []
    assert titles["G0300"] in host.get_by_role("listbox", name="tokens that attend").inner_text()
    host.get_by_role("button", name=titles["G0041"], exact=True).click()
    assert listed([history[0], history[2], "G0300"], 23)
    host.get_by_placeholder("a title").fill("<img src=x onerror=alert(1)>")
    shown.page.keyboard.press("Enter")
    assert "not in the catalogue" in host.get_by_role("alert").first.inner_text()
    assert serious(shown.page) == [] and (shown.outside, shown.dialogs, shown.errors) == ([], [], [])
    shown.page.screenshot(path=PICTURES / "live.png", full_page=True)


def test_the_picture_stands_without_scripts_and_in_a_closed_iframe(opened):
    panel = HeadsAndLayers(random_record(12))
    shown = opened(panel, java_script_enabled=False)
    assert shown.page.locator("figure img").is_visible() and shown.page.locator("figcaption").is_visible()
    saved = shown.page.url.removeprefix("file://")
    inner = Path(saved).read_text(encoding="utf-8").replace("&", "&amp;").replace('"', "&quot;")
    shown = opened(
        f'<iframe sandbox srcdoc="{inner}"></iframe><iframe sandbox="allow-scripts" srcdoc="{inner}"></iframe>'
    )
    closed, open_ = (shown.page.frame_locator("iframe").nth(i) for i in (0, 1))
    closed.locator("figure img").wait_for()
    open_.locator("figure div[data-version]").wait_for()
    assert open_.locator("figure img").is_hidden()


def test_a_page_runs_no_script_but_ours_and_a_broken_view_leaves_the_picture(opened):
    body = '<script>alert(1)</script><img src=x onerror="alert(2)"><p onclick="alert(3)">x</p>'
    shown = opened(page.page("x", page.figure("", "alt", {"kind": "none"}) + body))
    shown.page.locator("p").click()
    shown.page.wait_for_timeout(300)
    assert shown.dialogs == [] and shown.outside == [] and len(shown.errors) >= 3
    assert shown.page.locator("figure img").count() == 1 and shown.page.locator("figure div").count() == 0
    control = opened(body)
    control.page.locator("p").click()
    control.page.wait_for_timeout(300)
    assert control.dialogs == ["1", "2", "3"], "without the policy they run"
