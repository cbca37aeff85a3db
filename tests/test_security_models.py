"""Hostile model files: what they refer to, what they are not, what changes under the reader; none gets anywhere."""

from __future__ import annotations

import ast
import hashlib
import http.server
import os
import pickle
import shutil
import subprocess
import threading
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_models
import pytest
from onnx import TensorProto, helper

from processors._custom_ops import CustomOpsError
from processors._models import IntegrityError, ManifestError, Model, Registry, read_manifest
from processors._onnx_files import ForeignFileError, external_locations
from processors._pull import PullError, pull
from processors._session import Session, SessionError

if TYPE_CHECKING:
    from collections.abc import Iterator

CPU = ("CPUExecutionProvider",)
SECRET = np.arange(3, dtype=np.float32).tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of models, with a secret above it and in it."""
    found = tmp_path / "data" / "models"
    found.mkdir(parents=True)
    (tmp_path / "data" / "secret").write_bytes(SECRET)
    (tmp_path / "data" / "models" / "weights").write_bytes(SECRET)
    return found


def outside(location: str) -> TensorProto:
    """A tensor of three numbers that says to lie in a file."""
    tensor = TensorProto(name="w", dims=[3], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def adding(location: str, place: str) -> onnx.ModelProto:
    """A model that adds what lies in a file to its input; the tensor stands in one of the places where one may."""
    x = helper.make_tensor_value_info("x", onnx_models.FLOAT, ["batch", 3])
    y = helper.make_tensor_value_info("y", onnx_models.FLOAT, ["batch", 3])
    add = helper.make_node("Add", ["x", "w"], ["y"])
    constant = helper.make_node("Constant", [], ["w"], value=outside(location))
    opsets = [helper.make_opsetid("", 17)]
    match place:
        case "initializer":
            graph = helper.make_graph([add], "g", [x], [y], [outside(location)])
        case "attribute":
            graph = helper.make_graph([constant, add], "g", [x], [y])
        case "branch":
            inner = helper.make_graph(
                [constant, helper.make_node("Identity", ["w"], ["z"])],
                "b",
                [],
                [helper.make_tensor_value_info("z", onnx_models.FLOAT, [3])],
            )
            yes = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("t", TensorProto.BOOL, [], [True]))
            branch = helper.make_node("If", ["c"], ["w"], then_branch=inner, else_branch=inner)
            graph = helper.make_graph([yes, branch, add], "g", [x], [y])
        case _:
            call = helper.make_node("Weights", [], ["w"], domain="mine")
            graph = helper.make_graph([call, add], "g", [x], [y])
            opsets.append(helper.make_opsetid("mine", 1))
            function = helper.make_function("mine", "Weights", [], ["w"], [constant], opsets[:1])
            return helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=[function])
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def resolved(folder: Path, model: onnx.ModelProto, **keys: str) -> Model:
    """The model with a manifest that promises just this file, and what `keys` add."""
    path = folder / "hostile.onnx"
    path.write_bytes(model.SerializeToString())
    onnx_models.manifest(path, name="hostile", keys=keys)
    return Registry(folder.parent, folder.parent / "cache", {}).resolve("hostile")


PLACES = ("initializer", "attribute", "branch", "function")
PATHS = ("/etc/hostname", "../secret", "sub/../../secret", "..\\secret", "weights", "./weights", "*/_ORT_MEM_ADDR_/*")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("location", PATHS)
def test_a_file_that_the_manifest_does_not_list_is_refused(folder: Path, location: str, place: str) -> None:
    """Wherever in a model the reference stands, absolute, upwards or beside it: only listed files may be meant."""
    model = resolved(folder, adding(location, place))

    with pytest.raises(ForeignFileError, match="which its manifest does not list"):
        Session.open(model, providers=CPU)


@pytest.mark.parametrize("location", [path for path in PATHS if path != "weights"])
def test_a_bare_model_may_only_mean_files_beside_it(folder: Path, location: str) -> None:
    """Without a manifest, a reference is a plain name of a file in the same folder."""
    path = folder / "bare.onnx"
    path.write_bytes(adding(location, "initializer").SerializeToString())

    with pytest.raises(ForeignFileError, match="which is no plain name of a file beside it"):
        Session.open(path, providers=CPU)


def test_a_link_out_of_the_folder_is_refused(folder: Path) -> None:
    """A symbolic link beside a bare model leads nowhere."""
    (folder / "link").symlink_to(folder.parent / "secret")
    path = folder / "bare.onnx"
    path.write_bytes(adding("link", "initializer").SerializeToString())

    with pytest.raises(ForeignFileError, match="which is no file beside it"):
        Session.open(path, providers=CPU)


def test_a_listed_file_is_used(folder: Path) -> None:
    """What the manifest lists with its sha256 is the weights, and no copy of the folder is looked at."""
    listed = f'[{{file = "weights", sha256 = "{hashlib.sha256(SECRET).hexdigest()}", size = {len(SECRET)}}}]'
    session = Session.open(resolved(folder, adding("weights", "initializer"), files=listed), providers=CPU, slice=2)
    (folder / "weights").write_bytes(bytes(12))

    assert [[0, 1, 2]] == session.run({"x": np.zeros((1, 3), np.float32)})[0]["y"].tolist()


def test_weights_that_change_after_they_were_checked_are_refused(folder: Path) -> None:
    """The bytes that are hashed are the bytes that are loaded, of the weights too."""
    listed = f'[{{file = "weights", sha256 = "{hashlib.sha256(SECRET).hexdigest()}", size = {len(SECRET)}}}]'
    model = resolved(folder, adding("weights", "initializer"), files=listed)
    (folder / "weights").write_bytes(bytes(12))

    with pytest.raises(IntegrityError, match="is not the file of its manifest"):
        Session.open(model, providers=CPU)


def test_a_model_that_changes_after_it_was_resolved_is_refused(folder: Path) -> None:
    """Also where size and times are the old ones; and a file that grew without end is not read to its end."""
    path = onnx_models.doubling(folder / "doubling.onnx")
    onnx_models.manifest(path)
    model = Registry(folder.parent, folder.parent / "cache", {}).resolve("doubling")
    stat = path.stat()
    path.write_bytes(bytes(stat.st_size))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    with pytest.raises(IntegrityError):
        Session.open(model, providers=CPU)
    os.truncate(path, 1 << 40)
    with pytest.raises(IntegrityError, match=f"it has {stat.st_size + 1} bytes"):
        model.read()


def test_a_compiled_engine_is_refused(folder: Path) -> None:
    """A node that holds or names an engine compiled elsewhere would be native code that nobody looked at."""
    x = helper.make_tensor_value_info("x", onnx_models.FLOAT, ["batch", 3])
    y = helper.make_tensor_value_info("y", onnx_models.FLOAT, ["batch", 3])
    node = helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft", embed_mode=0, ep_cache_context="/tmp/e")
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=opsets, ir_version=9)

    with pytest.raises(ForeignFileError, match="an engine compiled elsewhere"):
        Session.open(resolved(folder, model), providers=CPU)


class Payload:
    """What a hostile pickle does when it is read."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pickled",)


def test_what_is_no_onnx_is_neither_unpickled_nor_unpacked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle, an archive and ONNX Runtime's own format are refused, and nothing in them comes to life."""
    monkeypatch.chdir(folder)
    (folder / "a.onnx").write_bytes(pickle.dumps(Payload()))
    with zipfile.ZipFile(folder / "b.onnx", "w") as archive:
        archive.writestr("../zipped", b"location")
    (folder / "c.onnx").write_bytes(b"\x20\0\0\0ORTM" + bytes(64))
    (folder / "d.onnx").write_bytes(b"location" * 100)

    for name in "abcd":
        with pytest.raises((SessionError, ForeignFileError)):
            Session.open(folder / f"{name}.onnx", providers=CPU)
    assert not (folder / "pickled").exists()
    assert not (folder.parent / "zipped").exists()


def varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


def test_graphs_nested_beyond_reason_are_refused() -> None:
    """A file of nested branches ends in an error, not in a stack that overflows."""
    content = b"location"
    for _ in range(80):  # a graph in an attribute of a node of a graph
        for field in (6, 5, 1):
            content = bytes([field << 3 | 2]) + varint(len(content)) + content
    content = bytes([7 << 3 | 2]) + varint(len(content)) + content

    with pytest.raises(ForeignFileError, match="nested more than"):
        external_locations(content)


def test_the_product_reads_no_pickle_and_unpacks_no_archive() -> None:
    """Nothing of the product imports what would run or unpack foreign files."""
    dangerous = {"pickle", "shelve", "marshal", "joblib", "dill", "cloudpickle", "zipfile", "tarfile", "torch", "yaml"}
    root = Path(__file__).parents[1]
    found = set()
    for path in (p for package in ("schemas", "processors", "streams") for p in (root / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec")
            if called or {name.partition(".")[0] for name in names} & dangerous:
                found.add(f"{path.relative_to(root)}:{node.lineno}")

    assert set() == found


# Pulling


@pytest.mark.parametrize(
    "name", ["../escape.onnx", "/tmp/escape.onnx", "a/../../escape.onnx", "..", ".ssh", "c:escape"]
)
@pytest.mark.parametrize("key", ["file", "files"])
def test_a_manifest_cannot_name_a_file_elsewhere(folder: Path, key: str, name: str) -> None:
    """Names of files are plain names, so that neither loading nor pulling leaves its folder."""
    onnx_models.doubling(folder / "doubling.onnx")
    value = f'"{name}"' if key == "file" else f'[{{file = "{name}", sha256 = "{"0" * 64}", size = 1}}]'
    path = onnx_models.manifest(folder / "doubling.onnx", keys={key: value})

    with pytest.raises(ManifestError, match=r"`\$\.file"):
        read_manifest(path)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/m.onnx", "data:,x", "jar:file:///m.zip", "//host/m.onnx", "m.onnx"])
def test_other_schemes_are_not_pulled(folder: Path, url: str) -> None:
    """Models come by https, http or from a file, and by nothing else."""
    with pytest.raises(PullError, match="is no address that can be pulled"):
        pull(*pullable(folder, url))


def pullable(folder: Path, url: str) -> tuple[Registry, str]:
    """A registry with a model that is to be had at an address only."""
    path = onnx_models.doubling(folder / "doubling.onnx")
    onnx_models.manifest(path, keys={"url": f'"{url}"'})
    path.unlink()
    return Registry(folder.parent, folder.parent / "cache", {}), "doubling"


class Redirecting(http.server.BaseHTTPRequestHandler):
    """Sends everybody to where the path says."""

    def do_GET(self) -> None:
        self.send_response(302)
        self.send_header("Location", self.path[1:])
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def redirecting() -> Iterator[str]:
    """The address of a server that sends people on."""
    server = http.server.HTTPServer(("127.0.0.1", 0), Redirecting)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("goal", ["file:///etc/hostname", "ftp://127.0.0.1:1/model", "gopher://127.0.0.1:1/"])
def test_a_server_cannot_send_us_to_a_file_or_elsewhere(folder: Path, redirecting: str, goal: str) -> None:
    """A redirection leads to https or http, or to an error."""
    with pytest.raises(PullError, match=r"cannot be had: .*(not allowed|unknown url type)"):
        pull(*pullable(folder, f"{redirecting}/{goal}"))


# Custom operators


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library as ONNX Runtime wants it, which leaves a file when it is loaded."""
    if not (compiler := shutil.which("cc")):
        pytest.skip("no C compiler here to make a library with")
    folder = tmp_path_factory.mktemp("library")
    source = folder / "ops.c"
    source.write_text(
        "#include <stdio.h>\n"
        f'__attribute__((constructor)) static void loaded(void) {{ fclose(fopen("{folder}/loaded", "w")); }}\n'
        "void *RegisterCustomOps(void *options, const void *api) { return 0; }\n"
    )
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(folder / "ops.so"), str(source)], check=True)
    return folder / "ops.so"


def test_a_library_of_operators_needs_its_sha256_in_the_settings(folder: Path, library: Path) -> None:
    """It is loaded where the settings name it with the right hash, and not even opened as code where they do not."""
    model = onnx_models.doubling(folder / "doubling.onnx")
    loaded = library.with_name("loaded")
    digest = hashlib.sha256(library.read_bytes()).hexdigest()

    Session.open(model, providers=CPU, slice=2)
    with pytest.raises(CustomOpsError, match=f"has the sha256 {digest}, promised is {'0' * 64}"):
        Session.open(model, providers=CPU, slice=2, custom_ops={str(library): "0" * 64})
    assert not loaded.exists()
    Session.open(model, providers=CPU, slice=2, custom_ops={str(library): digest})
    assert loaded.exists()


def test_what_is_no_library_is_told(folder: Path) -> None:
    """A file that is missing, or that holds no library, is named."""
    model = onnx_models.doubling(folder / "doubling.onnx")
    digest = hashlib.sha256(SECRET).hexdigest()

    with pytest.raises(CustomOpsError, match=r"model\.custom_ops: .*weights cannot be loaded"):
        Session.open(model, providers=CPU, custom_ops={str(folder / "weights"): digest})
    with pytest.raises(CustomOpsError, match=r"/nowhere cannot be read: No such file"):
        Session.open(model, providers=CPU, custom_ops={"/nowhere": digest})


def test_a_model_of_unknown_operators_says_where_they_would_come_from(folder: Path) -> None:
    """The error leads to the setting."""
    x = helper.make_tensor_value_info("x", onnx_models.FLOAT, ["batch", 3])
    y = helper.make_tensor_value_info("y", onnx_models.FLOAT, ["batch", 3])
    graph = helper.make_graph([helper.make_node("Mine", ["x"], ["y"], domain="mine")], "g", [x], [y])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)

    with pytest.raises(SessionError, match=r"mine:Mine.*only where model\.custom_ops names them"):
        Session.open(resolved(folder, model), providers=CPU)
