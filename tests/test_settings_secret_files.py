"""Settings that come from files which variables name, as container platforms hand secrets over."""

from __future__ import annotations

from pathlib import Path

import pytest
from shop_settings import load

from streams.settings import SettingsError

KEY = "ab" * 32


@pytest.fixture(autouse=True)
def _away_from_any_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(name: str, text: str) -> str:
    """A file in the working directory, by its whole path."""
    path = Path(name).absolute()
    path.write_text(text)
    return str(path)


def test_a_variable_may_name_a_file() -> None:
    """The content is the value, without the line's end, and the variable is where it came from."""
    loaded = load(env={"HEADRACE_TOKEN_KEY_FILE": written("key", KEY + "\n")})

    assert KEY == loaded.settings.privacy.token_key
    assert "HEADRACE_TOKEN_KEY_FILE" == loaded.origins["privacy.token_key"]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("HEADRACE_CLICKHOUSE_FILE", "clickhouse.url"),
        ("HEADRACE_CLICKHOUSE__URL_FILE", "clickhouse.url"),
        ("HEADRACE_STORE__TOKEN_FILE", "store.token"),
        ("HEADRACE_KAFKA__SECURITY__SASL_PASSWORD_FILE", 'kafka.security."sasl.password"'),
    ],
)
def test_short_long_and_free_names_may_name_files(name: str, key: str) -> None:
    """It does not matter how a setting is spelled."""
    loaded = load(env={name: written("value", "http://me:hush-hush@there:8123")})

    assert name == loaded.origins[key]


def test_settings_from_files_are_typed() -> None:
    """Text in a file becomes a number where the setting is one."""
    assert 512 == load(env={"HEADRACE_WORKER__MAX_SIZE_FILE": written("size", "512\n")}).settings.worker.max_size


def test_secrets_from_files_stay_hidden() -> None:
    """They are stars wherever settings are shown."""
    loaded = load(env={"HEADRACE_TOKEN_KEY_FILE": written("key", KEY)})

    assert KEY not in repr(loaded.settings)
    assert KEY not in str(loaded.effective())


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_unreadable_files_are_named(content: bytes | None) -> None:
    """The error has the variable and the path."""
    if content is not None:
        Path("key").write_bytes(content)

    with pytest.raises(SettingsError, match="HEADRACE_TOKEN_KEY_FILE names key, which cannot be read"):
        load(env={"HEADRACE_TOKEN_KEY_FILE": "key"})


def test_a_value_and_a_file_exclude_each_other() -> None:
    """Nobody has to guess which of the two wins."""
    with pytest.raises(SettingsError, match="both set; keep one"):
        load(env={"HEADRACE_TOKEN_KEY": KEY, "HEADRACE_TOKEN_KEY_FILE": written("key", KEY)})


def test_empty_names_say_nothing() -> None:
    """A template that leaves the variable empty changes no setting."""
    assert "default" == load(env={"HEADRACE_TOKEN_KEY_FILE": ""}).origins["privacy.token_key"]


def test_names_of_librdkafka_that_end_so_are_left_alone() -> None:
    """`sasl.oauthbearer.assertion.private.key.file` takes a path itself."""
    name = "HEADRACE_KAFKA__SECURITY__SASL_OAUTHBEARER_ASSERTION_PRIVATE_KEY_FILE"

    assert {"sasl.oauthbearer.assertion.private.key.file": "/a"} == load(env={name: "/a"}).settings.kafka.security
