"""One network that reads contents, events and prompts: whose weights are whose."""

from __future__ import annotations

import copy

import pytest
import torch
from fixtures import CONFIG, small_data

import m6rec
from m6rec.data.prompts import domain
from m6rec.generate import write
from m6rec.train.text import fine_tune


@pytest.fixture(scope="module")
def model():
    one = m6rec.M6Rec(small_data(), "small", **{**CONFIG, "text_weight": 0.5, "identity": False})
    one.pretrain()
    return one


def test_prompts_are_read_by_the_items_own_tokens_and_layers(model):
    text, network = model.text.network, model.network
    assert text.tokens is network.items.tokens and text.depth == len(network.items.local) + 1
    assert all(one is other for one, other in zip(text.blocks, network.items.local, strict=False))
    own = {id(p) for p in network.parameters()}
    assert all(id(p) in own for p in text.parameters()), "nothing that is not saved with the model"


def test_to_take_the_text_model_draws_no_random_number(model):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    model.network.text  # noqa: B018
    assert torch.rand(1) == expected


def test_fine_tuning_leaves_what_reads_contents_and_prompts_as_it_is(model):
    tuned = copy.deepcopy(model)
    before = {name: value.clone() for name, value in tuned.network.state_dict().items()}
    tuned.fine_tune()
    moved = {name for name, value in tuned.network.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in moved} == {"digits", "fusion"}
    with pytest.raises(m6rec.InputError, match="keep=True has a folder of its own"):
        tuned.fine_tune(keep=True, folder="anywhere")
    assert all(p.requires_grad for p in tuned.network.parameters()), "a refused training freezes nothing"


def test_what_was_saved_writes_the_same_and_a_task_taught_to_a_copy_leaves_it_alone(model, tmp_path):
    loaded = m6rec.M6Rec.from_pretrained(model.save_pretrained(tmp_path / "model"), model.data)
    prompts = domain(model.data).prompts(model.split.test[:4])
    said = write(model.text, prompts)
    assert write(loaded.text, prompts) == said
    fine_tune(loaded.text, prompts, epochs=2, rate=0.01)
    assert write(loaded.text, prompts) == said


def test_a_model_without_prompts_says_how_to_get_one():
    with pytest.raises(m6rec.InputError, match="has not learnt prompts in words: train one with text_weight=1"):
        m6rec.M6Rec(small_data(), "small", **CONFIG).text  # noqa: B018
