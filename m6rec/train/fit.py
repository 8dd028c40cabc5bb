"""The training loop: one optimiser, averaged weights, early stopping, and checkpoints that resume bit for bit.

A step never waits for a GPU: losses are added up there, and read once an epoch. There matrix products are in bf16.
Tensors are saved in safetensors, all else in JSON."""

import copy
import hashlib
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm.auto import tqdm

from m6rec.cache import PART, cached, checksum, key, load_tensors, save_tensors, whole
from m6rec.config import Array, Config, Frame, InputError, Rng, pick_device, pick_precision, typed
from m6rec.data.sources import home
from m6rec.data.text import Tokenizer

LOG = logging.getLogger("m6rec")  # INFO: before and after a training; the command line shows it
FORMAT = 1  # of saved models: a new one if older ones cannot be read
WEIGHTS, WORDS, STATE = "model.safetensors", "tokenizer.json", "state.safetensors"


class Epoch(NamedTuple):
    epoch: int
    seconds: float  # since this stage began
    losses: dict[str, float]  # mean over the epoch's steps
    validation: float | None  # of the averaged weights, where it was measured


class Log(list[Epoch]):
    """A stage's epochs, shown as a table."""

    @property
    def best(self) -> Epoch | None:
        """The first that validated best."""
        return max((row for row in self if row.validation is not None), key=lambda row: row.validation, default=None)

    def table(self) -> Frame:
        return Frame([{**row._asdict(), **row.losses} for row in self]).drop(columns="losses", errors="ignore")

    def __str__(self) -> str:
        measured = f", best validation {self.best.validation:.4f}" if self.best else ""
        return f"{len(self)} epochs in {self[-1].seconds if self else 0:.0f} s{measured}"

    def __repr__(self) -> str:
        return self.table().to_string(index=False, float_format="{:.4g}".format)

    def _repr_html_(self) -> str:
        return self.table().to_html(index=False, float_format="{:.4g}".format)


class Stage(NamedTuple):
    name: str
    epochs: int
    batches: Callable[[Rng], Iterable]  # one epoch's batches
    losses: Callable[[nn.Module, Any, Rng], dict[str, Tensor]]  # as they are logged
    validate: Callable[[nn.Module], float] | None = None  # higher is better; None: the last weights are kept
    weights: Mapping[str, float] = {}  # of the losses in the gradient, where it is not 1


@typed
def fit(
    network: nn.Module, stage: Stage, config: Config, *parts: object, code: tuple = (), keep: bool = False,
    start: str = "", **options,
) -> list[Epoch]:  # fmt: skip
    """Train `network` in place, to the averaged weights that validated best, or else the last ones.

    keep: in the cache, or from it if weights, config, `parts` and code (of the losses, and `code`) are the same. start:
    the `version` that stands for these weights where last bits do not count. Else options are: folder, for a checkpoint
    after every epoch; resume, go on from it, to the very same end; on_epoch, called with each `Epoch`. InputError for
    these beside keep, for a loss that is not finite, and for one of several processes."""
    grouped = torch.distributed.is_available() and torch.distributed.is_initialized()
    processes = torch.distributed.get_world_size() if grouped else os.environ.get("WORLD_SIZE", 1)
    if str(processes) != "1":
        raise InputError(f"training needs one process, and this is one of {processes}: start it without a launcher.")

    def run(how, data, **options):
        LOG.info("%s: at most %d epochs; %s", stage.name, stage.epochs, how)
        try:
            rows = _fit(network, stage, config, data, **options)
        except KeyboardInterrupt:
            LOG.warning("%s was interrupted: %s", stage.name, how)
            raise
        LOG.info("%s: %s", stage.name, rows)
        return rows

    if not keep:
        to = options.get("folder")
        how = f"resume=True goes on from {to}" if to else "nothing is kept without folder="
        return run(how, key(*parts) if to else "", **options)
    if options:
        raise InputError(f"keep=True has a folder of its own: leave {', '.join(options)} out.")
    known = key(config.fingerprint, start or version(network), stage.epochs, *parts, code=(stage.losses, *code))
    path = home() / "models" / f"{stage.name.lower()}-{known}"
    work = path.with_name(f"{path.name}-training")

    def save(rows, new):
        stages = {stage.name: [row._asdict() for row in rows]}
        save_model(new, network, None, {"config": config.to_dict(), "stages": stages})

    def load(folder):
        weights, _, values = load_model(folder)
        network.to(pick_device(config.device)).load_state_dict(weights)
        network.eval()
        return Log(Epoch(**row) for row in values["stages"][stage.name])

    how = "asked again, it goes on from where it was"
    rows = cached(path, lambda: run(how, key(*parts), folder=work, resume=True), save, load)
    shutil.rmtree(work, ignore_errors=True)
    return rows


@typed
@torch.random.fork_rng()
def _fit(
    network: nn.Module, stage: Stage, config: Config, data: str, folder: str | Path | None = None, resume: bool = False,
    on_epoch: Callable[[Epoch], object] | None = None,
) -> Log:  # fmt: skip
    device = pick_device(config.device)
    dtype = pick_precision(config.precision, device)
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    network.to(device)
    optimizer = torch.optim.AdamW(
        network.parameters(), config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay,
        fused=device.type == "cuda" or None,
    )  # fmt: skip
    average, best = copy.deepcopy(network), copy.deepcopy(network)
    state = {"stage": stage.name, "config": config.fingerprint, "data": data, "steps": 0, "rows": []}
    parts = nn.ModuleDict({"network": network, "average": average, "best": best}), optimizer, rng
    folder = claim(folder) if folder else None
    if resume and folder and (folder / STATE).exists():
        state = load_state(folder, state, *parts)
    rows = state["rows"] = Log(Epoch(*row) for row in state["rows"])

    @torch.no_grad()
    def follow():
        """Exponential, but a mean at first, which soon forgets the random start."""
        steps = state["steps"]
        share = min(config.average, (steps + 1) / (steps + 10)) if steps else 0.0
        torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - share)
        for mine, theirs in zip(average.buffers(), network.buffers(), strict=True):
            mine.copy_(theirs)
        state["steps"] += 1
        bar.set_postfix_str(f"step {state['steps']}", refresh=False)
        bar.update(0)  # the clock moves within an epoch, too

    watched = sys.stderr.isatty() or os.environ.get("JPY_SESSION_NAME")  # papermill and nbval stay silent
    bar = tqdm(total=stage.epochs, initial=len(rows), desc=stage.name, unit="epoch", miniters=0, disable=not watched)
    patience = config.patience * config.validate_every
    while len(rows) < stage.epochs and not (rows.best and rows.best.epoch <= len(rows) - patience):
        begun, epoch, validation = time.perf_counter(), len(rows) + 1, None
        means = train_epoch(
            network, optimizer, stage.batches(rng), lambda net, batch: stage.losses(net, batch, rng),
            stage.weights, dtype, clip=1.0, after=follow,
        )  # fmt: skip
        losses = {name: float(mean) for name, mean in means.items()}
        if not np.isfinite(list(losses.values())).all():
            raise InputError(f"the loss is not finite in epoch {epoch}: lower learning_rate={config.learning_rate}.")
        if stage.validate and (epoch % config.validate_every == 0 or epoch == stage.epochs):
            validation = stage.validate(average.eval())
        seconds = (rows[-1].seconds if rows else 0.0) + time.perf_counter() - begun
        rows.append(row := Epoch(epoch, seconds, losses, validation))
        if rows.best is row:
            best.load_state_dict(average.state_dict())
        if folder:
            save_state(folder, state, *parts)
        if on_epoch:
            on_epoch(row)
        bar.set_postfix({name: f"{loss:.3f}" for name, loss in losses.items()})
        bar.update()
    bar.close()
    network.load_state_dict((best if stage.validate else average).state_dict())
    network.eval()
    return rows


@torch.enable_grad()
def train_epoch(
    network: nn.Module, optimizer: Optimizer, batches: Iterable, losses: Callable[[nn.Module, Any], dict[str, Tensor]],
    weights: Mapping[str, float] = {}, dtype: torch.dtype = torch.float32, clip: float | None = None,
    after: Callable[[], object] | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """One pass -> each loss's mean, on the device. clip: the gradient's longest norm; after: of each step."""
    device, sums, steps = next(network.parameters()).device, {}, 0
    network.train()
    for batch in batches:
        with torch.autocast(device.type, dtype) if dtype is torch.bfloat16 else nullcontext():
            parts = losses(network, _on(batch, device))
        optimizer.zero_grad()
        sum(weights.get(name, 1.0) * loss for name, loss in parts.items()).backward()
        if clip:
            nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimizer.step()
        if after:
            after()
        sums |= {name: sums.get(name, 0.0) + loss.detach() for name, loss in parts.items()}
        steps += 1
    return {name: value / steps for name, value in sums.items()}


def _on(batch: object, device: torch.device) -> object:
    """Of nested tuples. From pinned memory a copy to a GPU goes on while the next batch is made."""
    if isinstance(batch, Tensor):
        pinned = batch.pin_memory() if batch.is_cpu and device.type == "cuda" else batch
        return pinned.to(device, non_blocking=True)
    return type(batch)(*(_on(part, device) for part in batch)) if isinstance(batch, tuple) else batch


# ---- saving and loading


def claim(folder: Path) -> Path:
    """A folder to write to, absolute. InputError for a file, or other things in it."""
    folder = Path(folder).resolve()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: name a folder for the checkpoint.")
    others = folder.exists() and any(not f.name.startswith(PART) for f in folder.iterdir())
    if others and not _is_model(folder) and not _is_state(folder / STATE):
        raise InputError(f"{folder} holds other files and no checkpoint: name a new or an empty folder.")
    return folder


def _is_model(folder: Path) -> bool:
    with suppress(InputError, TypeError):
        return {"format", "config"} <= set(_json(folder))
    return False


def _is_state(file: Path) -> bool:
    with suppress(Exception), safe_open(file, "pt") as opened:
        return "stage" in json.loads(opened.metadata()["values"])
    return False


def _read(file: Path, by: Callable[[Path], Any]) -> Any:
    try:
        return by(file)
    except Exception as error:  # of tokenizers and safetensors
        raise InputError(f"{file} is missing or damaged ({error}): delete its folder and train again.") from error


def _json(folder: Path) -> dict:
    return _read(folder / "config.json", lambda file: json.loads(file.read_text(encoding="utf-8")))


def save_model(
    folder: Path, network: nn.Module, tokenizer: Tokenizer | None, values: dict,
    added: Mapping[str, Array] = {}, card: str = "",
) -> None:  # fmt: skip
    """Weights, arrays beside them, a tokenizer if any, JSON values, and a model card. Raises as `claim`."""
    with whole(claim(folder)) as part:
        part.mkdir()
        more = {f"added.{name}": values for name, values in added.items()}
        save_tensors({**network.state_dict(), **more}, part / WEIGHTS)
        if tokenizer:
            tokenizer.bpe.save(str(part / WORDS))
        if card and not (folder / "README.md").exists():  # the one there may be written by hand
            (part / "README.md").write_text(card, encoding="utf-8")
        values = {"format": FORMAT, "m6rec": _version(), "sha256": _sha256(_files(part)), **values}
        values["config_sha256"] = _config_sha256(values)
        (part / "config.json").write_text(json.dumps(values, indent=1), encoding="utf-8")


def load_model(folder: Path) -> tuple[dict[str, Tensor], Tokenizer | None, dict]:
    """InputError where a model is missing, damaged or of another version."""
    fix = "name a folder that save_pretrained wrote"
    if not folder.is_dir():
        raise InputError(f"there is no checkpoint at {folder}: {fix}.")
    values = _json(folder)
    if not _is_model(folder):
        raise InputError(f"{folder} is no m6rec checkpoint: {fix}.")
    if values["format"] != FORMAT:
        raise foreign(folder, values)
    if values.get("config_sha256", found := _config_sha256(values)) != found:
        raise InputError(f"{folder}/config.json is damaged or was edited: delete it and train again.")
    # A save cut off between two files left the others in a folder of its own.
    versions = [_files(folder), *(_files(part, folder) for part in folder.glob(f"{PART}*/*/"))]
    if not (files := next((files for files in versions if _sha256(files) == values.get("sha256")), [])):
        raise InputError(f"{folder} is damaged, its files are of two checkpoints: delete it and train again.")
    tokenizer = _read(files[1], Tokenizer.from_file) if len(files) > 1 else None
    return _read(files[0], load_tensors)[0], tokenizer, values


def foreign(folder: Path, values: dict) -> InputError:
    wrote = values.get("m6rec", "0.1.0")
    return InputError(
        f"{folder} was written by m6rec {wrote}, whose models version {_version()} cannot read: "
        f"train it again, or load it with m6rec {wrote}."
    )


def _version() -> str:
    return sys.modules["m6rec"].__version__  # an import would be a cycle


def _files(*folders: Path) -> list[Path]:
    """Of weights and, if any, tokenizer, each in the first folder that has it."""
    places = ([folder / name for folder in folders if (folder / name).exists()] for name in (WEIGHTS, WORDS))
    return [found[0] for found in places if found]


def _sha256(files: list[Path]) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _config_sha256(values: dict) -> str:
    return checksum({}, json.dumps({name: value for name, value in values.items() if name != "config_sha256"}))


def save_state(folder: Path, values: dict, networks: nn.Module, optimizer: Optimizer, rng: Rng) -> None:
    """All that a bit-for-bit continuation needs. values: JSON."""
    moments = optimizer.state_dict()["state"].items()
    tensors = {f"networks.{name}": tensor for name, tensor in networks.state_dict().items()}
    tensors |= {f"optimizer.{i}.{name}": torch.as_tensor(v) for i, one in moments for name, v in one.items()}
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    with whole(folder / STATE) as part:
        save_tensors(tensors, part, {**values, "rng": rng.bit_generator.state})


def load_state(folder: Path, asked: dict, networks: nn.Module, optimizer: Optimizer, rng: Rng) -> dict:
    """Put it back -> the values. InputError for another stage, config or data."""
    tensors, values = _read(folder / STATE, load_tensors)
    other = [name for name in ("stage", "config", "data") if values.get(name) != asked[name]]
    if other or values.keys() != {*asked, "rng"}:
        raise InputError(
            f"{folder} holds a checkpoint of another run (another {' and '.join(other) or 'version of m6rec'}): "
            "name another folder, or train without resume."
        )

    def part(name):
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
    """A hash of a tensor or of all weights, the same on every machine."""
    return checksum(values.state_dict() if isinstance(values, nn.Module) else {"": values})[:16]
