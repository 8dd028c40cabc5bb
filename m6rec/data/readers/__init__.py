"""From a source's own files to raw frames: one function for each format, the same frames for the same data.

A malformed row is left out, counted and named in one warning; a file without a good row is an InputError that says
which columns it needs.
"""

from __future__ import annotations

from m6rec.data.readers.amazon import amazon_2014, amazon_2023
from m6rec.data.readers.files import Frames, unpack
from m6rec.data.readers.hm import hm
from m6rec.data.readers.microlens import microlens
from m6rec.data.readers.mind import mind
from m6rec.data.readers.movielens import GENRES, ml_1m, ml_100k_official, ml_100k_recbole
from m6rec.data.readers.sequences import sequences

__all__ = [
    "GENRES",
    "Frames",
    "amazon_2014",
    "amazon_2023",
    "hm",
    "microlens",
    "mind",
    "ml_1m",
    "ml_100k_official",
    "ml_100k_recbole",
    "sequences",
    "unpack",
]
