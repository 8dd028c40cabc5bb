"""Saving without pickle: tensors in safetensors, all else in JSON, and folders that appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from m6rec.errors import InputError
from m6rec.train import code


@dataclass
class TrainingState:
    """Where a stage of training stands, apart from its tensors."""

    stage: str
    config: str  # the config's fingerprint
    epoch: int
    best_epoch: int
    best: float
    seconds: float
    log: list[dict]
    steps: int = 0  # of all epochs: how fast the averaged weights follow


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Fill a temporary folder beside `folder`, then put it in its place: a reader sees the old one or the new one."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield new
        old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent)) / "old"
        if folder.exists():
            os.replace(folder, old)
        os.replace(new, folder)
        shutil.rmtree(old.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def save_tensors(tensors: dict[str, Tensor], file: Path) -> None:
    """Write tensors to a safetensors file; shared and strided ones are copied first."""
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, file)


def load_tensors(file: Path) -> dict[str, Tensor]:
    """Read a safetensors file; a damaged one is an `InputError`."""
    try:
        return load_file(file)
    except Exception as error:
        raise InputError(f"{file} is missing or damaged ({error}): delete its folder and train again.") from error


def read_json(file: Path) -> dict:
    """Read a JSON file; a damaged one is an `InputError`."""
    try:
        return json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} is missing or damaged ({error}): delete its folder and train again.") from error


def save_model(folder: Path, network: nn.Module, tokenizer: Tokenizer, values: dict) -> None:
    """What a trained model is made of: weights, tokenizer, and all else as JSON values."""
    with whole_folder(folder) as new:
        save_tensors(network.state_dict(), new / "model.safetensors")
        tokenizer.save(str(new / "tokenizer.json"))
        (new / "config.json").write_text(json.dumps({"format": 1, **values}, indent=1), encoding="utf-8")


def load_model(folder: Path) -> tuple[dict[str, Tensor], Tokenizer, dict]:
    """What `save_model` wrote; `InputError` where it is missing, damaged or of another version."""
    if not folder.is_dir():
        raise InputError(f"there is no checkpoint at {folder}: name a folder that save_pretrained wrote.")
    values = read_json(folder / "config.json")
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # tokenizers raises nothing more special
        raise foreign(folder, error) from error
    return load_tensors(folder / "model.safetensors"), tokenizer, values


def foreign(folder: Path, error: Exception) -> InputError:
    """What to say of a folder that holds something else."""
    return InputError(f"{folder} is no m6rec checkpoint, or one of another version ({error}): train it again.")


def save_state(
    folder: Path,
    state: TrainingState,
    network: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    best: dict[str, Tensor],
    rng: np.random.Generator,
) -> None:
    """Keep all that a bit-for-bit continuation needs."""
    tensors = {f"network.{k}": v for k, v in network.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in best.items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in values.items()}
    tensors["random.torch"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    with whole_folder(folder) as new:
        save_tensors(tensors, new / "state.safetensors")
        values = {**asdict(state), "rng": rng.bit_generator.state}
        (new / "state.json").write_text(json.dumps(values, indent=1), encoding="utf-8")


def load_state(
    folder: Path,
    expected: TrainingState,
    network: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    best: dict[str, Tensor],
    rng: np.random.Generator,
) -> TrainingState:
    """Put everything back as `save_state` found it. A checkpoint of another config or stage is refused."""
    values = read_json(folder / "state.json")
    if (values["stage"], values["config"], "steps" in values) != (expected.stage, expected.config, True):
        raise InputError(
            f"{folder} holds a checkpoint of another run (stage {values['stage']}, config {values['config'][:8]}; "
            f"asked for {expected.stage}, {expected.config[:8]}): name another folder, or train without resume."
        )
    tensors = load_tensors(folder / "state.safetensors")

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    network.load_state_dict(part("network."))
    average.load_state_dict(part("average."))
    best.update(part("best."))
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in part("optimizer.").items():
        index, name = key.split(".")
        moments.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    torch.set_rng_state(tensors["random.torch"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    rng.bit_generator.state = values.pop("rng")
    return TrainingState(**values)


def key(*parts: str, of: str) -> str:
    """A short hash of fingerprints and of all code that the module `of` depends on: other code's work is not used."""
    digest = hashlib.sha256("".join(parts).encode())
    for file in code.files(of):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def remove(folder: Path) -> None:
    """Delete a folder that is not needed any more."""
    shutil.rmtree(folder, ignore_errors=True)
