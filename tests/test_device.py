"""Everything on another device than the CPU: what fails on `second_device` would fail on a GPU.

A process of its own, in forks, runs every verb, every recipe of training, every task and the notebooks.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from fixtures import small_data, small_model
from IPython.core.interactiveshell import InteractiveShell

import m6rec
from m6rec.config import Config, InputError, pick_device, pick_precision
from m6rec.data.sources import home
from m6rec.record import recorded

HERE = Path(__file__).resolve().parent
NOTEBOOKS = sorted((HERE.parent / "notebooks").glob("*.ipynb"))
SECOND = {**os.environ, "M6REC_DEVICE": "second", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
SECOND["PYTHONPATH"] = os.pathsep.join([str(HERE.parent / "notebooks"), os.environ.get("PYTHONPATH", "")])  # refresh.py
needs_backend = pytest.mark.skipif(
    not torch.__version__.startswith("2.13."), reason="second_device is made for PyTorch 2.13's experimental backend"
)
READ = "aten::_local_scalar_dense"  # what .item(), float() and int() wait with


# ---- on the second device: `python tests/test_device.py folder` ------------------------------------------------------


def recipes() -> None:
    """The first losses of every recipe are the CPU's, and no step reads a number from the device."""
    import second_device
    import test_golden

    expected, backward, counts = json.loads(test_golden.FILE.read_text()), torch.Tensor.backward, []

    def counting(self: torch.Tensor, *args: object, **options: object) -> None:
        counts.append(second_device.calls[READ])
        assert second_device.on_second(self), "the loss lies on another device"
        backward(self, *args, **options)

    torch.Tensor.backward = counting
    for name, recipe in test_golden.RECIPES.items():
        begun = time.perf_counter()
        found = recipe()
        np.testing.assert_allclose(found, expected[name], rtol=0, atol=1e-3, err_msg=name)
        steps = np.diff(counts[-test_golden.STEPS :])
        assert (steps == 1).all(), f"{name} reads {steps - 1} numbers in a step"  # one is the test's own
        print(f"{name}: {time.perf_counter() - begun:.1f} s", flush=True)
    torch.Tensor.backward = backward


def verbs(folder: Path, device: str) -> None:
    """Every verb of M6Rec; a checkpoint and the list that it made are left in the folder."""
    from m6rec.explain.explainers import EXPLAINERS, capture

    model = small_model(device=device, pretrain_epochs=1, finetune_epochs=1)
    model.pretrain(folder=folder / "work")
    model.pretrain(folder=folder / "work", resume=True)
    model.fine_tune()
    assert {p.device.type for p in model.network.parameters()} == {device}
    asked = {"user": 105, "context": {"hour": 21}, "k": 5}
    for method in ("generated", "dense", "hybrid", "exact"):
        assert len(model.recommend(**asked, method=method)) == 5
        assert m6rec.evaluate(model.scorer(method), model.data).metrics["ndcg@10"] >= 0
    assert model.recommend(**asked, explain=True)["reason"].notna().all()
    assert len(model.recommend(history=[500, {"text": "film number 99 | drama"}], k=3)) == 3
    more = model.with_items(model.data.items.iloc[:1].assign(item_id=999, title="new"))
    assert 999 in more.recommend(105, k=more.data.n_items, seen=True)["item_id"].tolist()
    assert model.item_vectors([{"text": "film"}]).device == model.scores(model.data.targets([3])).device == model.device
    context = model.extract_context(user=105, request={"hour": 21})
    for explain in EXPLAINERS.values():
        assert np.isfinite(explain(model, context, 3)).all()
    assert np.isfinite(capture(model, context).weights).all()
    model.save_pretrained(folder / "model")
    (folder / "list.json").write_text(json.dumps(model.recommend(**asked)["item_id"].tolist()))
    print("every verb", flush=True)


def tasks() -> None:
    """A backbone ranks and writes; segments are served from a cache and leave early."""
    import test_golden

    from m6rec.data.prompts import domain
    from m6rec.generate import SegmentCache, score, write
    from m6rec.model.network import TextTransformer
    from m6rec.tasks.text import DotProduct, Likelihood, log_likelihood
    from m6rec.train import compress

    made, data = test_golden.backbone(), test_golden.rated()
    known, users = domain(data), data.targets(data.split().test[:5])
    for scorer in (DotProduct(made, known), Likelihood(made, known, np.arange(4))):
        assert torch.as_tensor(scorer.scores(users)).shape == (5, data.n_items)
    prompts = list(known.windows(np.random.default_rng(0)))[:3]
    assert np.isfinite(log_likelihood(made, prompts[0], list(known.items[:3]))).all()
    assert len(write(made, prompts)) == len(write(made, prompts, among=[["film"]] * 3)) == 3
    shop = test_golden.segmented()
    network = TextTransformer(test_golden.SEGMENTS, len(shop.tokenizer), scores=True).to(pick_device()).eval()
    windows = shop.requests(shop.test)
    cache = SegmentCache(network, 2)
    served = [score(cache, windows.source[0], windows.candidates[0]) for _ in range(2)]  # computed, then found
    assert max(float((one - network.scores(windows, 2)[0].detach()).abs().max()) for one in served) < 1e-5
    assert np.isfinite(compress.exit_logits(network, windows)).all()
    assert compress.early_exit(network.exits(windows), 0.0).layers.max() == 1
    print("every task", flush=True)


def notebook(path: Path, folder: Path) -> None:
    """Its cells at smoke."""
    os.environ |= {
        "M6REC_RECORD": str(folder / f"{path.stem}.json"),
        "IPYTHONDIR": str(folder / f"{path.stem}-ipython"),
    }
    os.chdir(path.parent)
    shell = InteractiveShell.instance()
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "code":
            smoke = '\nscale = "smoke"' * ("parameters" in cell.metadata.get("tags", ()))
            shell.run_cell(cell.source + smoke).raise_error()


def fork(job: Callable[..., None], args: tuple, log: Path) -> multiprocessing.Process:
    """A job in a fork of this process, as importing takes longer than most of them; what it writes goes to the log."""

    def run() -> None:
        for kind, descriptor in ((".out", 1), (".err", 2)):
            os.dup2(os.open(log.with_suffix(kind), os.O_CREAT | os.O_WRONLY), descriptor)
        job(*args)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def everything(folder: Path) -> None:
    """Two jobs at a time; each leaves its exit code."""
    from librosa.feature import melspectrogram  # noqa: F401
    from sklearn.linear_model import LogisticRegression  # noqa: F401

    import m6rec.runs.bench
    import m6rec.tasks.text
    import m6rec.view.widgets  # noqa: F401

    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])  # imports PyTorch's compiler
    jobs = {"recipes": (recipes, ()), "verbs": (verbs, (folder, "second")), "tasks": (tasks, ())}
    jobs = {path.stem: (notebook, (path, folder)) for path in NOTEBOOKS} | jobs  # the longest last: they start first
    running = {}
    while jobs or running:
        while jobs and len(running) < 2:
            name, (job, args) = jobs.popitem()
            running[name] = fork(job, args, folder / f"{name}.log")
        for name in [name for name, process in running.items() if not process.is_alive()]:
            (folder / f"{name}.code").write_text(str(running.pop(name).exitcode))
        time.sleep(0.1)


# ---- and from outside ------------------------------------------------------------------------------------------------


def fresh(folder: Path) -> str:
    """An M6REC_HOME without checkpoints."""
    (folder / "home").mkdir()
    for kept in ("data", "features"):
        (home() / kept).mkdir(parents=True, exist_ok=True)
        (folder / "home" / kept).symlink_to(home() / kept)
    return str(folder / "home")


@needs_backend
def test_every_verb_recipe_task_and_notebook_on_a_second_device(tmp_path, python):
    command, begun, names, failed = [*python, __file__, tmp_path], time.perf_counter(), set(), {}
    done = subprocess.run(command, env=SECOND | {"M6REC_HOME": fresh(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    for stem in ("recipes", "verbs", "tasks", *(path.stem for path in NOTEBOOKS)):
        code, out, err = ((tmp_path / f"{stem}.{kind}").read_text() for kind in ("code", "out", "err"))
        if code != "0" or (err and stem[0].isdigit()):  # a notebook is silent
            failed[stem] = out[-3000:] + err[-3000:]
        elif stem[0].isdigit():
            figures = recorded(tmp_path / f"{stem}.json")
            assert not names & figures.keys(), f"{stem} records a name of another notebook"
            names |= figures.keys()
    print(f"[device.notebooks] all but {len(failed)} in {time.perf_counter() - begun:.0f} s")
    assert not failed, "\n".join(f"{name}: {why}" for name, why in failed.items())
    # What it saved loads here, and says the same.
    here = m6rec.M6Rec.from_pretrained(tmp_path / "model", small_data())
    assert here.device == pick_device()
    expected = json.loads((tmp_path / "list.json").read_text())
    assert here.recommend(105, context={"hour": 21}, k=5)["item_id"].tolist() == expected


def test_a_device_that_is_not_here_is_one_sentence(monkeypatch):
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match='device="cuda" was asked for, but PyTorch finds none here: take'):
            pick_device("cuda")
    with pytest.raises(InputError, match='device="toaster" was asked for, but PyTorch finds none here: take'):
        small_model(device="toaster")
    monkeypatch.setenv("M6REC_DEVICE", "cpu")
    assert pick_device() == torch.device("cpu")
    monkeypatch.setenv("M6REC_DEVICE", "toaster")
    with pytest.raises(InputError, match=r"PyTorch finds none here: take .* or unset M6REC_DEVICE"):
        pick_device()
    assert pick_device("cpu") == torch.device("cpu")  # what a config names is not overridden


def test_changed_defaults_of_pytorch_are_told_and_gradients_are_on_where_a_model_is_taught():
    for change, back in ((torch.set_default_dtype, torch.float32), (torch.set_default_device, None)):
        change(torch.float64 if back else "meta")
        try:
            with pytest.raises(InputError, match="set PyTorch's defaults back to float32 and cpu"):
                small_model()
        finally:
            change(back)
    with torch.no_grad():
        assert len(small_model(pretrain_epochs=1).pretrain()) == 1


def test_precision_is_picked_by_the_device(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    with pytest.raises(InputError, match='precision="half" is unknown: take one of auto, fp32, bf16'):
        Config(precision="half")
    assert pick_precision("auto", cpu) == pick_precision("fp32", gpu) == torch.float32
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda emulated: True)
    assert pick_precision("auto", gpu) == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda emulated: False)
    assert pick_precision("auto", gpu) == torch.float32
    with pytest.raises(InputError, match='precision="bf16" was asked for, but this cuda does not have it: take "auto"'):
        pick_precision("bf16", gpu)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.raises(InputError, match='precision="bf16" was asked for, but this cpu does not have it: take "auto"'):
        pick_precision("bf16", cpu)


@pytest.mark.parametrize("changes", [{}, {"negatives": 8}, {"smoothing": 0.2, "spectral": 0.1}], ids=str)
def test_bf16_keeps_weights_and_losses_in_32_bits(changes, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)  # slow is enough here
    found = {}
    for precision in ("fp32", "bf16"):
        model = small_model(precision=precision, device="cpu", pretrain_epochs=1, finetune_epochs=1, **changes)
        found[precision] = [*model.pretrain()[-1].losses.values(), *model.fine_tune()[-1].losses.values()]
        assert {p.dtype for p in model.network.parameters()} == {torch.float32}
    assert found["fp32"] != found["bf16"]
    np.testing.assert_allclose(found["bf16"], found["fp32"], rtol=5e-3)


if __name__ == "__main__":
    import second_device  # noqa: F401  before torch computes anything

    everything(Path(sys.argv[1]))
