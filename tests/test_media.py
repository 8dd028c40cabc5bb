"""Photographs and recordings: read from their place only, decoded by the rules, absent where damaged, and cached."""

from __future__ import annotations

import io
import os
import struct
import time
import tracemalloc
import unicodedata
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from PIL import Image

import m6rec.data as d
from m6rec.config import InputError
from m6rec.data import features, image, sound
from m6rec.data.features import MEDIA_LIMIT, Media, MediaWarning
from m6rec.data.text import PAD, SPECIAL, Tokenizer

TOKENIZER = Tokenizer.fit(["a red mug for coffee", "a blue coat & a hat"], 300, SPECIAL)


def picture(pixels: np.ndarray, form: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(out, form, **options)
    return out.getvalue()


def recording(wave: np.ndarray, rate: int = 8000, form: str = "WAV", subtype: str | None = None) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, wave, rate, subtype, format=form)
    return out.getvalue()


def tone(seconds: float, rate: int = 8000, pitch: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate)


def png_header(width: int, height: int) -> bytes:
    """A PNG file that claims a size and holds no pixel."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


RANDOM = np.random.default_rng(0).integers(0, 256, (28, 28))
MUG, HUM = picture(RANDOM), recording(tone(1))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Media with one file of each kind, whole and damaged; a secret lies beside the folder."""
    place = tmp_path / "media"
    (place / "images").mkdir(parents=True)
    (place / "images" / "mug.png").write_bytes(MUG)
    (place / "hum.wav").write_bytes(HUM)
    (place / "torn.png").write_bytes(MUG[: len(MUG) // 2])
    (place / "empty.wav").write_bytes(recording(np.zeros(0)))
    (tmp_path / "secret.png").write_bytes(MUG)
    return place


def zipped(folder: Path) -> Path:
    path = folder.with_name("media.zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return path


# ------------------------------------------------------------------------------------------------ folders and zips


def test_a_folder_and_its_zip_give_the_same_files_and_the_same_fingerprint(folder):
    names = ["images/mug.png", "hum.wav", "gone.png"]
    prints = set()
    for media in (Media(folder), Media(str(zipped(folder)))):
        assert media.read("./images/mug.png") == MUG
        prints.add(media.fingerprint(names))
        assert media.fingerprint(reversed(names)) == media.fingerprint(names) != media.fingerprint(names[:2])
    assert len(prints) == 1
    (folder / "gone.png").write_bytes(b"found")
    assert Media(folder).fingerprint(names) not in prints


OUTSIDE = ["../secret.png", "images/../../secret.png", "/etc/passwd", "C:/secret.png", "..\\secret.png", "link.png"]


@pytest.mark.parametrize("name", [*OUTSIDE, "linked/secret.png"])
def test_no_name_reaches_a_file_outside_of_the_folder_or_the_zip(folder, name):
    (folder / "link.png").symlink_to("../secret.png")
    (folder / "linked").symlink_to("..")
    with pytest.raises(InputError, match="climbs out of the media folder; give a path"):
        Media(folder).read(name)
    archive = folder.with_name("evil.zip")
    with zipfile.ZipFile(archive, "w") as bundle:
        for evil in {*OUTSIDE, "linked/secret.png"} - {"link.png"}:
            bundle.writestr(evil, b"evil")
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        bundle.writestr(link, "../secret.png")
    if name == "link.png":  # in the zip a file like others, and never followed
        assert Media(archive).read(name) == b"../secret.png"
    elif name != "linked/secret.png":
        with pytest.raises(InputError, match="climbs out of the media folder; give a path"):
            Media(archive).read(name)


def test_an_accented_name_is_found_however_the_letters_are_composed(folder):
    names = [unicodedata.normalize(form, "café.png") for form in ("NFC", "NFD")]
    for written in names:
        (folder / written).write_bytes(MUG)
        for place in (folder, zipped(folder)):
            assert all(Media(place).holds(name) and Media(place).read(name) == MUG for name in names)
        (folder / written).unlink()


def test_a_link_that_stays_within_the_folder_is_followed(folder):
    (folder / "same.png").symlink_to("images/mug.png")
    assert Media(folder).read("same.png") == MUG


def test_what_cannot_be_read_is_named(folder):
    with (folder / "large.png").open("wb") as file:
        file.truncate(MEDIA_LIMIT + 1)
    os.mkfifo(folder / "pipe.png")  # reading it would wait for ever
    media, archive = Media(folder), folder.with_name("large.zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("large.png", bytes(MEDIA_LIMIT + 1))
    for name, message in [
        ("gone.png", "'gone.png' is no file among the media; add it"),
        ("large.png", "'large.png' is larger than 64 MB; scale or cut it"),
        ("images", "'images' is no file among"),
        ("pipe.png", "'pipe.png' is no file among"),
        ("", "is no file name"),
        ("a\0b", "is no file name"),
        ("x" * 5000, "'xxx.*…' cannot be read"),
    ]:
        with pytest.raises(InputError, match=message):
            media.read(name)
    with pytest.raises(InputError, match="larger than 64 MB"):
        Media(archive).read("large.png")
    content = bytearray(archive.read_bytes())
    entry = content.index(b"PK\1\2")
    content[entry + 24 : entry + 28] = struct.pack("<I", 100)  # a header that claims a hundred bytes
    archive.write_bytes(content)
    with pytest.raises(InputError, match=r"'large\.png' cannot be read"):
        Media(archive).read("large.png")
    with pytest.raises(InputError, match=r"media .*nowhere is no folder and no zip file \(.*No such file"):
        Media(folder / "nowhere")
    with pytest.raises(InputError, match="is no folder and no zip file"):
        Media(folder / "hum.wav")
    (folder / "pipe.png").unlink()
    (folder / "large.png").unlink()
    torn = zipped(folder)
    content = bytearray(torn.read_bytes())
    start = content.index(MUG)
    content[start + 40 : start + 60] = bytes(20)
    torn.write_bytes(content)
    with pytest.raises(InputError, match=r"'images/mug\.png' cannot be read \(Bad CRC"):
        Media(torn).read("images/mug.png")


# ----------------------------------------------------------------------------------------------------------- images


def test_a_grey_photograph_of_28_pixels_comes_through_as_it_is():
    for form in ("PNG", "BMP", "GIF"):
        assert np.array_equal(image.decode(picture(RANDOM, form)) * 255, RANDOM.astype(np.float32))


def test_the_longest_side_becomes_28_centred_on_black():
    wide = image.decode(picture(np.full((100, 200), 255)))
    assert wide.shape == (28, 28) and wide.dtype == np.float32
    assert np.all(wide[7:21] == 1) and not wide[:7].any() and not wide[21:].any()
    assert image.decode(picture(np.full((3, 2000), 255))).sum() == 28  # never thinner than a pixel
    assert image.decode(picture(np.full((2, 1), 255))).sum() == 28 * 14


def test_colour_becomes_grey_and_what_is_transparent_black():
    green = np.tile(np.array([0, 255, 0]), (28, 28, 1))
    assert np.allclose(image.decode(picture(green)), 0.587, atol=0.005)
    white = np.full((28, 28, 4), 255)
    white[:14, :, 3] = 0
    half = image.decode(picture(white))
    assert not half[:14].any() and np.all(half[14:] == 1)
    palette = io.BytesIO()
    Image.fromarray(np.repeat([[0, 1]], 28, 0).repeat(14, 1).astype(np.uint8)).convert("P").save(
        palette, "PNG", transparency=1
    )
    assert not image.decode(palette.getvalue())[:, 14:].any()


def test_sixteen_bits_are_scaled_and_not_clipped():
    deep = io.BytesIO()
    Image.fromarray(np.full((28, 28), 32896, np.uint16)).save(deep, "PNG")
    assert np.allclose(image.decode(deep.getvalue()), 128 / 255)


def test_damaged_exif_does_not_spoil_a_photograph():
    raw = picture(RANDOM, "JPEG", exif=b"Exif\0\0" + b"\xff" * 99)
    np.testing.assert_array_equal(image.decode(raw), image.decode(picture(RANDOM, "JPEG")))


def test_a_photograph_is_turned_upright_by_its_exif():
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    turned = image.decode(picture(RANDOM // 64 * 80, "JPEG", quality=100, exif=exif))
    plain = image.decode(picture(RANDOM // 64 * 80, "JPEG", quality=100))
    assert np.array_equal(turned, plain[::-1, ::-1]) and not np.array_equal(turned, plain)


@pytest.mark.parametrize("size", [(40_000, 40_000), (9_000, 9_000)])
def test_a_huge_image_is_refused_by_its_header(size):
    with pytest.raises(InputError, match=r"(above|below) 50 megapixels"):
        image.decode(png_header(*size))


@pytest.mark.parametrize("end", [0, 10, 30, 60, len(MUG) // 2, len(MUG) - 30])
def test_a_truncated_image_is_refused_wherever_it_ends(end):
    with pytest.raises(InputError, match=r"is (a damaged|no) image"):
        image.decode(MUG[:end])


def test_a_format_that_starts_programs_is_no_image():
    with pytest.raises(InputError, match="is no image that can be read; save it as PNG"):
        image.decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 28 28\n")


def test_patches_are_cut_and_joined_again():
    images = np.arange(3 * 784, dtype=np.float32).reshape(3, 28, 28)
    cut = image.patches(images)
    assert cut.shape == (3, 16, 49) and np.array_equal(cut[1, 6], images[1, 7:14, 14:21].ravel())
    assert np.array_equal(image.unpatch(cut), images)
    mels = np.arange(3 * 1024, dtype=np.float32).reshape(3, 32, 32)
    cut = sound.patches(mels)
    assert cut.shape == (3, 8, 128) and np.array_equal(cut[2, 5].reshape(4, 32), mels[2, :, 20:24].T)
    assert np.array_equal(sound.unpatch(cut), mels)


def test_size_colour_and_seconds_are_those_that_were_asked_for():
    one = image.decode(picture(np.tile(np.array([200, 30, 90]), (60, 30, 1))), 56, colour=True)
    assert one.shape == (56, 56, 3) and not one[:, :14].any()
    assert np.allclose(one[:, 14:42] * 255, [200, 30, 90])
    half = picture(np.tile(np.array([200, 100, 50, 51]), (7, 7, 1)))  # a fifth of it is seen
    assert np.allclose(image.decode(half, 14, colour=True) * 255, [40, 20, 10], atol=1)
    images = np.random.default_rng(0).random((9, 14, 14, 3), np.float32) * np.array([1, 0, 1], np.float32)
    cut = image.patches(images)
    assert cut.shape == (9, *image.shape(14, True)) == (9, 4, 147) and np.array_equal(image.unpatch(cut), images)
    out = image.augment(images, np.random.default_rng(0))
    assert out.shape == images.shape and out[..., [0, 2]].any() and not out[..., 1].any()
    wave = sound.decode(recording(tone(5)), 3.0)
    mel = sound.log_mel(wave[None])
    assert len(wave) == 23 * 1024 and np.abs(wave[-100:]).max() > 0.4
    assert sound.patches(mel).shape == (1, *sound.shape(3.0)) and np.array_equal(sound.unpatch(sound.patches(mel)), mel)
    assert sound.augment(mel, np.random.default_rng(0)).shape == mel.shape


def test_augmented_photographs_are_moved_mirrored_and_brightened_a_little():
    dot = np.zeros((200, 28, 28), np.float32)
    dot[:, 10, 12] = 0.5
    out = image.augment(dot, np.random.default_rng(0))
    assert out.dtype == np.float32 and np.array_equal(out, image.augment(dot, np.random.default_rng(0)))
    places = np.stack(np.nonzero(out)[1:], 1)
    assert len(places) == 200
    assert set(places[:, 0]) == set(range(8, 13)) and set(places[:, 1]) == {*range(10, 15), *range(13, 18)}
    assert 0.45 <= out.max((1, 2)).min() < 0.47 and 0.53 < out.max() <= 0.55


# ----------------------------------------------------------------------------------------------------------- sounds


def test_a_recording_becomes_its_first_second_at_8_khz_from_where_it_begins():
    late = np.concatenate([np.full(12_000, 1e-4), tone(3, 44_100)])
    wave = sound.decode(recording(np.stack([late, late], 1), 44_100))
    assert wave.shape == (8192,) and wave.dtype == np.float32
    wanted = 0.5 * np.sin(2 * np.pi * 440 * (np.arange(8192) / 8000 + 1 / 44_100))  # the tone's own first sample is 0
    assert np.abs(wave - wanted)[200:-200].max() < 0.001
    short = sound.decode(recording(tone(0.25)))
    assert np.abs(short[1900:2000]).max() > 0.4 and not short[2001:].any()


@pytest.mark.parametrize("form", ["FLAC", "OGG", "MP3"])
def test_other_formats_are_read_too(form):
    assert 0.3 < np.abs(sound.decode(recording(tone(1, 16_000), 16_000, form))).max() < 0.7


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (recording(np.zeros(0)), "peak in its first 10 seconds is 0 "),
        (recording(np.zeros(8000)), "peak in its first 10 seconds is 0 .*; cut silence off"),
        (recording(np.array([0.1, np.nan, 0.2]), subtype="FLOAT"), "is nan .*; .* record it again"),
        (recording(1e38 * tone(1), subtype="FLOAT"), r"is \d\.?\d*e\+37 "),
        (recording(tone(1), 500), "is a sound of 500 Hz"),
        (HUM[:20], "is no sound that can be read"),
        (MUG, r"is no sound that can be read \(Format not recognised\); save it as WAV"),
        (b"", "is no sound that can be read"),
    ],
    ids=[
        "empty",
        "silent",
        "nan",
        "loud",
        "500 Hz",
        "cut",
        "picture",
        "nothing",
    ],  # not of the bytes: some hold the time
)
def test_a_recording_that_says_nothing_is_refused(raw, message):
    with pytest.raises(InputError, match=message):
        sound.decode(raw)


def test_ten_hours_cost_no_more_than_their_first_seconds():
    hours = np.zeros(36_000 * 1000, np.int16)
    hours[:2000:2] = 10_000
    long = recording(hours, 1000, "FLAC")
    claimed = bytearray(recording(tone(1)))
    claimed[40:44] = struct.pack("<I", 2 * 8000 * 36_000)  # the header of ten hours over a second of sound
    tracemalloc.start()
    start = time.perf_counter()
    for raw in (long, bytes(claimed)):
        assert np.abs(sound.decode(raw)).max() > 0.1
    seconds, peak = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 1 and peak < 5_000_000


def test_channels_that_cancel_each_other_are_heard_and_loud_floats_are_not_clipped():
    wave = tone(1)
    heard = sound.decode(recording(wave))
    for channels in (np.c_[wave, -wave], np.c_[0 * wave, wave, -wave]):
        np.testing.assert_allclose(np.abs(sound.decode(recording(channels))), np.abs(heard), atol=1e-3)
    np.testing.assert_allclose(sound.decode(recording(np.c_[wave, 0 * wave])), heard / 2, atol=1e-3)
    loud = sound.decode(recording(8 * wave, subtype="FLOAT"))
    np.testing.assert_allclose(loud, heard / np.abs(heard).max(), atol=1e-2)


def test_log_mel_is_0_in_silence_and_about_1_at_full_scale_and_shows_the_pitch():
    waves = np.stack([np.zeros(8192), *(2 * tone(1.024, pitch=pitch)[:8192] for pitch in (300, 3000))])
    mels = sound.log_mel(waves.astype(np.float32))
    assert mels.shape == (3, 32, 32) and mels.dtype == np.float32
    assert not mels[0].any() and mels.min() >= 0 and 0.9 < mels[1:].max() < 1.2
    low, high = mels[1:, :, 16].argmax(1)
    assert low < 8 and high > 22
    assert sound.log_mel(waves[:0]).shape == (0, 32, 32)


def test_augmented_sounds_lose_bands_and_frames_and_nothing_else():
    mels = np.ones((300, 32, 32), np.float32)
    out = sound.augment(mels, np.random.default_rng(0))
    bands, frames = (out == 0).all(2).sum(1), (out == 0).all(1).sum(1)
    assert set(bands) == set(frames) == set(range(7))
    assert np.array_equal((out == 0).sum((1, 2)), 32 * bands + 32 * frames - bands * frames)
    assert out.dtype == np.float32 and set(np.unique(out)) == {0, 1}


# --------------------------------------------------------------------------------------------------------- features


def test_texts_become_tokens_and_tokens_words_again():
    ids = TOKENIZER.tokens(["A <b>red</b>  mug", None, "", "coffee " * 100_000], 8)
    assert TOKENIZER.bpe.decode(ids[0]) == "a red mug"
    assert not ids[1:3].any() and (ids[3] != PAD).all()


def items() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "text": ["a red mug", "", "a coat", "a hat", "a mug"],
            "image": ["images/mug.png", "torn.png", None, "../secret.png", "images/mug.png"],
            "sound": [None, "hum.wav", "empty.wav", np.nan, "gone.wav"],
        }
    )


def test_damaged_and_missing_files_are_absent_counted_and_named_once(folder):
    with pytest.warns(MediaWarning) as told:
        found = features.preprocess(items(), Media(folder), TOKENIZER, 8)
    assert len(told) == 1 and told[0].filename == __file__
    message = str(told[0].message)
    assert message.startswith("files of the items that cannot be used count as absent (4): '../secret.png' climbs")
    assert "'torn.png' is a damaged image" in message and message.endswith("; …")
    there = [[1, 1, 0], [0, 0, 1], [1, 0, 0], [1, 0, 0], [1, 1, 0]]
    assert found.present.astype(int).tolist() == there and found.present.dtype == bool
    assert found.text.shape == (5, 8) and found.image.shape == (5, 16, 49) and found.sound.shape == (5, 8, 128)
    assert found.image.dtype == found.sound.dtype == np.float32
    assert np.array_equal(found.image[0], image.patches(image.decode(MUG)[None])[0])
    assert np.array_equal(found.image[4], found.image[0]) and not found.image[1:4].any()
    assert found.sound[1].any() and not found.sound[[0, 2, 3, 4]].any()


def test_items_of_text_alone_have_no_other_modality_and_no_warning():
    found = features.preprocess(items()[["text"]], None, TOKENIZER, 8)
    assert found.present[:, 0].tolist() == [True, False, True, True, True] and not found.present[:, 1:].any()
    assert found.image.shape == (5, 16, 49) and found.sound.shape == (5, 8, 128)


def test_a_caller_gives_bytes_and_paths_but_a_string_is_a_name_in_the_media(folder):
    own = [MUG, folder / "images" / "mug.png"]
    table = pd.DataFrame({"text": "a mug", "image": pd.Series(own, dtype=object), "sound": [HUM, None]})
    found = features.preprocess(table, None, TOKENIZER, 8)
    assert found.present[:, 1].all() and np.ptp(found.image, 0).max() == 0 and found.present[:, 2].tolist() == [1, 0]
    table["image"] = str(folder / "images" / "mug.png")
    with pytest.warns(MediaWarning, match="is no Path and no bytes, and a name needs media"):
        assert not features.preprocess(table, None, TOKENIZER, 8).present[:, 1].any()


def test_the_cache_gives_the_same_without_decoding_and_follows_the_contents(folder, tmp_path, monkeypatch):
    media, cache = Media(folder), tmp_path / "home" / "features"

    def run(where: Path | None = cache) -> tuple[features.Features, str]:
        with pytest.warns(MediaWarning) as told:
            found = features.preprocess(items(), media, TOKENIZER, 8, where)
        return found, str(told[0].message)

    def same(a, b) -> bool:
        return a[1] == b[1] and all(map(np.array_equal, a[0], b[0]))

    first = run()
    assert same(first, run(None)) and len(list(cache.iterdir())) == 2  # no trace of a half-written file
    with monkeypatch.context() as patched:
        count = {name: 0 for name in features.FILE_MODALITIES}
        for name, module in features.FILE_MODALITIES.items():

            def decode(raw, name=name, real=module.decode):
                count[name] += 1
                return real(raw)

            patched.setattr(module, "decode", decode)
        assert same(first, run()) and count == {"image": 1, "sound": 1}  # torn.png and empty.wav, to say what is wrong
    for file in cache.iterdir():
        file.write_bytes(file.read_bytes()[:100])
    assert same(first, run()) and same(first, run())  # damaged, so made anew
    assert same(first, run(folder / "hum.wav" / "features"))  # a place that cannot be written to
    (folder / "images" / "mug.png").write_bytes(picture(255 - RANDOM))
    assert not np.array_equal(first[0].image, run()[0].image)


# ---------------------------------------------------------------------------------------------------------- Dataset


def dataset(media: Path | None, **columns: list) -> d.Dataset:
    table = pd.DataFrame({"item_id": [1, 2, 3], "title": ["Mug", "Hum", "Hat"]} | columns)
    events = pd.DataFrame({"user_id": [1, 1, 1, 2, 2], "item_id": [1, 2, 3, 2, 1], "timestamp": range(5)})
    return d.Dataset.from_frames(table, None, events, media=media)


def test_a_dataset_knows_its_media_and_their_content_is_part_of_its_fingerprint(folder):
    columns = {"image": ["./images/mug.png", "", None], "sound": [None, "hum.wav", float("nan")]}
    data = dataset(folder, **columns)
    assert data.items["image"].tolist() == ["images/mug.png", None, None]
    assert data.items["sound"].tolist() == [None, "hum.wav", None]
    assert data.modalities == ("text", "image", "sound") and dataset(None).modalities == ("text",)
    assert dataset(folder, image=columns["image"], sound=[None] * 3).modalities == ("text", "image")
    assert data.subset(1).media is data.media
    assert dataset(zipped(folder), **columns).fingerprint == data.fingerprint != dataset(None).fingerprint
    (folder / "hum.wav").write_bytes(recording(tone(2)))
    assert dataset(folder, **columns).fingerprint != data.fingerprint


def test_without_takes_events_away_and_leaves_every_code_as_it_is():
    data = dataset(None)
    less = data.without(np.array([1]))
    assert less.items.equals(data.items) and less.users.equals(data.users)
    assert less.events[["user", "item"]].to_numpy().tolist() == [[0, 0], [0, 2], [1, 0]]
    assert less.offsets.tolist() == [0, 2, 3] and less.name == data.name
    assert less.fingerprint != data.fingerprint == data.without(np.array([], int)).fingerprint
    none = data.without([], users=np.array([0]))
    assert none.offsets.tolist() == [0, 0, 2] and none.n_users == 2
    with pytest.raises(InputError, match=r"item codes must lie in 0\.\.2; take them from data.item_codes"):
        data.without([3])
    with pytest.raises(InputError, match=r"user codes must lie in 0\.\.1"):
        data.without([], [-1])
    with pytest.raises(InputError, match="has no events then; leave at least one in"):
        data.without([0, 1, 2])


def test_nothing_warns_where_nothing_is_wrong(folder):
    data = dataset(folder, image=["images/mug.png", None, None])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert features.preprocess(data.items, data.media, TOKENIZER, 8).present[:, 1].tolist() == [True, False, False]
