"""The bill of materials lists what is installed: packages, jars and models, each with its hash."""

from __future__ import annotations

import hashlib
import re
import shutil
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from processors._models import Registry
from scripts.sbom import bill
from streams.local.jars import read_pins

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """The bill of this checkout."""
    if not shutil.which("uv") or not (ROOT / "uv.lock").exists():
        pytest.skip("no uv here, or it has resolved nothing yet")
    return bill()


def test_every_dependency_is_listed_as_it_is_installed(document: dict[str, Any]) -> None:
    """What the project asks for is in the bill, in the version that runs these tests."""
    listed = {(one["name"], one["version"]) for one in document["components"]}
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = [re.split(r"[\[<>=; ]", one)[0] for one in asked] + ["onnxruntime"]

    assert set() == {(name, version(name)) for name in names} - listed


def test_developers_tools_are_not_listed(document: dict[str, Any]) -> None:
    """Nobody has to answer for a vulnerability in a test runner."""
    assert set() == {one["name"] for one in document["components"]} & {"pytest", "mypy", "ruff", "hypothesis"}


def test_jars_and_models_are_listed_with_their_hashes(document: dict[str, Any]) -> None:
    """What is fetched, and what is data, is as much a part as packages are."""
    hashes = {one["bom-ref"]: one["hashes"][0]["content"] for one in document["components"] if "hashes" in one}
    [entry] = [found for found in Registry(environ={}).entries() if found.manifest.name == "fraud"]
    model = (entry.path.parent / entry.manifest.file).read_bytes()

    assert {pin.sha256 for pin in read_pins()} <= set(hashes.values())
    assert hashlib.sha256(model).hexdigest() == hashes[f"model:{entry.manifest.reference}"]


def test_the_document_holds_together(document: dict[str, Any]) -> None:
    """It is CycloneDX, names are given once, and dependencies lead to components."""
    refs = [one["bom-ref"] for one in document["components"]]
    known = {*refs, document["metadata"]["component"]["bom-ref"]}
    led_to = {ref for one in document["dependencies"] for ref in (one["ref"], *one.get("dependsOn", ()))}

    assert ("CycloneDX", "1.5") == (document["bomFormat"], document["specVersion"])
    assert len(refs) == len(set(refs))
    assert set() == led_to - known
