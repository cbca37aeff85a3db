"""The jars of the embedded broker: pinned one by one, fetched through jgo, held against their sha256.

`jars.sha256` lists every jar as `<sha256>  <group>:<artifact>:<version>`. Fetched jars land in the cache only after
their hash was right; later starts compare sizes and modification times with a stamp and read no file and no network.
`python -m streams.local.jars` prints the pin file anew for the coordinates below.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import platformdirs

from streams.errors import HeadraceError

if TYPE_CHECKING:
    from collections.abc import Callable

KAFKA_VERSION = "4.1.2"
COORDINATES = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}+org.slf4j:slf4j-simple:1.7.36"
PIN_FILE = Path(__file__).with_name("jars.sha256")

# Eight at a time fetch the 46 jars (45 MB) in about a third of the time that one after the other takes.
_PARALLEL_FETCHES = 8
_FETCH_TIMEOUT_S = 30


class JarsError(HeadraceError):
    """The broker's jars cannot be had, or are not the ones that were pinned."""


class Pin(NamedTuple):
    """One jar and the hash it must have."""

    sha256: str
    group: str
    artifact: str
    version: str

    @property
    def filename(self) -> str:
        """The jar's name in the cache."""
        return f"{self.artifact}-{self.version}.jar"

    @property
    def coordinate(self) -> str:
        """The jar's name in a Maven repository."""
        return f"{self.group}:{self.artifact}:{self.version}"


def cache_dir() -> Path:
    """Where downloads are kept: `HEADRACE_CACHE`, or the user's cache directory."""
    configured = os.environ.get("HEADRACE_CACHE")
    return Path(configured).expanduser().absolute() if configured else platformdirs.user_cache_path("headrace")


def read_pins(pin_file: Path = PIN_FILE) -> list[Pin]:
    """The pinned jars; comments and empty lines are skipped."""
    lines = (line.split("#")[0].split() for line in pin_file.read_text().splitlines())
    return [Pin(sha256, *coordinate.split(":")) for sha256, coordinate in filter(None, lines)]


def broker_jars(
    cache: Path | None = None, pin_file: Path = PIN_FILE, progress: Callable[[str], None] = lambda _: None
) -> list[Path]:
    """All jars of the broker, fetched where they are missing, every one of them as pinned; `progress` hears of it.

    Raises:
        JarsError: a jar cannot be fetched or has another hash than the pinned one.
    """
    pins = read_pins(pin_file)
    folder = (cache or cache_dir()) / f"kafka-{KAFKA_VERSION}"
    stamp = folder / "verified.json"
    jars = [folder / pin.filename for pin in pins]
    if _read_stamp(stamp) != _stamp_of(pin_file, jars):
        missing = [pin for pin in pins if not (folder / pin.filename).exists()]
        _check_all(folder, [pin for pin in pins if pin not in missing])
        if missing:
            progress(f"fetching {len(missing)} jars of Kafka {KAFKA_VERSION} (45 MB in all) into {folder}, once")
            _fetch_all(folder, missing)
        with contextlib.suppress(OSError):  # a read-only cache is checked at every start
            _write_atomically(stamp, json.dumps(_stamp_of(pin_file, jars)))
    return jars


def _stamp_of(pin_file: Path, jars: list[Path]) -> dict[str, object]:
    states = {jar.name: [jar.stat().st_size, jar.stat().st_mtime_ns] for jar in jars if jar.exists()}
    return {"pins": _sha256(pin_file), "jars": states}


def _read_stamp(stamp: Path) -> object:
    try:
        return json.loads(stamp.read_text())
    except (OSError, ValueError):
        return None


def _check_all(folder: Path, pins: list[Pin]) -> None:
    for pin in pins:
        _check(folder / pin.filename, pin)


def _check(jar: Path, pin: Pin) -> None:
    found = _sha256(jar)
    if found != pin.sha256:
        raise JarsError(
            f"{jar} is not the pinned {pin.coordinate}: its sha256 is {found}, expected {pin.sha256}. "
            "Delete the file and start again; where it happens again, do not trust the repository it comes from."
        )


def _fetch_all(folder: Path, pins: list[Pin]) -> None:
    """Fetches into a folder of its own and moves over what proved right, so that the cache never holds half a jar."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix="fetch-", dir=folder))
    except OSError as error:
        raise JarsError(f"the cache {folder} cannot be written: {error}. Name another with HEADRACE_CACHE.") from error
    try:
        with ThreadPoolExecutor(_PARALLEL_FETCHES) as pool:
            for pin, jar in zip(pins, pool.map(lambda pin: _fetch(scratch, folder, pin), pins), strict=True):
                _check(jar, pin)
                jar.replace(folder / pin.filename)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _fetch(scratch: Path, folder: Path, pin: Pin) -> Path:
    from jgo.maven import MavenContext

    mirror = os.environ.get("HEADRACE_MAVEN")
    context = MavenContext(
        repo_cache=scratch,
        local_repos=[],
        remote_repos={"mirror": mirror.rstrip("/")} if mirror else None,
        timeout=_FETCH_TIMEOUT_S,
    )
    component = context.project(pin.group, pin.artifact).at_version(pin.version)
    try:
        return Path(component.artifact().resolve())
    except Exception as error:  # whatever jgo and its HTTP client raise, the way out is the same
        raise JarsError(
            f"The embedded broker needs {pin.coordinate}, which cannot be fetched from "
            f"{mirror or 'Maven Central'}: {error}\n"
            "What to do: go online once (45 MB, then kept), or name a mirror with HEADRACE_MAVEN=https://…, or copy "
            f"{pin.filename} and its neighbours from another machine into {folder}, or use a Kafka of your own "
            "with HEADRACE_KAFKA=host:9092."
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_atomically(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}")
    scratch.write_text(text)
    scratch.replace(path)


def _print_pins() -> None:
    """Resolves the coordinates with all they depend on and prints the pin file."""
    import jgo

    print(f"# {COORDINATES}, made by: python -m streams.local.jars")
    for artifact in sorted(jgo.resolve(COORDINATES), key=str):
        print(f"{_sha256(artifact.resolve())}  {artifact.groupId}:{artifact.artifactId}:{artifact.version}")


if __name__ == "__main__":
    _print_pins()
