"""What a store process says of itself, asked over its endpoint: how far it is, and whether it has caught up."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

from streams.store._trust import trusting
from streams.store.client import StoreRefusedError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["caught_up", "fetch_status"]

_TIMEOUT_S = 5.0


def fetch_status(url: str, token: str = "", timeout_s: float = _TIMEOUT_S, ca_file: str = "") -> dict[str, Any]:
    """The store's `/status`: `partitions` (topic, partition, table, next_offset, end_offset, lag, rows), `ready`, ….

    Args:
        url: The endpoint, as `clickhouse` (or `store` where a server has the data) in `endpoints.json`.
        token: The password, where `store.token` is set.
        timeout_s: How long to wait for an answer.
        ca_file: The authority to trust where it speaks TLS; the system's where empty.

    Raises:
        StoreUnavailableError: Nobody answers there.
        StoreRefusedError: The token is wrong, or this is no store.
    """
    request = urllib.request.Request(f"{url.rstrip('/')}/status")  # noqa: S310  # the URL is the caller's own
    if token:
        request.add_header("Authorization", "Basic " + base64.b64encode(f"default:{token}".encode()).decode())
    context = trusting(ca_file) if url.startswith("https:") else None
    try:
        with urllib.request.urlopen(request, timeout=timeout_s, context=context) as answer:  # noqa: S310
            found: dict[str, Any] = json.loads(answer.read())
    except urllib.error.HTTPError as error:
        raise StoreRefusedError(
            f"The store at {url} refuses: {error.read(500).decode(errors='replace').strip()}"
        ) from error
    except (OSError, ValueError) as error:
        raise StoreUnavailableError(f"No store answers at {url}: {error}") from error
    return found


def caught_up(url: str, end_offsets: Mapping[tuple[str, int], int], token: str = "") -> bool:
    """Whether everything below these offsets is stored: (topic, partition) → the offset that comes next on Kafka.

    Topics that the store does not keep count as stored. Never raises where the store is away: then it is not so far.
    """
    try:
        positions = fetch_status(url, token)
    except StoreUnavailableError:
        return False
    known = {(found["topic"], found["partition"]): found for found in positions["partitions"]}
    kept = set(positions["topics"])
    return all(
        place in known and known[place]["next_offset"] >= end
        for place, end in end_offsets.items()
        if place[0] in kept and end > 0
    )
