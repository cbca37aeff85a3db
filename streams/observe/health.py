"""The HTTP endpoint of a process: `/metrics`, `/health/live`, `/health/ready`, on a thread of its own.

Health is a set of named conditions, and the answer says which is missing and why:

    503 {"ready": false, "conditions": {"model": true, "assignment": false}, "missing": {"assignment": "holds no …"}}
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

import orjson
from prometheus_client.exposition import choose_encoder

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = ["Conditions", "Endpoint", "always", "progressing", "shown", "whereabouts"]

log = logging.getLogger(__name__)

Conditions = Callable[[], Mapping[str, str]]
"""Names of conditions, and for each why it is not met; empty where it is."""


def always() -> dict[str, str]:
    """No condition at all."""
    return {}


def progressing(stalled_s: float, timeout_s: float) -> dict[str, str]:
    """The condition of a loop that came round so long ago: not met where that is longer than the time-out."""
    if stalled_s < timeout_s:
        return {"progress": ""}
    return {"progress": f"the loop did not come round for {stalled_s:.0f} s; it is in {whereabouts()}"}


def whereabouts() -> str:
    """Where the main thread is, such as `streams/emitter.py:123 commit`; Python's innermost frame of it."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    if frame is None:
        return "a thread that ended"
    path = "/".join(frame.f_code.co_filename.rsplit("/", 2)[-2:])
    return f"{path}:{frame.f_lineno} {frame.f_code.co_name}"


def shown(name: str, check: Conditions) -> tuple[bool, dict[str, Any]]:
    """Whether all conditions are met, and the body that says so."""
    try:
        conditions = check()
    except Exception as error:  # a check that fails is an answer, not a crash
        log.warning("the check of %s failed: %s", name, error)
        conditions = {"check": f"{type(error).__name__}: {error}"}
    missing = {condition: why for condition, why in conditions.items() if why}
    body: dict[str, Any] = {name: not missing}
    if conditions:
        body["conditions"] = {condition: not why for condition, why in conditions.items()}
    if missing:
        body["missing"] = missing
    return not missing, body


class Endpoint:
    """Serves metrics and health until it is closed; a context manager.

    Args:
        registry: what `/metrics` shows.
        ready: what it takes for the process to do its work; `/health/ready` answers 503 where something is missing.
        live: what it takes to make progress; `/health/live` answers 503 where that is missing, and a supervisor
            restarts the process.
        host: where to listen.
        port: 0 takes a free one; `url` says which.

    Raises:
        OSError: the port is taken.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        ready: Conditions,
        live: Conditions = always,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._registry = registry
        self._checks = {"/health/live": live, "/health/ready": ready}
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, kind, body = endpoint.answer(self.path.partition("?")[0], self.headers.get("Accept", ""))
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """A scrape every few seconds is no news."""

        self._server = _Server((host, port), Handler)
        self._thread = Thread(target=self._server.serve_forever, args=(0.1,), name="endpoint", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens: `http://127.0.0.1:40123`."""
        host, port = self._server.server_address[:2]
        name = host.decode() if isinstance(host, bytes) else host
        return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"

    def answer(self, path: str, accept: str = "") -> tuple[int, str, bytes]:
        """The status, content type and body for a path."""
        if path == "/metrics":
            encode, kind = choose_encoder(accept)
            return 200, kind, encode(self._registry)
        check = self._checks.get(path)
        if check is None:
            return 404, "text/plain", b"/metrics, /health/live and /health/ready are here\n"
        fine, body = shown(path.rpartition("/")[2], check)
        return 200 if fine else 503, "application/json", orjson.dumps(body)

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that went away is no news either."""
