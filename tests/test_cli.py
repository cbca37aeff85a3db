"""The command line as a whole: help, exit codes, errors in one line, nothing heavy imported."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from processors._models import Registry
from streams.cli import _commands, _install
from streams.cli._app import run
from streams.cli._commands import COMMANDS, Place
from streams.errors import HeadraceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HEAVY = ("onnxruntime", "confluent_kafka", "faust", "chdb", "pyarrow", "clickhouse_connect", "numpy", "rich.console")


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("HEADRACE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "100")


def built() -> list[str]:
    """The commands whose room is there."""
    return [name for name, place in COMMANDS.items() if find_spec(f"streams.cli.{place.module}")]


def leaves(name: str) -> Iterator[tuple[str, Any]]:
    """A command and what is below it."""
    command = _commands.load(name)
    yield name, command
    for sub, inner in getattr(command, "commands", {}).items():
        yield f"{name} {sub}", inner


@pytest.mark.parametrize("name", built())
def test_every_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command, and each below it, says what it does and shows a command line that can be typed."""
    for path, command in leaves(name):
        assert command.help, path
        if not hasattr(command, "commands"):
            assert f" {path}" in command.help.partition("Example: `headrace")[2], path
        assert 0 == run([*path.split(), "--help"])
        assert f"headrace {path}" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["demo", "up"])
def test_an_unknown_domain_starts_nothing(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The error names the domains that there are, at once."""
    assert 1 == run([name, "fruad"])
    assert capsys.readouterr().err.startswith("error: no domain 'fruad'; there are fraud")


def test_a_file_that_does_not_fit_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The demo looks at its file before it starts the services."""
    file = tmp_path / "t.csv"
    file.write_text("a,b\n1,2\n")

    assert 1 == run(["demo", "--input", str(file)])
    said = capsys.readouterr()
    assert "" == said.out
    assert "t.csv has no column" in said.err


@pytest.mark.parametrize("name", built())
def test_help_is_wrapped_by_the_terminal(name: str) -> None:
    """No paragraph of a help has line breaks of its own, which would tear it on a narrow terminal."""
    for path, command in leaves(name):
        assert [] == [paragraph for paragraph in command.help.split("\n\n") if "\n" in paragraph], path


@pytest.mark.parametrize("name", built())
def test_every_summary_says_what_the_help_says(name: str) -> None:
    """The list of commands is written down, so that listing imports nothing; it must not drift far."""
    words = _commands.load(name).help.split()

    assert COMMANDS[name].summary.split()[0] == words[0]


def test_the_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """`headrace --help` shows all commands with their summaries."""
    assert 0 == run(["--help"])

    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown and place.summary in shown for name, place in COMMANDS.items())


def test_help_imports_nothing_heavy() -> None:
    """Listing and asking for help must not cost the seconds that Kafka, ONNX Runtime or Arrow take to import."""
    code = f"""
import sys
from streams.cli import main
try:
    main(["--help"])
except SystemExit as leaving:
    assert leaving.code == 0, leaving.code
heavy = [name for name in {HEAVY!r} if name in sys.modules]
assert not heavy, heavy
"""

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert "" == done.stderr
    assert 0 == done.returncode


def test_rooms_import_nothing_heavy() -> None:
    """Importing every command's module is light too: what is heavy is imported when the command runs."""
    modules = sorted({f"streams.cli.{COMMANDS[name].module}" for name in built()})
    heavy = tuple(name for name in HEAVY if name not in ("rich.console", "numpy"))
    code = f"""
import sys
from importlib import import_module
for module in {modules!r}:
    import_module(module)
    heavy = [name for name in {heavy!r} if name in sys.modules]
    assert not heavy, (module, heavy)
"""

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert "" == done.stderr


def test_help_is_quick() -> None:
    """The best of five starts stays under 0.4 s of processor time."""
    seconds = []
    for _ in range(5):
        before = os.times()
        subprocess.run([sys.executable, "-m", "streams", "--help"], check=True, capture_output=True)
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)

    assert min(seconds) < 0.4


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` is the version of the distribution."""
    assert 0 == run(["--version"])

    assert f"headrace {version('headrace')}\n" == capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["confg"], "Did you mean 'config'?"),
        (["config", "--jsn"], "--json"),
        (["consume"], "TOPIC"),
        (["--set", "nonsense", "config"], "KEY=VALUE"),
        (["config", "--json", "--toml"], "exclude each other"),
        (["--set", "worker.max_siz=3", "config"], "did you mean worker.max_size?"),
        (["dlq", "show", "fraud", "12"], "PARTITION/OFFSET"),
    ],
)
def test_wrong_use_is_2(arguments: list[str], said: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A mistake in the command line or in the settings exits with 2 and says what would have been right."""
    assert 2 == run(arguments)

    captured = capfd.readouterr()
    assert said.lower() in captured.err.lower()
    assert "" == captured.out


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes `headrace config` a command that raises an error."""

    def install(error: BaseException) -> None:
        def command() -> None:
            raise error

        monkeypatch.setattr(_commands, "_attribute", lambda _module, _name: command)

    return install


def test_an_error_of_ours_is_one_readable_line(failing: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """What was written for people is shown as it is, without traceback and without secrets, and exits with 1."""
    failing(HeadraceError("no broker at https://me:hunter2@host; start one"))

    assert 1 == run(["config"])

    assert "error: no broker at https://me:****@host; start one\n" == capsys.readouterr().err


def test_debug_shows_the_traceback(failing: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """With --debug the traceback comes first, still without secrets."""
    failing(HeadraceError("at https://me:hunter2@host"))

    assert 1 == run(["--debug", "config"])

    shown = capsys.readouterr().err
    assert shown.startswith("Traceback")
    assert "hunter2" not in shown
    assert shown.endswith("error: at https://me:****@host\n")


def test_any_other_error_is_called_a_bug(failing: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """An error that was not written for people is named, and how to see more."""
    failing(ZeroDivisionError("division by zero"))

    assert 1 == run(["config"])

    assert "error: ZeroDivisionError: division by zero\n  This is a bug; `headrace --debug …` shows where.\n" == (
        capsys.readouterr().err
    )


def test_ctrl_c_is_130(failing: Any) -> None:
    """Ctrl-C exits as shells expect it."""
    failing(KeyboardInterrupt())

    assert 130 == run(["config"])


def test_a_broken_room_hurts_its_own_command_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A module that cannot be imported fails when its command runs, and nowhere else."""
    monkeypatch.setitem(COMMANDS, "broken", Place("not_there", "app", "Never works."))

    assert 0 == run(["--help"])
    assert 0 == run(["config"])
    assert 1 == run(["broken"])
    assert "No module named 'streams.cli.not_there'" in capsys.readouterr().err


def test_settings_can_be_set_before_the_command(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """--config, --set and --data reach the command, and `config --json` says where each value came from."""
    (tmp_path / "mine.toml").write_text("[worker]\nmax_size = 7\n[store]\ntoken = 'hunter2'\n")

    assert 0 == run(["-c", "mine.toml", "-s", "worker.max_bytes=8", "--data", "there", "config", "--json"])

    shown = orjson.loads(capsysbinary.readouterr().out)
    assert {"value": 7, "origin": "mine.toml"} == shown["worker.max_size"]
    assert {"value": 8, "origin": "command line"} == shown["worker.max_bytes"]
    assert {"value": "there", "origin": "command line"} == shown["data"]
    assert {"value": "****", "origin": "mine.toml"} == shown["store.token"]
    assert {"value": 5.0, "origin": "default"} == shown["worker.max_wait_ms"]


def test_config_elsewhere_than_on_a_terminal_is_columns(capsys: pytest.CaptureFixture[str]) -> None:
    """Piped, each setting is one line of three columns."""
    assert 0 == run(["config"])

    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert {3} == {len(line) for line in lines}
    assert ["worker.max_size", "2048", "default"] in lines


def test_config_shows_what_the_model_brings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Thresholds that nobody set are those of the model's manifest, which rule; one that was set is shown as set."""
    assert 0 == run(["--data", str(tmp_path), "--set", "domains.fraud.decline=0.9", "config", "--json"])

    shown = orjson.loads(capsys.readouterr().out)
    manifest = Registry(tmp_path).find("fraud").manifest
    assert {"value": manifest.settings["review"], "origin": "model fraud@1.0.0"} == shown["domains.fraud.review"]
    assert {"value": 0.9, "origin": "command line"} == shown["domains.fraud.decline"]


def test_config_as_toml_comments_out_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file made of the settings must not set a secret to stars."""
    monkeypatch.setenv("HEADRACE_TOKEN_KEY", "ab" * 16)

    assert 0 == run(["config", "--toml"])

    assert '# token_key = "****"  # from HEADRACE_TOKEN_KEY' in capsys.readouterr().out


def test_a_reader_that_leaves_is_no_error() -> None:
    """`headrace config | head -1` ends quietly."""
    code = "import sys; from streams.cli._app import run; sys.exit(run(['config']))"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        errors = process.stderr.read()
        code_of_exit = process.wait(timeout=30)

    assert b"" == errors
    assert 0 == code_of_exit


def test_packages_that_lie_apart_are_found_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stranger's `schemas` in front of ours is told before anything fails in strange ways."""
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / "__init__.py").touch()
    ours = _install._folder
    monkeypatch.setattr(_install, "_folder", lambda name: tmp_path if name == "schemas" else ours(name))

    assert 1 == run(["config"])

    shown = capsys.readouterr().err
    assert "do not lie side by side" in shown
    assert f"schemas is in {tmp_path}" in shown
