"""The measuring of speed on toy sizes: what is measured and how it is counted, never how long it took."""

from __future__ import annotations

import json
import math

import pytest
import torch

from m6rec.generate.beam import generate
from m6rec.model.tree import health
from m6rec.runs.bench import speed, step


def test_the_synthetic_catalogue_is_a_whole_balanced_tree_of_the_models_own_widths():
    decoder, vectors = speed.catalogue(500, width=8)
    assert vectors.shape == (500, 8) and decoder.widths == (9, 9, 9)
    assert sorted(decoder.item[decoder.item >= 0].tolist()) == list(range(500))
    rows = health(decoder.tree)
    assert rows[-1].unique == 1 and rows[0].largest - rows[0].smallest <= 1
    found = generate(decoder, torch.randn(3, 8), 10, beam=20)
    assert (found.items.sort(1).values.diff(dim=1) > 0).all()


def test_lists_per_second_counts_every_list_of_the_batch():
    decoder, _ = speed.catalogue(50, width=8)
    rate = speed.lists_per_second(decoder, torch.randn(4, 8), k=3, beam=5, seconds=0.02)
    assert rate.batch == 4 and rate.calls >= 3 and rate.threads == torch.get_num_threads()
    assert 4 < rate.lists_per_second < math.inf


def test_the_best_rate_is_that_of_one_of_the_batches(monkeypatch):
    monkeypatch.setattr(speed, "BATCHES", (1, 4))
    rate = speed.best_rate(speed.catalogue(50, width=8)[0], torch.randn(4, 8), k=3, beam=5, seconds=0.01)
    assert rate.batch in (1, 4) and rate.lists_per_second > 0


@pytest.mark.parametrize("sampled", [10**6, 100])
def test_growth_has_a_row_for_each_size_and_counts_bytes(monkeypatch, sampled):
    monkeypatch.setattr(speed, "WHOLE", sampled)  # both losses
    monkeypatch.setattr(speed, "POSITIONS", 8)
    rows = speed.growth((50, 400), width=8, batch=4, k=3, beam=5, seconds=0.01)
    assert [row.items for row in rows] == [50, 400] and [len(row.widths) for row in rows] == [3, 3]
    for row in rows:
        assert row.bytes_dense == 8 * 4
        leaves = math.prod(row.widths)
        nodes = leaves + leaves // row.widths[2] + row.widths[0]
        assert row.bytes_generated == (nodes * 9 * 4 + 8 * leaves + 8 * row.items) / row.items
        measured = row.generated_ms, row.generated_batch_ms, row.dense_ms, row.dense_batch_ms, row.loss_ms, row.step_ms
        assert all(value > 0 for value in measured)
        assert (
            (row.faiss_ms is None) == (row.faiss_batch_ms is None) == (row.ivf_ms is None) == (row.ivf_recall is None)
        )


def test_the_products_taken_down_are_those_that_pytorch_counts(trained):
    before = {name: value.clone() for name, value in trained.network.state_dict().items()}
    for stage in ("pretrain", "fine_tune"):
        share = step.gemm_fraction(trained, stage=stage, steps=2, repeats=1)
        assert share.shapes["flops"].sum() == pytest.approx(share.flops)
        assert share.shapes["seconds"].sum() == pytest.approx(share.products_seconds)
        assert share.fraction == pytest.approx(share.products_seconds / share.step_seconds) and share.cpu_fraction > 0
        assert share.gflops < share.peak_gflops or share.fraction >= 1
    assert all(torch.equal(value, before[name]) for name, value in trained.network.state_dict().items())


def test_a_product_by_hand_is_counted_once():
    with step._Products() as products:
        torch.randn(3, 4) @ torch.randn(4, 5)
        torch.nn.Linear(4, 7)(torch.randn(2, 3, 4))
        torch.randn(2, 3, 4) @ torch.randn(2, 4, 5)
    assert dict(products.shapes) == {(1, 3, 4, 5): 1, (1, 6, 4, 7): 1, (2, 3, 4, 5): 1}


def test_the_profile_names_the_costliest_operations(trained, tmp_path):
    table = step.profile_step(trained, steps=1, rows=8, trace=tmp_path / "trace.json")
    assert list(table.columns) == ["operation", "calls", "self_ms", "share"] and len(table) == 8
    assert table["self_ms"].is_monotonic_decreasing and 0 < table["share"].sum() <= 1
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
