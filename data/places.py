"""Where each item lies in the latent dimensions that shoppers care about, computed from its media and words."""

from collections import Counter, defaultdict
from typing import NamedTuple

import numpy as np
import pandas as pd
from catalogue import CUTS, MATERIALS, OCCASIONS, RATE, Catalogue, words_of
from scipy.special import ndtri
from scipy.stats import rankdata
from shoppers import unit

from m6rec.data.bazaar import BLOCKS

TEXT = BLOCKS["text"].stop - BLOCKS["text"].start
LEXICON = 100  # words that shoppers notice
# Frequent, but half of another word, or syllables of the tabla.
UNNOTICED = {"jingle", "kit", "ankle", "speed", "half", "double", "ghe", "tun", "tas", "te", "na"}


class Places(NamedTuple):
    items: np.ndarray  # (N, D) unit rows: image, sound, text; zeros where an item lacks a modality
    words: np.ndarray  # (LEXICON,) str
    word_places: np.ndarray  # (LEXICON, TEXT)


def places(goods: Catalogue, rng: np.random.Generator) -> Places:
    """Blocks of comparable norm, joined, scaled to unit length, rounded to four decimals."""
    words, word_places = _lexicon(goods.items, rng)
    row = {word: number for number, word in enumerate(words)}
    known = [[row[word] for word in words_of(text) if word in row] for text in goods.items["text"]]
    if not all(known):
        raise SystemExit(f"{goods.items['title'][known.index([])]!r} has no word of the lexicon: enlarge LEXICON")
    text = unit(np.stack([word_places[rows].mean(axis=0) for rows in known]))
    image = _normal(image_traits(goods.pixels), goods.pixels.any(axis=(1, 2)))
    sound = _normal(sound_traits(goods.waves), goods.waves.any(axis=1))
    return Places(np.round(unit(np.hstack([image, sound, text])), 4), np.array(words), word_places)


def image_traits(pixels: np.ndarray) -> np.ndarray:
    """(N, 28, 28) uint8 -> (N, 3): brightness of the garment, height against width, texture inside the garment."""
    light = pixels / 255
    inside = light > 0.1
    area = np.maximum(inside.sum(axis=(1, 2)), 1)
    brightness = (light * inside).sum(axis=(1, 2)) / area
    spread = []
    for axis in (1, 2):  # rows, columns: standard deviation of where the garment is
        share = inside.sum(axis=3 - axis) / area[:, None]
        mean = share @ np.arange(28)
        spread.append(np.sqrt((share * (np.arange(28) - mean[:, None]) ** 2).sum(axis=1)))
    shape = np.log(np.maximum(spread[0], 0.1) / np.maximum(spread[1], 0.1))
    down, across = np.abs(np.diff(light, axis=1)), np.abs(np.diff(light, axis=2))
    both_down, both_across = inside[:, 1:] & inside[:, :-1], inside[:, :, 1:] & inside[:, :, :-1]
    steps = (down * both_down).sum(axis=(1, 2)) + (across * both_across).sum(axis=(1, 2))
    texture = steps / np.maximum(both_down.sum(axis=(1, 2)) + both_across.sum(axis=(1, 2)), 1)
    return np.stack([brightness, shape, texture], axis=1)


def sound_traits(waves: np.ndarray) -> np.ndarray:
    """(N, 8192) int16 -> (N, 3): loudness in dB, centre of the spectrum in log Hz, rises of the level a second."""
    wave = waves / 32768
    loudness = 10 * np.log10((wave**2).mean(axis=1) + 1e-12)
    frames = np.lib.stride_tricks.sliding_window_view(wave, 512, axis=1)[:, ::256] * np.hanning(512)  # (N, 31, 512)
    power = np.abs(np.fft.rfft(frames)) ** 2
    spectrum = power.sum(axis=1)
    frequencies = np.fft.rfftfreq(512, 1 / RATE)
    centre = np.log(np.maximum(spectrum @ frequencies / np.maximum(spectrum.sum(axis=1), 1e-12), 1))
    level = 10 * np.log10(power.sum(axis=2) + 1e-12)  # (N, 31) dB
    level = np.maximum(level, level.max(axis=1, keepdims=True) - 40)  # what is 40 dB below the loudest is silence
    tempo = np.maximum(np.diff(level, axis=1), 0).sum(axis=1) / (waves.shape[1] / RATE)
    return np.stack([loudness, centre, tempo], axis=1)


def _normal(traits: np.ndarray, there: np.ndarray) -> np.ndarray:
    """(N, 3) ranks among the items that have the modality as standard normal quantiles, over sqrt(3); else zeros."""
    block = np.zeros_like(traits)
    ranks = rankdata(np.round(traits[there], 9), axis=0)  # rounded, so that equal traits are equal on every machine
    block[there] = np.round(ndtri((ranks - 0.5) / there.sum()), 3) / np.sqrt(3)
    return block


def _lexicon(items: pd.DataFrame, rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
    """The categories' own and the most frequent other words, and their places: near each other in a group."""
    counts: dict[str, Counter] = defaultdict(Counter)
    for text, category in zip(items["text"], items["category"], strict=True):
        for word in set(words_of(text)) - UNNOTICED:
            counts[word][category] += 1
    names = {word for category in items["category"].unique() for word in words_of(category)}  # each is noticed
    ranked = sorted(counts, key=lambda word: (word not in names, -counts[word].total(), word))
    words = sorted(ranked[:LEXICON])
    named = {"material": MATERIALS, "occasion": OCCASIONS, "cut": CUTS}
    styles = {word: name for name, group in named.items() for word in group}
    groups = [styles.get(word) or min(counts[word], key=lambda c: (-counts[word][c], c)) for word in words]
    centres = {group: unit(rng.standard_normal(TEXT)) for group in sorted(set(groups))}
    own = unit(rng.standard_normal((len(words), TEXT)))
    return words, np.round(unit(np.stack([centres[group] for group in groups]) + own), 3)
