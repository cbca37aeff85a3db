"""Manifests, discovery and checking of models, and the commands."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_models
import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_folders import far_model, registry
from onnx import helper, numpy_helper

from processors import _models
from processors._models import (
    IntegrityError,
    ManifestError,
    Registry,
    UnknownModelError,
    read_manifest,
)
from processors._session import Session
from streams.cli._app import run

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


# Manifests


def test_manifest_tells_what_is_promised(doubling: Path) -> None:
    """Every key arrives, typed."""
    manifest = read_manifest(doubling.with_name("doubling-1.0.0.toml"))

    assert "doubling@1.0.0" == manifest.reference
    assert "float32[batch, 3]" == manifest.contract.inputs[0].describe()
    assert doubling.stat().st_size == manifest.size


def test_manifest_may_be_json(doubling: Path) -> None:
    """The same keys as JSON, in `*.manifest.json`."""
    path = doubling.with_name("doubling-1.0.0.toml")
    as_json = path.with_name("doubling.manifest.json")
    expected = read_manifest(path)

    as_json.write_text(json.dumps(tomllib.loads(path.read_text())))
    path.unlink()

    assert expected == read_manifest(as_json)
    found = [entry.manifest.reference for entry in registry(doubling.parents[1]).entries()]
    assert 1 == found.count("doubling@1.0.0")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": '"abc"'}, r"`\$.sha256`"),
        ({"size": "0"}, r"`\$.size`"),
        ({"size": '"12"'}, r"Expected `int`, got `str` - at `\$.size`"),
        ({"licence": None}, "missing required field `licence`"),
        ({"license": '"MIT"'}, "unknown field `license`; did you mean 'licence'?"),
        ({"name": '"No Spaces"'}, r"`\$.name`"),
        ({"file": '"../../etc/passwd"'}, r"`\$.file`"),
        ({"file": '".hidden"'}, r"`\$.file`"),
        ({"contract.inputs": '[{name = "x", dtype = "float", shape = ["batch"]}]'}, r"`\$.contract.inputs\[0\].dtype`"),
        ({"contract.inputs": '[{name = "x", dtype = "float32", shape = [3]}]'}, 'no input has a "batch" axis'),
        ({"contract.outputs": '[{name = "y", dtype = "float32", shape = [3]}]'}, r"'y' has no \"batch\" axis"),
        ({"files": '[{file = "a", sha = "b"}]'}, "unknown field `sha`.* did you mean 'sha256'?"),
        ({"version": "1.0"}, r"got `float` - at `\$.version`"),
    ],
)
def test_mistake_in_a_manifest_is_named_with_its_key(doubling: Path, changes: dict[str, Any], message: str) -> None:
    """The error names the file and the key."""
    path = onnx_models.manifest(doubling, keys=changes)

    with pytest.raises(ManifestError, match=message) as error:
        read_manifest(path)
    assert str(error.value).startswith(str(path))


@given(st.text())
def test_text_that_is_no_manifest_is_a_manifest_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Whatever is in the file, nothing but a ManifestError comes out."""
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))

    with pytest.raises(ManifestError):
        read_manifest(path)


# Discovery


def test_one_broken_manifest_hides_no_other(doubling: Path) -> None:
    """It is a problem that is told, also where a name is not found."""
    (doubling.parent / "bad.toml").write_text("name = ")
    seen = registry(doubling.parents[1])

    assert "doubling@1.0.0" == seen.resolve("doubling").manifest.reference
    assert 1 == len(seen.problems)
    with pytest.raises(UnknownModelError, match=r"(?s)known, nearest first.*not readable: .*bad\.toml"):
        seen.find("bad")


def test_highest_version_is_meant_where_none_is_named(doubling: Path) -> None:
    """1.10 comes after 1.9, and a release after its candidates."""
    for version in ("1.9.0", "1.10.0-rc.1", "1.10.0-rc.2", "1.2.0"):
        onnx_models.manifest(doubling, version=version)
    seen = registry(doubling.parents[1])

    assert ["1.0.0", "1.2.0", "1.9.0", "1.10.0-rc.1", "1.10.0-rc.2"] == [
        entry.manifest.version for entry in seen.entries() if entry.manifest.name == "doubling"
    ]
    assert "1.10.0-rc.2" == seen.resolve("doubling").manifest.version
    onnx_models.manifest(doubling, version="1.10.0")
    assert "1.10.0" == registry(doubling.parents[1]).resolve("doubling").manifest.version
    assert "1.9.0" == seen.resolve("doubling@1.9.0").manifest.version


def test_unknown_name_lists_the_known_ones_nearest_first(doubling: Path) -> None:
    """A slip of the finger is answered with what was meant."""
    for name in ("tripling", "fraud-small"):
        onnx_models.manifest(doubling, name=name)

    with pytest.raises(UnknownModelError, match=r"no model 'dubling@1.0.0'; known, nearest first: doubling@1\.0\.0, "):
        registry(doubling.parents[1]).find("dubling@1.0.0")
    with pytest.raises(UnknownModelError, match=r"nearest first: doubling@1\.0\.0"):
        registry(doubling.parents[1]).find("doubling@2.0.0")


def test_folders_of_the_environment_win(doubling: Path, tmp_path: Path) -> None:
    """HEADRACE_MODELS names several folders; what is there replaces the same name and version elsewhere."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    onnx_models.manifest(onnx_models.doubling(folders[0] / "wide.onnx", columns=4), name="wide")
    onnx_models.manifest(onnx_models.doubling(folders[1] / "doubling.onnx"))
    seen = registry(doubling.parents[1], HEADRACE_MODELS=os.pathsep.join(map(str, folders)))

    assert ("HEADRACE_MODELS", folders[1]) == (seen.find("doubling").place, seen.find("doubling").path.parent)
    assert "HEADRACE_MODELS" == seen.find("wide").place


def test_manifests_in_the_package_can_be_read() -> None:
    """Every model that is shipped is described without mistake, and its file is the one promised where it is here."""
    seen = Registry(environ={})

    assert [] == seen.problems
    for entry in seen.entries():
        if (entry.path.parent / entry.manifest.file).exists():
            model = seen.resolve(entry.manifest.reference)
            Session.open(model, providers=CPU, slice=1, threads=1)


# Integrity


def test_resolved_model_opens_by_its_contract(doubling: Path) -> None:
    """From a name to outputs, with what the manifest says about shapes."""
    session = Session.open(registry(doubling.parents[1]).resolve("doubling@1.0.0"), providers=CPU, slice=4)
    outputs, _ = session.run({"x": np.ones((9, 3), np.float32)})

    assert "doubling@1.0.0" == session.name
    assert np.full((9, 3), 2.0).tolist() == outputs["y"].tolist()


@pytest.mark.parametrize("tamper", ["longer", "same size"])
def test_file_that_is_not_the_promised_one_is_refused(doubling: Path, tamper: str) -> None:
    """Size and sha256 are both named, found and promised."""
    content = doubling.read_bytes()
    doubling.write_bytes(content + b"\0" if tamper == "longer" else content[:-1] + b"\1")

    with pytest.raises(IntegrityError, match=r"it has \d+ bytes and sha256 \w{64}, promised are \d+ bytes and sha256"):
        registry(doubling.parents[1]).resolve("doubling")


def test_tampering_after_a_first_check_is_found(doubling: Path) -> None:
    """The check is made once per state of the file, not once for ever, also where size and time are put back."""
    seen = registry(doubling.parents[1])
    model = seen.resolve("doubling")
    stat = doubling.stat()
    content = doubling.read_bytes()
    doubling.write_bytes(content[:-1] + b"\1")
    os.utime(doubling, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    with pytest.raises(IntegrityError):
        seen.resolve("doubling")
    with pytest.raises(IntegrityError):
        Session.open(model, providers=CPU)


def test_what_was_hashed_is_what_runs(doubling: Path) -> None:
    """The bytes that were read and hashed are those that are loaded: the file is not opened a second time."""
    model = registry(doubling.parents[1]).resolve("doubling")
    content = model.read()

    assert hashlib.sha256(content).hexdigest() == model.manifest.sha256


def test_file_is_hashed_once_until_it_changes(doubling: Path) -> None:
    """Ten workers' worth of look-ups do not read a large model ten times."""
    seen = registry(doubling.parents[1])
    seen.resolve("doubling")
    misses = _models._digest.cache_info().misses
    seen.resolve("doubling")
    registry(doubling.parents[1]).resolve("doubling")

    assert misses == _models._digest.cache_info().misses


def test_manifest_that_promises_another_shape_is_refused_at_load(doubling: Path) -> None:
    """The contract of a manifest is held against the file also where the processor brings its own."""
    onnx_models.manifest(
        doubling, version="2.0.0", keys={"contract.outputs": '[{name = "z", dtype = "float32", shape = ["batch", 3]}]'}
    )
    seen = registry(doubling.parents[1])
    expects = seen.resolve("doubling@1.0.0").manifest.contract

    with pytest.raises(ValueError, match=r"the file of doubling@2\.0\.0 differs .*\n.*output 'z' is not in the model"):
        Session.open(seen.resolve("doubling@2.0.0"), expects=expects, providers=CPU)


def test_extra_files_are_checked_and_found(doubling: Path) -> None:
    """A tokenizer travels with its model under the same promise."""
    vocabulary = doubling.with_name("vocab.txt")
    vocabulary.write_text("a b c")
    digest = hashlib.sha256(b"a b c").hexdigest()
    onnx_models.manifest(
        doubling, version="2.0.0", keys={"files": f'[{{file = "vocab.txt", sha256 = "{digest}", size = 5}}]'}
    )
    seen = registry(doubling.parents[1])

    assert vocabulary == seen.resolve("doubling").extra("vocab.txt")
    with pytest.raises(ManifestError, match=r"no file 'vocab'; did you mean 'vocab\.txt'"):
        seen.resolve("doubling").extra("vocab")
    vocabulary.write_text("a b d")
    with pytest.raises(IntegrityError, match=r"vocab\.txt"):
        seen.resolve("doubling")


def test_external_weights_are_loaded_from_beside_the_model(data: Path) -> None:
    """A model whose weights are a file of their own runs from checked bytes."""
    path = data / "models" / "large.onnx"
    weights = np.arange(30_000, dtype=np.float32).reshape(3, 10_000)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "large",
        [helper.make_tensor_value_info("x", onnx_models.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", onnx_models.FLOAT, ["batch", 10_000])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path, save_as_external_data=True, location="large.data", size_threshold=0)
    extra = data / "models" / "large.data"
    digest = hashlib.sha256(extra.read_bytes()).hexdigest()
    onnx_models.manifest(
        path,
        name="large",
        keys={
            "contract.outputs": '[{name = "y", dtype = "float32", shape = ["batch", 10000]}]',
            "files": f'[{{file = "large.data", sha256 = "{digest}", size = {extra.stat().st_size}}}]',
        },
    )
    session = Session.open(registry(data).resolve("large"), providers=CPU, slice=2)

    x = np.eye(3, dtype=np.float32)
    np.testing.assert_array_equal(weights, session.run({"x": x})[0]["y"])


# Commands


def headrace(data: Path, *arguments: str) -> int:
    """Runs a `models` command on a data directory."""
    return run(["--data", str(data), "--set", f"model.cache_dir={data / 'cache'}", "models", *arguments])


def test_list_shows_models_and_their_state(
    data: Path, doubling: Path, remote: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file may be right, wrong or missing; what cannot be read is a problem."""
    wrong = onnx_models.doubling(data / "models" / "wrong.onnx")
    onnx_models.manifest(wrong, name="wrong", keys={"size": "1"})
    (data / "models" / "bad.toml").write_text("?")

    assert 0 == headrace(data, "list", "--json")
    shown = json.loads(capsys.readouterr().out)
    states = {row["model"]: row["state"] for row in shown["models"] if row["place"] == "data"}
    assert {"doubling@1.0.0": "ok", "far@1.0.0": "missing", "wrong@1.0.0": "wrong"} == states
    assert 1 == len(shown["problems"])
    assert 0 == headrace(data, "list")
    assert re.search(r"far@1\.0\.0 +missing", capsys.readouterr().out)


def test_pull_and_verify_by_command(data: Path, remote: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pulled, then checked by loading; a damaged file fails with exit code 1."""
    assert 0 == headrace(data, "pull", "far", "--json")
    path = Path(json.loads(capsys.readouterr().out)["path"])
    assert 0 == headrace(data, "verify", "far")
    assert "far@1.0.0: ok\n" == capsys.readouterr().out
    path.write_bytes(b"damaged")
    assert 1 == headrace(data, "verify", "far", "--json")
    assert "is not the file of its manifest" in json.loads(capsys.readouterr().out)["models"][0]["error"]
    assert 1 == headrace(data, "pull", "farr")
    assert "error: no model 'farr'; known, nearest first: far@1.0.0" in capsys.readouterr().err


def test_inspect_shows_a_model_or_a_file(data: Path, doubling: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Contract, versions, hash and, where asked for, the latency curve."""
    assert 0 == headrace(data, "inspect", "doubling", "--measure", "--json")
    facts = json.loads(capsys.readouterr().out)
    assert ["x float32[batch, 3]"] == facts["inputs"]
    assert ("any", {"ai.onnx": 17}, {"colour": "blue"}) == (facts["batch"], facts["opsets"], facts["metadata"])
    assert hashlib.sha256(doubling.read_bytes()).hexdigest() == facts["sha256"]
    assert facts["slice"] in [point["rows"] for point in facts["curve"]]
    assert "CPUExecutionProvider" in facts["available"]
    assert 0 == headrace(data, "inspect", str(doubling))
    assert re.search(r"^outputs +y float32\[batch, 3\]$", capsys.readouterr().out, re.MULTILINE)


def test_dynamic_by_command(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The new file's hash and size come ready for a manifest."""
    source, target = onnx_models.perceptron(tmp_path / "one.onnx", batch=1), tmp_path / "any.onnx"

    assert 0 == headrace(data, "dynamic", str(source), str(target))
    shown = capsys.readouterr().out
    assert f'sha256 = "{hashlib.sha256(target.read_bytes()).hexdigest()}"\nsize = {target.stat().st_size}\n' in shown
    assert 1 == headrace(data, "dynamic", str(target), str(tmp_path / "again.onnx"))
    assert "nothing to make dynamic" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["list", "pull", "verify", "inspect", "dynamic"])
def test_every_command_has_help_with_an_example(data: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` shows a line to copy."""
    assert 0 == headrace(data, command, "--help")
    assert f"headrace models {command}" in capsys.readouterr().out
