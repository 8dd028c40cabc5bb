"""The goods of the bazaar: photographs of Fashion-MNIST, clips of Sonic Pi's recordings, nouns of WordNet.

Every photograph is used once; no clip is used twice. Style words of the garments are invented and drawn at random.
"""

import gzip
import io
import re
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import soundfile
import wordnet
from PIL import Image
from scipy.signal import resample_poly

RATE, LENGTH = 8000, 8192  # of every clip: samples a second, samples at most
GARMENTS, SOUNDS, JINGLED, GOODS = 1100, 450, 500, 650
CLASSES = ("t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
MATERIALS = ("linen", "cotton", "wool", "silk", "denim", "velvet", "leather", "corduroy")
OCCASIONS = ("office", "party", "hiking", "beach", "wedding", "school", "winter", "evening")
CUTS = ("slim", "loose", "classic", "vintage", "sporty", "elegant", "minimal", "bold")
FAMILIES = {
    "ambi": "ambient", "bass": "bass", "bd": "bass drum", "drum": "drum kit", "elec": "electronic", "glitch": "glitch",
    "guit": "guitar", "loop": "loop", "mehackit": "gadget", "misc": "miscellany", "perc": "percussion",
    "sn": "snare drum", "tabla": "tabla", "vinyl": "vinyl",
}  # fmt: skip
WORDS = {  # what the file names abbreviate
    "em9": "e minor ninth", "lo": "low", "hi": "high", "mid": "middle", "filt": "filtered", "3d": "three d",
    "dnb": "drum and bass", "amen": "amen break", "perc": "percussion", "mehackit": "", "97": "",
    "c": "in c", "f": "in f", "g": "in g",
}  # fmt: skip
SPEEDS = {"1": "", "0.7": "slowed", "1.4": "hastened", "0.5": "half speed", "2": "double speed"}
CLIPS_PER_RECORDING = 8
# Two names for takes of one source: they are held out together.
SAME_SOURCE = {"loop_amen_full": "loop_amen", "tabla_re": "tabla_tas1"}


class Photo(NamedTuple):
    origin: str  # file and place in it
    label: int
    pixels: np.ndarray  # (28, 28) uint8


class Clip(NamedTuple):
    recording: str  # "tabla_ghe1"
    speed: str  # a key of SPEEDS
    samples: np.ndarray  # (n,) int16, n <= LENGTH, mono, RATE


class Catalogue(NamedTuple):
    """Row i of each is item i."""

    items: pd.DataFrame
    media: dict[str, bytes]  # name in the archive -> file
    pixels: np.ndarray  # (N, 28, 28) uint8, zeros where there is no photograph
    waves: np.ndarray  # (N, LENGTH) int16, zeros where there is no recording
    origins: np.ndarray  # (N,) str: what is held out together: recording, or photograph, or noun


def catalogue(fashion: Path, samples: Path, nouns: Path, rng: np.random.Generator) -> Catalogue:
    """All items in a fixed order: garments, sounds, jingled garments, goods with text alone."""
    photos, clips, goods = _photos(fashion, rng), _clips(samples, rng), _goods(nouns, rng)
    rows = [_garment(f"G{number:04d}", "garment", photo, rng) for number, photo in enumerate(photos[:GARMENTS], 1)]
    rows += [_sound(f"S{number:04d}", clip) for number, clip in enumerate(clips[:SOUNDS], 1)]
    pairs = zip(photos[GARMENTS:], clips[SOUNDS:], strict=True)  # at random: both lists are shuffled
    for number, (photo, clip) in enumerate(pairs, 1):
        rows.append(_jingled(_garment(f"J{number:04d}", "jingled garment", photo, rng), clip))
    for number, good in enumerate(goods, 1):
        text = f"{good.title} | {good.category} | {good.gloss}"
        row = {"item_id": f"T{number:04d}", "title": good.title, "text": text, "kind": "text"}
        rows.append(row | {"category": good.category, "origin": good.title})
    return _assembled(rows)


def _photos(folder: Path, rng: np.random.Generator) -> list[Photo]:
    """1,600 photographs, as many of each class, shuffled."""
    parts = []
    for part in ("train", "t10k"):
        labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())[8:]
        images = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())[16:]
        parts.append((part, np.frombuffer(labels, np.uint8), np.frombuffer(images, np.uint8).reshape(-1, 28, 28)))
    labels = np.concatenate([part[1] for part in parts])
    pixels = np.concatenate([part[2] for part in parts])
    origins = [f"{name}-{row}" for name, part, _ in parts for row in range(len(part))]
    each = (GARMENTS + JINGLED) // len(CLASSES)
    chosen = [rng.permutation(np.flatnonzero(labels == label))[:each] for label in range(len(CLASSES))]
    return [Photo(origins[row], int(labels[row]), pixels[row]) for row in rng.permutation(np.concatenate(chosen))]


def _clips(folder: Path, rng: np.random.Generator) -> list[Clip]:
    """950 clips, shuffled, at most eight of a recording: other places of it, or the same played at another speed."""
    found = []
    for path in sorted(folder.glob("*.flac")):
        wave, rate = soundfile.read(path, dtype="float64", always_2d=True)
        candidates = []
        for speed in SPEEDS:
            step = Fraction(RATE) / (Fraction(rate) * Fraction(speed))
            slow = resample_poly(wave.mean(axis=1), step.numerator, step.denominator)
            for place in range(max(1, len(slow) // LENGTH)):
                cut = _audible(slow, place * LENGTH)
                if cut is not None:
                    candidates.append(Clip(path.stem, speed, cut))
        kept = np.sort(rng.permutation(len(candidates))[:CLIPS_PER_RECORDING])
        found += [candidates[row] for row in kept]
    if len(found) < SOUNDS + JINGLED:
        raise SystemExit(f"{folder} gives {len(found)} clips, {SOUNDS + JINGLED} are needed: is the package whole?")
    return [found[row] for row in rng.permutation(len(found))[: SOUNDS + JINGLED]]


def _audible(wave: np.ndarray, start: int) -> np.ndarray | None:
    """Up to LENGTH samples from the first audible one (1 % of the peak) of a window; None if faint or too short."""
    window = np.abs(wave[start : start + LENGTH])
    if window.max(initial=0) < 0.02:
        return None
    start += int(np.argmax(window > 0.01 * window.max()))
    cut = np.round(np.clip(wave[start : start + LENGTH], -1, 1) * 32767).astype(np.int16)
    if len(cut) < RATE // 20:
        return None
    # FLAC stores zero low bits for nothing. Eleven bits of the peak are kept: noise 60 dB below it, and a third less.
    spare = max(0, int(np.abs(cut.astype(int)).max()).bit_length() - 11)
    return (cut >> spare) << spare


def _goods(folder: Path, rng: np.random.Generator) -> list[wordnet.Good]:
    """650 goods, spread over the categories, those whose gloss uses common words first, in alphabetical order."""
    pool = wordnet.goods(folder)
    words = {good: set(words_of(f"{good.title} {good.gloss}")) for good in pool}
    often = Counter(word for found in words.values() for word in found)
    common = set(sorted(often, key=lambda word: (-often[word], word))[:50])  # the order of a set's words is not fixed
    shares = {category: [] for category in wordnet.ROOTS}
    for row in rng.permutation(len(pool)):
        shares[pool[row].category].append(pool[row])
    for share in shares.values():
        share.sort(key=lambda good: -min(3, len(words[good] & common)))  # stable: else in drawn order
    chosen: list[wordnet.Good] = []
    while len(chosen) < GOODS:  # one from each category in turn, as long as it has any
        chosen += [share.pop(0) for share in shares.values() if share]
    return sorted(chosen[:GOODS])


STOP = """a an and any are as at be been but by can each for from has have having in into is it its like more no not of
    off on one or other over s than that the their then to two four up used use usually various very where which whose
    with without several than through between made containing consisting resembling form designed set low so this these
    who you your they when often especially some many all down out being was were"""


def words_of(text: str) -> list[str]:
    """The content words of a text, in lower case, as often as they occur."""
    stop = set(STOP.split())
    return [word for word in re.findall(r"[a-z][a-z-]+", text.lower()) if word not in stop]


def _garment(item_id: str, kind: str, photo: Photo, rng: np.random.Generator) -> dict:
    material, occasion, cut = (str(rng.choice(words)) for words in (MATERIALS, OCCASIONS, CUTS))
    garment = CLASSES[photo.label]
    text = f"{material} {garment} | {occasion} {cut}"
    title = f"{cut} {material} {garment}".capitalize()
    row = {"item_id": item_id, "title": title, "text": text, "kind": kind, "category": garment}
    return row | {"photo": photo, "origin": photo.origin}


def _sound(item_id: str, clip: Clip) -> dict:
    family, name = _named(clip)
    text = " | ".join(filter(None, [name, family, SPEEDS[clip.speed]]))
    title = ", ".join(filter(None, [name.capitalize(), SPEEDS[clip.speed]]))
    row = {"item_id": item_id, "title": title, "text": text, "kind": "sound", "category": family}
    return row | {"clip": clip, "origin": SAME_SOURCE.get(clip.recording, clip.recording)}


def _jingled(garment: dict, clip: Clip) -> dict:
    family, name = _named(clip)
    title = f"{garment['title']} with {family} jingle"
    row = garment | {"title": title, "text": f"{garment['text']} | jingle {name}"}
    return row | {"clip": clip, "origin": SAME_SOURCE.get(clip.recording, clip.recording)}


def _named(clip: Clip) -> tuple[str, str]:
    """Family and name in words: ("tabla", "tabla ghe") of tabla_ghe1."""
    stem, *rest = clip.recording.split("_")
    words = [word if word in WORDS or word.isdigit() else word.rstrip("0123456789") for word in rest]
    return FAMILIES[stem], " ".join(filter(None, [FAMILIES[stem], *(WORDS.get(word, word) for word in words)]))


def _assembled(rows: list[dict]) -> Catalogue:
    media, seen = {}, Counter()
    pixels = np.zeros((len(rows), 28, 28), np.uint8)
    waves = np.zeros((len(rows), LENGTH), np.int16)
    for number, row in enumerate(rows):
        if photo := row.pop("photo", None):
            pixels[number] = photo.pixels
            row["image"] = f"{row['item_id']}.png"
            media[row["image"]] = encoded(Image.fromarray(photo.pixels).save, "PNG", optimize=True)
        if clip := row.pop("clip", None):
            waves[number, : len(clip.samples)] = clip.samples
            row["sound"] = f"{row['item_id']}.flac"
            settings = {"format": "FLAC", "subtype": "PCM_16", "compression_level": 1.0}
            media[row["sound"]] = encoded(soundfile.write, clip.samples, RATE, **settings)
        seen[row["title"]] += 1
        if seen[row["title"]] > 1:
            row["title"] += f", no. {seen[row['title']]}"
    items = pd.DataFrame(rows)[["item_id", "title", "text", "image", "sound", "kind", "category", "origin"]]
    items = items.astype(object).where(items.notna(), None)
    return Catalogue(items.drop(columns="origin"), media, pixels, waves, items["origin"].to_numpy(dtype=str))


def encoded(write: Callable, *options, **settings) -> bytes:
    """What a function writes into the file that is its first argument."""
    file = io.BytesIO()
    write(file, *options, **settings)
    return file.getvalue()
