"""Files from outside: only whole and checked ones are placed, both copies of ml-100k read the same, hosts may fail."""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
import socket
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pooch
import pytest
from faults import at_operation, fail

import m6rec.data as d
from m6rec.config import InputError
from m6rec.data import sources

CONTENT = b"1 10 20 30\n2 20 30 10\n3 30 10 20\n" * 4000
HASH = hashlib.sha256(CONTENT).hexdigest()
beauty = partial(sources.sequences, **sources.SOURCES["amazon-beauty"]["options"])


class Web(BaseHTTPRequestHandler):
    """Serves CONTENT under any path; `cut` of the server's next answers end half-way; `ranges` are what was asked."""

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        body = CONTENT[start:]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.server.cut > 0 else body)
        self.server.cut -= 1

    def log_message(self, *_):
        pass


@pytest.fixture
def web():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Web)
    server.cut, server.ranges = 0, []
    server.address = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """pooch waits a second before it tries again."""
    monkeypatch.setattr(pooch.core.time, "sleep", lambda seconds: None)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache; the folder of a source named "tiny"."""
    monkeypatch.setenv("M6REC_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("M6REC_MIRROR", raising=False)
    return tmp_path / "home" / "data" / "tiny"


@pytest.fixture
def tiny(monkeypatch):
    """Registers a source "tiny" with these addresses as its routes."""

    def register(*addresses: str, sha256: str = HASH) -> None:
        def read(folder: Path) -> tuple:
            (folder / "Beauty_item2attributes.json").write_text("{}")
            return beauty(folder)

        monkeypatch.setitem(sources.READERS, "tiny", read)
        routes = [{"address": address, "files": {"Beauty.txt": sha256}} for address in addresses]
        source = {"terms": "made up", "reader": "tiny", "options": {}, "routes": routes}
        monkeypatch.setitem(sources.SOURCES, "tiny", source)

    return register


def closed_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/"


# ------------------------------------------------------------------------------------------------------ the cache


def test_a_file_is_fetched_once_and_then_read_from_the_cache(web, cache, tiny, capsys):
    tiny(web.address)
    first, second = d.load("tiny"), d.load("tiny")
    assert web.ranges == [None]
    assert (cache / "Beauty.txt").read_bytes() == CONTENT and not (cache / "Beauty.txt.part").exists()
    assert first.fingerprint == second.fingerprint and first.n_items == 3
    assert capsys.readouterr() == ("", "")  # no bar and no note where there is no terminal


def test_a_download_that_breaks_off_is_tried_once_more_and_never_placed_in_part(web, cache, tiny):
    tiny(web.address)
    web.cut = 2
    with pytest.raises(InputError, match=r"does not answer .*IncompleteRead"):
        d.load("tiny")
    assert not list(cache.iterdir())
    web.cut = 1
    d.load("tiny")
    assert len(web.ranges) == 4 and (cache / "Beauty.txt").read_bytes() == CONTENT


def test_a_file_is_never_stitched_from_two_versions(web, cache, tiny):
    tiny(web.address)
    cache.mkdir(parents=True)
    (cache / "Beauty.txt.part").write_bytes(b"1 7 8 9\n" * 500)  # what a killed download of last year's file left
    d.load("tiny")
    assert web.ranges == [None] and (cache / "Beauty.txt").read_bytes() == CONTENT


def test_a_damaged_file_is_never_placed_nor_resumed(web, cache, tiny):
    tiny(web.address, sha256="0" * 64)
    with pytest.raises(InputError, match=r"Beauty\.txt is damaged \(its SHA-256 is not 000000000000…\)"):
        d.load("tiny")
    assert not list(cache.iterdir())


def test_a_file_that_was_damaged_in_the_cache_is_never_read_but_fetched_anew(web, cache, tiny):
    tiny(web.address)
    first = d.load("tiny").fingerprint
    (cache / "Beauty.txt").write_bytes(b"1 2 3\n")
    assert d.load("tiny").fingerprint == first and len(web.ranges) == 2
    (cache / "Beauty.txt").write_bytes(b"1 2 3\n")
    web.cut = 2
    with pytest.raises(InputError, match=r"does not answer .*IncompleteRead"):
        d.load("tiny")


def test_a_cache_that_cannot_be_made_is_told(tiny, tmp_path, monkeypatch):
    tiny(closed_port())
    (tmp_path / "file").touch()
    monkeypatch.setenv("M6REC_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"tiny cannot be written .*M6REC_HOME"):
        d.load("tiny")


def test_a_disk_that_is_full_is_told_and_leaves_nothing_in_the_way(web, cache, tiny, tmp_path):
    tiny(web.address)
    met, number = True, 0
    while met:
        with at_operation(number, tmp_path, partial(fail, (errno.ENOSPC, errno.EROFS)[number % 2])) as fails:
            try:
                sources.files("tiny")
            except InputError as error:
                assert re.fullmatch(r".*tiny cannot be written \(.*free space, or .*M6REC_HOME.*", str(error))
        met, number = fails(), number + 1
        assert {path.name for path in cache.glob("*") if path.stat().st_size} <= {"Beauty.txt"}
        assert (sources.files("tiny") / "Beauty.txt").read_bytes() == CONTENT
        shutil.rmtree(cache)
    assert number > 4


def test_the_mirror_saves_the_way_and_is_checked_like_any_other(cache, tiny, tmp_path, monkeypatch):
    tiny(closed_port())
    monkeypatch.setenv("M6REC_MIRROR", str(tmp_path))
    copy = tmp_path / "tiny" / "Beauty.txt"
    copy.parent.mkdir()
    copy.write_bytes(CONTENT[:-1])
    with pytest.raises(InputError, match=r"tiny/Beauty\.txt is damaged"):
        d.load("tiny")
    copy.write_bytes(CONTENT)
    assert d.load("tiny").n_users == 3


def test_what_cannot_be_fetched_says_where_from_and_where_to_and_is_then_read(cache, tiny):
    tiny(address := closed_port())
    with pytest.raises(InputError, match=rf"does not answer .* Put Beauty\.txt from {address} into .*tiny"):
        d.load("tiny")
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "Beauty.txt").write_bytes(CONTENT)
    assert d.load("tiny").n_users == 3


# --------------------------------------------------------------------------------------------------- hosts that fail


def test_a_host_that_is_down_gives_way_to_the_next_route(web, cache, tiny):
    tiny(closed_port(), web.address)
    assert d.load("tiny").n_users == 3
    assert len(web.ranges) == 1


def test_a_host_that_never_answers_is_left_after_the_timeout(cache, tiny, monkeypatch):
    assert sources.TIMEOUT <= 5
    monkeypatch.setattr(sources, "TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the call, says nothing
        hang_up = threading.Timer(3, silent.close)  # without a timeout of our own this ends it, with another message
        hang_up.start()
        tiny(f"http://127.0.0.1:{silent.getsockname()[1]}/")
        with pytest.raises(InputError, match=r"does not answer .*timed out"):
            d.load("tiny")
        hang_up.cancel()


def test_when_no_route_works_one_sentence_says_why_and_what_to_do(cache, tiny):
    tiny(closed_port(), "pip:./no-such-folder/no_such-1-py3-none-any.whl")
    with pytest.raises(InputError) as error:
        d.load("tiny")
    message = str(error.value)
    assert "does not answer" in message and "pip download" in message
    assert "Put Beauty.txt from http://127.0.0.1:" in message and str(cache) in message
    assert "M6REC_MIRROR to a folder that holds tiny/Beauty.txt" in message


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(
        InputError, match='folder="ml-1oom" is unknown: take one of bazaar, ml-100k, ml-1m, amazon-beauty'
    ):
        d.load("ml-1oom")


def test_ml_100k_is_whole():
    data = d.load("ml-100k")
    assert (data.n_users, data.n_items, data.n_events) == (943, 1682, 100_000)
    split = data.split()
    assert len(split.test) == len(split.valid) == 943 and split.train.sum() == 100_000 - 2 * 943
    assert data.items.loc[data.find("The Usual Suspects")[0], "title"] == "Usual Suspects, The (1995)"
    same = data.events["user"].diff().eq(0)
    assert 0.50 < data.events["timestamp"].diff()[same].eq(0).mean() < 0.52  # why the tie rule matters
