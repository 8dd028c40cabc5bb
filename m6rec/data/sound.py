"""Recordings at 8 kHz as log-mel spectrograms, in patches of an eighth of a second."""

import io

import numpy as np
import soundfile
import soxr

from m6rec.config import Array, InputError, Rng

RATE = 8000  # samples a second
LOOK = 10  # seconds
FFT, HOP, MELS = 512, 256, 32
PATCH = 4  # frames
FLOOR, RANGE = -8.0, 10.0  # log10 of power


def shape(seconds: float = 1.0) -> tuple[int, int]:
    return max(2, round(seconds * RATE / HOP / PATCH)), PATCH * MELS


def decode(raw: bytes, seconds: float = 1.0) -> Array:
    """A file's bytes -> (P · 1024,) float32 mono at 8 kHz, from the first sample above 1 % of the peak, then zeros.

    Mono is the channels' mean, or the loudest where they cancel out; above full scale it is scaled down.
    Only the first ten seconds are read. InputError if damaged, empty or silent."""
    try:
        with soundfile.SoundFile(io.BytesIO(raw)) as file:
            rate = file.samplerate
            if not (1000 <= rate <= 192_000 and file.channels <= 8):
                found = f"{rate:,} Hz and {file.channels} channels"
                raise InputError(f"is a sound of {found}; give 1 to 192 kHz and at most 8 channels.")
            wave = file.read(LOOK * rate, dtype="float32", always_2d=True)
    except InputError:
        raise
    except Exception as error:  # a damaged file fails in many ways
        reason = str(error).rpartition(": ")[2].rstrip(". ")
        raise InputError(f"is no sound that can be read ({reason}); save it as WAV, FLAC, OGG or MP3.") from None
    if not 0 < (peak := np.abs(wave).max(initial=0)) < 1e6:  # nor is NaN
        said = f"is a sound whose peak in its first {LOOK} seconds is {peak:g} (full scale is 1)"
        raise InputError(f"{said}; cut silence off, or record it again.")
    power, mono = np.square(wave).mean(0), wave.mean(1)
    if np.square(mono).mean() < 0.05 * power.mean():  # in opposite phase; one of eight channels alone keeps 0.125
        mono = wave[:, power.argmax()]
    mono = mono / max(peak, 1)
    loud = np.abs(mono)
    start = int(np.argmax(loud > 0.01 * loud.max()))
    length = shape(seconds)[0] * PATCH * HOP
    piece = soxr.resample(mono[start : start + rate * length // RATE + 1], rate, RATE)[:length]
    return np.pad(piece, (0, length - len(piece))).clip(-1, 1).astype(np.float32)


def log_mel(waves: Array) -> Array:
    """(N, samples) -> (N, 32, frames) float32: log10 of power, from 0 (silence) to about 1 (full scale)."""
    import librosa  # takes a second

    out = np.zeros((len(waves), MELS, waves.shape[1] // HOP), dtype=np.float32)
    for first in range(0, len(waves), 256):  # a spectrum is thirty times as large as what is kept
        part = waves[first : first + 256]
        power = librosa.feature.melspectrogram(y=part, sr=RATE, n_fft=FFT, hop_length=HOP, n_mels=MELS)
        out[first : first + 256] = np.log10(power[..., : out.shape[2]].clip(10**FLOOR)).clip(FLOOR) - FLOOR
    return out / RANGE


def patches(mels: Array) -> Array:
    """(N, 32, frames) -> (N, P, 128): patches in time, in each frame by frame the 32 mels."""
    cut = mels.reshape(len(mels), MELS, -1, PATCH)
    return cut.transpose(0, 2, 3, 1).reshape(len(mels), -1, PATCH * MELS)


def unpatch(patches: Array) -> Array:
    cut = patches.reshape(len(patches), -1, PATCH, MELS)
    return cut.transpose(0, 3, 1, 2).reshape(len(patches), MELS, -1)


def preprocess(waves: Array) -> Array:
    return patches(log_mel(waves))


def augment(mels: Array, rng: Rng) -> Array:
    """Up to 6 bands and 6 frames of each are silenced (SpecAugment, arXiv 1904.08779)."""

    def hidden(size):
        width = rng.integers(0, 7, (len(mels), 1))
        start = rng.integers(0, size + 1 - width)
        place = np.arange(size)
        return (place >= start) & (place < start + width)

    return np.where(hidden(MELS)[:, :, None] | hidden(mels.shape[2])[:, None, :], np.float32(0), mels)
