"""Calls that run beside the loop, which goes on."""

from __future__ import annotations

import threading
import time
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
        self._calls: SimpleQueue[tuple[Callable[[], None], Future[float]] | None] = SimpleQueue()
        threading.Thread(target=self._serve, daemon=True, name=name).start()

    def submit(self, call: Callable[[], None]) -> Future[float]:
        """Hands over a call; the future has when it was over, as `time.perf_counter`, or what it raised."""
        future: Future[float] = Future()
        self._calls.put((call, future))
        return future

    def close(self) -> None:
        """Ends the thread once it is idle."""
        self._calls.put(None)

    def _serve(self) -> None:
        while (job := self._calls.get()) is not None:
            _run(*job)
            # Or what it holds, a micro-batch and all that was made of it, would stay until the next call.
            del job


def _run(call: Callable[[], None], future: Future[float]) -> None:
    try:
        call()
    except BaseException as error:  # handed over to whoever waits, whatever it is
        future.set_exception(error)
    else:
        future.set_result(time.perf_counter())
