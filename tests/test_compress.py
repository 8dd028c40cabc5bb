"""M6-Edge: a student, pruned weights, early exits, int8 and ONNX keep what they say they keep."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest
import torch
from fixtures import DEPTH, SEGMENTS, requests

from m6rec.errors import InputError
from m6rec.model.text_model import TextTransformer
from m6rec.train import compress, losses
from m6rec.train.checkpoint import version
from m6rec.train.compress import Variants


def test_the_student_has_one_block_for_all_layers(segmented, network):
    small = TextTransformer(SEGMENTS, len(segmented.tokenizer), scores=True, shared=True, embedding_size=4)
    block = compress.parameters(network.blocks[0])
    assert compress.parameters(network) - compress.parameters(small) > (DEPTH - 1) * block
    assert small.depth == DEPTH and len(small.blocks) == 1
    windows = requests(segmented)
    small.scores(windows).sum().backward()
    assert small.blocks[0].q.weight.grad.abs().sum() > 0


def test_the_first_layers_are_the_teachers(segmented, network):
    short = compress.first_layers(network, dataclasses.replace(SEGMENTS, joint_layers=2)).eval()
    windows = requests(segmented)
    torch.testing.assert_close(next(short.exits(windows)).logits, next(network.exits(windows)).logits)


def test_pruning_ends_at_its_share_and_the_zeros_stay(segmented, network):
    pruning = compress.Pruning(network, 0.8, steps=50)
    shares = []

    def loss(net, windows):
        pruning.step()
        weight = net.blocks[0].q.weight
        shares.append(float((weight == 0).float().mean()))
        return losses.exit_losses()(net, windows)

    compress.train(network, segmented, loss, SEGMENTS, name="pruned", epochs=1, keep=False)
    pruning.finish()
    assert shares == sorted(shares) and 0.05 < shares[1] < 0.3 and abs(shares[-1] - 0.8) < 0.01  # gradually
    assert not any("parametriz" in name for name in network.state_dict())
    for module in pruning.places:
        assert abs(float((module.weight == 0).float().mean()) - 0.8) < 0.05
    with pytest.raises(InputError, match="cannot be pruned"):
        compress.Pruning(network, 1.0, steps=5)


def test_pruning_keeps_the_largest(network):
    before = network.blocks[0].q.weight.detach().clone()
    pruning = compress.Pruning(network, 0.5, steps=1)
    pruning.step()
    pruning.finish()
    kept = network.blocks[0].q.weight != 0
    assert before[kept].abs().min() >= before[~kept].abs().max()


def test_a_candidate_leaves_at_the_first_exit_that_is_sure():
    every = np.array([[0.1, 2.0, -3.0], [0.2, -0.3, 0.1], [-1.5, 0.0, 0.0], [0.4, 9.0, 9.0]])
    left = compress.early_exit(every, 1.0)
    assert left.logits.tolist() == [-1.5, 2.0, -3.0] and left.layers.tolist() == [3, 1, 1]
    assert left.saved(4) == pytest.approx(1 - 5 / 12)
    assert compress.early_exit(every, 100.0).layers.tolist() == [4, 4, 4]


def test_the_served_rule_is_the_rule_and_runs_fewer_layers(segmented, network):
    windows = requests(segmented)
    every = compress.logits(network, segmented, segmented.test, every=True)[:, :5]
    threshold = float(np.quantile(np.abs(every), 0.5))
    wanted = compress.early_exit(every, threshold)
    for row in range(5):
        one = type(windows)(*(part[row : row + 1] for part in windows))
        said, layers = compress.serve_early_exit(network, one, threshold)
        np.testing.assert_allclose(said[0].numpy(), wanted.logits[row], atol=1e-5)
        assert layers == wanted.layers[row].max()
    assert wanted.layers.min() < DEPTH


def test_the_threshold_keeps_the_quality_that_was_asked_for():
    rng = np.random.default_rng(0)
    liked = rng.random(2000) < 0.5
    every = np.stack([(liked - 0.5) * strength + rng.normal(0, 1, 2000) for strength in (0.5, 1.0, 2.0, 4.0)])
    quality = lambda scores: compress.auc(scores, liked)  # noqa: E731
    threshold = compress.exit_threshold(every, quality, keep=0.95)
    left = compress.early_exit(every, threshold)
    assert quality(left.logits) >= 0.95 * quality(every[-1]) and 0.1 < left.saved(4) < 0.75


def test_onnx_and_int8_give_what_the_network_gives(segmented, tmp_path):
    torch.manual_seed(0)
    network = TextTransformer(
        dataclasses.replace(SEGMENTS, joint_layers=2),
        len(segmented.tokenizer),
        scores=True,
        shared=True,
        embedding_size=4,
    ).eval()
    windows = requests(segmented)
    file = compress.export(network, requests(segmented, 2), tmp_path / "edge.onnx")
    assert file.stat().st_size < 300_000  # no stack traces, one copy of the block
    said, wanted = (
        compress.Runtime(file)(windows),
        network.scores(windows).detach().numpy(),
    )  # more windows than it was traced
    one = compress.Runtime(file)(windows._replace(candidates=windows.candidates[:1, :1], source=windows.source[:1]))
    np.testing.assert_allclose(one, wanted[:1, :1], atol=1e-5)
    np.testing.assert_allclose(said, wanted, atol=1e-5)
    rounded = compress.Runtime(compress.quantise(file, tmp_path / "int8.onnx"))(windows)
    assert 0 < np.abs(rounded - wanted).max() < 0.2 * np.ptp(wanted) and wanted.std() > 1e-3


def test_without_the_extra_the_installing_command_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"m6rec\[edge\]"):
        compress.Runtime(tmp_path / "no.onnx")


def test_a_family_trains_each_network_once_and_finds_it_again(segmented, tmp_path, monkeypatch):
    monkeypatch.setenv("M6REC_HOME", str(tmp_path))
    config = dataclasses.replace(SEGMENTS, joint_layers=2)

    def versions():
        variants = Variants(segmented, config, epochs=1, tune=1, steps=4)
        made = [variants.full(), variants.late(1), variants.distilled(1), variants.edge(depth=2), variants.pruned(0.5)]
        assert variants.edge() is made[3] and variants.pruned(0.5) is made[4] and variants.late(1) is made[1]
        return [version(network) for network in made]

    first, files = versions(), sorted((tmp_path / "models").iterdir())
    assert len(set(first)) == 5 and len(files) == 7  # a base and the relations too
    assert versions() == first and sorted((tmp_path / "models").iterdir()) == files
    other = Variants(segmented, config, epochs=2, tune=1, steps=4)
    assert version(other.edge(depth=2)) != first[3]  # another teacher
