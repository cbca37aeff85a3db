"""ClickHouse's HTTP interface as far as clients use it: what a request asks, and how an answer or error looks.

Reference: ClickHouse documentation, "HTTP Interface"; what clients send was read in clickhouse-connect and in
clickhouse-go, which Grafana's data source uses.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from typing import TYPE_CHECKING, NamedTuple

from streams.store._packing import CorruptBodyError, decompress, unpack
from streams.store.client import StoreRefusedError
from streams.store.questions import Question

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streams.settings import StoreSettings

__all__ = ["CONTENT_TYPES", "Wanted", "authorize", "content_type", "http_status", "read"]

REQUIRED_PASSWORD, AUTHENTICATION_FAILED, TOO_LARGE, BAD_ARGUMENTS = 194, 516, 307, 36

# Parameters of the interface itself; all others are settings.
_TRANSPORT = frozenset(
    {
        "buffer_size",
        "client_protocol_version",
        "compress",
        "database",
        "decompress",
        "default_format",
        "enable_http_compression",
        "http_headers_progress_interval_ms",
        "http_zlib_compression_level",
        "http_receive_timeout",
        "http_response_buffer_size",
        "http_response_headers",
        "http_send_timeout",
        "http_write_exception_in_output_format",
        "log_queries",
        "network_compression_method",
        "password",
        "query",
        "query_id",
        "quota_key",
        "role",
        "send_progress_in_http_headers",
        "session_check",
        "session_id",
        "session_timeout",
        "stacktrace",
        "user",
        "wait_end_of_query",
    }
)
CONTENT_TYPES = {
    "CSV": "text/csv; charset=UTF-8; header=absent",
    "CSVWithNames": "text/csv; charset=UTF-8; header=present",
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    "TSV": "text/tab-separated-values; charset=UTF-8",
    "XML": "application/xml; charset=UTF-8",
    "Arrow": "application/octet-stream",
    "ArrowStream": "application/octet-stream",
    "Avro": "application/octet-stream",
    "Native": "application/octet-stream",
    "ORC": "application/octet-stream",
    "Parquet": "application/octet-stream",
    "RowBinary": "application/octet-stream",
}
_HTTP_STATUS = {
    **dict.fromkeys((6, 26, 27, 36, 38, 41, 43, 53, 62, 70, 72, 131, 321, 386, 456, 457), 400),
    REQUIRED_PASSWORD: 401,
    **dict.fromkeys((164, 192, 193, 446, 497, AUTHENTICATION_FAILED), 403),
    **dict.fromkeys((16, 46, 47, 50, 60, 63, 81, 115), 404),
    159: 408,
    TOO_LARGE: 413,
    48: 501,
    **dict.fromkeys((202, 209, 210, 439), 503),
}
# Head of an INSERT up to its data; within it there is no binary data, so it can be text.
_INSERT_HEAD = re.compile(rb"\s*INSERT\s+INTO\s.*?\bFORMAT\s+\w+[ \t;]*(?:\r?\n|$)", re.DOTALL | re.IGNORECASE)
_FORMAT_NAME = re.compile(r"\w+")


class Wanted(NamedTuple):
    """A request: the question, and what its answer shall look like."""

    question: Question
    query_id: str
    packed: bool
    """Whether the answer is to be in ClickHouse's own compressed blocks."""
    http_compression: bool


def read(
    method: str, url: Mapping[str, str], headers: Mapping[str, str], body: bytes, limits: StoreSettings, *, admin: bool
) -> Wanted:
    """What a request asks.

    Raises:
        StoreRefusedError: It makes no sense; with ClickHouse's code.
    """
    data = _plain(url, headers, body, limits.max_body_bytes)
    sql, data = _statement(url.get("query", ""), data)
    question = Question(
        sql=sql,
        data=data,
        database=url.get("database") or headers.get("x-clickhouse-database", ""),
        format=_format(headers.get("x-clickhouse-format") or url.get("default_format") or "TabSeparated"),
        params={name[6:]: value for name, value in url.items() if name.startswith("param_")},
        settings={
            name: value for name, value in url.items() if name not in _TRANSPORT and not name.startswith("param_")
        },
        revision=_number(url.get("client_protocol_version", "")),
        # As with a server, a GET only reads.
        writes=admin and method == "POST",
    )
    return Wanted(question, url.get("query_id", ""), _flag(url, "compress"), _flag(url, "enable_http_compression"))


def authorize(url: Mapping[str, str], headers: Mapping[str, str], limits: StoreSettings) -> bool:
    """Whether an administrator asks; the user's name does not matter, the password does.

    Raises:
        StoreRefusedError: A password is needed and none, or a wrong one, was given.
    """
    given = _password(url, headers)
    if limits.admin_token and hmac.compare_digest(given.encode(), limits.admin_token.encode()):
        return True
    if not limits.token or hmac.compare_digest(given.encode(), limits.token.encode()):
        return False
    if not given:
        raise _refused(REQUIRED_PASSWORD, "Give store.token as the password.", "REQUIRED_PASSWORD")
    raise _refused(AUTHENTICATION_FAILED, "The password is not store.token.", "AUTHENTICATION_FAILED")


def http_status(code: int) -> int:
    """The HTTP status that goes with ClickHouse's code of an error."""
    return _HTTP_STATUS.get(code, 500)


def content_type(format_: str) -> str:
    """What a format is to HTTP."""
    if format_.startswith("JSON"):
        lines = "EachRow" in format_
        return "application/x-ndjson; charset=UTF-8" if lines else "application/json; charset=UTF-8"
    return CONTENT_TYPES.get(format_, "text/plain; charset=UTF-8")


def _plain(url: Mapping[str, str], headers: Mapping[str, str], body: bytes, most: int) -> bytes:
    try:
        data = decompress(body, headers.get("content-encoding", ""), most)
        return unpack(data, most) if _flag(url, "decompress") else data
    except CorruptBodyError as error:
        raise _refused(BAD_ARGUMENTS, str(error), "BAD_ARGUMENTS") from None


def _statement(query: str, body: bytes) -> tuple[str, bytes]:
    """SQL and data: SQL in the URL goes on in the body, unless it is an INSERT, whose data the body is."""
    if query.strip():
        if _INSERT_HEAD.fullmatch(query.encode()):
            return query, body
        return f"{query}\n{_text(body)}" if body else query, b""
    head = _INSERT_HEAD.match(body)
    if head is not None:
        return _text(head[0]), body[head.end() :]
    return _text(body), b""


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise _refused(BAD_ARGUMENTS, "The statement is not UTF-8.", "BAD_ARGUMENTS") from None


def _format(name: str) -> str:
    if not _FORMAT_NAME.fullmatch(name):
        raise _refused(73, f"{name!r} is no name of a format.", "UNKNOWN_FORMAT")
    return name


def _password(url: Mapping[str, str], headers: Mapping[str, str]) -> str:
    if key := headers.get("x-clickhouse-key") or url.get("password"):
        return key
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""


def _flag(url: Mapping[str, str], name: str) -> bool:
    return url.get(name, "").lower() in ("1", "true")


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _refused(code: int, text: str, name: str) -> StoreRefusedError:
    return StoreRefusedError(f"Code: {code}. DB::Exception: {text} ({name})", code)
