"""What a trained `M6Rec` is kept as: folders that appear whole, and a cache that no other code's work is taken from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Self

import numpy as np

from m6rec.cache import cached, key
from m6rec.config import Config
from m6rec.data.context import Fields
from m6rec.data.dataset import Dataset
from m6rec.data.sources import home, load
from m6rec.errors import InputError
from m6rec.train import checkpoint
from m6rec.train.fit import Epoch


def shipped(name: str) -> Path | None:
    """The folder of a model that comes with m6rec, in a clone or in an installed wheel."""
    package = Path(__file__).parent
    places = (package / "_weights" / name, package.parent / "data" / "weights" / name)
    return next((place for place in places if (place / "config.json").exists()), None)


class Kept:
    """`M6Rec`'s verbs for saving and loading."""

    def save_pretrained(self, folder: str | Path) -> Path:
        """Save weights (safetensors), tokenizer, fields and config (JSON); the folder appears whole or not at all.

        `InputError` for a model that `with_items` made.
        """
        if len(self.network.codes) != self.network.digits.size:
            raise InputError("a catalogue that with_items grew is not saved: save the model before, and grow it anew.")
        values = {
            "data": {"name": self.data.name, "fingerprint": self.data.fingerprint},
            "config": self.config.to_dict(),
            "fields": self.fields.to_dict(),
            "stages": {name: [row._asdict() for row in rows] for name, rows in self.stages.items()},
        }
        checkpoint.save_model(Path(folder), self.network, self.tokenizer, values)
        return Path(folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path, data: Dataset | None = None) -> Self:
        """Load what `save_pretrained` wrote, or the model that comes with m6rec: "bazaar".

        `data` may be left out where it is a registered data set. Raises `InputError` where the folder is missing or
        damaged, or was trained on other data.
        """
        folder = Path(folder) if Path(folder).exists() else shipped(str(folder)) or Path(folder)
        weights, tokenizer, values = checkpoint.load_model(folder)
        try:
            device = "cpu" if values["config"]["device"] == "cpu" else "auto"  # a GPU's checkpoint needs none
            config = Config(**{**values["config"], "device": device})
            trained_on, fields = values["data"], Fields.from_dict(values["fields"])
        except (KeyError, TypeError) as error:
            raise checkpoint.foreign(folder, values) from error
        data = data or load(trained_on["name"])
        if data.fingerprint != trained_on["fingerprint"]:
            raise InputError(
                f"{folder} was trained on other data ({trained_on['name']}) than {data.name}: give the data it knows."
            )
        model = cls.__new__(cls)
        model.data, model.config, model.fields, model.tokenizer = data, config, fields, tokenizer
        model.split = data.split()
        model._build(np.unique(data.events["item"].to_numpy()[model.split.train]))
        try:
            model.network.load_state_dict(weights)
        except RuntimeError as error:
            raise InputError(
                f"the weights in {folder} do not fit its config: delete the folder and train again."
            ) from error
        model.stages = {name: [Epoch(**row) for row in rows] for name, rows in values["stages"].items()}
        return model

    @classmethod
    def cached(cls, data: Dataset, preset: str = "tiny", **changes: object) -> Self:
        """A trained model: the cached one of this config, data and training code, or a new one that is then kept.

        An interrupted training goes on from its last epoch. Says in one line which of the two it was.
        """
        config = Config.preset(preset, **changes)
        folder = home() / "models" / f"{data.name}-{cls.cache_key(data, config)}"
        work = folder.with_name(folder.name + "-training")

        def make() -> Self:
            model = cls(data, config=config)
            model.pretrain(folder=work / "pretrain", resume=True)
            if config.finetune_epochs:
                model.fine_tune(folder=work / "fine_tune", resume=True)
            seconds = sum(rows[-1].seconds for rows in model.stages.values() if rows)
            print(f"trained {folder.name} in {seconds:.0f} s")
            return model

        def load(folder: Path) -> Self:
            print(f"loaded {folder.name}")
            return cls.from_pretrained(folder, data)

        model = cached(folder, make, cls.save_pretrained, load)
        shutil.rmtree(work, ignore_errors=True)
        return model

    @classmethod
    def cache_key(cls, data: Dataset, config: Config) -> str:
        """A hash of config, data and training code: a stale checkpoint is never loaded."""
        return key(config.fingerprint, data.fingerprint, code=(cls.__init__, cls.pretrain, cls.fine_tune))
