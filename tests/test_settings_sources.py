"""Whatever the sources hold: the same values give the same settings, and anything else gives problems."""

from __future__ import annotations

import json
import string
import tomllib
from contextlib import suppress
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from shop_settings import SHOP, load

from streams.settings import Settings, SettingsError, dotted, load_settings, schema


@pytest.fixture(autouse=True)
def _away_from_any_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _leaves() -> list[tuple[tuple[str, ...], Any]]:
    return [(key, node.annotation) for key, node in schema(SHOP).walk() if not node.is_table]


def _values(annotation: Any) -> st.SearchStrategy[Any]:
    """Values that a type takes, as TOML would hold them."""
    constraints = {}
    if isinstance(annotation, UnionType) or get_origin(annotation) is Union:
        return st.one_of(*map(_values, get_args(annotation)))
    if get_origin(annotation) is Annotated:
        annotation, *metas = get_args(annotation)
        for meta in metas:
            constraints |= {name: getattr(meta, name) for name in ("ge", "gt", "le") if getattr(meta, name) is not None}
    low = constraints.get("ge", constraints.get("gt", -1000) + (1 if "gt" in constraints else 0))
    if annotation is int:
        return st.integers(low, constraints.get("le", 20_000))
    if annotation is float:
        return st.floats(low, constraints.get("le", 1e6))
    if annotation is bool:
        return st.booleans()
    if get_origin(annotation) is Literal:
        return st.sampled_from(get_args(annotation))
    plain = st.text(string.ascii_letters + string.digits + "-_./", min_size=1, max_size=12)
    if annotation is str or annotation is Path:
        return plain
    return st.lists(plain, max_size=3)


@st.composite
def chosen(draw: st.DrawFn) -> dict[tuple[str, ...], Any]:
    """Some keys with values that they take; cross rules between keys are left out."""
    unrelated = [
        (key, kind)
        for key, kind in _leaves()
        if key[-1] not in {"token_key", "transaction_timeout_ms", "commit_interval_ms"}
    ]
    picked = draw(st.lists(st.sampled_from(unrelated), unique_by=lambda leaf: leaf[0], max_size=8))
    values = {key: draw(_values(kind)) for key, kind in picked}
    urls = {("clickhouse", "url"), ("tracing", "endpoint")}
    return {key: f"http://h{value}" if key in urls else value for key, value in values.items()}


def _toml(values: dict[tuple[str, ...], Any]) -> str:
    return "".join(f"{dotted(key)} = {json.dumps(value)}\n" for key, value in values.items())


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@settings(deadline=None, max_examples=40)
@given(chosen())
def test_every_source_reads_alike(values: dict[tuple[str, ...], Any]) -> None:
    """The same values give the same settings from a file, from the environment and from the command line."""
    env = {f"HEADRACE_{'__'.join(key).upper()}": _as_text(value) for key, value in values.items()}
    overrides = {dotted(key): _as_text(value) for key, value in values.items()}

    from_file, from_env, from_flags = load(_toml(values)), load(env=env), load(overrides=overrides)

    assert from_file.settings == from_env.settings == from_flags.settings
    assert {dotted(key) for key in values} == {key for key, origin in from_file.origins.items() if origin != "default"}


@settings(deadline=None, max_examples=40)
@given(chosen())
def test_what_is_printed_as_toml_reads_back(values: dict[tuple[str, ...], Any]) -> None:
    """`headrace config --toml` is a file that gives the same settings again."""
    from streams.cli.config import toml

    tree = schema(SHOP)
    open_ones = {key: value for key, value in values.items() if not getattr(tree.find(key), "secret", True)}
    loaded = load(_toml(open_ones))

    assert loaded.settings == load(toml(loaded.effective())).settings


_names = st.one_of(
    st.sampled_from(
        ["kafka", "security", "worker", "max_size", "topics", "format", "domains", "shop", "store", "token"]
    ),
    st.text(string.ascii_lowercase + "._", min_size=1, max_size=6),
)
_tomlish = st.recursive(
    st.one_of(st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=8), st.dates(), st.times()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_names, inner, max_size=3)),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.dictionaries(_names, _tomlish, max_size=4))
@example({"topics": {"": {}}})
@example({"kafka": {"security": {"a": {}}}})
def test_any_table_gives_settings_or_problems(table: dict[str, Any]) -> None:
    """Whatever a file holds, nothing but `SettingsError` comes out."""
    tree = schema(SHOP)
    from streams._settings_load import assemble
    from streams._settings_sources import Entry

    settings, _, found = assemble(Settings, tree, [Entry(key, value, "x.toml") for key, value in tree.spread(table)])

    assert found or isinstance(settings, Settings)
    assert all(str(problem) for problem in found)


@settings(deadline=None, max_examples=40)
@given(st.text(max_size=60))
def test_any_text_of_a_file(text: str) -> None:
    """Any text at all is settings or problems."""
    Path("given.toml").write_text(text, encoding="utf-8", errors="replace")
    try:
        tomllib.loads(Path("given.toml").read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        with pytest.raises(SettingsError):
            load_settings(Path("given.toml"), {}, {}, SHOP)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.lists(
            st.sampled_from(["KAFKA", "SECURITY", "WORKER", "MAX_SIZE", "TOPICS", "X", "DOMAINS", "SHOP", ""]),
            max_size=4,
        )
        .map("__".join)
        .map("HEADRACE_{}".format),
        st.text(max_size=8),
        max_size=4,
    )
)
def test_any_environment(env: dict[str, str]) -> None:
    """Any environment is settings or problems."""
    with suppress(SettingsError):
        assert isinstance(load(env=env).settings, Settings)
