"""`docker-compose.yml` says the same as the code: commands, settings, ports, versions, files.

No engine runs here: what Docker does with it is not tested, see docs/deployment.md.
"""

from __future__ import annotations

import importlib.resources
import json
import re
import shutil
import stat
import subprocess
import tomllib
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from xml.etree import ElementTree

import pytest
import yaml
from command_lines import mistake
from deployments import (
    COMPOSE,
    DEPLOY,
    DOCKERFILE,
    OWN,
    ROOT,
    SECRETS,
    SERVICES,
    instruction,
    interpolated,
    settings_of,
    sha256,
)
from jsonschema import Draft7Validator

from streams.local.jars import KAFKA_VERSION
from streams.local.topics import TopicSpec

if TYPE_CHECKING:
    from pathlib import Path

    from streams.settings import Loaded

WORKERS = ("worker", "worker-gpu")
ROLES = {name: "worker" if name in WORKERS else name for name in OWN}


@pytest.fixture
def loaded(tmp_path: Path) -> dict[str, Loaded]:
    """The settings that each of our services starts with."""
    return {name: settings_of(service["environment"], tmp_path / "secrets") for name, service in OWN.items()}


def listeners(text: str) -> dict[str, tuple[str, int]]:
    """Kafka's `NAME://host:port,…`."""
    parts = (re.fullmatch(r"(\w+)://([\w.-]*):(\d+)", one) for one in text.split(","))
    return {part[1]: (part[2], int(part[3])) for part in parts if part}


def published(service: str) -> dict[int, str]:
    """Container port → address on the host."""
    return {int(port.rpartition(":")[2]): port.rpartition(":")[0] for port in SERVICES[service].get("ports", [])}


def test_it_is_a_compose_file() -> None:
    """The schema of the Compose Specification takes it, so no key is misspelt or misplaced."""
    schemas = importlib.resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    validator = Draft7Validator(json.loads((schemas / "compose-spec.json").read_text()))
    wrong = {"services": {"worker": {**SERVICES["worker"], "read_onlyy": True}}}

    assert [] == [f"{error.json_path}: {error.message}" for error in validator.iter_errors(COMPOSE)]
    assert not validator.is_valid(wrong)


def test_our_services_are_workers_store_and_monitor() -> None:
    """One image, three commands; everything else is somebody else's image."""
    assert {*WORKERS, "store", "monitor"} == set(OWN)
    assert {"kafka", "clickhouse", "prometheus", "grafana"} == set(SERVICES) - set(OWN)


@pytest.mark.parametrize("name", OWN)
def test_commands_exist(name: str) -> None:
    """`headrace` takes each command as it stands."""
    assert "" == mistake(OWN[name]["command"])
    assert ROLES[name] == OWN[name]["command"][0]


def test_every_variable_is_a_setting(loaded: dict[str, Loaded]) -> None:
    """What the compose file sets is read; a name that headrace does not know would be left aside silently."""
    for name, service in OWN.items():
        variables = {key for key in service["environment"] if key.startswith("HEADRACE_")}

        assert variables
        assert set() == variables - set(loaded[name].origins.values())


def test_workers_have_identities_of_their_own() -> None:
    """Replicas share one command, so the slot must come from the container; its name must not be set for all."""
    for name in WORKERS:
        command = SERVICES[name]["command"]

        assert "{host}" in command[command.index("--slot") + 1]
        assert not {"hostname", "container_name", "ports"} & SERVICES[name].keys()


def test_gpus_are_a_profile() -> None:
    """Only who asks for the profile gets workers on GPUs: members of the same group, from the image with CUDA."""
    plain, gpu = SERVICES["worker"], SERVICES["worker-gpu"]
    [device] = gpu["deploy"]["resources"]["reservations"]["devices"]

    assert {"worker-gpu": ["gpu"]} == {
        name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service
    }
    assert ("gpu", "headrace:gpu") == (gpu["build"]["target"], gpu["image"])
    assert ("nvidia", ["gpu"]) == (device["driver"], device["capabilities"])
    assert (plain["command"], plain["environment"]) == (gpu["command"], gpu["environment"])


def test_secrets_are_files(loaded: dict[str, Loaded]) -> None:
    """No secret is in anybody's environment: `docker inspect` shows that to whoever may talk to the engine.

    Compose refuses secrets that are no files where the root file system is read-only.
    """
    held = {name: set(service.get("secrets", [])) for name, service in SERVICES.items() if service.get("secrets")}
    texts = [json.dumps([service.get("environment"), service.get("command")]) for service in SERVICES.values()]

    assert {name: {"file": f"deploy/secrets/{name}"} for name in SECRETS} == COMPOSE["secrets"]
    assert held == {
        **{name: {"token_key"} for name in WORKERS},
        "store": {"clickhouse_url"},
        "clickhouse": {"clickhouse_users"},
        "grafana": {"clickhouse_reader_password"},
    }
    assert [] == [text for text in texts if re.search(r'(?i)(password|token|secret)\w*": "(?!/run/secrets/)', text)]
    for name in WORKERS:
        assert SECRETS["token_key"] == loaded[name].settings.privacy.token_key
    assert SECRETS["clickhouse_url"] == loaded["store"].settings.clickhouse.url


def test_secrets_are_made_once(tmp_path: Path) -> None:
    """`deploy/make-secrets` writes what the services look for, hashes for ClickHouse, and never overwrites a key."""
    folder = tmp_path / "secrets"
    for _ in range(2):
        done = subprocess.run([DEPLOY / "make-secrets", folder], capture_output=True, text=True, check=True)
        made = {path.name: path.read_text().strip() for path in folder.iterdir()}
    hashes = {element.tag: element.text for element in ElementTree.fromstring(made["clickhouse_users"])}
    url = urlsplit(made["clickhouse_url"])

    assert set(SECRETS) == set(made)
    assert "token_key is there already: kept" in done.stdout
    assert 64 == len(bytes.fromhex(made["token_key"]).hex())
    assert {"headrace_sha256": sha256(url.password), "reader_sha256": sha256(made["clickhouse_reader_password"])} == (
        hashes
    )
    assert ("headrace", "clickhouse", 8123) == (url.username, url.hostname, url.port)
    assert (0o700, {0o444}) == (
        stat.S_IMODE(folder.stat().st_mode),
        {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()},
    )
    assert "/deploy/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize("name", OWN)
def test_nothing_can_be_written_but_two_folders(name: str) -> None:
    """The root file system is read-only; the data folder belongs to the image's user, and is small.

    What workers pull or build is a volume where the image has a folder of that user, which a new volume takes over.

    tests/test_deploy_image.py runs headrace like that.
    """
    mounts = dict(mount.split(":", 1) for mount in SERVICES[name]["tmpfs"])
    uid, gid = instruction("USER").split(":")

    assert SERVICES[name]["read_only"] is True
    assert {"/var/lib/headrace", "/tmp"} == set(mounts)
    assert f"uid={uid},gid={gid},mode=0750" in mounts["/var/lib/headrace"]
    assert all("size=" in options for options in mounts.values())
    assert SERVICES[name].get("volumes", []) == (["model-cache:/var/cache/headrace"] if name in WORKERS else [])
    assert re.search(r"install --directory --owner=headrace .*/var/cache/headrace", DOCKERFILE.replace("\\\n", " "))


def test_services_have_as_few_rights_as_they_need() -> None:
    """Nobody gains rights, has unbounded memory or logs, or listens on the network; only ClickHouse starts as root."""
    for name, service in SERVICES.items():
        assert ["no-new-privileges:true"] == service["security_opt"], name
        assert "memory" in service["deploy"]["resources"]["limits"], name
        assert {"driver": "local"} == service["logging"], name
        assert not {"privileged", "network_mode", "pid"} & service.keys()
        assert {"127.0.0.1"} >= {address.partition(":")[0] for address in published(name).values()}
    assert ["clickhouse"] == [name for name, service in SERVICES.items() if service.get("cap_drop") != ["ALL"]]


def test_one_port_for_health_and_metrics(loaded: dict[str, Loaded]) -> None:
    """Endpoints, EXPOSE, HEALTHCHECK and Prometheus mean the same port, reachable from outside the container."""
    exposed = int(instruction("EXPOSE"))
    worker, store, monitor = (loaded[name].settings for name in ("worker", "store", "monitor"))
    configuration = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    jobs = {job["job_name"]: job["dns_sd_configs"] for job in configuration["scrape_configs"]}

    assert {("0.0.0.0", exposed)} == {
        (worker.metrics.host, worker.metrics.port),
        (store.store.host, store.store.port),
        (monitor.metrics.host, monitor.monitor.web_port),
    }
    assert f"127.0.0.1:{exposed}/health/ready" in instruction("HEALTHCHECK")
    assert {"worker": (list(WORKERS), exposed), "store": (["store"], exposed), "monitor": (["monitor"], exposed)} == {
        name: (targets[0]["names"], targets[0]["port"]) for name, targets in jobs.items()
    }


def test_services_wait_for_what_they_need() -> None:
    """Everybody has a health check, and whoever needs another waits for it."""
    checked = {name for name, service in SERVICES.items() if "healthcheck" in service} | set(OWN)
    needed = {name: set(service.get("depends_on", {})) for name, service in SERVICES.items()}
    conditions = {one["condition"] for service in SERVICES.values() for one in service.get("depends_on", {}).values()}

    assert set(SERVICES) == checked
    assert {"service_healthy"} == conditions
    assert all("kafka" in needed[name] for name in OWN)
    assert {"kafka", "clickhouse"} == needed["store"]


@pytest.mark.parametrize("name", OWN)
def test_work_can_end_before_the_container_does(name: str, loaded: dict[str, Loaded]) -> None:
    """Docker's grace at a stop is longer than the process's own."""
    grace_s = int(SERVICES[name]["stop_grace_period"].removesuffix("s"))
    own_s = getattr(loaded[name].settings, ROLES[name]).shutdown_grace_s

    assert grace_s >= own_s + 5


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


def test_the_cluster_can_be_another() -> None:
    """`.env` may name other brokers."""
    given = {"KAFKA_BOOTSTRAP": "elsewhere:9092", "KAFKA_PARTITIONS": "48"}
    other = yaml.safe_load(interpolated((ROOT / "docker-compose.yml").read_text(), given))["services"]

    assert {("elsewhere:9092", 48)} == {
        (other[name]["environment"]["HEADRACE_KAFKA"], other[name]["environment"]["HEADRACE_KAFKA__PARTITIONS"])
        for name in OWN
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
    """User, port and database are those that the server has, and it makes no user of its own beside ours."""
    users = ElementTree.parse(DEPLOY / "clickhouse-users.xml")
    url = urlsplit(loaded["store"].settings.clickhouse.url)
    database = loaded["store"].settings.clickhouse.database
    granted = [query.text or "" for query in users.findall(f"users/{url.username}/grants/query")]

    assert ("clickhouse", 8123) == (url.hostname, url.port)
    assert any(text.endswith(f" ON {database}.*") for text in granted)
    assert {8123: "127.0.0.1:8123"} == published("clickhouse")
    assert {"CLICKHOUSE_SKIP_USER_SETUP": "1"} == SERVICES["clickhouse"]["environment"]
    assert "/run/secrets/clickhouse_users" == users.findtext("include_from")


def test_files_to_mount_and_targets_to_build_exist() -> None:
    """A path that is not there would be made as an empty folder, owned by root."""
    volumes = [volume.split(":") for service in SERVICES.values() for volume in service.get("volumes", [])]
    mounts = [source for source, *_ in volumes if source.startswith(".")]
    stages = re.findall(r"^FROM \S+ AS (\S+)", DOCKERFILE, re.MULTILINE)

    assert [] == [mount for mount in mounts if not (ROOT / mount).exists()]
    assert {source for source, *_ in volumes} - set(mounts) == set(COMPOSE["volumes"])
    assert all(rest[-1] == "ro" for source, *rest in volumes if source in mounts)
    assert {"cpu", "gpu"} == {one["build"]["target"] for one in OWN.values()}
    assert {"cpu", "gpu"} <= set(stages)
    assert "cpu" == stages[-1]
    assert {"deploy/Dockerfile"} == {one["build"]["dockerfile"] for one in OWN.values()}


def test_compose_itself_accepts_the_file() -> None:
    """`docker compose config`, where the plugin is installed."""
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True).returncode:
        pytest.skip("no Docker client with the Compose plugin here")
    done = subprocess.run(
        [docker, "compose", "--profile", "gpu", "config", "--format", "json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )

    assert 0 == done.returncode, done.stderr
    assert set(SERVICES) == set(json.loads(done.stdout)["services"])
