"""`endpoints.json` in the data directory: where the running services are, for scripts and for each other.

    {"kafka": "127.0.0.1:38211", "clickhouse": "http://127.0.0.1:40123", "owners": {"kafka": {"pid": 71, …}, …}}

Every process publishes its own keys and takes them back when it ends; what a killed one left behind is told by its
owner being gone, and nobody is shown it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streams.errors import HeadraceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FILE = "endpoints.json"
_OWNERS = "owners"
_POLL_S = 0.05


class EndpointTimeoutError(HeadraceError):
    """A service did not publish its endpoint in time."""


def publish(data_dir: Path | str, key: str, value: str, pid: int | None = None) -> None:
    """Says where a service is; the endpoint counts until the owner (this process, or `pid`) ends or withdraws it."""
    if key == _OWNERS:
        raise ValueError(f"{_OWNERS!r} cannot be an endpoint's key")
    with _changing(Path(data_dir)) as content:
        content[key] = value
        content.setdefault(_OWNERS, {})[key] = _identity(os.getpid() if pid is None else pid)


def withdraw(data_dir: Path | str, *keys: str, pid: int | None = None) -> None:
    """Takes back the keys, or without any all keys, that the owner (this process, or `pid`) published."""
    if not (Path(data_dir) / FILE).exists():
        return
    owner = os.getpid() if pid is None else pid
    with _changing(Path(data_dir)) as content:
        for key, identity in list(content.get(_OWNERS, {}).items()):
            if identity.get("pid") == owner and key in (keys or (key,)):
                _remove(content, key)


def read(data_dir: Path | str) -> dict[str, str]:
    """The endpoints whose owners are alive."""
    content = _load(Path(data_dir) / FILE)
    return {key: content[key] for key, owner in content.get(_OWNERS, {}).items() if _alive(owner) and key in content}


def owner(data_dir: Path | str, key: str) -> int | None:
    """The process behind an endpoint, where it is alive."""
    found = _load(Path(data_dir) / FILE).get(_OWNERS, {}).get(key)
    return found["pid"] if found is not None and _alive(found) else None


def wait_for(data_dir: Path | str, key: str, timeout_s: float = 60.0, check: Callable[[], None] = lambda: None) -> str:
    """The endpoint, once it is published.

    Args:
        data_dir: The data directory.
        key: Of the endpoint.
        timeout_s: How long to wait.
        check: Called while waiting; raises where waiting has become pointless.

    Raises:
        EndpointTimeoutError: It was not published in time.
    """
    deadline = time.monotonic() + timeout_s
    while (value := read(data_dir).get(key)) is None:
        check()
        if time.monotonic() > deadline:
            raise EndpointTimeoutError(
                f"no {key!r} in {Path(data_dir) / FILE} after {timeout_s:.0f} s: see the logs in {Path(data_dir)}"
            )
        time.sleep(_POLL_S)
    return value


@contextlib.contextmanager
def _changing(data_dir: Path) -> Iterator[dict[str, Any]]:
    """The content, to be changed in place, under a lock; what the dead left behind goes with the change."""
    data_dir.mkdir(parents=True, exist_ok=True)
    path = data_dir / FILE
    with (data_dir / f".{FILE}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        content = _load(path)
        for key, owner in list(content.get(_OWNERS, {}).items()):
            if not _alive(owner):
                _remove(content, key)
        yield content
        if content.get(_OWNERS):
            scratch = path.with_name(f".{FILE}.new")
            scratch.write_text(json.dumps(content, indent=2) + "\n")
            scratch.replace(path)
        else:
            path.unlink(missing_ok=True)


def _load(path: Path) -> dict[str, Any]:
    """The file's content; a missing or broken file is an empty one."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and isinstance(content.get(_OWNERS), dict) else {}


def _remove(content: dict[str, Any], key: str) -> None:
    content.pop(key, None)
    content[_OWNERS].pop(key, None)


def _identity(pid: int) -> dict[str, Any]:
    """A process id alone comes again one day; with the time of its start it does not."""
    return {"pid": pid, "started": _started(pid)}


def _alive(owner: dict[str, Any]) -> bool:
    pid = owner.get("pid")
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _started(pid) == owner.get("started")


def _started(pid: int) -> str:
    """When the process began, in the kernel's ticks; `gone` where it only waits to be buried; empty off Linux."""
    try:
        # After the name, which may hold anything: the state is the first field, the start the twentieth.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "gone" if fields[0] in "ZX" else fields[19]
