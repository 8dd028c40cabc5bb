"""Builds data/bazaar/ anew, byte for byte: `python data/build.py`, about a minute, with constraints.txt's versions.

The originals are three Debian packages, which `apt-get download` fetches into a temporary folder;
`--from FOLDER` takes them from a folder where they are unpacked already.
"""

import argparse
import hashlib
import io
import os
import subprocess
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from catalogue import Catalogue, catalogue, encoded
from places import places
from shoppers import SEED, people, request_pulls, simulate

PACKAGES = ("dataset-fashion-mnist", "sonic-pi-samples", "wordnet-base")
FASHION, SAMPLES, NOUNS = "usr/share/datasets/fashion-mnist", "usr/share/sonic-pi/samples", "usr/share/wordnet"
TARGET = Path(__file__).parent / "bazaar"
# Over names and contents of the originals that are read: other originals would make another bazaar.
ORIGINALS = "35804416a3c4798616eeea8e7deda683e5790d809eaafc241737fd905bc27f74"
HELD_OUT = 0.15  # of recordings, of photographs and of nouns
NEWCOMERS = 0.1  # of shoppers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="folder", type=Path, help="a folder with the unpacked packages")
    parser.add_argument("--to", dest="target", type=Path, default=TARGET, help="where to write; default: data/bazaar")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        write(made(options.folder or fetched(Path(scratch))), options.target)


def fetched(folder: Path) -> Path:
    """The folder with the packages unpacked into it."""
    subprocess.run(["apt-get", "download", "-q", *PACKAGES], cwd=folder, check=True)
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package.name, "."], cwd=folder, check=True)
    return folder


def made(originals: Path) -> dict[str, bytes]:
    """File name -> content."""
    check(originals)
    goods = catalogue(originals / FASHION, originals / SAMPLES, originals / NOUNS, np.random.default_rng([SEED, 3]))
    known = places(goods, np.random.default_rng([SEED, 4]))
    shoppers, requests = people(), request_pulls()
    events, truth = simulate(shoppers.tastes, known.items, requests)
    events.insert(0, "item_id", goods.items["item_id"].to_numpy()[events.pop("item")])
    events.insert(0, "user_id", shoppers.users["user_id"].to_numpy()[events.pop("user")])
    rng = np.random.default_rng([SEED, 5])
    latent = {
        "items": known.items,
        "shoppers": shoppers.tastes,
        "shares": shoppers.shares,
        **{f"request_{field}": rows for field, rows in requests.items()},
        "held_out": held_out(goods, rng),
        "newcomers": rng.random(len(shoppers.users)) < NEWCOMERS,
        "origins": goods.origins,
        "words": known.words,
        "word_places": known.word_places,
    }
    tables = {"items": goods.items, "users": shoppers.users, "interactions": events, "truth": truth}
    settings = {"index": False, "engine": "pyarrow", "compression": "zstd", "compression_level": 19}
    files = {f"{name}.parquet": table.to_parquet(**settings) for name, table in tables.items()}
    # np.savez itself would write the time of day into its file.
    arrays = {f"{name}.npy": encoded(np.save, array, allow_pickle=False) for name, array in latent.items()}
    return files | {"media.zip": archive(goods.media), "latent.npz": archive(arrays, zipfile.ZIP_DEFLATED)}


def check(originals: Path) -> None:
    """Stop if the originals are not the ones that bazaar was made of."""
    digest = hashlib.sha256()
    for folder in (FASHION, SAMPLES, NOUNS):
        for path in sorted((originals / folder).iterdir()):
            if path.suffix in (".gz", ".flac") or path.name in ("data.noun", "index.noun"):
                digest.update(path.name.encode() + path.read_bytes())
    if digest.hexdigest() != ORIGINALS:
        raise SystemExit(f"the originals in {originals} are others (SHA-256 {digest.hexdigest()}): see data/README.md")


def held_out(goods: Catalogue, rng: np.random.Generator) -> np.ndarray:
    """(N,) bool: all items of HELD_OUT of the recordings, of the garments' photographs and of the nouns."""
    kinds = goods.items["kind"].replace("jingled garment", "sound").to_numpy()  # a jingled garment goes with its clip
    kept = np.zeros(len(kinds), dtype=bool)
    for kind in ("garment", "sound", "text"):
        origins = np.unique(goods.origins[kinds == kind])
        chosen = rng.permutation(origins)[: round(HELD_OUT * len(origins))]
        kept |= (kinds == kind) & np.isin(goods.origins, chosen)
    return kept


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file with one date for all."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression, compresslevel=9) as bundle:
        for name, content in members.items():
            entry = zipfile.ZipInfo(name, (2025, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr = compression, 0o644 << 16
            bundle.writestr(entry, content)
    return file.getvalue()


def write(files: dict[str, bytes], target: Path) -> None:
    """Each file whole or not at all; prints sizes and hashes."""
    target.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        part = target / f"{name}.part"
        part.write_bytes(content)
        os.replace(part, target / name)
        print(f"{hashlib.sha256(content).hexdigest()}  {len(content):>9,}  {name}")
    print(f"{sum(map(len, files.values())):,} bytes in {target}")


if __name__ == "__main__":
    main()
