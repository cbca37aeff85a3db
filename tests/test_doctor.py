"""`headrace doctor`: each finding with what to do about it, and an exit code for scripts."""

from __future__ import annotations

import os
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

import msgspec
import orjson
import pytest
from test_cuda import FakeLibrary

from processors._cuda import Driver
from streams.cli import _checks
from streams.cli._app import run
from streams.cli._checks import examine, runtime_finding
from streams.settings import KafkaSettings, ModelSettings, Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("HEADRACE_")]:
        if name not in ("HEADRACE_CACHE", "HEADRACE_MAVEN"):
            monkeypatch.delenv(name)
    # What does not answer here never will.
    monkeypatch.setattr(_checks, "_TIMEOUT_S", 0.3)


def doctor(capsysbinary: pytest.CaptureFixture[bytes], *before: str) -> tuple[int, dict[str, Any]]:
    code = run([*before, "doctor", "--json"])
    said = orjson.loads(capsysbinary.readouterr().out)
    return code, {finding["name"]: finding for finding in said["findings"]} | {"healthy": said["healthy"]}


def test_this_machine_is_well(
    kafka: str, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where tests run, machine and install are in order and the broker of the tests answers."""
    monkeypatch.setattr(_checks, "_TIMEOUT_S", 10.0)

    code, found = doctor(capsysbinary, "--set", f"kafka.bootstrap={kafka}")

    assert ["ok"] * 6 == [
        found[name]["status"] for name in ("settings", "python", "install", "onnxruntime", "java", "broker")
    ]
    assert "ok" == found["domain fraud"]["status"]
    assert kafka in found["broker"]["detail"]
    assert (code == 0) is found["healthy"]


def test_every_warning_says_what_to_do(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """With nothing running, broker, store and token key are warnings with advice, not failures."""
    _, found = doctor(capsysbinary)

    assert ["warn"] * 3 == [found[name]["status"] for name in ("broker", "store", "token key")]
    assert all(one["advice"] for name, one in found.items() if name != "healthy" and one["status"] != "ok")


def test_wrong_settings_are_findings(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """Mistakes in the settings are shown with everything else, and fail."""
    code, found = doctor(capsysbinary, "--set", "worker.max_siz=1")

    assert 1 == code
    assert "fail" == found["settings"]["status"]
    assert "did you mean worker.max_size?" in found["settings"]["detail"]
    assert "ok" == found["python"]["status"]


def test_a_broker_that_does_not_answer_fails(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """A cluster that was asked for and cannot be reached is a failure."""
    code, found = doctor(capsysbinary, "--set", "kafka.bootstrap=127.0.0.1:1")

    assert (1, "fail") == (code, found["broker"]["status"])
    assert "no broker answers at 127.0.0.1:1" in found["broker"]["detail"]


def test_people_see_marks_and_a_sum(capsys: pytest.CaptureFixture[str]) -> None:
    """Without --json each finding is a line, its advice below it, and the last line counts."""
    run(["doctor"])

    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("✓ python ") for line in lines)
    assert any(line.startswith("! broker ") for line in lines)
    assert any(line.strip().startswith("→ no broker: run `headrace up`") for line in lines)
    assert lines[-1].endswith(" fine")


def statuses(settings: Settings) -> dict[str, _checks.Finding]:
    return {finding.name: finding for finding in examine(settings)}


def test_a_model_that_is_not_the_promised_one_fails(tmp_path: Path) -> None:
    """Model files are held against their manifests; a broken manifest is told too."""
    import onnx_models

    folder = tmp_path / "models"
    folder.mkdir()
    onnx_models.manifest(onnx_models.doubling(folder / "good.onnx"), name="good")
    onnx_models.manifest(onnx_models.doubling(folder / "changed.onnx"), name="changed")
    (folder / "changed.onnx").write_bytes(b"other")
    onnx_models.manifest(onnx_models.doubling(folder / "gone.onnx"), name="gone")
    (folder / "gone.onnx").unlink()
    (folder / "broken.toml").write_text("nonsense")

    found = statuses(Settings(data=tmp_path, kafka=KafkaSettings(bootstrap="127.0.0.1:1")))

    assert ["ok", "fail", "warn", "fail"] == [
        found[name].status for name in ("model good@1.0.0", "model changed@1.0.0", "model gone@1.0.0", "models")
    ]
    assert "broken.toml" in found["models"].detail


def test_a_domain_whose_model_is_not_known_fails(tmp_path: Path) -> None:
    """The model that a domain is set to must have a manifest."""
    given = {"domains.fraud.model": "nowhere@1", "kafka.bootstrap": "127.0.0.1:1", "data": str(tmp_path)}

    finding = statuses(load_settings(None, {}, given).settings)["model of fraud"]

    assert "fail" == finding.status
    assert "no model 'nowhere@1'" in finding.detail


def test_a_gpu_that_is_required_and_not_there_fails(tmp_path: Path) -> None:
    """`model.require_gpu` without a GPU provider is found before a worker refuses to start."""
    settings = Settings(
        data=tmp_path,
        kafka=KafkaSettings(bootstrap="127.0.0.1:1"),
        model=ModelSettings(require_gpu=True, providers=("NoSuchExecutionProvider", "CPUExecutionProvider")),
    )

    finding = statuses(settings)["onnxruntime"]

    assert "fail" == finding.status
    assert "require_gpu" in finding.detail


TOY = Driver(FakeLibrary())
CPU_ONLY, BOTH = ("CPUExecutionProvider",), ("CUDAExecutionProvider", "CPUExecutionProvider")


@pytest.mark.parametrize(
    ("package", "available", "shown", "required", "status", "said"),
    [
        ("onnxruntime 1.23.2", CPU_ONLY, None, False, "ok", "onnxruntime 1.23.2, providers CPUExecutionProvider"),
        ("onnxruntime 1.23.2", CPU_ONLY, TOY, True, "fail", "has no GPU provider, and model.require_gpu is set"),
        ("onnxruntime-gpu 1.23.2", BOTH, None, False, "warn", "NVIDIA's driver shows no GPU to this process"),
        ("onnxruntime-gpu 1.23.2", BOTH, None, True, "fail", "NVIDIA's driver shows no GPU to this process"),
        ("onnxruntime-gpu 1.23.2", BOTH, TOY, True, "ok", "CPUExecutionProvider; GPUs: NVIDIA Toy, 1 GB"),
    ],
)
def test_a_gpu_that_models_cannot_use_is_told(
    package: str, available: tuple[str, ...], shown: Driver | None, required: bool, status: str, said: str
) -> None:
    """The package for GPUs on a machine that shows none is a warning, and fails where a GPU is required."""
    finding = runtime_finding(ModelSettings(require_gpu=required), package, available, shown)

    assert status == finding.status
    assert said in finding.detail
    assert bool(finding.advice) is (status != "ok")


def test_a_check_that_breaks_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong in one check, the others still run."""

    def broken() -> str:
        msg = "no such file"
        raise OSError(msg)

    monkeypatch.setattr(_checks._install, "overwritten", broken)

    found = statuses(Settings(data=tmp_path, kafka=KafkaSettings(bootstrap="127.0.0.1:1")))

    assert ("fail", "OSError: no such file") == (found["install"].status, found["install"].detail)
    assert "token key" in found


class Answering(BaseHTTPRequestHandler):
    """Answers 200 to `/ping`, and to `/subjects` only who logs in."""

    def do_GET(self) -> None:
        known = self.path == "/ping" or (
            self.path == "/subjects" and self.headers.get("Authorization") == "Basic bWU6aHVudGVyMjI="
        )
        self.send_response(200 if known else 401)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keeps quiet."""


@pytest.fixture
def server() -> Iterator[str]:
    """Something that answers HTTP."""
    with HTTPServer(("127.0.0.1", 0), Answering) as listening:
        thread = Thread(target=listening.serve_forever, args=(0.05,))
        thread.start()
        yield f"127.0.0.1:{listening.server_address[1]}"
        listening.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("overrides", "name", "status"),
    [
        ({"clickhouse.url": "http://{}"}, "store", "ok"),
        ({"clickhouse.url": "http://me:hunter22@{}"}, "store", "ok"),
        ({"clickhouse.url": "http://127.0.0.1:1"}, "store", "fail"),
        ({"topics.x.format": "avro"}, "registry", "fail"),
        ({"topics.x.format": "avro", "registry.url": "http://{}"}, "registry", "fail"),
        (
            {"topics.x.format": "avro", "registry.url": "http://{}", "registry.basic_auth": "me:hunter22"},
            "registry",
            "ok",
        ),
    ],
)
def test_services_are_asked(server: str, overrides: dict[str, str], name: str, status: str) -> None:
    """The store and the schema registry are asked over HTTP, with their passwords, which are shown nowhere."""
    given = {key: value.format(server) for key, value in overrides.items()} | {"kafka.bootstrap": "127.0.0.1:1"}

    finding = statuses(load_settings(None, {}, given).settings)[name]

    assert status == finding.status
    assert "hunter22" not in str(msgspec.to_builtins(finding))


def test_no_registry_is_needed_for_json() -> None:
    """Where every topic is JSON nothing is said of a registry."""
    assert "registry" not in statuses(Settings(kafka=KafkaSettings(bootstrap="127.0.0.1:1")))
