"""A question over HTTP, to our endpoint or to a ClickHouse server: the same request, any format back as it is."""

from __future__ import annotations

import base64
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlencode, urlsplit

from streams._settings_kinds import database_of
from streams.store._arrow import escaped
from streams.store._trust import trusting
from streams.store.client import StoreRefusedError, translate

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["HttpAnswer", "ask_over_http"]

_TIMEOUT_S = 300.0


class HttpAnswer(NamedTuple):
    """The bytes of an answer, and their format; empty where the statement has no result."""

    body: bytes
    format: str


def ask_over_http(
    url: str,
    token: str,
    database: str,
    sql: str,
    form: str,
    params: Mapping[str, str] | None = None,
    ca_file: str = "",
) -> HttpAnswer:
    """Asks one statement.

    Args:
        url: `http://host:port` or `https://user:password@host:8443/database`.
        token: The password where the URL holds none.
        database: Where the URL names none.
        sql: The statement.
        form: The format of the answer where the statement names none.
        params: For `{name:Type}`.
        ca_file: The authority to trust; the system's where empty.

    Raises:
        StoreUnavailableError: Nobody answers.
        StoreRefusedError: ClickHouse refuses; its own words.
    """
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    # ClickHouse's own ports, as the sink takes them.
    base = f"{parts.scheme}://{host}:{parts.port or (8443 if parts.scheme == 'https' else 8123)}/"
    asked = {"database": database_of(url, database), "default_format": form}
    asked.update((f"param_{name}", escaped(value)) for name, value in (params or {}).items())
    request = urllib.request.Request(f"{base}?{urlencode(asked)}", data=sql.encode(), method="POST")  # noqa: S310
    password = unquote(parts.password or "") or token
    if parts.username or password:
        pair = f"{unquote(parts.username or '') or 'default'}:{password}"
        request.add_header("Authorization", "Basic " + base64.b64encode(pair.encode()).decode())
    context = trusting(ca_file) if parts.scheme == "https" else None
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S, context=context) as answer:  # noqa: S310
            return HttpAnswer(answer.read(), answer.headers.get("X-ClickHouse-Format") or "")
    except urllib.error.HTTPError as error:
        text = error.read(20_000).decode(errors="replace").strip()
        if error.headers.get("X-ClickHouse-Exception-Code"):
            raise translate(RuntimeError(text), base) from error
        raise StoreRefusedError(f"{base} answers {error.code} and is no ClickHouse: {text[:200]}") from error
    except OSError as error:
        raise translate(error, base) from error
