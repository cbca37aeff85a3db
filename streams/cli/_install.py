"""Whether this install is whole: three packages with everyday names must not be overwritten by strangers."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, packages_distributions
from importlib.metadata import version as version_of
from importlib.util import find_spec
from pathlib import Path

__all__ = ["overwritten", "version"]

_PACKAGES = ("streams", "processors", "schemas")


def version() -> str:
    """The version that is installed; `unknown` where headrace runs from a bare checkout."""
    try:
        return version_of("headrace")
    except PackageNotFoundError:
        return "unknown (not installed)"


def overwritten() -> str:
    """What is wrong where the packages do not lie side by side; empty where they do."""
    folders = {name: _folder(name) for name in _PACKAGES}
    home = folders["streams"]
    strangers = {name: folder for name, folder in folders.items() if folder != home or not _is_ours(name, folder)}
    if not strangers:
        return ""
    lines = ["headrace's packages do not lie side by side, so another distribution overwrote or hides one:"]
    lines += [f"{name} is in {folder or 'nowhere'}{_owners(name)}" for name, folder in folders.items()]
    lines.append("Install headrace alone: `uv tool install headrace`, or a virtual environment of its own.")
    return "\n".join(lines)


def _folder(name: str) -> Path | None:
    spec = find_spec(name)
    return Path(spec.origin).parent.parent if spec is not None and spec.origin else None


def _is_ours(name: str, folder: Path | None) -> bool:
    """Whether the package holds a file that only ours has: a stranger may lie in the same folder."""
    landmark = {"streams": "settings.py", "processors": "_session.py", "schemas": "envelope.py"}[name]
    return folder is not None and (folder / name / landmark).is_file()


def _owners(name: str) -> str:
    others = sorted({owner for owner in packages_distributions().get(name, []) if owner != "headrace"})
    return f", also provided by {', '.join(others)}" if others else ""
