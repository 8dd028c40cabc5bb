"""Panels: what they show is what the model says, wherever they stand; and nothing from the data is ever markup."""

from __future__ import annotations

import json
import threading
from html.parser import HTMLParser

import ipywidgets
import nbformat
import pytest
import torch
from fixtures import HOSTILE, hostile_data, small_model
from ipywidgets.embed import dependency_state
from nbformat.v4 import new_code_cell, new_notebook, new_output

from m6rec.config import InputError
from m6rec.explain.explainers import capture
from m6rec.runs.execute import Execution, report
from m6rec.view.widgets import BeamTree, ContextWhatIf, HeadsAndLayers, Panel

TAGS = {"div", "strong", "figure", "img", "figcaption", "details", "summary", "p"} | {
    "table", "thead", "tbody", "tr", "th", "td"
}  # fmt: skip
HISTORY = [f"Film {i}" for i in (3, 9, 4, 17, 5)]


@pytest.fixture(scope="module")
def hostile():
    model = small_model(hostile_data())
    model.pretrain()
    model.fine_tune()
    return model


def every(model, **who) -> list[Panel]:
    """One panel of each family."""
    record = capture(model, model.extract_context(who.get("history"), who.get("context"), user=who.get("user")))
    return [
        HeadsAndLayers(record),
        ContextWhatIf(model, **who, k=5),
        BeamTree(model, **who, k=5),
    ]


def pages(panel: Panel) -> list[str]:
    """The pages that a panel holds."""

    def of(widget: ipywidgets.Widget) -> list[str]:
        found = [widget.value] if isinstance(widget, ipywidgets.HTML) else []
        return found + [page for child in getattr(widget, "children", ()) for page in of(child)]

    return of(panel.box)


class Tags(HTMLParser):
    """Every tag and attribute of a page, and what its pictures are said to be."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.attributes, self.alts = set(), set(), []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.alts += [dict(attrs).get("alt")] if tag == "img" else []


def titles(model, **options) -> list[str]:
    return model.recommend(**options, k=5)["title"].tolist()


def listed(panel: Panel, column: str = "as it is") -> list[str]:
    return panel.data[column].dropna().sort_values().index.tolist()


def test_what_if_shows_what_recommend_says(trained):
    panel = ContextWhatIf(trained, history=HISTORY, context={"hour": 9}, k=5)
    assert listed(panel) == listed(panel, "as it was") == titles(trained, history=HISTORY, context={"hour": 9})
    panel.goto(hour=21, gap=10, age=60)
    asked = {"hour": 21, "gap": 10}
    assert listed(panel) == titles(trained, history=HISTORY, context=asked, profile={"age": 60})
    assert listed(panel, "as it was") == titles(trained, history=HISTORY, context={"hour": 9})
    panel.goto(hour=None, gap=None, age=None, mask_text=True)
    assert listed(panel) == titles(trained, history=HISTORY, drop=("text",))


def test_an_event_that_is_left_out_is_gone_and_one_that_is_added_comes_last(trained):
    panel = ContextWhatIf(trained, history=HISTORY, k=5)
    panel.goto(without_2=True, without_5=True, add="Film 20")
    assert listed(panel) == titles(trained, history=["Film 3", "Film 4", "Film 17", "Film 20"])
    panel.goto(without_2=False, without_5=False, add=520, hour=9)
    assert listed(panel) == titles(trained, history=[*HISTORY, "Film 20"], context={"hour": 9})
    panel.goto(**{f"without_{i}": True for i in range(1, 6)}, add=None, hour=None)
    assert listed(panel) == titles(trained, history=[])
    assert (
        panel.goto(**{f"without_{i}": False for i in range(1, 6)})
        .data.eq(panel.data["as it was"], axis=0)
        .all(axis=None)
    )


def test_a_history_longer_than_the_model_reads_and_an_empty_one_can_be_edited(trained):
    long = [f"Film {i % 20}" for i in range(5000)]
    panel = ContextWhatIf(trained, history=long, k=5)
    assert len(panel.events) == trained.config.history
    panel.goto(add="Film 25")
    assert listed(panel) == titles(trained, history=[*long, "Film 25"])
    empty = ContextWhatIf(trained, history=[], k=5).goto(add="Film 3")
    assert listed(empty) == titles(trained, history=["Film 3"])


def test_the_beam_ends_in_the_list_and_opens_digit_by_digit(trained):
    panel = BeamTree(trained, user=105, context={"hour": 9}, k=5)
    last = panel.data[panel.data["level"] == panel.data["level"].max()]
    found = [trained.data.items["title"].iloc[int(trained.network.digits.item[leaf])] for leaf in last["node"]]
    assert found == titles(trained, user=105, context={"hour": 9})
    words = panel.goto(place=1).picture.figure.axes[0].texts
    chosen = [text.get_text() for text in words if text.get_fontweight() == "bold"]
    assert chosen == [label[:34] for label in titles(trained, user=105, context={"hour": 9})[:1]]
    assert panel.goto(digit=1, place=2).data["level"].unique().tolist() == [1]
    assert len(panel.goto(digit=2, beam=5).data.query("level == 2")) == 5


def test_heads_and_layers_shows_the_record(trained):
    look = capture(trained, trained.extract_context(HISTORY, {"hour": 9}))
    panel = HeadsAndLayers(look).goto(layer=1, head=2)
    seen = [kind != "request" for kind in look.types]  # only the target reads these tokens: they look nowhere
    assert panel.data.to_numpy()[seen] == pytest.approx(look.weights[0, 1][seen])
    assert panel.data.loc["hour 9"].isna().all()
    for view in ("target", "groups", "rollout"):
        assert len(panel.goto(view=view).data)
    assert len(HeadsAndLayers(look, recent=2).data) == len(look.labels) - 2


def test_what_is_not_there_is_refused_and_nothing_moves(trained):
    panel = HeadsAndLayers(capture(trained, trained.extract_context(HISTORY)))
    before = panel.values, panel.picture
    for values, said in (
        ({"view": "rollout", "layer": 9}, "layer=9 is not there: take one of 0, 1, 2"),
        ({"head": "2; DROP"}, "is not there"),
        ({"depth": 1}, 'control="depth" is unknown: take one of view, layer, head'),
    ):
        with pytest.raises(InputError, match=said):
            panel.goto(**values)
    assert (panel.values, panel.picture) == before
    asking = ContextWhatIf(trained, user=105)
    before = asking.values
    with pytest.raises(InputError, match="hour=99"):
        asking.goto(hour=99)
    with pytest.raises(InputError, match='control="mask_smell" is unknown'):
        asking.goto(mask_smell=True)
    with pytest.raises(InputError, match="mask_text='yes' is not there: take a value of its type"):
        asking.goto(mask_text="yes")
    with pytest.raises(InputError, match="not in the catalogue"):
        asking.goto(hour=3, without_1=True, add="No such film")
    assert asking.values == before
    with pytest.raises(InputError, match="take 1 to"):
        BeamTree(trained, user=105, k=999)


def test_a_wrong_title_that_is_typed_is_said_beside_the_picture_which_stays(trained):
    panel = ContextWhatIf(trained, history=HISTORY, k=5)
    shown = panel.picture
    panel.controls["add"].value = "<img src=x onerror=alert(1)>"
    assert panel.picture is shown
    assert "&lt;img" in panel._error.value and "not in the catalogue" in panel._error.value
    panel.controls["add"].value = "Film 20"
    assert panel._error.value == "" and panel.picture is not shown


def test_a_callback_on_another_thread_keeps_no_gradients_and_no_half_picture(trained):
    panel = ContextWhatIf(trained, history=HISTORY, k=5)
    failed = []

    def move(hour: int) -> None:
        try:
            panel.controls["hour"].value = hour
            assert torch.is_grad_enabled()  # of this thread, which the panel leaves as it was
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=move, args=(hour,)) for hour in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    hour = panel.values["hour"] - 1  # code 1 is midnight
    assert listed(panel) == titles(trained, history=HISTORY, context={"hour": hour})


def test_a_panel_is_live_with_a_kernel_and_a_picture_without(trained):
    for panel, again in zip(every(trained, user=105), every(trained, user=105), strict=True):
        bundle, metadata = panel._repr_mimebundle_()
        assert "application/vnd.jupyter.widget-view+json" in bundle and bundle["image/png"]
        assert bundle["text/plain"] == again._repr_mimebundle_()[0]["text/plain"]  # compared from run to run
        assert metadata["image/png"]["alt"].startswith(panel.title)


def test_hostile_words_are_markup_in_no_panel_and_every_picture_has_words(hostile):
    history = [int(i) for i in hostile.data.items["item_id"][:10]]
    who = {"history": history, "context": {"hour": 3, "shop": HOSTILE[0]}, "profile": {"gender": HOSTILE[1]}}
    panels = [*every(hostile, **{k: who[k] for k in ("history", "context")}), ContextWhatIf(hostile, **who, k=5)]
    panels[1].goto(without_1=True, without_2=True, without_3=True, add=500)
    for panel in panels:
        for page in pages(panel):
            found = Tags(page)
            assert found.tags <= TAGS and found.attributes <= {"alt", "src", "style", "class", "role", "border"}
            assert all(alt and len(alt) <= 400 for alt in found.alts)
        assert len(json.dumps(panel._repr_mimebundle_()[0]) + json.dumps(dependency_state(panel.box))) < 400_000


def test_hostile_words_are_markup_on_no_page_of_the_report(hostile, tmp_path):
    panel = ContextWhatIf(hostile, history=[500, 501], k=5, title="".join(HOSTILE)).goto(add=500)
    shown = [panel._repr_mimebundle_(), ({"text/html": hostile.recommend(history=[500])._repr_html_()}, {})]
    cell = new_code_cell("panel", execution_count=1, outputs=[
        new_output("execute_result", data, metadata=said, execution_count=1) for data, said in shown
    ])  # fmt: skip
    nbformat.write(new_notebook(cells=[cell]), tmp_path / "00_a.ipynb")
    index = report(tmp_path, [Execution(tmp_path / "00_a.ipynb", 1.0)], tmp_path)
    for path in (index, tmp_path / "00_a.html"):
        page = path.read_text(encoding="utf-8")
        found = Tags(page)
        assert "script" not in found.tags and not any(name.startswith("on") for name in found.attributes)
    assert len(found.alts) == 1 and found.alts[0].startswith("<img src=x onerror=alert(1)>")
