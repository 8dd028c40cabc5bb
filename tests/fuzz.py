"""Generated tables, requests, files, texts and figures: each is answered, or refused in one sentence.

`make fuzz ARGS="--cases 5000"`"""

from __future__ import annotations

import argparse
import base64
import io
import resource
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from PIL import Image

from m6rec import Dataset, InputError, M6Rec
from m6rec.data import image, sound
from m6rec.data.text import Tokenizer
from m6rec.evaluate import Interval
from m6rec.view import figures, page

sys.path.append(str(Path(__file__).parent))
from fixtures import HOSTILE, small_data, small_model

SLOW, MEMORY, SENTENCE = 10.0, 1 << 20, 1_000  # seconds of the processor, KiB above the start, characters
TEXTS = (*HOSTILE, "", " ", "Film 3", "Film 3 (1953)", "1999", "nan", "None", "\ud83d", "a" * 30_000, "é", "e\u0301")
CELLS = (None, np.nan, np.inf, True, -1, 0, 1, 3, 3.0, 2.5, 10**30, np.int64(7), b"x", [1], {"a": 1}, (), pd.NaT)


def one_of(rng: np.random.Generator, values: tuple) -> object:
    return values[int(rng.integers(len(values)))]


def cell(rng: np.random.Generator) -> object:
    return one_of(rng, CELLS if rng.random() < 0.5 else TEXTS)


def column(rng: np.random.Generator, n: int) -> object:
    """n cells: of one dtype, mostly; some of no dtype at all."""
    kinds = (
        lambda: rng.integers(-3, 5, n), lambda: rng.normal(size=n).astype(one_of(rng, ("f4", "f8"))),
        lambda: pd.Series(rng.integers(0, 3, n)).astype(one_of(rng, ("Int64", "string", "category", "bool"))),
        lambda: rng.choice(np.array(["x", "y", "", "1"]), n), lambda: rng.integers(0, 2**31, n).astype("datetime64[s]"),
        lambda: pd.Series(pd.date_range("2024-01-01", periods=n, freq="h", tz="Asia/Tokyo")),
        lambda: [cell(rng) for _ in range(n)], lambda: [None] * n,
    )  # fmt: skip
    made = one_of(rng, kinds)()
    hole = rng.random() < 0.2
    if hole or isinstance(made, list):
        made = pd.Series(list(made), dtype=object)
    if hole:
        made[int(rng.integers(n))] = cell(rng)
    return made


def frames(rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame | None, pd.DataFrame]:
    """items, users or None, interactions: good ones, in which some columns are replaced, added, renamed or missing."""
    n, users, events = int(rng.integers(1, 30)), int(rng.integers(1, 10)), int(rng.integers(1, 80))
    items = pd.DataFrame({"item_id": np.arange(n), "title": [f"Film {i}" for i in range(n)]})
    people = pd.DataFrame({"user_id": np.arange(users)})
    pairs = {"user_id": rng.integers(0, users, events), "item_id": rng.integers(0, n, events)}
    pairs |= {"timestamp": rng.integers(0, 2 * 10**9, events), "value": rng.integers(1, 6, events)}
    made = []
    names = ("title", "text", "genres", "category", "image", "timestamp", "value", "action", "device", "user", "item")
    for table in (items, people, pd.DataFrame(pairs)):
        for _ in range(int(rng.integers(0, 3))):
            table[one_of(rng, (*table, *names))] = column(rng, len(table))
        if rng.random() < 0.1:
            table = table.drop(columns=one_of(rng, tuple(table)))
        made.append(table)
    return made[0], made[1] if rng.random() < 0.5 else None, made[2]


def load(rng: np.random.Generator) -> Callable[[], object]:
    items, users, events = frames(rng)

    def call() -> None:
        data = Dataset.from_frames(items, users, events)
        assert (data.n_items, data.n_events) == (len(items), len(events)), "rows are gone without a word"
        assert set(events) - {"user_id", "item_id"} <= set(data.events), "columns are gone without a word"
        data.split(), repr(data), len(data.fingerprint)

    return call


def request(rng: np.random.Generator, model: M6Rec) -> Callable[[], object]:
    """A call of `recommend` with good arguments, of which some are odd."""
    ids = model.data.items["item_id"].tolist()
    history = [
        one_of(rng, (one_of(rng, tuple(ids)), cell(rng))[: 1 + (rng.random() < 0.1)]) for _ in range(rng.integers(9))
    ]
    wraps = (list, tuple, np.array, pd.Series, iter, lambda h: pd.DataFrame({"item_id": h}))
    given = {
        "user": one_of(rng, (None, 100, "100", 101.0, cell(rng))), "k": one_of(rng, (1, 3, np.int64(5), 30, cell(rng))),
        "context": one_of(rng, (None, {"hour": 21}, {"hour": cell(rng)}, {"weekday": 2}, {"x": 1}, cell(rng))),
        "profile": one_of(rng, (None, {"age": 30}, {"age": cell(rng)}, {"gender": "F"}, cell(rng))),
        "method": one_of(rng, ("generated", "dense", "hybrid", "exact", cell(rng))),
        "drop": one_of(rng, ((), ("text",), ["image"], cell(rng))), "seen": one_of(rng, (False, True, cell(rng))),
    }  # fmt: skip
    given = {name: value for name, value in given.items() if rng.random() < 0.5}
    if rng.random() < 0.6 or given.get("user") is None:
        with_shape = rng.random() < 0.2 and all(isinstance(one, int) for one in history)
        given["history"] = one_of(rng, wraps if with_shape else (list,))(history)

    def call() -> None:
        found = model.recommend(**given)
        assert len(found) == given.get("k", 10) and found["item_id"].is_unique, "the list is not k items"
        assert np.isfinite(found["score"]).all() and (found["score"].diff().dropna() <= 1e-6).all(), (
            "not the best first"
        )

    return call


def hostile(rng: np.random.Generator, largest: int) -> str:
    """Words, one endless word, or hostile ones, of up to so many characters."""
    size = int(largest ** rng.random())
    letters = "".join(rng.choice(list(one_of(rng, ("ACGT", "ab ", "日本語", "\u0301e", "$_{}\\\n"))), min(size, 999)))
    text = one_of(rng, (*HOSTILE, letters)) or "x"
    return (text * (size // len(text) + 1))[:size]


def medium(rng: np.random.Generator) -> Callable[[], object]:
    """A photograph or recording of any mode and rate, whole, damaged or cut off."""
    file = io.BytesIO()
    try:
        if decoder := rng.integers(2):
            shape = int(10 ** (5 * rng.random())), int(rng.integers(1, 10))
            kind, sub = one_of(rng, (("WAV", "PCM_U8"), ("WAV", "FLOAT"), ("FLAC", "PCM_24"), ("OGG", "VORBIS")))
            rate = one_of(rng, (1, 999, 8_000, 44_100, 192_000, 10**6)) if kind != "OGG" else 44_100  # others crash it
            soundfile.write(file, rng.normal(size=shape) * 10 ** rng.uniform(-9, 3), rate, sub, format=kind)
        else:
            kind, mode = (("PNG", "JPEG", "WEBP", "GIF", "BMP"), ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "F"))
            sides = (int(3000 ** rng.random()), int(3000 ** rng.random()))
            noise = Image.effect_noise(sides, 90)
            noise.convert("RGB").convert(one_of(rng, mode)).save(file, one_of(rng, kind))
    except (OSError, ValueError, RuntimeError):  # a format without this mode or rate
        pass
    raw = bytearray(file.getvalue())
    if raw and rng.random() < 0.5:
        raw[int(rng.integers(min(len(raw), 200)))] = int(rng.integers(256))
    raw = bytes(raw[: int(len(raw) * rng.random()) if rng.random() < 0.2 else None])

    def call() -> None:
        found = (sound if decoder else image).decode(raw)
        assert np.isfinite(found).all(), "samples or pixels are gone"

    return call


def words(rng: np.random.Generator) -> Callable[[], object]:
    texts = [hostile(rng, 10**6) for _ in range(3)]

    def call() -> None:
        ids = Tokenizer.fit(texts, 400).tokens(texts, 24)
        assert ids.shape == (3, 24) and all(ids[i].any() for i in range(3) if texts[i].isalpha()), "a text is gone"

    return call


def drawing(rng: np.random.Generator) -> Callable[[], object]:
    """A figure whose names are hostile, long or many."""
    n, title = int(one_of(rng, (1, 2, 12, 60, 300))), hostile(rng, 10**5)
    names = [f"{hostile(rng, one_of(rng, (10, 10**4)))}{i}" for i in range(n)]
    values = rng.normal(size=n) * 10.0 ** rng.integers(-9, 9)
    intervals = {name: Interval(value, value - 1, value + 1, 9, 1) for name, value in zip(names, values, strict=True)}
    mask, grey = {title: rng.random((n, n)) < 0.5}, {name: ("image", [rng.random((28, 28))]) for name in names[:60]}
    make = one_of(rng, (
        lambda: figures.comparison(intervals, title), lambda: figures.contributions(values, names, title),
        lambda: figures.mask_map(mask, names, title), lambda: figures.rank_moves(names, names[::-1], (title, ""), ""),
        lambda: figures.curves({name: (np.arange(n), values) for name in names[:60]}, title, ("x", "y")),
        lambda: figures.image_rows(grey, title, below=[title]),
        lambda: figures.attention_rows(pd.DataFrame(rng.random((8, n)), columns=names), title),
    ))  # fmt: skip

    def call() -> None:
        picture = make()
        (width, height), png = Image.open(io.BytesIO(drawn := picture.png())).size, base64.b64encode(drawn).decode()
        text = page.figure(png, picture.alt, picture.spec)
        assert width * height < 30e6 and "<script" not in text and "<img src=x" not in text, "too large, or not escaped"

    return call


class Hang(BaseException):
    """Not an error that code can answer."""


def hang(*_: object) -> None:
    raise Hang


def fuzz(cases: int, seed: int = 0, model: M6Rec | None = None) -> tuple[Counter, list[str]]:
    """How many cases are what, and each that is neither answered nor refused in a sentence."""
    if model is None:
        model = small_model(small_data(), pretrain_epochs=1, finetune_epochs=1)
        model.pretrain(), model.fine_tune()
    # The processor's time does not depend on what else runs; a lock that never opens takes none.
    clocks = {signal.SIGPROF: (signal.ITIMER_PROF, SLOW), signal.SIGALRM: (signal.ITIMER_REAL, 20 * SLOW)}
    counts, wrong, before = Counter(), [], {of: signal.signal(of, hang) for of in clocks}
    start = highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(cases):
        rng, what, why = np.random.default_rng([seed, number]), "crashes", ""
        kind = {0: drawing, 1: words, 2: medium, 3: medium}.get(number % 50, (request, load)[number % 2])
        call, begun = kind(rng, model) if kind is request else kind(rng), time.process_time()
        for clock, seconds in clocks.values():
            signal.setitimer(clock, seconds)
        try:
            with warnings.catch_warnings(action="ignore"):  # they say what is odd
                call()
            what = "answered"
        except InputError as error:
            what = "refused"
            if "\n" in str(error) or len(str(error)) > SENTENCE:
                what, why = "crashes", f"no sentence: {str(error)[:200]}"
        except Hang:
            what, why = "hangs", "".join(traceback.format_exc(limit=-3))
        except AssertionError as error:
            what, why = "silent drops", str(error)
        except Exception:
            why = "".join(traceback.format_exc(limit=-3))
        finally:
            for clock, _ in clocks.values():
                signal.setitimer(clock, 0)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if (seconds := time.process_time() - begun) > SLOW:
            what, why = "hangs", why or f"{seconds:.0f} s"
        elif peak > max(highest, start + MEMORY):
            what, why = "too large", f"{(peak - start) / 1024:.0f} MiB above the start"
        highest = max(highest, peak)
        counts[what] += 1
        if why:
            wrong.append(f"case {number}, {kind.__name__}, {what}: {why}")
    for of, handler in before.items():
        signal.signal(of, handler)
    counts["MiB above the start"] = (highest - start) // 1024
    return counts, wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    counts, wrong = fuzz(asked.cases, asked.seed)
    print(*wrong, sep="\n")
    print(f"{asked.cases} cases: {counts['answered']} answered, {counts['refused']} refused in a sentence")
    print(f"{counts['crashes']} crashes, {counts['hangs']} hangs above 10 s, {counts['silent drops']} silent drops")
    print(f"peak memory {counts['MiB above the start']} MiB above the start, {counts['too large']} cases above 1 GiB")
    sys.exit(bool(wrong))
