"""Calls that run beside the loop, which goes on."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Beside"]


class Beside:
    """A thread that runs calls one by one; a daemon, so that one which never returns does not keep the process.

    Args:
        name: Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], None], Future[None]] | None] = SimpleQueue()
        threading.Thread(target=self._serve, daemon=True, name=name).start()

    def submit(self, call: Callable[[], None]) -> Future[None]:
        """Hands over a call; what it raises is the future's."""
        future: Future[None] = Future()
        self._calls.put((call, future))
        return future

    def close(self) -> None:
        """Ends the thread once it is idle."""
        self._calls.put(None)

    def _serve(self) -> None:
        while (job := self._calls.get()) is not None:
            call, future = job
            try:
                call()
            except BaseException as error:  # handed over to whoever waits, whatever it is
                future.set_exception(error)
            else:
                future.set_result(None)
