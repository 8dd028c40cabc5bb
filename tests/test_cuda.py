"""On a machine with a GPU: it computes what the CPU does, in bf16 too. Without one: `make cuda`'s measurements run."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import test_device
import test_golden
import torch
from fixtures import small_data, small_model

import m6rec
from m6rec.config import pick_device

FILE = Path(__file__).resolve().parents[1] / "notebooks" / "measure_gpu.py"
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


@pytest.fixture(scope="module")
def cuda():
    spec = importlib.util.spec_from_file_location("measure_gpu", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def untimed() -> m6rec.Dataset:
    """Without requests, so that no step draws which of their fields to hide."""
    data = small_data()
    events = data.events.assign(
        user_id=data.users["user_id"].to_numpy()[data.events["user"]],
        item_id=data.items["item_id"].to_numpy()[data.events["item"]],
    )
    return m6rec.Dataset.from_frames(data.items, None, events[["user_id", "item_id"]])


def trained(device: str, precision: str = "fp32") -> list[float]:
    """The losses of a training that draws nothing on the device."""
    still = dict(dropout=0.0, modality_dropout=0.0, infill_weight=0.0, request=False)
    model = small_model(untimed(), device=device, precision=precision, **still)
    rows = [*model.pretrain(), *model.fine_tune()]
    assert {p.device.type for p in model.network.parameters()} == {torch.device(device).type}
    assert {p.dtype for p in model.network.parameters()} == {torch.float32}
    return [loss for row in rows for loss in row.losses.values()]


@needs_gpu
def test_a_training_on_the_gpu_loses_what_one_on_the_cpu_does():
    np.testing.assert_allclose(trained("cuda"), trained("cpu"), atol=1e-3)


@needs_gpu
def test_bf16_stays_near_fp32():
    assert pick_device() == torch.device("cuda", 0)
    np.testing.assert_allclose(trained("cuda", "bf16"), trained("cuda"), rtol=2e-2)


@needs_gpu
def test_scores_and_lists_are_the_cpus(cuda, monkeypatch):
    monkeypatch.setenv("M6REC_DEVICE", "cuda")
    assert max(cuda.equality().values()) < cuda.ROOM


@needs_gpu
@pytest.mark.parametrize("recipe", test_golden.RECIPES)
def test_every_recipe_trains_on_the_gpu(recipe, monkeypatch):
    monkeypatch.setenv("M6REC_DEVICE", "cuda")
    monkeypatch.setattr(test_golden, "DEVICE", "cuda")
    losses = test_golden.RECIPES[recipe]()
    assert len(losses) == test_golden.STEPS and np.isfinite(losses).all()


@needs_gpu
def test_every_verb_and_task_on_the_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("M6REC_DEVICE", "cuda")
    monkeypatch.setattr(test_golden, "DEVICE", "cuda")
    torch.cuda.reset_peak_memory_stats()
    test_device.verbs(tmp_path, "cuda")
    test_device.tasks()
    assert torch.cuda.max_memory_allocated() > 2**20, "something was computed there"


@pytest.mark.skipif(torch.cuda.is_available(), reason="make cuda runs them")
def test_what_make_cuda_measures_can_be_measured_here(cuda, monkeypatch):
    monkeypatch.setenv("M6REC_DEVICE", "cpu")
    monkeypatch.setattr(cuda, "ITEMS", 200)
    monkeypatch.setattr(cuda, "BATCHES", (1, 4))
    figures = cuda.training(small_data(), "fp32", steps=2, warm=1, preset="small") | cuda.decoding("fp32", 0.01, 16)
    assert set(figures) == {"step_ms", "tokens_per_second", "peak_mib", "lists_per_second"}
    assert all(math.isfinite(value) for value in figures.values()) and figures["lists_per_second"] > 0
    assert cuda.equality(users=3) == {"dense": 0.0, "generated": 0.0}
    assert cuda.main() == 1  # one sentence, and nothing is written
