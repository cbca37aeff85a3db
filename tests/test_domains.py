"""Domains are found by being there, and keep to one contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import processors
from processors import DomainError, Setup, load, model_reference, names, part_of
from streams.chaos.run import load_chaos
from streams.demo.run import load_demo
from streams.errors import HeadraceError

if TYPE_CHECKING:
    from pathlib import Path

SETUP = Setup(token_key=bytes(32))


@pytest.mark.parametrize("name", names())
def test_every_domain_keeps_the_contract(name: str) -> None:
    """A processor has its name, topics, model and contract, and answers an empty micro-batch with nothing."""
    processor = load(name, SETUP)
    prepared = processor.prepare([])

    assert name == processor.name
    assert processor.input_topic
    assert processor.output_topics
    assert processor.model
    assert {tensor.name for tensor in processor.contract.inputs} == prepared.inputs.keys()
    assert ([], []) == (prepared.records, prepared.rejects)
    assert [] == processor.drain()


def test_domains_are_modules_without_underscore() -> None:
    """The fraud domain is there, machinery is not."""
    assert "fraud" in names()
    assert not [name for name in names() if name.startswith("_")]


def test_an_unknown_domain_names_the_known() -> None:
    """The error lists what there is."""
    with pytest.raises(DomainError, match=r"no domain 'fruad'.*fraud"):
        load("fruad")


def test_a_broken_domain_hurts_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that cannot be imported is listed, fails by itself with its reason, and the others load."""
    (tmp_path / "broken.py").write_text("import no_such_library\n")
    (tmp_path / "hollow.py").write_text("")
    monkeypatch.setattr(processors, "__path__", [*processors.__path__, str(tmp_path)])

    assert {"broken", "fraud", "hollow"} <= set(names())
    with pytest.raises(DomainError, match=r"'broken' cannot be imported: ModuleNotFoundError.*no_such_library"):
        load("broken")
    with pytest.raises(DomainError, match=r"'hollow' has no create"):
        load("hollow")
    assert "fraud" == load("fraud", SETUP).name


def test_a_domain_brings_parts_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Demo and chaos are found by being there; a domain of one file has none, and a part that fails says why."""
    (tmp_path / "hollow.py").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "__init__.py").write_text("")
    (tmp_path / "folder" / "demo.py").write_text("import no_such_library\n")
    monkeypatch.setattr(processors, "__path__", [*processors.__path__, str(tmp_path)])

    found = part_of("fraud", "demo")

    assert found is not None
    assert "processors.fraud.demo" == found.__name__
    assert [None] * 3 == [part_of("hollow", "demo"), part_of("folder", "chaos"), part_of("nowhere", "demo")]
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        part_of("folder", "demo")
    with pytest.raises(HeadraceError, match="'hollow' has no demo; `headrace up hollow`"):
        load_demo("hollow")
    with pytest.raises(HeadraceError, match="'hollow' does not say how its results are compared"):
        load_chaos("hollow")


def test_the_model_is_the_options_or_the_domains_own() -> None:
    """A domain's model has its name unless the options say otherwise."""
    assert "fraud" == model_reference("fraud", {})
    assert "mine@2" == model_reference("fraud", {"model": "mine@2"})
