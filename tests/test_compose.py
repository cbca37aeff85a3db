"""`docker-compose.yml` and `deploy/` say the same as the code: commands, settings, ports, versions, files.

No engine runs here: what Docker does with them is not tested, see docs/deployment.md.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

import pytest
import yaml
from command_lines import mistake
from prometheus_client import CollectorRegistry

from streams.local.jars import KAFKA_VERSION
from streams.local.topics import TopicSpec
from streams.observe.health import Endpoint
from streams.settings import Loaded, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
GIVEN = {"HEADRACE_TOKEN_KEY": "ab" * 32, "CLICKHOUSE_PASSWORD": "hush", "CLICKHOUSE_READER_PASSWORD": "read"}
"""What the user writes into .env."""
QUESTIONS = [
    "SELECT n FROM headrace.t SETTINGS max_threads = 1",
    "INSERT INTO headrace.t VALUES (9)",
    "DROP TABLE headrace.t",
    "CREATE TABLE headrace.u (n UInt8) ENGINE Memory",
    "SELECT n FROM other.t",
]


def interpolated(text: str, given: dict[str, str]) -> str:
    """The text as Compose reads it: `${NAME}`, `${NAME:-default}`, `${NAME:?why}`, the inner ones first."""

    def value(found: re.Match[str]) -> str:
        name, kind, rest = found.groups()
        assert kind != ":?" or given.get(name), f"{name}: {rest}"
        return given.get(name) or (rest if kind == ":-" else "")

    while (after := re.sub(r"\$\{(\w+)(?:(:[-?])([^${}]*))?\}", value, text)) != text:
        text = after
    return text


COMPOSE: dict[str, Any] = yaml.safe_load(interpolated((ROOT / "docker-compose.yml").read_text(), GIVEN))
SERVICES: dict[str, Any] = COMPOSE["services"]
OWN = {name: service for name, service in SERVICES.items() if service["image"].startswith("headrace")}
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
INSTRUCTIONS = [
    line.split(maxsplit=1)
    for line in re.sub(r"(^|\n)\s*#[^\n]*", "", DOCKERFILE).replace("\\\n", " ").splitlines()
    if line.strip()
]
IMAGE_ENVIRONMENT = dict(
    pair.split("=", 1) for word, rest in INSTRUCTIONS if word == "ENV" for pair in rest.split() if "HEADRACE_" in pair
)


@pytest.fixture
def loaded(tmp_path: Path) -> dict[str, Loaded]:
    """The settings that each of our services starts with."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    for name, secret in COMPOSE["secrets"].items():
        (secrets / name).write_text(GIVEN[secret["environment"]])
    return {
        name: load_settings(
            env={
                key: str(value).replace("/run/secrets", str(secrets))
                for key, value in (IMAGE_ENVIRONMENT | service["environment"]).items()
            }
        )
        for name, service in OWN.items()
    }


def listeners(text: str) -> dict[str, tuple[str, int]]:
    """Kafka's `NAME://host:port,…`."""
    parts = (re.fullmatch(r"(\w+)://([\w.-]*):(\d+)", one) for one in text.split(","))
    return {part[1]: (part[2], int(part[3])) for part in parts if part}


def published(service: str) -> dict[int, str]:
    """Container port → address on the host."""
    return {int(port.rpartition(":")[2]): port.rpartition(":")[0] for port in SERVICES[service].get("ports", [])}


def test_our_services_are_worker_store_and_monitor() -> None:
    """One image, three commands; everything else is somebody else's image."""
    assert {"worker", "store", "monitor"} == set(OWN)
    assert {"kafka", "clickhouse", "prometheus", "grafana"} == set(SERVICES) - set(OWN)


@pytest.mark.parametrize("name", OWN)
def test_commands_exist(name: str) -> None:
    """`headrace` takes each command as it stands."""
    assert "" == mistake(OWN[name]["command"])
    assert name == OWN[name]["command"][0]


def test_every_variable_is_a_setting(loaded: dict[str, Loaded]) -> None:
    """What compose file and image set is read; a name that headrace does not know would be left aside silently."""
    for name, service in OWN.items():
        variables = {key for key in IMAGE_ENVIRONMENT | service["environment"] if key.startswith("HEADRACE_")}

        assert variables == variables & set(loaded[name].origins.values())


def test_workers_have_identities_of_their_own() -> None:
    """Replicas share one command, so the slot must come from the container; its name must not be set for all."""
    command = SERVICES["worker"]["command"]

    assert "{host}" in command[command.index("--slot") + 1]
    assert not {"hostname", "container_name"} & SERVICES["worker"].keys()
    assert not SERVICES["worker"].get("ports")


def test_the_token_key_is_a_secret(loaded: dict[str, Loaded]) -> None:
    """It reaches the workers as a file that their user may read, and nobody's environment."""
    [secret] = SERVICES["worker"]["secrets"]
    [user] = [rest for word, rest in INSTRUCTIONS if word == "USER"]

    assert GIVEN["HEADRACE_TOKEN_KEY"] == loaded["worker"].settings.privacy.token_key
    assert f"{secret['uid']}:{secret['gid']}" == user
    assert not [name for name, one in SERVICES.items() if GIVEN["HEADRACE_TOKEN_KEY"] in json.dumps(one)]


def test_one_port_for_health_and_metrics(loaded: dict[str, Loaded]) -> None:
    """Endpoints, EXPOSE, HEALTHCHECK and Prometheus mean the same port, reachable from outside the container."""
    [exposed] = [int(rest) for word, rest in INSTRUCTIONS if word == "EXPOSE"]
    [check] = [rest for word, rest in INSTRUCTIONS if word == "HEALTHCHECK"]
    worker, store, monitor = (loaded[name].settings for name in ("worker", "store", "monitor"))
    jobs = {job["job_name"]: job["dns_sd_configs"] for job in prometheus()["scrape_configs"]}

    assert {("0.0.0.0", exposed)} == {
        (worker.metrics.host, worker.metrics.port),
        (store.store.host, store.store.port),
        (monitor.metrics.host, monitor.monitor.web_port),
    }
    assert f"127.0.0.1:{exposed}/health/ready" in check
    assert {name: ([name], exposed) for name in OWN} == {
        name: (targets[0]["names"], targets[0]["port"]) for name, targets in jobs.items()
    }


def prometheus() -> dict[str, Any]:
    """Prometheus's configuration."""
    configuration: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())
    return configuration


@pytest.mark.parametrize("ready", [True, False])
def test_the_health_check_tells(ready: bool) -> None:
    """The image's own check ends with 0 where the process is ready, and with something else where not."""
    [check] = [rest for word, rest in INSTRUCTIONS if word == "HEALTHCHECK"]
    words = json.loads(check[check.index("[") :])
    with Endpoint(CollectorRegistry(), ready=lambda: {"model": "" if ready else "being loaded"}) as endpoint:
        code = words[2].replace("http://127.0.0.1:9400", endpoint.url)
        done = subprocess.run([sys.executable, *words[1:2], code], capture_output=True, timeout=30)

    assert "python" == words[0]
    assert ready == (done.returncode == 0)


def test_services_wait_for_what_they_need() -> None:
    """Whoever is waited for has a health check to wait for."""
    checked = {name for name, service in SERVICES.items() if "healthcheck" in service} | set(OWN)
    needed = {name: set(service.get("depends_on", {})) for name, service in SERVICES.items()}
    conditions = {one["condition"] for service in SERVICES.values() for one in service.get("depends_on", {}).values()}

    assert {"service_healthy"} == conditions
    assert set() == set().union(*needed.values()) - checked
    assert all("kafka" in needed[name] for name in OWN)
    assert {"kafka", "clickhouse"} == needed["store"]


def test_a_transaction_can_end_before_the_container_does(loaded: dict[str, Loaded]) -> None:
    """The grace at a stop is longer than a transaction may take."""
    grace_s = int(SERVICES["worker"]["stop_grace_period"].removesuffix("s"))

    assert 1000 * grace_s > loaded["worker"].settings.worker.transaction_timeout_ms


def test_kafka_is_where_it_is_looked_for(loaded: dict[str, Loaded]) -> None:
    """Containers get the inner listener, the host the published one."""
    environment = SERVICES["kafka"]["environment"]
    opened, advertised = (listeners(environment[f"KAFKA_{name}LISTENERS"]) for name in ("", "ADVERTISED_"))
    inner, outer = advertised[environment["KAFKA_INTER_BROKER_LISTENER_NAME"]], advertised["HOST"]

    assert {f"{inner[0]}:{inner[1]}"} == {one.settings.kafka.bootstrap for one in loaded.values()}
    assert "kafka" == inner[0]
    assert {outer[1]: f"127.0.0.1:{outer[1]}"} == published("kafka")
    assert {name: at[1] for name, at in advertised.items()} == {
        name: at[1] for name, at in opened.items() if name != environment["KAFKA_CONTROLLER_LISTENER_NAMES"]
    }


def test_kafka_takes_what_headrace_writes() -> None:
    """The broker's limit is that of the changelog's messages, and a misspelt topic stays an error."""
    environment = SERVICES["kafka"]["environment"]
    largest = int(TopicSpec.compacted(1).config["max.message.bytes"])

    assert [largest, largest] == [
        environment["KAFKA_MESSAGE_MAX_BYTES"],
        environment["KAFKA_REPLICA_FETCH_MAX_BYTES"],
    ]
    assert "false" == environment["KAFKA_AUTO_CREATE_TOPICS_ENABLE"]


def test_versions_are_those_that_the_tests_run_on() -> None:
    """Kafka, ClickHouse and Python in containers are what the embedded broker, the embedded engine and CI have."""
    import chdb

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    python = re.findall(r"ARG PYTHON=([\d.]+)-slim", DOCKERFILE)

    assert f"apache/kafka:{KAFKA_VERSION}" == SERVICES["kafka"]["image"]
    assert ".".join(chdb.engine_version.split(".")[:2]) == SERVICES["clickhouse"]["image"].rpartition(":")[2]
    assert [project["requires-python"].partition(">=")[2].partition(",")[0]] == python
    assert not [name for name, one in SERVICES.items() if one["image"].endswith(":latest") or ":" not in one["image"]]


def test_the_store_knows_the_server(loaded: dict[str, Loaded]) -> None:
    """User, password, port and database are those that the server is started with."""
    environment = SERVICES["clickhouse"]["environment"]
    url = urlsplit(loaded["store"].settings.clickhouse.url)

    assert (environment["CLICKHOUSE_USER"], environment["CLICKHOUSE_PASSWORD"]) == (url.username, url.password)
    assert ("clickhouse", 8123) == (url.hostname, url.port)
    assert environment["CLICKHOUSE_DB"] == loaded["store"].settings.clickhouse.database
    assert {8123: "127.0.0.1:8123"} == published("clickhouse")


def test_grafana_asks_as_the_reader() -> None:
    """Its data sources are services here, and ClickHouse knows its user and password."""
    sources = {
        source["type"]: source
        for source in yaml.safe_load((ROOT / "deploy" / "grafana" / "datasources.yml").read_text())["datasources"]
    }
    clickhouse = sources["grafana-clickhouse-datasource"]
    users = ElementTree.parse(ROOT / "deploy" / "clickhouse-reader.xml").find("users")

    assert users is not None
    assert [clickhouse["jsonData"]["username"]] == [user.tag for user in users]
    assert "http://prometheus:9090" == sources["prometheus"]["url"]
    assert ("clickhouse", 8123) == (clickhouse["jsonData"]["host"], clickhouse["jsonData"]["port"])
    assert SERVICES["clickhouse"]["environment"]["CLICKHOUSE_DB"] == clickhouse["jsonData"]["defaultDatabase"]
    assert "$CLICKHOUSE_READER_PASSWORD" == clickhouse["secureJsonData"]["password"]
    for name in ("grafana", "clickhouse"):
        assert "read" == SERVICES[name]["environment"]["CLICKHOUSE_READER_PASSWORD"]
    assert clickhouse["type"] in SERVICES["grafana"]["environment"]["GF_PLUGINS_PREINSTALL"]


def test_the_reader_reads_and_changes_nothing(tmp_path: Path) -> None:
    """A real engine under the reader's profile and grants answers a question and refuses everything else."""
    text = (ROOT / "deploy" / "clickhouse-reader.xml").read_text()
    text = re.sub(r"<password from_env=\"\w+\"/>", "<password/>", text).replace("reader>", "default>")
    text = text.replace("<profile>reader<", "<profile>default<").replace(
        "</profiles>", "</profiles><quotas><default/></quotas>"
    )
    users = tmp_path / "users.xml"
    users.write_text(text)
    config = tmp_path / "config.xml"
    config.write_text(
        f"<clickhouse><user_directories><users_xml><path>{users}</path></users_xml></user_directories>"
        f"<users_config>{users}</users_config></clickhouse>"
    )
    script = f"""
import chdb
owner = chdb.connect({str(tmp_path / "db")!r})
owner.query("CREATE DATABASE headrace")
owner.query("CREATE TABLE headrace.t ENGINE MergeTree ORDER BY n AS SELECT 7 AS n")
owner.query("CREATE DATABASE other")
owner.query("CREATE TABLE other.t ENGINE MergeTree ORDER BY n AS SELECT 8 AS n")
owner.close()
reader = chdb.connect({str(tmp_path / "db") + "?config-file=" + str(config)!r})
for sql in {QUESTIONS!r}:
    try:
        print(reader.query(sql, "TabSeparated").bytes().decode().strip() or "done")
    except Exception as error:
        print("refused" if "Code: 497" in str(error) or "Code: 164" in str(error) else error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)

    assert ["7", *["refused"] * (len(QUESTIONS) - 1)] == done.stdout.splitlines(), done.stderr


def test_files_to_mount_and_targets_to_build_exist() -> None:
    """A path that is not there would be made as an empty folder, owned by root."""
    mounts = [
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
        if volume.startswith(".")
    ]
    stages = re.findall(r"^FROM \S+ AS (\S+)", DOCKERFILE, re.MULTILINE)
    named = {volume.split(":")[0] for one in SERVICES.values() for volume in one.get("volumes", [])} - set(mounts)
    gpu = yaml.safe_load((ROOT / "deploy" / "gpu.yml").read_text())["services"]["worker"]

    assert [] == [mount for mount in mounts if not (ROOT / mount).exists()]
    assert named == set(COMPOSE["volumes"])
    assert {"cpu"} == {one["build"]["target"] for one in OWN.values()}
    assert {"cpu", "gpu"} <= set(stages)
    assert ("gpu", "headrace:gpu") == (gpu["build"]["target"], gpu["image"])
    assert "cpu" == stages[-1]
    assert {"deploy/Dockerfile"} == {one["build"]["dockerfile"] for one in OWN.values()}


def copied() -> Iterator[str]:
    """What the Dockerfile takes from the checkout."""
    for word, rest in INSTRUCTIONS:
        if word == "COPY" and not rest.startswith("--from"):
            yield from rest.split()[:-1]


def test_the_image_gets_what_the_wheel_needs() -> None:
    """Packages, readme and licence are copied, and .dockerignore lets them through."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {
        "pyproject.toml",
        project["project"]["readme"],
        *project["project"]["license-files"],
        *project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"],
    }
    let_in = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)

    assert needed == set(copied())
    assert needed == set(let_in)
    assert [] == [name for name in needed if not (ROOT / name).exists()]


def test_images_are_built_with_one_onnx_runtime() -> None:
    """The gpu stage asks for the extra gpu and not for cpu, and the reverse; both leave the default groups out."""
    builds = re.findall(r"uv sync (.*?)(?:\\?\n|&&|$)", DOCKERFILE)
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)

    assert all("--no-default-groups" in build for build in builds)
    for runtime in ("cpu", "gpu"):
        [stage] = [stage for stage in stages if f"AS build-{runtime}\n" in stage]

        assert {runtime} == set(re.findall(r"--extra (\w+)", stage))


def test_compose_itself_accepts_the_file(tmp_path: Path) -> None:
    """`docker compose config`, where the plugin is installed."""
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True).returncode:
        pytest.skip("no Docker client with the Compose plugin here")
    environment = tmp_path / "env"
    environment.write_text("".join(f"{name}={value}\n" for name, value in GIVEN.items()))
    files = ["-f", "docker-compose.yml", "-f", "deploy/gpu.yml"]
    done = subprocess.run(
        [docker, "compose", "--env-file", str(environment), *files, "config", "--format", "json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )

    assert 0 == done.returncode, done.stderr
    assert set(SERVICES) == set(json.loads(done.stdout)["services"])
