"""Saving without pickle: tensors in safetensors, all else in JSON, and folders that appear whole or not at all."""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from numpy.random import Generator
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from m6rec.cache import PART, whole
from m6rec.data.text import Tokenizer
from m6rec.errors import InputError

FORMAT = 1  # of saved models: it changes where older ones cannot be read any more
WEIGHTS, STATE = "model.safetensors", "state.safetensors"


@dataclass
class TrainingState:
    """Where a stage of training stands, apart from its tensors."""

    stage: str
    config: str  # the config's fingerprint
    epoch: int = 0
    steps: int = 0  # of all epochs: how fast the averaged weights follow
    best_epoch: int = 0
    best: float = float("-inf")
    seconds: float = 0.0
    log: list[dict] = field(default_factory=list)


def claim(folder: Path, is_ours: Callable[[Path], object]) -> Path:
    """The absolute path of a folder to write to. `InputError` for a file, or for what somebody else keeps there."""
    folder = Path(folder).resolve()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: name a folder for the checkpoint.")
    if folder.exists() and any(not f.name.startswith(PART) for f in folder.iterdir()) and not is_ours(folder):
        raise InputError(f"{folder} holds other files and no checkpoint of this kind: name a new or an empty folder.")
    return folder


def is_model(folder: Path) -> bool:
    """Does a folder hold what `save_model` writes?"""
    try:
        return {"format", "config"} <= set(read_json(folder / "config.json"))
    except (InputError, TypeError):
        return False


def is_state(folder: Path) -> bool:
    """Does a folder hold what `save_state` writes?"""
    return "state" in metadata(folder / STATE)


def save_tensors(tensors: dict[str, Tensor], file: Path, metadata: dict[str, str] | None = None) -> None:
    """Write tensors to a safetensors file; shared and strided ones are copied first."""
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, file, metadata)


def metadata(file: Path) -> dict[str, str]:
    """What a safetensors file says of itself, nothing where it is missing or damaged."""
    with suppress(OSError, SafetensorError), safe_open(file, "pt") as opened:
        return opened.metadata() or {}
    return {}


@contextmanager
def reading(what: str | Path) -> Iterator[None]:
    """Whatever fails in here, the sentence is that `what` is damaged."""
    try:
        yield
    except Exception as error:  # tokenizers and safetensors raise nothing more special
        raise InputError(f"{what} is missing or damaged ({error}): delete its folder and train again.") from error


def load_tensors(file: Path) -> dict[str, Tensor]:
    """Read a safetensors file; a damaged one is an `InputError`."""
    with reading(file):
        return load_file(file)


def read_json(file: Path) -> dict:
    """Read a JSON file; a damaged one is an `InputError`."""
    with reading(file):
        return json.loads(Path(file).read_text(encoding="utf-8"))


def save_model(folder: Path, network: nn.Module, tokenizer: Tokenizer, values: dict) -> None:
    """What a trained model is made of: weights, tokenizer, and all else as JSON values. Raises as `claim`."""
    with whole(claim(folder, is_model)) as part:
        part.mkdir()
        save_tensors(network.state_dict(), part / WEIGHTS)
        tokenizer.save(part / "tokenizer.json")
        values = {"format": FORMAT, "m6rec": _version(), "sha256": _sha256(part), **values}
        (part / "config.json").write_text(json.dumps(values, indent=1), encoding="utf-8")


def load_model(folder: Path) -> tuple[dict[str, Tensor], Tokenizer, dict]:
    """What `save_model` wrote; `InputError` where it is missing, damaged or of another version."""
    if not folder.is_dir():
        raise InputError(f"there is no checkpoint at {folder}: name a folder that save_pretrained wrote.")
    values = read_json(folder / "config.json")
    if not is_model(folder):
        raise InputError(f"{folder} is no m6rec checkpoint: name a folder that save_pretrained wrote.")
    if values["format"] != FORMAT:
        raise foreign(folder, values)
    weights = load_tensors(folder / WEIGHTS)
    with reading(folder / "tokenizer.json"):
        tokenizer = Tokenizer.from_file(folder / "tokenizer.json")
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
    return hashlib.sha256((folder / WEIGHTS).read_bytes() + (folder / "tokenizer.json").read_bytes()).hexdigest()


def save_state(
    folder: Path, state: TrainingState, modules: Mapping[str, nn.Module], optimizer: Optimizer, rng: Generator
) -> None:
    """Keep all that a bit-for-bit continuation needs."""
    tensors = {f"{name}.{k}": v for name, module in modules.items() for k, v in module.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in values.items()}
    tensors["random.torch"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    values = {**asdict(state), "rng": rng.bit_generator.state}
    with whole(claim(folder, is_state)) as part:
        part.mkdir()
        save_tensors(tensors, part / STATE, {"state": json.dumps(values)})  # one file, so that it is replaced at once


def load_state(
    folder: Path, expected: TrainingState, modules: Mapping[str, nn.Module], optimizer: Optimizer, rng: Generator
) -> TrainingState:
    """Put everything back as `save_state` found it. A checkpoint of another config or stage is refused."""
    tensors = load_tensors(folder / STATE)
    if not is_state(folder):
        raise InputError(f"{folder} holds no training of this version of m6rec: name another folder.")
    values = json.loads(metadata(folder / STATE)["state"])
    if (values["stage"], values["config"], "steps" in values) != (expected.stage, expected.config, True):
        raise InputError(
            f"{folder} holds a checkpoint of another run (stage {values['stage']}, config {values['config'][:8]}; "
            f"asked for {expected.stage}, {expected.config[:8]}): name another folder, or train without resume."
        )
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        part, name = key.split(".", 1)
        parts.setdefault(part, {})[name] = value
    for name, module in modules.items():
        module.load_state_dict(parts[name])
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in parts.get("optimizer", {}).items():
        index, name = key.split(".")
        moments.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    torch.set_rng_state(parts["random"]["torch"])
    if "cuda" in parts["random"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(parts["random"]["cuda"])
    rng.bit_generator.state = values.pop("rng")
    return TrainingState(**values)


def version(values: nn.Module | Tensor) -> str:
    """A hash of a tensor, or of every weight of a network: equal ones have equal hashes, on every machine."""
    digest = hashlib.sha256()
    tensors = values.state_dict() if isinstance(values, nn.Module) else {"": values}
    for name, tensor in tensors.items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
