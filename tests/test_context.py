"""Context from raw behaviour: what is worked out, own columns by type, and three ways for a request to be met."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from fixtures import small_data, small_model

import m6rec
from m6rec.config import CONTEXT_FUSIONS, Config, InputError
from m6rec.data import bazaar
from m6rec.data.context import Fields, encode_events
from m6rec.tasks.heldout import Bazaar

ASKED = ("season", "session", "pace", "tastes")
HOUR = 3600


def frames(times: list[int], **columns: list) -> m6rec.Dataset:
    """Three people with the same events at these times, seconds after a Monday's midnight in July."""
    monday = 1_751_846_400  # 2025-07-07
    n = len(times)
    texts = ["red silk coat", "red wool hat", "blue silk tie", "green wool sock", "red felt shoe", "blue felt bag"]
    items = pd.DataFrame({"item_id": range(6), "text": texts})
    events = pd.DataFrame({"user_id": np.repeat([1, 2, 3], n), "item_id": np.tile(np.arange(n) % 6, 3)})
    events["timestamp"] = np.tile(np.array(times) + monday, 3)
    for name, values in columns.items():
        events[name] = values * 3
    return m6rec.Dataset.from_frames(items, None, events, name="wardrobe")


def described(model: m6rec.M6Rec, codes: np.ndarray | torch.Tensor) -> list[str]:
    return [f.describe(int(code)) for f, code in zip(model.fields.request, codes, strict=True)]


def test_by_default_the_fields_are_those_that_always_were():
    fields = small_model().fields
    assert [f.name for f in fields.request] == ["hour", "weekday", "gap"]
    assert [f.name for f in fields.profile] == ["age", "gender"]


def test_session_and_pace_count_within_a_sitting_and_begin_anew_after_half_an_hour():
    model = small_model(frames([0, 10, 30, 30 + HOUR, 40 + HOUR, 50 + HOUR, 60 + HOUR]), derived_features=ASKED)
    rows = [described(model, codes)[3:] for codes in model.codes.request[:5]]
    assert [row[0] for row in rows] == ["season summer"] * 5
    assert [row[1] for row in rows] == [
        "session < 1", "session ≥ 1 and < 2", "session ≥ 2 and < 3", "session < 1", "session ≥ 1 and < 2",
    ]  # fmt: skip
    assert [row[2] for row in rows] == ["pace ?", "pace ≥ 5 and < 20", "pace ≥ 5 and < 20", "pace ?", rows[1][2]]


def test_recent_tastes_are_the_word_that_the_last_items_share():
    model = small_model(frames([0, 10, 20, 30, 40, 50, 60]), derived_features=("tastes",))
    said = [described(model, codes)[-1] for codes in model.codes.request[:4]]
    assert said == ["tastes ?", "tastes ?", "tastes red", "tastes silk"]  # one item shares nothing with others


def test_what_describes_an_event_is_worked_out_from_what_came_before_it():
    data = small_data()
    model, t = small_model(data, derived_features=ASKED), int(data.offsets[3]) + 2
    events = data.events.copy()
    events.loc[t:, "item"] = (events.loc[t:, "item"] + 11) % data.n_items
    events.loc[t + 1 :, "timestamp"] += 7 * HOUR
    other = type(data)(data.name, data.timed, data.items, data.users, events, data.offsets)
    np.testing.assert_array_equal(encode_events(other, model.fields).request[: t + 1], model.codes.request[: t + 1])
    assert (encode_events(other, model.fields).request[t + 1 :] != model.codes.request[t + 1 :]).any(0)[[0, 2, 6]].all()


def test_a_person_asked_about_now_has_the_context_of_the_stored_event():
    data = small_data()
    model = small_model(data, derived_features=ASKED)
    for event in model.split.test[:5]:
        stored = model.target_context(data.targets([event]))
        user = data.events["user"].iloc[event]
        past = data.events.iloc[data.offsets[user] : event]
        raw = past.assign(item_id=data.items["item_id"].to_numpy()[past["item"]]).sample(frac=1, random_state=0)
        now = model.extract_context(
            raw, {"timestamp": int(data.events["timestamp"].iloc[event])}, profile=data.users.iloc[user, 1:].to_dict()
        )
        n = stored.position.item()
        assert now.position.item() == n
        for name in ("profile", "request"):
            assert torch.equal(getattr(now, name), getattr(stored, name))
        for name in ("item", "value", "gap"):
            whole = model.codes.gap if name == "gap" else None
            mine, theirs = getattr(now, name)[0, :n], getattr(stored, name)[0, :n]
            assert torch.equal(mine, theirs), (name, whole)
        assert (now.request > 0).sum() >= 5


def test_what_is_typed_stands_before_what_is_worked_out():
    model = small_model(derived_features=ASKED)
    moment = int(model.data.events["timestamp"].max()) + 60
    for when in (moment, pd.Timestamp(moment, unit="s"), pd.Timestamp(moment, unit="s").isoformat()):
        asked = described(model, model.extract_context(user=105, request={"timestamp": when, "hour": 3}).request[0, 0])
        weekday = pd.Timestamp(moment, unit="s").day_name()
        assert asked[:2] == ["hour 3", f"weekday {weekday}"] and not asked[2].endswith("?")
    typed = model.extract_context(user=105, request={"timestamp": moment + 9 * HOUR, "gap": 10, "session": 3})
    assert {"gap < 20 s", "session ≥ 3 and < 5"} <= set(described(model, typed.request[0, 0]))
    bare = described(model, model.extract_context(user=105, request={"hour": 3}).request[0, 0])
    assert bare[:6] == ["hour 3", "weekday ?", "gap ?", "season ?", "session ?", "pace ?"]  # no moment, no pause
    first = described(model, model.extract_context([], {"timestamp": moment}).request[0, 0])
    assert first[4] == "session < 1" and first[2] == "gap ?"
    untold = described(model, model.extract_context(["Film 3"], {"timestamp": moment}).request[0, 0])
    assert untold[4] == "session ?"  # there was an event, nobody knows when


def test_own_columns_are_read_by_their_declared_type():
    times = [0, 10, 20, 30, 40]
    data = frames(
        times,
        shelf=[1.0, 2.0, 3.0, 4.0, None],
        battery=[10, 20, 30, 40, 50],
        arrives=["2025-07-07 21:00", "2025-01-05 09:00", None, "2025-07-07", "2025-10-06"],
        note=["a gift for you", "for work", "a gift", "a trip", "a trip"],
    )
    columns = {"shelf": "categorical", "battery": "number", "arrives": "time", "note": "text"}
    model = small_model(data, columns=columns)
    by_name = {f.name: f for f in model.fields.request}
    assert by_name["shelf"].levels == ("1", "2", "3") and by_name["battery"].edges and not by_name["battery"].levels
    assert set(by_name["note"].levels) == {"gift", "work"}  # by training events alone: the last two are held out
    first = dict(zip(by_name, described(model, model.codes.request[0]), strict=True))
    assert first["shelf"] == "shelf 1" and first["note"] == "note gift"
    assert [first[f"arrives_{p}"] for p in ("hour", "weekday", "season")] == [
        "arrives_hour 21", "arrives_weekday Monday", "arrives_season summer",
    ]  # fmt: skip
    third = described(model, model.codes.request[2])
    assert "arrives_hour ?" in third and "note gift" in third  # what is missing is absent
    request = {"arrives": "2025-12-24 18:00", "battery": 12, "note": "WORK, again", "shelf": 2}
    asked = described(model, model.extract_context([0], request).request[0, 0])
    assert {"arrives_hour 18", "arrives_season winter", "note work", "shelf 2"} <= set(asked)


def test_own_columns_without_a_type_are_read_by_what_they_hold():
    times = list(range(0, 160, 10))
    model = small_model(frames(times, shelf=[1.0, 2.0, 3.0, None] * 4, battery=times))
    by_name = {f.name: f for f in model.fields.request}
    assert by_name["shelf"].levels == ("1", "2", "3") and by_name["battery"].edges and not by_name["battery"].levels
    asked = described(model, model.extract_context([0], {"battery": 12, "shelf": 2}).request[0, 0])
    assert "shelf 2" in asked


def test_ids_that_a_merge_made_floats_are_the_same_ids():
    model = small_model()
    for ids in ([500.0, 502.0], np.array([500.0, 502.0], np.float32), pd.DataFrame({"item_id": [500.0, 502.0]})):
        assert model.extract_context(ids).item.tolist() == [[0, 2]]
    assert model.data.user_codes(np.array([101.0], np.float32)).tolist() == [1]


def test_recent_tastes_know_a_new_item_s_text_and_the_order_of_a_history_s_times():
    model = small_model(frames([0, 10, 20, 30, 40, 50, 60]), derived_features=("tastes",))
    new = {"title": "Tie", "text": "silk tie"}
    assert described(model, model.extract_context([2, new]).request[0, 0])[-1] == "tastes silk"
    raw = pd.DataFrame({"item_id": [1, 3, 1, 2, 0, 2, 0, 2], "timestamp": [9, 8, 7, 1, 1, 1, 1, 1]})
    assert described(model, model.extract_context(raw).request[0, 0])[-1] == "tastes wool"


def test_an_own_column_stands_before_a_derived_feature_of_its_name():
    data = frames([0, 10, 20, 30], season=["dry", "dry", "wet", "wet"], session=["a", "b", "a", "b"])
    fields = Fields.fit(data, data.split(), Config(derived_features=("season", "session", "pace")))
    assert [f.name for f in fields.request] == ["hour", "weekday", "gap", "pace", "season", "session"]
    assert fields.request[-2].levels == ("dry",) or fields.request[-2].levels == ("dry", "wet")
    model = small_model(data, derived_features=("session",))
    assert described(model, model.codes.request[1])[-1] == "session b"
    assert described(model, model.extract_context(user=1, request={"timestamp": "2026-01-01"}).request[0, 0])[-1] == (
        "session ?"
    )


def test_fields_and_declarations_survive_saving(tmp_path):
    note = ["a gift", "work trip", "a gift", "work", "work", "work"]
    data = frames([0, 10, 20, 30, 40, 50], note=note)
    model = small_model(data, columns={"note": "text"}, derived_features=ASKED, context_fusion="gating")
    model.save_pretrained(tmp_path / "m")
    again = m6rec.M6Rec.from_pretrained(tmp_path / "m", data)
    assert again.fields == model.fields and again.config == model.config
    np.testing.assert_array_equal(again.codes.request, model.codes.request)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Config(context_fusion="magic"), 'context_fusion="magic" is unknown: take one of attention'),
        (lambda: Config(derived_features=("weather",)), 'derived_features="weather" is unknown: take one of season'),
        (lambda: Config(columns={"note": "poem"}), 'column note="poem" is unknown: take one of categorical'),
        (lambda: small_model(columns={"mood": "text"}), "'mood' is no column of circles's own: it has age, gender"),
        (lambda: small_model(columns={"gender": "number"}), "gender is declared a number and holds none"),
        (lambda: small_model(columns={"gender": "time"}), "gender is no time"),
        (lambda: small_model(frames([0, 1, 2], n=["a b", "c d", "e f"]), columns={"n": "text"}), "no two texts of n"),
        (lambda: small_model().extract_context(pd.DataFrame({"item": [500]})), "give one item_id"),
        (lambda: small_model().extract_context(pd.DataFrame([[1, 2]], columns=["item_id"] * 2)), "give one item_id"),
        (lambda: small_model().extract_context(user=105, request={"timestamp": 1}), "before the last event"),
        (lambda: small_model().extract_context(user=105, request={"timestamp": "soon"}), "request's timestamp is no"),
        (
            lambda: small_model().extract_context(pd.DataFrame({"item_id": [500, 501], "timestamp": [1.7e9, 1.7e12]})),
            "history's timestamp mixes seconds and milliseconds: give UTC seconds",
        ),
        (
            lambda: small_model(frames([0, 1, 2, 3], t=[1, 1e12, 1, 1]), columns={"t": "time"}),
            "t mixes seconds and",
        ),
        (
            lambda: small_model().extract_context(pd.DataFrame({"item_id": [500, 501], "timestamp": [1.0, np.nan]})),
            "a timestamp that is no time",
        ),
    ],
)
def test_bad_input_gets_one_sentence_with_the_fix(call, says):
    with pytest.raises(InputError, match=says) as error:
        call()
    assert "\n" not in str(error.value)


def test_derived_features_need_times_and_tastes_do_not():
    data = small_data()
    untimed = type(data)(data.name, False, data.items, data.users, data.events.assign(timestamp=0), data.offsets)
    assert not small_model(untimed).fields.request
    assert [f.name for f in small_model(untimed, derived_features=("tastes",)).fields.request] == ["tastes"]
    with pytest.raises(InputError, match="has no timestamps for the derived feature 'pace'"):
        small_model(untimed, derived_features=("pace",))


# ---------------------------------------------------------------------------------------------------------- fusion


def loud(**changes: object) -> m6rec.M6Rec:
    """Random weights that are large enough for a connection to show."""
    model = small_model(**changes)
    torch.manual_seed(1)
    for weight in model.network.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    for module in model.network.modules():  # what is absent adds nothing, in training as here
        if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
            module.weight.data[module.padding_idx] = 0
    model._items = None
    return model


def test_the_three_fusions_have_the_same_parameters_but_for_one_gate():
    sizes = {
        way: sum(p.numel() for p in small_model(context_fusion=way).network.fusion.parameters())
        for way in CONTEXT_FUSIONS
    }
    assert sizes["attention"] == sizes["adding"] < sizes["gating"] < 1.05 * sizes["adding"]


@pytest.mark.parametrize("way", CONTEXT_FUSIONS)
def test_a_request_moves_its_own_target_and_an_absent_one_is_as_if_never_asked(way):
    model = loud(context_fusion=way)
    context = model.target_context(model.data.targets(model.split.test[:6]))
    silent = context._replace(request=torch.zeros_like(context.request))
    asked, unasked = model.fuse(context).state, model.fuse(silent).state
    assert (asked - unasked).abs().amax((1, 2)).min() > 1e-3
    blind = loud(context_fusion=way, request=False)
    kept = {k: v for k, v in model.network.state_dict().items() if k in blind.network.state_dict()}
    blind.network.load_state_dict(kept)
    none = silent._replace(request=silent.request[..., :0])
    torch.testing.assert_close(blind.fuse(none, model.item_vectors()).state, unasked)


@pytest.mark.parametrize("way", CONTEXT_FUSIONS)
def test_only_attention_looks_at_request_tokens_and_every_map_has_their_columns(way):
    model = loud(context_fusion=way)
    context = model.target_context(model.data.targets(model.split.test[:6]))
    fused, plain = model.fuse(context, weights=True), model.fuse(context)
    torch.testing.assert_close(fused.state, plain.state, rtol=1e-4, atol=1e-5)
    columns = 1 + context.profile.shape[1] + context.item.shape[1] + context.request.shape[-1]
    for layer in fused.weights:
        assert layer.shape[-1] == columns
        torch.testing.assert_close(layer.sum(-1), torch.ones(layer.shape[:-1]))
        assert (layer[..., -3:].sum() > 0) == (way == "attention")


def test_a_gate_lets_through_between_nothing_and_all_of_a_request():
    """Shut, the request is as if never asked; open, it is added."""
    model, adding = loud(context_fusion="gating"), loud(context_fusion="adding")
    fusion = model.network.fusion
    kept = {k: v for k, v in model.network.state_dict().items() if not k.startswith("fusion.gate")}
    adding.network.load_state_dict(kept)
    context = model.target_context(model.data.targets(model.split.test[:6]))
    silent = context._replace(request=torch.zeros_like(context.request))
    with torch.no_grad():
        fusion.gate.weight.zero_()
        for bias, same in ((-100.0, model.fuse(silent).state), (100.0, adding.fuse(context).state)):
            fusion.gate.bias.fill_(bias)
            torch.testing.assert_close(model.fuse(context).state, same)


# ----------------------------------------------------------------------------------------------------------- worth


def test_the_ways_are_of_one_size():
    data = small_data()
    fusions = {way: small_model(data, context_fusion=way).network.fusion for way in CONTEXT_FUSIONS}
    sizes = [sum(p.numel() for p in fusion.parameters()) for fusion in fusions.values()]
    assert max(sizes) < 1.05 * min(sizes)


def test_bazaars_best_ranking_is_worse_for_one_who_does_not_know_the_request():
    shop, rows = Bazaar(), np.arange(200)
    asked = shop.data.targets(shop.split.test[:200])
    said = [ceiling.scores(asked)[rows, asked.items] for ceiling in (shop.ceiling, shop.no_context_ceiling)]
    assert said[0].mean() > said[1].mean() + 0.1  # nats
    before = bazaar.BayesOptimal(bazaar.truth()).scores(asked)
    np.testing.assert_array_equal(before[rows, asked.items], said[0])  # the truth itself is untouched
