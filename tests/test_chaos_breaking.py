"""What `headrace chaos` breaks things with: the network, the disk and the clock."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streams.chaos.clock import Clock
from streams.chaos.disk import FileSizeLimit, SmallDisk
from streams.chaos.proxy import Proxy


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that sends back what it gets, and `end` when its client has nothing more to say."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve(client: socket.socket) -> None:
        try:
            while chunk := client.recv(65_536):
                client.sendall(chunk)
            client.sendall(b"end")
        except OSError:
            pass
        client.close()

    def accept() -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listening.getsockname()[1]
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()


def reach(proxy: Proxy) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", proxy.port), 5)
    client.settimeout(5)
    return client


def exchange(client: socket.socket, content: bytes) -> bytes:
    client.sendall(content)
    return receive(client, len(content))


def receive(client: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count and (chunk := client.recv(count - len(got))):
        got += chunk
    return got


def broken(action: Callable[[], bytes]) -> bool:
    """Whether a connection is at its end."""
    try:
        return action() == b""
    except OSError:
        return True


def test_an_open_proxy_passes_everything_on(echo: int) -> None:
    """Megabytes go there and back unchanged, on several connections at once, and are counted."""
    content = random.Random(1).randbytes(1_000_000)
    with Proxy(echo) as proxy:
        clients = [reach(proxy) for _ in range(3)]
        for client in clients:
            threading.Thread(target=client.sendall, args=(content,), daemon=True).start()

        assert [content] * 3 == [receive(client, len(content)) for client in clients]
        assert proxy.passed_bytes == 6_000_000


def test_a_cut_ends_connections_and_lets_none_in_until_it_is_mended(echo: int) -> None:
    """What was open breaks at once, what comes is refused, and afterwards all is as before."""
    with Proxy(echo) as proxy:
        client = reach(proxy)
        before = exchange(client, b"before")
        proxy.set("cut")
        old, new = broken(lambda: client.recv(1)), broken(lambda: exchange(reach(proxy), b"x"))
        proxy.set("open")
        after = exchange(reach(proxy), b"after")

    assert (b"before", True, True, b"after") == (before, old, new, after)


def test_a_network_that_hangs_loses_nothing(echo: int) -> None:
    """Nothing comes and nothing ends; when it is mended, everything arrives in its order, new connections too."""
    with Proxy(echo) as proxy:
        client = reach(proxy)
        exchange(client, b"warm")
        proxy.set("hang")
        client.sendall(b"one ")
        newcomer = reach(proxy)
        newcomer.sendall(b"new")
        client.settimeout(0.4)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(5)
        proxy.set("open")
        client.sendall(b"two")

        assert (b"one two", b"new") == (receive(client, 7), receive(newcomer, 3))


def test_a_slow_network_delivers_late(echo: int) -> None:
    """The same bytes, but each few of them take their time, both ways."""
    with Proxy(echo) as proxy:
        client = reach(proxy)
        exchange(client, b"warm")
        proxy.set("slow")
        began = time.monotonic()
        got = exchange(client, bytes(10_000))

    assert bytes(10_000) == got
    assert time.monotonic() - began > 0.3


def test_half_a_connection_may_end(echo: int) -> None:
    """A client that has nothing more to say still hears what the server says to that."""
    with Proxy(echo) as proxy:
        client = reach(proxy)
        client.sendall(b"last words ")
        client.shutdown(socket.SHUT_WR)

        assert b"last words end" == receive(client, 100)


def test_a_server_that_is_away_is_a_broken_connection() -> None:
    """Behind a proxy whose server is gone a client sees an end, not silence."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with Proxy(port) as proxy:
        assert broken(lambda: exchange(reach(proxy), b"x"))


WRITES = """
import os, sys
for line in sys.stdin:
    try:
        with open(sys.argv[1], "ab", buffering=0) as file:
            file.write(bytes(8192))
        print("ok", flush=True)
    except OSError as error:
        print(error.errno, flush=True)
"""
JOINS = "import sys; sys.path[:0] = [{root!r}]; from streams.chaos import disk; disk.join({pid});"


class Writer:
    """A process that writes 8 kB to a file whenever it is asked."""

    def __init__(self, script: str, file: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def write(self) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.communicate()


def test_a_small_disk_is_full_at_once_and_has_room_again(tmp_path: Path) -> None:
    """Who lives there gets ENOSPC and goes on afterwards; who follows finds the files; nobody else sees any of it."""
    try:
        disk = SmallDisk(tmp_path / "small")
    except OSError as error:
        pytest.skip(f"no user namespaces here: {error}")
    script = JOINS.format(root=str(Path(__file__).parents[1]), pid=disk.options[1]) + WRITES
    writer = Writer(script, tmp_path / "small" / "file")
    before = writer.write()
    disk.fill(writer.process.pid)
    full = writer.write()
    disk.free(writer.process.pid)
    after = writer.write()
    writer.end()
    heir = Writer(script, tmp_path / "small" / "file")
    heir.write()
    heir.end()
    outside = list((tmp_path / "small").iterdir())
    disk.copy_to(tmp_path / "copy")
    disk.close()

    assert ("ok", "28", "ok") == (before, full, after)
    assert [] == outside
    assert 3 * 8192 == (tmp_path / "copy" / "file").stat().st_size


def test_a_limit_of_file_sizes_stands_in_for_a_full_disk(tmp_path: Path) -> None:
    """Where namespaces are refused, a running process gets EFBIG for every write until the limit is gone."""
    disk = FileSizeLimit()
    writer = Writer(WRITES, tmp_path / "file")
    before = writer.write()
    disk.fill(writer.process.pid)
    full = writer.write()
    disk.free(writer.process.pid)
    after = writer.write()
    writer.end()
    disk.fill(writer.process.pid)  # gone: no matter

    assert ("ok", "27", "ok") == (before, full, after)


def test_a_process_sees_its_clock_jump_and_its_monotonic_one_go_on(tmp_path: Path) -> None:
    """Forward a day, back an hour, right again: `time.time` and `time.time_ns` agree, monotonic time never jumps."""
    clock = Clock(tmp_path / "clock")
    script = (
        f"import sys, time; sys.path[:0] = [{str(Path(__file__).parents[1])!r}]\n"
        "from pathlib import Path; from streams.chaos import clock\n"
        f"clock.install(Path({str(clock.path)!r}))\n"
        "for line in sys.stdin: print(time.time(), time.time_ns(), time.monotonic(), flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    seen = []
    for step in (0.0, 86_400.0, -3_600.0, 0.0):
        clock.step(step)
        process.stdin.write("\n")
        process.stdin.flush()
        seconds, nanoseconds, monotonic = map(float, process.stdout.readline().split())
        seen.append((step, seconds - time.time(), nanoseconds / 1e9 - time.time(), monotonic))
    process.communicate()

    assert all(abs(offset - step) < 5 and abs(again - step) < 5 for step, offset, again, _ in seen)
    assert 0 <= seen[-1][3] - seen[0][3] < 10
