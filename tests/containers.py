"""A container without an engine: a read-only root with the image's layout, its user, its variables, and two tmpfs.

What Docker would do with `read_only` and `tmpfs` is done with `unshare`, `mount`, `chroot` and `setpriv`, for which one
has to be root. The system's libraries are those of this machine, not of the image's base.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from deployments import INSTRUCTIONS, ROOT, instruction

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc")
_PROGRAMS = ("unshare", "mount", "chroot", "setpriv")

# Arguments: the new root, the prefix, user, group, where chroot is (not on the image's path), folders to show as they
# are, `--`, and the command.
_SCRIPT = """
set -eu
root=$1 prefix=$2 user=$3 group=$4 chroot=$5; shift 5
mount --make-rprivate /
mount -t tmpfs -o mode=0755 none "$root"
show() { # SOURCE TARGET
  if [ -L "$1" ]; then ln -s "$(readlink "$1")" "$root$2"; return; fi
  [ -e "$1" ] || return 0
  mkdir -p "$root$2"
  mount --bind "$1" "$root$2"
  mount -o remount,bind,ro "$root$2"
}
mkdir -p "$root/proc" "$root/dev" "$root/tmp" "$root/var/lib/headrace"
mount -t proc none "$root/proc"
mount --bind /dev "$root/dev"
mount -t tmpfs -o mode=1777,size=64m none "$root/tmp"
mount -t tmpfs -o "uid=$user,gid=$group,mode=0750,size=1g" none "$root/var/lib/headrace"
# Last, since a checkout may lie in /tmp.
while [ "$1" != -- ]; do show "$1" "$1"; shift; done
shift
show "$prefix" /opt/headrace
mount -o remount,ro "$root"
cd /
exec "$chroot" "$root" /usr/bin/setpriv --reuid "$user" --regid "$group" --clear-groups --no-new-privs \
  --bounding-set=-all --inh-caps=-all sh -c 'cd /var/lib/headrace && exec "$@"' sh "$@"
"""


def image_environment() -> dict[str, str]:
    """Every variable that the image sets, and no other."""
    pairs = (pair.split("=", 1) for word, rest in INSTRUCTIONS if word == "ENV" for pair in rest.split())
    kept = {name: value for name, value in pairs if not name.startswith(("UV_", "NVIDIA_"))}
    return {**kept, "PATH": kept["PATH"].replace("$PATH", "/usr/local/bin:/usr/bin:/bin")}


def install(folder: Path) -> Path:
    """An environment with the wheel of this checkout, as in /opt/headrace; what it depends on is the tests' own."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not on the path")
    prefix = folder / "prefix"
    wheels = folder / "wheels"
    for command in (
        ["build", "--wheel", "--offline", "--out-dir", str(wheels)],
        ["venv", "--relocatable", "--python", sys.executable, str(prefix)],
    ):
        done = subprocess.run([uv, *command], cwd=ROOT, capture_output=True, text=True, timeout=240)
        if done.returncode and "network was disabled" in done.stderr:
            pytest.skip(f"uv has no hatchling in its cache: {done.stderr.strip().splitlines()[-1]}")
        assert 0 == done.returncode, done.stderr
    [wheel] = wheels.glob("*.whl")
    command = ["pip", "install", "--offline", "--no-deps", "--compile-bytecode", "--python", str(prefix), str(wheel)]
    subprocess.run([uv, *command], cwd=folder, check=True, capture_output=True, timeout=240)
    [site] = prefix.glob("lib/python*/site-packages")
    # Behind its own packages: the wheel's are found first, and the checkout's never.
    (site / "tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return prefix


class Container:
    """Runs commands in the image's layout; skips where this machine does not let us.

    Args:
        prefix: What is /opt/headrace inside.
        folder: A place for its root.
    """

    def __init__(self, prefix: Path, folder: Path) -> None:
        self._prefix = prefix
        self._folder = folder
        self._user, self._group = instruction("USER").split(":")
        missing = [program for program in _PROGRAMS if shutil.which(program) is None]
        allowed = not missing and not subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode
        if os.geteuid() or not allowed:
            pytest.skip(f"only root may make mounts of its own here (missing: {', '.join(missing) or 'the right to'})")

    def start(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Starts a command; its output is to be read, or the process stopped."""
        root = Path(self._folder / f"root-{time.monotonic_ns()}")
        root.mkdir(parents=True)
        shown = [*_SYSTEM, sys.base_prefix, sysconfig.get_path("purelib")]
        arguments = [str(root), str(self._prefix), self._user, self._group, str(shutil.which("chroot"))]
        arguments += [*shown, "--", *command]
        return subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", _SCRIPT, "sh", *arguments],
            env={**image_environment(), **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *command: str, environment: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Exit code and output of a command."""
        process = self.start(command, environment)
        output, _ = process.communicate(timeout=120)
        return process.returncode, output


def stop(process: subprocess.Popen[str], timeout_s: float = 40.0) -> tuple[int, str]:
    """Asks a process to end as Docker does; exit code and output."""
    process.send_signal(signal.SIGTERM)
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
    return process.returncode, output
