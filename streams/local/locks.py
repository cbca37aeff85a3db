"""One owner per directory: a lock that the kernel gives back when its last holder is gone."""

from __future__ import annotations

import fcntl
import os
import time
from typing import TYPE_CHECKING

from streams.errors import HeadraceError

if TYPE_CHECKING:
    from pathlib import Path

# A killed holder's children need a moment to follow it: the lock is asked for that long before it counts as held.
_PATIENCE_S = 3.0
_POLL_S = 0.05


class LockedError(HeadraceError):
    """Another process owns the directory."""


class DirectoryLock:
    """An exclusive lock on a directory, shared with the children that inherit its file descriptor."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, folder: Path, what: str, patience_s: float = _PATIENCE_S) -> DirectoryLock:
        """Locks the folder.

        Raises:
            LockedError: Another process holds it; the message names its process id.
        """
        path = folder / "lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        deadline = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if time.monotonic() < deadline:
                    time.sleep(_POLL_S)
                    continue
                holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
                os.close(descriptor)
                raise LockedError(
                    f"process {holder} already runs {what} on {folder}: stop it, or choose another data directory"
                ) from None
            lock = cls(path, descriptor)
            lock.name_holder(os.getpid())
            return lock

    def fileno(self) -> int:
        """The descriptor to pass to a child that shall hold the lock too."""
        return self._descriptor

    def name_holder(self, pid: int) -> None:
        """Writes down whom the error of another process shall name."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, str(pid).encode(), 0)

    def release(self) -> None:
        """Lets go of it; children that inherited it may still hold it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
