"""The HTTP endpoint of a process: `/metrics`, `/health/live`, `/health/ready`, on a thread of its own."""

from __future__ import annotations

import logging
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING

import orjson
from prometheus_client.exposition import choose_encoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client import CollectorRegistry

__all__ = ["Endpoint"]

log = logging.getLogger(__name__)


class Endpoint:
    """Serves metrics and health until it is closed; a context manager.

    Args:
        registry: what `/metrics` shows.
        ready: whether the process can do its work now; `/health/ready` answers 503 where it cannot.
        live: whether it makes progress; `/health/live` answers 503 where it does not, and a supervisor restarts it.
        host: where to listen.
        port: 0 takes a free one; `url` says which.

    Raises:
        OSError: the port is taken.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        ready: Callable[[], bool],
        live: Callable[[], bool] = lambda: True,
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
        try:
            fine, why = check(), ""
        except Exception as error:  # a check that fails is an answer, not a crash
            log.warning("the check of %s failed: %s", path, error)
            fine, why = False, f"{type(error).__name__}: {error}"
        body = {path.rpartition("/")[2]: fine} | ({"error": why} if why else {})
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
