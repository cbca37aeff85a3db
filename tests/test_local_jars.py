"""The broker's jars: every one pinned, nothing unpinned runs, and a way out where they cannot be had."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from streams.local import jars
from streams.local._fast_start import fast_start_options
from streams.local.jars import JarsError, broker_jars, cache_dir, read_pins

if TYPE_CHECKING:
    from collections.abc import Iterator

_UNREACHABLE = "http://127.0.0.1:9"


class _LyingRepository(BaseHTTPRequestHandler):
    """Answers every request with the same bytes, which are no jar that anybody asked for."""

    def do_GET(self) -> None:
        """Serves a repository's checksum of the bytes where that is asked for."""
        body = b"not the jar"
        if self.path.endswith(".sha1"):
            body = hashlib.sha1(body, usedforsecurity=False).hexdigest().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Says nothing."""


@pytest.fixture
def mirror() -> Iterator[str]:
    """A Maven repository that serves wrong bytes."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _LyingRepository) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def two_jars(tmp_path: Path) -> tuple[Path, Path]:
    """A cache that holds the two smallest jars, and their pin file."""
    everything = {jar.name: jar for jar in broker_jars()}
    pins = sorted(read_pins(), key=lambda pin: everything[pin.filename].stat().st_size)[:2]
    pin_file = tmp_path / "jars.sha256"
    pin_file.write_text("# two\n" + "".join(f"{pin.sha256}  {pin.coordinate}\n" for pin in pins))
    folder = tmp_path / "cache" / f"kafka-{jars.KAFKA_VERSION}"
    folder.mkdir(parents=True)
    for pin in pins:
        shutil.copy2(everything[pin.filename], folder)
    return tmp_path / "cache", pin_file


def test_every_jar_is_pinned() -> None:
    """The pin file names the broker's own jar and a sha256 for each of the jars it needs."""
    pins = read_pins()

    assert f"org.apache.kafka:kafka_2.13:{jars.KAFKA_VERSION}" in {pin.coordinate for pin in pins}
    assert "org.slf4j:slf4j-simple:1.7.36" in {pin.coordinate for pin in pins}
    assert all(re.fullmatch("[0-9a-f]{64}", pin.sha256) for pin in pins)
    assert len(pins) == len({pin.filename for pin in pins})


def test_a_full_cache_needs_no_network(two_jars: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """With every jar in the cache nothing is fetched."""
    cache, pin_file = two_jars
    monkeypatch.setenv("HEADRACE_MAVEN", _UNREACHABLE)

    found = broker_jars(cache, pin_file)

    assert all(jar.is_file() for jar in found)
    assert [pin.filename for pin in read_pins(pin_file)] == [jar.name for jar in found]


def test_a_changed_jar_is_refused(two_jars: tuple[Path, Path]) -> None:
    """A jar that was verified once and changed since is refused, with both hashes and what to do."""
    cache, pin_file = two_jars
    victim = broker_jars(cache, pin_file)[1]
    victim.write_bytes(victim.read_bytes() + b"!")

    with pytest.raises(
        JarsError, match=rf"{victim.name} is not the pinned .* expected [0-9a-f]{{64}}.*Delete the file"
    ):
        broker_jars(cache, pin_file)


def test_a_changed_pin_is_checked_again(two_jars: tuple[Path, Path]) -> None:
    """What was verified against another pin file counts for nothing."""
    cache, pin_file = two_jars
    broker_jars(cache, pin_file)
    pin_file.write_text(pin_file.read_text().replace(read_pins(pin_file)[0].sha256, "0" * 64))

    with pytest.raises(JarsError, match="is not the pinned"):
        broker_jars(cache, pin_file)


def test_a_wrong_download_never_enters_the_cache(
    two_jars: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, mirror: str
) -> None:
    """A repository that serves other bytes than pinned is refused, and its bytes are not kept."""
    cache, pin_file = two_jars
    victim = broker_jars(cache, pin_file)[0]
    victim.unlink()
    monkeypatch.setenv("HEADRACE_MAVEN", mirror)

    with pytest.raises(JarsError, match="is not the pinned"):
        broker_jars(cache, pin_file)

    assert not victim.exists()
    assert not list(victim.parent.glob("fetch-*"))


def test_without_a_network_the_error_says_what_to_do(
    two_jars: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline and with an empty cache the error names the jar and every way out."""
    cache, pin_file = two_jars
    victim = broker_jars(cache, pin_file)[0]
    victim.unlink()
    monkeypatch.setenv("HEADRACE_MAVEN", _UNREACHABLE)

    with pytest.raises(JarsError) as caught:
        broker_jars(cache, pin_file)

    message = str(caught.value)
    coordinate = read_pins(pin_file)[0].coordinate

    assert f"needs {coordinate}, which cannot be fetched from {_UNREACHABLE}" in message
    assert str(victim.parent) in message
    assert all(way_out in message for way_out in ("go online once", "HEADRACE_MAVEN=", "HEADRACE_KAFKA="))


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """Where the cache cannot be made, the error names it and the variable that moves it."""
    (tmp_path / "cache").write_text("a file")

    with pytest.raises(JarsError, match=r"the cache .* cannot be written: .*HEADRACE_CACHE"):
        broker_jars(tmp_path / "cache")


def test_a_start_is_recorded_once(two_jars: tuple[Path, Path]) -> None:
    """The first start records, later ones use the recording, and a changed jar makes it worthless."""
    cache, pin_file = two_jars
    found = broker_jars(cache, pin_file)
    recorded: list[str] = []
    told: list[str] = []

    def record(options: tuple[str, ...]) -> None:
        output = options[-1].removeprefix("-XX:AOTCacheOutput=")
        Path(output).write_text("a recording")
        recorded.append(output)

    first = fast_start_options(pin_file, found, record, told.append)
    second = fast_start_options(pin_file, found, record, told.append)
    os.utime(found[0], (0, 0))
    third = fast_start_options(pin_file, found, record, told.append)

    assert first == second
    assert first[-1].startswith("-XX:AOTCache=")
    assert first[-1] != third[-1]
    assert len(recorded) == len(told) == 2
    assert len(list(found[0].parent.glob("start-*"))) == 1


def test_a_recording_that_fails_is_not_tried_again(two_jars: tuple[Path, Path]) -> None:
    """Where recording does not work, starts go on without it and say so once."""
    cache, pin_file = two_jars
    found = broker_jars(cache, pin_file)
    told: list[str] = []

    def fail(options: tuple[str, ...]) -> None:
        raise JarsError("no room")

    first = fast_start_options(pin_file, found, fail, told.append)
    second = fast_start_options(pin_file, found, fail, told.append)

    assert (first, second) == ((), ())
    assert [line for line in told if "no room" in line] == told[1:]


def test_the_cache_can_be_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """HEADRACE_CACHE names the folder of downloads."""
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))

    assert tmp_path == cache_dir()
