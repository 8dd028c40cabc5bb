"""The text backbone and its renderer: what may be seen, what is remembered, how behaviour is said."""

from __future__ import annotations

import tempfile

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.preprocessing import normalize

import m6rec
from m6rec.baselines import ContentKNN
from m6rec.config import Config, InputError
from m6rec.data import prompts
from m6rec.data.dataset import Split
from m6rec.data.text import BYTES, PROMPT_SPECIAL, SOURCE_EOS, SPECIAL, UNK, Prompt, Tokenizer, words
from m6rec.evaluate import _bag, diversity
from m6rec.model.network import TextTransformer
from m6rec.train.text import Adapter

TEXTS = ["silk bag, party bold", "wool coat, winter slim", "age twenties, region lakes", "tabla, slowed"]


def backbone(layers: int = 3) -> TextTransformer:
    torch.manual_seed(0)
    return TextTransformer(Config(width=16, heads=2, joint_layers=layers, dropout=0.0), 60).eval()


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(8, 60, shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_source_is_read_both_ways_and_target_from_the_left():
    model, source, target = backbone(), tokens(2, 7), tokens(2, 5)
    before = model(source, target)
    other = target.clone()
    other[:, 3] = 9
    after = model(source, other)
    torch.testing.assert_close(before.hidden[:, :10], after.hidden[:, :10])  # source and earlier targets
    assert (before.hidden[:, 10:] - after.hidden[:, 10:]).abs().max() > 1e-3
    other = source.clone()
    other[:, 6] = 9
    assert (model(other, target).hidden[:, 0] - before.hidden[:, 0]).abs().max() > 1e-3


def test_padding_changes_nothing():
    model, source, target = backbone(), tokens(1, 6), tokens(1, 4)
    padded = torch.nn.functional.pad(source, (0, 3)), torch.nn.functional.pad(target, (0, 2))
    torch.testing.assert_close(model(*padded).logits[:, :4], model(source, target).logits)
    torch.testing.assert_close(model.read(padded[0]), model(source).hidden[:, -1])


def test_remembered_source_serves_many_candidates():
    model, source, candidates = backbone(), tokens(1, 6), tokens(5, 4)
    source[0, 4:] = 0
    at_once = model(source.expand(5, -1), candidates).logits
    torch.testing.assert_close(model.decode_step(candidates, model(source).cache).logits, at_once)
    begun = candidates[:1, :2].expand(5, -1)
    whole = model(source.expand(5, -1), torch.cat((begun, candidates), 1)).logits[:, 2:]
    torch.testing.assert_close(model.decode_step(candidates, model(source, begun[:1]).cache).logits, whole)
    past, rows = model(source.expand(5, -1)).cache, []  # token by token, each step with the cache of the one before
    for token in candidates.split(1, 1):
        said = model.decode_step(token, past, weights=True)
        past, rows = said.cache, [*rows, said.logits]
        torch.testing.assert_close(said.weights[-1].sum(-1), torch.ones(5, 2, 1))
    torch.testing.assert_close(torch.cat(rows, 1), at_once)


def test_an_adapter_changes_its_layer_and_those_after_it():
    model, x = backbone(), torch.randn(2, 6, 16)
    mask, positions = torch.ones(6, 6, dtype=torch.bool), torch.arange(6)
    before, after = (model.blocks(x, mask, positions, last=last).states for last in (2, 3))
    adapter, ffn = Adapter(16), model.blocks[2].ffn
    torch.nn.init.normal_(adapter.up.weight)
    z = model.blocks[2].ffn_norm(x)
    whole = ffn(z) + adapter(z)
    adapter.beside(ffn)
    torch.testing.assert_close(ffn(z), whole)
    torch.testing.assert_close(model.blocks(x, mask, positions, last=2).states, before)
    assert (model.blocks(x, mask, positions).states - after).abs().max() > 1e-3


def test_renderer_says_numbers_in_words_and_drops_the_oldest_events():
    assert prompts.fields({"user_id": 7, "age": 24, "gender": "M"}, names=True) == "age twenties gender m"
    assert prompts.event("Heat (1995)", 5) == "loved Heat (1995)"
    tokenizer = Tokenizer.fit(TEXTS * 3, 300)
    text = Prompt(profile=TEXTS[2], history=tuple(TEXTS), candidate="silk bag", target=("wool coat", "tabla"))
    whole = tokenizer.source(text, 200)
    short = tokenizer.source(text, len(whole) - 1)
    assert whole[len(whole) - len(short) + 10 :] == short[10:] and len(short) < len(whole)
    assert tokenizer.decode(tokenizer.encode([text]).target[0, 1:]) == ["wool coat", "tabla"]
    _, (ids,), (taught,) = tokenizer.encode([Prompt(target=("because:", "silk"))])
    said = len(tokenizer.segment("silk")) + 1  # and [EOS]
    assert len(ids) == len(taught) and taught.tolist() == [False] * (len(ids) - said) + [True] * said
    assert SOURCE_EOS not in tokenizer.segment("[EOS'] [EOS]")
    with pytest.raises(InputError, match="shorten"):
        tokenizer.source(text, 5)


FOREIGN = ["銀河鉄道の夜", "夜は短し歩けよ乙女", "Преступление и наказание", "film noir", "a night train"]


@pytest.mark.parametrize("special", [SPECIAL, PROMPT_SPECIAL])
def test_no_script_is_unknown_where_the_texts_are_not_all_latin(special):
    tokenizer = Tokenizer.fit(FOREIGN * 3, 400, special)
    assert len(tokenizer) <= 400
    for text in (*FOREIGN, "เพลงที่ดี", "新しい映画 0x41>", "שלום 🎬", "ñandú"):
        ids = tokenizer.ids(text)
        assert UNK not in ids and tokenizer.bpe.decode(list(ids)) == text.lower()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.bpe.save(f"{folder}/tokenizer.json")
        assert Tokenizer.from_file(f"{folder}/tokenizer.json").ids("映画") == tokenizer.ids("映画")
    latin = Tokenizer.fit(TEXTS * 3, 400, special)  # nothing would be learnt of the bytes, and nothing is added
    assert latin.bpe.token_to_id(BYTES[0]) is None and UNK in latin.ids("夜")


def test_words_are_pairs_of_characters_where_a_script_has_no_spaces():
    assert words("Heat (1995), a_b &amp; C") == ["heat", "1995", "a_b", "c"]
    assert words("銀河鉄道 PC9新") == ["銀河", "河鉄", "鉄道", "pc9", "新"]
    assert words("ที่ดี") == ["ที", "ี่", "่ด", "ดี"] and words(None) == words(" — ") == []
    items = pd.DataFrame({"item_id": [1, 2, 3], "text": ["銀河鉄道の夜", "銀河英雄伝説", "夜行列車"]})
    events = pd.DataFrame({"user_id": [1, 1, 1], "item_id": [1, 2, 3], "timestamp": [1, 2, 3]})
    data = m6rec.Dataset.from_frames(items, None, events)
    weights = ContentKNN().fit(data, Split("all", np.ones(3, bool), np.array([1]), np.array([2]))).weights.toarray()
    assert weights[0, 1] > 0 == weights[0, 2]
    lists = np.array([[0, 1], [0, 2]])
    near, far = diversity(lists, normalize(_bag(data.items["text"].map(words))))
    assert near < 0.9 < far
