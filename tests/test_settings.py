"""Settings from every source, every mistake at once, and no secret ever shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from shop_settings import load

from streams._settings_kinds import database_of
from streams._settings_redact import STARS, redact_text, redact_url
from streams.settings import ClickHouseSettings, Settings, SettingsError, load_settings, secrets_of, shown

NO_DOMAINS: dict[str, type[msgspec.Struct] | None] = {}
SECRET = "s3cr3t-Zebra-9"


@pytest.fixture(autouse=True)
def _away_from_any_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def problems(*arguments: Any, **named: Any) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(*arguments, **named)
    return str(caught.value).splitlines()


def test_nothing_given_is_the_defaults() -> None:
    """Without file and environment every value is the type's own, and says so."""
    loaded = load()

    assert Settings() == loaded.settings
    assert {"default"} == set(loaded.origins.values())


@pytest.mark.parametrize(
    ("url", "database"),
    [
        ("https://me:secret@there:8443/lake", "lake"),
        ("https://there:8443/", "headrace"),
        ("http://there", "headrace"),
        ("http://[::1]:8123/lake/", "lake"),
    ],
)
def test_the_url_of_a_server_may_name_the_database(url: str, database: str) -> None:
    """What stands behind the address is the database, else the setting is."""
    assert database == database_of(url, ClickHouseSettings(url).database)


def test_later_sources_win() -> None:
    """The command line beats the environment, which beats the file, which beats the defaults."""
    text = "[worker]\nmax_size = 1\nmax_bytes = 1\ncommit_max_events = 1\n"
    env = {"HEADRACE_WORKER__MAX_SIZE": "2", "HEADRACE_WORKER__MAX_BYTES": "2"}

    loaded = load(text, env, {"worker.max_size": "3"})

    worker = loaded.settings.worker
    assert (3, 2, 1) == (worker.max_size, worker.max_bytes, worker.commit_max_events)
    assert ["command line", "HEADRACE_WORKER__MAX_BYTES", "given.toml", "default"] == [
        loaded.origins[f"worker.{key}"] for key in ("max_size", "max_bytes", "commit_max_events", "max_wait_ms")
    ]


def test_the_file_is_found_in_the_working_directory_or_by_its_variable(tmp_path: Path) -> None:
    """`headrace.toml` here is read unless HEADRACE_CONFIG or an argument names another."""
    Path("headrace.toml").write_text('data = "here"')
    (tmp_path / "other.toml").write_text('data = "other"')

    assert Path("here") == load().settings.data
    assert Path("other") == load(env={"HEADRACE_CONFIG": "other.toml"}).settings.data
    assert Path("given") == load('data = "given"', {"HEADRACE_CONFIG": "other.toml"}).settings.data


def test_a_named_file_must_be_there() -> None:
    """A file that somebody named and that is missing is an error, not the defaults."""
    with pytest.raises(SettingsError, match=r"gone\.toml cannot be read"):
        load_settings(Path("gone.toml"), {}, {}, NO_DOMAINS)
    with pytest.raises(SettingsError, match=r"lost\.toml cannot be read"):
        load_settings(None, {"HEADRACE_CONFIG": "lost.toml"}, {}, NO_DOMAINS)


def test_short_names() -> None:
    """The four settings that everybody sets have short names."""
    settings = load(
        env={
            "HEADRACE_KAFKA": "k:1",
            "HEADRACE_CLICKHOUSE": "http://c",
            "HEADRACE_DATA": "d",
            "HEADRACE_TOKEN_KEY": "ab" * 16,
        }
    ).settings

    assert ("k:1", "http://c", Path("d"), "ab" * 16) == (
        settings.kafka.bootstrap,
        settings.clickhouse.url,
        settings.data,
        settings.privacy.token_key,
    )


@pytest.mark.parametrize(
    "source",
    [
        {"text": '[kafka.security]\n"sasl.username" = "me"\n"security.protocol" = "SASL_SSL"'},
        {"text": '[kafka.security]\nsasl.username = "me"\nsecurity.protocol = "SASL_SSL"'},
        {
            "env": {
                "HEADRACE_KAFKA_SECURITY__SASL_USERNAME": "me",
                "HEADRACE_KAFKA_SECURITY__SECURITY_PROTOCOL": "SASL_SSL",
            }
        },
        {"env": {"HEADRACE_KAFKA__SECURITY": '{"sasl.username": "me", "security.protocol": "SASL_SSL"}'}},
        {"overrides": {"kafka.security.sasl.username": "me", 'kafka.security."security.protocol"': "SASL_SSL"}},
    ],
)
def test_names_with_dots(source: dict[str, Any]) -> None:
    """Librdkafka's names may be written quoted, as TOML tables, with underscores in the environment, or as JSON."""
    assert {"sasl.username": "me", "security.protocol": "SASL_SSL"} == load(**source).settings.kafka.security


def test_topics_may_hold_dots() -> None:
    """A topic's name may hold dots, quoted or not."""
    loaded = load('[topics."a.b"]\nformat = "avro"\n[topics.c.d]\nformat = "protobuf"\n[topics.e]\nformat = "json"')

    assert {"a.b": "avro", "c.d": "protobuf", "e": "json"} == {
        name: topic.format for name, topic in loaded.settings.topics.items()
    }
    assert "given.toml" == loaded.origins['topics."a.b".format']


def test_every_mistake_is_told_at_once() -> None:
    """One run shows everything that is wrong, with file or variable, key, and the nearest known key."""
    text = """
    dat = 1
    [worker]
    max_siz = 3
    max_size = "many"
    commit_interval_ms = -1
    [store]
    port = 70000
    [topics.x]
    format = "xml"
    [domains.shop]
    treshold = 1
    threshold = 2
    [domains.shob]
    mode = "fast"
    """
    env = {"HEADRACE_KAFA": "x", "HEADRACE_WORKER_MAX_SIZE": "3", "HEADRACE_MODEL__SLICES": "1"}

    assert [
        "unknown key dat in given.toml; did you mean data?",
        "unknown key worker.max_siz in given.toml; did you mean worker.max_size?",
        "unknown key domains.shop.treshold in given.toml; did you mean domains.shop.threshold?",
        "unknown key domains.shob in given.toml; did you mean domains.shop?",
        "unknown setting HEADRACE_KAFA in the environment; did you mean HEADRACE_KAFKA?",
        "unknown setting HEADRACE_MODEL__SLICES in the environment; did you mean HEADRACE_MODEL__SLICE?",
        "unknown setting HEADRACE_WORKER_MAX_SIZE in the environment; did you mean HEADRACE_WORKER__MAX_SIZE?",
        "unknown key max_size on the command line; did you mean worker.max_size?",
        "worker.max_size in given.toml: Expected int, got str (got 'many')",
        "worker.commit_interval_ms in given.toml: Expected float > 0.0 (got -1)",
        "store.port in given.toml: Expected int <= 65535 (got 70000)",
        "topics.x.format in given.toml: Expected one of json, avro, protobuf (got 'xml')",
        "domains.shop.threshold in given.toml: Expected float <= 1.0 (got 2)",
    ] == problems(text, env, {"max_size": "1"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[worker", "given.toml is no valid TOML: "),
        ("worker = 3", "worker in given.toml: expected a table of keys"),
        ("[worker]\nmax_wait_ms = nan", "worker.max_wait_ms in given.toml: Expected a finite number (got nan)"),
        ("[worker]\nmax_size = true", "worker.max_size in given.toml: Expected int, got bool (got True)"),
        ("data = 3", "data in given.toml: Expected str, got int (got 3)"),
        ('[privacy]\ntoken_key = "abcd"', "privacy in given.toml: token_key needs at least 32 hexadecimal digits"),
        ('[kafka.security]\ngroup.id = "x"', "kafka in given.toml: group.id under kafka.security: headrace sets"),
        ('[clickhouse]\nurl = "server:8123"', "clickhouse in given.toml: url must be http:// or https://"),
        ("[worker]\ntransaction_timeout_ms = 10", "worker in given.toml: transaction_timeout_ms must be longer"),
    ],
)
def test_what_a_file_may_not_hold(text: str, message: str) -> None:
    """Each kind of mistake has its own words."""
    [problem] = problems(text)

    assert problem.startswith(message)


@pytest.mark.parametrize("text", [b"\xff\xfe", b"data = '\x00'"])
def test_a_file_that_is_no_text(text: bytes) -> None:
    """Bytes that are no TOML are one problem, no crash."""
    Path("headrace.toml").write_bytes(text)

    assert 1 == len(problems())


def test_variables_of_others_are_left_alone() -> None:
    """What Kubernetes sets for a service called headrace, and names that look like no setting, are no mistakes."""
    env = {
        "HEADRACE_SERVICE_HOST": "10.0.0.1",
        "HEADRACE_STORE_PORT": "tcp://10.0.0.1:80",
        "HEADRACE_STORE_PORT_80_TCP_ADDR": "10.0.0.1",
        "HEADRACE_SOMETHING_ELSE": "x",
        "HEADRACE_TEST_DATA": "x",
        "HEADRACE_WORKER__MAX_SIZE": "",
    }

    assert Settings() == load(env=env).settings


def test_text_becomes_the_type_of_its_key() -> None:
    """Booleans, numbers and lists can be written in the environment."""
    settings = load(
        env={
            "HEADRACE_MODEL__REQUIRE_GPU": "true",
            "HEADRACE_MODEL__PROVIDERS": "A, B",
            "HEADRACE_WORKER__MAX_WAIT_MS": ".5",
            "HEADRACE_DOMAINS__SHOP__NAMES": '["x", "y"]',
            "HEADRACE_DOMAINS__SHOP__THRESHOLD": "0.25",
        }
    ).settings

    assert (True, ("A", "B"), 0.5) == (
        settings.model.require_gpu,
        settings.model.providers,
        settings.worker.max_wait_ms,
    )
    assert {"names": ("x", "y"), "threshold": 0.25} == settings.domains["shop"]


def test_a_domain_without_a_settings_type_takes_anything() -> None:
    """A domain that cannot be imported must not keep the others from running."""
    Path("headrace.toml").write_text("[domains.broken]\nanything = [1, 2]\n[domains.broken.deep]\nkey = 'x'")

    loaded = load_settings(None, {}, {}, {"broken": None})

    assert {"anything": [1, 2], "deep": {"key": "x"}} == loaded.settings.domains["broken"]


def test_the_domains_here_are_known() -> None:
    """Without types given, the domains of `processors` are asked, and their keys are checked."""
    with pytest.raises(SettingsError, match=r"did you mean domains\.fraud\."):
        load_settings(None, {}, {"domains.fraud.max_amont": "1"})

    assert {"max_amount": 5.0} == load_settings(None, {}, {"domains.fraud.max_amount": "5"}).settings.domains["fraud"]


SECRETS_EVERYWHERE = f"""
[kafka.security]
"sasl.username" = "me"
"sasl.password" = "{SECRET}"
"ssl.key.password" = "{SECRET}"
[clickhouse]
url = "https://me:{SECRET}@host:8443/db"
[store]
token = "{SECRET}"
[privacy]
token_key = "{SECRET.encode().hex() * 2}"
[registry]
url = "https://me:{SECRET}@registry"
basic_auth = "me:{SECRET}"
[domains.shop]
api_key = "{SECRET}"
"""


def test_secrets_are_shown_nowhere() -> None:
    """Neither repr nor the effective settings show a secret; what is no secret stays readable."""
    loaded = load(SECRETS_EVERYWHERE)

    printed = repr(loaded.settings) + repr(loaded) + str(loaded.effective()) + json.dumps(shown(loaded.settings))

    assert SECRET not in printed
    assert SECRET.encode().hex() not in printed
    assert f"https://me:{STARS}@host:8443/db" in printed
    assert "sasl.username" in printed


def test_secrets_can_be_filtered_from_text() -> None:
    """Whoever prints free text can take out every secret of the settings."""
    secrets = secrets_of(load(SECRETS_EVERYWHERE).settings)

    assert {SECRET, f"me:{SECRET}", SECRET.encode().hex() * 2} == secrets
    assert f"login {STARS} failed" == redact_text(f"login {SECRET} failed", secrets)


@pytest.mark.parametrize(
    "text",
    [
        f'[store]\ntoken = ["{SECRET}"]',
        f'[privacy]\ntoken_key = "{SECRET}"',
        f'[kafka.security]\n"sasl.password" = ["{SECRET}"]',
        f'[clickhouse]\nurl = ["https://me:{SECRET}@host"]',
        f'[clickhouse]\nurl = "https://me:{SECRET}"',
        f'[domains.shop]\napi_key = {{x = "{SECRET}"}}',
    ],
)
def test_errors_do_not_show_secrets(text: str) -> None:
    """A secret with a mistake in it is still a secret."""
    assert SECRET not in "\n".join(problems(text))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://host:8443", "https://host:8443"),
        ("https://me:pw@host/?x=1", f"https://me:{STARS}@host/?x=1"),
        ("https://me:p@w/d@host", f"https://me:{STARS}@host"),
        ("http://host/?user=u&password=pw&x=1", f"http://host/?user=u&password={STARS}&x=1"),
        ("chdb:///a/dir", "chdb:///a/dir"),
    ],
)
def test_passwords_of_urls(url: str, expected: str) -> None:
    """Passwords in a URL are hidden, in front of the host and among its parameters."""
    assert expected == redact_url(url)
