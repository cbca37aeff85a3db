"""The store process: the sink's loop on a thread, the HTTP endpoint on another, until told to stop."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import uvicorn

from schemas.clickhouse import JsonRows, tables
from schemas.codec import JsonCodec, codec_for
from schemas.dead_letter import DeadLetterRow
from streams._garbage import calm_garbage_collection
from streams.errors import WorldError
from streams.observe.health import progressing
from streams.observe.metrics import SinkMetrics, process_registry
from streams.store._embedded import EmbeddedStore
from streams.store._reader import Reader
from streams.store._trust import serving
from streams.store.client import StoreRefusedError, open_store
from streams.store.destination import Destination
from streams.store.endpoint import endpoint
from streams.store.sink import Sink
from streams.store.tables import ensure_tables

if TYPE_CHECKING:
    from collections.abc import Mapping

    from schemas.clickhouse import Table
    from streams.settings import Settings

__all__ = ["StoreService"]

log = logging.getLogger(__name__)

# A loop that stands still for longer is no longer alive: its longest wait for a server is 60 s.
_LIVE_S = 120.0
_START_TIMEOUT_S = 15.0
_RETRY_S, _RETRY_MOST_S = 0.5, 10.0


class StoreService:
    """Sink and endpoint of one store; a context manager.

    Args:
        settings: All of them.
        kafka: librdkafka's settings: `bootstrap.servers` and security.
        declared: The tables to fill; all of the schemas unless given.
        sinks: Whether to store topics; without, only questions are answered.
    """

    def __init__(
        self,
        settings: Settings,
        kafka: Mapping[str, Any],
        declared: list[Table] | None = None,
        *,
        sinks: bool = True,
    ) -> None:
        self._settings = settings
        self._kafka = kafka
        self._tables = tables() if declared is None else declared
        self._stop = threading.Event()
        self._metrics = SinkMetrics(process_registry("store"))
        self._sink: Sink | None = None
        self._sinks = sinks
        self._failure: BaseException | None = None
        self._waiting = ""
        self._store = open_store(settings.clickhouse, settings.data)
        self._embedded = self._store if isinstance(self._store, EmbeddedStore) else None
        try:
            self._server, self._socket = self._listen()
        except BaseException:
            self._store.close()
            raise
        self._threads = [
            threading.Thread(target=self._serve, name="store-http", daemon=True),
            threading.Thread(target=self._run_sink, name="store-sink", daemon=True),
        ]

    @property
    def url(self) -> str:
        """Where the endpoint listens."""
        host, port = self._socket.getsockname()[:2]
        scheme = "https" if self._settings.store.tls_certificate else "http"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    @property
    def clickhouse_url(self) -> str:
        """Where questions are answered: here, or by the configured server."""
        return self.url if self._embedded else self._settings.clickhouse.url

    def start(self) -> None:
        """Begins to sink and to answer; returns when the endpoint listens."""
        for thread in self._threads:
            thread.start()
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._server.started and self._threads[0].is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)

    def stop(self) -> None:
        """Asks for the end; may be called from a signal handler."""
        self._stop.set()

    def wait(self) -> None:
        """Until `stop`, or until the sink cannot go on.

        Raises:
            HeadraceError: Why the sink cannot go on, and what to do.
        """
        while self._threads[1].is_alive() and not self._stop.wait(0.2):
            pass
        self.close()
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Stores what was read, stops listening, lets go of the engine."""
        self._stop.set()
        self._threads[1].join()
        self._server.should_exit = True
        self._threads[0].join()
        self._socket.close()
        self._store.close()

    def status(self) -> dict[str, Any]:
        """What `/status` shows."""
        sink = self._sink
        alive = self._threads[1].is_alive()
        positions = sink.positions() if sink else []
        self._metrics.observe_lag({(p["topic"], p["partition"]): p["lag"] for p in positions if p["lag"] is not None})
        return {
            "store": "embedded" if self._embedded else "server",
            "database": self._store.database,
            "live": not any(self._live(sink, alive).values()),
            "ready": not any(self._ready(sink, alive).values()),
            "away": sink.away if sink else self._waiting,
            "topics": [table.topic for table in self._tables],
            "partitions": positions,
            "rows": sum(position["rows"] for position in positions),
            "rejects": sum(position["rejects"] for position in positions),
        }

    def health(self, check: str) -> dict[str, str]:
        """The conditions of `live` or `ready`, and why each is not met; empty where it is."""
        alive = self._threads[1].is_alive()
        return self._live(self._sink, alive) if check == "live" else self._ready(self._sink, alive)

    def _live(self, sink: Sink | None, alive: bool) -> dict[str, str]:
        running = {"sink": "" if alive else "its thread has ended"}
        return running if sink is None else running | progressing(time.monotonic() - sink.looked, _LIVE_S)

    def _ready(self, sink: Sink | None, alive: bool) -> dict[str, str]:
        away = sink.away if sink else self._waiting
        conditions = {"sink": "" if alive else "its thread has ended", "clickhouse": away}
        if self._sinks:
            conditions["assignment"] = "" if sink and sink.ready else "not every partition is assigned and flowing"
        return conditions

    def __enter__(self) -> StoreService:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _listen(self) -> tuple[uvicorn.Server, socket.socket]:
        own = self._settings.store
        if own.tls_certificate or own.tls_key_file:
            serving(own.tls_certificate, own.tls_key_file)
        version, timezone = "", "UTC"
        if self._embedded:
            [[version, timezone]] = self._embedded.rows("SELECT version(), timezone()")
        registry = self._metrics.registry
        app = endpoint(self._embedded, own, self.status, self.health, registry, str(version), str(timezone))
        family = socket.AF_INET6 if ":" in own.host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((own.host, own.port))
        except OSError as error:
            listening.close()
            raise StoreRefusedError(
                f"The store cannot listen on {own.host}:{own.port}: {error.strerror}. With store.port = 0 it takes a"
                " free one."
            ) from error
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=2,
            ssl_certfile=own.tls_certificate or None,
            ssl_keyfile=own.tls_key_file or None,
        )
        return _Server(config), listening

    def _serve(self) -> None:
        self._server.run(sockets=[self._socket])

    def _run_sink(self) -> None:
        try:
            self._prepare_tables()
            if not self._sinks:
                self._stop.wait()
                return
            reader = self._reader()
            try:
                codecs = {table.topic: self._codec(table) for table in self._tables}
                destinations = {table.topic: Destination(table, codecs[table.topic]) for table in self._tables}
                self._sink = Sink(self._store, reader, destinations, self._settings.store, self._metrics)
                # With the first list that it is given pyarrow loads pandas, where it is installed.
                pa.array([0])
                calm_garbage_collection()
                self._sink.run(self._stop)
            finally:
                reader.close()
        except BaseException as error:  # told to whoever waits
            self._failure = error
            self._stop.set()

    def _prepare_tables(self) -> None:
        """Makes and migrates the tables, waiting for a server that is away."""
        delay = _RETRY_S
        while not self._stop.is_set():
            try:
                for statement in ensure_tables(self._store, self._tables, self._settings.store.ttl_days):
                    log.info("Done to the tables: %s", statement[:200])
            except WorldError as error:
                self._waiting = str(error)
                log.warning("%s; asking again in %.1f s", error, delay)
                self._stop.wait(delay)
                delay = min(delay * 2, _RETRY_MOST_S)
            else:
                self._waiting = ""
                return

    def _reader(self) -> Reader:
        group = ""
        if not self._store.exclusive:
            group = self._settings.store.group_of(self._store.database)
        return Reader(
            self._kafka, [table.topic for table in self._tables], group, self._settings.store.session_timeout_ms
        )

    def _codec(self, table: Table) -> Any:
        if table.row is DeadLetterRow:
            return None
        settings = self._settings
        codec = codec_for(table.topic, table.row, settings.topics.get(table.topic), settings.registry)
        return JsonRows(table.row) if isinstance(codec, JsonCodec) else codec


class _Server(uvicorn.Server):
    def capture_signals(self) -> Any:
        """The process has its own, and this server is not on the main thread."""
        return contextlib.nullcontext()
