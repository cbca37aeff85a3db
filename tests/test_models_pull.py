"""Models that are elsewhere: pulled, checked, and how that fails."""

from __future__ import annotations

import hashlib
import http.server
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_models
import pytest
from model_folders import far_model, registry

from processors._models import (
    IntegrityError,
    MissingFileError,
    Registry,
)
from processors._pull import PullError, pull
from processors._session import Session

if TYPE_CHECKING:
    from collections.abc import Iterator

CPU = ("CPUExecutionProvider",)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with an empty folder for models."""
    (tmp_path / "data" / "models").mkdir(parents=True)
    return tmp_path / "data"


@pytest.fixture
def doubling(data: Path) -> Path:
    """The file of `doubling@1.0.0`, beside its manifest in the data directory."""
    path = onnx_models.doubling(data / "models" / "doubling.onnx")
    onnx_models.manifest(path)
    return path


@pytest.fixture
def remote(data: Path, tmp_path: Path) -> Path:
    """A model whose manifest is here and whose file is elsewhere, under a file URL."""
    return far_model(data, tmp_path / "elsewhere.onnx")


def test_missing_file_says_how_to_get_it(data: Path, remote: Path) -> None:
    """The error is the command to type."""
    with pytest.raises(MissingFileError, match=r"`headrace models pull far@1\.0\.0`"):
        registry(data).resolve("far")


def test_missing_file_without_address_says_where_to_put_it(data: Path, doubling: Path) -> None:
    """Without a URL only the user can bring the file."""
    doubling.unlink()

    with pytest.raises(MissingFileError, match="has no `url`: put"):
        registry(data).resolve("doubling")
    with pytest.raises(PullError, match=r"has no `url` for doubling\.onnx"):
        pull(registry(data), "doubling")


def test_pulled_model_is_in_the_cache_and_runs(data: Path, remote: Path) -> None:
    """Progress is told up to the whole size; a second pull has nothing to do."""
    calls: list[tuple[str, int, int]] = []
    seen = registry(data)
    model = pull(seen, "far", lambda *call: calls.append(call))

    size = remote.stat().st_size
    assert ("far.onnx", size, size) == calls[-1]
    assert data / "cache" in model.path.parents
    assert Session.open(model, providers=CPU, slice=1).slice == 1
    calls.clear()
    assert model == pull(seen, "far", lambda *call: calls.append(call))
    assert [] == calls


def test_damaged_cache_is_pulled_again(data: Path, remote: Path) -> None:
    """What is in the cache is ours to replace."""
    model = pull(registry(data), "far")
    model.path.write_bytes(b"damaged")

    with pytest.raises(IntegrityError):
        registry(data).resolve("far")
    assert model.path == pull(registry(data), "far").path
    assert remote.read_bytes() == model.path.read_bytes()


@pytest.mark.parametrize("change", [b"", b"x", b"x" * 5_000_000])
def test_wrong_download_leaves_nothing(data: Path, remote: Path, change: bytes) -> None:
    """Too short, too long or different: refused, and no file is left that looks like the model."""
    remote.write_bytes(change)

    with pytest.raises(IntegrityError, match="nothing was kept"):
        pull(registry(data), "far")
    assert [] == [path for path in (data / "cache").rglob("*") if path.is_file()]


def test_endless_download_is_cut_off(data: Path, remote: Path) -> None:
    """No more than a chunk beyond the promised size is read."""
    remote.write_bytes(b"x" * 20_000_000)
    calls: list[int] = []
    with pytest.raises(IntegrityError, match="more than"):
        pull(registry(data), "far", lambda _file, done, _size: calls.append(done))

    assert 1 == len(calls)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://example.org/m.onnx", "no address that can be pulled"),
        ("m.onnx", "no address that can be pulled"),
        ("http://127.0.0.1:9/m.onnx", "cannot be had: .*refused"),
        ("file:///nowhere/m.onnx", "cannot be had: .*No such file"),
    ],
)
def test_address_that_gives_nothing_is_named(data: Path, remote: Path, url: str, message: str) -> None:
    """The error says which address, and why."""
    manifest = data / "models" / "far-1.0.0.toml"
    manifest.write_text(re.sub(r"url = .*", f'url = "{url}"', manifest.read_text()))

    with pytest.raises(PullError, match=message) as error:
        pull(registry(data), "far")
    assert url in str(error.value)


@pytest.fixture
def server() -> Iterator[tuple[str, dict[str, bytes]]]:
    """An HTTP server on loopback and what it serves by path; a path that ends in `cut` breaks off half-way."""
    files: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if self.path.endswith("cut") else content)

        def log_message(self, *_: object) -> None:
            pass

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}", files
    listening.shutdown()
    thread.join()
    listening.server_close()


def test_pull_over_http(data: Path, remote: Path, server: tuple[str, dict[str, bytes]]) -> None:
    """A real download works; a missing page and a connection that breaks off are refused."""
    address, files = server
    files |= {"/m": remote.read_bytes(), "/cut": remote.read_bytes()}
    manifest = data / "models" / "far-1.0.0.toml"
    text = manifest.read_text()

    def with_path(path: str) -> Registry:
        manifest.write_text(re.sub(r"url = .*", f'url = "{address}{path}"', text))
        return registry(data)

    with pytest.raises(PullError, match="Not Found"):
        pull(with_path("/nothing"), "far")
    with pytest.raises((IntegrityError, PullError)):
        pull(with_path("/cut"), "far")
    assert remote.read_bytes() == pull(with_path("/m"), "far").read()


def test_extra_files_are_pulled_too(data: Path, remote: Path) -> None:
    """What lies beside the manifest is put beside the pulled model as well."""
    (data / "models" / "near.txt").write_text("near")
    elsewhere = remote.with_name("far.txt")
    elsewhere.write_text("far")
    near, far = hashlib.sha256(b"near").hexdigest(), hashlib.sha256(b"far").hexdigest()
    manifest = data / "models" / "far-1.0.0.toml"
    manifest.write_text(
        manifest.read_text()
        + f'files = [{{file = "near.txt", sha256 = "{near}", size = 4}},\n'
        + f'{{file = "far.txt", sha256 = "{far}", size = 3, url = "{elsewhere.as_uri()}"}}]\n'
    )
    model = pull(registry(data), "far")

    assert ("near", "far") == (model.extra("near.txt").read_text(), model.extra("far.txt").read_text())
