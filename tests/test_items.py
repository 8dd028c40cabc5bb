"""Text, image and sound become one vector, by three fusions of one size; what is absent has no say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fixtures import small_model
from torch import nn

from m6rec.config import FUSIONS, MODALITIES, Config, InputError
from m6rec.data.features import Features
from m6rec.model.network import ItemEncoder, Network
from m6rec.train import losses

N, L = 24, 6


def features(seed: int = 0) -> Features:
    """Random content; the first eight items have all modalities, then each has some."""
    rng = np.random.default_rng(seed)
    there = rng.random((N, 3)) < 0.6
    there[:8] = True
    there[:, 0] |= ~there.any(1)
    text = rng.integers(5, 300, (N, L)) * there[:, :1]
    image = rng.random((N, 16, 49), dtype=np.float32) * there[:, 1, None, None]
    sound = rng.random((N, 8, 128), dtype=np.float32) * there[:, 2, None, None]
    return Features(text, image, sound, there)


def network(**changes: object) -> Network:
    """A network over the random content, loud enough that a difference is seen."""
    plain = small_model()
    config = Config.preset("small", **{"width": 16, "dropout": 0.0, "infill_weight": 0.2, **changes})
    torch.manual_seed(0)
    made = Network(config, plain.fields, features(), 300).eval()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made


@torch.no_grad()
def vectors(made: Network, content: Features) -> torch.Tensor:
    return made.items(content.to(made.codes.device)).vectors


@pytest.mark.parametrize("fusion", FUSIONS)
def test_each_modality_counts_where_it_is_and_only_there(fusion):
    made, content = network(fusion=fusion), features()
    before = vectors(made, content)
    for number, name in enumerate(MODALITIES):
        muted = vectors(made, content.drop(name))
        changed = (muted - before).abs().amax(1) > 1e-4
        assert (changed.numpy() == content.present[:, number]).all(), name
        # What lies in the place of an absent modality is never read.
        true, other = content._asdict()[name], features(seed=1)._asdict()[name]
        here = content.present[:, number].reshape(-1, *[1] * (true.ndim - 1))
        swapped = content._replace(**{name: np.where(here, true, np.maximum(other, 5).astype(other.dtype))})
        torch.testing.assert_close(vectors(made, swapped), before)


def test_without_layers_an_item_is_a_bag_whose_order_says_nothing():
    made, content = network(local_layers=0), features()
    turned = content._replace(text=np.roll(content.text, 2, axis=1))
    torch.testing.assert_close(vectors(made, turned), vectors(made, content))
    assert not torch.allclose(vectors(network(), turned), vectors(network(), content), atol=1e-3)
    assert not torch.allclose(vectors(made, content.drop("image")), vectors(made, content), atol=1e-3)
    with pytest.raises(InputError, match="without attention: take 1 or more"):
        made.encode_items(weights=True)
    with pytest.raises(InputError, match='take fusion="joint"'):
        network(local_layers=0, fusion="gated")


@pytest.mark.parametrize("fusion", FUSIONS)
def test_items_never_see_each_other_and_their_attention_sums_to_one(fusion):
    made, content = network(fusion=fusion, local_layers=2), features()
    alone = torch.cat([vectors(made, content.take(np.array([i]))) for i in range(N)])
    torch.testing.assert_close(alone, vectors(made, content), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        encoded = made.encode_items(weights=True)
    shares = encoded.modality_weights().numpy()
    # In "cross" the text asks and the others answer: where there is no other, nobody does.
    answered = content.present[:, 1:].any(1) if fusion == "cross" else np.ones(N, dtype=bool)
    assert np.allclose(shares.sum(1), answered, atol=1e-4) and (shares[~content.present] == 0).all()
    assert fusion != "cross" or (shares[:, 0] == 0).all()


def test_the_fusions_have_the_same_size_and_differ():
    made = {fusion: network(fusion=fusion) for fusion in FUSIONS}
    sizes = [sum(p.numel() for p in m.items.parameters()) for m in made.values()]
    assert max(sizes) / min(sizes) < 1.05
    joint, gated, cross = (vectors(m, features().take(np.arange(8))) for m in made.values())
    assert (joint - cross).abs().max() > 1e-3 and (joint - gated).abs().max() > 1e-3


def test_the_masks_of_the_fusions_against_a_slow_definition():
    from m6rec.model.attention import item_mask

    kind = torch.tensor([0, 0, 1, 1, 2])
    present = torch.tensor([[True, True, True, False, True]])
    rules = {
        "joint": lambda q, k: True,
        "gated": lambda q, k: kind[q] == kind[k],
        "cross": lambda q, k: q == k or kind[q] != kind[k],
    }
    for fusion, sees in rules.items():
        mask = item_mask(present, kind, fusion).expand(1, 1, 5, 5)
        for q in range(5):
            for k in range(5):
                assert bool(mask[0, 0, q, k]) == bool(sees(q, k) and present[0, k]), (fusion, q, k)


def test_modality_dropout_hides_some_and_never_the_last():
    encoder, content = network(modality_dropout=0.9).items, features().to(torch.device("cpu"))
    torch.manual_seed(0)
    kept = encoder._drop_modalities(content).present
    assert kept.any(1).all() and not (kept & ~content.present).any() and kept.sum() < content.present.sum()


def test_catalogue_dropout_hides_the_same_modalities_of_all_items_in_some_training_steps(monkeypatch):
    made = network(catalogue_dropout=0.5, modality_dropout=0.0)
    torch.manual_seed(0)
    assert {made.items.hidden_modalities() for _ in range(20)} == {()}, "never outside training"
    made.train()
    drawn = [frozenset(made.items.hidden_modalities()) for _ in range(300)]
    assert len(set(drawn)) == 7 and frozenset(MODALITIES) not in drawn and 0.4 < drawn.count(frozenset()) / 300 < 0.6
    served = made.encode_items(drop=("text", "sound")).vectors
    monkeypatch.setattr(ItemEncoder, "hidden_modalities", lambda self: ("text", "sound"))
    torch.testing.assert_close(made.encode_items().vectors, served)


def test_the_catalogue_is_encoded_kind_by_kind_as_if_it_were_at_once():
    made, content = network(identity=False), features()
    at_once = vectors(made, content)
    torch.testing.assert_close(made.encode_items().vectors, at_once)
    torch.testing.assert_close(made.encode_items(weights=True).vectors, at_once)
    muted = made.encode_items(drop=("text", "image")).vectors
    torch.testing.assert_close(muted, vectors(made, content.drop("text", "image")))
    groups = made.groups
    assert sorted(np.concatenate(list(groups.values()))) == list(range(N))
    assert {kind[1:] for kind in groups} > {("text", "image", "sound"), ("text",)}


def test_items_of_one_content_are_read_once_and_short_titles_without_padding(monkeypatch):
    content, plain = features(), small_model()
    alike = content.take(np.array([0, 1, 2, 2, 1, 0, 0, 3]))
    alike = alike._replace(text=np.pad(alike.text, ((0, 0), (0, 24 - L))))
    torch.manual_seed(0)
    made = Network(Config.preset("small", width=16), plain.fields, alike, 300).eval()
    read = []
    monkeypatch.setattr(made.items, "forward", lambda some, **k: read.append(some) or type(made.items).forward(
        made.items, some, **k))  # fmt: skip
    found = made.encode_items().vectors
    assert sum(len(some.text) for some in read) == 4 and {some.text.shape[1] for some in read} == {8}
    torch.testing.assert_close(found, vectors(made, alike) + made.items.id_embedding(made.codes))
    own = made.items.identity.weight  # what is one content is still two items
    torch.testing.assert_close(found[2] - found[3], own[2] - own[3])
    few = torch.tensor([1, 3, 4])
    torch.testing.assert_close(made.encode_items(only=few).vectors, found[few])


def test_hidden_patches_are_not_seen_and_their_error_is_what_is_taught():
    made, content = network(), features()
    known = content.to(made.codes.device)
    hidden = {
        m: losses.hide_patches(N, getattr(content, m).shape[1], np.random.default_rng(0)) for m in ("image", "sound")
    }
    assert all((h.sum(1) == h.shape[1] // 2).all() for h in hidden.values())
    with torch.no_grad():
        before = made.patch_decoder.patches(made.items, known, hidden)
        other = known._replace(image=torch.where(hidden["image"][..., None], torch.rand_like(known.image), known.image))
        after = made.patch_decoder.patches(made.items, other, hidden)
        seen = known._replace(image=torch.where(hidden["image"][..., None], known.image, torch.rand_like(known.image)))
        moved = made.patch_decoder.patches(made.items, seen, hidden)
    torch.testing.assert_close(after, before)
    assert (moved["sound"] - before["sound"])[:8].abs().max() > 1e-4  # and modalities help each other


def test_the_patch_loss_is_a_share_of_the_mean_patch_s_error_however_few_have_the_modality():
    made = network()
    for count in (1, 8):
        some = features().take(np.arange(8)).drop("image", "sound")
        there = some.present.copy()
        there[:count, 1:] = True
        taught = losses.reconstruction(made, some._replace(present=there), np.random.default_rng(0))
        assert all(0.1 < float(loss.detach()) < 1e4 for loss in taught.values()), (count, taught)


def test_every_content_loss_goes_down_and_can_be_switched_off():
    made = network(dropout=0.1)
    made.initialise()
    made.train()
    config = Config.preset("small", width=16, infill_weight=0.2)
    optimizer, rows = torch.optim.AdamW(made.parameters(), 3e-3), []
    for step in range(80):
        taught = losses.item_content(made, features(), config, np.random.default_rng(step))
        optimizer.zero_grad()
        sum(taught.values()).backward()
        optimizer.step()
        rows.append({name: float(loss.detach()) for name, loss in taught.items()})
    assert set(rows[0]) == {"infill", "image", "sound", "align"}
    for name in ("infill", "align"):  # pixels are noise here: their loss has its floor at the mean patch
        assert np.mean([row[name] for row in rows[-10:]]) < 0.9 * np.mean([row[name] for row in rows[:10]]), name
    off = Config.preset("small", width=16, infill_weight=0, patch_weight=0, align_weight=0)
    assert losses.item_content(made, features(), off, np.random.default_rng(0)) == {}


def test_a_caption_is_written_from_the_other_modalities_alone():
    source, target = losses.corrupt(features().text, np.random.default_rng(0), whole=np.arange(N) < 8)
    assert (source[:8, 0] == 2).all() and (source[:8, 1:] == 0).all()
    assert (target[:8, 1 : L + 1] == features().text[:8]).all()
    assert (source[8:] > 2).any()


def test_an_unknown_fusion_or_modality_is_refused():
    with pytest.raises(InputError, match="joint, gated, cross"):
        Config.preset("tiny", fusion="early")
    with pytest.raises(InputError, match="text, image, sound"):
        Config.preset("tiny", modalities=("smell",))
    with pytest.raises(InputError, match="text, image, sound"):
        features().drop("smell")


def test_a_modality_that_the_data_lack_costs_no_parameter():
    plain = small_model().network
    assert plain.patch_decoder is None and not plain.items.patches
    assert isinstance(plain.items, ItemEncoder) and plain.items.modalities == ["text"]
