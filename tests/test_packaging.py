"""What a user installs: the wheel's content and metadata, and the rules of its extras."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from datetime import UTC, datetime
from email import message_from_string
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import Message

ROOT = Path(__file__).parents[1]
PACKAGES = ("processors", "schemas", "streams")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUNTIMES = {"onnxruntime", "onnxruntime-gpu"}

# What uv says where no registry can be reached and its cache has nothing.
_NO_NETWORK = re.compile(
    r"network was disabled|error sending request|dns error|failed to fetch|connection (refused|reset)|timed out",
    re.IGNORECASE,
)


def uv(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs uv in the checkout without touching its environment; skips where uv or what it needs cannot be had."""
    program = shutil.which("uv")
    if program is None:
        pytest.skip("uv is not on the path")
    environment = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(folder / "environment")}
    done = subprocess.run([program, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    if done.returncode and _NO_NETWORK.search(done.stderr):
        pytest.skip(f"uv could not reach a package registry: {done.stderr.strip().splitlines()[-1]}")
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    done = uv("build", "--wheel", "--out-dir", str(folder), folder=folder)
    assert 0 == done.returncode, done.stderr
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def files(wheel: Path) -> set[str]:
    """The names of everything in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    """The wheel's METADATA."""
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return message_from_string(archive.read(name).decode())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and without the checkout; dependencies are those of the tests."""
    folder = tmp_path_factory.mktemp("installed")
    done = uv(
        "pip", "install", "--offline", "--no-deps", "--python", sys.executable, "--target", str(folder), str(wheel),
        folder=folder,
    )  # fmt: skip
    assert 0 == done.returncode, done.stderr
    return folder


def run(installed: Path, *arguments: str) -> str:
    """Runs the installed packages' Python, away from the checkout, and returns what it prints."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HEADRACE_")}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=installed,
        env={**environment, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert 0 == done.returncode, done.stderr
    return done.stdout


def package_files() -> Iterator[str]:
    """Every file of the three packages that git keeps or would keep."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", *PACKAGES],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listing.returncode:
        pytest.skip("this is no git checkout, so what belongs to the packages is not known")
    yield from (name for name in listing.stdout.split("\0") if name and (ROOT / name).exists())


def test_the_wheel_holds_three_packages_and_nothing_else(files: set[str]) -> None:
    """Everyday names at the top of site-packages are a promise: not one more than these."""
    version = PROJECT["project"]["version"]

    assert {*PACKAGES, f"headrace-{version}.dist-info"} == {name.split("/")[0] for name in files}


def test_the_wheel_holds_all_of_them(files: set[str]) -> None:
    """Every file of a package is inside, models and pinned digests included, and no file of tests or caches."""
    inside = {name for name in files if not name.split("/")[0].endswith(".dist-info")}

    assert set(package_files()) == inside


def test_what_is_needed_at_run_time_is_inside(files: set[str]) -> None:
    """Digests of the broker's jars, a model with its manifest and card, and the marks of typed packages."""
    assert "streams/local/jars.sha256" in files
    assert {f"{package}/py.typed" for package in PACKAGES} <= files
    for suffix in (".onnx", ".toml", ".md"):
        assert any(re.fullmatch(rf"processors/\w+/models/[\w.-]+{re.escape(suffix)}", name) for name in files)


def test_metadata_says_what_the_project_says(metadata: Message, wheel: Path) -> None:
    """Name, versions of Python, licence and the command."""
    with zipfile.ZipFile(wheel) as archive:
        [entries] = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        commands = archive.read(entries).decode().split()
    specifiers = set(metadata["Requires-Python"].split(","))

    assert ("headrace", "Apache-2.0") == (metadata["Name"], metadata["License-Expression"])
    assert set(PROJECT["project"]["requires-python"].split(",")) == specifiers
    assert "[console_scripts] headrace = streams.cli:main" == " ".join(commands)
    assert any(name.endswith("licenses/LICENSE") for name in zipfile.ZipFile(wheel).namelist())


def test_each_onnx_runtime_is_behind_its_extra(metadata: Message) -> None:
    """Neither comes by itself, since both provide one import name; cpu brings one and gpu the other."""
    required = [text.partition(";") for text in metadata.get_all("Requires-Dist") or []]
    found = {
        (re.split(r"[<>=!~ \[]", name, maxsplit=1)[0], marker.strip())
        for name, _, marker in required
        if re.split(r"[<>=!~ \[]", name, maxsplit=1)[0] in RUNTIMES
    }

    assert {"cpu", "gpu", "tracing"} == set(metadata.get_all("Provides-Extra") or [])
    assert {("onnxruntime", "extra == 'cpu'"), ("onnxruntime-gpu", "extra == 'gpu'")} == found


def test_the_installed_wheel_answers(installed: Path) -> None:
    """Without the checkout it shows its help and its version, and finds its own packages side by side."""
    help_text = run(installed, "-m", "streams", "--help")
    place = run(installed, "-c", "import streams, processors, schemas as s; print(streams.__file__, s.__file__)")

    assert "Usage: headrace" in help_text
    assert f"headrace {PROJECT['project']['version']}\n" == run(installed, "-m", "streams", "--version")
    assert [str(installed / package / "__init__.py") for package in ("streams", "schemas")] == place.split()


def test_the_installed_wheel_has_its_models(installed: Path) -> None:
    """The models of the repository are found, are as their manifests promise, and run."""
    said = run(installed, "-m", "streams", "--data", str(installed / "data"), "models", "verify").splitlines()

    assert said
    assert [] == [line for line in said if not line.endswith(": ok")]


def test_type_checkers_read_the_installed_packages(installed: Path, tmp_path: Path) -> None:
    """Whoever imports them elsewhere gets their types, not `missing library stubs or py.typed marker`."""
    caller = tmp_path / "caller.py"
    caller.write_text("from schemas.envelope import Record\n\nreveal_type(Record)\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--follow-imports=silent", str(caller)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )

    assert 0 == done.returncode, done.stdout
    assert "Record" in done.stdout
    assert (installed / "schemas" / "py.typed").exists()


def test_a_gpu_machine_gets_the_gpu_build_alone(tmp_path: Path) -> None:
    """`uv sync --extra gpu --no-group cpu` resolves, to one ONNX Runtime."""
    done = uv("sync", "--extra", "gpu", "--no-group", "cpu", "--dry-run", folder=tmp_path)
    chosen = set(re.findall(r"^ \+ ([\w-]+)==", done.stderr, re.MULTILINE))

    assert 0 == done.returncode, done.stderr
    assert {"onnxruntime-gpu"} == chosen & RUNTIMES


def test_a_plain_sync_gets_the_cpu_build_alone(tmp_path: Path) -> None:
    """`uv sync`, and `uv run` with it, works on any laptop."""
    done = uv("sync", "--dry-run", folder=tmp_path)
    chosen = set(re.findall(r"^ \+ ([\w-]+)==", done.stderr, re.MULTILINE))

    assert 0 == done.returncode, done.stderr
    assert {"onnxruntime"} == chosen & RUNTIMES


@pytest.mark.parametrize("arguments", [("--extra", "gpu"), ("--extra", "gpu", "--extra", "cpu", "--no-group", "cpu")])
def test_both_builds_at_once_are_refused(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """They would overwrite each other without a word, so uv is told to say no."""
    done = uv("sync", *arguments, "--dry-run", folder=tmp_path)

    assert 0 != done.returncode
    assert "incompatible with the declared conflicts" in done.stderr


def test_resolution_is_pinned_in_time() -> None:
    """There is no lock file in git: a date, in the past when it was written, stands in for it."""
    pinned = datetime.fromisoformat(PROJECT["tool"]["uv"]["exclude-newer"])

    assert datetime(2026, 1, 1, tzinfo=UTC) < pinned
    assert "uv.lock" in (ROOT / ".gitignore").read_text().splitlines()
