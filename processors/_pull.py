"""Gets the files of a model, by a user's command only: checked by size and sha256 before they have their name."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING

from processors._contract import ModelError
from processors._models import ExtraFile, IntegrityError, Manifest, Model, sha256_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from processors._models import Entry, Registry

__all__ = ["PullError", "download", "pull"]

_SCHEMES = ("https", "http", "file")

# A server that is silent for this long is taken to be gone.
_TIMEOUT_S = 30

_CHUNK_BYTES = 1 << 20


# What urllib has besides is left out: a server may send us on, but not to FTP, and never to a file of this machine.
_HANDLERS: tuple[type[urllib.request.BaseHandler], ...] = (
    urllib.request.ProxyHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.FileHandler,
    urllib.request.HTTPRedirectHandler,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.HTTPErrorProcessor,
    urllib.request.UnknownHandler,
)


class PullError(ModelError, OSError):
    """A file that could not be had; the message names its address."""


def pull(
    registry: Registry, reference: str, progress: Callable[[str, int, int], None] = lambda _file, _done, _size: None
) -> Model:
    """Downloads what is missing of a model, and returns it resolved.

    Args:
        registry: Where manifests and files are.
        reference: `name` or `name@version`.
        progress: Called with the file, its bytes so far and its size.

    Raises:
        PullError: There is no address, or it does not give the file.
        IntegrityError: What came is not what the manifest promises; nothing of it is kept. Or a file beside the
            manifest is wrong, which is the user's own and is not touched.
    """
    entry = registry.find(reference)
    manifest = entry.manifest
    folder = registry.path(entry, manifest.file).parent
    promises: tuple[Manifest | ExtraFile, ...] = (manifest, *manifest.files)
    for promised in promises:
        path = folder / promised.file
        if folder != entry.path.parent and _keeps(promised, path):
            continue
        if folder == entry.path.parent and path.exists():
            continue  # Beside the manifest: resolve says what is wrong with it.
        try:
            download(_address(entry, promised), path, promised, progress)
        except OSError as error:
            if isinstance(error, PullError):
                raise
            raise PullError(f"{manifest.reference}: {path} cannot be written: {error}") from error
    return registry.resolve(manifest.reference)


def download(url: str, path: Path, promised: Manifest | ExtraFile, progress: Callable[[str, int, int], None]) -> None:
    """Writes what an address gives to a path, if it is what was promised; else the path stays as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    digest = hashlib.sha256()
    size = 0
    try:
        with partial.open("wb") as file:
            try:
                with _open(url) as response:
                    # One byte more than promised is enough to know: an endless answer does not fill the disk.
                    while size <= promised.size and (chunk := response.read(_CHUNK_BYTES)):
                        size += len(chunk)
                        digest.update(chunk)
                        file.write(chunk)
                        progress(promised.file, size, promised.size)
            except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
                reason = error.reason if isinstance(error, urllib.error.URLError) else error
                raise PullError(f"{url}: cannot be had: {reason}; try again, or put the file at {path}") from error
            file.flush()
            os.fsync(file.fileno())
        if (size, digest.hexdigest()) != (promised.size, promised.sha256):
            raise IntegrityError(
                f"{url} gives another file than the manifest promises: "
                f"{'more than ' if size > promised.size else ''}{size} bytes, sha256 {digest.hexdigest()}; "
                f"promised are {promised.size} bytes, sha256 {promised.sha256}; nothing was kept"
            )
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _keeps(promised: Manifest | ExtraFile, path: Path) -> bool:
    return path.is_file() and path.stat().st_size == promised.size and sha256_of(path) == promised.sha256


def _address(entry: Entry, promised: Manifest | ExtraFile) -> str:
    """The URL of a file; what lies beside the manifest is copied to where the model is."""
    beside = entry.path.parent / promised.file
    url = promised.url or (beside.resolve().as_uri() if beside.is_file() else "")
    scheme = urllib.parse.urlsplit(url).scheme
    if not url:
        raise PullError(f"{entry.manifest.reference}: the manifest {entry.path} has no `url` for {promised.file}")
    if scheme not in _SCHEMES:
        raise PullError(f"{entry.manifest.reference}: {url!r} is no address that can be pulled ({', '.join(_SCHEMES)})")
    return url


def _open(url: str) -> http.client.HTTPResponse:
    request = urllib.request.Request(url, headers={"User-Agent": "headrace"})  # noqa: S310 - schemes are checked
    opener = urllib.request.OpenerDirector()
    for handler in _HANDLERS:
        opener.add_handler(handler())
    response: http.client.HTTPResponse = opener.open(request, timeout=_TIMEOUT_S)
    return response
