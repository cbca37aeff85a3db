"""A small disk for one process that can be made full at once, without privileges and without filling anybody else's.

A helper process makes a user and a mount namespace of its own, where an unprivileged user may mount a tmpfs (Linux,
where user namespaces are allowed), and mounts one over the folder. The process that is to live there joins these
namespaces, and so does its next life after a kill: the tmpfs lives as long as the helper. The disk is made full by
making it as small as what it holds: from then on the kernel itself answers ENOSPC.

Where namespaces are refused (some containers, some hardened kernels) the process is forbidden to make files longer
(RLIMIT_FSIZE of 0, which is set on a running process from outside): every write to a file fails then, with EFBIG.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Disk", "FileSizeLimit", "SmallDisk", "join", "make_disk"]

_NEW_USER, _NEW_MOUNTS = 0x10000000, 0x00020000
_REMOUNT, _RECURSIVE, _PRIVATE = 0x20, 0x4000, 0x40000
_ROOMY = "2g"
_PAGE_KB = 4


class Disk(Protocol):
    """Where a process keeps its files."""

    says: str
    """How it is made full."""
    options: tuple[str, ...]
    """What `streams.chaos.process` needs for a process to live there."""

    def fill(self, pid: int) -> None:
        """From now on the process, and whoever follows it, can write nothing more."""

    def free(self, pid: int) -> None:
        """There is room again."""

    def close(self) -> None:
        """What was on it is gone where it was a disk of its own."""


def make_disk(folder: Path) -> Disk:
    """The better of the two that is allowed here."""
    try:
        return SmallDisk(folder)
    except OSError:
        return FileSizeLimit()


class SmallDisk:
    """A tmpfs in namespaces of its own.

    Raises:
        OSError: Namespaces are not allowed here.
    """

    says = "a tmpfs of its own, made as small as what it holds (ENOSPC)"

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder.resolve()
        self._helper = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-I", __file__, str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        answer = self._answer()
        if answer != "ok":
            self.close()
            raise OSError(answer)
        self.options: tuple[str, ...] = ("--inside", str(self._helper.pid))

    def fill(self, pid: int) -> None:
        del pid
        self._resize(f"{self._used_kb()}k")

    def free(self, pid: int) -> None:
        del pid
        self._resize(_ROOMY)

    def copy_to(self, folder: Path) -> None:
        """Copies what is on the disk to where it can be looked at when the disk is gone."""
        shutil.copytree(f"/proc/{self._helper.pid}/root{self._folder}", folder, dirs_exist_ok=True, symlinks=True)

    def close(self) -> None:
        for pipe in (self._helper.stdin, self._helper.stdout):
            if pipe is not None:
                pipe.close()
        self._helper.wait()

    def _used_kb(self) -> int:
        found = os.statvfs(f"/proc/{self._helper.pid}/root{self._folder}")
        return max(1, found.f_blocks - found.f_bfree) * _PAGE_KB

    def _resize(self, size: str) -> None:
        assert self._helper.stdin is not None
        self._helper.stdin.write(f"{size}\n")
        self._helper.stdin.flush()
        if (answer := self._answer()) != "ok":
            raise OSError(answer)

    def _answer(self) -> str:
        assert self._helper.stdout is not None
        return self._helper.stdout.readline().strip() or "the helper ended"


class FileSizeLimit:
    """Forbids longer files to a running process; a process that follows it starts without that."""

    says = "RLIMIT_FSIZE of 0 on the running process (EFBIG); user namespaces are refused here"
    options: tuple[str, ...] = ()

    def fill(self, pid: int) -> None:
        self._limit(pid, 0)

    def free(self, pid: int) -> None:
        _soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        self._limit(pid, hard)

    def close(self) -> None:
        pass

    def _limit(self, pid: int, soft: int) -> None:
        _soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


def join(pid: int) -> None:
    """Makes this process one of the namespaces of the helper; called before any thread is started.

    Raises:
        OSError: It is not allowed, or the helper is gone.
    """
    for name, kind in (("user", _NEW_USER), ("mnt", _NEW_MOUNTS)):
        descriptor = os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY)
        _check(ctypes.CDLL(None, use_errno=True).setns(descriptor, kind))
        os.close(descriptor)


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _mount(folder: str, flags: int, size: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.mount(b"headrace-chaos", folder.encode(), b"tmpfs", ctypes.c_ulong(flags), f"size={size}".encode()))


def _help(folder: str) -> None:
    """The helper: mounts, then makes larger and smaller as it is told, until its standard input ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    _check(libc.unshare(_NEW_USER | _NEW_MOUNTS))
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123 - a file of the kernel
            file.write(text)
    _check(libc.mount(None, b"/", None, ctypes.c_ulong(_RECURSIVE | _PRIVATE), None))
    _mount(folder, 0, _ROOMY)
    print("ok", flush=True)
    for line in sys.stdin:
        try:
            _mount(folder, _REMOUNT, line.strip())
            print("ok", flush=True)
        except OSError as error:
            print(error, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _help(sys.argv[1])
    except OSError as error:
        print(error, flush=True)
