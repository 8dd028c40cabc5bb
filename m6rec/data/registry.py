"""The public data sets that m6rec knows: terms, official addresses, hashes where published, and who reads the files.

A route is a set of files and the reader that understands them; each source has its routes in order of preference.
A hash of None means that none is published: the first one seen is written down beside the file (`sources.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from m6rec.data import bazaar, fashion, readers, written


class Route(NamedTuple):
    """Files that together hold the data, and where they are."""

    # The URL of their folder; "pip:<requirement>" for a wheel, "deb:<package>=<version>" for Debian's package, or
    # "hand:<URL>" of a page where a person must agree to the terms, so that they cannot be fetched from here.
    address: str
    files: dict[str, str | None]  # name, with a folder where the address has one -> SHA-256
    read: Callable[[Path], Any]  # Frames, or for photographs the raw files by name


class Source(NamedTuple):
    """A public data set: what one may do with it, and the routes to it, the official one first."""

    terms: str
    routes: tuple[Route, ...]
    megabytes: float | None = None  # what the first route fetches, where that is known


MOVIELENS = "https://files.grouplens.org/datasets/movielens/"
S3_REC = "https://raw.githubusercontent.com/RUCAIBox/CIKM2020-S3Rec/master/data/"
RESEARCH = "research use with citation, no redistribution"


def _amazon_2014(category: str, text: str | None = None, attributes: str | None = None, size: float | None = None):
    """Amazon reviews 2014 in S3-Rec's two files."""
    files = {f"{category}.txt": text, f"{category}_item2attributes.json": attributes}
    terms = "Amazon reviews 2014, 5-core, as prepared for S3-Rec: research use, no redistribution"
    return Source(terms, (Route(S3_REC, files, partial(readers.amazon_2014, category=category)),), size)


def _amazon_2023(category: str) -> Source:
    """One category of Amazon reviews 2023: https://amazon-reviews-2023.github.io lists the others."""
    files = {f"review_categories/{category}.jsonl.gz": None, f"meta_categories/meta_{category}.jsonl.gz": None}
    address = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/raw/"
    terms = "made for research; its makers say that they cannot give a licence, so no redistribution"
    return Source(terms, (Route(address, files, partial(readers.amazon_2023, category=category)),))


SOURCES = {
    "bazaar": Source(
        "MIT, CC0 and WordNet's licence: data/README.md",
        (Route("comes with m6rec", {}, lambda folder: bazaar.frames()),),
        0,
    ),
    "ml-100k": Source(
        RESEARCH,
        (
            Route(
                MOVIELENS,
                {"ml-100k.zip": "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229"},
                readers.ml_100k_official,
            ),
            Route(
                "pip:recbole==1.2.1",
                {"recbole-1.2.1-py3-none-any.whl": "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"},
                readers.ml_100k_recbole,
            ),
        ),
        4.9,
    ),
    "ml-1m": Source(
        RESEARCH,
        (
            Route(
                MOVIELENS,
                {"ml-1m.zip": "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20"},
                readers.ml_1m,
            ),
        ),
        5.9,
    ),
    "amazon-beauty": _amazon_2014(
        "Beauty",
        "226cce9c3105299ca0db9615d7d3fb32b3175e90da43100ae352599f0f0107b8",
        "129e40f67486f6877eff0f5318cfa8530ee8ac23d8b0d1de04e1bb7a2ba0b2d4",
        1.4,
    ),
    "amazon-sports": _amazon_2014("Sports_and_Outdoors"),
    "amazon-toys": _amazon_2014("Toys_and_Games"),
    "amazon-2023-all-beauty": _amazon_2023("All_Beauty"),  # the smallest; most of its people wrote one review
    "amazon-2023-instruments": _amazon_2023("Musical_Instruments"),  # long enough histories
    "microlens-100k": Source(
        "research use with citation; no changed copy may be offered for download",
        (
            Route(
                "https://recsys.westlake.edu.cn/MicroLens-100k-Dataset/",
                dict.fromkeys([f"MicroLens-100k_{end}" for end in ("pairs.csv", "title_en.csv", "covers.zip")]),
                readers.microlens,
            ),
            Route(
                "hand:https://recsys.westlake.edu.cn/MicroLens-100k-Dataset/",
                dict.fromkeys([f"MicroLens-100k_{end}" for end in ("pairs.csv", "title_en.csv", "covers")]),
                readers.microlens,
            ),
        ),
        700,
    ),
    "mind-small": Source(
        "Microsoft Research licence (https://msnews.github.io): research use, no redistribution",
        (
            Route(
                "https://mind201910small.blob.core.windows.net/release/",
                {"MINDsmall_train.zip": None, "MINDsmall_dev.zip": None},
                readers.mind,
            ),
        ),
        84,
    ),
    "h-and-m": Source(
        "the rules of the Kaggle competition, to which each user must agree; photographs go into images/",
        (
            Route(
                "hand:https://www.kaggle.com/competitions/h-and-m-personalized-fashion-recommendations/data",
                {"articles.csv": None, "customers.csv": None, "transactions_train.csv": None},
                readers.hm,
            ),
        ),
    ),
    "written-news": Source(
        "written for m6rec, no person or headline is real: Apache-2.0",
        (Route("comes with m6rec", {}, lambda folder: written.news()),),
        0,
    ),
    "written-posts": Source(
        "written for m6rec, no person or post is real: Apache-2.0",
        (Route("comes with m6rec", {}, lambda folder: written.posts()),),
        0,
    ),
    "fashion-mnist": Source(
        "MIT licence, Zalando SE",
        (
            Route(
                "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
                fashion.GZIPS,
                fashion.official,
            ),
            Route(
                f"deb:dataset-fashion-mnist={fashion.VERSION}",
                {fashion.PACKAGE: "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0"},
                fashion.debian,
            ),
        ),
        31,
    ),
}
