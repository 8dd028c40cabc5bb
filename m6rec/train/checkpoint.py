"""Saving without pickle: tensors in safetensors, all else in JSON, and folders that appear whole or not at all.

Every trained network is kept alike, by `save_model`; what a training needs to go on is kept by `save_state`.
"""

import hashlib
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import torch
from numpy.random import Generator
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from m6rec.cache import PART, whole
from m6rec.data.text import Tokenizer
from m6rec.errors import InputError

FORMAT = 1  # of saved models: it changes where older ones cannot be read any more
WEIGHTS, STATE = "model.safetensors", "state.safetensors"
T = TypeVar("T")


def claim(folder: Path) -> Path:
    """The absolute path of a folder to write to. `InputError` for a file, or for what somebody else keeps there."""
    folder = Path(folder).resolve()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: name a folder for the checkpoint.")
    others = folder.exists() and any(not f.name.startswith(PART) for f in folder.iterdir())
    if others and not _is_model(folder) and "state" not in _metadata(folder / STATE):
        raise InputError(f"{folder} holds other files and no checkpoint of this kind: name a new or an empty folder.")
    return folder


def _is_model(folder: Path) -> bool:
    with suppress(InputError, TypeError):
        return {"format", "config"} <= set(_json(folder))
    return False


def _metadata(file: Path) -> dict[str, str]:
    """What a safetensors file says of itself, nothing where it is missing or damaged."""
    with suppress(Exception), safe_open(file, "pt") as opened:
        return opened.metadata() or {}
    return {}


def _read(file: Path, by: Callable[[Path], T]) -> T:
    try:
        return by(file)
    except Exception as error:  # tokenizers and safetensors raise nothing more special
        raise InputError(f"{file} is missing or damaged ({error}): delete its folder and train again.") from error


def _json(folder: Path) -> dict:
    return _read(folder / "config.json", lambda file: json.loads(file.read_text(encoding="utf-8")))


def _save_tensors(tensors: dict[str, Tensor], file: Path, metadata: dict[str, str] | None = None) -> None:
    """Shared and strided tensors are copied first."""
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, file, metadata)


def save_model(folder: Path, network: nn.Module, tokenizer: Tokenizer | None, values: dict) -> None:
    """A trained network: weights, a tokenizer where it has one, and all else as JSON values. Raises as `claim`."""
    with whole(claim(folder)) as part:
        part.mkdir()
        _save_tensors(network.state_dict(), part / WEIGHTS)
        if tokenizer:
            tokenizer.save(part / "tokenizer.json")
        values = {"format": FORMAT, "m6rec": _version(), "sha256": _sha256(part), **values}
        (part / "config.json").write_text(json.dumps(values, indent=1), encoding="utf-8")


def load_model(folder: Path) -> tuple[dict[str, Tensor], Tokenizer | None, dict]:
    """What `save_model` wrote; `InputError` where it is missing, damaged or of another version."""
    if not folder.is_dir():
        raise InputError(f"there is no checkpoint at {folder}: name a folder that save_pretrained wrote.")
    values, words = _json(folder), folder / "tokenizer.json"
    if not _is_model(folder):
        raise InputError(f"{folder} is no m6rec checkpoint: name a folder that save_pretrained wrote.")
    if values["format"] != FORMAT:
        raise foreign(folder, values)
    weights = _read(folder / WEIGHTS, load_file)
    tokenizer = _read(words, Tokenizer.from_file) if words.exists() else None
    if values.get("sha256", _sha256(folder)) != _sha256(folder):
        raise InputError(f"{folder} is damaged, its files are of two checkpoints: delete the folder and train again.")
    return weights, tokenizer, values


def foreign(folder: Path, values: dict) -> InputError:
    """What to say of a checkpoint of another version."""
    wrote = values.get("m6rec", "0.1.0")
    return InputError(
        f"{folder} was written by m6rec {wrote}, whose models version {_version()} cannot read: "
        f"train it again, or load it with m6rec {wrote}."
    )


def _version() -> str:
    return sys.modules["m6rec"].__version__  # an import would be a cycle


def _sha256(folder: Path) -> str:
    files = (folder / name for name in (WEIGHTS, "tokenizer.json"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files if file.exists())).hexdigest()


def save_state(folder: Path, values: dict, networks: nn.Module, optimizer: Optimizer, rng: Generator) -> None:
    """Keep all that a bit-for-bit continuation needs. values: JSON, its stage and config among them."""
    moments = optimizer.state_dict()["state"].items()
    tensors = {f"networks.{name}": tensor for name, tensor in networks.state_dict().items()}
    tensors |= {f"optimizer.{i}.{name}": torch.as_tensor(v) for i, one in moments for name, v in one.items()}
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    state = json.dumps({**values, "rng": rng.bit_generator.state})
    with whole(folder) as part:
        part.mkdir()
        _save_tensors(tensors, part / STATE, {"state": state})  # one file, so that it is replaced at once


def load_state(folder: Path, expected: dict, networks: nn.Module, optimizer: Optimizer, rng: Generator) -> dict:
    """Put everything back as `save_state` found it -> its values. One of another config or stage is refused."""
    tensors = _read(folder / STATE, load_file)
    values = json.loads(_metadata(folder / STATE).get("state", "{}"))
    found, wanted = (
        [one.get(name, "of another version") for name in ("stage", "config")] for one in (values, expected)
    )
    if found != wanted or values.keys() != {*expected, "rng"}:
        raise InputError(
            f"{folder} holds a checkpoint of another run (stage {found[0]}, config {found[1][:8]}; "
            f"asked for {wanted[0]}, {wanted[1][:8]}): name another folder, or train without resume."
        )

    def part(name: str) -> dict[str, Tensor]:
        return {key.removeprefix(name): value for key, value in tensors.items() if key.startswith(name)}

    networks.load_state_dict(part("networks."))
    numbers = {int(name.split(".")[0]) for name in part("optimizer.")}
    moments = {number: part(f"optimizer.{number}.") for number in numbers}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    rng.bit_generator.state = values.pop("rng")
    return values


def version(values: nn.Module | Tensor) -> str:
    """A hash of a tensor, or of every weight of a network: equal ones have equal hashes, on every machine."""
    digest = hashlib.sha256()
    for name, tensor in (values.state_dict() if isinstance(values, nn.Module) else {"": values}).items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
