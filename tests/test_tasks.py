"""Tasks in words: what may be said, what is held out, and the sets that are written for the purpose."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fixtures import TEXT, small_data

import m6rec
from m6rec.baselines import Popularity
from m6rec.config import Config, InputError
from m6rec.data import prompts, sources
from m6rec.data.text import EOS, PROMPT_SPECIAL, SEP, Prompt, Tokenizer
from m6rec.generate import begun, write
from m6rec.model.network import TextTransformer
from m6rec.tasks import text as tasks
from m6rec.tasks.heldout import ColdStart, beside
from m6rec.train import losses
from m6rec.train import text as text_training
from m6rec.train.text import Backbone

FEATURES = {"silk", "wool", "party", "winter"}
ASKED = Prompt(
    profile="age twenties",
    request="evening workday",
    history=("wool coat winter slim", "linen shirt"),
    candidate="silk bag party bold",
    target=("because:", "silk is your taste"),
)


def backbone(*texts: str) -> Backbone:
    """An untrained one: whatever it prefers, a trie has to hold."""
    config = Config(width=16, heads=2, joint_layers=2, dropout=0.0)
    tokenizer = Tokenizer.fit([*texts, *ASKED.segments, *ASKED.target], 400)
    return Backbone(TextTransformer(config, len(tokenizer)).eval(), tokenizer, config)


def test_only_what_is_among_the_sentences_is_written():
    catalogue = ["silk bag", "silk bag party", "wool coat", "tabla, slowed", "naïve ☃ lamp"]
    made = backbone(*catalogue)
    texts = [ASKED._replace(target=("next:", words)) for words in catalogue * 3]
    said = write(made, texts, among=[catalogue] * len(texts))
    spelled = {" ".join(made.tokenizer.decode(made.tokenizer.segment(words))) for words in catalogue}
    assert {" ".join(parts) for parts in said} <= spelled and all(len(parts) == 1 for parts in said)
    alone = write(made, texts[:1], among=[["wool coat"]])
    assert alone == [["wool coat"]]
    some = write(made, texts, among=[catalogue] * len(texts), answers=3)
    assert all(len(set(parts)) == 3 and parts[0] in spelled for parts in some)
    assert write(made, texts[:1], among=[catalogue[:2]], answers=3)[0] in (
        ["silk bag", "silk bag party"],
        ["silk bag party", "silk bag"],
    )


def test_a_sentence_is_written_to_its_end_however_long():
    long = " ".join(["party"] * 60)
    assert write(backbone(), [ASKED], length=3, among=[[long]]) == [[long]]


@pytest.mark.parametrize("sentences", [[], [""], ["silk", " "]])
def test_nothing_to_say_is_an_error(sentences):
    with pytest.raises(InputError, match="nothing may be said"):
        write(backbone(), [ASKED], among=[sentences])


@pytest.mark.parametrize("among", [None, ["silk bag", "silk bag party", "wool coat"]])
def test_words_are_written_as_a_full_pass_reads_them(among):
    """Greedy: each token is the likeliest of the pass over all before it, and so are its score and its attention."""
    made, texts = backbone(*(among or ())), [ASKED, ASKED._replace(request="", target=("next:", "a", "b:", "c"))]
    write(made, texts, 6, -1, among and [among] * 2, trace=(steps := []), weights=True)
    for row, text in enumerate(texts):
        said = [int(step.tokens[row, 0]) for step in steps]
        said = said[: said.index(EOS) + 1] if EOS in said else said
        given = made.tokenizer.given(begun(text, -1))
        source = torch.from_numpy(made.tokenizer.encode([text]).source)
        out = made.network(source, torch.tensor([given + said]), weights=True)
        log_probs, score = out.logits[0].detach().log_softmax(-1), 0.0
        for i, token in enumerate(said):
            at = len(given) - 1 + i
            score += float(log_probs[at, token])
            assert float(steps[i].scores[row, 0]) == pytest.approx(score, abs=1e-4)
            if not among:
                may = [EOS, SEP, *range(len(PROMPT_SPECIAL), len(made.tokenizer))]
                assert token == may[int(log_probs[at, may].argmax())]
            seen = steps[i].weights[-1][row, 0]  # (H, Tk), with the padding of the longer row
            whole = out.weights[-1][0, :, source.shape[1] + at]
            torch.testing.assert_close(seen[seen > 0].sort().values, whole[whole > 0].sort().values)


def test_a_wider_beam_finds_what_is_likelier_and_draws_are_sentences_that_may_be_said():
    some = ["silk bag", "silk bag party", "wool coat", "linen shirt bold"]
    made, texts = backbone(*some), [ASKED] * 40
    scores = []
    for beam in (1, 8):
        write(made, texts[:1], among=[some], beam=beam, trace=(steps := []))
        scores.append(float(steps[-1].scores[0, 0]))
    assert scores[0] <= scores[1] + 1e-4  # of another batch: rounding
    drawn = [" ".join(parts) for parts in write(made, texts, among=[some] * 40, temperature=1.0)]
    assert set(drawn) <= set(some) and len(set(drawn)) > 1
    assert drawn == [" ".join(parts) for parts in write(made, texts, among=[some] * 40, temperature=1.0)]


def test_a_reason_names_what_the_item_has_and_what_was_read_and_is_true_where_both_have_it():
    made = ASKED._replace(history=("wool coat winter slim", "silk shirt"))
    assert tasks.reasons(made, FEATURES) == {
        "silk as in silk shirt": True,
        "party as in silk shirt": False,
        "silk as in wool coat winter slim": False,
        "party as in wool coat winter slim": False,
        "it is new": False,
    }  # the last purchase first; nothing of wool, which the item has not
    assert (
        tasks.reasons(ASKED, FEATURES)["it is new"] and tasks.reasons(made._replace(history=()), FEATURES)["it is new"]
    )


@pytest.fixture(scope="module")
def asked() -> dict[str, tasks.Task]:
    """All that can be asked of films with one of three genres."""
    data = small_data()
    genres = [("drama", "comedy", "western")[i % 3] for i in range(data.n_items)]
    texts = [f"{genre} number {i}" for i, genre in enumerate(genres)]
    known = prompts.domain(replace(data, items=data.items.assign(text=texts)))
    return tasks.tasks(known, np.arange(60), {"category": genres, "title": data.items["title"]}, set(genres))


def test_a_task_counts_its_own_target_right_and_nothing_wrong(asked):
    for name, task in asked.items():
        own = [[prompt.target[1 if name == "design" else -1]] for prompt in task.prompts]
        assert (task.evaluate(own) == 1).all() and not task.evaluate([[]] * 60).any(), name
        assert len(task.baseline) == 60 and 0 < task.evaluate(task.baseline).mean() < 1, name
        if task.allowed:
            for (answer,), may, simple in zip(own, task.allowed, task.baseline, strict=True):
                assert answer in may and (name == "next" or simple[0] in may), name


FROZEN = {
    "news": {
        "items.parquet": "7a54a2b26a842d67",
        "users.parquet": "5f6b790b75f25967",
        "interactions.parquet": "77f61753a3dbb7d9",
        "truth.parquet": "a6423265a7047dd5",
    },
    "posts": {
        "items.parquet": "68f5b289eabcff8c",
        "users.parquet": "f8861305ee0d6da0",
        "interactions.parquet": "35d9c1f4b3d7f040",
        "truth.parquet": "75529a797e2066d8",
    },
}


@pytest.mark.parametrize("name", FROZEN)
def test_simulated_sets_are_built_as_they_are_and_say_what_they_are(name, monkeypatch):
    files = {path.name: path.read_bytes() for path in sources.shipped(f"simulated/{name}").iterdir()}
    assert {file: hashlib.sha256(content).hexdigest()[:16] for file, content in files.items()} == FROZEN[name]
    assert sum(map(len, files.values())) < 100_000
    data = m6rec.load(f"simulated-{name}")
    assert (data.n_items, data.n_users) == (360, 600) and "simulated" in sources.SOURCES[data.name]["terms"]
    assert not data.events.duplicated(["user", "item"]).any() and (np.diff(data.offsets) >= 6).all()
    published = data.items["published"].to_numpy()[data.events["item"]]
    assert (data.events["timestamp"] >= published).all(), "nothing is read before it is there"
    assert all(len(words.split()) <= 8 for words in prompts.domain(data).items), "a prompt would cut it"
    split, ranks = data.split(), pd.read_parquet(sources.shipped(f"simulated/{name}") / "truth.parquet")
    best = np.where(ranks["rank"] <= 10, 1 / np.log2(1 + ranks["rank"]), 0).mean()
    counted = m6rec.evaluate(Popularity().fit(data, split), data).metrics["ndcg@10"]
    assert ranks["user_id"].tolist() == data.users["user_id"].tolist() and best > 0.4 > 0.1 > counted
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "data")
    import build_text

    social = name == "posts"
    rng = np.random.default_rng([build_text.SEED, 10 + social])
    goods = build_text.catalogue(build_text.POSTS if social else build_text.NEWS, social, rng)
    users, *known = (part[:20] for part in build_text.readers(goods, social, rng))
    events, _ = build_text.simulate(goods, users, *known, *build_text.EVENTS[name])
    assert goods.items["text"].tolist() == data.items["text"].tolist()
    assert (data.item_codes(events["item_id"]) == data.events["item"][: len(events)]).all()


def test_a_domain_without_a_text_is_refused():
    data = small_data()
    bare = m6rec.Dataset.from_frames(
        data.items.assign(text="", title="")[["item_id", "title", "text"]],
        None,
        data.events.assign(user_id=data.events["user"], item_id=data.items["item_id"].to_numpy()[data.events["item"]])[
            ["user_id", "item_id"]
        ],
        name="mute",
    )
    with pytest.raises(InputError, match="mute has no text"):
        prompts.domain(bare)


def test_what_is_held_out_is_never_read():
    data = small_data()
    newcomers = np.arange(0, data.n_users, 3)
    out = ColdStart(data, np.arange(10), newcomers)
    seen = prompts.domain(out.train, out.train.split().train)
    assert not np.isin(seen.item, out.items).any() and not np.isin(seen.user, newcomers).any()
    last = {int(data.events["user"][row]): row for row in (*out.split.valid, *out.split.test)}
    for row in out.shots:
        user = int(data.events["user"][row])
        assert data.events["item"][row] < 10 and user not in newcomers and row < last.get(user, data.n_events)
    for case in ("cold", "cold_both", "cold_any", "cold_last"):
        rows = out.cases[case][0]
        user, item = data.events["user"].to_numpy()[rows], data.events["item"].to_numpy()[rows]
        assert len(rows) and ((item < 10) == (case != "cold_last")).all()
        if case != "cold_any":
            assert (np.isin(user, newcomers) == (case != "cold")).all()


def test_few_examples_teach_a_domain_and_leave_the_backbone_alone():
    data = small_data()
    out, films = ColdStart(data, np.arange(20)), prompts.domain(data)
    config = text_training.config(**{**TEXT, "width": 16, "vocabulary": 300})
    made = text_training.pretrain([prompts.domain(m6rec.load("simulated-posts"))], config, whole=True)
    before = made.network.tokens.weight.clone()
    few = [tasks.few_shot(made, films, out.shots[:40], out.items, scratch=scratch) for scratch in (False, True)]
    again, other = (scorer.backbone for scorer in few)
    assert torch.equal(before, made.network.tokens.weight) and not torch.equal(before, again.network.tokens.weight)
    assert not torch.equal(again.network.tokens.weight, other.network.tokens.weight)
    assert out.ndcg(few, "cold", first=3).shape == (2, 3) and out.ndcg(few, "cold").mean() > 0


def test_items_meet_a_catalogue_as_they_meet_a_batch_that_holds_it():
    """One batch in which every item of the catalogue comes once: both ways have the same answers to choose among."""
    made = backbone()
    items = ["silk bag", "wool coat", "party", "linen shirt bold"]
    tokens = made.tokenizer.encode([Prompt(profile="age", target=tuple(items))])
    own = losses.text(made.network, tokens)["contrastive"]
    torch.testing.assert_close(
        losses.text(made.network, tokens, losses.catalogue_of(items, made.tokenizer))["contrastive"], own
    )
    more = losses.catalogue_of([*items, "tabla"], made.tokenizer)
    assert losses.text(made.network, tokens, more)["contrastive"] > own
    unknown = losses.text(made.network, tokens, losses.catalogue_of(["tabla", "linen"], made.tokenizer))["contrastive"]
    assert unknown == 0


class Knows:
    """Scores the target by `right` and all else by 0."""

    def __init__(self, right: float):
        self.right = right

    def scores(self, users) -> np.ndarray:
        return self.right * (np.arange(users.data.n_items) == users.items[:, None])


def test_a_priors_weight_is_chosen_on_the_other_trials():
    data = small_data()
    trials = {
        "good prior": (ColdStart(data, np.arange(12)), [Knows(-9.0)], Knows(1.0)),
        "bad prior": (ColdStart(data, np.arange(12, 24)), [Knows(1.0)], Knows(0.0)),
    }
    found = beside(trials, (0.0, 100.0))
    model, prior, both = found["good prior"]
    assert (prior == 1).all() and (both == model).all(), "the other trial does without its prior, if both tie the first"
    assert all(part.shape[-1] == len(trials[name][0].cases["cold_any"][0]) for name in found for part in found[name])


def test_ranking_counts_what_is_found_and_half_of_what_ties():
    data, rows = small_data(), ColdStart(small_data(), []).cases["warm"][0]
    others = (data.events["item"].to_numpy()[rows] + 1) % data.n_items
    right = tasks.ranking(Knows(1.0), data, rows, others, k=10)
    assert (right["retrieval"] == 1).all() and (right["scoring"] == 1).all()
    assert (tasks.ranking(Knows(0.0), data, rows, others, k=10)["scoring"] == 0.5).all()
