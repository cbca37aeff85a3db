"""The store's HTTP endpoint: ClickHouse's interface to the embedded engine, its state, and its metrics.

Questions run on threads, a bounded number at once, each in a session of its own, so that none keeps the sink waiting
for more than the cores they share. Without an engine (a ClickHouse server does the answering) state and metrics remain.
"""

from __future__ import annotations

import json
import logging
import socket
import uuid
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from streams.observe.health import shown
from streams.store import _request
from streams.store._packing import choose, compress, pack
from streams.store._request import Wanted, authorize, content_type, http_status
from streams.store.client import StoreError, StoreRefusedError
from streams.store.questions import Answer, ask, ignored_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client import CollectorRegistry
    from starlette.requests import Request

    from streams.settings import StoreSettings
    from streams.store._embedded import EmbeddedStore

__all__ = ["endpoint"]

log = logging.getLogger(__name__)

TOO_MANY_QUERIES = 202
# How long a query waits for others to end before it is told to come again.
_PATIENCE_S = 10.0
_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]", "::1")


def endpoint(
    store: EmbeddedStore | None,
    limits: StoreSettings,
    status: Callable[[], dict[str, Any]],
    health: Callable[[str], dict[str, str]],
    registry: CollectorRegistry,
    version: str = "",
    timezone: str = "UTC",
) -> Starlette:
    """The application that answers.

    Args:
        store: The engine; None where a server has the data.
        limits: Passwords and bounds.
        status: What `/status` shows.
        health: The conditions of `live` and `ready`.
        registry: What `/metrics` shows.
        version: Of the engine, shown with errors.
        timezone: Of the engine.
    """
    return Starlette(routes=_Routes(store, limits, status, health, registry, version, timezone).all())


class _Routes:
    def __init__(
        self,
        store: EmbeddedStore | None,
        limits: StoreSettings,
        status: Callable[[], dict[str, Any]],
        health: Callable[[str], dict[str, str]],
        registry: CollectorRegistry,
        version: str,
        timezone: str,
    ) -> None:
        self._store = store
        self._limits = limits
        self._status = status
        self._health = health
        self._registry = registry
        self._version = version
        self._timezone = timezone
        self._places = anyio.Semaphore(limits.max_queries)

    def all(self) -> list[Route]:
        return [
            Route("/", self.root, methods=["GET", "POST"]),
            Route("/ping", self.ping),
            Route("/replicas_status", self.ping),
            Route("/status", self.status),
            Route("/metrics", self.metrics),
            Route("/health/{check}", self.health),
        ]

    async def root(self, request: Request) -> Response:
        url = dict(request.query_params)
        query_id = url.get("query_id") or str(uuid.uuid4())
        wanted: Wanted | None = None
        try:
            admin = self._let_in(request)
            body = await self._body(request)
            if not body and not url.get("query"):
                return PlainTextResponse("Ok.\n")
            wanted = _request.read(request.method, url, request.headers, body, self._limits, admin=admin)
            answer = await self._ask(wanted)
        except StoreError as error:
            return self._failed(error, query_id, packed=wanted is not None and wanted.packed)
        return self._answered(answer, wanted, query_id, request.headers.get("accept-encoding", ""))

    async def ping(self, _: Request) -> Response:
        return PlainTextResponse("Ok.\n")

    async def status(self, request: Request) -> Response:
        try:
            self._let_in(request)
        except StoreError as error:
            return self._failed(error, "", packed=False)
        return JSONResponse(self._status())

    async def metrics(self, request: Request) -> Response:
        self._status()  # which shows the lag as it is now
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._registry), media_type=kind)

    async def health(self, request: Request) -> Response:
        check = request.path_params["check"]
        if check not in ("live", "ready"):
            return PlainTextResponse("/health/live and /health/ready are here\n", 404)
        fine, body = shown(check, lambda: self._health(check))
        return JSONResponse(body, 200 if fine else 503)

    def _let_in(self, request: Request) -> bool:
        """Whether an administrator asks; without a password only this machine's own pages may."""
        host = request.headers.get("host", "").rpartition(":")[0] or request.headers.get("host", "")
        if not self._limits.token and self._limits.host in _LOCAL_NAMES and not _is_address(host):
            # A web page whose name was pointed at this machine would read the store in its visitor's browser.
            raise StoreRefusedError(
                f"Code: 516. DB::Exception: Ask by address or as localhost, not as {host!r}, or set store.token."
                " (AUTHENTICATION_FAILED)",
                516,
            )
        return authorize(dict(request.query_params), request.headers, self._limits)

    async def _body(self, request: Request) -> bytes:
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > self._limits.max_body_bytes:
                raise StoreRefusedError(
                    f"Code: 307. DB::Exception: The request has more than store.max_body_bytes ="
                    f" {self._limits.max_body_bytes} bytes. (TOO_MANY_BYTES)",
                    307,
                )
            parts.append(part)
        return b"".join(parts)

    async def _ask(self, wanted: Wanted) -> Answer:
        if self._store is None:
            raise StoreRefusedError(
                "Code: 48. DB::Exception: This store feeds a ClickHouse server; ask that one. (NOT_IMPLEMENTED)", 48
            )
        if not await self._place():
            raise StoreRefusedError(
                f"Code: {TOO_MANY_QUERIES}. DB::Exception: More than store.max_queries = {self._limits.max_queries}"
                " queries run at once; come again. (TOO_MANY_SIMULTANEOUS_QUERIES)",
                TOO_MANY_QUERIES,
            )
        try:
            return await anyio.to_thread.run_sync(
                ask, self._store, wanted.question, self._limits, limiter=anyio.CapacityLimiter(1)
            )
        finally:
            self._places.release()

    async def _place(self) -> bool:
        """Waits for its turn, not for ever."""
        with anyio.move_on_after(_PATIENCE_S):
            await self._places.acquire()
            return True
        return False

    def _answered(self, answer: Answer, wanted: Wanted, query_id: str, accepted: str) -> Response:
        headers = self._headers(query_id)
        headers["X-ClickHouse-Summary"] = json.dumps(
            {
                "read_rows": str(answer.read_rows),
                "read_bytes": str(answer.read_bytes),
                "written_rows": str(answer.written_rows),
                "written_bytes": str(answer.written_bytes),
                "result_bytes": str(len(answer.body)),
                "elapsed_ns": str(answer.elapsed_ns),
            }
        )
        if answer.format:
            headers["X-ClickHouse-Format"] = answer.format
        if ignored := [] if wanted.question.writes else ignored_settings(wanted.question.settings):
            headers["X-Headrace-Ignored-Settings"] = ",".join(ignored)
        body = pack(answer.body) if wanted.packed else answer.body
        # As a server: HTTP's own compression only where asked for, and never on top of the other.
        if (encoding := choose(accepted)) and wanted.http_compression and not wanted.packed:
            body = compress(body, encoding)
            headers["Content-Encoding"] = encoding
        return Response(body, 200, headers, content_type(answer.format))

    def _failed(self, error: StoreError, query_id: str, *, packed: bool) -> Response:
        text = str(error)
        start = text.find("Code: ")
        line = f"{text[max(start, 0) :]}{f' (version {self._version})' if self._version else ''}\n"
        headers = self._headers(query_id)
        code = error.code or 1002
        headers["X-ClickHouse-Exception-Code"] = str(code)
        if code == _request.REQUIRED_PASSWORD:
            headers["WWW-Authenticate"] = 'Basic realm="headrace store"'
        body = pack(line.encode()) if packed else line.encode()
        return Response(body, http_status(code), headers, "text/plain; charset=UTF-8")

    def _headers(self, query_id: str) -> dict[str, str]:
        return {
            "X-ClickHouse-Query-Id": _header(query_id),
            "X-ClickHouse-Server-Display-Name": socket.gethostname(),
            "X-ClickHouse-Timezone": self._timezone,
        }


def _header(text: str) -> str:
    """Text that cannot end a header line."""
    return "".join(sign for sign in text if sign.isprintable() and sign.isascii())[:200]


def _is_address(host: str) -> bool:
    name = host.strip("[]")
    if name.lower() == "localhost" or not name:
        return True
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, name)
        except OSError:
            continue
        return True
    return False
